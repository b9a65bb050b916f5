"""Penalties against their definitions, by slot, with whatever was there before."""

from __future__ import annotations

import torch

from enginebench_openai.protocol import GenerationRequest, SamplingParams
from enginebench_paged.sampler import Sampler
from enginebench_paged.sequence import Sequence

VOCAB = 11
CPU = torch.device("cpu")


def sequence(
    slot: int, prompt: tuple[int, ...], generated: tuple[int, ...] = (), **how: float
) -> Sequence:
    sampling = SamplingParams(temperature=0.0, **how)  # type: ignore[arg-type]
    made = Sequence(GenerationRequest(str(slot), prompt, 5, sampling), seed=1)
    made.tokens.extend(generated)
    made.slot = slot
    return made


def penalized(logits: torch.Tensor, one: Sequence) -> torch.Tensor:
    """CTRL's and OpenAI's definitions, token by token."""
    how, out = one.request.sampling, logits.clone()
    generated = one.tokens[one.prompt_length :]
    for token in range(VOCAB):
        if token in one.tokens:
            out[token] *= 1 / how.repetition_penalty if out[token] > 0 else how.repetition_penalty
        out[token] -= how.frequency_penalty * generated.count(token)
        out[token] -= how.presence_penalty * (token in generated)
    return out


def test_penalties_follow_their_definitions_while_tokens_come() -> None:
    torch.manual_seed(3)
    sampler = Sampler(4, VOCAB, CPU)
    sampler.admit([sequence(2, (9, 9), (9,), presence_penalty=3.0)])  # leaves its counts behind
    batch = [
        sequence(0, (1, 2, 3), repetition_penalty=1.7),
        sequence(2, (4,), (5, 5, 6), frequency_penalty=0.6, presence_penalty=0.4),
        sequence(3, (7, 8)),
    ]
    sampler.admit(batch)
    slots = torch.tensor([0, 2, 3])
    assert sampler.wants_penalties([0])
    assert not sampler.wants_penalties([3])
    for _ in range(12):
        logits = torch.randn(3, VOCAB)
        expected = [
            int(penalized(row, one).argmax()) for row, one in zip(logits, batch, strict=True)
        ]
        positions = torch.tensor([len(one.tokens) for one in batch])
        drawn = sampler.sample_penalized(logits, slots, positions).tolist()
        assert drawn == expected
        for one, token in zip(batch, drawn, strict=True):
            one.tokens.append(token)


def test_each_slot_samples_by_its_own_parameters() -> None:
    sampler = Sampler(3, VOCAB, CPU)
    greedy, wild = sequence(1, (1,)), sequence(0, (1,))
    wild.request = GenerationRequest("wild", (1,), 5, SamplingParams(temperature=5.0, seed=1))
    sampler.admit([greedy, wild])
    logits = torch.zeros(2, VOCAB)
    logits[:, 4] = 1.0
    seen = set()
    for position in range(40):
        tokens = sampler.sample(logits, torch.tensor([1, 0]), torch.tensor([position, position]))
        assert int(tokens[0]) == 4
        seen.add(int(tokens[1]))
    assert len(seen) > 4


def test_top_k_of_one_is_greedy_whatever_the_temperature() -> None:
    sampler = Sampler(1, VOCAB, CPU)
    only = sequence(0, (1,))
    only.request = GenerationRequest("x", (1,), 5, SamplingParams(temperature=9.0, top_k=1))
    sampler.admit([only])
    logits = torch.arange(VOCAB, dtype=torch.float32)[None]
    for position in range(10):
        assert sampler.sample(logits, torch.tensor([0]), torch.tensor([position])).item() == 10
