"""The page one can play with: its arithmetic is the library's, its results are the artefacts', its controls work."""

import json
import math
import re
import shutil
import subprocess
import warnings
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

from clipmerge import paths
from clipmerge.book import explore
from clipmerge.clip import replay
from clipmerge.errors import BadInput
from clipmerge.merge import condu, ema, techniques
from clipmerge.study import profiles
from clipmerge.study.cache.step import Step
from clipmerge.study.time import loop, pipeline
from clipmerge.study.time.loop import Strategy
from clipmerge.study.time.pipeline import Blend, Setting
from clipmerge.study.time.streams import Stream

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CASES = 200
close = lambda found: pytest.approx(found, rel=1e-10, abs=1e-10)  # noqa: E731  (both compute in fp64)


# --- what was measured ---


def test_page_shows_the_committed_artefacts():
    text = explore.page().read_text(encoding="utf8")
    assert explore.with_block(text, explore.recorded()) == text, f"run `{explore.MAKER}`"


@pytest.fixture
def artefacts(tmp_path, monkeypatch):
    """A folder of copies of the artefacts, to be changed at will."""
    for id in (*explore.RUNS, explore.PATHS, explore.MASKS):
        shutil.copy(paths.figures("laptop") / f"{id}.csv", tmp_path)
    monkeypatch.setattr(paths, "figures", lambda profile: tmp_path)
    return tmp_path


def test_a_new_column_is_a_new_condition(artefacts):
    path = artefacts / "time_ema.csv"
    table = pd.read_csv(path)
    both = [table.assign(stream="random"), table.assign(stream="sorted", value=0.0)]
    pd.concat(both).to_csv(path, index=False)
    runs = [run for run in explore.recorded()["runs"] if run["artefact"] == "time_ema"]
    heavy = [run for run in runs if run["choice"]["ema_weight"] == 0.8]
    found = {(run["conditions"]["mixture"], run["conditions"]["stream"]): max(run["ka"]) > 0 for run in heavy}
    shares = ("0.33:0.34:0.33", "0:0.5:0.5")
    assert found == {(mixture, s): s == "random" for mixture in shares for s in ("random", "sorted")}
    assert all(len(run["ka"]) == len(run["zs"]) == len(run["gm"]) == len(run["seeds"]) for run in runs)


def test_recorded_numbers_are_those_of_the_csv():
    table = pd.read_csv(paths.figures("laptop") / "time_grid.csv")
    cells = table[(table.init == "all") & (table.deploy == "ft") & (table.metric == "zs")].sort_values("seed")
    runs = [r for r in explore.recorded()["runs"] if r["artefact"] == "time_grid" and r["method"] == "all/ft"]
    assert len(runs) == cells.mixture.nunique() == 2
    for run, name in zip(runs, cells.mixture.unique(), strict=True):
        cell = cells[cells.mixture == name]
        assert run["zs"] == cell.value.round(3).tolist() and run["seeds"] == cell.seed.tolist()


def test_what_is_missing_is_named(artefacts):
    with pytest.raises(BadInput, match="expected the marks"):
        explore.with_block("<html></html>", {})
    (artefacts / "time_grid.csv").unlink()
    with pytest.raises(BadInput, match="time_grid.csv: expected an artefact"):
        explore.recorded()


def test_results_cannot_end_their_block():
    made = explore.with_block("<!-- recorded --><!-- /recorded -->", {"runs": ["</script>"], "maker": "x"})
    (block,) = re.findall(r'<script type="application/json" id="recorded">(.*?)</script>', made, re.DOTALL)
    assert json.loads(block) == {"runs": ["</script>"], "maker": "x"}


# --- the arithmetic, in whatever runs JavaScript here ---


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not found:
        pytest.skip(f"no Chromium on this machine: looked for {', '.join(BROWSERS)}")
    with playwright.sync_playwright() as runner:
        chromium = runner.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module", params=["chromium", "node"])
def answers(request):
    """Call a function of the page on a list of cases: ``answers("(d) => clipmerge.unify(d)", cases)``."""
    if request.param == "chromium":
        page = request.getfixturevalue("browser").new_page()
        page.goto(explore.page().as_uri())
        yield lambda function, cases: page.evaluate(f"(cases) => cases.map({function})", cases)
        page.close()
        return
    node = shutil.which("node")
    if not node:
        pytest.skip("no node on this machine")
    text = explore.page().read_text(encoding="utf8")
    (block,) = re.findall(r'<script id="arithmetic">(.*?)</script>', text, re.DOTALL)

    def run(function, cases):
        told = "JSON.parse(require('fs').readFileSync(0, 'utf8'))"
        code = f"{block};process.stdout.write(JSON.stringify({told}.map({function})))"
        done = subprocess.run([node, "-e", code], input=json.dumps(cases), capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    yield run


def numbers(generator, *shape):
    """Normal numbers, or halves with many ties and zeros: those that are hard on signs and ranks."""
    values = generator.normal(scale=2, size=shape)
    return (values if generator.random() < 0.5 else np.round(2 * values) / 2).tolist()


def state(values):
    return {"w": torch.tensor(values, dtype=torch.float64)}


def test_condu_is_the_librarys(answers):
    generator = np.random.default_rng(0)
    cases = [numbers(generator, *generator.integers(1, 9, 2)) for _ in range(CASES)]
    recursive = answers("(deltas) => clipmerge.sessions(deltas)", cases)
    at_once = answers("(deltas) => clipmerge.sessions(deltas, true)", cases)
    last = "(deltas) => deltas.map((_, i) => clipmerge.decouple(clipmerge.sessions(deltas).at(-1), i))"
    rebuilt = answers(last, cases)
    with warnings.catch_warnings(action="ignore"):  # a delta of zeros, or all of whose numbers lose, is warned of
        for deltas, sessions, once, back in zip(cases, recursive, at_once, rebuilt, strict=True):
            unified = condu.unify([state(deltas[0])])
            for t, session in enumerate(sessions):
                unified = condu.extend(unified, state(deltas[t]), str(t)) if t else unified
                same(session, unified)
                same(once[t], condu.unify([*map(state, deltas[: t + 1])]))
            assert back == [close(condu.decouple(unified, i)["w"].tolist()) for i in range(len(deltas))]


def same(found, unified):
    assert found["delta"] == close(unified.delta["w"].tolist())
    assert [t["mask"] for t in found["triggers"]] == [t.mask["w"].unpack().tolist() for t in unified.triggers]
    assert [t["rescaler"] for t in found["triggers"]] == close([t.rescaler for t in unified.triggers])


def options_of(generator, name):
    scale = {"scale": float(generator.choice([0.1, 0.5, 0.8, 1]))}
    keep = {"keep": float(generator.choice([0, 0.05, 0.2, 0.3, 0.5, 1]))}
    return {"task_arithmetic": scale, "magmax": scale, "ties": keep | scale}.get(name, {})


def test_techniques_are_the_librarys(answers):
    generator = np.random.default_rng(1)
    names = answers("(x) => Object.keys(clipmerge.techniques)", [0])[0]
    cases = []
    for k in range(CASES):
        technique = techniques.find(names[k % len(names)])
        count = 2 if technique.pair else int(generator.integers(1, 6))
        weights = generator.random(count).tolist() if technique.weighted and generator.random() < 0.7 else None
        base, *experts = numbers(generator, count + 1, int(generator.integers(2, 10)))
        cases.append([technique.name, experts, base, weights, options_of(generator, technique.name)])
    found = answers("(args) => clipmerge.merge(...args)", cases)
    for (name, experts, base, weights, options), merged in zip(cases, found, strict=True):
        ours = techniques.merge(name, [*map(state, experts)], state(base), weights, **options)
        assert merged == close(ours["w"].tolist()), name
    defaults = answers("(name) => clipmerge.techniques[name].options", names)
    for name, known in zip(names, defaults, strict=True):
        assert known.items() <= techniques.find(name).options.items()


def test_folds_are_the_librarys(answers):
    generator = np.random.default_rng(2)
    cases = []
    for _ in range(CASES):
        base, *experts = numbers(generator, int(generator.integers(2, 7)), 5)
        cases.append(["average", experts, base, float(generator.random()), str(generator.choice(["first", "base"]))])
    found = answers("(args) => clipmerge.fold(...args)", cases)
    for (name, experts, base, weight, start), folded in zip(cases, found, strict=True):
        assert folded == close(ema.fold(name, [*map(state, experts)], state(base), weight, start)["w"].tolist())


def test_shares_of_replay_are_the_librarys(answers):
    mixtures = [[0.33, 0.34, 0.33], [0, 1, 0], [0, 1, 2], [1, 1, 0], [0.2, 0.3, 0.5]]
    cases = [[mixture, past] for mixture in mixtures for past in (True, False)]
    found = answers("(args) => clipmerge.shares(...args)", cases)
    assert found == [close(list(replay.shares(*case))) for case in cases]


# --- TIME's loop: the library's own, its training replaced by that on the plane ---


@dataclass
class Plane:
    """A world as the page knows it; `states` are the models behind the library's steps, by the steps' names."""

    world: dict
    states: dict[str, list] = field(default_factory=dict)

    def loss(self, bowl, point):
        """½ |W⁻¹ Rᵀ (x − c)|²."""
        c, s = math.cos(bowl["angle"]), math.sin(bowl["angle"])
        turn = torch.tensor([[c, s], [-s, c]], dtype=torch.float64)
        off = turn @ (point - torch.tensor(bowl["centre"], dtype=torch.float64))
        return (off / torch.tensor(bowl["widths"], dtype=torch.float64)).square().sum() / 2

    def step(self, model):
        """A step that stands for a model; it is never run."""
        made = Step(math.hypot, f"plane/{len(self.states)}")
        self.states[made.name] = model
        return made

    def of(self, step):
        """The model of a step; of None, the base."""
        return self.world["pretraining"]["centre"] if step is None else self.states[step.name]

    def train(self, setting, task, start):
        """Stand in for `pipeline.train`: gradients by autograd, of the mixed loss."""
        pretraining, update, buffer = replay.shares(self.world["mixture"], task > 0)
        past = self.world["tasks"][:task]
        point = torch.tensor(self.of(start), dtype=torch.float64)
        for _ in range(self.world["steps"]):
            point.requires_grad_(True)
            loss = pretraining * self.loss(self.world["pretraining"], point)
            loss = loss + update * self.loss(self.world["tasks"][task], point)
            loss = loss + sum(buffer / task * self.loss(bowl, point) for bowl in past)
            (gradient,) = torch.autograd.grad(loss, point)
            point = (point - self.world["rate"] * gradient).detach()
        return self.step(point.tolist())

    def merge(self, setting, blend):
        """Stand in for `pipeline.merge`."""
        return blend.models[0] if len(blend.models) == 1 else self.step(self.blended(blend))

    def blended(self, blend):
        """The model of a blend."""
        models = [state(self.of(model)) for model in blend.models]
        if len(models) == 1:
            return models[0]["w"].tolist()
        merged = techniques.merge(blend.technique, models, state(self.of(None)), blend.weights, **blend.options)
        return merged["w"].tolist()

    def deployed(self, strategy, monkeypatch):
        """What the library's loop deploys after each task."""
        monkeypatch.setattr(pipeline, "train", self.train)
        monkeypatch.setattr(pipeline, "merge", self.merge)
        chunks = tuple((("digits", k),) for k in range(len(self.world["tasks"])))
        models = loop.loop(Setting(profiles.load("smoke"), Stream("plane", chunks)), strategy)
        return [self.blended(model) if isinstance(model, Blend) else self.of(model) for model in models]


def bowl(generator):
    centre, widths = generator.uniform(1, 9, 2).tolist(), generator.uniform(1, 4, 2).tolist()
    return {"centre": centre, "angle": float(generator.uniform(-2, 2)), "widths": widths}


def strategies(generator, names, count):
    """Random choices, refused ones too."""
    for k in range(count):
        name = names[k % len(names)]
        weight = float(generator.random()) if techniques.find(name).weighted and generator.random() < 0.7 else None
        init, deploy = str(generator.choice(loop.INITS)), str(generator.choice(loop.DEPLOYS))
        begun = str(generator.choice(["base", "first"]))
        yield {"init": init, "deploy": deploy, "technique": name, "ema_weight": weight, "fold_start": begun,
               "options": options_of(generator, name)}  # fmt: skip


def test_loop_is_the_librarys(answers, monkeypatch):
    generator = np.random.default_rng(3)
    names = answers("(x) => Object.keys(clipmerge.techniques)", [0])[0]
    cases = []
    for choice in strategies(generator, names, CASES):
        mixture = [[0.33, 0.34, 0.33], [0, 1, 0]][generator.integers(2)]
        tasks = [bowl(generator) for _ in range(generator.integers(1, 6))]
        world = {"pretraining": bowl(generator), "tasks": tasks, "mixture": mixture, "steps": 5, "rate": 0.4}
        cases.append([world, choice])
    refused = answers("([world, choice]) => clipmerge.refusal(choice)", cases)
    found = answers("([world, choice]) => clipmerge.loop(world, choice).map(({ deployed }) => deployed)", cases)
    run = 0
    for (world, choice), refusal, deployed in zip(cases, refused, found, strict=True):
        if refusal:
            with pytest.raises(BadInput, match=re.escape(refusal)):
                Strategy(**choice)
            continue
        run += 1
        ours = Plane(world).deployed(Strategy(**choice), monkeypatch)
        assert deployed == [close(point) for point in ours], choice
    assert CASES / 2 < run < CASES  # both kinds were there


# --- the page in a browser ---


@pytest.fixture
def page(browser, request):
    """The page, opened afresh; a test may name its context's options by ``@pytest.mark.parametrize("page", ...)``."""
    context = browser.new_context(**getattr(request, "param", {}))
    opened, said = context.new_page(), []
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("console", lambda message: said.append(message.text))
    opened.on("request", lambda sent: said.append(sent.url) if not sent.url.startswith("file:") else None)
    opened.goto(explore.page().as_uri())
    yield opened
    assert said == []  # no error, no message, no request to anywhere
    context.close()


def test_keyboard_moves_numbers_and_minima(page):
    number = page.get_by_role("slider", name="expert 1, coordinate 1")
    number.focus()
    unified = page.get_by_role("row").filter(has_text="unified delta")
    before = unified.inner_text()
    for _ in range(9):
        page.keyboard.press("ArrowDown")
    assert number.input_value() == "-2.5"
    assert number.get_attribute("aria-valuetext") == "−2.5"
    assert unified.inner_text() != before
    page.keyboard.press("Tab")  # the next coordinate is one key away
    assert page.evaluate("document.activeElement.ariaLabel") == "expert 1, coordinate 2"

    minimum = page.get_by_role("slider", name="minimum of task 2")
    minimum.focus()
    score = page.locator("#time-said").inner_text()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Shift+ArrowUp")
    assert minimum.get_attribute("aria-valuetext") == "8.4 across, 3.7 up"
    assert page.locator("#time-said").inner_text() != score


def test_pointer_drags(page):
    number = page.get_by_role("slider", name="expert 2, coordinate 8")
    number.scroll_into_view_if_needed()
    box = number.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 0.95 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 1)
    page.mouse.up()
    assert number.input_value() == "5"

    minimum = page.get_by_role("slider", name="minimum of task 4")
    minimum.scroll_into_view_if_needed()
    box = minimum.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    was = float(minimum.get_attribute("aria-valuenow"))
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 60, y, steps=4)
    page.mouse.up()
    assert float(minimum.get_attribute("aria-valuenow")) > was + 0.5


@pytest.mark.parametrize("page", [{"has_touch": True, "viewport": {"width": 390, "height": 800}}], indirect=True)
def test_touch_moves_numbers_on_a_narrow_screen(page):
    number = page.get_by_role("slider", name="expert 3, coordinate 5")
    number.scroll_into_view_if_needed()
    box = number.bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + 0.9 * box["height"])
    assert float(number.input_value()) < -3


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 768, 1440])
def test_nothing_is_cut_off_or_pale(browser, scheme, width):
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 800})
    page = context.new_page()
    page.goto(explore.page().as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ink, paper = (page.evaluate(f"getComputedStyle(document.body).{name}") for name in ("color", "backgroundColor"))
    lightness = [sum(map(int, re.findall(r"\d+", colour)[:3])) / 765 for colour in (ink, paper)]
    assert (lightness[0] < lightness[1]) == (scheme == "light")
    assert abs(lightness[0] - lightness[1]) > 0.7
    context.close()


@pytest.mark.parametrize("page", [{"reduced_motion": "reduce"}, {"reduced_motion": "no-preference"}], indirect=True)
def test_motion_is_asked_for(page):
    moves = page.evaluate("getComputedStyle(document.querySelector('.cell i')).transitionDuration") != "0s"
    assert moves == page.evaluate("matchMedia('(prefers-reduced-motion: no-preference)').matches")


def test_sessions_only_lose_ones(page):
    page.locator("#draw").click()
    left = []
    for t in range(1, 13):
        page.locator("#session").fill(str(t))
        rows = page.locator("#masks").get_attribute("aria-label")
        left.append([int(count) for count in re.findall(r": (\d) of 8", rows)])
        assert len(left[-1]) == t
    for before, after in zip(left, left[1:], strict=False):
        assert all(b >= a for b, a in zip(before, after, strict=False))
    assert sum(left[-1]) < sum(counts[-1] for counts in left)  # and some were lost


def test_every_choice_finds_its_measurement(page):
    """The bold row of the table is the run of this very choice, and there is one exactly where it was measured."""
    runs = [run for run in explore.recorded()["runs"] if run["artefact"] == "time_grid" and run["choice"]]
    for run in runs:
        for name in ("init", "deploy"):
            page.locator(f"#{name}").select_option(run["choice"][name])
        page.locator("#mixture").select_option(run["conditions"]["mixture"])
        chosen = page.locator("#runs tr.chosen").inner_text()
        assert run["conditions"]["model"] in chosen
        assert f"{np.mean(run['ka']):.1f} ± {np.std(run['ka'], ddof=1):.1f}" in chosen
    page.locator("#ema_weight").fill("0.45")
    assert page.locator("#runs tr.chosen").count() == 0 and "not measured" in page.locator("#runs-said").inner_text()
    page.locator("#runs button").first.click()  # takes over what was measured
    assert page.locator("#runs tr.chosen").count() == 1 and page.locator("#ema_weight").input_value() == "0.5"


def test_refused_choices_say_why(page):
    page.locator("#technique").select_option("slerp")
    page.locator("#init").select_option("all")
    assert "slerp merges exactly two models" in page.locator("#refusal").inner_text()
    page.locator("#init").select_option("ft")
    assert page.locator("#refusal").inner_text() == ""


@pytest.mark.parametrize("choice", [
    {}, {"init": "zs", "deploy": "all", "technique": "ties"}, {"init": "all", "deploy": "ft", "technique": "magmax"},
    {"technique": "model_stock"}, {"init": "ft", "technique": "slerp"},
])  # fmt: skip
def test_program_shown_is_the_loop_that_runs(page, choice):
    for name, value in choice.items():
        page.locator(f"#{name}").select_option(value)
    world = page.evaluate("temporal.world()")
    plane, used = Plane(world), []
    train = lambda start, task: state(plane.of(plane.train(None, task, plane.step(start["w"].tolist()))))  # noqa: E731
    names = {"partial": partial, "techniques": techniques, "base": state(plane.of(None)), "train": train,
             "tasks": range(len(world["tasks"])), "use": lambda model: used.append(model["w"].tolist())}  # fmt: skip
    exec(page.locator("#loop").inner_text(), names)
    shown = page.evaluate("temporal.chosen()")
    assert used == [close(point) for point in page.evaluate(
        "([world, choice]) => clipmerge.loop(world, choice).map(({ deployed }) => deployed)", [world, shown]
    )]  # fmt: skip
