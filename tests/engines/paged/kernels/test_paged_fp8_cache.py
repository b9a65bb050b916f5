"""An fp8 cache: both attention kernels and their twin read it, one kernel rounds into it."""

from dataclasses import replace

import pytest
import torch
from paged_cases import HALVES, TOLERANCE, exact_attention, make_case, relative_error

from enginebench_paged.kernels import reference
from enginebench_paged.kernels.attention_decode import decode_attention
from enginebench_paged.kernels.attention_prefill import prefill_attention
from enginebench_paged.kernels.configs import DecodeConfig, PrefillConfig
from enginebench_paged.kernels.rope_cache import rope_and_cache

DECODE = DecodeConfig(tile=16, programs_per_sm=1, num_warps=4, num_stages=2)
PREFILL = PrefillConfig(rows=16, tile=16, num_warps=4, num_stages=2)
FP8 = torch.float8_e4m3fn


def _cached(case) -> tuple:
    return case.k_cache, case.v_cache, case.block_tables, case.context_lens


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
def test_all_that_read_it(device, dtype, softcap) -> None:
    """Against float64 over the values that the cache holds: only the reading is on trial."""
    contexts, queries = [3, 20, 45], [1, 1, 1]
    shape = {"n_heads": 6, "n_kv_heads": 2, "head_dim": 16, "dtype": dtype}
    options = {"scale": 0.3, "softcap": softcap}
    for asked in (queries, [3, 1, 20]):
        case = make_case(contexts, asked, **shape).in_fp8()
        expected = exact_attention(case.rounded(), **options)
        starts = (case.query_starts, case.max_query_len)
        twin = reference.paged_attention(
            case.q, *_cached(case), *starts, scales=case.scales, **options
        )
        assert relative_error(twin, expected) < TOLERANCE[dtype]
        there = case.to(device)
        options |= {"scales": there.scales}
        found = prefill_attention(
            there.q, *_cached(there), there.query_starts, config=PREFILL, **options
        )
        assert relative_error(found, expected) < TOLERANCE[dtype]
        if asked is queries:
            found = decode_attention(there.q, *_cached(there), config=DECODE, **options)
            assert relative_error(found, expected) < TOLERANCE[dtype]
        del options["scales"]


def test_writing_rounds_as_the_twin_does_and_saturates(device) -> None:
    q, k, v = torch.randn(3, 5, 4, 16)
    k, v = k[:, :2] * 30, v[:, :2]
    k[1, 0, 3] = v[2, 1, 5] = 1e6
    scales = (torch.tensor([0.1, 0.5]), torch.tensor([0.01, 0.002]))
    positions, slots = torch.arange(5), torch.tensor([3, 18, -1, 40, 7])
    angles = torch.rand(8, 8) * 6
    table = torch.cat((angles.cos(), angles.sin()), 1)
    caches = []
    for where, kernels in (
        (torch.device("cpu"), reference.rope_and_cache),
        (device, rope_and_cache),
    ):
        cache = torch.zeros(2, 3, 2, 16, 16).to(FP8).to(where)
        arguments = (t.to(where) for t in (q, k, v, positions, table, *cache, slots))
        kernels(*arguments, scales=tuple(scale.to(where) for scale in scales))
        caches.append(cache.float().cpu())
    twin, found = caches
    assert twin.abs().max() == 448
    differing = twin != found  # a rotation rounded another way may cross the middle of a step
    assert differing.sum() <= 2 and torch.allclose(found, twin, rtol=0.13)
    assert (twin[:, 2, :, 8] != 0).any() and not twin[:, 1, :, 5].any()


def test_a_cache_and_its_scales_go_together(device) -> None:
    case = make_case([4], [1], n_heads=2, n_kv_heads=2, head_dim=16).in_fp8().to(device)
    with pytest.raises(ValueError, match="needs scales"):
        decode_attention(case.q, *_cached(case), scale=1.0)
    plain = replace(case, k_cache=case.k_cache.float(), v_cache=case.v_cache.float())
    with pytest.raises(ValueError, match="must have no scales"):
        decode_attention(case.q, *_cached(plain), scale=1.0, scales=case.scales)
    wrong = (case.scales[0][:1], case.scales[1])
    with pytest.raises(ValueError, match="a cache's scale has shape"):
        decode_attention(case.q, *_cached(case), scale=1.0, scales=wrong)
