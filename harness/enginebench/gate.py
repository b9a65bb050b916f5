"""What `bench check` and the plugin that judges agree on: rules, verdicts, documents.

The harness measures both arms (or is given their Runs) and asks the plugin's Gate for a Judgement
through the hook `enginebench_gate`. It computes no statistics itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from enginebench.results import ResultSet

__all__ = ["EXIT_CODES", "Gate", "GateRules", "Judgement", "LooksTaken", "Verdict"]

Verdict = Literal["pass", "regression", "inconclusive", "invalid"]
EXIT_CODES: Mapping[Verdict, int] = {"pass": 0, "regression": 1, "inconclusive": 3, "invalid": 4}
"""2 stays for wrong usage: nothing was judged then."""


@dataclass(frozen=True, slots=True)
class GateRules:
    """What is judged and how strictly; shares, not percents: 0.03 is 3%.

    A slowdown of `fail_over` (of `fail_over_of[metric]` where given) must not pass. A check of two
    equal arms fails with probability `false_alarms` at most, all comparisons together; one with
    such a slowdown passes with probability `missed` at most. `metrics` None: the judge chooses.
    """

    fail_over: float = 0.03
    fail_over_of: Mapping[str, float] = field(default_factory=dict)
    metrics: tuple[str, ...] | None = None
    false_alarms: float = 0.01
    missed: float = 0.05
    allow_machine_mismatch: bool = False

    def limit(self, metric: str) -> float:
        """The slowdown of `metric` that must not pass."""
        return self.fail_over_of.get(metric, self.fail_over)


@dataclass(frozen=True, slots=True)
class LooksTaken:
    """After how many pairs the data was looked at, the present look included, in order.

    `planned` is how many looks there may be at most: whoever may look eight times must be
    stricter each time.
    """

    pairs: tuple[int, ...]
    planned: int


class Judgement(Protocol):
    """A verdict with its reasons, and every document that tells of it."""

    @property
    def verdict(self) -> Verdict: ...

    @property
    def headline(self) -> str:
        """The verdict in one sentence."""
        ...

    @property
    def pairs_needed(self) -> int | None:
        """About how many pairs would settle what is not settled yet; None: nothing is open."""
        ...

    def table(self) -> RenderableType:
        """For the terminal."""
        ...

    def markdown(self) -> str:
        """For a job summary or a comment."""
        ...

    def junit(self) -> str:
        """JUnit XML, one test case for each comparison."""
        ...

    def json(self) -> str:
        """Everything, for machines."""
        ...


@runtime_checkable
class Gate(Protocol):
    """Judges whether the current arm is slower than the baseline."""

    def judge(
        self,
        baseline: ResultSet,
        current: ResultSet,
        rules: GateRules,
        looks: LooksTaken | None = None,
    ) -> Judgement:
        """Repeats are paired in order. Without `looks` this is the only look at the data.

        Raises UsageError when the arms have nothing in common, or a metric is unknown.
        """
        ...
