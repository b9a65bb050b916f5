"""Chooses the next token from logits, as a request's `SamplingParams` say: a chain of samplers.

What a request forbids (logit bias, stop tokens before `min_tokens`, its grammar) comes first and
always. The order of the rest is the engine's: see `SAMPLERS`. A temperature of 0 takes the largest
logit after the penalties; mirostat takes the place of all but penalties and temperature. A seed
makes a request's choices repeatable whatever ran before it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from enginebench_openai.grammar import GrammarMatcher
from enginebench_openai.protocol import (
    Dry,
    GenerationRequest,
    Mirostat,
    SamplingParams,
    TokenLogprob,
    Xtc,
)
from enginebench_quant import candidates as filters
from enginebench_quant.candidates import Candidates
from enginebench_quant.options import SAMPLERS
from enginebench_quant.penalties import DryPenalty, TokenPenalties

__all__ = ["Sampler", "token_logprob", "wanted_stages"]

Floats = NDArray[np.float32]
Stage = Callable[[Candidates], Candidates]


class Sampler:
    """The choices of one request; it remembers what penalties, mirostat and grammar need."""

    def __init__(
        self,
        request: GenerationRequest,
        vocab_size: int,
        *,
        order: Sequence[str] = SAMPLERS,
        matcher: GrammarMatcher | None = None,
    ) -> None:
        params = request.sampling
        self._request, self._matcher = request, matcher
        self._random = np.random.default_rng(params.seed)
        self._n_chosen = 0
        self._is_greedy = params.temperature == 0
        self._mirostat = _Mirostat(params.mirostat) if params.mirostat else None
        self._bias_tokens = np.array([token for token, _ in params.logit_bias], np.int64)
        self._bias = np.array([bias for _, bias in params.logit_bias], np.float32)
        wanted = wanted_stages(params)
        names = [name for name in order if name in wanted]
        self._stages = [_stage(name, request, vocab_size, self._random) for name in names]

    def sample(self, logits: Floats) -> int:
        """The next token; `logits` (vocabulary,) is left alone."""
        candidates = self._allowed(logits)
        for stage in self._stages:
            candidates = stage(candidates)
        if self._is_greedy:
            token = int(candidates.tokens[candidates.logits.argmax()])
        elif self._mirostat:
            token = self._mirostat.draw(candidates, self._random)
        else:
            token = int(candidates.tokens[_draw(candidates.probabilities(), self._random)])
        self._see(token)
        return token

    @property
    def is_complete(self) -> bool:
        """Whether the grammar lets nothing follow."""
        return self._matcher is not None and self._matcher.finished

    def _allowed(self, logits: Floats) -> Candidates:
        """What bias, `min_tokens` and grammar leave."""
        if self._bias.size:
            logits = logits.copy()
            logits[self._bias_tokens] += self._bias
        candidates = Candidates.of(logits)
        stops = list(self._request.stop_token_ids)
        is_early = bool(stops) and self._n_chosen < self._request.min_tokens
        if self._matcher is None and not is_early:
            return candidates
        kept = np.ones(logits.size, np.bool_) if self._matcher is None else self._matcher.allowed()
        if is_early and kept.sum() > kept[stops].sum():  # else the grammar can only end here
            kept[stops] = False
        return candidates.keep(kept)

    def _see(self, token: int) -> None:
        self._n_chosen += 1
        for stage in self._stages:
            if isinstance(stage, TokenPenalties | DryPenalty):
                stage.see(token)
        if self._matcher is not None and token not in self._request.stop_token_ids:
            self._matcher.accept(token)


def wanted_stages(params: SamplingParams) -> set[str]:
    """The samplers of the chain that these parameters switch on."""
    is_on = {
        "penalties": TokenPenalties.wanted(params),
        "dry": params.dry is not None and params.dry.multiplier > 0,
        "temperature": params.temperature > 0 and (params.temperature != 1 or _is_dynamic(params)),
        "top_k": params.top_k is not None,
        "typical_p": params.typical_p < 1,
        "top_p": params.top_p < 1,
        "min_p": params.min_p > 0,
        "xtc": params.xtc is not None and params.xtc.probability > 0,
    }
    wanted = {name for name, on in is_on.items() if on}
    if params.temperature == 0:
        return wanted & {"penalties", "dry"}
    return wanted & {"penalties", "dry", "temperature"} if params.mirostat else wanted


def _is_dynamic(params: SamplingParams) -> bool:
    return params.dynamic_temperature is not None and params.dynamic_temperature.range > 0


def _stage(
    name: str, request: GenerationRequest, vocab_size: int, random: np.random.Generator
) -> Stage:
    params, prompt = request.sampling, request.prompt
    makers: dict[str, Callable[[], Stage]] = {
        "penalties": lambda: TokenPenalties(params, prompt, vocab_size),
        "dry": lambda: DryPenalty(params.dry or Dry(0), prompt),
        "temperature": lambda: _temperature(params),
        "top_k": lambda: partial(filters.top_k, count=params.top_k or vocab_size),
        "typical_p": lambda: partial(filters.typical_p, share=params.typical_p),
        "top_p": lambda: partial(filters.top_p, share=params.top_p),
        "min_p": lambda: partial(filters.min_p, share=params.min_p),
        "xtc": lambda: partial(_maybe_exclude, params.xtc or Xtc(0), random),
    }
    return makers[name]()


def _temperature(params: SamplingParams) -> Stage:
    dynamic = params.dynamic_temperature
    if dynamic is None or not dynamic.range:
        return partial(filters.heat, temperature=params.temperature)
    return partial(
        filters.warm,
        middle=params.temperature,
        range=dynamic.range,
        exponent=dynamic.exponent,
    )


def _maybe_exclude(xtc: Xtc, random: np.random.Generator, candidates: Candidates) -> Candidates:
    return (
        candidates if random.random() >= xtc.probability else filters.xtc(candidates, xtc.threshold)
    )


class _Mirostat:
    """Mirostat 2 (arXiv 2007.14966, algorithm 2): `mu` follows how surprising the choices were."""

    def __init__(self, settings: Mirostat) -> None:
        self._settings = settings
        self._mu = 2 * settings.tau  # bits

    def draw(self, candidates: Candidates, random: np.random.Generator) -> int:
        """Among the tokens whose surprise is at most `mu` bits; the likeliest is always one."""
        probabilities = candidates.probabilities()
        left = candidates.keep(probabilities >= min(2.0**-self._mu, float(probabilities.max())))
        probabilities = left.probabilities()
        index = _draw(probabilities, random)
        surprise = -math.log2(float(probabilities[index]))
        self._mu -= self._settings.eta * (surprise - self._settings.tau)
        return int(left.tokens[index])


def _draw(probabilities: Floats, random: np.random.Generator) -> int:
    cumulative = np.cumsum(probabilities, dtype=np.float64)
    point = random.random() * cumulative[-1]
    return int(np.searchsorted(cumulative, point, side="right"))


def token_logprob(logits: Floats, token: int, count: int) -> TokenLogprob:
    """Of the model's own distribution: `token`, and the `count` likeliest."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max()
    shifted -= math.log(np.exp(shifted).sum())
    count = min(count, shifted.size)
    least = np.partition(shifted, -count)[-count] if count else math.inf
    some = np.flatnonzero(shifted >= least)  # more than `count` where they tie: lower ids first
    largest = some[np.argsort(-shifted[some], kind="stable")][:count]
    top = tuple((int(index), float(shifted[index])) for index in largest)
    return TokenLogprob(token, float(shifted[token]), top)
