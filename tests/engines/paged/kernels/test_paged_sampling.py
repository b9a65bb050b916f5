"""Sampling: twin and kernel give the same tokens, and those tokens follow the distribution asked
for.
"""

import pytest
import torch
from torch import Tensor

from enginebench_paged.kernels import reference
from enginebench_paged.kernels.configs import SampleConfig
from enginebench_paged.kernels.reference_sampling import gumbel
from enginebench_paged.kernels.sampling import sample

TILES = SampleConfig(tile=128, num_warps=4, filter_tile=64, filter_warps=4)

# temperature, top_k, top_p, min_p
KINDS = {
    "greedy": (0.0, 0, 1.0, 0.0),
    "greedy with filters": (0.0, 3, 0.5, 0.1),
    "temperature": (0.7, 0, 1.0, 0.0),
    "hot": (50.0, 0, 1.0, 0.0),
    "cold": (1e-3, 0, 1.0, 0.0),
    "top-k": (1.0, 5, 1.0, 0.0),
    "top-1": (1.0, 1, 1.0, 0.0),
    "top-k of all": (1.0, 1000, 1.0, 0.0),
    "top-p": (1.0, 0, 0.6, 0.0),
    "top-p of nothing": (1.0, 0, 0.0, 0.0),
    "min-p": (1.0, 0, 1.0, 0.2),
    "min-p of one": (1.0, 0, 1.0, 1.0),
    "top-k and top-p": (2.0, 20, 0.7, 0.0),
    "all": (1.3, 40, 0.9, 0.05),
}


def _rows(
    kinds: list[tuple[float, int, float, float]], seeds: Tensor, positions: Tensor
) -> tuple[Tensor, ...]:
    temperature, top_k, top_p, min_p = zip(*kinds, strict=True)
    return (
        torch.tensor(temperature),
        torch.tensor(top_k, dtype=torch.int32),
        torch.tensor(top_p),
        torch.tensor(min_p),
        seeds,
        positions,
    )


@pytest.mark.parametrize("vocab_size", [1, 63, 1000])
@pytest.mark.parametrize("kind", KINDS)
def test_kernel_and_twin_agree(device, kind, vocab_size) -> None:
    logits = torch.randn(4, vocab_size) * 3
    rows = _rows([KINDS[kind]] * 4, torch.tensor([0, 1, -7, 2**62]), torch.tensor([0, 5, 5, 4096]))
    expected = reference.sample(logits, *rows)
    found = sample(logits.to(device), *(row.to(device) for row in rows), config=TILES)
    assert found.tolist() == expected.tolist()


def test_a_batch_of_every_kind_with_ties_and_banned_tokens(device) -> None:
    logits = (torch.randn(len(KINDS), 300) * 3).round()  # whole numbers: many ties
    logits[:, ::3] = -torch.inf
    n = torch.arange(len(KINDS))
    rows = _rows(list(KINDS.values()), n * 1000, n)
    expected = reference.sample(logits, *rows)
    found = sample(logits.to(device), *(row.to(device) for row in rows), config=TILES)
    assert found.tolist() == expected.tolist()
    assert (expected % 3 != 0).all()


@pytest.mark.parametrize("kind", ["temperature", "top-k", "top-p", "min-p", "all"])
def test_the_twin_follows_the_distribution(kind) -> None:
    n, vocab_size = 40_000, 50
    temperature, top_k, top_p, min_p = KINDS[kind]
    logits = torch.randn(vocab_size)
    rows = _rows([KINDS[kind]] * n, torch.arange(n), torch.full((n,), 11))
    tokens = reference.sample(logits.repeat(n, 1), *rows)
    share = torch.bincount(tokens, minlength=vocab_size) / n
    expected = _filtered((logits / temperature).double().softmax(0), top_k, top_p, min_p)
    spread = (expected * (1 - expected) / n).sqrt()
    assert ((share - expected).abs() <= 4.5 * spread).all()


def _filtered(probability: Tensor, top_k: int, top_p: float, min_p: float) -> Tensor:
    """The definition, token by token from the most probable one."""
    kept = torch.zeros_like(probability)
    order = probability.argsort(descending=True)
    if top_k:
        order = order[:top_k]
    total, mass = probability[order].sum(), 0.0
    for token in order:
        if mass < top_p * total and probability[token] >= min_p * probability.max():
            kept[token] = probability[token]
        mass += probability[token]
    return kept / kept.sum()


def test_the_seed_and_the_position_decide_and_the_row_does_not() -> None:
    logits = torch.randn(1, 5000).repeat(4, 1)
    hot = [(1.0, 0, 1.0, 0.0)] * 4
    rows = _rows(hot, torch.tensor([3, 3, 3, 4]), torch.tensor([8, 8, 9, 8]))
    tokens = reference.sample(logits, *rows).tolist()
    assert tokens[0] == tokens[1]
    assert len(set(tokens)) == 3


def test_noise_is_gumbel_distributed() -> None:
    """Kolmogorov-Smirnov against exp(-exp(-x)), and no correlation between positions."""
    noise = gumbel(torch.tensor([1, 1]), torch.tensor([20, 21]), 100_000)
    ordered = noise[0].double().sort().values
    rank = torch.arange(1, 100_001) / 100_000
    assert float(((-(-ordered).exp()).exp() - rank).abs().max()) < 1.95 / 100_000**0.5
    assert abs(float(torch.corrcoef(noise)[0, 1])) < 0.015


def test_a_deep_top_p_sorts_everything() -> None:
    """Flat logits: 95% of 3000 tokens is more than the twin's first probe of 1024."""
    logits = torch.zeros(200, 3000)
    logits[:, :50] = -4.0  # the least probable tokens, out of the top 95%
    n = torch.arange(200)
    tokens = reference.sample(logits, *_rows([(1.0, 0, 0.95, 0.0)] * 200, n, n))
    assert int(tokens.min()) >= 50
    assert int(tokens.max()) > 2000


def test_launcher_names_what_is_wrong(device) -> None:
    logits = torch.zeros(1, 8, device=device)
    rows = [
        row.to(device)
        for row in _rows([KINDS["all"]], torch.zeros(1).long(), torch.zeros(1).long())
    ]
    with pytest.raises(ValueError, match=r"top_k is torch\.int64, expected torch\.int32"):
        sample(logits, rows[0], rows[1].long(), *rows[2:])
