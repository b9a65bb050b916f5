"""Synthetic models: true shapes, sane values, files that others can read."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginebench.errors import ModelError
from enginebench_models import open_model
from enginebench_models.dequantizers import dequantize
from enginebench_models.ggml_types import GGMLType
from enginebench_models.ordinary import ordinary_range
from enginebench_models.random_blocks import RANDOM_TYPES, random_rows
from enginebench_models.synthetic import TYPE_NAMES, open_synthetic
from enginebench_models.synthetic_files import write_synthetic_gguf, write_synthetic_hf
from enginebench_models.synthetic_shapes import SHAPES

# As the model cards give them.
PARAMETERS = {
    "smollm2-135m": 134_515_008,
    "smollm2-360m": 361_821_120,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-3b": 3_085_938_688,
    "qwen2.5-7b": 7_615_616_512,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-2-7b": 6_738_415_616,
    "qwen3-8b": 8_190_735_360,
    "gemma-2-2b": 2_614_341_888,
    "gemma-3-1b": 999_885_952,
    "phi-3-mini": 3_821_079_552,
    "mixtral-8x7b": 46_702_792_704,
    "qwen1.5-moe-a2.7b": 14_315_784_192,
    "qwen3-30b-a3b": 30_532_122_624,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_shapes_add_up_to_the_published_size(name):
    info = open_synthetic(f"synthetic:{name}").info
    assert info.parameters == PARAMETERS[name]
    assert info.precision == "bf16" and info.weight_types == ("BF16",)
    assert info.path is None


def test_a_mix_names_all_types_of_its_matrices():
    assert open_synthetic("synthetic:llama-3.2-1b@q4_k_m").info.weight_types == ("Q4_K", "Q6_K")
    assert open_synthetic("synthetic:qwen2.5-0.5b@q4_k_m").info.weight_types == (
        "Q4_K",
        "Q5_0",
        "Q6_K",
        "Q8_0",
    )


def test_every_shape_is_tested():
    assert PARAMETERS.keys() | {"tiny"} == SHAPES.keys()


@pytest.mark.parametrize("type", RANDOM_TYPES, ids=lambda type: type.name)
@pytest.mark.parametrize("spread", [1 / 16, 1 / 128])
def test_random_blocks_have_mean_zero_and_the_spread_asked_for(type, spread):
    data = random_rows(type, 256, 1024, spread, seed=3)
    values = dequantize(data, type, (256, 1024))
    assert np.isfinite(values).all()
    assert abs(values.mean()) < 0.02 * spread
    assert 0.7 * spread < values.std() < 1.4 * spread
    assert np.abs(values).max() < 6 * spread


def test_tensors_are_the_same_on_every_access_and_differ_by_name():
    first, second = (open_synthetic("synthetic:tiny@q4_0").weights for _ in range(2))
    query = first["blk.0.attn_q.weight"]
    assert np.array_equal(query.data, second["blk.0.attn_q.weight"].data)
    assert not np.array_equal(query.data, first["blk.1.attn_q.weight"].data)
    assert not query.data.flags.writeable


@pytest.mark.parametrize("type", TYPE_NAMES)
def test_every_type_keeps_activations_in_range(type):
    weights = open_synthetic(f"synthetic:tiny@{type}").weights
    x = np.random.default_rng(0).standard_normal(64)
    for name in ("blk.0.attn_q.weight", "blk.0.ffn_up.weight", "blk.1.attn_output.weight"):
        y = weights[name].dequantize() @ x
        assert 0.3 < y.std() < 3
    assert 0.8 < weights["output_norm.weight"].dequantize().mean() < 1.2


def test_the_mix_falls_back_where_rows_do_not_divide():
    weights = open_synthetic("synthetic:smollm2-135m@q4_k_m").weights
    assert weights["blk.0.attn_q.weight"].type is GGMLType.Q5_0  # 576 = 2.25 * 256
    assert weights["token_embd.weight"].type is GGMLType.Q8_0
    assert weights["blk.0.ffn_down.weight"].type is GGMLType.Q6_K  # 1536 = 6 * 256
    assert weights["blk.5.ffn_down.weight"].type is GGMLType.Q6_K
    assert weights["blk.4.ffn_down.weight"].type is GGMLType.Q4_K


def test_the_mix_costs_about_five_bits():
    info = open_synthetic("synthetic:llama-3.1-8b@q4_k_m").info
    assert 4.8 < 8 * info.size_bytes / info.parameters < 5.0


@pytest.mark.parametrize("name", ["tiny", "llama-2-7b", "qwen2.5-0.5b"])
def test_the_vocabulary_has_the_model_s_size_and_ordinary_tokens_come_back(name):
    model = open_synthetic(f"synthetic:{name}")
    info, tokenizer = model.info, model.tokenizer
    assert tokenizer.vocab_size == info.vocab_size
    words = range(info.first_ordinary_token + 256, info.ordinary_token_end)
    ids = np.random.default_rng(0).choice(words, 64).tolist()
    assert tokenizer.encode(tokenizer.decode(ids)) == ids


def test_the_template_is_chatml():
    template = open_synthetic("synthetic:tiny").chat_template
    assert template.render([{"role": "user", "content": "Hi"}]) == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


# ---------------------------------------------------------------- written to files


@pytest.mark.parametrize("type", TYPE_NAMES)
def test_written_files_are_read_by_the_gguf_package(tmp_path, type):
    path = tmp_path / "tiny.gguf"
    write_synthetic_gguf(f"synthetic:tiny@{type}", path)
    ours = open_model(str(path))
    theirs = gguf.GGUFReader(path)
    assert {t.name for t in theirs.tensors} == ours.weights.keys()
    for tensor in theirs.tensors:
        assert tensor.data.tobytes() == ours.weights[tensor.name].data.tobytes()
    assert theirs.get_field("llama.block_count").contents() == 2
    assert [file.name for file in tmp_path.iterdir()] == ["tiny.gguf"]


def test_scaled_frequencies_survive_the_way_through_a_file(tmp_path, monkeypatch):
    shape = SHAPES["tiny"]
    scaled = type(shape)(
        **{field: getattr(shape, field) for field in shape.__dataclass_fields__}
        | {"rope_scaling": SHAPES["llama-3.1-8b"].rope_scaling, "context_length": 131_072}
    )
    monkeypatch.setitem(SHAPES, "scaled", scaled)
    write_synthetic_gguf("synthetic:scaled@q4_0", tmp_path / "scaled.gguf")
    write_synthetic_hf("synthetic:scaled@bf16", tmp_path / "scaled")
    for path in ("scaled.gguf", "scaled"):
        config = open_model(str(tmp_path / path)).config
        assert np.allclose(config.inverse_frequencies(), scaled.inverse_frequencies(), rtol=1e-6)


def test_quantized_weights_make_no_folder(tmp_path):
    with pytest.raises(ModelError, match="safetensors hold no quantized weights"):
        write_synthetic_hf("synthetic:tiny@q4_0", tmp_path / "x")
    assert not (tmp_path / "x").exists()


# ---------------------------------------------------------------- ordinary tokens


@pytest.mark.parametrize(
    ("vocab_size", "n_tokens", "special", "expected"),
    [
        (100, 100, {0, 1, 2}, (3, 100)),
        (100, 90, {80, 81}, (0, 80)),
        (100, 120, {40}, (41, 100)),
        (10, 10, set(), (0, 10)),
    ],
)
def test_ordinary_range(vocab_size, n_tokens, special, expected):
    assert ordinary_range(vocab_size, n_tokens, special) == expected


@given(st.integers(1, 60), st.integers(1, 60), st.sets(st.integers(0, 70)))
def test_ordinary_tokens_exist_and_are_not_special(vocab_size, n_tokens, special):
    first, end = ordinary_range(vocab_size, n_tokens, special)
    assert 0 <= first <= end <= min(vocab_size, n_tokens)
    assert not special.intersection(range(first, end))


@pytest.mark.parametrize(
    ("name", "reason"),
    [("gemma-2-2b", "which have soft caps"), ("phi-3-mini", "with merged matrices")],
)
def test_folders_that_would_say_less_than_the_model_are_not_written(tmp_path, name, reason):
    with pytest.raises(ModelError, match=reason):
        write_synthetic_hf(f"synthetic:{name}", tmp_path)
