"""The `shared-prefix` workload: prompts that begin alike, as those of one application do.

Every prompt is the prefix of one of `groups` groups (a system prompt, say) and a rest of its own.
What a prefix cache is worth shows against the same lengths with `shared_share=0`.
"""

from __future__ import annotations

from collections.abc import Sequence

from enginebench.types import Cell, ModelInfo, Option, Request
from enginebench_workloads.answer_fields import JSON_SCHEMA_OPTION, answer_fields
from enginebench_workloads.cell_options import CellOptions, check_context
from enginebench_workloads.demand import LOAD_OPTIONS, due_times, ramped
from enginebench_workloads.prompts import PROMPT_OPTIONS, PromptWriter

__all__ = ["SharedPrefixWorkload"]

PREFIXES_STREAM = 2


class SharedPrefixWorkload:
    """Prompts of `input_tokens`, of which `shared_share` are those of the request's group."""

    name = "shared-prefix"
    summary = "Prompts in groups that share their beginning, the rest fresh"
    options: Sequence[Option] = (
        Option("input_tokens", int, 512, "length of every prompt in tokens"),
        Option("output_tokens", int, 64, "length of every answer in tokens"),
        Option("shared_share", float, 0.5, "share of a prompt that its group has in common, 0..1"),
        Option("groups", int, 4, "how many different beginnings there are"),
        *PROMPT_OPTIONS,
        JSON_SCHEMA_OPTION,
        *LOAD_OPTIONS,
    )

    def requests(self, cell: Cell, model: ModelInfo) -> Sequence[Request]:
        """See `Workload.requests`. Groups take turns at random; warm-up requests are of no group.

        Raises UsageError for lengths, shares or groups that cannot be.
        """
        import numpy as np

        chosen = CellOptions.of(self.options, cell)
        length = chosen.integer("input_tokens", least=1)
        answer = chosen.integer("output_tokens", least=1)
        groups = chosen.integer("groups", least=1)
        shared = round(length * (chosen.number("shared_share", least=0, most=1) or 0.0))
        check_context(model, length, answer, "workload shared-prefix")
        due, writer = due_times(cell, chosen, answer), PromptWriter(model, chosen)
        of_groups = np.random.default_rng([cell.seed, PREFIXES_STREAM])
        prefixes = [writer.piece(of_groups, shared) for _ in range(groups)]
        group = of_groups.integers(0, groups, size=len(due)).tolist()
        rng, warmup = np.random.default_rng(cell.seed), cell.budget.warmup_requests
        fields = answer_fields(chosen)
        return ramped(
            [
                Request(
                    index,
                    writer.prompt(
                        writer.piece(rng, shared) if index < warmup else prefixes[group[index]],
                        writer.piece(rng, length - shared),
                    ),
                    answer,
                    due_s,
                    fields,
                )
                for index, due_s in enumerate(due)
            ],
            cell,
            chosen,
        )
