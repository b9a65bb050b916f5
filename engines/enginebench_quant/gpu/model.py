"""A model ready to run on one device: weights, program, and on a GPU its CUDA graphs.

    runner = GpuModel(open_model("smollm2-135m"), context=4096, device=torch.device("cuda", 0))
    runner.begin([1, 2, 3], SamplingParams(temperature=0))
    runner.prefill([1, 2, 3], position=0)
    ticket = runner.choose()
    runner.token(ticket)

Calls queue work and return; only `token` waits. One sequence at a time. Which tokens are worth
keeping, and when to stop, is the engine's business.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from enginebench_models import Model
from enginebench_openai.protocol import SamplingParams
from enginebench_quant.gpu.program import MAX_CHUNK_TOKENS, Program
from enginebench_quant.gpu.weights import Weights

__all__ = ["GpuModel", "Ticket"]

BUCKETS = (16, 64, 128, 256, MAX_CHUNK_TOKENS)
TICKETS = 16


@dataclass(frozen=True, slots=True)
class Ticket:
    """A token that is being computed: where it will be, and the event that says when."""

    slot: int
    ready: torch.cuda.Event | None


class GpuModel:
    """Prefills, decodes and samples without waiting for the device."""

    def __init__(self, model: Model, *, context: int, device: torch.device) -> None:
        self.device = device
        self._is_gpu = device.type == "cuda"
        with torch.inference_mode():
            self.weights = Weights(model, device)
            self.program = Program(model.config, self.weights, context, device)
            self._tokens = torch.zeros(TICKETS, dtype=torch.int32, pin_memory=self._is_gpu)
            self._next_slot = 0
            self._has_filters = False
            self._graphs = _Graphs(self.program) if self._is_gpu else None

    @torch.inference_mode()
    def begin(self, prompt: Sequence[int], sampling: SamplingParams) -> None:
        """A new request: how its tokens are chosen, and what its penalties have seen."""
        p, state = sampling, self.program.state
        self._has_filters = p.temperature > 0 and (
            p.top_k is not None or p.top_p < 1 or p.min_p > 0
        )
        settings = (p.temperature, p.repetition_penalty, p.presence_penalty, p.frequency_penalty)
        self._put(state.settings, settings)
        self._put(state.filters, (p.top_k or 0, p.top_p, p.min_p))
        self._put(state.seed, [secrets.randbits(62) if p.seed is None else _wrapped(p.seed)])
        state.bar.fill_(-torch.inf)
        state.counts.zero_()
        state.seen.zero_()
        if p.repetition_penalty != 1:
            known = torch.tensor(sorted(set(prompt)), dtype=torch.int64)
            state.seen[known.to(self.device)] = 1

    @torch.inference_mode()
    def prefill(self, tokens: Sequence[int], position: int) -> None:
        """At most MAX_CHUNK_TOKENS tokens from `position` on, after which `choose` may follow."""
        state, count = self.program.state, len(tokens)
        self._put(state.chunk[:count], tokens)
        self._put(state.span, (position, count))
        self._put(state.token_and_position, (tokens[-1], position + count - 1))
        if self._graphs is None:
            self.program.chunk(count)
        else:
            self._graphs.chunk(count)

    @torch.inference_mode()
    def choose(self) -> Ticket:
        """The token after the prefilled ones."""
        if self._graphs is None:
            self._run_choice()
        else:
            self._graphs.choose(self._has_filters)
        return self._ticket()

    @torch.inference_mode()
    def decode(self) -> Ticket:
        """The token after the one chosen last."""
        if self._graphs is None:
            self.program.embed()
            self.program.layers()
            self._run_choice()
        else:
            self._graphs.decode(self._has_filters)
        return self._ticket()

    def token(self, ticket: Ticket) -> int:
        """Waits for a token. A ticket holds until TICKETS more were drawn."""
        if ticket.ready is not None:
            ticket.ready.synchronize()
        return int(self._tokens[ticket.slot])

    def close(self) -> None:
        """Waits until the device has done what was asked."""
        if self._is_gpu:
            torch.cuda.synchronize(self.device)

    def _run_choice(self) -> None:
        self.program.head()
        if self._has_filters:
            self.program.filter()
        self.program.choose()

    def _ticket(self) -> Ticket:
        slot, self._next_slot = self._next_slot, (self._next_slot + 1) % TICKETS
        chosen = self.program.state.token_and_position
        self._tokens[slot : slot + 1].copy_(chosen[:1], non_blocking=True)
        if not self._is_gpu:
            return Ticket(slot, None)
        ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
        ready.record()
        return Ticket(slot, ready)

    def _put(self, target: Tensor, numbers: Sequence[float]) -> None:
        """A few numbers to the device, in the order of its work."""
        source = torch.tensor(numbers, dtype=target.dtype)
        target.copy_(source.pin_memory() if self._is_gpu else source, non_blocking=True)


class _Graphs:
    """Captured launches: a decode step and a choice, plain and with filters; chunks by size."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._pool: Any = None
        self._program.state.span[1] = 1
        self._chunks = {size: self._capture(partial(program.chunk, size)) for size in BUCKETS}
        self._choices = {flag: self._capture(self._choice(flag)) for flag in (False, True)}
        self._decodes = {flag: self._capture(self._step(flag)) for flag in (False, True)}

    def chunk(self, count: int) -> None:
        self._chunks[next(size for size in BUCKETS if size >= count)].replay()

    def choose(self, has_filters: bool) -> None:
        self._choices[has_filters].replay()

    def decode(self, has_filters: bool) -> None:
        self._decodes[has_filters].replay()

    def _choice(self, has_filters: bool) -> Callable[[], None]:
        def run() -> None:
            self._program.head()
            if has_filters:
                self._program.filter()
            self._program.choose()

        return run

    def _step(self, has_filters: bool) -> Callable[[], None]:
        choice = self._choice(has_filters)

        def run() -> None:
            self._program.embed()
            self._program.layers()
            choice()

        return run

    def _capture(self, run: Callable[[], object]) -> torch.cuda.CUDAGraph:
        """After one run outside the graph, which compiles kernels and takes workspaces."""
        device = self._program.device
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            run()
        torch.cuda.current_stream(device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            run()
        self._pool = graph.pool()
        return graph


def _wrapped(seed: int) -> int:
    """Any integer as a signed one of 64 bits."""
    return (seed + (1 << 63)) % (1 << 64) - (1 << 63)
