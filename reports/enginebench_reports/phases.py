"""What the requests at work are in: the prompt, or the answer; what a prompt takes by itself.

Users of a closed loop whose answers are equally long come back together, and their prompts wait for
each other, so that TTFT at n users is that of a burst. What one prompt takes is TTFT shared out
over the prompts that it waited for and itself. Knows nothing of an engine's slots, but how many
answers were under way at once tells them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from enginebench.types import MetricInfo
from enginebench_reports.measured import Ints, Measured

__all__ = ["COLUMNS", "phases"]

COLUMNS: Sequence[MetricInfo] = (
    MetricInfo(
        "prompt_s",
        "s",
        "lower",
        "Time for one prompt: TTFT from the actual send / prompts without a first token then,"
        " this one included, over all requests",
    ),
    MetricInfo(
        "answering_max",
        "requests",
        "neither",
        "Most requests at once that had their first token and not their last",
    ),
)


def phases(measured: Measured) -> Mapping[str, float | None]:
    """All of COLUMNS."""
    answered = measured.answered
    sent, first = measured.sent_ns[answered], measured.first_ns[answered]
    if not len(sent):
        return {"prompt_s": None, "answering_max": None}
    prompts = _under_way(sent, first)
    return {
        "prompt_s": float((first - sent).sum() * 1e-9 / prompts.sum()),
        "answering_max": float(_under_way(first, measured.end_ns[answered]).max()),
    }


def _under_way(begin_ns: Ints, end_ns: Ints) -> Ints:
    """At each beginning, how many have begun and not ended, itself included."""
    at = np.sort(begin_ns)
    begun = np.arange(1, len(at) + 1)
    over = np.minimum(np.searchsorted(np.sort(end_ns), at, side="right"), begun - 1)
    under_way: Ints = begun - over
    return under_way
