"""Products and attention of fixed shape: exact, and the same bits whatever else the call holds."""

from __future__ import annotations

import pytest
import torch
from paged_cases import HALVES, TOLERANCE, exact_attention, make_case, relative_error

from enginebench_paged.kernels import fixed_attention, fixed_product, grouped
from enginebench_paged.kernels.fixed_attention import segment_keys
from enginebench_paged.kernels.fixed_product import fixed_linear, parts_of

MASKS = [(None, None), (40, 2.0)]


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
@pytest.mark.parametrize(("m", "n", "k"), [(1, 3, 40), (65, 130, 257)])
@pytest.mark.parametrize("with_bias", [True, False], ids=["bias", "plain"])
def test_fixed_linear_is_exact(device, dtype, m, n, k, with_bias) -> None:
    x, weight = torch.randn(m, k).to(dtype), torch.randn(n, k).to(dtype)
    bias = torch.randn(n).to(dtype) if with_bias else None
    exact = x.double() @ weight.double().T + (0 if bias is None else bias.double())
    on_device = [None if one is None else one.to(device) for one in (x, weight, bias)]
    out = torch.full((m, n), torch.nan, dtype=dtype, device=device)
    assert relative_error(fixed_linear(*on_device, out=out), exact) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", [torch.float32, HALVES[1]], ids=str)
def test_a_row_has_the_same_bits_in_any_company(device, dtype) -> None:
    weight = torch.randn(72, 640).to(dtype).to(device)
    x = torch.randn(67, 640).to(dtype).to(device)
    whole = fixed_linear(x, weight)
    for first, last in ((0, 1), (66, 67), (3, 9), (1, 66)):
        assert torch.equal(fixed_linear(x[first:last], weight), whole[first:last])
    apart, together = (fixed_linear(x, weight, split=split) for split in (True, False))
    assert torch.equal(apart, whole) and torch.equal(together, whole)


def test_the_parts_of_k_follow_from_the_weight_alone() -> None:
    for n, k in ((128, 64), (2048, 11008), (152_000, 2048), (64, 100)):
        parts, each = parts_of(n, k, 64, 132)
        assert parts * each >= k > (parts - 1) * each and each % 64 == 0
    assert parts_of(2048, 11008, 64, 132)[0] > 8
    assert parts_of(152_000, 2048, 64, 132)[0] == 1


def test_groups_have_the_same_bits_in_any_company(device) -> None:
    weights = torch.randn(3, 40, 64, device=device)
    x = torch.randn(50, 64, device=device)
    bounds = torch.tensor([0, 20, 20, 50], dtype=torch.int32, device=device)
    whole = grouped.fixed_grouped_linear(x, weights, bounds)
    one = torch.tensor([0, 0, 0, 1], dtype=torch.int32, device=device)
    alone = grouped.fixed_grouped_linear(x[31:32], weights, one)
    assert torch.equal(alone, whole[31:32])


@pytest.fixture
def short_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments of 32 keys, so that short contexts have several."""
    monkeypatch.setattr(fixed_attention, "_LEAST_SEGMENT", 32)
    monkeypatch.setattr(fixed_attention, "_TILE_BYTES", 1024)


def _attend(case, **masks):
    out = torch.full_like(case.q, torch.nan)
    return fixed_attention.fixed_attention(
        case.q, case.k_cache, case.v_cache, case.block_tables, case.context_lens,
        case.query_starts, case.max_query_len, out=out, scales=case.scales, **masks,
    )  # fmt: skip


@pytest.mark.usefixtures("short_segments")
@pytest.mark.parametrize(("window", "softcap"), MASKS)
@pytest.mark.parametrize(
    ("contexts", "queries"), [([1, 63, 33, 100], [1] * 4), ([3, 70, 45, 99], [3, 1, 20, 99])]
)
def test_fixed_attention_is_exact(device, contexts, queries, window, softcap) -> None:
    case = make_case(contexts, queries, n_heads=6, n_kv_heads=2, head_dim=16)
    found = _attend(case.to(device), scale=0.3, window=window, softcap=softcap)
    exact = exact_attention(case, 0.3, window, softcap)
    assert relative_error(found, exact) < TOLERANCE[torch.float32]
    small = case.in_fp8()
    found = _attend(small.to(device), scale=0.3, window=window, softcap=softcap)
    exact = exact_attention(small.rounded(), 0.3, window, softcap)
    assert relative_error(found, exact) < TOLERANCE[torch.float32]


@pytest.mark.usefixtures("short_segments")
@pytest.mark.parametrize("dtype", [torch.float32, HALVES[1]], ids=str)
@pytest.mark.parametrize(("window", "softcap"), MASKS)
def test_a_query_has_the_same_bits_in_any_chunk(device, dtype, window, softcap) -> None:
    """A prompt of 99 tokens at once, in two chunks, and its last token as a decode in a batch."""
    case = make_case([99, 40], [99, 7], n_heads=4, n_kv_heads=2, head_dim=16, dtype=dtype).to(
        device
    )
    masks = {"scale": 0.3, "window": window, "softcap": softcap}
    whole = _attend(case, **masks)

    def part(contexts, queries, rows):
        at = [row for context, _ in zip(contexts, queries, strict=True) for row in [context]]
        starts = torch.tensor([0, *queries]).cumsum(0).int().to(device)
        return fixed_attention.fixed_attention(
            case.q[rows].contiguous(), case.k_cache, case.v_cache,
            case.block_tables[: len(at)].contiguous(),
            torch.tensor(at, dtype=torch.int32, device=device), starts, max(queries), **masks,
        )  # fmt: skip

    assert torch.equal(part([37], [37], slice(0, 37)), whole[:37])
    assert torch.equal(part([99], [62], slice(37, 99)), whole[37:99])
    for position in (0, 32, 98):
        decoded = part([position + 1], [1], slice(position, position + 1))
        assert torch.equal(decoded, whole[position : position + 1])
    rows = torch.tensor([98, 105], device=device)
    assert torch.equal(part([99, 40], [1, 1], rows), whole[rows])


@pytest.mark.usefixtures("short_segments")
def test_a_padded_row_of_a_graph_yields_zeros(device) -> None:
    case = make_case([70, 0, 40], [1] * 3, n_heads=2, n_kv_heads=1, head_dim=16)
    found = _attend(case.to(device), scale=0.3).cpu()
    assert torch.equal(found[1], torch.zeros_like(found[1])) and torch.isfinite(found).all()


def test_a_longest_context_has_few_segments() -> None:
    assert segment_keys(100) == 256
    assert segment_keys(131_072) == 4096
    assert fixed_product._ROWS == fixed_attention._ROWS == 64  # the same matrix instructions
