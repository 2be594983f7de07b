"""Real sets in a study: named by a profile, keyed by their packs' digests, read a batch at a time."""

import weakref

import pytest
import torch

from clipmerge.clip import datasets, evaluate, finetune, manifests, models, recipes, training
from clipmerge.clip.data import images, locks, threads, unread
from clipmerge.errors import BadInput
from clipmerge.study import experts, mtil
from clipmerge.study.cache import store

from . import real_sets

METHODS = ("zero-shot", "continual-ft", "experts", "condu-ft")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPMERGE_HOME", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def packed():
    for name in real_sets.SETS.values():
        real_sets.pack(name)


def test_names_say_which_is_meant(packed):
    assert manifests.load("Food").group == "mtil" and manifests.load("food").group == "tasks"
    assert len(manifests.load("fomo/CUB200").classes) == 200
    about = manifests.load("MNIST")
    assert about.digest == locks.lock("mnist")["digest"] and len(about.classes) == 10
    assert manifests.load("Aircraft").digest == ""  # not here yet: a plan can be made all the same


def test_a_set_that_is_not_here_says_what_brings_it():
    with pytest.raises(BadInput, match="eurosat: expected a pack in .*, found none; `clipmerge data get eurosat`"):
        datasets.load("EuroSAT")


def test_two_sets_go_through_condus_protocol(packed, home):
    profile = real_sets.profile(home)
    rows = mtil.run(profile, METHODS)
    last = rows[(rows.metric == "last") & (rows.task == "mean")]
    assert sorted(last.method) == sorted(METHODS) and last.value.between(0, 100).all()
    assert rows[(rows.task == "MNIST") & (rows.method == "experts")].n.eq(10).all()


def test_the_digest_of_a_pack_is_part_of_the_keys_of_its_own_steps(packed, home):
    profile = real_sets.profile(home)
    before = {task: experts.step(profile, task, 0).key for task in real_sets.SETS}
    locks.lock_path("mnist").unlink()
    (locks.folder("mnist") / "index.safetensors").unlink()
    real_sets.pack("mnist", seed=1)
    after = {task: experts.step(profile, task, 0).key for task in real_sets.SETS}
    assert before["EuroSAT"] == after["EuroSAT"] and before["MNIST"] != after["MNIST"]


def test_batches_are_functions_of_the_step_whoever_draws_them(packed, monkeypatch):
    data = datasets.load("EuroSAT")
    here = _tuned(data, 3)
    monkeypatch.setattr(training, "batches", lambda draw, steps: threads.in_order(draw, steps, 3, 2))
    assert all(torch.equal(a, b) for a, b in zip(here, _tuned(data, 3), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(here, _tuned(data, 2), strict=True))


def _tuned(data, steps):
    model = models.create("nano-xs")
    finetune.tune(model, "nano-xs", data, recipes.Finetune(steps=steps, batch=4, warmup=1, lr=1e-3))
    return list(models.state(model).values())


def test_images_are_picked_split_and_joined_like_tensors(packed):
    one, two = (datasets.load(name) for name in real_sets.SETS)
    every, labels = one.train_images, one.train_labels
    picked = [every[labels == 3], every[torch.tensor([1, 0])], every[4:6], every[7]]
    both = torch.cat([*picked, two.train_images[:2]])
    alone = [*every[labels == 3].read(), *(every.read()[i] for i in (1, 0, 4, 5, 7)), *two.train_images.read()[:2]]
    assert all(torch.equal(a, b) for a, b in zip(both.read(), alone, strict=True))
    assert [len(part) for part in both.split(5)] == [5, 4]
    assert len(torch.stack([every[0], two.test_images[1]]).sides) == 2
    with pytest.raises(TypeError):
        torch.flip(both, [0])


def test_what_evaluation_sees_is_the_middle_of_each_image(packed):
    model, data = models.create("nano-xs"), datasets.load("MNIST")
    seen = evaluate.features(model, data.test_images, batch=3)
    whole = models.encode_image(model, data.test_images.middle(32)).detach()
    assert torch.allclose(seen, whole, atol=1e-6)


@pytest.mark.parametrize("use", ["grade", "train"])
def test_memory_does_not_grow_with_the_number_of_images(use, monkeypatch):
    """At most so many decoded images are alive at once, whether the set has twenty or two hundred."""
    peaks = []
    for name, count in (("eurosat", 2), ("mnist", 20)):
        real_sets.pack(name, train=count, test=count)
        peaks.append(_most_alive(use, "EuroSAT" if name == "eurosat" else "MNIST", monkeypatch))
    few, many = peaks
    assert 0 < few <= 20 and many <= 4 * (2 * unread.packs.THREADS + 2)


def _most_alive(use, name, monkeypatch):
    alive, most, decode = set(), [0], images.decode

    def counted(data):
        image = decode(data)
        number = object()
        alive.add(number)
        weakref.finalize(image, alive.discard, number)
        most[0] = max(most[0], len(alive))
        return image

    data, model = datasets.load(name), models.create("nano-xs")
    with monkeypatch.context() as patched:
        patched.setattr(images, "decode", counted)
        if use == "grade":
            evaluate.features(model, data.test_images, batch=4)
        else:
            finetune.tune(model, "nano-xs", data, recipes.Finetune(steps=12, batch=4, warmup=1))
    return most[0]


def test_validation_images_are_taken_from_training(packed, home):
    profile = real_sets.profile(home, data={"tasks": ["EuroSAT"], "validation": 0, "per_class_train": 2})
    data = experts.dataset(experts.task_config(profile, "EuroSAT"))
    assert (len(data.train_images), len(data.test_images)) == (10, 10)


def test_a_step_of_a_missing_set_fails_in_one_sentence(home):
    with pytest.raises(BadInput, match="clipmerge data get eurosat"):
        store.get(experts.step(real_sets.profile(home), "EuroSAT", 0))
