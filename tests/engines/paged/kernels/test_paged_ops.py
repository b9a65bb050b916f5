"""ops picks the twin on a CPU and Triton on a GPU, where a graph repeats what ran outside."""

import pytest
import torch
from paged_cases import TOLERANCE, Case, make_case, relative_error
from torch import Tensor

from enginebench_paged.kernels import ops, reference


def test_every_operation_has_a_twin() -> None:
    assert sorted(ops.__all__) == sorted(reference.__all__)


def test_a_cpu_takes_the_twin() -> None:
    case = make_case([20, 33], [3, 1], n_heads=4, n_kv_heads=2, head_dim=16)
    x, weight = torch.randn(3, 32), torch.randn(32)
    assert torch.equal(ops.rms_norm(x, weight, 1e-5), reference.rms_norm(x, weight, 1e-5))
    assert torch.equal(ops.silu_mul(x), reference.silu_mul(x))
    assert torch.equal(ops.linear(x, weight[None]), reference.linear(x, weight[None]))
    assert torch.equal(_attend(ops, case), _attend(reference, case))


def _attend(kernels, case: Case) -> Tensor:
    return kernels.paged_attention(
        case.q, case.k_cache, case.v_cache, case.block_tables, case.context_lens,
        case.query_starts, case.max_query_len, scale=0.25,
    )  # fmt: skip


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="captures a CUDA graph")
def test_a_captured_step_repeats_what_ran_outside() -> None:
    case = make_case(
        [20, 33], [1, 1], n_heads=4, n_kv_heads=2, head_dim=64, dtype=torch.bfloat16
    ).to(torch.device("cuda"))
    weight = torch.randn(256, 256, device="cuda", dtype=torch.bfloat16)
    scale = torch.ones(256, device="cuda", dtype=torch.bfloat16)
    one = torch.ones(2, device="cuda")
    ids = torch.arange(2, device="cuda")

    def step() -> tuple[Tensor, Tensor]:
        x = ops.linear(_attend(ops, case).view(2, 256), weight)
        x, _ = ops.add_rms_norm(x, x, scale, 1e-5)
        return x, ops.sample(x, one, torch.zeros_like(ids).int(), one, one * 0, ids, ids)

    x, tokens = step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured_x, captured_tokens = step()
    graph.replay()
    assert torch.equal(x, captured_x)
    assert torch.equal(tokens, captured_tokens)
    attended = _attend(reference, case).view(2, 256)
    expected, _ = reference.add_rms_norm(*[reference.linear(attended, weight)] * 2, scale, 1e-5)
    assert relative_error(x, expected) < TOLERANCE[torch.bfloat16]
