"""The choice of a token: penalties, the greedy one, the distribution of the others, the filters."""

import numpy as np
import pytest
import torch
from packed_cases import relative_error

from enginebench_openai.protocol import SamplingParams
from enginebench_quant import candidates
from enginebench_quant.candidates import Candidates
from enginebench_quant.gpu.program import lowest_kept
from enginebench_quant.kernels.gpu import choose, reference
from enginebench_quant.penalties import TokenPenalties

NO_BAR = -torch.inf


class Case:
    """Logits and what a choice reads and writes."""

    def __init__(self, logits: torch.Tensor, *settings: float, bar: float = NO_BAR) -> None:
        device, size = logits.device, logits.shape[0]
        self.logits = logits
        self.seen, self.counts = torch.zeros(2, size, dtype=torch.int32, device=device)
        self.settings = torch.tensor(settings, device=device)
        self.bar = torch.tensor([bar], device=device)
        self.seed = torch.tensor([5], device=device)
        self.state = torch.tensor([0, 10], dtype=torch.int32, device=device)
        tiles = -(-size // choose.TILE)
        self.scratch = (
            torch.zeros(tiles, device=device),
            torch.zeros(tiles, dtype=torch.int32, device=device),
            torch.zeros(1, dtype=torch.int32, device=device),
        )

    def run(self, home) -> None:
        home.choose(
            self.logits, self.seen, self.counts, self.settings, self.bar, self.seed, self.state,
            self.scratch,
        )  # fmt: skip

    def draw(self, times: int) -> torch.Tensor:
        """How often each token comes at that many positions."""
        hits = torch.zeros(self.logits.shape[0])
        for position in range(times):
            self.state[1] = position
            self.run(choose)
            hits[int(self.state[0])] += 1
        return hits / times


@pytest.mark.parametrize("size", [1, 63, 5000])
def test_greedy_with_penalties(size, device) -> None:
    logits = torch.randn(size, device=device) * 3
    case, twin = (Case(logits, 0.0, 1.3, 0.5, 0.2) for _ in range(2))
    for _ in range(5):
        case.run(choose)
        twin.run(reference)
        for name in ("state", "seen", "counts"):
            assert torch.equal(getattr(case, name), getattr(twin, name)), name
    assert case.counts.sum() == 5 and case.scratch[2].item() == 0


@pytest.mark.parametrize("settings", [(0.0, 1.0, 0.0, 0.0), (0.7, 1.3, 0.5, 0.2)])
def test_scaled_logits_are_those_of_the_cpu_sampler(settings, device) -> None:
    case = Case(torch.randn(300, device=device) * 3, *settings)
    generated = [4, 9, 9]
    for token in generated:
        case.seen[token] = 1
        case.counts[token] += 1
    case.seen[[1, 2]] = 1
    found, expected = torch.full((2, 300), torch.nan, device=device)
    arguments = (case.logits, case.seen, case.counts, case.settings)
    choose.scaled_logits(*arguments, found)
    reference.scaled_logits(*arguments, expected)
    assert relative_error(found, expected) < 1e-6
    heat, repetition, presence, frequency = settings
    params = SamplingParams(
        temperature=heat,
        repetition_penalty=repetition,
        presence_penalty=presence,
        frequency_penalty=frequency,
    )
    penalties = TokenPenalties(params, [1, 2], 300)
    for token in generated:
        penalties.see(token)
    cpu = penalties(Candidates.of(case.logits.cpu().numpy())).logits / (heat or 1)
    assert np.allclose(found.cpu().numpy(), cpu, rtol=1e-5, atol=1e-6)


def test_drawn_as_often_as_likely(device) -> None:
    case = Case(torch.tensor([0.0, 1.0, 2.0, -1.0], device=device), 0.5, 1.0, 0.0, 0.0)
    expected = (case.logits / 0.5).softmax(0).cpu()
    assert (case.draw(150) - expected).abs().max() < 0.12


def test_a_seed_and_a_position_repeat(device) -> None:
    logits = torch.randn(500, device=device)
    first, second, other = (Case(logits, 1.0, 1.0, 0.0, 0.0) for _ in range(3))
    other.seed += 1
    chosen = []
    for case in (first, second, other):
        run = []
        for _ in range(8):
            case.run(choose)
            run.append(int(case.state[0]))
        chosen.append(run)
    assert chosen[0] == chosen[1] != chosen[2]
    assert len(set(chosen[0])) > 3


def test_nothing_below_the_bar_is_chosen(device) -> None:
    case = Case(torch.tensor([0.0, 1.0, 0.9, 0.2], device=device), 1.0, 1.0, 0.0, 0.0, bar=0.9)
    hits = case.draw(60)
    assert hits[0] == hits[3] == 0 and hits[1] > 0.3 and hits[2] > 0.3


@pytest.mark.parametrize("top_k, top_p, min_p", [(0, 1.0, 0.0), (3, 1.0, 0.0), (0, 0.5, 0.0),
                                                (0, 1.0, 0.3), (5, 0.8, 0.1), (1, 0.0, 1.0),
                                                (100, 0.999, 0.0)])  # fmt: skip
def test_the_bar_keeps_what_the_cpu_sampler_keeps(top_k, top_p, min_p, device) -> None:
    x = torch.randn(50, device=device) * 2
    bar = lowest_kept(x, torch.tensor([top_k, top_p, min_p], device=device))
    left = candidates.top_k(Candidates.of(x.cpu().numpy()), top_k or 50)
    left = candidates.min_p(candidates.top_p(left, top_p), min_p)
    assert (x >= bar).nonzero()[:, 0].tolist() == left.tokens.tolist()
