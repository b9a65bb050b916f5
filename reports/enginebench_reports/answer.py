"""The sentences that a report opens with, computed from the cells that may be believed.

For each group of comparable cells: who gives more throughput at the highest load that engines
share, who answers faster at the lowest, where the lead changes, who needs less memory. An
interval, in brackets, is given where there are enough repeats, and always for a crossover; a
difference whose interval holds 1, or that is under 3% without one, is called a tie.
Engine names stand in backticks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from enginebench_reports.crossover import crossovers
from enginebench_reports.groups import Group, curve, groups, without_null
from enginebench_reports.interval import Ratio, paired_ratio
from enginebench_reports.quantities import amount, quantity

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Answer", "answers", "no_answer"]

TIE = 1.03
WORTH_SAYING = 1.25
THROUGHPUT, TPOT, TTFT = "output_tokens_per_s", "tpot_s_p50", "ttft_s_p50"
MEMORY = {"peak_gpu_memory_bytes": "GPU memory", "peak_rss_bytes": "memory"}


@dataclass(frozen=True, slots=True)
class Answer:
    """What one group says, the most important sentence first."""

    group: Group
    sentences: Sequence[str]

    @property
    def text(self) -> str:
        return " ".join(self.sentences)


@dataclass(frozen=True, slots=True)
class Lead:
    """The best engine at a load and the next, and how far apart they are (better / worse > 1)."""

    best: str
    second: str
    ratio: Ratio
    best_value: float
    second_value: float

    @property
    def is_tie(self) -> bool:
        if self.ratio.low is None:
            return self.ratio.value < TIE
        return not self.ratio.is_clear

    @property
    def times(self) -> str:
        low, high = self.ratio.low, self.ratio.high
        bounds = f" [{_short(low)}-{_short(high)}]" if low is not None and high is not None else ""
        return f"{_short(self.ratio.value)}x{bounds}"


def answers(frame: pd.DataFrame) -> Sequence[Answer]:
    """One for each group with any figures, those that compare most engines first.

    `frame` holds believable cells only.
    """
    found = [
        Answer(group, said) for group in groups(without_null(frame)) if (said := _sentences(group))
    ]
    return sorted(found, key=lambda answer: -len(_contenders(answer.group)))


def no_answer(frame: pd.DataFrame) -> str:
    """What to say where `answers` is empty; `frame` holds all cells."""
    if frame.empty:
        return "This Run holds no cells, so there is nothing to say."
    states = frame["state"].value_counts()
    parts = [f"{count} {state}" for state, count in states.items()]
    return f"No figure can be quoted: of {len(frame)} cells, {', '.join(parts)} (reasons below)."


def _sentences(group: Group) -> Sequence[str]:
    names = _contenders(group)
    if len(names) > 1:
        contest = [_contest(group, names), _memory(group, names)]
        if contest[0]:
            return [sentence for sentence in contest if sentence]
    return [_alone(group, name) for name in names]


def _contenders(group: Group) -> Sequence[str]:
    """Labels with any throughput."""
    return [label for label in group.labels if curve(group, label, THROUGHPUT)]


def _alone(group: Group, name: str) -> str:
    """One engine: its own figures at the highest and lowest load."""
    throughput = curve(group, name, THROUGHPUT)
    tpot = {point.load: point.median for point in curve(group, name, TPOT)}
    clauses = []
    for point in {throughput[-1].load: throughput[-1], throughput[0].load: throughput[0]}.values():
        pace = f" (TPOT {quantity(tpot[point.load], 's')})" if point.load in tpot else ""
        clauses.append(
            f"{amount(point.median)} output tokens/s at {group.load_text(point.load)}{pace}"
        )
    return f"`{name}` gives {' and '.join(clauses)}."


def _contest(group: Group, names: Sequence[str]) -> str:
    loads = [load for load in group.loads if _lead(group, names, THROUGHPUT, load, "higher")]
    if not loads:
        return ""
    top = _lead(group, names, THROUGHPUT, loads[-1], "higher")
    assert top is not None
    clauses = [_throughput_clause(group, top, loads[-1])]
    if loads[0] != loads[-1]:
        clauses.extend(_latency_clause(group, names, loads[0], top))
        clauses.extend(_crossover_clause(group, top))
    said = "; ".join(clauses)
    return f"{said[0].upper()}{said[1:]}."


def _throughput_clause(group: Group, lead: Lead, load: float) -> str:
    at = f"at {group.load_text(load)}"
    if lead.is_tie:
        bounds = f" ({lead.times})" if lead.ratio.low is not None else ""
        return f"{at}, `{lead.best}` and `{lead.second}` give the same output tokens/s{bounds}"
    return f"`{lead.best}` gives {lead.times} the output tokens/s of `{lead.second}` {at}"


def _latency_clause(group: Group, names: Sequence[str], load: float, top: Lead) -> Iterator[str]:
    lead, metric = _lead(group, names, TPOT, load, "lower"), "TPOT"
    if lead is None:
        lead, metric = _lead(group, names, TTFT, load, "lower"), "TTFT"
    if lead is None:
        return
    values = f"{quantity(lead.best_value, 's')} against {quantity(lead.second_value, 's')}"
    if lead.is_tie:
        both = f"`{lead.best}` and `{lead.second}`"
        yield f"at {load:g}, {both} are equally quick ({metric} {values})"
        return
    also = " too" if lead.best == top.best and not top.is_tie else ""
    than = "" if {lead.best, lead.second} == {top.best, top.second} else f" than `{lead.second}`"
    yield f"at {load:g}, `{lead.best}` answers {lead.times} faster{than}{also} ({metric} {values})"


def _crossover_clause(group: Group, top: Lead) -> Iterator[str]:
    changes = crossovers(group, top.best, top.second, THROUGHPUT)
    if changes and not top.is_tie:
        yield (
            f"`{top.best}` overtakes in throughput at about {changes[0].text}"
            if (len(changes) == 1)
            else f"the lead in throughput changes {len(changes)} times"
        )


def _memory(group: Group, names: Sequence[str]) -> str:
    """Who needs least at its peak over all loads, when that is less by a quarter at least."""
    for metric, words in MEMORY.items():
        curves = {name: curve(group, name, metric) for name in names}
        peaks = {name: max(p.high for p in points) for name, points in curves.items() if points}
        ranked = sorted((peak, name) for name, peak in peaks.items() if peak > 0)
        if len(ranked) < 2:
            continue
        (least, best), (next_least, second) = ranked[:2]
        ratio = next_least / least
        if ratio < WORTH_SAYING:
            return ""
        values = f"{quantity(least, 'bytes')} against {quantity(next_least, 'bytes')}"
        return f"`{best}` needs {_short(ratio)}x less {words} than `{second}` ({values})."
    return ""


def _lead(
    group: Group,
    names: Sequence[str],
    metric: str,
    load: float,
    better: Literal["higher", "lower"],
) -> Lead | None:
    """The two best engines at a load; None if fewer than two have a positive figure."""
    medians = {
        name: point.median
        for name in names
        for point in curve(group, name, metric)
        if point.load == load
    }
    ranked = sorted(
        (name for name in medians if medians[name] > 0),
        key=lambda name: medians[name],
        reverse=better == "higher",
    )
    if len(ranked) < 2:
        return None
    best, second = ranked[:2]
    ahead, behind = (best, second) if better == "higher" else (second, best)
    pairs = _pairs(group, ahead, behind, metric, load)
    middle = Ratio(medians[ahead] / medians[behind])
    ratio = paired_ratio(pairs) if pairs else middle
    return Lead(
        best, second, ratio if ratio.low is not None else middle, medians[best], medians[second]
    )


def _pairs(
    group: Group, first: str, second: str, metric: str, load: float
) -> Sequence[tuple[float, float]]:
    """Figures of both engines from the same repeat of the same run."""
    rows = group.frame[group.frame[group.load_column] == load]
    rows = rows[rows[metric].notna() & (rows[metric] > 0)]
    keyed = {
        name: rows[rows["label"] == name].set_index(["run", "repeat"])[metric].to_dict()
        for name in (first, second)
    }
    shared = [key for key in keyed[first] if key in keyed[second]]
    return [(float(keyed[first][key]), float(keyed[second][key])) for key in shared]


def _short(ratio: float) -> str:
    """1.06, 1.8, 24."""
    return f"{ratio:.2f}" if ratio < 1.1 else f"{ratio:.1f}" if ratio < 9.95 else f"{ratio:.0f}"
