"""Draws the next tokens of a batch; what each request asked for lies on the device, by slot.

Order: penalties, then temperature and the filters (see `kernels.reference.sample`). Penalties need
to know what was said so far: counts by slot and token, made when the first request asks for a
penalty, so that nobody else pays for them.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from enginebench_openai.protocol import SamplingParams
from enginebench_paged.kernels import ops, reference
from enginebench_paged.sequence import Sequence
from enginebench_paged.transfer import upload

__all__ = ["Sampler"]


@dataclass(frozen=True, slots=True)
class _Said:
    """What penalties are computed from, (slots, vocab_size): tokens generated, tokens prompted."""

    counts: Tensor  # int32
    prompted: Tensor  # bool


class Sampler:
    """Sampling parameters and penalty counts of every slot."""

    def __init__(self, max_batch: int, vocab_size: int, device: torch.device) -> None:
        slots = max_batch + 1  # the last one is nobody's, see tables.BlockTables
        self._shape, self._device = (slots, vocab_size), device
        # temperature, top_p, min_p, repetition, presence, frequency
        self._floats = torch.zeros((6, slots), dtype=torch.float32, device=device)
        self._top_k = torch.zeros(slots, dtype=torch.int32, device=device)
        self._seeds = torch.zeros(slots, dtype=torch.int64, device=device)
        self._said: _Said | None = None
        self._penalized = [False] * slots

    def admit(self, sequences: Seq[Sequence]) -> None:
        """Sequences that were given slots in this step bring parameters and history."""
        slots = [sequence.slot for sequence in sequences]
        rows = [_floats(sequence.request.sampling) for sequence in sequences]
        integers = [slots, [s.request.sampling.top_k or 0 for s in sequences]]
        integers.append([sequence.seed for sequence in sequences])
        where, top_k, seeds = upload(np.array(integers, np.int64), self._device)
        self._floats[:, where] = upload(np.array(rows, np.float32), self._device).T
        self._top_k[where] = top_k.to(torch.int32)
        self._seeds[where] = seeds
        for sequence in sequences:
            assert sequence.slot is not None
            self._penalized[sequence.slot] = sequence.is_penalized
            if self._penalized[sequence.slot]:
                self._recall(sequence)

    def wants_penalties(self, slots: Seq[int]) -> bool:
        """Whether any of them needs `sample_penalized`."""
        return any(self._penalized[slot] for slot in slots)

    def sample(
        self, logits: Tensor, slots: Tensor, positions: Tensor, *, plain: bool = False
    ) -> Tensor:
        """A token (S,) for each row of logits (S, V); can be captured in a graph.

        `plain`: in torch on any device, for logits that hold -inf.
        """
        draw = reference.sample if plain else ops.sample
        heat, top_p, min_p = self._floats[:3].index_select(1, slots)
        return draw(logits, heat, self._top_k[slots], top_p, min_p, self._seeds[slots], positions)

    def sample_penalized(
        self, logits: Tensor, slots: Tensor, positions: Tensor, *, plain: bool = False
    ) -> Tensor:
        """The same with penalties, remembering what was drawn."""
        said = self._history()
        counts = said.counts[slots]
        repetition, presence, frequency = self._floats[3:, slots, None]
        values = logits.float()
        scaled = torch.where(values > 0, values / repetition, values * repetition)
        values = torch.where((counts > 0) | said.prompted[slots], scaled, values)
        values = values - frequency * counts - presence * (counts > 0)
        tokens = self.sample(values, slots, positions, plain=plain)
        said.counts[slots, tokens] += 1
        return tokens

    def _recall(self, sequence: Sequence) -> None:
        """Count the tokens of a sequence that starts, or starts again after a preemption."""
        said, slot = self._history(), sequence.slot
        said.counts[slot] = 0
        said.prompted[slot] = False
        tokens = upload(np.array(sequence.tokens, np.int64), self._device)
        prompt, generated = tokens[: sequence.prompt_length], tokens[sequence.prompt_length :]
        said.prompted[slot, prompt] = True
        said.counts[slot].index_add_(0, generated, torch.ones_like(generated, dtype=torch.int32))

    def _history(self) -> _Said:
        if self._said is None:
            self._said = _Said(
                torch.zeros(self._shape, dtype=torch.int32, device=self._device),
                torch.zeros(self._shape, dtype=torch.bool, device=self._device),
            )
        return self._said


def _floats(sampling: SamplingParams) -> tuple[float, ...]:
    return (
        sampling.temperature,
        sampling.top_p,
        sampling.min_p,
        sampling.repetition_penalty,
        sampling.presence_penalty,
        sampling.frequency_penalty,
    )
