"""What a request is, on the device: everything that varies between replays of a CUDA graph."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["MAX_CHUNK_TOKENS", "MAX_ROWS", "State"]

MAX_CHUNK_TOKENS = 512
MAX_ROWS = 4  # tokens whose weights are read once in a step


@dataclass(frozen=True, slots=True)
class State:
    """Where the sequence is, and how its next token is chosen."""

    token_and_position: Tensor  # (2,) i32: the last token, and its position
    rows: Tensor  # (MAX_ROWS,) i32: the tokens of a step of several
    positions: Tensor  # (MAX_ROWS,) i32: theirs
    span: Tensor  # (2,) i32: first position and count of the chunk
    chunk: Tensor  # (MAX_CHUNK_TOKENS,) i32
    settings: Tensor  # (4,) f32: temperature, repetition, presence, frequency penalty
    filters: Tensor  # (3,) f32: top-k, top-p, min-p
    bar: Tensor  # (1,) f32: scaled logits below it are out
    seed: Tensor  # (1,) i64
    seen: Tensor  # (V,) i32: 1 for tokens of the context
    counts: Tensor  # (V,) i32: how often each was generated

    @classmethod
    def empty(cls, vocab_size: int, device: torch.device) -> State:
        """A request of nothing."""

        def zeros(size: int, dtype: torch.dtype) -> Tensor:
            return torch.zeros(size, dtype=dtype, device=device)

        return cls(
            token_and_position=zeros(2, torch.int32),
            rows=zeros(MAX_ROWS, torch.int32),
            positions=zeros(MAX_ROWS, torch.int32),
            span=zeros(2, torch.int32),
            chunk=zeros(MAX_CHUNK_TOKENS, torch.int32),
            settings=torch.tensor([0.0, 1.0, 0.0, 0.0], device=device),
            filters=torch.tensor([0.0, 1.0, 0.0], device=device),
            bar=torch.full((1,), -torch.inf, device=device),
            seed=zeros(1, torch.int64),
            seen=zeros(vocab_size, torch.int32),
            counts=zeros(vocab_size, torch.int32),
        )
