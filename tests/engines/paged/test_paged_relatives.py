"""Logits of the relatives of llama, as one prompt and in a batch of decodes, from both formats."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hf_relatives import RELATIVES
from tiny_references import Reference

from enginebench_models import open_model
from enginebench_models.conversion import convert, open_source
from enginebench_models.mixes import find_mix
from enginebench_paged.cache import KVCache
from enginebench_paged.config import resolve
from enginebench_paged.inputs import Sizes, StepInputs, device_views, host_views
from enginebench_paged.loader import load
from enginebench_paged.model import Transformer, rotary_table

pytestmark = pytest.mark.usefixtures("on_the_cpu")

BLOCK, PROMPT, DECODED = 16, 45, 6
TOLERANCE = 2e-4  # of the largest logit, everything in float32
OPTIONS = {"dtype": "f32", "block_size": BLOCK, "max_batch": 2}
CPU = torch.device("cpu")


def step(tokens: list[list[int]], position: int) -> StepInputs[torch.Tensor]:
    """As many tokens of each sequence, from `position` on; sequence i lies in blocks 8 i + 1 ..."""
    each, count = len(tokens[0]), len(tokens)
    total, ends = each * count, np.arange(1, count + 1) * each
    decodes = count if each == 1 else 0
    width = -(-(position + each) // BLOCK)
    sizes = Sizes(total, count, total, decodes=decodes, max_query_len=each, width=width)
    packed = np.zeros(sizes.words, np.int64)
    x = host_views(packed, sizes)
    x.token_ids[:] = np.concatenate(tokens)
    x.positions[:] = np.tile(np.arange(position, position + each), count)
    x.cache_slots[:] = x.positions + np.repeat(np.arange(count) * 8 + 1, each) * BLOCK
    x.sequence_slots[:] = np.arange(count)
    x.sample_rows[:] = np.arange(total)
    x.context_lens[:] = position + each
    x.query_starts[1:] = ends
    return device_views(torch.from_numpy(packed), sizes)


@torch.inference_mode()
def logits(path: Path, tokens: list[int]) -> torch.Tensor:
    """Of every token: a prompt, then decodes beside a second sequence of the same tokens."""
    model = open_model(str(path))
    config = resolve(OPTIONS, model.config, CPU)
    rotary = rotary_table(model.config, config.context_length, CPU)
    net = Transformer(model.config, load(model, CPU, torch.float32), rotary)
    cache = KVCache.allocate(17, config, model.config)
    tables = torch.arange(16, dtype=torch.int32).view(2, 8) + 1
    first = step([tokens[:PROMPT]] * 2, 0)
    found = [net.logits(first.token_ids, first, tables, cache)[:PROMPT]]
    for position in range(PROMPT, len(tokens)):
        x = step([[tokens[position]]] * 2, position)
        found.append(net.logits(x.token_ids, x, tables, cache)[1:])
    return torch.cat(found)


@pytest.mark.parametrize("name", RELATIVES)
def test_logits_are_those_of_transformers(
    name: str,
    references: Callable[[str], Reference],
    logits_of: Callable[..., torch.Tensor],
    tmp_path: Path,
) -> None:
    tokens = np.random.default_rng(0).integers(3, 500, PROMPT + DECODED).tolist()
    folder = Path(references(name).model.info.name)
    expected = logits_of(name, tuple(tokens), torch.float32)
    found = logits(folder, tokens)
    assert (found - expected).abs().max() < TOLERANCE * expected.abs().max()
    convert(open_source(str(folder)), tmp_path / "model.gguf", find_mix("f32"), threads=1)
    from_gguf = logits(tmp_path / "model.gguf", tokens)
    assert (from_gguf - expected).abs().max() < TOLERANCE * expected.abs().max()
