"""A long run on small random deltas: drift is what the definitions say, methods answer with what they keep."""

import pytest
import torch

from clipmerge import files
from clipmerge.merge import condu
from clipmerge.study.condu import longrun


@pytest.fixture
def inputs(tmp_path):
    """Two chunks of two experts, learned."""
    generator = torch.Generator().manual_seed(0)
    for c in range(2):
        drawn = {f"{i:02d}.{key}": torch.randn(5, 3, generator=generator) for i in range(2) for key in ("a.w", "b")}
        files.save_tensors(tmp_path / str(c) / longrun.DELTAS, drawn)
    found = {f"chunk.{c:02d}": tmp_path / str(c) for c in range(2)}
    (tmp_path / "learned").mkdir()
    longrun.learn(tmp_path / "learned", config={"rescaler": "tensor_mean", "marks": [2, 4]}, inputs=found, seed=0)
    return found | {"learned": tmp_path / "learned"}


def test_experts_come_in_the_order_of_learning(inputs):
    first, *_, last = longrun.tuned(inputs)
    assert len(longrun.tuned(inputs)) == 4 and set(first) == {"a.w", "b"}
    assert torch.equal(last["b"], files.load_tensors(inputs["chunk.01"] / longrun.DELTAS)["01.b"])


def test_the_first_session_has_no_drift_and_later_ones_do(inputs):
    drift = files.read_json(inputs["learned"] / longrun.DRIFT)
    assert drift["condu-ft"]["1"] == {"cosine": [pytest.approx(1)], "density": [1.0]}
    assert len(drift["condu-ft"]["4"]["cosine"]) == 4 and max(drift["condu-ft"]["4"]["density"]) < 1
    assert drift["emr"].keys() == {"2", "4"}
    for what, values in drift["emr"]["2"].items():  # the first session is lossless: no difference yet
        assert values == pytest.approx(drift["condu-ft"]["2"][what])


def test_methods_answer_with_what_they_keep(inputs):
    config = {"marks": [2, 4], "rescaler": "tensor_mean", "tasks": [None] * 4}
    answers = {m: {(t, i): d for t, i, d in longrun._answers(config | {"method": m}, inputs)} for m in longrun.METHODS}
    originals = longrun.tuned(inputs)
    assert answers["zero-shot"] == {(4, i): {} for i in range(4)}
    assert torch.equal(answers["experts"][4, 3]["b"], originals[3]["b"])
    assert torch.equal(answers["average"][2, 0]["b"], (originals[0]["b"] + originals[1]["b"]) / 2)
    assert list(answers["emr"]) == list(answers["condu-ft"]) == [(2, 0), (2, 1), *((4, i) for i in range(4))]
    step = condu.extend(condu.extend(condu.unify(originals[:2]), originals[2]), originals[3])
    assert torch.equal(answers["condu-ft"][4, 0]["b"], condu.decouple(step, 0)["b"])


def test_cosine_by_hand():
    one, other = {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([4.0])}, {"a": torch.tensor([1.0, 0.0])}
    assert longrun.cosine(one, other | {"b": torch.tensor([0.0])}) == pytest.approx(0.6)
    assert longrun.cosine(one, {key: value * 0 for key, value in one.items()}) == 0
