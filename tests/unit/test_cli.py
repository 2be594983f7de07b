import pytest
import torch

from clipmerge import files
from clipmerge.cli import COMMANDS, main, words
from clipmerge.merge import apply_delta, condu, delta, techniques
from clipmerge.merge.layout import FLOATS
from clipmerge.merge.lines import SHAPES
from clipmerge.merge.safefile import BACKENDS
from clipmerge.merge.unifying import RESCALERS


def state(seed):
    generator = torch.Generator().manual_seed(seed)
    return {"visual.w": torch.randn(5, 3, generator=generator), "w": torch.randn(7, generator=generator)}


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("base", "digits", "flags", "food")):
        files.save_tensors(f"{name}.safetensors", state(seed))
    return tmp_path


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


def test_merge(place):
    command = "merge --technique ties --keep 0.4 --zero none --base base.safetensors --out m.safetensors"
    assert main([*command.split(), "digits.safetensors", "flags.safetensors"]) == 0
    expected = techniques.merge("ties", [state(1), state(2)], state(0), keep=0.4, zero="none")
    assert same(files.load_tensors("m.safetensors"), expected)


def test_merge_with_weights_and_with_ema_agree(place):
    experts = ["digits.safetensors", "flags.safetensors", "food.safetensors"]
    common = ["merge", "--technique", "average", "--base", "base.safetensors", "--out"]
    assert main([*common, "w.safetensors", "--weights", "1", "1", "2", "--", *experts]) == 0
    assert main([*common, "e.safetensors", "--ema", "0.5", *experts]) == 0
    weighted, folded = files.load_tensors("w.safetensors"), files.load_tensors("e.safetensors")
    torch.testing.assert_close(weighted["w"], folded["w"])


def test_sessions_of_condu(place, capsys):
    base = ["--base", "base.safetensors"]
    assert main(["unify", *base, "--out", "two", "digits.safetensors", "flags.safetensors"]) == 0
    assert main(["extend", "two", "food.safetensors", *base, "--out", "three", "--task", "dinner"]) == 0
    assert main(["decouple", "three", "--task", "flags", *base, "--out", "flags-again.safetensors"]) == 0
    assert main(["decouple", "three", "--task", "1", *base, "--out", "second.safetensors"]) == 0
    assert main(["inspect", "three", "--tensors"]) == 0
    unified = condu.unify([delta(state(1), state(0)), delta(state(2), state(0))])
    unified = condu.extend(unified, delta(state(3), state(0)))
    expected = apply_delta(state(0), condu.decouple(unified, 1))
    assert same(files.load_tensors("flags-again.safetensors"), expected)
    assert same(files.load_tensors("second.safetensors"), expected)
    said = capsys.readouterr().out
    assert "three: 2 tensors, 22 F32" in said and "visual.w F32 [5, 3]" in said
    assert f"task dinner: rescaler {unified.triggers[2].rescaler:.4f}" in said


def test_convert_takes_weights_only_and_keeps_tied_tensors_known(place, capsys):
    weights = state(4)
    torch.save({"state_dict": {f"module.{n}": x for n, x in (weights | {"head": weights["w"]}).items()}}, "x.pt")
    assert main(["convert", "x.pt", "x.safetensors"]) == 0
    assert same(files.load_tensors("x.safetensors"), weights | {"head": weights["w"]})
    assert files.load_meta("x.safetensors") == {"tied": {"w": "head"}}
    assert main(["inspect", "x.safetensors"]) == 0
    assert "tied: {'w': 'head'}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda: torch.save(torch.nn.Linear(2, 2), "x.pt"), "holds weights only"),
        (lambda: torch.save({"epoch": 3}, "x.pt"), "epoch should be a tensor, found a int"),
        (lambda: torch.save([1], "x.pt"), "expected a state dict, found a list"),
        (lambda: open("x.pt", "wb").close(), "holds weights only"),
        (lambda: None, "found nothing there"),
    ],
)
def test_convert_refuses_anything_else(content, words, place, capsys):
    content()
    assert main(["convert", "x.pt", "x.safetensors"]) == 2
    assert words in capsys.readouterr().err
    assert not (place / "x.safetensors").exists()


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("merge --technique ties --drop 0.3 --base base.safetensors --out m digits.safetensors", 2, "'drop'"),
        ("merge --technique slerp --base base.safetensors --out m digits.safetensors", 2, "exactly two experts"),
        ("merge --technique ties --ema 0.3 --base base.safetensors --out m digits.safetensors", 2, "takes no weights"),
        ("merge --technique average --base none --out m digits.safetensors", 2, "none: expected a safetensors file"),
        ("unify --base base.safetensors --out . digits.safetensors", 2, "apart from all inputs"),
        ("decouple base.safetensors --task 0 --out d", 2, "expected the folder of a unified model"),
        ("merge --technique average --base base.safetensors --out base.safetensors/m digits.safetensors", 2, "base"),
    ],
)
def test_errors_are_one_sentence_and_an_exit_code(command, code, words, place, capsys):
    assert main(command.split()) == code
    said = capsys.readouterr().err
    assert words in said and said.startswith("clipmerge: ") and said.count("\n") == 1


def test_an_interrupt_is_130(place, capsys, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("clipmerge.merge.streaming.unify", interrupted)
    assert main(["unify", "--base", "base.safetensors", "--out", "u", "digits.safetensors"]) == 130
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    assert f"example:\n  clipmerge {command} " in capsys.readouterr().out


def test_the_words_are_those_of_the_library():
    assert sorted(words.TECHNIQUES) == list(techniques.names())
    for name, options in words.TECHNIQUES.items():
        assert options.keys() == techniques.find(name).options.keys(), name
        assert (name in words.WEIGHTED) is techniques.find(name).weighted
    assert words.RESCALERS == RESCALERS and tuple(SHAPES) == words.SHAPES and words.BACKENDS == BACKENDS
    assert sorted(words.FLOATS) == sorted(FLOATS)


@pytest.mark.parametrize(
    ("technique", "given", "expected"),
    [
        ("ties", {"density": 0.2, "lambda": 0.5}, {"keep": 0.2, "scale": 0.5}),
        ("dare_ties", {"density": 0.2}, {"drop": 0.8}),
        ("breadcrumbs_ties", {"density": 0.3, "gamma": 0.05}, {"prune": 0.65, "top": 0.05}),
        ("average", {"density": 0.3}, {"density": 0.3}),
    ],
)
def test_the_fields_words_are_translated(technique, given, expected):
    assert words.translated(technique, given) == expected


RECIPE = """
merge_method: {method}
base_model: base.safetensors
models:
  - model: digits.safetensors
    {first}
  - model: flags.safetensors
    {second}
parameters: {options}
{more}
"""


def recipe(place, method="ties", first="", second="", options="{density: 0.4, zero: none}", more="out: m.safetensors"):
    folder = place / "recipes"
    folder.mkdir(exist_ok=True)
    for name in ("base", "digits", "flags"):
        (place / f"{name}.safetensors").rename(folder / f"{name}.safetensors")
    text = RECIPE.format(method=method, first=first, second=second, options=options, more=more)
    (folder / "r.yaml").write_text(text)
    return str(folder / "r.yaml")


def test_a_recipe_says_the_same_as_options(place):
    assert main(["merge", recipe(place)]) == 0
    expected = techniques.merge("ties", [state(1), state(2)], state(0), keep=0.4, zero="none")
    assert same(files.load_tensors("recipes/m.safetensors"), expected)


def test_a_recipe_with_weights(place):
    weights = {"first": "parameters: {weight: 1}", "second": "parameters: {weight: 3}"}
    path = recipe(place, "linear", options="{}", more="dtype: float16", **weights)
    assert main(["merge", path, "--out", "m.safetensors"]) == 0
    expected = techniques.merge("average", [state(1), state(2)], state(0), weights=[1, 3])
    assert same(files.load_tensors("m.safetensors"), {n: x.half() for n, x in expected.items()})


@pytest.mark.parametrize(
    ("how", "more", "said"),
    [
        ({"method": "karcher"}, [], "merge_method should be one of average"),
        ({"more": "tokenizer_source: union"}, [], "found 'tokenizer_source'"),
        ({"first": "weight: 1"}, [], "found 'weight'"),
        ({"first": "parameters: {weight: 1}"}, [], "a weight for every model or for none"),
        (
            {"first": "parameters: {weight: [1, 2]}", "second": "parameters: {weight: 1}"},
            [],
            "weight should be a number",
        ),
        ({"options": "{normalize: true}"}, [], "'normalize'"),
        ({"more": ""}, [], "expected --out"),
        ({"more": "{"}, [], "expected YAML"),
        ({}, ["--technique", "ties"], "found --technique too"),
        ({}, ["--density", "0.3"], "found --density too"),
        ({}, ["other.safetensors"], "found other.safetensors too"),
    ],
)
def test_a_recipe_is_heeded_or_refused(how, more, said, place, capsys):
    assert main(["merge", recipe(place, **how), *more]) == 2
    found = capsys.readouterr().err
    assert said in found and found.count("\n") == 1
    assert not list(place.rglob("m.safetensors"))
