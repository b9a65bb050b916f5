"""The engine on a CPU: one request at a time on a `QuantModel`.

A step is a chunk of prompt, one token, or a few where a drafter guesses them and they are verified
in one pass: so an abort never waits long.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from enginebench_openai.grammar import Grammars
from enginebench_openai.protocol import (
    EngineStats,
    Feature,
    GenerationRequest,
    TokenLogprob,
    TokenOutput,
)
from enginebench_quant.cache_file import CacheRows, restore_cache, save_cache
from enginebench_quant.drafts import Drafter
from enginebench_quant.options import SAMPLERS
from enginebench_quant.sampler import Sampler, token_logprob, wanted_stages
from enginebench_quant.slot import ServedSequence, Slot

__all__ = ["QuantEngine", "Runner"]

CHUNK_TOKENS = 128
ROWS = 8  # tokens whose logits are all computed in one pass

Logits = NDArray[np.float32]


class Runner(Protocol):
    """What the engine needs of a model: `QuantModel`, or a stand-in in tests."""

    @property
    def cache(self) -> CacheRows: ...

    def forward(
        self, tokens: Sequence[int], position: int, *, want_logits: bool = True
    ) -> Logits | None: ...

    def forward_rows(self, tokens: Sequence[int], position: int) -> Logits: ...

    def forward_hidden(self, tokens: Sequence[int], position: int) -> NDArray[np.float32]: ...

    def shift(self, kept: int, end: int, count: int) -> None: ...

    def close(self) -> None: ...


class QuantEngine:
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
        chunk_tokens: int = CHUNK_TOKENS,
    ) -> None:
        """With `keep_tokens` a full context is shifted, see `Slot`."""
        self.context_length = context
        self.slots = 1
        self._cache_mark, self._chunk_tokens = cache_mark, chunk_tokens
        missing = {
            Feature.GRAMMAR: grammars is None,
            Feature.CONTEXT_SHIFT: keep_tokens is None,
        }
        self.features = frozenset(feature for feature in Feature if not missing.get(feature))
        self._runner, self._grammars, self._drafter = runner, grammars, drafter
        self._samplers = tuple(samplers)
        self._slot = Slot(context, prompt_cache=prompt_cache, keep_tokens=keep_tokens)
        self._sampler: Sampler | None = None  # of the request that is served, from its first token
        self._hidden_sum: NDArray[np.float32] | None = None  # of the prompt that is embedded

    def add(self, request: GenerationRequest) -> None:
        """Queue it behind the others."""
        missing = wanted_stages(request.sampling) - set(self._samplers)
        if missing:
            raise ValueError(
                f"this server's chain of samplers leaves out {', '.join(sorted(missing))} "
                f"(it has: {', '.join(self._samplers)})"
            )
        if request.grammar is not None and self._grammars is not None:
            self._grammars.matcher(request.grammar)  # compiled once, and refused here if need be
        self._slot.add(request)

    def abort(self, request_id: str) -> None:
        """Forget it; what it left in the cache may still serve the next prompt."""
        self._slot.abort(request_id)

    def has_work(self) -> bool:
        """Whether a request is running or waiting."""
        return self._slot.has_work()

    def step(self) -> Sequence[TokenOutput]:
        """A chunk of prompt, which yields a token only if it was the last, or tokens."""
        current = self._slot.current or self._begin()
        prompt = current.request.prompt
        if current.computed >= len(prompt):
            return [self._decode(current)]
        if current.request.pooling is not None:
            return self._embed(current)
        if current.request.prompt_logprobs is not None:
            return self._score(current, current.request.prompt_logprobs)
        tokens = prompt[current.computed : current.computed + self._chunk_tokens]
        is_last = current.computed + len(tokens) == len(prompt)
        logits = self._runner.forward(tokens, current.computed, want_logits=is_last)
        self._advance(current, tokens)
        return [] if logits is None else [self._choose(current, logits[None])]

    def stats(self) -> EngineStats:
        """Counters since the start."""
        return self._slot.stats()

    def close(self) -> None:
        """Stop the models' threads."""
        self._runner.close()
        if self._drafter is not None:
            self._drafter.close()

    def save_cache(self, path: Path) -> int:
        """See `CacheFiles`."""
        tokens = self._slot.in_cache[: self._slot.reusable]
        save_cache(path, tokens, self._runner.cache, self._cache_mark)
        return len(tokens)

    def restore_cache(self, path: Path) -> int:
        """See `CacheFiles`."""
        cache, context = self._runner.cache, self.context_length
        tokens = restore_cache(path, cache, self._cache_mark, context=context)
        self._slot.replace_cached(tokens)
        return len(tokens)

    def erase_cache(self) -> int:
        """See `CacheFiles`."""
        count = len(self._slot.in_cache)
        self._slot.replace_cached(())
        return count

    def _begin(self) -> ServedSequence:
        current = self._slot.begin()
        self._sampler = self._hidden_sum = None
        if self._drafter is not None:
            self._drafter.begin(current.request.prompt)
        return current

    def _advance(self, current: ServedSequence, tokens: Sequence[int]) -> None:
        current.computed += len(tokens)
        self._slot.cached(tokens)

    def _decode(self, current: ServedSequence) -> TokenOutput:
        """The token after the last one; with it, whatever was guessed right."""
        forgotten = self._slot.make_room(current)
        if forgotten is not None:
            self._runner.shift(*forgotten, self.context_length)
        last, begin = current.generated[-1], current.position
        drafts = self._guess(current)
        if drafts:
            logits = self._runner.forward_rows([last, *drafts], begin)
        else:
            row = self._runner.forward([last], begin)
            assert row is not None
            logits = row[None]
        self._advance(current, [last])
        return self._choose(current, logits, drafts)

    def _guess(self, current: ServedSequence) -> Sequence[int]:
        """At most as many tokens as the request may still generate after the next one, and as the
        context has room for.
        """
        if self._drafter is None or current.left < 2:
            return ()
        room = self.context_length - current.position
        return self._drafter.propose(min(current.left, ROWS, room) - 1)

    def _choose(
        self, current: ServedSequence, logits: Logits, drafts: Sequence[int] = ()
    ) -> TokenOutput:
        """A token from the first row; another from the next for each draft that it confirms."""
        request, tokens = current.request, []
        sampler = self._sampler = self._sampler or self._make_sampler(request, logits.shape[-1])
        logprobs: list[TokenLogprob] = []
        for row, draft in zip(logits, [*drafts, None], strict=True):
            token = sampler.sample(row)
            tokens.append(token)
            if request.logprobs is not None:
                logprobs.append(token_logprob(row, token, request.logprobs))
            if token != draft or token in request.stop_token_ids or sampler.is_complete:
                break
            self._advance(current, [token])
        if self._drafter is not None:
            self._drafter.see(tokens)
        return self._slot.answer(
            current, tokens, logprobs=logprobs, is_complete=sampler.is_complete
        )

    def _make_sampler(self, request: GenerationRequest, vocab_size: int) -> Sampler:
        matcher = None
        if request.grammar is not None:
            assert self._grammars is not None
            matcher = self._grammars.matcher(request.grammar)
        return Sampler(request, vocab_size, order=self._samplers, matcher=matcher)

    def _score(self, current: ServedSequence, count: int) -> Sequence[TokenOutput]:
        """A few tokens of the prompt, and how likely the model found what follows each."""
        prompt, begin = current.request.prompt, current.computed
        tokens = prompt[begin : begin + ROWS]
        logits = self._runner.forward_rows(tokens, begin)
        self._advance(current, tokens)
        following = prompt[begin + 1 : begin + 1 + len(tokens)]
        scores = [
            token_logprob(row, token, count) for row, token in zip(logits, following, strict=False)
        ]
        outputs = [TokenOutput(current.request.request_id, (), prompt_logprobs=tuple(scores))]
        if current.computed == len(prompt):
            outputs.append(self._choose(current, logits[-1:]))
        return outputs

    def _embed(self, current: ServedSequence) -> Sequence[TokenOutput]:
        """A chunk of a prompt that is embedded; the embedding after the last one."""
        prompt, begin = current.request.prompt, current.computed
        tokens = prompt[begin : begin + self._chunk_tokens]
        hidden = self._runner.forward_hidden(tokens, begin)
        self._advance(current, tokens)
        if current.request.pooling == "last":
            self._hidden_sum = hidden[-1]
        else:
            total = hidden.sum(0)
            self._hidden_sum = total if self._hidden_sum is None else self._hidden_sum + total
        if current.computed < len(prompt):
            return []
        length = float(np.linalg.norm(self._hidden_sum)) or 1.0
        return [self._slot.embedded(current, (self._hidden_sum / length).tolist())]
