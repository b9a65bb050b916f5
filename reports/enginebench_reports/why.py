"""What each technique of an engine is worth: cells with everything on beside cells without one.

Found in any Run that holds both, whoever planned them: an engine with some options, and the same
engine with one switch more, which is off. Techniques help one another, so that their shares do not
add up to the whole: what is lost without one is what it adds to all the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from enginebench.plugins import PluginManager
from enginebench.results import ResultSet
from enginebench.types import OptionValue
from enginebench_reports.compare import Contrast, chosen_metrics, compare
from enginebench_reports.compare_arms import Arm, Place, arm_of, arms_by_engine, metric_infos

__all__ = ["METRICS", "Ablation", "Loss", "ablations"]

METRICS = ("output_tokens_per_s", "ttft_s_p50", "tpot_s_p50")

Spec = tuple[str, Mapping[str, OptionValue]]


@dataclass(frozen=True, slots=True, eq=False)
class Loss:
    """How the figures change without a technique: from all of them on (first) to without it."""

    technique: str
    contrasts: Sequence[Contrast]

    def at(self, place: Place, metric: str) -> Contrast | None:
        """The contrast of a metric at a place; None where one of the two has no figure."""
        for contrast in self.contrasts:
            if contrast.pairs.metric.name == metric and contrast.pairs.place == place:
                return contrast
        return None


@dataclass(frozen=True, slots=True, eq=False)
class Ablation:
    """An engine (with its options) and what it loses without each technique, most first."""

    engine: str
    losses: Sequence[Loss]

    @property
    def places(self) -> Sequence[Place]:
        """Where it was measured, in order."""
        found = (each.pairs.place for loss in self.losses for each in loss.contrasts)
        return list(dict.fromkeys(found))


def ablations(results: ResultSet, manager: PluginManager | None = None) -> Sequence[Ablation]:
    """Every engine in `results` that was also measured without single switches."""
    arms = [(arm, _spec(arm)) for arm in arms_by_engine(arm_of("", results, manager))]
    metrics = chosen_metrics(METRICS, metric_infos(manager))
    found = []
    for base, spec in arms:
        losses = [
            Loss(switch, compare(base, arm, metrics).contrasts)
            for arm, other in arms
            for switch in _missing(spec, other)
        ]
        if losses:
            found.append(Ablation(base.name, sorted(losses, key=_throughput_kept)))
    return found


def _spec(arm: Arm) -> Spec:
    cell = next(iter(arm.cells.values()))[0].result.cell
    return cell.spec.engine, cell.spec.options


def _missing(base: Spec, other: Spec) -> Iterator[str]:
    """The switch that is off in `other` and does not stand in `base`, if that is all."""
    if base[0] != other[0]:
        return
    more = other[1].keys() - base[1].keys()
    same = all(other[1].get(name) == value for name, value in base[1].items())
    if same and len(more) == 1 and other[1][next(iter(more))] is False:
        yield next(iter(more))


def _throughput_kept(loss: Loss) -> float:
    """The least share of its output tokens/s that the engine keeps anywhere."""
    kept = [
        each.change for each in loss.contrasts if each.pairs.metric.name == "output_tokens_per_s"
    ]
    return min(kept, default=0.0)
