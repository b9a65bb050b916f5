"""Looking at the data several times without fooling oneself: alpha spending by equal shares.

Whoever tests after every few pairs and stops at the first "significant" one raises false alarms far
more often than the level says. Here the number of looks is bounded in advance, and each look
may use up an equal share of the level: with K looks, each tests at level / K. By the union bound
the chance that *any* look errs is at most the level, whatever the correlation between looks, for
every sample size (Student's t is exact for normal noise), and for every reason to stop early. The
price against the exact Pocock boundary, which equal shares approach, is small: for 8 looks at 1% in
all, 0.125% a look instead of about 0.2%.

The same holds for bounds: the largest lower bound seen at any look is a lower bound at the level in
all, and never falls again, so that a verdict once reached stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from enginebench_reports.stats import lower_bound, p_above, p_below, upper_bound

__all__ = ["Looks"]


@dataclass(frozen=True, slots=True)
class Looks:
    """The log-ratios of a comparison, as seen after each number of pairs in `sizes`.

    `shares` is how many looks were planned at most; the level is split into so many parts.
    """

    logs: tuple[float, ...]
    sizes: tuple[int, ...]
    shares: int

    def __post_init__(self) -> None:
        if not 1 <= len(self.sizes) <= self.shares:
            raise ValueError(f"{len(self.sizes)} looks, planned were 1 to {self.shares}")
        if any(not 1 <= size <= len(self.logs) for size in self.sizes):
            raise ValueError(f"looks {self.sizes} at {len(self.logs)} pairs")

    @classmethod
    def once(cls, logs: Sequence[float]) -> Looks:
        """All pairs, one look, the whole level: a comparison whose size was fixed beforehand."""
        return cls(tuple(logs), (len(logs),), 1)

    def p_above(self, limit: float) -> float:
        """Against "the mean is at most `limit`": valid whenever one stopped, and why."""
        return min(1.0, self.shares * min(p_above(seen, limit) for seen in self._seen))

    def p_below(self, limit: float) -> float:
        """Against "the mean is at least `limit`"."""
        return min(1.0, self.shares * min(p_below(seen, limit) for seen in self._seen))

    def lower_bound(self, level: float) -> float:
        """Above the mean with probability `level` at most, over all looks together."""
        return max(lower_bound(seen, level / self.shares) for seen in self._seen)

    def upper_bound(self, level: float) -> float:
        """Below the mean with probability `level` at most, over all looks together."""
        return min(upper_bound(seen, level / self.shares) for seen in self._seen)

    @property
    def _seen(self) -> Sequence[tuple[float, ...]]:
        return [self.logs[:size] for size in self.sizes]
