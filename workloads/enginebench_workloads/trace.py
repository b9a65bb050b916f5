"""The `trace` workload: recorded traffic, replayed with its own timing and lengths.

In an open loop (`--rate`) requests come at the recorded times, stretched so that their mean rate is
the one asked for: bursts stay bursts. `--rate 1x` replays them as they were, `2x` twice as fast. In
a closed loop (`--concurrency`) only order and lengths are the trace's. Contents are random tokens;
where the trace says which blocks of prompts were equal, they are equal here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from statistics import fmean
from typing import cast, get_args

from enginebench.errors import UsageError
from enginebench.types import Cell, ModelInfo, Option, Request, WorkloadSpec
from enginebench_workloads.answer_fields import JSON_SCHEMA_OPTION, answer_fields
from enginebench_workloads.cell_options import CellOptions, check_context
from enginebench_workloads.demand import closed_loop_count
from enginebench_workloads.prompts import (
    PROMPT_OPTIONS,
    Piece,
    Prompt,
    PromptWriter,
)
from enginebench_workloads.trace_file import BLOCK_TOKENS, TraceFormat, TraceRow, read_trace

__all__ = ["TraceWorkload"]

AUTO, REFUSE, SKIP = "auto", "refuse", "skip"


class TraceWorkload:
    """Answers are exact (`ignore_eos`) and greedy; prompts of token ids have the exact length."""

    name = "trace"
    summary = "Recorded traffic: Azure CSV, BurstGPT CSV, Mooncake JSONL with its shared prefixes"
    options: Sequence[Option] = (
        Option("file", str, None, "path of the file", required=True),
        Option(
            "format",
            str,
            AUTO,
            "what the file holds; auto: as its first line says",
            choices=(AUTO, *get_args(TraceFormat)),
        ),
        Option("start_s", float, 0.0, "recorded seconds to leave out at the beginning"),
        Option("length_s", float, None, "recorded seconds to take from there (None: all)"),
        Option(
            "too_long",
            str,
            REFUSE,
            "what becomes of requests beyond the model's context: an error, or left out",
            choices=(REFUSE, SKIP),
        ),
        *PROMPT_OPTIONS,
        JSON_SCHEMA_OPTION,
    )

    def recorded_rate_rps(self, spec: WorkloadSpec) -> float:
        """Mean rate of the part that is taken, too long requests included."""
        return _recorded_rate_rps(_cut(CellOptions(self.options, spec.name, spec.options)))

    def requests(self, cell: Cell, model: ModelInfo) -> Sequence[Request]:
        """See `Workload.requests`. Warm-up requests are as long as the first, of other tokens.

        Raises UsageError for the first row that cannot be used.
        """
        chosen = CellOptions.of(self.options, cell)
        cut = _cut(chosen)
        rows = _fitting(cut, chosen, model)
        scribe = _Scribe(PromptWriter(model, chosen), cell.seed)
        warmup = cell.budget.warmup_requests
        warm = [Turn(row, None, 0) for row, _ in zip(_endless(rows), range(warmup), strict=False)]
        turns = [*warm, *_turns(cell, rows, cut)]
        fields = answer_fields(chosen)
        return [
            Request(
                index,
                scribe.prompt(index, turn, alone=index < warmup),
                turn.row.output_tokens,
                turn.due_s,
                fields,
            )
            for index, turn in enumerate(turns)
        ]


@dataclass(frozen=True, slots=True)
class Turn:
    """A row that is sent; in a closed loop the trace may begin again, `lap` after `lap`."""

    row: TraceRow
    due_s: float | None
    lap: int


class _Scribe:
    """Writes prompts: equal blocks of one lap are equal, everything else is fresh."""

    BLOCKS_STREAM, REQUESTS_STREAM = 3, 4

    def __init__(self, writer: PromptWriter, seed: int) -> None:
        self._writer, self._seed = writer, seed
        self._blocks: dict[tuple[int, int], Piece] = {}

    def prompt(self, index: int, turn: Turn, *, alone: bool) -> Prompt:
        """`alone`: shares nothing with any other."""
        length, blocks = turn.row.input_tokens, turn.row.blocks
        if blocks is None or alone:
            return self._writer.prompt(self._drawn(self.REQUESTS_STREAM, index, 0, length))
        *whole, last = (self._block(turn.lap, block) for block in blocks)
        return self._writer.prompt(*whole, last[: length - BLOCK_TOKENS * len(whole)])

    def _block(self, lap: int, block: int) -> Piece:
        key = (lap, block)
        if key not in self._blocks:
            self._blocks[key] = self._drawn(self.BLOCKS_STREAM, lap, block, BLOCK_TOKENS)
        return self._blocks[key]

    def _drawn(self, stream: int, first: int, second: int, length: int) -> Piece:
        import numpy as np

        rng = np.random.default_rng([self._seed, stream, first, second])
        return self._writer.piece(rng, length)


def _cut(chosen: CellOptions) -> Sequence[TraceRow]:
    named, path = chosen.text("format"), Path(chosen.text("file"))
    rows = read_trace(path, None if named == AUTO else cast(TraceFormat, named))
    start_s = chosen.number("start_s", least=0) or 0.0
    length_s = chosen.number("length_s", least=0)
    begin_s = rows[0].at_s + start_s
    end_s = float("inf") if length_s is None else begin_s + length_s
    taken = [row for row in rows if begin_s <= row.at_s < end_s]
    if not taken:
        whole_s = rows[-1].at_s - rows[0].at_s
        raise UsageError(
            f"{path} has no request from {start_s:g} s on"
            + (f" for {length_s:g} s" if length_s is not None else "")
            + f"; it is {whole_s:g} s long"
        )
    return taken


def _fitting(rows: Sequence[TraceRow], chosen: CellOptions, model: ModelInfo) -> Sequence[TraceRow]:
    context = model.context_length
    fitting = [
        row for row in rows if context is None or row.input_tokens + row.output_tokens <= context
    ]
    if chosen.text("too_long") == SKIP and fitting:
        return fitting
    for row in rows:
        where = f"{chosen.text('file')}:{row.line}"
        check_context(
            model, row.input_tokens, row.output_tokens, f"{where} (or set trace.too_long=skip)"
        )
    return rows


def _turns(cell: Cell, rows: Sequence[TraceRow], cut: Sequence[TraceRow]) -> Iterator[Turn]:
    """The measured requests; `cut` is what the recorded rate is that of."""
    rate_rps, budget = cell.load.rate_rps, cell.budget
    if rate_rps is None:
        needed = closed_loop_count(cell, fmean(row.output_tokens for row in rows))
        return islice((Turn(row, None, lap) for lap in count() for row in rows), needed)
    stretch = _recorded_rate_rps(cut) / rate_rps
    begin_s = cut[0].at_s
    turns = (Turn(row, (row.at_s - begin_s) * stretch, 0) for row in rows)
    end_s = budget.duration_s
    in_time = (turn for turn in turns if end_s is None or (turn.due_s or 0.0) < end_s)
    return islice(in_time, budget.requests)


def _recorded_rate_rps(rows: Sequence[TraceRow]) -> float:
    span_s = rows[-1].at_s - rows[0].at_s
    if span_s <= 0:
        raise UsageError(
            "the part of the trace that is taken has no two requests at different times, and so no "
            "rate: take more of it (trace.length_s), or use --concurrency"
        )
    return (len(rows) - 1) / span_s


def _endless(rows: Sequence[TraceRow]) -> Iterator[TraceRow]:
    while True:
        yield from rows
