"""The engine as the server sees it: requests in, tokens out, one step at a time.

Ties the scheduler, which decides, to the runner, which computes. With schedule-ahead a step is
launched before the ids of the one before it were read: the device never waits for Python, and a
stop token is noticed one step late (the extra token is dropped).
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping, Sequence

import torch

from enginebench.types import OptionValue
from enginebench_models import Model
from enginebench_openai.protocol import EngineStats, Feature, GenerationRequest, TokenOutput
from enginebench_paged import sequence as sequences
from enginebench_paged.config import resolve
from enginebench_paged.runner import Launched, Runner
from enginebench_paged.scheduler import Scheduler, SchedulerConfig
from enginebench_paged.threads import thread_count

__all__ = ["PagedEngine"]


class PagedEngine:
    """A `TokenEngine` over one device."""

    def __init__(self, model: Model, options: Mapping[str, OptionValue]) -> None:
        torch.set_num_threads(thread_count())
        config = resolve(options, model.config, _device())
        self.config = config
        self.context_length = config.context_length
        self.features: frozenset[Feature] = frozenset()
        self._vocab_size = model.config.vocab_size
        self._runner = Runner(model, config)
        self._scheduler = Scheduler(
            SchedulerConfig(
                num_blocks=self._runner.cache.num_blocks,
                block_size=config.block_size,
                max_batch=config.max_batch,
                step_tokens=config.step_tokens,
                prefix_cache=config.prefix_cache,
                chunked_prefill=config.chunked_prefill,
            )
        )
        self._launched: deque[Launched] = deque()

    def add(self, request: GenerationRequest) -> None:
        """Queue a request; ValueError if it can never be served."""
        total = len(request.prompt) + request.max_tokens
        if total > self.context_length:
            raise ValueError(
                f"{len(request.prompt)} prompt tokens and {request.max_tokens} new ones make"
                f" {total}, the context has {self.context_length}; shorten one of them"
            )
        for token in request.prompt:
            if not 0 <= token < self._vocab_size:
                raise ValueError(
                    f"token id {token} is not in the vocabulary of {self._vocab_size} tokens"
                )
        seed = request.sampling.seed
        if seed is None:
            seed = random.getrandbits(63)
        self._scheduler.add(sequences.Sequence(request, _as_int64(seed)))

    def abort(self, request_id: str) -> None:
        """Forget a request; unknown ids are ignored."""
        self._scheduler.abort(request_id)

    def has_work(self) -> bool:
        """Whether anything is to be computed or fetched."""
        return self._scheduler.has_work() or bool(self._launched)

    def step(self) -> Sequence[TokenOutput]:
        """Launch a step and take in the oldest one that has to be done by now."""
        plan = self._scheduler.schedule()
        if plan is not None:
            self._launched.append(self._runner.launch(plan))
        ahead = 1 if plan is not None and self.config.schedule_ahead else 0
        outputs: list[TokenOutput] = []
        while len(self._launched) > ahead:
            outputs += self._take(self._launched.popleft())
        return outputs

    def stats(self) -> EngineStats:
        """Counters and gauges."""
        counters, pool = self._scheduler.counters, self._scheduler.pool
        cached = self.config.prefix_cache
        return EngineStats(
            running_requests=len(self._scheduler.running),
            waiting_requests=len(self._scheduler.waiting),
            prompt_tokens_total=counters.prompt_tokens,
            generated_tokens_total=counters.generated_tokens,
            kv_blocks_total=pool.num_blocks,
            kv_blocks_used=pool.used_count,
            prefix_cache_queried_tokens_total=counters.queried_tokens if cached else None,
            prefix_cache_hit_tokens_total=counters.hit_tokens if cached else None,
            preemptions_total=counters.preemptions,
        )

    def close(self) -> None:
        """Wait for what is under way and free the device."""
        while self._launched:
            self._launched.popleft().wait()
        self._runner.close()

    def _take(self, launched: Launched) -> list[TokenOutput]:
        return [
            TokenOutput(
                request_id=sequence.request.request_id,
                token_ids=() if token is None else (token,),
                finish_reason=sequence.finish_reason,
                cached_prompt_tokens=sequence.cached_prompt_tokens,
            )
            for sequence, token in self._scheduler.commit(launched.plan, launched.wait())
        ]


def _device() -> torch.device:
    """The first GPU that the environment shows, else the CPU."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def _as_int64(seed: int) -> int:
    """Any integer as a signed 64-bit one."""
    return (seed + 2**63) % 2**64 - 2**63
