"""The engine as the server sees it: requests in, tokens out, one step at a time.

Ties the scheduler, which decides, to the runner, which computes. With schedule-ahead a step is
launched before the ids of the one before it were read: the device never waits for Python, and a
stop token is noticed one step late (the extra token is dropped).
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Final

import torch

from enginebench.types import OptionValue
from enginebench_models import Model
from enginebench_openai.grammar import Grammars
from enginebench_openai.ngrams import NgramDrafter
from enginebench_openai.protocol import (
    EngineStats,
    Feature,
    GenerationRequest,
    TokenLogprob,
    TokenOutput,
)
from enginebench_paged import sequence as sequences
from enginebench_paged.config import resolve
from enginebench_paged.parallel.ranks import ALONE, Ranks
from enginebench_paged.parallel.shards import shard
from enginebench_paged.precision import describe
from enginebench_paged.runner import Launched, Runner
from enginebench_paged.scheduler import Scheduler, SchedulerConfig
from enginebench_paged.scores import Logprobs, Scores
from enginebench_paged.step import StepPlan
from enginebench_paged.threads import thread_count

__all__ = ["PagedEngine"]

_FEATURES: Final = frozenset(
    {
        Feature.LOGIT_BIAS,
        Feature.MIN_TOKENS,
        Feature.LOGPROBS,
        Feature.PROMPT_LOGPROBS,
        Feature.GRAMMAR,
        Feature.EMBEDDINGS,
    }
)


class PagedEngine:
    """A `TokenEngine` over one device: the whole engine, or one rank of it."""

    def __init__(
        self, model: Model, options: Mapping[str, OptionValue], ranks: Ranks = ALONE
    ) -> None:
        torch.set_num_threads(max(1, thread_count() // ranks.here))
        model = shard(model, ranks.rank, ranks.count)
        config = resolve(options, model.config, _device(ranks.place))
        if ranks.count > 1:  # "auto" is measured: the first rank's clock decides
            told = {**options, "dtype": ranks.first(config.dtype_name)}
            config = resolve(told, model.config, config.device)
        self.config = config
        self.context_length = config.context_length
        self.slots = config.max_batch
        self.features = _FEATURES
        self._vocab_size = model.config.vocab_size
        self._runner = Runner(model, config, ranks)
        self._grammars = Grammars(model.tokenizer, model.config.vocab_size)
        self._following_grammars: set[str] = set()
        self._scheduler = Scheduler(
            SchedulerConfig(
                num_blocks=self._runner.cache.num_blocks,
                block_size=config.block_size,
                max_batch=config.max_batch,
                step_tokens=config.step_tokens,
                prefix_cache=config.prefix_cache,
                chunked_prefill=config.chunked_prefill,
                reserved_tokens=None if config.paged_kv else config.context_length,
                sampled_rows=config.sampled_rows if config.speculative_tokens else None,
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
        if request.pooling is not None:  # the token drawn after the prompt is nobody's
            request = replace(request, max_tokens=1)
        matcher = None if request.grammar is None else self._grammars.matcher(request.grammar)
        sequence = sequences.Sequence(request, _as_int64(seed), matcher)
        if self.config.speculative_tokens and not (
            sequence.is_constrained or sequence.is_penalized
        ):  # else each token says what the next one may be
            sequence.drafter = NgramDrafter(self.config.speculative_tokens)
        self._scheduler.add(sequence)
        if matcher is not None:
            self._following_grammars.add(request.request_id)

    def abort(self, request_id: str) -> None:
        """Forget a request; unknown ids are ignored."""
        self._scheduler.abort(request_id)
        self._forget(request_id)

    def has_work(self) -> bool:
        """Whether anything is to be computed or fetched."""
        return self._scheduler.has_work() or bool(self._launched)

    def step(self) -> Sequence[TokenOutput]:
        """Launch a step and take in the oldest one that has to be done by now."""
        plan = self._scheduler.schedule()
        if plan is not None:
            self._launched.append(self._runner.launch(plan))
        ahead = 1 if plan is not None and self._schedules_ahead() else 0
        outputs: list[TokenOutput] = []
        while len(self._launched) > ahead:
            outputs += self._take(self._launched.popleft())
        return outputs

    @property
    def precision(self) -> str:
        """The line that tells the harness in which numbers this computes."""
        config = self.config
        weights = config.quantization.name if config.quantization else config.dtype_name
        compute = "fp8" if weights == "fp8" else config.dtype_name
        size, bits = self._runner.weights.size_and_bits
        return describe(compute, weights, bits / size, config.kv_dtype_name)

    def stats(self) -> EngineStats:
        """Counters and gauges."""
        counters, pool = self._scheduler.counters, self._scheduler.pool
        held, filled = self._scheduler.slots
        cached, guesses = self.config.prefix_cache, self.config.speculative_tokens
        return EngineStats(
            running_requests=len(self._scheduler.running),
            waiting_requests=len(self._scheduler.waiting),
            prompt_tokens_total=counters.prompt_tokens,
            generated_tokens_total=counters.generated_tokens,
            kv_blocks_total=pool.num_blocks,
            kv_blocks_used=pool.used_count,
            kv_slots_held=held,
            kv_slots_filled=filled,
            prefix_cache_queried_tokens_total=counters.queried_tokens if cached else None,
            prefix_cache_hit_tokens_total=counters.hit_tokens if cached else None,
            preemptions_total=counters.preemptions,
            draft_tokens_total=counters.draft_tokens if guesses else None,
            accepted_draft_tokens_total=counters.accepted_tokens if guesses else None,
        )

    def close(self) -> None:
        """Wait for what is under way and free the device."""
        while self._launched:
            self._launched.popleft().wait()
        self._runner.close()

    @property
    def device_bytes(self) -> int:
        """See `DeviceEngine`."""
        device = self.config.device
        return torch.cuda.memory_reserved(device) if device.type == "cuda" else 0

    def _schedules_ahead(self) -> bool:
        """What a grammar allows next is known only when the last token is."""
        return self.config.schedule_ahead and not self._following_grammars

    def _forget(self, request_id: str) -> None:
        self._following_grammars.discard(request_id)
        self._runner.forget(request_id)

    def _take(self, launched: Launched) -> list[TokenOutput]:
        plan, scores = launched.plan, launched.scores
        drawn = {} if scores.drawn is None else _by_request(plan, scores.drawn)
        prompts = _prompt_logprobs(plan, scores)
        outputs = [
            TokenOutput(
                request_id=sequence.request.request_id,
                token_ids=tokens,
                finish_reason=sequence.finish_reason,
                cached_prompt_tokens=sequence.cached_prompt_tokens,
                logprobs=drawn.get(sequence.request.request_id, ())[: len(tokens)],
                prompt_logprobs=prompts.pop(sequence.request.request_id, ()),
                embedding=_embedding(scores, sequence.request.request_id),
            )
            for sequence, tokens in self._scheduler.commit(plan, launched.wait())
        ]
        for output in outputs:
            if output.finish_reason is not None:
                self._forget(output.request_id)
        return [
            *(TokenOutput(name, (), prompt_logprobs=of) for name, of in prompts.items()),
            *outputs,
        ]


def _by_request(plan: StepPlan, drawn: Logprobs) -> dict[str, tuple[TokenLogprob, ...]]:
    """What was asked of the tokens drawn; the most that anybody asked for was computed."""
    scores, found = iter(drawn.wait()), {}
    for piece in plan.pieces:
        request, own = piece.sequence.request, islice(scores, piece.rows)
        count = request.logprobs
        rows = tuple(replace(score, top=score.top[:count]) for score in own)
        if count is not None:
            found[request.request_id] = rows
    return found


def _prompt_logprobs(plan: StepPlan, scores: Scores) -> dict[str, tuple[TokenLogprob, ...]]:
    """What is new of each prompt: a prompt computed again after a preemption says nothing twice."""
    found: dict[str, tuple[TokenLogprob, ...]] = {}
    for piece in plan.pieces if scores.prompts else ():
        sequence, name = piece.sequence, piece.sequence.request.request_id
        if name in scores.prompts and sequence.finish_reason is None:
            part = scores.prompts[name]
            logprobs = part.wait()
            found[name] = tuple(logprobs[sequence.scored - part.first :])
            sequence.scored = max(sequence.scored, part.first + len(logprobs))
    return {name: logprobs for name, logprobs in found.items() if logprobs}


def _embedding(scores: Scores, name: str) -> tuple[float, ...] | None:
    return tuple(scores.embeddings[name].wait()) if name in scores.embeddings else None


def _device(place: int) -> torch.device:
    """One of the GPUs that the environment shows, else the CPU."""
    return torch.device("cuda", place) if torch.cuda.is_available() else torch.device("cpu")


def _as_int64(seed: int) -> int:
    """Any integer as a signed 64-bit one."""
    return (seed + 2**63) % 2**64 - 2**63
