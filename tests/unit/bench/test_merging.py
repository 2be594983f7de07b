"""The benchmark's yardstick computes the same thing, so that comparing times is fair."""

import matplotlib.pyplot as plt
import pandas as pd
import psutil
import pytest
import torch

import clipmerge.paths
from clipmerge import files
from clipmerge.bench import measure, merging, wholedict
from clipmerge.merge import folder, streaming


@pytest.fixture
def place(tmp_path):
    generator = torch.Generator().manual_seed(0)
    for name in ("base", "expert-01", "expert-02", "expert-03"):
        state = {"visual.w": torch.randn(40, 30, generator=generator), "w": torch.randn(700, generator=generator)}
        files.save_tensors(tmp_path / f"{name}.safetensors", state)
    return tmp_path


def paths(place):
    return place / "base.safetensors", [place / f"expert-0{k}.safetensors" for k in (1, 2, 3)]


def same_unified(plain, ours):
    unified = folder.load(ours)
    assert files.load_tensors(plain / "unified.safetensors").keys() == unified.delta.keys()
    for name, tensor in files.load_tensors(plain / "unified.safetensors").items():
        torch.testing.assert_close(tensor, unified.delta[name])
    scales = files.load_tensors(plain / "rescalers.safetensors")["rescalers"].tolist()
    assert scales == pytest.approx([trigger.rescaler for trigger in unified.triggers], rel=1e-5)
    for k, trigger in enumerate(unified.triggers):
        masks = files.load_tensors(plain / f"{k}.safetensors")
        assert all(torch.equal(masks[name], mask.unpack()) for name, mask in trigger.mask.items())


def test_unify_and_extend(place):
    base, experts = paths(place)
    wholedict.unify(base, experts[:2], place / "plain")
    same_unified(place / "plain", streaming.unify(base, experts[:2], place / "ours"))
    wholedict.extend(base, place / "ours", experts[2], place / "plain-3")
    same_unified(place / "plain-3", streaming.extend(place / "ours", experts[2], base, place / "ours-3"))


@pytest.mark.parametrize("technique", ["ties", "average"])
def test_techniques(technique, place):
    base, experts = paths(place)
    getattr(wholedict, technique)(base, experts, place / "plain.safetensors")
    ours = files.load_tensors(streaming.merge(technique, base, experts, place / "ours.safetensors"))
    for name, tensor in files.load_tensors(place / "plain.safetensors").items():
        torch.testing.assert_close(tensor, ours[name])


def test_one_measurement(place):
    before = sorted(path.name for path in place.iterdir())
    for operation, implementation in (("read-write", "floor"), ("extend", "streaming"), ("ties", "whole-dict")):
        found = measure.measure(operation, implementation, 3, place)
        assert found["seconds"] > 0 and found["peak_mb"] > 10
    assert sorted(path.name for path in place.iterdir()) == before


def test_the_committed_numbers_give_the_committed_caption(monkeypatch):
    rows = pd.read_csv(clipmerge.paths.figures("laptop") / "bench_merge.csv")
    record = files.read_json(clipmerge.paths.figures("laptop") / "bench_merge.json")
    monkeypatch.setattr(psutil, "cpu_count", lambda: record["cores"])
    assert merging.note(rows, "ViT-B-16", 4 * 149_620_737, threads=2) == record["caption"]


def test_one_column_for_each_operation():
    plt.switch_backend("agg")
    names = ["operation", "implementation", "n", "metric", "value"]
    floor = [["read-write", "floor", n, "seconds", n / 10] for n in (2, 4)]
    ours = [["ties", "streaming", n, metric, float(n)] for n in (2, 4) for metric in ("seconds", "peak_mb")]
    figure = merging.draw(pd.DataFrame(floor + ours, columns=names))
    assert [axis.get_title() for axis in figure.axes] == [*merging.OPERATIONS, *[""] * len(merging.OPERATIONS)]
    lines = {line.get_label(): line.get_ydata().tolist() for line in figure.axes[2].get_lines()}
    assert lines == {"file to file": [2, 4], "all in memory": [], "reading all and writing one": [0.2, 0.4]}
    plt.close(figure)
