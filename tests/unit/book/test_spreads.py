"""Spreads of families: subsets counted out, equal families not told apart, and a planted difference found."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from clipmerge.book.spreads import wider
from clipmerge.errors import BadInput
from clipmerge.study.claims.evidence import mean_range


def family(generator, members, sd, seeds=3, noise=0.3):
    """Members that differ by `sd`, a row each, with seeds in columns that differ by `noise`."""
    own = generator.normal(0, sd, (members, 1))
    return pd.DataFrame(own + generator.normal(0, noise, (members, seeds)))


def test_the_mean_range_is_that_over_all_subsets():
    values = np.random.default_rng(0).normal(size=(6, 2))
    for size in range(2, 7):
        ranges = [np.ptp(values[list(some)], axis=0) for some in combinations(range(6), size)]
        np.testing.assert_allclose(mean_range(values, size), np.mean(ranges, axis=0))
    by_hand = np.array([[0.0], [1.0], [5.0]])  # ranges of pairs: 1, 5, 4
    assert mean_range(by_hand, 2) == pytest.approx(10 / 3)


def test_being_many_is_not_being_wide():
    few = pd.DataFrame({0: [0.0, 1.0, 2.0], 1: [0.0, 1.1, 2.2]})
    many = pd.concat([few] * 4)
    line = wider("many", many, few)
    assert line["verdict"] == "not decidable"
    assert float(line["difference"].split(" ±")[0]) <= 0


def test_families_alike_are_told_apart_at_most_once_in_twenty():
    """Also where one is larger, or lies elsewhere as a whole, or shares what a seed does to all."""
    generator = np.random.default_rng(0)
    coins, decided = 2_000, []
    for coin in range(coins):
        sizes = [(4, 4), (11, 4), (5, 8), (6, 6)][coin % 4]
        first, second = (family(generator, size, sd=1.0) for size in sizes)
        decided.append(wider("", first + 3, second + generator.normal(0, 2, 3))["verdict"] != "not decidable")
    assert np.mean(decided) <= stats.binom.ppf(0.999, coins, 0.05) / coins


@pytest.mark.parametrize(("sizes", "often"), [((11, 6), 0.6), ((11, 11), 0.95)])
def test_a_family_five_times_as_wide_is_found(sizes, often):
    """Nearly always among 22 members; among 17 in two cases of three, which is what so few can show."""
    generator = np.random.default_rng(0)
    pairs = [(family(generator, sizes[0], 5.0), family(generator, sizes[1], 1.0)) for _ in range(100)]
    assert np.mean([wider("", *pair)["verdict"] == "holds" for pair in pairs]) >= often
    assert np.mean([wider("", *pair[::-1])["verdict"] == "does not hold" for pair in pairs]) >= often


def test_order_of_members_and_families():
    generator = np.random.default_rng(1)
    first, second = family(generator, 8, 5.0), family(generator, 5, 1.0)
    line = wider("cells", first, second)
    turned = wider("cells", second, first)
    assert line["difference"].split()[0] == turned["difference"].split()[0].removeprefix("-")
    assert wider("cells", first, second) == line


def test_a_line_of_the_table():
    second = pd.DataFrame({0: [float(x) for x in range(10)], 1: [float(x) for x in range(10)]})
    first = 10 * second
    first[1] += 1
    first[2] = np.nan  # a seed that only one of them has
    line = wider("wider", first, second)
    assert list(line) == ["claim", "difference", "95 %", "seeds", "verdict"]
    assert line["difference"] == "81.0 ± 0.0 points"
    assert line["seeds"] == 2
    assert 0 < float(line["95 %"].removeprefix("p = ")) <= 0.05
    assert line["verdict"] == "holds"


def test_families_without_seeds_or_members():
    one = pd.DataFrame({0: [1.0]})
    assert wider("", one, one)["verdict"] == "not decidable"
    with pytest.raises(BadInput, match="'apart': expected seeds that both families have, found \\[0\\] and \\[1\\]"):
        wider("apart", one, one.rename(columns={0: 1}))
