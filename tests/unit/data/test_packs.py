"""Packs depend on the images alone; they are read lazily, in bounded memory, and batches are functions of the step."""

import copy
import gc
import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clipmerge.clip import training
from clipmerge.clip.data import external, images, packing, packs, splits
from clipmerge.clip.data.recall import recall
from clipmerge.clip.data.threads import in_order
from clipmerge.errors import BadInput

from .real_trees import picture

SAMPLES = [
    images.Sample("train" if i % 3 else "test", i % 2, f"{i}.jpg", picture(i, (20 + i, 30)), (f"text {i}", "übrig"))
    for i in range(9)
]


def packed(folder: Path, samples: list[images.Sample]) -> packs.Pack:
    packing.write(folder, samples, {"name": "toy"})
    return packs.load(folder)


@given(order=st.permutations(SAMPLES))
@settings(max_examples=20)
def test_the_order_of_the_source_leaves_no_trace(order: list, tmp_path_factory: pytest.TempPathFactory) -> None:
    ours, theirs = (packed(tmp_path_factory.mktemp("x") / "pack", list(samples)) for samples in (SAMPLES, order))
    assert ours.digest == theirs.digest
    everything = torch.arange(6)
    for a, b in zip(ours.train.take(everything), theirs.train.take(everything), strict=True):
        assert torch.equal(a, b)
    assert ours.train.texts(everything) == theirs.train.texts(everything)


@pytest.mark.parametrize(
    "change", [{"label": 1}, {"side": "test"}, {"data": picture(100)}, {"captions": ("other",)}], ids=lambda c: [*c][0]
)
def test_everything_of_an_image_but_its_name_is_in_the_digest(change: dict, tmp_path: Path) -> None:
    first = SAMPLES[4]
    renamed = images.Sample(first.side, first.label, "name", first.data, first.captions)
    changed = images.Sample(**{**vars(first), **change})
    others = [*SAMPLES[:4], *SAMPLES[5:]]
    digests = [packed(tmp_path / str(i), [one, *others]).digest for i, one in enumerate((first, renamed, changed))]
    assert digests[0] == digests[1] != digests[2]


def test_rows_carry_their_own_label_image_and_texts(tmp_path: Path) -> None:
    side = packed(tmp_path / "pack", SAMPLES).train
    by_file = {sample.data: sample for sample in SAMPLES}
    for row in range(len(side)):
        sample = by_file[side.images.read(*side.spans[row].tolist())]
        index = torch.tensor([row])
        assert (sample.side, sample.label) == ("train", side.labels[row])
        assert side.texts(index) == [list(sample.captions)]
        assert torch.equal(side.take(index)[0], images.decode(sample.data))


def test_a_copy_outlives_what_it_was_made_from(tmp_path: Path) -> None:
    blobs = packed(tmp_path / "pack", SAMPLES).train.images
    start = blobs.read(0, 100)
    copied = copy.copy(blobs)
    del blobs
    gc.collect()
    assert copied.read(0, 100) == start


def test_an_interrupted_pack_leaves_the_old_one(tmp_path: Path) -> None:
    before = packed(tmp_path / "pack", SAMPLES).digest

    def stops():
        yield SAMPLES[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        packing.write(tmp_path / "pack", stops(), {})
    assert packs.load(tmp_path / "pack").digest == before
    assert [path.name for path in tmp_path.iterdir()] == ["pack"]


def test_batches_are_functions_of_seed_and_step(tmp_path: Path) -> None:
    side = packed(tmp_path / "pack", SAMPLES).train

    def draws(start: int):
        return (torch.randint(len(side), (4,), generator=training.generator(7, step)) for step in range(start, 12))

    whole = list(side.stream(draws(0), threads=3))
    resumed = list(side.stream(draws(5), threads=1, ahead=1))
    for (a, left), (b, right) in zip(whole[5:], resumed, strict=True):
        assert torch.equal(a, b)
        assert all(torch.equal(x, y) for x, y in zip(left, right, strict=True))


def test_threads_run_no_further_ahead_than_told() -> None:
    started = []
    results = in_order(lambda i: started.append(i) or i, itertools.count(), threads=2, ahead=3)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    assert len(started) <= 5 + 3
    results.close()


MEMORY = """
import json, resource, sys, tracemalloc
from pathlib import Path
import numpy as np, torch
from clipmerge.clip.data import images, packing, packs
n = int(sys.argv[1])
pool = [images._encode(images.Image.fromarray(np.full((128, 128, 3), i, np.uint8)), "PNG") for i in range(64)]
pool = [data + bytes(20_000) for data in pool]
samples = (images.Sample("train", 0, f"{i}", pool[i % 64]) for i in range(n))
tracemalloc.start()
packing.write(Path(sys.argv[2]), samples, {})
written = tracemalloc.get_traced_memory()[1]
tracemalloc.reset_peak()
side = packs.load(Path(sys.argv[2])).train
draws = (torch.arange(i, i + 10) for i in range(0, n, 10))
assert sum(len(batch) for _, batch in side.stream(draws)) == n
read = tracemalloc.get_traced_memory()[1]
print(json.dumps([written, read, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024]))
"""


def memory(n: int, folder: Path) -> list[float]:
    """Peak bytes of Python while `n` images are packed, while they are read, and of the whole process."""
    command = [sys.executable, "-c", MEMORY, str(n), str(folder)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def test_memory_does_not_grow_with_the_images(tmp_path: Path) -> None:
    """Less than a kilobyte for each image more, where one is 20 kB packed and 49 kB decoded."""
    few = memory(200, tmp_path / "few")
    many = memory(1200, tmp_path / "many")
    assert many[0] - few[0] < 1000 * 1000
    assert many[1] < 1200 * 1000 + 7 * 10 * 3 * 128**2  # batches of ten: one in hand, four that wait, room for two
    assert many[2] - few[2] < 15e6  # all images are 24 MB packed, 59 MB decoded


def test_the_seeded_rule_is_random_split() -> None:
    theirs = torch.utils.data.random_split(range(27), [21, 6], generator=torch.Generator().manual_seed(42))
    train, test = splits.positions(27, 0.8, 42)
    assert sorted(theirs[0].indices) == train.tolist()
    assert sorted(theirs[1].indices) == test.tolist()


@pytest.mark.parametrize("name", [name for name in external.names() if external.load(name).split.seeded])
def test_the_manifests_state_the_splits_digest(name: str) -> None:
    one = external.load(name)
    train, test = splits.seeded(one.split, sum(one.counts.values()), one.title)
    assert (len(train), len(test)) == (one.counts["train"], one.counts["test"])
    with pytest.raises(BadInput, match="digest"):
        splits.seeded(one.split, 100, one.title)


def test_recall_by_hand() -> None:
    """Two images, four texts; similarities to image 0: 1, .6, 0, .8; to image 1: 0, .8, 1, .6.

    Texts 0, 1, 2 belong to images 0, 0, 1 and text 3 to image 1. At k = 1 texts 0 and 2 find their image, 1 and 3 do
    not: 2/4. Image 0's best own text (1) is its nearest, and image 1's (2) too: 2/2. The mean is 3/4; at k = 2 all.
    """
    image = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    text = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [0.8, 0.6]])
    owner = torch.tensor([0, 0, 1, 1])
    assert recall(image, text, owner, k=1) == 0.75
    assert recall(image, text, owner, k=2) == 1.0


def test_recall_in_chunks_is_recall(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    image, text = (torch.nn.functional.normalize(torch.randn(n, 8, generator=generator), dim=1) for n in (20, 60))
    owner = torch.arange(60) // 3
    whole = recall(image, text, owner)
    similar = image @ text.T
    hits_image = [bool((owner[similar[i].topk(5).indices] == i).any()) for i in range(20)]
    hits_text = [bool((similar[:, j].topk(5).indices == owner[j]).any()) for j in range(60)]
    assert whole == (sum(hits_image) / 20 + sum(hits_text) / 60) / 2
    monkeypatch.setattr("clipmerge.clip.data.recall.CHUNK", 7)
    assert recall(image, text, owner) == whole
