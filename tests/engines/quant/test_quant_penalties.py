"""Penalties against their definitions, over texts that repeat themselves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enginebench_openai.protocol import Dry, SamplingParams
from enginebench_quant.candidates import Candidates
from enginebench_quant.penalties import DryPenalty, TokenPenalties

VOCABULARY = 6
TEXTS = st.lists(st.integers(0, 3), min_size=1, max_size=30)


def changes(stage: DryPenalty | TokenPenalties, logits: np.ndarray) -> np.ndarray:
    return stage(Candidates.of(logits)).logits - logits


@settings(max_examples=80)
@given(
    TEXTS,
    TEXTS,
    st.floats(0.5, 3),
    st.floats(-2, 2),
    st.floats(-2, 2),
    st.none() | st.integers(1, 40),
)
def test_repetition_presence_and_frequency(
    prompt: list[int],
    output: list[int],
    repetition: float,
    presence: float,
    frequency: float,
    last_n: int | None,
) -> None:
    params = SamplingParams(
        repetition_penalty=repetition,
        presence_penalty=presence,
        frequency_penalty=frequency,
        penalty_last_n=last_n,
    )
    own = TokenPenalties(params, prompt, VOCABULARY)
    for token in output:
        own.see(token)
    if last_n is not None:
        prompt = prompt[max(0, len(prompt) + len(output) - last_n) :]
        output = output[-last_n:]
    logits = np.array([1.5, -1.5, 0.5, 3, 2, -2], np.float32)
    expected = []
    for token, value in enumerate(logits.tolist()):
        if token in prompt or token in output:
            value = value / repetition if value > 0 else value * repetition
        count = output.count(token)
        expected.append(value - presence * (count > 0) - frequency * count)
    assert own(Candidates.of(logits)).logits == pytest.approx(expected, rel=1e-5, abs=1e-5)


def dry_lengths(text: list[int], last_n: int | None, breakers: set[int]) -> dict[int, int]:
    """For each token the longest end of the text that stood before it, letter by letter."""
    text = text if last_n is None else text[len(text) - min(last_n, len(text)) :]
    longest: dict[int, int] = {}
    for position, follower in enumerate(text):
        length = 0
        while length < position and text[position - 1 - length] == text[-1 - length]:
            if text[-1 - length] in breakers:
                break
            length += 1
        longest[follower] = max(longest.get(follower, 0), length)
    return longest


@settings(max_examples=150)
@given(
    TEXTS,
    st.lists(st.integers(0, 3), max_size=12),
    st.none() | st.integers(1, 20),
    st.sets(st.integers(0, 3), max_size=1),
    st.integers(1, 4),
)
def test_dry(
    prompt: list[int], output: list[int], last_n: int | None, breakers: set[int], allowed: int
) -> None:
    dry = Dry(0.8, 1.75, allowed, last_n, frozenset(breakers))
    own = DryPenalty(dry, prompt)
    for token in output:
        own.see(token)
    expected = [0.0] * VOCABULARY
    for token, length in dry_lengths(prompt + output, last_n, breakers).items():
        if length >= allowed:
            expected[token] = -0.8 * 1.75 ** (length - allowed)
    logits = np.zeros(VOCABULARY, np.float32)
    assert changes(own, logits) == pytest.approx(expected, rel=1e-5)


def test_dry_stays_finite_and_takes_what_filters_left() -> None:
    own = DryPenalty(Dry(1.0, 4.0), [1] * 3000)
    logits = np.array([0.0, 5.0, 1.0], np.float32)
    penalized = own(Candidates.of(logits)).logits
    assert np.isfinite(penalized).all() and penalized.argmax() == 2
    rest = own(Candidates(np.array([0, 2]), np.array([0.0, 1.0], np.float32)))
    assert rest.tokens.tolist() == [0, 2] and rest.logits.tolist() == [0.0, 1.0]
