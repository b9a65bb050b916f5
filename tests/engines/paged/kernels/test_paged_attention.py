"""Both attention kernels and their twin against float64, and against each other's special cases."""

import pytest
import torch
from paged_cases import HALVES, TOLERANCE, Case, exact_attention, make_case, relative_error

from enginebench_paged.kernels import reference
from enginebench_paged.kernels.attention_decode import decode_attention, split_count
from enginebench_paged.kernels.attention_prefill import prefill_attention
from enginebench_paged.kernels.configs import DecodeConfig, PrefillConfig

MASKS = [(None, None), (5, None), (None, 3.0), (19, 2.0)]
DECODE = DecodeConfig(tile=16, programs_per_sm=1, num_warps=4, num_stages=2)
UNSPLIT = DecodeConfig(tile=16, programs_per_sm=0, num_warps=4, num_stages=2)
PREFILL = PrefillConfig(rows=16, tile=16, num_warps=4, num_stages=2)


def _reference(case: Case, **options):
    return reference.paged_attention(
        case.q, case.k_cache, case.v_cache, case.block_tables, case.context_lens,
        case.query_starts, case.max_query_len, **options,
    )  # fmt: skip


def _decode(case: Case, config: DecodeConfig, **options):
    out = torch.full_like(case.q, torch.nan)
    return decode_attention(
        case.q, case.k_cache, case.v_cache, case.block_tables, case.context_lens,
        out=out, config=config, **options,
    )  # fmt: skip


def _prefill(case: Case, **options):
    out = torch.full_like(case.q, torch.nan)
    return prefill_attention(
        case.q, case.k_cache, case.v_cache, case.block_tables, case.context_lens,
        case.query_starts, out=out, config=PREFILL, **options,
    )  # fmt: skip


@pytest.mark.parametrize(("window", "softcap"), MASKS)
@pytest.mark.parametrize(
    ("contexts", "queries"), [([1, 17, 33], [1, 1, 1]), ([3, 20, 31], [3, 1, 9]), ([16], [16])]
)
def test_the_twin_is_exact(contexts, queries, window, softcap) -> None:
    case = make_case(contexts, queries, n_heads=6, n_kv_heads=2, head_dim=10)
    found = _reference(case, scale=0.3, window=window, softcap=softcap)
    assert relative_error(found, exact_attention(case, 0.3, window, softcap)) < 2e-6


@pytest.mark.parametrize(("window", "softcap"), MASKS)
@pytest.mark.parametrize("config", [DECODE, UNSPLIT], ids=["split", "whole"])
def test_decode(device, config, window, softcap) -> None:
    case = make_case([1, 63, 16, 70], [1] * 4, n_heads=6, n_kv_heads=2, head_dim=16)
    expected = _reference(case, scale=0.3, window=window, softcap=softcap)
    found = _decode(case.to(device), config, scale=0.3, window=window, softcap=softcap)
    assert relative_error(found, expected) < TOLERANCE[torch.float32]


@pytest.mark.parametrize("head_dim", [64, 80, 128, 256])
@pytest.mark.parametrize("block_size", [16, 128])
def test_decode_head_and_block_sizes(device, head_dim, block_size) -> None:
    case = make_case(
        [40, 130], [1, 1], n_heads=3, n_kv_heads=1, head_dim=head_dim, block_size=block_size
    )
    found = _decode(case.to(device), DECODE, scale=head_dim**-0.5)
    assert relative_error(found, _reference(case, scale=head_dim**-0.5)) < TOLERANCE[torch.float32]


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(("n_heads", "n_kv_heads"), [(1, 1), (8, 1), (20, 1)])
def test_decode_groups_and_types(device, dtype, n_heads, n_kv_heads) -> None:
    case = make_case(
        [33, 5], [1, 1], n_heads=n_heads, n_kv_heads=n_kv_heads, head_dim=32, dtype=dtype
    )
    found = _decode(case.to(device), DECODE, scale=0.2)
    assert relative_error(found, exact_attention(case, 0.2)) < TOLERANCE[dtype]


@pytest.mark.parametrize("config", [DECODE, UNSPLIT], ids=["split", "whole"])
def test_a_padded_row_of_a_graph_yields_zeros(device, config) -> None:
    case = make_case([20, 0, 40], [1] * 3, n_heads=2, n_kv_heads=1, head_dim=16)
    found = _decode(case.to(device), config, scale=0.3).cpu()
    assert torch.equal(found[1], torch.zeros_like(found[1]))
    assert torch.isfinite(found).all()


def test_more_splits_than_tiles_leave_no_trace(device) -> None:
    many = DecodeConfig(tile=16, programs_per_sm=64, num_warps=4, num_stages=2)
    case = make_case([100, 1], [1, 1], n_heads=2, n_kv_heads=1, head_dim=16)
    found = _decode(case.to(device), many, scale=0.3)
    assert relative_error(found, exact_attention(case, 0.3)) < TOLERANCE[torch.float32]


def test_split_count_has_no_cliff() -> None:
    config = DecodeConfig(tile=64, programs_per_sm=4, num_warps=4, num_stages=3)
    for heads in (1, 2, 16, 100, 256, 512, 528, 2048):
        splits = split_count(heads, 8192, 64, 132, config)
        assert heads * splits >= min(4 * 132, heads * 128)
        assert splits == 1 or heads * (splits - 1) < 4 * 132
    assert split_count(1, 100, 64, 132, config) == 2


@pytest.mark.parametrize(("window", "softcap"), MASKS)
def test_prefill(device, window, softcap) -> None:
    contexts, queries = [3, 20, 45, 50], [3, 1, 20, 50]
    case = make_case(contexts, queries, n_heads=6, n_kv_heads=2, head_dim=16)
    expected = _reference(case, scale=0.3, window=window, softcap=softcap)
    found = _prefill(case.to(device), scale=0.3, window=window, softcap=softcap)
    assert relative_error(found, expected) < TOLERANCE[torch.float32]


def test_prefill_leaves_the_padding_of_a_graph_alone(device) -> None:
    case = make_case([3, 20, 45], [3, 1, 20], n_heads=6, n_kv_heads=2, head_dim=16)
    expected = _reference(case, scale=0.3)
    end = case.query_starts[-1:]
    padded = Case(
        torch.cat((case.q, torch.full_like(case.q, torch.nan))),
        case.k_cache,
        case.v_cache,
        torch.cat((case.block_tables, case.block_tables)),
        torch.cat((case.context_lens, torch.zeros_like(case.context_lens))),
        torch.cat((case.query_starts, end, end, end)),
        case.max_query_len,
    )
    found = _prefill(padded.to(device), scale=0.3)
    assert relative_error(found[: len(expected)], expected) < TOLERANCE[torch.float32]
    assert found[len(expected) :].isnan().all()


@pytest.mark.parametrize("head_dim", [80, 256])
@pytest.mark.parametrize("block_size", [16, 64])
def test_prefill_head_and_block_sizes(device, head_dim, block_size) -> None:
    case = make_case(
        [70, 17], [9, 17], n_heads=2, n_kv_heads=1, head_dim=head_dim, block_size=block_size
    )
    found = _prefill(case.to(device), scale=head_dim**-0.5)
    assert relative_error(found, _reference(case, scale=head_dim**-0.5)) < TOLERANCE[torch.float32]


def test_prefill_of_a_group_wider_than_a_tile(device) -> None:
    case = make_case([8], [3], n_heads=20, n_kv_heads=1, head_dim=16, dtype=torch.float16)
    found = _prefill(case.to(device), scale=0.3)
    assert relative_error(found, exact_attention(case, 0.3)) < TOLERANCE[torch.float16]


def test_launchers_name_what_is_wrong(device) -> None:
    case = make_case([8], [1], n_heads=3, n_kv_heads=1, head_dim=16).to(device)
    with pytest.raises(ValueError, match="expected int32"):
        decode_attention(
            case.q, case.k_cache, case.v_cache, case.block_tables.long(), case.context_lens,
            scale=1.0,
        )  # fmt: skip
    with pytest.raises(ValueError, match="window of 0"):
        _decode(case, DECODE, scale=1.0, window=0)
    with pytest.raises(ValueError, match="v_cache has shape"):
        decode_attention(
            case.q, case.k_cache, case.v_cache[..., :8], case.block_tables, case.context_lens,
            scale=1.0,
        )  # fmt: skip
