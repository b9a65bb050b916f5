"""Whether an engine computes its model: its answers to the fixed questions beside the reference's.

Two greedy answers share their context until they differ, so what can be compared is the tokens up
to there and the first that differs: the share that agrees is the top-1 agreement of the two
engines on equal contexts. It stays high between honest precisions (docs/measuring.md has figures),
whose texts are soon altogether different, and falls to nothing where something is broken. First
tokens (the prompt's own computation) and later ones (decoding, one by one) are told apart, since
each can be broken alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from enginebench.answers import Answer
from enginebench.results import CellResult
from enginebench.types import Cell, MetricInfo, Numerics
from enginebench_reports.shared_prefixes import common_length

__all__ = ["COLUMNS", "Reference", "agreement", "reference_of", "type_bits"]

NEAR_TIE_NATS = 0.1
"""Where the reference gives both tokens logprobs this close, either is right."""
Told = Mapping[str | tuple[int, ...], Answer]
"""Answers by prompt."""
FEWEST = 8
"""Comparable answers below which nothing is said."""

COLUMNS: Sequence[MetricInfo] = (
    MetricInfo(
        "answer_agreement_share",
        "share",
        "higher",
        "Tokens of the fixed answers that equal the reference's, of those with equal context",
    ),
    MetricInfo(
        "answer_first_token_share",
        "share",
        "higher",
        "The same, of first tokens: what the prompt alone leads to",
    ),
    MetricInfo(
        "answer_decode_share", "share", "higher", "The same, of later tokens: decoded one by one"
    ),
    MetricInfo(
        "answer_logprob_distance",
        "nats",
        "lower",
        "Mean distance of the logprobs of the reference's first tokens, where both offer them",
    ),
)


@dataclass(frozen=True, slots=True)
class Reference:
    """Whose answers are held to be right: `label` is the engine with its options."""

    label: str
    answers: Told


@dataclass(slots=True)
class _Tally:
    """Positions with equal context, by whether the tokens agreed."""

    agreed: int = 0
    differed: int = 0

    @property
    def share(self) -> float | None:
        total = self.agreed + self.differed
        return self.agreed / total if total >= FEWEST else None


def agreement(cell: CellResult) -> Mapping[str, float | None]:
    """All of COLUMNS; None for the reference itself and where there is nothing to compare."""
    figures: dict[str, float | None] = dict.fromkeys(column.name for column in COLUMNS)
    answers, reference = cell.answers, reference_of(cell)
    if answers is None or reference is None:
        return figures
    pairs = [
        (expected, found)
        for question, found in zip(answers.questions, answers.answers, strict=True)
        if (expected := reference.answers.get(question.prompt)) and found.error is None
    ]
    first, later = _Tally(), _Tally()
    for expected, found in pairs:
        _count(expected, found, first, later)
    both = _Tally(first.agreed + later.agreed, first.differed + later.differed)
    return figures | {
        "answer_agreement_share": both.share,
        "answer_first_token_share": first.share,
        "answer_decode_share": later.share,
        "answer_logprob_distance": _logprob_distance(pairs),
    }


def reference_of(cell: CellResult) -> Reference | None:
    """The engine of the same Run and model that `cell` is held against; None if that is itself.

    The one that the plan names; else one that declares itself a reference; else the highest
    precision, of equal ones the first.
    """
    asked = list(_asked(cell))
    if not asked:
        return None
    named = cell.run.settings.reference
    chosen = [each for each in asked if each[0].spec.engine == named] or (
        sorted(asked, key=lambda each: _rank(each[1]), reverse=True) if named is None else []
    )
    if not chosen or chosen[0][0].spec == cell.cell.spec:
        return None
    best, _, answers = chosen[0]
    return Reference(best.spec.label, answers)


def _asked(cell: CellResult) -> Iterator[tuple[Cell, Numerics, Told]]:
    """The first sealed cell of each spec on this model that answered, and what it told."""
    seen = []
    for other in cell.run.plan.cells:
        if other.spec.model != cell.cell.spec.model or other.spec in seen:
            continue
        folder = cell.run.folder / "cells" / other.id
        try:
            sealed_ns = (folder / "status.json").stat().st_mtime_ns
        except FileNotFoundError:
            continue
        numerics, told = _read(folder, sealed_ns)
        if len(told) >= FEWEST:
            seen.append(other.spec)
            yield other, numerics, told


@lru_cache(maxsize=1024)
def _read(folder: Path, sealed_ns: int) -> tuple[Numerics, Told]:
    """The precision and the answers of a sealed cell; kept until it is sealed anew."""
    from enginebench.cell_folder import CellFolder

    place = CellFolder(folder)
    found = place.answers()
    pairs = zip(found.questions, found.answers, strict=True) if found else ()
    told = {
        question.prompt: answer
        for question, answer in pairs
        if answer.error is None and answer.text
    }
    return place.status().numerics or Numerics(), told


def _rank(numerics: Numerics) -> tuple[bool, int, int]:
    return numerics.is_reference, type_bits(numerics.weights), type_bits(numerics.compute)


def type_bits(type_name: str | None) -> int:
    """32 of `f32`, 4 of `q4_k`; 0 of what is unknown."""
    found = re.search(r"\d+", type_name or "")
    return int(found[0]) if found else 0


def _count(expected: Answer, found: Answer, first: _Tally, later: _Tally) -> None:
    if not found.text:  # it ended at once, where the reference had something to say
        first.differed += 1
        return
    common = common_length(expected.text, found.text)
    agreed = _whole_pieces(expected, common)
    first.agreed += min(agreed, 1)
    later.agreed += max(agreed - 1, 0)
    if common in (len(expected.text), len(found.text)) or _is_near_tie(expected, found, agreed):
        return  # one ends where the other goes on, or either was right
    tally = later if agreed else first
    tally.differed += 1


def _whole_pieces(answer: Answer, length: int) -> int:
    """How many pieces lie in the first `length` characters."""
    ends, total = 0, 0
    for piece in answer.pieces:
        total += len(piece)
        ends += total <= length
    return ends


def _is_near_tie(expected: Answer, found: Answer, place: int) -> bool:
    if place >= min(len(expected.logprobs), len(expected.pieces), len(found.pieces)):
        return False
    likely = expected.logprobs[place]
    mine, other = likely.get(expected.pieces[place]), likely.get(found.pieces[place])
    return mine is not None and other is not None and mine - other < NEAR_TIE_NATS


def _logprob_distance(pairs: Sequence[tuple[Answer, Answer]]) -> float | None:
    distances = [
        abs(expected.logprobs[0][token] - found.logprobs[0][token])
        for expected, found in pairs
        if expected.logprobs and found.logprobs and expected.pieces
        if (token := expected.pieces[0]) in expected.logprobs[0] and token in found.logprobs[0]
    ]
    return sum(distances) / len(distances) if len(distances) >= FEWEST else None
