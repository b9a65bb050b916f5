"""What the sampler may and may not choose, and in which order its chain works."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enginebench_openai.protocol import GenerationRequest, Mirostat, SamplingParams, Xtc
from enginebench_quant.sampler import Sampler, token_logprob

LOGITS = np.log(np.array([0.5, 0.25, 0.125, 0.0625, 0.0625], np.float32))


def sampler(prompt: tuple[int, ...] = (0,), vocab: int = 5, **params: object) -> Sampler:
    sampling = SamplingParams(**params)  # type: ignore[arg-type]
    return Sampler(GenerationRequest("a", prompt, 99, sampling), vocab)


def draws(count: int = 400, logits: np.ndarray = LOGITS, **params: object) -> Counter[int]:
    """How often each token is drawn first, over seeds."""
    return Counter(sampler(seed=seed, **params).sample(logits) for seed in range(count))


def test_greedy_takes_the_largest_whatever_the_filters() -> None:
    greedy = sampler(
        temperature=0, top_k=1, top_p=0.1, min_p=0.9, xtc=Xtc(1.0, 0.01), mirostat=Mirostat()
    )
    assert greedy.sample(LOGITS) == 0


def test_frequencies_follow_the_probabilities() -> None:
    counts = draws(4000)
    found = np.array([counts[token] for token in range(5)]) / 4000
    assert np.abs(found - np.exp(LOGITS)).max() < 0.03


def test_temperature_sharpens() -> None:
    assert draws(temperature=0.2)[0] > 380 > draws(temperature=5.0)[0]


@pytest.mark.parametrize(
    "params, allowed",
    [
        ({"top_k": 2}, {0, 1}),
        ({"top_k": 99}, {0, 1, 2, 3, 4}),
        ({"top_p": 0.5}, {0}),
        ({"top_p": 0.76}, {0, 1, 2}),
        ({"min_p": 0.2}, {0, 1, 2}),
        ({"top_k": 3, "min_p": 0.5}, {0, 1}),
        ({"top_p": 1e-6}, {0}),
        ({"min_p": 1.0}, {0}),
        ({"typical_p": 0.2}, {1}),  # entropy 1.875 bits: a surprise of 2 is the nearest
        ({"xtc": Xtc(1.0, 0.2)}, {1, 2, 3, 4}),
        ({"xtc": Xtc(0.0, 0.2)}, {0, 1, 2, 3, 4}),
        ({"top_k": 2, "xtc": Xtc(1.0, 0.3)}, {1}),
        ({"mirostat": Mirostat(tau=0.75)}, {0}),  # at first mu is 1.5 bits
        ({"logit_bias": ((4, 50.0),)}, {4}),
        ({"logit_bias": ((0, -1e9), (1, -1e9)), "top_k": 1}, {2}),
    ],
)
def test_filters_leave_exactly_these(params: dict[str, object], allowed: set[int]) -> None:
    assert set(draws(**params)) == allowed


def test_the_order_of_the_chain_matters_and_is_kept() -> None:
    """Ten times as hot, the top 60 % are more tokens than before."""
    request = GenerationRequest("a", (0,), 9, SamplingParams(temperature=10.0, top_p=0.6))
    found = {
        order: {
            Sampler(
                replace(request, sampling=replace(request.sampling, seed=seed)), 5, order=order
            ).sample(LOGITS)
            for seed in range(200)
        }
        for order in (("top_p", "temperature"), ("temperature", "top_p"))
    }
    assert found["top_p", "temperature"] == {0, 1}
    assert found["temperature", "top_p"] == {0, 1, 2}


def test_a_seed_repeats_itself() -> None:
    def sequence(seed: int) -> list[int]:
        own = sampler(seed=seed)
        return [own.sample(LOGITS) for _ in range(20)]

    assert sequence(5) == sequence(5)
    assert sequence(5) != sequence(6)


def test_stops_are_barred_until_there_are_min_tokens() -> None:
    request = GenerationRequest(
        "a", (0,), 9, SamplingParams(temperature=0), frozenset({0, 1}), min_tokens=2
    )
    own = Sampler(request, 5)
    assert [own.sample(LOGITS) for _ in range(3)] == [2, 2, 0]


@pytest.mark.parametrize("tau", [2.0, 4.0, 6.0])
def test_mirostat_is_algorithm_2_of_its_paper(tau: float) -> None:
    """No choice is more surprising than mu, which is followed here step by step; the surprises
    among what was left come to tau in the mean.
    """
    logits = -np.log(np.arange(1, 4097, dtype=np.float32))
    surprise = -np.log2(np.exp(logits.astype(np.float64)) / np.exp(logits, dtype=np.float64).sum())
    own, mu, observed = sampler(vocab=4096, seed=1, mirostat=Mirostat(tau, 0.1)), 2 * tau, []
    for _ in range(500):
        token = own.sample(logits)
        kept = surprise <= max(mu, surprise.min())
        assert surprise[token] <= max(mu, surprise.min()) + 1e-4
        observed.append(surprise[token] + np.log2((2.0 ** -surprise[kept]).sum()))
        mu -= 0.1 * (observed[-1] - tau)
    assert np.mean(observed) == pytest.approx(tau, abs=0.2)


def test_logits_are_left_alone() -> None:
    logits = LOGITS.copy()
    own = sampler(
        (0, 1), seed=1, repetition_penalty=2.0, presence_penalty=1.0, logit_bias=((1, 3.0),)
    )
    for _ in range(3):
        own.sample(logits)
    assert (logits == LOGITS).all()


@settings(max_examples=60)
@given(
    st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=40),
    st.integers(1, 50),
    st.floats(0.01, 1),
    st.floats(0, 1),
    st.floats(0.1, 3),
    st.integers(0, 2**31),
)
def test_always_a_token_and_never_one_below_all_filters(
    values: list[float], top_k: int, top_p: float, min_p: float, temperature: float, seed: int
) -> None:
    logits = np.array(values, np.float32)
    own = sampler(
        vocab=len(values), temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed
    )
    token = own.sample(logits)
    assert 0 <= token < len(values)
    assert int((logits > logits[token]).sum()) < top_k


def test_logprobs_are_the_models_own_and_ties_go_to_the_lower_id() -> None:
    found = token_logprob(LOGITS, 2, 4)
    assert found.logprob == pytest.approx(np.log(0.125), abs=1e-6)
    assert [token for token, _ in found.top] == [0, 1, 2, 3]
    assert token_logprob(LOGITS, 4, 0).top == ()
    assert len(token_logprob(LOGITS, 4, 20).top) == 5
