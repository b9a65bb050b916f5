"""The `dataset` workload: the prompts of a local file, as text or chats."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, cast, get_args

from enginebench.types import Cell, Message, ModelInfo, Option, Request
from enginebench_workloads.answer_fields import JSON_SCHEMA_OPTION, answer_fields
from enginebench_workloads.cell_options import CellOptions
from enginebench_workloads.data_file import bad_row
from enginebench_workloads.dataset_file import Format, Row, read_dataset
from enginebench_workloads.demand import LOAD_OPTIONS, conversation_starts, due_times, ramped
from enginebench_workloads.dialogue import Turn, as_requests
from enginebench_workloads.prompts import Prompt
from enginebench_workloads.thinking import THINK_OPTIONS, Thinking

if TYPE_CHECKING:
    import numpy as np

__all__ = ["DatasetWorkload"]

AUTO = "auto"
THINKING_STREAM = 1


class DatasetWorkload:
    """Rows come in random order, each once before any comes again.

    Where a cell needs more requests than there are rows, rows come again, and a prefix cache may
    know them: the metric `cached_prompt_share` tells.
    """

    name = "dataset"
    summary = "Prompts from a file: ShareGPT-style JSON, JSONL with prompt or messages, plain text"
    options: Sequence[Option] = (
        Option("file", str, None, "path of the file", required=True),
        Option(
            "format",
            str,
            AUTO,
            "what the file holds; auto: as its first character says ([, { or another)",
            choices=(AUTO, *get_args(Format)),
        ),
        Option("output_tokens", int, 128, "longest answer, where a row has no max_tokens"),
        Option("ignore_eos", bool, False, "make every answer just as long as allowed"),
        Option(
            "route",
            str,
            "chat",
            "which API is used; completions takes only rows that are text",
            choices=("chat", "completions"),
        ),
        Option(
            "multi_turn",
            bool,
            False,
            "ask the later turns too, each after the real answer to the one before",
        ),
        *THINK_OPTIONS,
        JSON_SCHEMA_OPTION,
        *LOAD_OPTIONS,
    )

    def requests(self, cell: Cell, model: ModelInfo) -> Sequence[Request]:
        """See `Workload.requests`. Raises UsageError for the first row that cannot be used."""
        import numpy as np

        chosen = CellOptions.of(self.options, cell)
        longest = chosen.integer("output_tokens", least=1)
        path, named = Path(chosen.text("file")), chosen.text("format")
        rows = read_dataset(path, None if named == AUTO else cast(Format, named))
        as_chat = chosen.text("route") == "chat"
        body = answer_fields(chosen, exact=chosen.truth("ignore_eos"))
        order = _shuffled(np.random.default_rng(cell.seed), len(rows))
        if chosen.truth("multi_turn"):
            if not as_chat:
                raise chosen.bad("multi_turn", "turns need a chat: set dataset.route=chat")
            turns = fmean(1 + len(row.later) for row in rows)
            starts = conversation_starts(cell, chosen, longest, turns)
            drawn = _conversations(cell, chosen, rows, order)
            return ramped(list(as_requests(drawn, starts, body)), cell, chosen)
        prompts = [_prompt(row, path, as_chat) for row in rows]
        return ramped(
            [
                Request(index, prompts[at], rows[at].max_tokens or longest, due_s, body)
                for index, (due_s, at) in enumerate(
                    zip(due_times(cell, chosen, longest), order, strict=False)
                )
            ],
            cell,
            chosen,
        )


def _prompt(row: Row, path: Path, as_chat: bool) -> Prompt:
    if isinstance(row.prompt, str):
        return (Message("user", row.prompt),) if as_chat else row.prompt
    if as_chat:
        return row.prompt
    if len(row.prompt) > 1 or row.prompt[0].role != "user":
        raise bad_row(path, row.line, "messages need a chat: set dataset.route=chat")
    return row.prompt[0].content


def _conversations(
    cell: Cell, chosen: CellOptions, rows: Sequence[Row], order: Iterator[int]
) -> Iterator[Sequence[Turn]]:
    """The rows in that order; the warm-up ones end after a turn."""
    import numpy as np

    path, longest = Path(chosen.text("file")), chosen.integer("output_tokens", least=1)
    rng, thinking = np.random.default_rng([cell.seed, THINKING_STREAM]), Thinking.of(chosen)
    for number, at in enumerate(order):
        row = rows[at]
        first = cast(tuple[Message, ...], _prompt(row, path, as_chat=True))
        said = [first, *(() if number < cell.budget.warmup_requests else row.later)]
        pauses_s = thinking.draw(rng, len(said))
        yield [
            Turn(messages, row.max_tokens or longest, pause_s)
            for messages, pause_s in zip(said, pauses_s, strict=True)
        ]


def _shuffled(rng: np.random.Generator, count: int) -> Iterator[int]:
    while True:
        yield from rng.permutation(count).tolist()
