"""Zero-shot grading covers every dataset, averages the tasks alone, and grades what the library would by hand."""

import pytest

from clipmerge.clip import datasets, evaluate, manifests, models
from clipmerge.study import experts, profiles
from clipmerge.study.baselines import zeroshot

PROFILE = profiles.load("smoke")


@pytest.fixture(scope="module")
def rows():
    """The smoke profile's table."""
    return zeroshot.run(PROFILE)


def test_every_dataset_has_an_accuracy_and_a_chance_level(rows):
    names = {name for group in datasets.GROUPS for name in datasets.names(group)} | {"mean"}
    for method in ("zero-shot", "chance"):
        assert set(rows[rows.method == method].task) == names
    chance = rows[rows.method == "chance"].set_index("task").value
    assert chance["animals"] == 10 and chance["flags"] == pytest.approx(100 / len(manifests.load("flags").classes))
    assert rows.seed.isna().all() and rows.value.between(0, 100).all()


def test_the_mean_is_over_the_tasks_alone(rows):
    ours = rows[(rows.method == "zero-shot") & (rows.model == PROFILE.width_models[0])]
    tasks = ours[(ours.group == "tasks") & (ours.task != "mean")]
    assert len(tasks) == len(PROFILE.data.tasks)
    assert ours[ours.task == "mean"].value.item() == pytest.approx(tasks.value.mean())


def test_a_number_is_the_accuracy_of_the_base(rows):
    name = PROFILE.width_models[0]
    data = experts.dataset(experts.task_config(PROFILE, "kanji"))
    row = rows[(rows.method == "zero-shot") & (rows.model == name) & (rows.task == "kanji")]
    assert row.value.item() == pytest.approx(evaluate.test_accuracy(models.create(name), name, data))
    assert row.n.item() == len(data.test_labels)
