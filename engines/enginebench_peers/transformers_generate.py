"""`python -m enginebench_peers.transformers_generate`: plain transformers behind our server.

The baseline: `model.generate()` as its documentation shows it, one request after the other. It
runs in a thread of its own, since it returns only when an answer is complete; a streamer takes each
token as it comes. Everything that decides the speed is transformers' own.
"""

from __future__ import annotations

import queue
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import torch
from transformers import GenerationConfig, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from enginebench.types import OptionValue
from enginebench_openai import serve_main
from enginebench_openai.protocol import (
    EngineStats,
    Feature,
    FinishReason,
    GenerationRequest,
    SamplingParams,
    TokenOutput,
)
from enginebench_peers.transformers_model import load_transformers_model
from enginebench_peers.transformers_options import GENERATE_OPTIONS, context_length

if TYPE_CHECKING:
    from enginebench_models import Model

__all__ = ["GenerateEngine", "main", "make_engine"]

STEP_S: Final = 0.05  # how long a step waits for a token before it lets new requests in


@dataclass(slots=True)
class _Answer(BaseStreamer):  # type: ignore[misc]  # untyped here
    """One call of generate: takes its tokens, and tells it to stop when nobody wants them."""

    request: GenerationRequest
    out: queue.SimpleQueue[TokenOutput | BaseException]
    aborted: threading.Event = field(default_factory=threading.Event)
    emitted: int = 0
    finished: bool = False
    _prompt_seen: bool = False

    def put(self, value: torch.Tensor) -> None:
        """First the prompt, then one token at a time; called by generate."""
        if not self._prompt_seen:
            self._prompt_seen = True
            return
        for token in value.reshape(-1).tolist():
            self._take(token)

    def end(self) -> None:
        """Called by generate when it has stopped; the last token has said so already."""

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """As a stopping criterion: one truth value for each sequence."""
        return torch.full((len(input_ids),), self.aborted.is_set(), device=input_ids.device)

    def _take(self, token: int) -> None:
        request = self.request
        stopped = token in request.stop_token_ids
        self.emitted += not stopped
        reason: FinishReason | None = "stop" if stopped else None
        if self.emitted == request.max_tokens and not stopped:
            reason = "length"
        self.finished = reason is not None
        self.out.put(TokenOutput(request.request_id, () if stopped else (token,), reason))


class GenerateEngine:
    """`TokenEngine` over `model.generate()`: one request at a time, in order of arrival."""

    def __init__(self, net: Any, context_length: int) -> None:
        self.context_length = context_length
        self.features: frozenset[Feature] = frozenset()
        self._net = net
        net.generation_config = GenerationConfig()  # requests say everything, folders nothing
        self._waiting: deque[GenerationRequest] = deque()
        self._running: _Answer | None = None
        self._jobs: queue.SimpleQueue[_Answer | None] = queue.SimpleQueue()
        self._outputs: queue.SimpleQueue[TokenOutput | BaseException] = queue.SimpleQueue()
        self._prompt_tokens = self._generated_tokens = 0
        self._thread = threading.Thread(target=self._work, name="generate", daemon=True)
        self._thread.start()

    def add(self, request: GenerationRequest) -> None:
        """Queue a request; ValueError for penalties that generate does not have."""
        sampling = request.sampling
        if sampling.presence_penalty or sampling.frequency_penalty:
            raise ValueError("transformers has no presence_penalty and no frequency_penalty")
        self._waiting.append(request)

    def abort(self, request_id: str) -> None:
        """Forget a request; a running call of generate stops after the token it is at."""
        if self._running is not None and self._running.request.request_id == request_id:
            self._running.aborted.set()
        self._waiting = deque(r for r in self._waiting if r.request_id != request_id)

    def has_work(self) -> bool:
        """Whether anything waits or runs."""
        return self._running is not None or bool(self._waiting)

    def step(self) -> Sequence[TokenOutput]:
        """The tokens that came since the last step; waits a moment for the first."""
        if self._running is None:
            self._start(self._waiting.popleft())
        try:
            found = [self._outputs.get(timeout=STEP_S)]
        except queue.Empty:
            return ()
        while not self._outputs.empty():
            found.append(self._outputs.get())
        return [output for each in found if (output := self._checked(each)) is not None]

    def stats(self) -> EngineStats:
        """Counters; transformers' cache lives for one call and counts nothing."""
        return EngineStats(
            running_requests=int(self._running is not None),
            waiting_requests=len(self._waiting),
            prompt_tokens_total=self._prompt_tokens,
            generated_tokens_total=self._generated_tokens,
        )

    def close(self) -> None:
        """End the thread after the token it is at."""
        if self._running is not None:
            self._running.aborted.set()
        self._jobs.put(None)
        self._thread.join()

    def _start(self, request: GenerationRequest) -> None:
        self._running = _Answer(request, self._outputs)
        self._prompt_tokens += len(request.prompt)
        self._jobs.put(self._running)

    def _checked(self, output: TokenOutput | BaseException) -> TokenOutput | None:
        """Raise what generate raised; count tokens; None once the request was aborted."""
        assert self._running is not None
        if isinstance(output, BaseException):
            raise output
        aborted = self._running.aborted.is_set()
        self._generated_tokens += len(output.token_ids)
        if output.finish_reason is not None:
            self._running = None
        return None if aborted else output

    # ---------------------------------------------------------------- in the thread

    def _work(self) -> None:
        while (answer := self._jobs.get()) is not None:
            try:
                self._generate(answer)
            except BaseException as error:  # noqa: BLE001 - raised again by `step`
                self._outputs.put(error)
                return

    def _generate(self, answer: _Answer) -> None:
        request, sampling = answer.request, answer.request.sampling
        if sampling.seed is not None:
            torch.manual_seed(sampling.seed)
        prompt = torch.tensor([request.prompt], device=self._net.device)
        self._net.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            generation_config=_generation_config(request, sampling),
            streamer=answer,
            stopping_criteria=StoppingCriteriaList([answer]),
        )
        if not answer.finished:
            self._outputs.put(TokenOutput(request.request_id, (), "abort"))


def _generation_config(request: GenerationRequest, sampling: SamplingParams) -> GenerationConfig:
    """transformers' words for what the request asks."""
    common: dict[str, Any] = {
        "max_new_tokens": request.max_tokens,
        "eos_token_id": sorted(request.stop_token_ids) or None,
        "pad_token_id": 0,  # of a batch of one nothing is padded
        "repetition_penalty": sampling.repetition_penalty,
    }
    if sampling.temperature == 0:
        return GenerationConfig(do_sample=False, **common)
    return GenerationConfig(
        do_sample=True,
        temperature=sampling.temperature,
        top_k=sampling.top_k or 0,
        top_p=sampling.top_p,
        min_p=sampling.min_p or None,
        **common,
    )


def make_engine(model: Model, options: Mapping[str, OptionValue]) -> GenerateEngine:
    """Load the model with transformers and wrap it."""
    net = load_transformers_model(
        model, dtype=str(options["dtype"]), attention=str(options["attention"])
    )
    return GenerateEngine(net, context_length(model.config, options))


def main() -> None:
    """Serve until told to stop."""
    serve_main(
        sys.argv[1:],
        description="Serve transformers' model.generate(), one request at a time.",
        options=GENERATE_OPTIONS,
        make_engine=make_engine,
    )


if __name__ == "__main__":
    main()
