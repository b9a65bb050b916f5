"""Many comparisons at once: Holm's step-down correction of p-values.

With 20 comparisons at 1% each, one false alarm in five runs is to be expected. Holm (1979, "A
simple sequentially rejective multiple test procedure") keeps the chance of *any* false alarm in the
family at the level, whatever the dependence between comparisons, and is never weaker than
Bonferroni.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Step", "holm"]


@dataclass(frozen=True, slots=True)
class Step:
    """What Holm says of one comparison.

    `p_adjusted` may be held against the family's level; `level` is what the plain p-value was held
    against, so that an interval at that level excludes the null just when it `is_rejected`.
    """

    is_rejected: bool
    p_adjusted: float
    level: float


def holm(p_values: Sequence[float], level: float) -> Sequence[Step]:
    """One step for each p-value, in their order."""
    count = len(p_values)
    steps: dict[int, Step] = {}
    highest, open_level = 0.0, None
    for rank, place in enumerate(sorted(range(count), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, p_values[place] * (count - rank)))
        if open_level is None and highest > level:
            open_level = level / (count - rank)
        held = level / (count - rank) if open_level is None else open_level
        steps[place] = Step(open_level is None, highest, held)
    return [steps[place] for place in range(count)]
