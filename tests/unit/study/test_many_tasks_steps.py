"""A long run on small random deltas: drift is what the definitions say, methods answer with what they keep."""

import pytest
import torch

from clipmerge import files
from clipmerge.merge import condu
from clipmerge.study.condu import many_tasks_steps as steps


@pytest.fixture
def inputs(tmp_path):
    """Two chunks of two experts, learned."""
    generator = torch.Generator().manual_seed(0)
    for c in range(2):
        drawn = {f"{i:02d}.{key}": torch.randn(5, 3, generator=generator) for i in range(2) for key in ("a.w", "b")}
        files.save_tensors(tmp_path / str(c) / steps.DELTAS, drawn)
    found = {f"chunk.{c:02d}": tmp_path / str(c) for c in range(2)}
    (tmp_path / "learned").mkdir()
    steps.learn(tmp_path / "learned", config={"rescaler": "tensor_mean", "marks": [2, 4]}, inputs=found, seed=0)
    return found | {"learned": tmp_path / "learned"}


def test_experts_come_in_the_order_of_learning(inputs):
    first, *_, last = steps.tuned(inputs)
    assert len(steps.tuned(inputs)) == 4 and set(first) == {"a.w", "b"}
    assert torch.equal(last["b"], files.load_tensors(inputs["chunk.01"] / steps.DELTAS)["01.b"])


def test_the_first_session_has_no_drift_and_later_ones_do(inputs):
    records = files.read_json(inputs["learned"] / steps.DRIFT)
    drift = {(record["method"], record["metric"], record["session"]): record["value"] for record in records}
    assert drift["condu-ft", "cosine", 1] == pytest.approx(1) and drift["condu-ft", "density", 1] == 100
    assert drift["condu-ft", "density", 4] < 100 and drift["condu-ft", "cosine", 4] < 1
    assert [key for key in drift if key[0] == "emr"] == [("emr", m, t) for t in (2, 4) for m in ("cosine", "density")]
    for metric in ("cosine", "density"):  # the first session is lossless: no difference yet
        assert drift["emr", metric, 2] == pytest.approx(drift["condu-ft", metric, 2])


def test_methods_answer_with_what_they_keep(inputs):
    config = {"marks": [2, 4], "rescaler": "tensor_mean", "tasks": [None] * 4}
    answers = {m: {(t, i): d for t, i, d in steps._answers(config | {"method": m}, inputs)} for m in steps.METHODS}
    originals = steps.tuned(inputs)
    assert answers["zero-shot"] == {(4, i): {} for i in range(4)}
    assert torch.equal(answers["experts"][4, 3]["b"], originals[3]["b"])
    assert torch.equal(answers["average"][2, 0]["b"], (originals[0]["b"] + originals[1]["b"]) / 2)
    assert list(answers["emr"]) == list(answers["condu-ft"]) == [(2, 0), (2, 1), *((4, i) for i in range(4))]
    step = condu.extend(condu.extend(condu.unify(originals[:2]), originals[2]), originals[3])
    assert torch.equal(answers["condu-ft"][4, 0]["b"], condu.decouple(step, 0)["b"])
