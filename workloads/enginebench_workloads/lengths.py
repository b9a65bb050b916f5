"""The `lengths` workload: prompts and answers whose lengths vary, as those of real users do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from enginebench.errors import UsageError
from enginebench.types import Cell, ModelInfo, Option, Request
from enginebench_workloads.answer_fields import JSON_SCHEMA_OPTION, answer_fields
from enginebench_workloads.cell_options import CellOptions
from enginebench_workloads.demand import LOAD_OPTIONS, due_times, ramped
from enginebench_workloads.distribution import WRITTEN, Distribution
from enginebench_workloads.prompts import PROMPT_OPTIONS, PromptWriter

if TYPE_CHECKING:
    import numpy as np

__all__ = ["LengthsWorkload"]

MOST_TRIES = 200


class LengthsWorkload:
    """Lengths are drawn for each request; what is drawn is then exact, as in `fixed`."""

    name = "lengths"
    summary = "Prompts and answers of random lengths: uniform, normal or lognormal"
    options: Sequence[Option] = (
        Option("input_tokens", str, "lognormal:256:192", f"lengths of prompts: {WRITTEN}"),
        Option("output_tokens", str, "lognormal:128:96", f"lengths of answers: {WRITTEN}"),
        *PROMPT_OPTIONS,
        JSON_SCHEMA_OPTION,
        *LOAD_OPTIONS,
    )

    def requests(self, cell: Cell, model: ModelInfo) -> Sequence[Request]:
        """See `Workload.requests`. The model's context cuts off the longest.

        Raises UsageError for distributions that cannot be read or hardly ever fit the context.
        """
        import numpy as np

        chosen = CellOptions.of(self.options, cell)
        inputs, outputs = chosen.distribution("input_tokens"), chosen.distribution("output_tokens")
        due = due_times(cell, chosen, outputs.mean)
        rng, writer = np.random.default_rng(cell.seed), PromptWriter(model, chosen)
        pairs = _pairs(rng, inputs, outputs, len(due), model)
        fields = answer_fields(chosen)
        return ramped(
            [
                Request(index, writer.prompt(writer.piece(rng, length)), answer, at_s, fields)
                for index, ((length, answer), at_s) in enumerate(zip(pairs, due, strict=True))
            ],
            cell,
            chosen,
        )


def _pairs(
    rng: np.random.Generator,
    inputs: Distribution,
    outputs: Distribution,
    count: int,
    model: ModelInfo,
) -> list[tuple[int, int]]:
    """Prompt and answer lengths. A pair with one below 1, or that does not fit, is drawn anew."""
    most, kept = model.context_length or math.inf, list[tuple[int, int]]()
    for _ in range(MOST_TRIES):
        size = max(count, 64)
        drawn = zip(inputs.draw(rng, size), outputs.draw(rng, size), strict=True)
        kept += [(a, b) for a, b in drawn if a >= 1 and b >= 1 and a + b <= most]
        if len(kept) >= count:
            return kept[:count]
    raise UsageError(
        f"workload lengths: hardly any prompt and answer fit {model.name}'s context of {most} "
        "tokens together: lower lengths.input_tokens or lengths.output_tokens"
    )
