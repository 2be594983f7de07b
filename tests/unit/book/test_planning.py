"""What a run would compute is read off the notebooks, and nothing is started to learn it."""

import ast

import nbformat
import nbformat.v4 as v4
import pytest

from clipmerge import cli, paths
from clipmerge.book import notebooks, run
from clipmerge.book.ahead import estimates, forecast, planning, slices, tidy
from clipmerge.book.setup import OVERRIDE
from clipmerge.clip import device
from clipmerge.study import experts, mtil, profiles
from clipmerge.study.cache import store
from clipmerge.study.condu import lora
from clipmerge.study.experts import pretraining

from ..study import real_sets

CELLS = [
    'profile = "laptop"\nseed = 0\nout = ""',
    "import pandas as pd\nfrom clipmerge.book import setup\nfrom clipmerge.clip import models",
    "from clipmerge.study import experts, mtil\nfrom clipmerge.study.cache import store",
    "run = setup(profile, seed, out)",
    "model = models.create(run.profile.model)\nside = [1, 2, 3]",
    "def graded(methods):\n    return mtil.run(run.profile, methods)",
    'methods = ["zero-shot"]\nmethods.append("condu-ft")',
    "rows = graded(methods)",
    "means = rows.groupby('method').value.mean()\nmeans.round(2)",
]


def test_a_plan_runs_what_asks_for_steps_and_what_that_hangs_on():
    kept = [ast.unparse(one) for one in slices.planning(CELLS)]
    assert [text.partition("(")[0] for text in kept] == [
        "from clipmerge.study import experts, mtil",
        "def graded",
        "methods = ['zero-shot']",
        "methods.append",
        "rows = graded",
    ]


def test_what_statements_bind_and_read():
    one = ast.parse("table[key], other.x = f(a), b").body[0]
    assert (slices.defines(one), slices.uses(one)) == ({"table", "other"}, {"table", "key", "other", "f", "a", "b"})
    assert slices.uses(ast.parse("plans += more").body[0]) == {"plans", "more"}
    assert slices.defines(ast.parse("rows = [f(pair) for pair in pairs]").body[0]) == {"rows"}


def test_a_function_of_a_module_is_not_all_of_the_module():
    cells = ["from clipmerge.study.condu import protocol", "a = protocol.grade", "b = protocol.rows"]
    kept = [ast.unparse(one) for one in slices.planning(cells)]  # reading what is there asks for nothing
    assert kept == ["from clipmerge.study.condu import protocol", "b = protocol.rows"]


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    """A function that gives the jobs of a notebook of these cells, at a profile of two real sets; an empty cache."""
    monkeypatch.setenv("CLIPMERGE_HOME", str(tmp_path / "cache"))
    real_sets.profile(tmp_path, finetune={"steps": 2, "warmup": 1, "batch": 4})
    monkeypatch.setenv(OVERRIDE, str(tmp_path / "two.yaml"))
    place = tmp_path / "10_toy.ipynb"
    monkeypatch.setattr(notebooks, "every", lambda: [place])

    def made(*more):
        cells = [v4.new_code_cell(source) for source in [*CELLS, *more]]
        cells[0].metadata["tags"] = ["parameters"]
        nbformat.write(v4.new_notebook(cells=cells), place)
        return run.plan("laptop", 0, "", [""], None)

    return made


def test_everything_that_is_missing_is_said_at_once_and_nothing_is_started(jobs, capsys):
    jobs('experts.step(run.profile, "Unicorns", 0) and store.get(experts.step(run.profile, "Unicorns", 0))')
    with pytest.raises(SystemExit) as ended:
        cli.main(["plan"])
    said = capsys.readouterr().out
    assert ended.value.code == 2
    for name in ("EuroSAT: its pack (`clipmerge data get eurosat`)", "MNIST: its pack (`clipmerge data get mnist`)"):
        assert name in said
    assert "notebook 10_toy: BadInput: Unicorns.yaml: expected a manifest" in said
    assert not paths.cache().exists()
    assert cli.main(["run"]) == 2
    assert "missing:\n  - EuroSAT: its pack" in capsys.readouterr().err


def test_what_is_foreseen_is_what_is_computed_and_what_was_on_the_way_can_go(jobs, capsys):
    for name in real_sets.SETS.values():
        real_sets.pack(name)
    before = planning.graph(jobs())
    profile = before.profile
    assert (len(before.to_do()), before.problems) == (len(before.steps), [])
    assert {step.name.partition("/")[0] for step in before.steps} >= {"expert", "session", "grade", "features"}
    mtil.run(profile, ["zero-shot", "condu-ft"])
    folders = {path.parent for path in paths.cache("steps").rglob("DONE.json")}
    assert folders == {step.folder for step in before.steps}

    after = planning.graph(jobs())
    assert after.to_do() == []
    gone = tidy.spare(after)
    assert {step.name.partition("/")[0] for step in gone} == {"expert", "session", "features"}
    assert cli.main(["gc", "--keep", "graded", "--dry-run"]) == 0
    assert all(map(store.there, after.steps))
    assert cli.main(["gc", "--keep", "graded"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"{len(gone)} steps, ")
    assert not any(map(store.there, gone))
    assert planning.graph(jobs()).to_do() == []  # what was graded stays


def test_every_call_of_a_statement_and_every_turn_of_its_loops_is_foreseen(jobs):
    for name in real_sets.SETS.values():
        real_sets.pack(name)
    before = planning.graph(jobs())
    loop = "more = [mtil.run(run.profile, [way]) for way in ('lwf', 'l2')] + [graded(['continual-ft'])]"
    use = "table = pd.concat(more)\nif len(table):\n    mtil.run(run.profile, ['joint'])"  # hangs on results
    after = planning.graph(jobs(loop, use))
    names = {step.name.split("/")[0] for step in after.steps} - {step.name.split("/")[0] for step in before.steps}
    assert (names, after.problems) == ({"lwf", "l2", "continual"}, [])


def test_recorded_seconds_take_the_place_of_assumptions(jobs):
    for name in real_sets.SETS.values():
        real_sets.pack(name)
    graph = planning.graph(jobs())
    tuning = [step for step in graph.steps if step.name.startswith("expert/")]
    assumed = estimates.rates(graph.steps, "cpu")
    assert assumed.seconds(tuning[0]) == pytest.approx(estimates.tflop(tuning[0]) / estimates.TFLOPS["cpu"])
    store.build(tuning[:1])
    measured = estimates.rates(graph.steps, "cpu")
    assert measured.seconds(tuning[0]) == pytest.approx(store.record(tuning[0])["seconds"])
    assert not estimates.rates(graph.steps, "fp32").measured


def test_a_step_that_names_no_precision_ran_in_fp32(monkeypatch):
    profile = profiles.load("laptop")
    rerun = pretraining.step(profile.model, pretraining.brief(profile))
    assert "compute" not in rerun.config and estimates.tflop(rerun)
    monkeypatch.setattr(store, "there", lambda step: True)
    monkeypatch.setattr(store, "record", lambda step: {"device": "cuda", "seconds": 2.0})
    assert estimates.rates([rerun], "fp32").seconds(rerun) == pytest.approx(2.0)
    assert not estimates.rates([rerun], "bf16").measured


def test_sizes_of_models_are_those_that_are_known():
    base = estimates.size("ViT-B-16-quickgelu/openai")
    assert base.params == pytest.approx(149.6, rel=0.02) and base.image == pytest.approx(35.2, rel=0.05)
    assert estimates.size("ViT-L-14/laion2b_s32b_b82k").params == pytest.approx(427.6, rel=0.02)


def test_images_are_counted_as_they_are_shown():
    profile = profiles.load("paper-condu")
    with device.nowhere():
        expert = experts.step(profile, "Aircraft", 42)
        first, *_, last = mtil.plan(profile, "condu-ft", 42)
    assert estimates.images(expert) == (64000, 0.0)
    assert estimates.images(last) == (0.0, 97209.0)
    own = 3333
    assert estimates.images(first) == (0.0, own + (97209 - own) * 1)  # one expert is all that can be asked so far


def test_factors_take_little_room_until_they_are_multiplied_out():
    profile = profiles.load("paper-condu")
    with device.nowhere():
        whole, factors = experts.step(profile, "MNIST", 42), lora.step(profile, "MNIST", 42)
        sessions = {kind: lora.plan(profile, kind, 42)[-1].inputs["session"] for kind in ("factors", "product")}
    assert estimates.written_mb(whole) == pytest.approx(4 * 149.6, rel=0.02)
    rank = profile.lora.rank
    assert estimates.written_mb(factors) == pytest.approx(4 * 12 * 2 * 5 * (768 + 512) * rank / 1e6)
    assert estimates.written_mb(sessions["factors"]) < 50 < 500 < estimates.written_mb(sessions["product"])


def test_the_critical_path_is_the_longest_chain():
    profile = profiles.load("paper-condu")
    with device.nowhere():
        chain = mtil.kept(profile, "continual-ft", 42)
        steps = [*chain, experts.step(profile, "MNIST", 42)]
    rate = estimates.rates(steps, "fp32")
    count, hours = estimates.longest(steps, rate)
    assert (count, hours) == (11, pytest.approx(sum(map(rate.seconds, chain)) / 3600))
    assert forecast.estimates.hours(steps, rate)[0] == pytest.approx(sum(map(rate.seconds, steps)) / 3600)
