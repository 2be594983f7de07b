"""The ledger of claims: the file is whole, the committed rows are there, verdicts are those worked out by hand."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import yaml

from clipmerge import paths
from clipmerge.errors import BadInput
from clipmerge.study.claims import judge, manifest, rows

CLAIMS = manifest.load()
AIMS = manifest.load(paths.manifests() / "aims.yaml")
ENTRY = {
    "id": "toy",
    "paper": "TIME",
    "claim": "The first is above the second.",
    "source": "a toy",
    "artefact": "toy",
    "rows": {"task": "mean", "metric": "ka"},
    "first": {"method": "a"},
    "second": {"method": "b"},
    "kind": "greater",
}


@pytest.fixture
def told(tmp_path):
    """Write rows (method, seed, value and more) as an artefact's csv, and judge entries by it."""

    def judged(scores, profile="laptop", name="toy", **changes):
        table = pd.DataFrame(scores)
        fixed = {"task": "mean", "metric": "ka", "n": "", "source": "ours"}
        table = table.assign(**{key: value for key, value in fixed.items() if key not in table})
        table.to_csv(tmp_path / f"{name}.csv", index=False)
        entry = {key: value for key, value in (ENTRY | changes).items() if value is not None}
        (claim,) = read(tmp_path, entry)
        (found,) = judge.every([claim], tmp_path, profile, tmp_path / "overnight")
        return found

    return judged


def read(folder, *entries):
    path = folder / "claims.yaml"
    path.write_text(yaml.safe_dump({"claims": list(entries)}, sort_keys=False))
    return manifest.load(path)


def seeds(method, values, **more):
    return [{"method": method, "seed": seed, "value": value, **more} for seed, value in enumerate(values)]


@pytest.mark.parametrize("claim", [*CLAIMS, *AIMS], ids=lambda claim: f"{claim.id} {claim.part}")
def test_every_claim_has_its_artefact_and_rows(claim):
    """Only what is explicitly left to the overnight profile may be missing at the laptop's."""
    for side in claim.sides:
        table = rows.read(paths.figures("laptop"), side.artefact)
        assert table is not None, side.artefact
        assert claim.decides == judge.OVERNIGHT or len(rows.select(table, side.where, claim.name))


def test_every_claim_can_be_judged_by_the_committed_figures():
    found = judge.every(CLAIMS, paths.figures("laptop"), "laptop")
    assert len(found) == len(CLAIMS) > 100
    assert {one.claim.paper for one in found} == {"ConDU", "ConDU, reviewers", "TIME"}
    for one in found:
        assert bool(one.why) == (one.verdict == "not decidable"), one.claim.name
        if one.claim.decides == "laptop":  # whatever it says, it says it of numbers
            assert np.isfinite(one.effect), one.claim.name


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "holds"),  # differences 2 3 4: 3 ± 2.484
        ({"margin": 0.6}, "not decidable"),
        ({"margin": 5.5}, "does not hold"),
        ({"kind": "less", "margin": 5.5}, "holds"),
        ({"kind": "equal", "margin": 0.5}, "does not hold"),
        ({"kind": "equal", "margin": 5.5}, "holds"),
        ({"kind": "less", "margin": 1.6, "compare": "ratio"}, "holds"),  # 1.2 1.3 1.4: 1.3 ± 0.248
    ],
)
def test_each_kind_on_numbers_worked_out_by_hand(told, changes, said):
    found = told(seeds("a", [12.0, 13.0, 14.0], n=50) + seeds("b", [10.0, 10.0, 10.0]), **changes)
    assert (found.verdict, found.seeds, found.n, found.profile) == (said, 3, 50, "laptop")
    centre, half = (1.3, 0.2484) if "compare" in changes else (3.0, 2.484)
    assert (found.effect, found.low, found.high) == pytest.approx((centre, centre - half, centre + half), abs=1e-3)


def test_seeds_are_paired_and_what_has_no_seed_counts_once(told):
    found = told(seeds("a", [2.0, 5.0, 9.0]) + seeds("b", [1.0, 4.0]))
    assert (found.effect, found.seeds, found.verdict) == (1.0, 1, "not decidable")  # 1 and 1: one number
    unseeded = [{"method": "a", "seed": "", "value": 3.0}, {"method": "b", "seed": "", "value": 1.0}]
    found = told(unseeded)
    assert (found.effect, found.seeds, found.verdict) == (2.0, 1, "not decidable")
    assert found.why.startswith("one number")
    assert told(unseeded, once=True).verdict == "holds"
    assert told(unseeded, once=True, margin=2.5).verdict == "does not hold"


def test_the_best_of_several_is_chosen_on_other_seeds(told):
    scores = seeds("a", [5.0, 5.0, 5.0]) + seeds("b", [9.0, 1.0, 1.0]) + seeds("c", [2.0, 3.0, 4.0])
    found = told(scores, second={"method": ["b", "c"]}, take={"worst": "method"})
    assert found.effect == pytest.approx(np.mean([3.0, 4.0, 4.0]))  # as `evidence.best_elsewhere` has it: 2, 1, 1
    assert found.chosen == "b or c"


@pytest.mark.parametrize(("level", "said"), [(5.0, "not decidable"), (1.0, "does not hold")])
def test_candidates_without_all_seeds_can_be_refuting_but_not_confirming(told, level, said):
    scores = seeds("a", [level, level + 0.1, level + 0.2]) + seeds("b", [2.0, 2.0, 2.0]) + seeds("c", [1.0])
    found = told(scores, second={"method": ["b", "c"]}, take={"worst": "method"})
    assert (found.verdict, found.low) == (said, -np.inf)
    whole = scores + [{"method": "c", "seed": seed, "value": 1.0} for seed in (1, 2)]
    whole = told(whole, second={"method": ["b", "c"]}, take={"worst": "method"})
    assert whole.verdict == ("holds" if level == 5.0 else said)
    absent = told(scores[:6], second={"method": ["b", "c"]}, take={"worst": "method"})
    assert (absent.verdict, absent.low) == (said, -np.inf)


@pytest.mark.parametrize(
    ("how", "effect"), [("mean", 2.0), ("growth", 1.0), ("last", 3.0), ("range", 2.0), ("best", 3.0), ("worst", 1.0)]
)
def test_columns_are_reduced_in_the_order_of_their_numbers(told, how, effect):
    scores = [row | {"k": k} for k, level in ((10, 3.0), (2, 1.0), (3, 2.0)) for row in seeds("a", [level] * 3)]
    found = told(scores, second=None, take={how: "k"})
    assert found.effect == pytest.approx(effect)


def test_which_family_is_wider(told):
    wide = [row for x in range(10) for row in seeds(f"a{x}", [10.0 * x, 10.0 * x + 1], family="a")]
    scores = wide + [row for x in range(10) for row in seeds(f"b{x}", [float(x), x + 0.5], family="b")]
    sides = {"first": {"family": "a", "members": "method"}, "second": {"family": "b", "members": "method"}}
    found = told(scores, kind="wider", **sides)
    assert (found.verdict, found.effect) == ("holds", pytest.approx(81.0))
    turned = told(scores, kind="wider", first=sides["second"], second=sides["first"])
    assert (turned.verdict, turned.p) == ("does not hold", found.p)


def test_what_is_for_overnight_is_decided_by_overnight(told, tmp_path):
    scores = seeds("a", [12.0, 13.0, 14.0]) + seeds("b", [10.0, 10.0, 10.0])
    found = told(scores, decides="overnight")
    assert (found.verdict, found.effect, found.profile) == ("not decidable", 3.0, "laptop")
    assert found.why.startswith("left to the overnight profile")
    assert told(scores, profile="overnight", decides="overnight").verdict == "holds"
    (tmp_path / "overnight").mkdir()
    table = pd.read_csv(tmp_path / "toy.csv")
    table.assign(value=-table.value).to_csv(tmp_path / "overnight" / "toy.csv", index=False)
    found = told(scores, decides="overnight")
    assert (found.verdict, found.effect, found.profile) == ("does not hold", -3.0, "overnight")


def test_without_csv_or_rows_nothing_is_decided(told):
    found = told(seeds("a", [1.0, 2.0]), name="other")
    assert (found.verdict, found.why) == ("not decidable", "the laptop profile has no toy")
    assert told(seeds("a", [1.0, 2.0])).why == "the laptop profile has no such rows in toy"


def test_rows_that_a_claim_does_not_tell_apart_are_refused(told):
    twice = [row | {"k": k} for k in (1, 2) for row in seeds("a", [1.0, 2.0]) + seeds("b", [0.0, 0.0])]
    with pytest.raises(BadInput, match="claim 'toy': expected one row for each seed, found several for"):
        told(twice)
    with pytest.raises(BadInput, match="claim 'toy': expected a column of its artefact, one of .*; found 'mixture'"):
        told(twice, rows={"mixture": "replay"})
    with pytest.raises(BadInput, match="claim 'toy': take: expected columns that its rows differ in, found tasks"):
        told(seeds("a", [1.0]) + seeds("b", [0.0]), take={"mean": "tasks"})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kind": "better"}, "kind must be one of"),
        ({"marign": 1.0}, "must not contain {'marign'} properties"),
        ({"artefact": None}, "must contain \\['artefact'\\]|artefact"),
        ({"kind": "equal"}, "must contain \\['margin'\\]|margin"),
        ({"kind": "wider"}, "members"),
        ({"compare": "ratio", "second": None}, "second"),
        ({"claim": "{mixture} helps, they say"}, "toy: expected placeholders of each \\(none\\), found 'mixture'"),
    ],
)
def test_a_malformed_entry_is_refused_in_one_sentence(tmp_path, changes, said):
    entry = {key: value for key, value in (ENTRY | changes).items() if value is not None}
    with pytest.raises(BadInput, match=said) as error:
        read(tmp_path, entry)
    assert "claims.yaml" in str(error.value) and "\n" not in str(error.value)


def test_two_claims_of_one_name_and_no_yaml_are_refused(tmp_path):
    with pytest.raises(BadInput, match="expected an id of its own for every claim, found 'toy' twice"):
        read(tmp_path, ENTRY, ENTRY)
    (tmp_path / "claims.yaml").write_text("claims: [")
    with pytest.raises(BadInput, match="expected YAML"):
        manifest.load(tmp_path / "claims.yaml")


def test_an_aim_and_its_floor_ask_the_same_of_two_bounds():
    by = {(claim.id, claim.part): claim for claim in AIMS}
    assert len(by) == 2 * len({claim.id for claim in AIMS})
    for claim in AIMS:
        aim, floor = by[claim.id, "aim"], by[claim.id, "floor"]
        assert replace(aim, part="", margin=0.0) == replace(floor, part="", margin=0.0)
        assert aim.kind == "greater" and aim.margin >= floor.margin


def test_each_makes_a_claim_of_every_combination(tmp_path):
    each = {"mixture": ["replay", "no-replay"], "metric": ["ka", "zs"]}
    found = read(tmp_path, ENTRY | {"each": each, "first": {"method": "a, {mixture}"}, "rows": {"metric": "{metric}"}})
    assert [claim.part for claim in found] == ["replay, ka", "replay, zs", "no-replay, ka", "no-replay, zs"]
    assert found[1].first.where == {"metric": "zs", "method": "a, replay"}
