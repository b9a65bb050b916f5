"""What the sampler may and may not choose."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginebench_openai.protocol import SamplingParams
from enginebench_quant.sampler import Sampler

LOGITS = np.log(np.array([0.5, 0.25, 0.125, 0.0625, 0.0625], np.float32))


def draws(count: int = 400, logits: np.ndarray = LOGITS, **params: float) -> Counter[int]:
    """How often each token is drawn first, over seeds."""
    return Counter(
        Sampler(SamplingParams(seed=seed, **params), []).sample(logits)  # type: ignore[arg-type]
        for seed in range(count)
    )


def test_greedy_takes_the_largest_whatever_the_filters() -> None:
    params = SamplingParams(temperature=0, top_k=1, top_p=0.1, min_p=0.9)
    assert Sampler(params, []).sample(LOGITS) == 0


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
    ],
)
def test_filters_leave_exactly_these(params: dict[str, float], allowed: set[int]) -> None:
    assert set(draws(**params)) == allowed


def test_a_seed_repeats_itself() -> None:
    def sequence(seed: int) -> list[int]:
        sampler = Sampler(SamplingParams(seed=seed), [])
        return [sampler.sample(LOGITS) for _ in range(20)]

    assert sequence(5) == sequence(5)
    assert sequence(5) != sequence(6)


def test_repetition_penalty_counts_the_prompt_in() -> None:
    logits = np.array([2.0, 1.9, -1.0], np.float32)
    params = SamplingParams(temperature=0, repetition_penalty=1.2)
    assert Sampler(params, [0]).sample(logits) == 1
    assert Sampler(params, []).sample(logits) == 0
    negative = np.array([-1.0, -1.1], np.float32)
    assert Sampler(params, [0]).sample(negative) == 1


def test_presence_and_frequency_count_what_was_generated_only() -> None:
    logits = np.array([1.0, 0.7, 0.0], np.float32)
    presence = Sampler(SamplingParams(temperature=0, presence_penalty=0.5), [0])
    assert [presence.sample(logits) for _ in range(3)] == [0, 1, 0]
    frequency = Sampler(SamplingParams(temperature=0, frequency_penalty=0.2), [0])
    assert [frequency.sample(logits) for _ in range(4)] == [0, 0, 1, 0]


def test_logits_are_left_alone() -> None:
    logits = LOGITS.copy()
    sampler = Sampler(SamplingParams(seed=1, repetition_penalty=2.0, presence_penalty=1.0), [0, 1])
    for _ in range(3):
        sampler.sample(logits)
    assert (logits == LOGITS).all()


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
    params = SamplingParams(
        temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed
    )
    token = Sampler(params, []).sample(logits)
    assert 0 <= token < len(values)
    assert int((logits > logits[token]).sum()) < top_k
