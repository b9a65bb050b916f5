"""What a step finds out beside its tokens: logprobs of tokens and prompts, and embeddings.

Computed in plain torch where somebody asked, on the way to the host while the next step runs.
Logprobs are those of the model's own logits, whatever was then done to draw a token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from enginebench_openai.protocol import TokenLogprob
from enginebench_paged.transfer import Download

__all__ = ["HEAD_ROWS", "Logprobs", "PromptScores", "Scores", "unit"]

HEAD_ROWS = 256  # logits of a prompt's tokens are made for this many positions at a time


class Logprobs:
    """Logprobs of R tokens and their `count` likeliest rivals, on the way to the host."""

    def __init__(self, logits: Tensor, tokens: Tensor, count: int) -> None:
        """`logits` (R, V), `tokens` (R,) int64."""
        values = logits.float().log_softmax(dim=-1)
        top = values.topk(count, dim=-1)
        rows = tokens[:, None]
        self._ids = Download(torch.cat([rows, top.indices], dim=1))
        self._values = Download(torch.cat([values.gather(1, rows), top.values], dim=1))

    def wait(self) -> list[TokenLogprob]:
        """One for each token, as soon as they are there."""
        return [
            TokenLogprob(ids[0], values[0], tuple(zip(ids[1:], values[1:], strict=True)))
            for ids, values in zip(self._ids.wait(), self._values.wait(), strict=True)
        ]


@dataclass(frozen=True, slots=True)
class PromptScores:
    """Logprobs of consecutive tokens of a prompt, the first of them at position `first`."""

    first: int
    parts: list[Logprobs]

    def wait(self) -> list[TokenLogprob]:
        """All of them."""
        return [score for part in self.parts for score in part.wait()]


@dataclass(frozen=True, slots=True)
class Scores:
    """Of one step. `drawn` is of all tokens drawn, if anybody asked; the others by request id."""

    drawn: Logprobs | None = None
    prompts: Mapping[str, PromptScores] = field(default_factory=dict)
    embeddings: Mapping[str, Download] = field(default_factory=dict)


def unit(vector: Tensor) -> Tensor:
    """The vector in float32, of length 1."""
    return torch.nn.functional.normalize(vector.float(), dim=-1)
