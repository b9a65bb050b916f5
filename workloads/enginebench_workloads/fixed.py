"""The `fixed` workload: every prompt and every answer has the same length.

Lengths are exact (token-id prompts, `ignore_eos`) and decoding is greedy, so that two engines do
the same work, and a cell whose lengths come out otherwise is known to be wrong.
"""

from __future__ import annotations

from collections.abc import Sequence

from enginebench.types import Cell, ModelInfo, Option, Request
from enginebench_workloads.answer_fields import JSON_SCHEMA_OPTION, answer_fields
from enginebench_workloads.cell_options import CellOptions, check_context
from enginebench_workloads.demand import LOAD_OPTIONS, due_times, ramped
from enginebench_workloads.prompts import PROMPT_OPTIONS, PromptWriter

__all__ = ["FixedWorkload"]


class FixedWorkload:
    """Prompts of `input_tokens`, answers of exactly `output_tokens`."""

    name = "fixed"
    summary = "Every prompt and every answer of the same length, greedy, nothing shared"
    options: Sequence[Option] = (
        Option("input_tokens", int, 128, "length of every prompt in tokens"),
        Option("output_tokens", int, 64, "length of every answer in tokens"),
        *PROMPT_OPTIONS,
        JSON_SCHEMA_OPTION,
        *LOAD_OPTIONS,
    )

    def requests(self, cell: Cell, model: ModelInfo) -> Sequence[Request]:
        """See `Workload.requests`.

        Raises UsageError for lengths below 1 or beyond the model's context.
        """
        import numpy as np

        chosen = CellOptions.of(self.options, cell)
        length = chosen.integer("input_tokens", least=1)
        answer = chosen.integer("output_tokens", least=1)
        check_context(model, length, answer, "workload fixed")
        writer, rng = PromptWriter(model, chosen), np.random.default_rng(cell.seed)
        fields = answer_fields(chosen)
        return ramped(
            [
                Request(index, writer.prompt(writer.piece(rng, length)), answer, due_s, fields)
                for index, due_s in enumerate(due_times(cell, chosen, answer))
            ],
            cell,
            chosen,
        )
