"""Layers on two devices compute what one device computes; what fits where."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from enginebench.errors import ModelError
from enginebench_models import Model
from enginebench_openai.protocol import GenerationRequest, SamplingParams
from enginebench_quant.drafts import NgramDrafter
from enginebench_quant.engine import QuantEngine
from enginebench_quant.gpu.layer_split import Costs, Split, split_layers
from enginebench_quant.gpu.load import load_split
from enginebench_quant.gpu.room import costs_of, fitting_split
from enginebench_quant.gpu.split_model import SplitModel
from enginebench_quant.kernels.features import supported_levels
from enginebench_quant.kernels.table import Kernels
from enginebench_quant.model import QuantModel
from enginebench_quant.options import QuantOptions

sys.path.insert(0, str(Path(__file__).parents[1] / "quant"))
from quant_models import random_model, with_flags

CPU = torch.device("cpu")
GREEDY = SamplingParams(temperature=0)
PROMPT = [int(token) for token in np.random.default_rng(3).integers(0, 211, 30)] * 2
SHAPES = {
    "llama": {"n_layers": 3},
    "qwen2": {"n_layers": 3, "attention_bias": True, "rope_pairs": "halves"},
    "gemma3": {
        "n_layers": 3,
        "rope_pairs": "halves",
        "sliding_window": 9,
        "sliding_layers": (True, False, True),
        "sliding_rope_theta": 1000.0,
        "post_norms": True,
        "qk_norm": True,
        "embedding_scale": 9.8,
        "activation": "gelu_tanh",
        "final_softcap": 20.0,
        "attention_softcap": 15.0,
    },
}


@pytest.fixture
def kernels(request) -> Kernels:
    folder = Path(request.config.cache.mkdir("quant-kernels"))
    return Kernels(supported_levels()[0], folder, lambda message: None)


def split_model(model: Model, on_cpu: int, kernels, monkeypatch) -> SplitModel:
    """As a server loads it, with a CPU in the place of the GPU."""
    monkeypatch.setattr("enginebench_quant.load.Kernels", lambda *_: kernels)
    options = QuantOptions.resolve({"context": 96, "threads": 1}, model.config)
    split = Split(on_cpu, (model.config.n_layers - on_cpu,))
    return load_split(model, options, split, CPU, log=lambda message: None)


def whole_model(model: Model, kernels: Kernels) -> QuantModel:
    return QuantModel(model, kernels, context=96, threads=1)


def tokens_of(engine: QuantEngine, **facts) -> list[int]:
    engine.add(GenerationRequest("a", tuple(PROMPT), 16, **{"sampling": GREEDY, **facts}))
    found: list[int] = []
    while engine.has_work():
        for output in engine.step():
            found += output.token_ids
    return found


@pytest.mark.parametrize("flags", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("on_cpu", [1, 2])
def test_same_tokens_as_all_on_the_cpu(flags, on_cpu, kernels, monkeypatch) -> None:
    model = random_model(with_flags(**flags), "F32")
    split = QuantEngine(split_model(model, on_cpu, kernels, monkeypatch), context=96)
    whole = QuantEngine(whole_model(model, kernels), context=96)
    drawn = SamplingParams(temperature=0.8, top_k=20, seed=5)
    for facts in ({}, {"sampling": drawn}):
        assert tokens_of(split, **facts) == tokens_of(whole, **facts)


def test_logits_are_those_of_the_whole(kernels, monkeypatch) -> None:
    """Prompt, one token, several verified: through both parts; quantized weights."""
    model = random_model(with_flags(n_layers=3), "Q8_0")
    split, whole = split_model(model, 2, kernels, monkeypatch), whole_model(model, kernels)
    for runner in (split, whole):
        runner.forward(PROMPT[:40], 0, want_logits=False)
    for tokens, position in ((PROMPT[40:45], 40), (PROMPT[45:46], 45)):
        found, expected = (runner.forward(tokens, position) for runner in (split, whole))
        assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()
    rows = split.forward_rows(PROMPT[46:52], 46).copy()
    one_by_one = [split.forward([token], 46 + i).copy() for i, token in enumerate(PROMPT[46:52])]
    assert np.array_equal(rows, np.stack(one_by_one))
    each = [row.copy() for row in split.forward_each(PROMPT[52:57], 52)]
    assert np.array_equal(split.forward(PROMPT[52:57], 52), each[-1])
    whole.forward(PROMPT[46:52], 46)
    hidden, expected = (runner.forward_hidden(PROMPT[52:57], 52) for runner in (split, whole))
    assert np.linalg.norm(hidden - expected) < 0.05 * np.linalg.norm(expected)
    split.close()
    whole.close()


def test_guesses_and_saved_caches_change_no_answer(kernels, monkeypatch, tmp_path) -> None:
    model = random_model(with_flags(n_layers=3), "Q4_0")
    plain = QuantEngine(split_model(model, 1, kernels, monkeypatch), context=96, cache_mark="m")
    expected = tokens_of(plain)
    guessing = QuantEngine(
        split_model(model, 1, kernels, monkeypatch), context=96, drafter=NgramDrafter(3)
    )
    assert tokens_of(guessing) == expected
    assert plain.save_cache(tmp_path / "cache") == len(PROMPT) + 15
    other = QuantEngine(split_model(model, 1, kernels, monkeypatch), context=96, cache_mark="m")
    other.restore_cache(tmp_path / "cache")
    assert tokens_of(other) == expected
    assert other.stats().prefix_cache_hit_tokens_total == len(PROMPT) - 1


layers = st.lists(st.integers(1, 50), min_size=1, max_size=40)


@given(layers, st.lists(st.integers(0, 400), min_size=1, max_size=4), st.integers(0, 60), st.data())
def test_what_is_split_fits(sizes, room, end, data) -> None:
    tied = data.draw(st.booleans())
    costs = Costs(sizes, head=end, embedding=end // 2, tied=tied)
    split = split_layers(costs, room, None)
    assert split is not None and split.cpu + sum(split.gpus) == len(sizes)
    if split.cpu == len(sizes):
        return
    layer = split.cpu
    for index, (count, free) in enumerate(zip(split.gpus, room, strict=True)):
        is_last = index == len(room) - 1
        own = sum(sizes[layer : layer + count]) + end * is_last
        own += end // 2 * (layer == 0 and count > 0 and not (tied and is_last))
        assert own <= free
        layer += count
    assert split_layers(costs, room, len(sizes) - split.cpu) == split


def test_shares_follow_the_memory() -> None:
    costs = Costs([10] * 30, head=0, embedding=0, tied=True)
    assert split_layers(costs, [1000, 2000], None) == Split(0, (10, 20))
    assert split_layers(costs, [100, 200], None) == Split(0, (10, 20))
    assert split_layers(costs, [100, 100], None) == Split(10, (10, 10))
    assert split_layers(costs, [100, 100], 21) is None
    assert split_layers(costs, [5], None) == Split(30, (0,))


def test_what_does_not_fit_is_said() -> None:
    model = random_model(with_flags(n_layers=3), "Q4_0")
    costs = costs_of(model, 96, "f16")
    assert len(set(costs.layers)) == 1 and costs.tied
    need = sum(costs.layers) + costs.head
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setattr("enginebench_quant.gpu.room.RESERVED_BYTES", 0)
        patch.setattr("enginebench_quant.gpu.room.buffer_bytes", lambda config: 0)
        assert fitting_split(model, 96, [need], None) == Split(0, (3,))
        assert fitting_split(model, 96, [need - 1], None) == Split(1, (2,))
        with pytest.raises(ModelError, match=r"3 layers of tiny .* 2 do; set gpu_layers=2 or auto"):
            fitting_split(model, 96, [need - 1], 3)
        big = replace(model.config, n_layers=3)
        assert fitting_split(replace(model, config=big), 96, [0], None).cpu == 3
