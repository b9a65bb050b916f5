"""The gate: whether the current arm is slower than the baseline, by how much, and how sure that is.

Every figure at every place is one comparison of paired runs. Its slowdown (how much worse: positive
for less throughput and for more latency) has a lower bound, below which it lies with the
probability of a false alarm at most (Holm over all comparisons), and an upper bound, above which it
lies with the probability of a miss at most. From these, with the limit of `--fail-over`:

                                   below the limit     may reach the limit
    may be nothing (low <= 0)      pass                inconclusive
    real (low > 0)                 pass, and said so   regression

The whole check is invalid if anything about it is, else a regression if any comparison is one, else
inconclusive if any is, else a pass. What this costs in pairs, and the error rates measured, stand
in `docs/gate.md`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from scipy.special import ndtri

from enginebench.errors import UsageError
from enginebench.gate import GateRules, LooksTaken, Verdict
from enginebench.results import ResultSet
from enginebench.types import MetricInfo
from enginebench_reports import gate_validity
from enginebench_reports.compare import chosen_metrics
from enginebench_reports.compare_arms import (
    Match,
    Pairs,
    Place,
    arm_of,
    match,
    metric_infos,
    pairs_of,
)
from enginebench_reports.interval import FEWEST_PAIRS
from enginebench_reports.stats import bootstrap_interval, log_ratios, ratio, t_interval
from enginebench_reports.stats_family import Step, holm
from enginebench_reports.stats_sequential import Looks

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["DEFAULT_METRICS", "Finding", "GateJudgement", "assess", "judge"]

DEFAULT_METRICS = ("output_tokens_per_s", "tpot_s_p50", "ttft_s_p50")

Outcome = Literal["pass", "regression", "inconclusive"]


@dataclass(frozen=True, slots=True)
class Assessed:
    """The statistics of one comparison; slowdowns as shares: 0.03 is 3% worse, -0.03 better.

    `interval` is the plain 95% interval of the pairs; the verdict rests on `low` and `high` alone.
    """

    outcome: Outcome
    slowdown: float
    low: float
    high: float
    p_adjusted: float
    interval: tuple[float, float]
    pairs_needed: int | None


@dataclass(frozen=True, slots=True, eq=False)
class Finding:
    """One figure at one place, judged."""

    place: Place
    metric: MetricInfo
    limit: float
    pairs: Sequence[tuple[float, float]]
    assessed: Assessed

    @property
    def baseline(self) -> float:
        """Geometric mean."""
        return math.exp(math.fsum(math.log(one) for one, _ in self.pairs) / len(self.pairs))

    @property
    def current(self) -> float:
        """Geometric mean."""
        return math.exp(math.fsum(math.log(other) for _, other in self.pairs) / len(self.pairs))

    @property
    def bootstrap(self) -> tuple[float, float] | None:
        """A second opinion on the 95% interval, which assumes no shape of the noise."""
        found = bootstrap_interval(_slowdowns(self.metric, self.pairs), 0.95)
        return (math.expm1(found[0]), math.expm1(found[1])) if found else None


@dataclass(frozen=True, slots=True, eq=False)
class GateJudgement:
    """Implements `enginebench.gate.Judgement`; the documents are drawn by `gate_documents`."""

    rules: GateRules
    findings: Sequence[Finding]
    reasons: Sequence[str]
    notes: Sequence[str]

    @property
    def verdict(self) -> Verdict:
        outcomes = {finding.assessed.outcome for finding in self.findings}
        if self.reasons:
            return "invalid"
        if "regression" in outcomes:
            return "regression"
        return "inconclusive" if "inconclusive" in outcomes else "pass"

    @property
    def headline(self) -> str:
        from enginebench_reports.gate_documents import headline

        return headline(self)

    @property
    def pairs_needed(self) -> int | None:
        needed = [finding.assessed.pairs_needed for finding in self.findings]
        return max((pairs for pairs in needed if pairs is not None), default=None)

    def table(self) -> RenderableType:
        from enginebench_reports.gate_documents import table

        return table(self)

    def markdown(self) -> str:
        from enginebench_reports.gate_documents import markdown

        return markdown(self)

    def junit(self) -> str:
        from enginebench_reports.gate_documents import junit

        return junit(self)

    def json(self) -> str:
        from enginebench_reports.gate_documents import json_text

        return json_text(self)


def judge(
    baseline: ResultSet, current: ResultSet, rules: GateRules, looks: LooksTaken | None = None
) -> GateJudgement:
    """See `enginebench.gate.Gate`."""
    first, second = arm_of("baseline", baseline), arm_of("current", current)
    known = metric_infos()
    chosen = chosen_metrics(_metric_names(rules, known), known, directed=True)
    found = match(first, second)
    if not found.both:
        raise UsageError(
            "baseline and current have no cell in common: model, hardware, workload with its "
            "options, load and budget must be equal. `bench compare` lists what each holds"
        )
    reasons = [
        *gate_validity.reasons(
            first, second, found, allow_machine_mismatch=rules.allow_machine_mismatch
        )
    ]
    pairs = _all_pairs(found, chosen)
    reasons += _missing(pairs, rules)
    judged = [each for each in pairs if each.values]
    findings = _findings(judged, rules, looks)
    notes = [*gate_validity.notes(first, second, found), *_unmeasured(pairs, rules)]
    return GateJudgement(rules, findings, reasons, notes)


def assess(
    slowdowns: Sequence[Looks], limits: Sequence[float], rules: GateRules
) -> Sequence[Assessed]:
    """The statistics alone: log-slowdowns of a family of comparisons, and the limit of each.

    Comparisons of fewer than three pairs are inconclusive and do not count in the family.
    """
    enough = [place for place, looks in enumerate(slowdowns) if len(looks.logs) >= FEWEST_PAIRS]
    p_values = [slowdowns[place].p_above(0.0) for place in enough]
    steps = dict(zip(enough, holm(p_values, rules.false_alarms), strict=True))
    return [
        _assess_one(looks, math.log1p(limit), steps.get(place), rules)
        for place, (looks, limit) in enumerate(zip(slowdowns, limits, strict=True))
    ]


def _assess_one(looks: Looks, limit: float, step: Step | None, rules: GateRules) -> Assessed:
    seen = looks.logs[: looks.sizes[-1]]
    low, high = -math.inf, math.inf
    if step is not None:
        low, high = looks.lower_bound(step.level), looks.upper_bound(rules.missed)
    is_real = step is not None and step.is_rejected
    outcome = _outcome(is_real, low, high, limit)
    plain = t_interval(seen, 0.95)
    return Assessed(
        outcome,
        ratio(seen) - 1,
        math.expm1(low),
        math.expm1(high),
        step.p_adjusted if step else 1.0,
        (math.expm1(plain[0]), math.expm1(plain[1])),
        _pairs_needed(looks, limit, step, rules) if outcome == "inconclusive" else None,
    )


def _outcome(is_real: bool, low: float, high: float, limit: float) -> Outcome:
    if low > high:  # earlier and later pairs contradict each other: the machine changed
        return "inconclusive"
    if high < limit:
        return "pass"
    return "regression" if is_real else "inconclusive"


def _pairs_needed(looks: Looks, limit: float, step: Step | None, rules: GateRules) -> int | None:
    """How many pairs of this scatter tell 0 from the limit (normal approximation)."""
    if step is None:
        return FEWEST_PAIRS + 1
    mean = math.fsum(looks.logs) / len(looks.logs)
    variance = math.fsum((log - mean) ** 2 for log in looks.logs) / (len(looks.logs) - 1)
    z = -(ndtri(step.level / looks.shares) + ndtri(rules.missed / looks.shares))
    return max(len(looks.logs) + 1, math.ceil(variance * (float(z) / limit) ** 2))


def _metric_names(rules: GateRules, known: Mapping[str, MetricInfo]) -> Sequence[str]:
    names = rules.metrics
    if names is None:
        names = tuple(name for name in DEFAULT_METRICS if name in known)
    for name in rules.fail_over_of:
        if name not in names:
            raise UsageError(
                f"--fail-over {name}=...: {name} is not judged, only {', '.join(names)}; add it to "
                "--metrics"
            )
    return names


def _all_pairs(found: Match, chosen: Sequence[MetricInfo]) -> Sequence[Pairs]:
    return [
        pairs_of(place, metric, cells) for place, cells in found.both.items() for metric in chosen
    ]


def _missing(pairs: Sequence[Pairs], rules: GateRules) -> Iterator[str]:
    """Figures that some cells have and others lack, and metrics asked for that none has."""
    measured = {each.metric.name for each in pairs if each.values}
    asked = set(rules.metrics or ())
    if not measured:
        yield "no cell has any of the figures that are judged"
    for each in pairs:
        if each.missing and each.metric.name in measured | asked:
            yield (
                f"{each.place}: {each.missing} of {each.missing + len(each.values)} pairs have no "
                f"{each.metric.name} above zero in both arms; longer cells may help"
            )


def _unmeasured(pairs: Sequence[Pairs], rules: GateRules) -> Iterator[str]:
    """Of the default metrics, those that do not exist in these Runs."""
    measured = {each.metric.name for each in pairs if each.values}
    names = dict.fromkeys(each.metric.name for each in pairs)
    for name in names:
        if name not in measured and rules.metrics is None:
            yield f"{name} was not judged: no cell of either arm has it"


def _findings(
    pairs: Sequence[Pairs], rules: GateRules, taken: LooksTaken | None
) -> Sequence[Finding]:
    slowdowns = [_looks(_slowdowns(each.metric, each.values), taken) for each in pairs]
    limits = [rules.limit(each.metric.name) for each in pairs]
    return [
        Finding(each.place, each.metric, limit, each.values[: looks.sizes[-1]], assessed)
        for each, looks, limit, assessed in zip(
            pairs, slowdowns, limits, assess(slowdowns, limits, rules), strict=True
        )
    ]


def _slowdowns(metric: MetricInfo, pairs: Sequence[tuple[float, float]]) -> Sequence[float]:
    """Logarithms; positive is worse."""
    logs = log_ratios(pairs)
    return logs if metric.better == "lower" else [-log for log in logs]


def _looks(logs: Sequence[float], taken: LooksTaken | None) -> Looks:
    if taken is None:
        return Looks.once(logs)
    sizes = tuple(dict.fromkeys(min(size, len(logs)) for size in taken.pairs))
    return Looks(tuple(logs), sizes, taken.planned)
