"""The engine on a GPU: one request at a time, first in, first out.

What the device can choose by itself it does: decode steps are queued a few ahead of the token that
is waited for, so that the device never waits for Python; a stop is seen that many steps late, and
what was computed beyond it is dropped. All other requests are served as on a CPU, from logits that
are read back: other samplers, log probabilities, grammars, guesses, embeddings.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from enginebench_openai.grammar import Grammars
from enginebench_openai.protocol import GenerationRequest, SamplingParams, TokenOutput
from enginebench_quant.drafts import Drafter
from enginebench_quant.engine import QuantEngine
from enginebench_quant.engine import Runner as LogitsRunner
from enginebench_quant.gpu.model import Ticket
from enginebench_quant.gpu.state import MAX_CHUNK_TOKENS
from enginebench_quant.gpu.techniques import Techniques
from enginebench_quant.options import SAMPLERS
from enginebench_quant.sampler import wanted_stages
from enginebench_quant.slot import ServedSequence

__all__ = ["GpuEngine", "Runner"]

STEPS_AHEAD = 4
ON_DEVICE = ("penalties", "temperature", "top_k", "top_p", "min_p")  # in the kernels' order


class Runner(LogitsRunner, Protocol):
    """What the engine needs of a model: `GpuModel`, or a stand-in in tests."""

    def begin(self, prompt: Sequence[int], sampling: SamplingParams) -> None: ...

    def prefill(self, given: Sequence[int], position: int) -> None: ...

    def choose(self) -> Ticket: ...

    def decode(self) -> Ticket: ...

    def token(self, ticket: Ticket) -> int: ...


@dataclass(frozen=True, slots=True)
class _Chain:
    """The samplers of the engine, and whether the device's are among them in its own order."""

    order: tuple[str, ...]

    def is_devices(self, wanted: set[str]) -> bool:
        own = [name for name in self.order if name in wanted]
        return own == [name for name in ON_DEVICE if name in wanted]


class GpuEngine(QuantEngine):
    """A TokenEngine over one sequence's cache of `context` positions."""

    def __init__(
        self,
        runner: Runner,
        *,
        context: int,
        prompt_cache: bool = True,
        samplers: Sequence[str] = SAMPLERS,
        grammars: Grammars | None = None,
        drafter: Drafter | None = None,
        cache_mark: str = "",
        keep_tokens: int | None = None,
        techniques: Techniques = Techniques(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__(
            runner,
            context=context,
            prompt_cache=prompt_cache,
            samplers=samplers,
            grammars=grammars,
            drafter=drafter,
            cache_mark=cache_mark,
            keep_tokens=keep_tokens,
            chunk_tokens=MAX_CHUNK_TOKENS,
        )
        self._device, self._chain = runner, _Chain(tuple(samplers))
        self._samples = techniques.device_sampling and drafter is None
        self._steps_ahead = STEPS_AHEAD if techniques.steps_ahead else 1
        self._tickets: deque[Ticket] = deque()  # of the request that is served
        self._is_on_device = False

    def step(self) -> Sequence[TokenOutput]:
        """A chunk of prompt, and if it was the last, or for one more token: the next token."""
        current = self._slot.current or self._begin()
        if not self._is_on_device:
            return super().step()
        if current.computed < len(current.request.prompt) and not self._prefill(current):
            return []
        while len(self._tickets) < min(self._steps_ahead, current.left):
            self._tickets.append(self._device.decode())
        return [self._receive(current)]

    def _begin(self) -> ServedSequence:
        current = super()._begin()
        self._tickets.clear()
        self._is_on_device = self._can_sample(current.request)
        if self._is_on_device:
            self._device.begin(current.request.prompt, current.request.sampling)
        return current

    def _can_sample(self, request: GenerationRequest) -> bool:
        """Whether the device can choose all of this request's tokens."""
        p = request.sampling
        asks_for_logits = (
            request.logprobs is not None
            or request.prompt_logprobs is not None
            or request.grammar is not None
            or request.pooling is not None
        )
        is_restricted = bool(request.min_tokens or p.logit_bias or p.mirostat)
        looks_back_only_so_far = p.penalty_last_n is not None
        is_dynamic = p.dynamic_temperature is not None and p.dynamic_temperature.range > 0
        fits = len(request.prompt) + request.max_tokens <= self.context_length
        return (
            self._samples
            and fits
            and not (asks_for_logits or is_restricted or is_dynamic or looks_back_only_so_far)
            and self._chain.is_devices(wanted_stages(p))
        )

    def _prefill(self, current: ServedSequence) -> bool:
        """Queue a chunk; after the last one the first token, which is the answer."""
        prompt = current.request.prompt
        tokens = prompt[current.computed : current.computed + MAX_CHUNK_TOKENS]
        self._device.prefill(tokens, current.computed)
        self._advance(current, tokens)
        is_last = current.computed == len(prompt)
        if is_last:
            self._tickets.append(self._device.choose())
        return is_last

    def _receive(self, current: ServedSequence) -> TokenOutput:
        """Wait for the oldest token that is queued."""
        token = self._device.token(self._tickets.popleft())
        self._slot.cached(current.generated[-1:])  # by the step that gave this token
        return self._slot.answer(current, [token])
