"""Reads prompts' hidden states: logprobs of prompt tokens, and embeddings of whole prompts.

A step that holds such a prompt computes the hidden states of all its tokens. Logits of a prompt are
made a few rows at a time, since all at once could take more memory than the model. A mean is summed
over the steps that computed the prompt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from enginebench_paged.inputs import StepInputs
from enginebench_paged.scores import HEAD_ROWS, Logprobs, PromptScores, Scores, unit
from enginebench_paged.step import Piece, StepPlan
from enginebench_paged.transfer import Download, upload

__all__ = ["PromptReader", "every_row", "reads_prompt"]


def reads_prompt(piece: Piece) -> bool:
    """Whether the hidden states of its positions are asked for."""
    sequence = piece.sequence
    return sequence.needs_all_positions and piece.start < sequence.prompt_length


def every_row(x: StepInputs[Tensor]) -> StepInputs[Tensor]:
    """The same step with every token's row asked for."""
    rows = torch.arange(x.sizes.tokens, device=x.positions.device)
    return replace(x, sizes=replace(x.sizes, samples=x.sizes.tokens), sample_rows=rows)


class PromptReader:
    """`head` makes logits (R, V) of hidden states (R, hidden)."""

    def __init__(self, head: Callable[[Tensor], Tensor], device: torch.device) -> None:
        self._head, self._device = head, device
        self._sums: dict[str, Tensor] = {}  # of prompts to be embedded that are not done

    def read(self, plan: StepPlan, hidden: Tensor) -> Scores:
        """What the step says about prompts; `hidden` (T, hidden) is of all its tokens."""
        prompts: dict[str, PromptScores] = {}
        embeddings: dict[str, Download] = {}
        end = 0
        for piece in plan.pieces:
            rows, end = hidden[end : end + piece.length], end + piece.length
            if not reads_prompt(piece):
                continue
            request = piece.sequence.request
            if request.prompt_logprobs is not None:
                prompts[request.request_id] = self._score(piece, rows, request.prompt_logprobs)
            elif (embedded := self._embed(piece, rows)) is not None:
                embeddings[request.request_id] = Download(embedded)
        return Scores(prompts=prompts, embeddings=embeddings)

    def forget(self, request_id: str) -> None:
        """The request is gone."""
        self._sums.pop(request_id, None)

    def _score(self, piece: Piece, rows: Tensor, count: int) -> PromptScores:
        """Each row says how likely the token after it was; the prompt's last has none after it."""
        first = piece.start + 1
        following = piece.sequence.request.prompt[first : first + piece.length]
        tokens = upload(np.array(following, np.int64), self._device)
        parts = []
        for at in range(0, len(tokens), HEAD_ROWS):
            some = tokens[at : at + HEAD_ROWS]
            parts.append(Logprobs(self._head(rows[at : at + len(some)]), some, count))
        return PromptScores(first, parts)

    def _embed(self, piece: Piece, rows: Tensor) -> Tensor | None:
        """The embedding, if this step has computed the last of the prompt."""
        name = piece.sequence.request.request_id
        if piece.sequence.request.pooling == "last":
            return unit(rows[-1]) if piece.samples else None
        total = rows.float().sum(dim=0)
        if piece.start:
            total += self._sums[name]
        if not piece.samples:
            self._sums[name] = total
            return None
        self._sums.pop(name, None)
        return unit(total)
