"""Whole steps as CUDA graphs, one for each bucket of sizes.

A graph holds everything from the ids that the last step left on the device to the newly sampled
ones: attention over the block tables, logits and sampling. Launching it costs one call instead of
hundreds. Rows beyond the step's own are padded: they belong to the spare slot and store nothing.

Decode graphs are for steps of one token a sequence, which all sample. Mixed graphs take any step of
so many tokens: its decodes go through the kernel that also does the prefills, which does not split
contexts, so steps that decode long ones are left to be launched kernel by kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from enginebench_paged.config import PagedConfig
from enginebench_paged.inputs import Sizes, StepInputs, device_views, host_views
from enginebench_paged.staging import fill, pad
from enginebench_paged.step import StepPlan

__all__ = ["StepGraphs", "decode_buckets", "mixed_buckets", "mixed_sizes"]

_LONGEST_UNSPLIT = 4096  # tokens of context


class Forward(Protocol):
    """Logits and ids of a step, from device tensors alone."""

    def __call__(self, x: StepInputs[Tensor]) -> tuple[Tensor, Tensor]: ...


def decode_buckets(max_batch: int) -> list[int]:
    """1, 2, 4, then steps of 8 up to 64, of 16 up to 256, of 64 beyond; last, max_batch."""
    sizes = [1, 2, 4, *range(8, 64, 8), *range(64, 256, 16), *range(256, max_batch, 64)]
    return [size for size in sizes if size < max_batch] + [max_batch]


def mixed_buckets(step_tokens: int, *, small: bool = False) -> list[int]:
    """Steps of 128 up to 1024, of 256 up to 2048, of 512 beyond; the last is step_tokens. With
    `small` ones below 128 too, for steps that verify the guesses of a few sequences.
    """
    sizes = [8, 16, 32, 64] if small else []
    sizes += [*range(128, 1024, 128), *range(1024, 2048, 256), *range(2048, step_tokens, 512)]
    return [size for size in sizes if size < step_tokens] + [step_tokens]


def mixed_sizes(config: PagedConfig) -> list[Sizes]:
    """Of the mixed graphs: room for any step of so many tokens."""
    if not config.chunked_prefill:
        return []
    batch, rows = config.max_batch, config.sampled_rows
    return [
        Sizes(size, min(size, batch), min(size, rows), decodes=0, max_query_len=size)
        for size in mixed_buckets(config.step_tokens, small=config.speculative_tokens is not None)
    ]


@dataclass(frozen=True, slots=True)
class Captured:
    """One graph and the memory that it works on."""

    graph: torch.cuda.CUDAGraph
    packed: Tensor  # device memory that the graph reads its inputs from
    inputs: StepInputs[Tensor]
    logits: Tensor
    ids: Tensor


class StepGraphs:
    """Captures all buckets when made, largest first, so that the others share its memory."""

    def __init__(self, config: PagedConfig, forward: Forward) -> None:
        self._spare_slot, self._device, self._forward = config.max_batch, config.device, forward
        self._pool: Any = None  # torch's handle has no public type
        self._mixed = [self._capture(sizes) for sizes in reversed(mixed_sizes(config))][::-1]
        self._decode = [
            self._capture(Sizes(size, size, size, decodes=size))
            for size in reversed(decode_buckets(config.max_batch))
        ][::-1]

    def find(self, sizes: Sizes, block_size: int) -> Captured | None:
        """The smallest graph that can run a step of these sizes."""
        if sizes.all_sampled:
            graphs = self._decode
        elif sizes.decodes and sizes.width * block_size > _LONGEST_UNSPLIT:
            return None
        else:
            graphs = self._mixed
        return next((one for one in graphs if one.inputs.sizes.tokens >= sizes.tokens), None)

    def run(
        self,
        captured: Captured,
        plan: StepPlan,
        sizes: Sizes,
        tables: NDArray[np.int32],
        block_size: int,
    ) -> tuple[StepInputs[Tensor], Tensor, Tensor]:
        """Replay a graph that was found: its inputs, logits and ids, cut to size."""
        host = torch.empty(captured.packed.shape, dtype=torch.int64, pin_memory=True)
        views = host_views(host.numpy(), captured.inputs.sizes)
        fill(views, plan, tables, block_size)
        pad(views, sizes, self._spare_slot)
        captured.packed.copy_(host, non_blocking=True)
        captured.graph.replay()
        used = _leading(captured.inputs, sizes)
        return used, captured.logits[: sizes.samples], captured.ids[: sizes.samples]

    @torch.inference_mode()
    def _capture(self, sizes: Sizes) -> Captured:
        host = np.zeros(sizes.words, np.int64)
        pad(host_views(host, sizes), Sizes(0, 0, 0, 0), self._spare_slot)
        packed = torch.from_numpy(host).to(self._device)
        inputs = device_views(packed, sizes)
        self._warm_up(lambda: self._forward(inputs))
        graph = torch.cuda.CUDAGraph()
        # other threads may ask the device meanwhile: the one that watches over NCCL does
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            logits, ids = self._forward(inputs)
        self._pool = graph.pool()
        return Captured(graph, packed, inputs, logits, ids)

    def _warm_up(self, run: Callable[[], object]) -> None:
        """Once outside the graph: kernels are compiled, and libraries take their workspaces."""
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            run()
        torch.cuda.current_stream(self._device).wait_stream(stream)


def _leading(x: StepInputs[Tensor], sizes: Sizes) -> StepInputs[Tensor]:
    """What sampling anew needs of the rows in use."""
    slots, positions = x.sample_slots[: sizes.samples], x.sample_positions[: sizes.samples]
    return replace(x, sizes=sizes, sample_slots=slots, sample_positions=positions)
