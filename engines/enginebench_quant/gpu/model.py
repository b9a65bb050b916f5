"""A model on one device that also chooses its tokens there, steps ahead of who reads them.

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
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from enginebench_models import Model
from enginebench_openai.protocol import SamplingParams
from enginebench_quant.gpu.logits import LogitsModel
from enginebench_quant.gpu.techniques import Techniques

__all__ = ["GpuModel", "Ticket"]

TICKETS = 16


@dataclass(frozen=True, slots=True)
class Ticket:
    """A token that is being computed: where it will be, and the event that says when."""

    slot: int
    ready: torch.cuda.Event | None


class GpuModel(LogitsModel):
    """Prefills, decodes and samples without waiting for the device."""

    def __init__(
        self,
        model: Model,
        *,
        context: int,
        device: torch.device,
        kv_type: str = "f16",
        techniques: Techniques = Techniques(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__(
            model, context=context, device=device, kv_type=kv_type, techniques=techniques
        )
        self._tokens = torch.zeros(TICKETS, dtype=torch.int32, pin_memory=self._is_gpu)
        self._next_slot = 0
        self._has_filters = False

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
    def choose(self) -> Ticket:
        """The token after the prefilled ones."""
        self._run(("choose", self._has_filters), self._choose)
        return self._ticket()

    @torch.inference_mode()
    def decode(self) -> Ticket:
        """The token after the one chosen last."""
        self._run(("decode", self._has_filters), self._decode)
        return self._ticket()

    def token(self, ticket: Ticket) -> int:
        """Waits for a token. A ticket holds until TICKETS more were drawn."""
        if ticket.ready is not None:
            ticket.ready.synchronize()
        return int(self._tokens[ticket.slot])

    def _prepare(self) -> None:
        """Capture all that a request may need, before there is one: choosing changes the state."""
        super()._prepare()
        for self._has_filters in (True, False):
            if self._graphs is not None:
                self._graphs.capture(("choose", self._has_filters), self._choose)
                self._graphs.capture(("decode", self._has_filters), self._decode)

    def _choose(self) -> None:
        self.program.step.head()
        self._take()

    def _decode(self) -> None:
        self.program.step.run()
        self._take()

    def _take(self) -> None:
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


def _wrapped(seed: int) -> int:
    """Any integer as a signed one of 64 bits."""
    return (seed + (1 << 63)) % (1 << 64) - (1 << 63)
