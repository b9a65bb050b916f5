"""A cache that went through a file continues as if it had not; what is no such file is refused."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from quant_models import TINY, random_model

from enginebench_models import ModelConfig
from enginebench_openai.capabilities import CacheFiles, SlottedEngine
from enginebench_openai.protocol import GenerationRequest, SamplingParams
from enginebench_quant.cache import KVCache
from enginebench_quant.cache_file import fingerprint, restore_cache, save_cache
from enginebench_quant.engine import QuantEngine
from enginebench_quant.kernels.table import Kernels
from enginebench_quant.model import QuantModel

SMALL = replace(TINY, n_layers=2, n_kv_heads=2, head_dim=12)


def random_cache(config: ModelConfig, lanes: int, count: int) -> KVCache:
    cache = KVCache(config, 50, lanes=lanes, tile=4)
    random = np.random.default_rng(count)
    for layer in range(config.n_layers):
        rows = random.standard_normal((2, count * cache.row_bytes // 2)).astype(np.float16)
        cache.write_rows(layer, *rows.view(np.uint8))
    return cache


@pytest.mark.parametrize("kv_type", ["q8_0", "q4_0"])
def test_a_quantized_cache_comes_back(tmp_path: Path, kv_type: str) -> None:
    config = replace(SMALL, head_dim=64)
    first, second = (KVCache(config, 50, lanes=16, tile=4, kv_type=kv_type) for _ in range(2))
    random = np.random.default_rng(0)
    for layer in range(2):
        rows = random.integers(0, 256, (2, 50 * first.row_bytes), np.uint8)
        first.write_rows(layer, *rows)
        assert all((a == b).all() for a, b in zip(first.read_rows(layer, 50), rows, strict=True))
    path = tmp_path / "prompt.cache"
    save_cache(path, range(21), first, "mark")
    restore_cache(path, second, "mark", context=50)
    for layer in range(2):
        pairs = zip(first.read_rows(layer, 21), second.read_rows(layer, 21), strict=True)
        assert all((a == b).all() for a, b in pairs)
    assert path.stat().st_size < 500 + 21 * (4 + first.position_bytes)


@pytest.mark.parametrize("count", [1, 7, 16, 50])
def test_a_file_fits_every_cpu_level(tmp_path: Path, count: int) -> None:
    wide, narrow = random_cache(SMALL, 16, count), KVCache(SMALL, 50, lanes=8, tile=4)
    path = tmp_path / "prompt.cache"
    save_cache(path, range(count), wide, "mark")
    assert restore_cache(path, narrow, "mark", context=50) == list(range(count))
    for layer in range(2):
        for found, expected in zip(
            narrow.read_rows(layer, count), wide.read_rows(layer, count), strict=True
        ):
            assert (found == expected).all() and found.any()
    assert [file.name for file in tmp_path.iterdir()] == ["prompt.cache"]


def test_an_engine_goes_on_from_a_file(best_kernels: Kernels, tmp_path: Path) -> None:
    model, path = random_model(TINY, "Q8_0"), tmp_path / "prompt.cache"
    prompt = tuple(np.random.default_rng(3).integers(0, 211, 150).tolist())
    outputs = []
    for is_second in (False, True):
        runner = QuantModel(model, best_kernels, context=256, threads=1)
        engine = QuantEngine(runner, context=256, cache_mark=fingerprint(model, "f16"))
        assert isinstance(engine, CacheFiles) and isinstance(engine, SlottedEngine)
        if is_second:
            assert engine.restore_cache(path) == 169
        engine.add(GenerationRequest("a", prompt, 20, SamplingParams(temperature=0)))
        answer = [output for _ in iter(engine.has_work, False) for output in engine.step()]
        outputs.append([token for output in answer for token in output.token_ids])
        assert answer[-1].cached_prompt_tokens == (149 if is_second else 0)
        if not is_second:
            assert engine.save_cache(path) == 169
        engine.close()
    assert outputs[0] == outputs[1]


def test_models_of_the_same_shape_have_other_fingerprints() -> None:
    marks = {fingerprint(random_model(TINY, "Q8_0", seed), "f16") for seed in range(3)}
    assert len(marks | {fingerprint(random_model(TINY, "Q8_0", 0), "q8_0")}) == 4


def header(**changes: object) -> bytes:
    fields = {"fingerprint": "mark", "tokens": 3, "layers": 2, "row_bytes": 48} | changes
    text = json.dumps(fields).encode()
    return struct.pack("<4sII", b"EBKV", 1, len(text)) + text


WHOLE = header() + bytes(3 * 4 + 2 * 2 * 3 * 48)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no prompt cache"),
        (b"GGUF" + WHOLE[4:], "is no prompt cache"),
        (struct.pack("<4sII", b"EBKV", 9, 0), "version 9"),
        (struct.pack("<4sII", b"EBKV", 1, 1 << 30), "header of 1073741824 bytes"),
        (header(fingerprint="other"), "another model"),
        (header(layers=5), "5 layers"),
        (header(tokens=51), "51 tokens, more than the context of 50"),
        (header(tokens=-1), "damaged header"),
        (header(more=1), "damaged header"),
        (WHOLE[:-1], "cut off"),
        (WHOLE + b"x", "cut off"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.cache"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        restore_cache(path, KVCache(SMALL, 50, lanes=8, tile=4), "mark", context=50)
    assert str(path) in str(caught.value)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 120), st.binary(min_size=1, max_size=8))
def test_a_damaged_file_is_refused_or_whole(tmp_path: Path, at: int, patch: bytes) -> None:
    path = tmp_path / "damaged.cache"
    path.write_bytes(WHOLE[:at] + patch + WHOLE[at + len(patch) :])
    try:
        tokens = restore_cache(path, KVCache(SMALL, 50, lanes=8, tile=4), "mark", context=50)
    except ValueError:
        return
    assert len(tokens) == 3
