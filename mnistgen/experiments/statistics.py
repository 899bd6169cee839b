"""The few statistics that a study needs: t-intervals, paired tests, Holm's correction, and how many pairs it takes."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from mnistgen.errors import UsageError
from mnistgen.experiments.recipe import LEVEL, POWER

MOST_PAIRS = 100_000


class Interval(NamedTuple):
    """A mean and its t-interval; of one value, no interval is known."""

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def half(self) -> float:
        """Half the width; infinite where there is no interval."""
        return math.inf if self.low is None or self.high is None else (self.high - self.low) / 2


class Paired(NamedTuple):
    """The mean difference of pairs."""

    interval: Interval
    spread: float  # standard deviation of the differences
    p: float | None  # of the two-sided paired t-test; None of one pair


def t_interval(
    values: Sequence[float], level: float = LEVEL, *, within: tuple[float, float] = (-math.inf, math.inf)
) -> Interval:
    """mean +- t s / sqrt(n), t the 1 - level / 2 quantile at n - 1 degrees of freedom (Student 1908).

    It is cut to `within`, where every mean lies, (0, 1) for an accuracy: that takes nothing from its coverage.
    """
    n = len(values)
    if not n:
        raise UsageError("There is no mean of no values.")
    mean = float(np.mean(values))
    if n == 1:
        return Interval(mean, None, None, n)
    half = float(stats.t.ppf(1 - level / 2, n - 1) * np.std(values, ddof=1) / math.sqrt(n))
    return Interval(mean, max(mean - half, within[0]), min(mean + half, within[1]), n)


def paired(ours: Sequence[float], theirs: Sequence[float], level: float = LEVEL) -> Paired:
    """ours - theirs, pair by pair. Differences that are all equal are certain: p is 0, or 1 where they are zero."""
    differences = np.subtract(ours, theirs)
    interval = t_interval(differences.tolist(), level)
    n = len(differences)
    if n == 1:
        return Paired(interval, 0.0, None)
    spread = float(np.std(differences, ddof=1))
    if spread <= 1e-12:  # rounding alone
        return Paired(interval, 0.0, float(abs(interval.mean) <= 1e-12))
    t = interval.mean / (spread / math.sqrt(n))
    return Paired(interval, spread, float(2 * stats.t.sf(abs(t), n - 1)))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's (1979) correction of the m tests of a family: p_(i) becomes max over j <= i of (m - j + 1) p_(j), at most
    1."""
    m = len(p)
    corrected, largest = [0.0] * m, 0.0
    for rank, index in enumerate(sorted(range(m), key=lambda i: p[i])):
        largest = max(largest, (m - rank) * p[index])
        corrected[index] = min(1.0, largest)
    return corrected


def power(n: int, spread: float, effect: float, level: float = LEVEL) -> float:
    """How often a paired t-test of n pairs finds a difference of `effect`, by the noncentral t distribution."""
    critical = stats.t.ppf(1 - level / 2, n - 1)
    shift = abs(effect) / spread * math.sqrt(n)
    return float(stats.nct.sf(critical, n - 1, shift) + stats.nct.cdf(-critical, n - 1, shift))


def pairs_needed(spread: float, effect: float, *, level: float = LEVEL, wanted: float = POWER) -> int | None:
    """The least number of pairs with a power of `wanted`; None where that is more than 100,000."""
    if spread <= 0 or effect == 0:
        return 2 if effect else None
    low, high = 1, 2
    while power(high, spread, effect, level) < wanted:
        low, high = high, 2 * high
        if high > MOST_PAIRS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle, spread, effect, level) >= wanted else (middle, high)
    return high
