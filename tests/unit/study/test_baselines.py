"""Baselines: their losses against numbers worked out by hand, their algebra, and each of them on three tiny tasks."""

from dataclasses import replace
from math import exp, log

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from clipmerge import files
from clipmerge.clip import evaluate, finetune, models, training
from clipmerge.clip.compute import Compute
from clipmerge.clip.datasets import Dataset
from clipmerge.errors import BadInput
from clipmerge.study import experts, profiles
from clipmerge.study.baselines import ddas, icarl, losses, mixture, rail, reference, sequential, wise_ft
from clipmerge.study.cache import store
from clipmerge.study.condu import contract, features, fewshot, orders, protocol

SMOKE = profiles.load("smoke")
LAPTOP = profiles.load("laptop")
TASKS = ("digits", "solarcells", "landcover")  # few classes each: their heads cost little
TINY = replace(SMOKE, compute=Compute(), data=replace(SMOKE.data, tasks=TASKS))


def test_distillation_by_hand():
    teacher, student = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    p, q = 1 / (1 + exp(-1)), log(1 + exp(-1))  # at T = 2 the logits are 1 and 0
    assert losses.soften(teacher, student, 2.0).item() == pytest.approx(4 * (p * (1 + q) + (1 - p) * q), rel=1e-6)


def test_both_ways_looks_along_rows_and_columns():
    w = torch.eye(2)
    old, new = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.6, 0.8], [0.0, 1.0]])
    expected = losses.soften(10 * old, 10 * new, 2.0) + losses.soften(10 * old.T, 10 * new.T, 2.0)
    assert losses.both_ways(old, new, w, 10.0, 2.0).item() == pytest.approx(expected.item())
    assert losses.both_ways(old, old, w, 10.0, 2.0) < losses.both_ways(old, new, w, 10.0, 2.0)


def test_weight_consolidation_by_hand():
    model = nn.Linear(2, 1)
    anchor = {name: p.detach().clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        model.weight += torch.tensor([[0.5, -1.0]])
        model.bias += 3
    assert losses.penalty(model, anchor).item() == pytest.approx(0.25 + 1 + 9)
    model.bias.requires_grad_(False)
    assert losses.penalty(model, anchor).item() == pytest.approx(1.25)  # what is not trained does not count


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=8))
def test_running_mean_is_the_mean(values):
    mean = {"x": torch.tensor(values[0], dtype=torch.float64)}
    for count, value in enumerate(values[1:], start=1):
        losses.fold(mean, [("x", torch.tensor(value, dtype=torch.float64))], count)
    assert mean["x"].item() == pytest.approx(np.mean(values), abs=1e-9)


def test_random_sentences_stand_between_start_and_end():
    frame = models.tokenizer("nano-xs")(["a word"])[0]
    rows = losses.random_sentences(5, 10, frame, torch.Generator().manual_seed(0))
    start, end = frame[0], frame.max()
    assert (rows[:, 0] == start).all() and (rows[:, 11] == end).all() and (rows[:, 12:] == 0).all()
    assert ((rows[:, 1:11] > 0) & (rows[:, 1:11] < start)).all() and rows.argmax(1).eq(11).all()


def test_exemplars_are_even_and_of_the_past():
    earlier = [experts.dataset(experts.task_config(TINY, task)) for task in TASKS[:2]]
    images, picked = icarl.exemplars(earlier, 30, seed=1)
    assert len(images) == sum(map(len, picked)) == 28  # 30 for 14 classes: two each
    for data, rows in zip(earlier, picked, strict=True):
        assert torch.bincount(data.train_labels[rows]).tolist() == [2] * len(data.classes)


def _task(earlier=(), **options):
    name = "nano-xs"
    model, start = models.create(name), models.create(name).requires_grad_(False)
    data = experts.dataset(experts.task_config(TINY, TASKS[0]))
    return sequential.Task(model, start, name, data, {"options": options, "earlier": earlier}, {}, 0)


def test_wise_ft_interpolates():
    task = _task(share=0.75)
    with torch.no_grad():
        task.model.text_projection += 4
    wise_ft.interpolate(task).finish()
    torch.testing.assert_close(task.model.text_projection, task.start.text_projection + 3)
    torch.testing.assert_close(task.model.visual.proj, task.start.visual.proj)


def test_the_first_task_of_icarl_is_plain():
    assert icarl.rehearse(_task(memory=10)) == sequential.Change()


def test_icarl_is_taught_by_the_base_in_the_words_of_the_new_task():
    past = experts.task_config(TINY, TASKS[1])
    task, base = _task(earlier=[past], memory=8, temperature=2.0), models.create("nano-xs")
    with torch.no_grad():
        task.start.text_projection *= 1.5  # whoever the task starts from
        task.start.visual.proj += 0.1
        task.model.visual.proj += 0.05
    images, _ = icarl.exemplars([experts.dataset(past)], 8, task.seed)
    pick = torch.randint(len(images), (4,), generator=training.generator(task.seed + 1, 0))
    tokens = reference.class_tokens("nano-xs", task.data)
    own = task.data.train_images[:4], task.data.train_labels[:4], tokens, 0.2
    old, new = evaluate.features(base, images[pick]), models.encode_image(task.model, images[pick])
    held = losses.both_ways(old, new, reference.text_features(base, tokens), task.model.logit_scale.exp(), 2.0)
    expected = finetune.class_loss(task.model, *own) + held
    assert icarl.rehearse(task).loss(task.model, *own).item() == pytest.approx(expected.item(), rel=1e-5)


@settings(max_examples=15)
@given(st.integers(0, 99), st.sampled_from([0.01, 1.0]), st.lists(st.integers(2, 5), min_size=1, max_size=3))
def test_recursive_ridge_is_batch_ridge(seed, ridge, classes):
    generator, width = torch.Generator().manual_seed(seed), 6
    state, phis, targets = rail.empty(width, ridge), [], []
    for many in classes:
        phi = torch.randn(2 * rail.CHUNK // len(classes) + 3, width, generator=generator, dtype=torch.float64)
        labels = torch.randint(many, (len(phi),), generator=generator)
        state = rail.learn(state, phi, labels, many)
        phis.append(phi)
        targets.append(nn.functional.one_hot(labels, many).double())
    x, y = torch.cat(phis), torch.block_diag(*targets)
    gram = x.T @ x + ridge * torch.eye(width, dtype=torch.float64)
    torch.testing.assert_close(state.weights, torch.linalg.solve(gram, x.T @ y))
    torch.testing.assert_close(state.inverse, torch.linalg.inv(gram))


def test_rail_answers_outside_what_it_learnt_as_zero_shot_does():
    zero_shot, regression = torch.tensor([[5.0, 0, 0], [0, 0, 5]]), torch.tensor([[0.0, 9, 9], [9, 9, 0]]).double()
    fused = rail.fuse(zero_shot, regression, torch.tensor([True, True, False]), 0.9)
    assert fused.argmax(1).tolist() == [1, 2]  # the second image is of the class not learnt yet
    torch.testing.assert_close(fused[1], zero_shot[1].softmax(0).double())


def test_rail_asks_zero_shot_in_all_words_whether_it_knows_the_image():
    """Tasks a and b of two classes and of one; the second image of a looks like b, and the regression knows better."""
    images, labels = torch.zeros(2, 32, 32, 3, dtype=torch.uint8), torch.tensor([0, 1])
    a = Dataset("a", "A", ("a0", "a1"), ("{}",), images[:0], labels[:0], images, labels)
    b = Dataset("b", "B", ("b0",), ("{}",), images[:0], labels[:0], images[:1], labels[:1])
    e = torch.eye(3)
    seen = {"head.a": e[:2], "head.b": e[2:], "z.a": e[[0, 2]], "z.b": e[2:]}
    phi = {name: seen[f"z.{name}"].double() for name in "ab"}
    state = replace(rail.empty(3, 1.0), weights=torch.tensor([[1.0, 0], [0, 0], [0, 1]]).double())
    first = rail._graded([a, b], seen, phi, state, 1, 0.8)
    expected = {"own": (100, 100), "seen": (100, 100), "union": (50, 100)}  # in all words it is b0, which is not learnt
    assert {space: (first["full", space, "a"], first["full", space, "b"]) for space in expected} == expected
    state = replace(state, weights=nn.functional.pad(state.weights, (0, 1)))
    assert rail._graded([a, b], seen, phi, state, 2, 0.8)["full", "union", "a"] == 100  # 0.8 · 1 above 0.2 · 1


def test_adapters_change_nothing_before_the_first_step_and_frozen_ones_never():
    model, images = models.create("nano-xs"), torch.randint(0, 255, (3, 32, 32, 3), dtype=torch.uint8)
    before = models.encode_image(model, images)
    mixtures = mixture.attach(model, 4, 2, tasks=2, seed=0)
    torch.testing.assert_close(models.encode_image(model, images), before)
    assert {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad} == {"mixtures"}
    one = mixtures[0].train()
    one.frozen[1] = True
    nn.init.ones_(one.up)
    one(torch.randn(64, 5, one.down.shape[1])).sum().backward()
    for grad in (one.up.grad[:, 2:4], one.down.grad[2:4], one.down_bias.grad[2:4], one.up_bias.grad[1]):
        assert (grad == 0).all()
    assert all(p.grad.abs().sum() > 0 for p in (one.up, one.down, one.down_bias, one.up_bias, one.router, one.noise))
    gates = one.gates(torch.randn(8, one.down.shape[1]))
    assert ((gates > 0).sum(1) == 2).all() and torch.allclose(gates.sum(1), torch.ones(8))


def _by_hand():
    """Three experts of rank 1 on two numbers; the router prefers the second and third for a first token [1, 0]."""
    one = mixture.Mixture(2, 3, 1, 2, torch.Generator().manual_seed(0)).eval()
    with torch.no_grad():
        one.task = 1
        one.router[1] = torch.tensor([[-5.0, 9.0], [log(3), 9.0], [0.0, 9.0]])
        one.down.copy_(torch.tensor([[7.0, 7.0], [1.0, 1.0], [1.0, -1.0]]))
        one.down_bias.copy_(torch.tensor([7.0, 0.5, 0.0]))
        one.up.copy_(torch.tensor([[7.0, 2.0, 4.0], [7.0, 0.0, 8.0]]))
        one.up_bias.copy_(torch.tensor([[7.0, 7.0], [0.0, 4.0], [0.0, 0.0]]))
    return one


def test_a_mixture_by_hand():
    # gates: softmax of [log 3, 0] = [3/4, 1/4]; hidden of token [1, 0]: [1.5, 1], of [-1, 2]: [1.5, 0] (ReLU of -3)
    out = _by_hand()(torch.tensor([[[1.0, 0.0], [-1.0, 2.0]]]))
    first = [0.1 * (0.75 * 1.5 * 2 + 0.25 * 1 * 4), 0.1 * (0.75 * 4 + 0.25 * 1 * 8)]
    second = [0.1 * 0.75 * 1.5 * 2, 0.1 * 0.75 * 4]
    torch.testing.assert_close(out, torch.tensor([[first, second]]))


def test_a_mixture_is_noisy_while_it_trains_and_only_then():
    torch.manual_seed(0)
    one, x = _by_hand(), torch.tensor([[[1.0, 0.0]]]).expand(4000, 1, 2)
    one.noise.data[1] = torch.tensor([[-50.0, 0.0]] * 3)  # softplus of −50: nothing is left but the least
    spread = one.train().gates(x[:, 0])
    odds = (spread[:, 1] / spread[:, 2]).log() - log(3)  # the difference of two draws
    assert odds.mean().item() == pytest.approx(0, abs=1e-3)
    assert odds.std().item() == pytest.approx(0.01 * 2**0.5, rel=0.1)
    moved = (one(x)[:, 0, 0] - one.eval()(x)[:, 0, 0]).abs()
    assert (moved > 0.05).double().mean().item() == pytest.approx(1 - 0.9**2, abs=0.03)  # a hidden unit is dropped
    assert torch.equal(one(x), one(x)) and int(one.used.sum()) == 2 * len(x)


def test_a_mixture_reads_what_the_layer_norm_has_not_seen():
    model = models.create("nano-xs")
    block = model.visual.transformer.resblocks[0]
    x = 3 * torch.randn(2, 5, block.mlp.c_fc.in_features, generator=torch.Generator().manual_seed(0))
    before = block(x)
    one = mixture.attach(model, 4, 2, tasks=2, seed=0).eval()[0]
    nn.init.ones_(one.up)
    middle = x + block.attention(block.ln_1(x)) if hasattr(block, "attention") else x + block.attn(block.ln_1(x))
    torch.testing.assert_close(block(x), before + one(middle))
    assert (one(middle) - one(block.ln_2(middle))).abs().max() > 0.01


def test_an_autoencoder_knows_its_own(tmp_path):
    generator, seen = torch.Generator().manual_seed(0), {}
    for task, spread in (("digits", 0), ("solarcells", 8)):
        n = len(experts.dataset(experts.task_config(LAPTOP, task)).train_labels)
        z = torch.zeros(n, 16)
        z[:, spread : spread + 4] = torch.randn(n, 4, generator=generator)
        seen[f"train.{task}"] = nn.functional.normalize(z, dim=1)
    files.save_tensors(tmp_path / features.FILE, seen)
    ours = torch.zeros(500, 16)
    ours[:, 12:] = torch.randn(500, 4, generator=generator)
    ours = nn.functional.normalize(ours, dim=1)
    files.save_tensors(tmp_path / reference.REFERENCE, {"z": ours})
    fitting = {"code": 8, "steps": 150}
    ddas.fit_reference(tmp_path, config=fitting, inputs={"reference": tmp_path}, seed=0)
    gates = [files.load_tensors(tmp_path / ddas.GATE)]
    for task in ("digits", "solarcells"):
        (tmp_path / task).mkdir()
        config = {**fitting, "q": 0.95, **experts.task_config(LAPTOP, task)}
        ddas.fit(tmp_path / task, config=config, inputs={"features": tmp_path}, seed=0)
        gates.append(files.load_tensors(tmp_path / task / ddas.GATE))
    assert (ddas.route(gates, seen["train.digits"]) == 0).float().mean() > 0.9
    assert (ddas.route(gates, seen["train.solarcells"]) == 1).float().mean() > 0.9
    assert (ddas.route(gates, ours) == -1).float().mean() > 0.9  # the reference is nobody's task
    strange = nn.functional.normalize(torch.randn(50, 16, generator=generator), dim=1)
    assert (ddas.route(gates, strange) == -1).float().mean() > 0.9


BASELINES = [name for name in contract.METHODS if name not in protocol.METHODS]


@pytest.mark.parametrize("method", BASELINES)
def test_every_baseline_gives_rows(method):
    rows = protocol.run(TINY, [method])
    wanted = {"last"} if method == "joint" else {"accuracy", "transfer", "average", "last"}
    assert set(rows.metric) == wanted and set(rows.method) == {method} and rows.value.between(0, 100).all()
    assert set(rows[rows.metric == "last"].task) == {*TASKS, "mean"}


def test_rail_transfers_exactly_as_zero_shot():
    plans = {method: protocol.plan(TINY, method, 0) for method in ("rail", "zero-shot")}
    store.build([step for steps in plans.values() for step in steps])
    a, base = (protocol.matrix(steps, TASKS) for steps in plans.values())
    assert a[0, 2] == a[1, 2] == pytest.approx(base[0, 2])
    assert a[2, 2] != base[2, 2]


def test_adapters_have_a_rate_of_their_own_and_nothing_decays():
    own = {"lr": 0.004, "lr_by_task": {"landcover": 0.01}, "few_shot_lr": 0.02}
    changed = replace(TINY.baselines, options={"moe-adapters": own})
    profile = replace(TINY, baselines=changed, finetune=replace(TINY.finetune, weight_decay=0.1))
    kept = protocol.kept(profile, "moe-adapters", 0, TASKS)
    assert [step.config["recipe"]["lr"] for step in kept] == [0.004, 0.004, 0.01]
    assert {step.config["recipe"]["weight_decay"] for step in kept} == {0.0}
    few = fewshot.plan(profile, "moe-adapters", 0, TASKS)[0].inputs["adapters"].config
    assert few["recipe"] == kept[0].config["recipe"] | {"lr": 0.02, "steps": TINY.few_shot.steps, "warmup": 1}


@pytest.mark.parametrize("method", ["zscl", "moe-adapters", "joint"])
def test_the_same_again(method, tmp_path):
    last = protocol.kept(TINY, method, 0, TASKS[:1])[0]
    done, again = store.get(last), tmp_path / "again"
    again.mkdir()
    last.fn(again, config=last.config, inputs={k: getattr(v, "folder", v) for k, v in last.inputs.items()}, seed=0)
    for path in done.glob("*.safetensors"):
        first, second = files.load_tensors(path), files.load_tensors(again / path.name)
        assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_unknown_baseline_and_unknown_option():
    with pytest.raises(BadInput, match="method: expected one of .*l2, .*; found 'ewc'"):
        protocol.plan(TINY, "ewc", 0)
    settings_ = replace(TINY.baselines, options={"l2": {"lambda": 1.0}})
    with pytest.raises(BadInput, match="baselines.options.l2.lambda: expected one of strength; found 'lambda'"):
        protocol.plan(replace(TINY, baselines=settings_), "l2", 0)


def test_orders_are_permutations_and_the_second_is_mtils():
    found = orders.named(SMOKE)
    first = found["I"]
    assert all(sorted(order) == sorted(first) for order in found.values())
    assert found["II"][0] == first[9] and found["II"][-1] == first[2]
    assert found == orders.named(SMOKE)


def test_slope_of_position_alone():
    rows = [(task, at, level - 2.0 * at) for task, level in (("a", 50.0), ("b", 90.0)) for at in (1, 4, 6)]
    b, error = orders.slope(pd.DataFrame(rows, columns=["task", "position", "value"]))
    assert b == pytest.approx(-2) and error == pytest.approx(0, abs=1e-9)
