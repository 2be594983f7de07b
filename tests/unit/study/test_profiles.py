"""Profiles are read strictly: each mistake is one sentence with file, dotted key, expected and found."""

import dataclasses

import open_clip
import pytest
import yaml

from clipmerge.clip import manifests, models
from clipmerge.errors import BadInput
from clipmerge.study import profiles, results


def _tree(name="laptop"):
    return yaml.safe_load((profiles.FOLDER / f"{name}.yaml").read_text())


def _load(tmp_path, tree):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(tree))
    return profiles.load(path)


NAMES = ("laptop", "overnight", "paper-condu", "paper-time", "smoke", "workstation")


def test_these_profiles_come_with_the_package():
    assert profiles.names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_profile_loads(name):
    profile = profiles.load(name)
    assert profile.name == name
    assert len(profile.data.tasks) == 11


def test_paper_is_the_authors_recipe():
    paper = profiles.load("paper-condu")
    assert profiles.order(paper) == results.matrix_tasks()
    assert (paper.finetune.steps, paper.finetune.batch, paper.finetune.warmup) == (1000, 64, 100)
    rates = {task: profiles.recipe(paper, task).lr for task in paper.data.tasks}
    assert {task for task, lr in rates.items() if lr == 5e-5} == {"Aircraft", "MNIST"}
    assert set(rates.values()) == {1e-5, 5e-5}


def test_own_file_equals_the_shipped_one(tmp_path):
    assert dataclasses.replace(_load(tmp_path, _tree()), name="laptop") == profiles.load("laptop")


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        profiles.load("smoke").finetune.lr = 1.0


MISTAKES = {
    "unknown key": (("finetune", "lrr"), 1.0, r"mine\.yaml: finetune\.lrr: expected one of steps, .*; found 'lrr'"),
    "text for a number": (("finetune", "lr"), "1e-4", r"finetune\.lr: expected a number, found '1e-4' \(YAML wants"),
    "fraction for a count": (("finetune", "steps"), 1.5, r"finetune\.steps: expected a whole number, found 1\.5"),
    "truth for a count": (("compute", "workers"), True, r"compute\.workers: expected a whole number, found True"),
    "one text for a list": (("data", "tasks"), "digits", r"data\.tasks: expected a list, found 'digits'"),
    "number inside a list": (("data", "tasks"), ["digits", 3], r"data\.tasks\.1: expected a text, found 3"),
    "text inside a mapping": (("lr_by_task", "lora"), {"food": "x"}, r"lr_by_task\.lora\.food: expected a number"),
    "none of the choices": (("compute", "autocast"), "fp8", r"autocast: expected one of none, bf16, found 'fp8'"),
    "a list for a choice": (("compute", "autocast"), ["none"], r"autocast: expected one of none, bf16, found \['no"),
    "value for a section": (("mtil",), 3, r"mtil: expected a mapping, found 3"),
    "wrong limit": (("data", "per_class_test"), "all", r"per_class_test: expected a whole number or null, found 'all'"),
    "null": (("model",), None, r"model: expected a text, found None"),
    "unknown task": (("lr_by_task", "few_shot"), {"cats": 1.0}, r"lr_by_task\.few_shot: expected only tasks of"),
    "half an order": (("mtil", "order"), ["digits"], r"mtil\.order: expected nothing or a permutation"),
    "task twice": (("data", "tasks"), ["digits", "digits"], r"data\.tasks: expected at least one task and each once"),
    "no seed": (("seeds",), [], r"seeds: expected at least one seed, found \(\)"),
    "no worker": (("compute", "workers"), 0, r"mine\.yaml: compute\.workers: expected at least 1, found 0"),
    "nothing to tell apart": (("finetune", "classes"), 1, r"finetune\.classes: expected null or at least 2, found 1"),
    "endless warm-up": (("finetune", "warmup"), 241, r"finetune\.warmup: expected between 0 and 240, the nu"),
    "no learning": (("temporal", "recipe", "lr"), 0, r"mine\.yaml: temporal\.recipe\.lr: expected above 0, found 0\.0"),
    "no votes": (("mtil", "k"), -1, r"mine\.yaml: mtil\.k: expected at least 0, found -1"),
    "a session twice": (("mtil", "order"), ["digits"] * 2, r"mtil\.order: expected nothing or a permutation"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named(tmp_path, mistake):
    where, value, sentence = MISTAKES[mistake]
    tree = _tree()
    section = tree
    for key in where[:-1]:
        section = section[key]
    section[where[-1]] = value
    with pytest.raises(BadInput, match=sentence):
        _load(tmp_path, tree)


FREE = (("baselines", "options"), ("temporal", "mixtures"))  # mappings whose keys are the profile's own names


def _dotted_keys(tree, where=()):
    for key, value in tree.items():
        yield (*where, key), value
        if isinstance(value, dict):
            yield from _dotted_keys(value, (*where, key))


SAID = [where for where, _ in _dotted_keys(_tree()) if where in FREE or where[:2] not in FREE]


@pytest.mark.parametrize("where", SAID, ids=".".join)
def test_no_key_has_a_hidden_default(tmp_path, where):
    tree = _tree()
    section = tree
    for key in where[:-1]:
        section = section[key]
    del section[where[-1]]
    with pytest.raises(BadInput, match=rf"mine\.yaml: {'.'.join(where)}: expected .*, found no such key"):
        _load(tmp_path, tree)


def test_unknown_name_lists_the_known():
    known = ", ".join(NAMES)
    with pytest.raises(BadInput, match=f"expected one of {known} or a YAML file, found 'desktop'"):
        profiles.load("desktop")


@pytest.mark.parametrize("text", ["- a", "name: x", "", "a: [1"])
def test_not_a_profile_at_all(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(BadInput, match=r"mine\.yaml: expected"):
        profiles.load(path)


WAYS = [field.name for field in dataclasses.fields(profiles.load("laptop").lr_by_task)]


@pytest.mark.parametrize("way", WAYS)
def test_a_task_has_its_own_rate_and_is_no_concern_of_others(tmp_path, way):
    tree = _tree()
    tree["lr_by_task"][way] = {"digits": 2.0e-4}
    ours, plain = _load(tmp_path, tree), profiles.load("laptop")
    common = profiles.recipe(plain, way=way)
    assert profiles.recipe(ours, "digits", way) == dataclasses.replace(common, lr=2e-4) != common
    assert profiles.recipe(ours, "flags", way) == profiles.recipe(ours, way=way) == common


def test_the_few_shot_recipe_is_the_common_one_with_less_time(tmp_path):
    ours = _load(tmp_path, {"extends": "laptop", "finetune": {"warmup": 100}, "few_shot": {"steps": 60}})
    assert ours.finetune == profiles.recipe(ours)
    changed = {"steps": 60, "warmup": 60, "lr": ours.few_shot.lora_lr}
    assert profiles.recipe(ours, "food", "few_shot_lora") == dataclasses.replace(ours.finetune, **changed)


def test_a_profile_says_only_what_differs_from_the_one_it_extends(tmp_path):
    ours = _load(tmp_path, {"extends": "laptop", "seeds": [5], "finetune": {"steps": 70}})
    laptop = profiles.load("laptop")
    assert (ours.name, ours.seeds, ours.finetune.steps) == ("mine", (5,), 70)
    assert dataclasses.replace(ours.finetune, steps=laptop.finetune.steps) == laptop.finetune
    assert ours.temporal == laptop.temporal


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        ({"extends": "desktop"}, f"extends: expected another one of {', '.join(NAMES)}, found 'desktop'"),
        ({"extends": ["laptop"]}, "extends: expected another one of"),
        ({"extends": "laptop", "finetune": {"lrr": 1.0}}, "finetune.lrr: expected one of"),
        ({"extends": "laptop", "finetune": 3}, "finetune: expected a mapping, found 3"),
    ],
)
def test_extending_is_as_strict(tmp_path, tree, says):
    with pytest.raises(BadInput, match=f"mine.yaml: {says}"):
        _load(tmp_path, tree)


def _everything(name):
    """What a profile says by dotted key, with what it extends."""
    tree = _tree(name)
    below = _everything(tree.pop("extends")) if "extends" in tree else {}
    return below | dict(_dotted_keys(tree))


@pytest.mark.parametrize("name", NAMES[1:])
def test_nothing_is_written_twice(name):
    tree = _tree(name)
    below = _everything(tree.pop("extends"))
    assert [where for where, value in _dotted_keys(tree) if below.get(where, where) == value] == []


def test_null_takes_a_name_away_that_the_profile_below_has(tmp_path):
    tree = {"extends": "laptop", "temporal": {"mixtures": {"replay": None}}, "lr_by_task": {"chain": {"digits": None}}}
    mine = _load(tmp_path, tree)
    assert list(mine.temporal.mixtures) == ["no-replay"] and mine.lr_by_task.chain == {}


@pytest.mark.parametrize("name", NAMES)
def test_every_model_and_set_that_a_profile_names_exists(name):
    profile = profiles.load(name)
    time = profile.temporal
    named = {profile.model, profile.many.model, *profile.width_models, *profile.mtil.bases, *time.models}
    public = {"/".join(pair) for pair in open_clip.list_pretrained()}
    ours = {spec for spec in named if spec.partition("/")[0] in models.NANO}
    assert named - ours <= public
    assert all(models.weights(spec) for spec in ours)
    for each in (*profile.data.tasks, *profile.many.sets, *time.adaptation, *time.heldout):
        assert manifests.load(each).name == each


def test_overnight_adds_to_laptop_and_changes_no_recipe():
    overnight, laptop = profiles.load("overnight"), profiles.load("laptop")
    assert (overnight.finetune, overnight.data, overnight.seeds) == (laptop.finetune, laptop.data, laptop.seeds)
    assert set(overnight.baselines.seeds) > set(laptop.baselines.seeds)
    assert set(overnight.temporal.compute) > set(laptop.temporal.compute)
