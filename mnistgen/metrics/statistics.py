"""Statistics of a few repetitions: t-intervals, paired t-tests, Holm's correction, and the pairs that a test needs."""

import bisect
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from mnistgen.errors import UsageError

LEVEL = 0.05  # of the tests, and one less the confidence of the intervals
POWER = 0.8  # at which the number of pairs is given
MOST_PAIRS = 100_000
ROUNDING = 1e-12  # differences that differ by no more are equal


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


def t_interval(values: Sequence[float], *, within: tuple[float, float] = (-math.inf, math.inf)) -> Interval:
    """mean +- t s / sqrt(n), t the 97.5% quantile at n - 1 degrees of freedom (Student 1908).

    It is cut to `within`, where every mean lies, (0, 1) for an accuracy: that takes nothing from its coverage.
    """
    if not (n := len(values)):
        raise UsageError("There is no mean of no values.")
    mean = float(np.mean(values))
    if n == 1:
        return Interval(mean, None, None, n)
    half = float(special.stdtrit(n - 1, 1 - LEVEL / 2) * np.std(values, ddof=1) / math.sqrt(n))
    return Interval(mean, max(mean - half, within[0]), min(mean + half, within[1]), n)


def paired(ours: Sequence[float], theirs: Sequence[float]) -> Paired:
    """ours - theirs, pair by pair. Differences that are all equal are certain: p is 0, or 1 where they are zero."""
    differences = np.subtract(ours, theirs)
    interval = t_interval(differences.tolist())
    if interval.n == 1:
        return Paired(interval, 0.0, None)
    spread = float(np.std(differences, ddof=1))
    if spread <= ROUNDING:
        return Paired(interval, 0.0, float(abs(interval.mean) <= ROUNDING))
    t = interval.mean / (spread / math.sqrt(interval.n))
    return Paired(interval, spread, float(2 * special.stdtr(interval.n - 1, -abs(t))))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's (1979) correction of the m tests of a family: p_(i) becomes max over j <= i of (m - j + 1) p_(j), at most
    1."""
    order = np.argsort(p, kind="stable")
    corrected = np.empty(len(p))
    corrected[order] = np.maximum.accumulate(np.arange(len(p), 0, -1) * np.asarray(p)[order]).clip(max=1.0)
    return list(map(float, corrected))


def power(n: int, spread: float, effect: float) -> float:
    """How often a paired t-test of n pairs finds a difference of `effect`, by the noncentral t distribution."""
    critical = special.stdtrit(n - 1, 1 - LEVEL / 2)
    shift = abs(effect) / spread * math.sqrt(n)
    return float(1 - special.nctdtr(n - 1, shift, critical) + special.nctdtr(n - 1, shift, -critical))


def pairs_needed(spread: float, effect: float) -> int | None:
    """The least number of pairs that find a difference with a power of 80%; None where that is more than 100,000."""
    if spread <= 0 or effect == 0:
        return 2 if effect else None
    enough = 2
    while power(enough, spread, effect) < POWER:
        enough *= 2
        if enough > MOST_PAIRS:
            return None
    return bisect.bisect_left(range(enough), True, lo=enough // 2, key=lambda n: power(n, spread, effect) >= POWER)
