"""ModelConfig from GGUF metadata and from config.json, and its rotary frequencies."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from enginebench.errors import ModelError
from enginebench_models import ModelConfig, RopeScaling, expected_shapes
from enginebench_models.config_gguf import config_from_gguf
from enginebench_models.config_hf import config_from_hf, read_hf_config
from enginebench_models.ggml_types import GGMLType
from enginebench_models.gguf import GGUFFile, read_gguf
from enginebench_models.synthetic_shapes import SHAPES
from enginebench_models.weights import Tensor

TINY = SHAPES["tiny"]


# ---------------------------------------------------------------- the config itself


@pytest.mark.parametrize("field", ["n_layers", "hidden_size", "n_kv_heads", "rope_theta"])
def test_sizes_are_positive(field):
    with pytest.raises(ModelError, match=rf"the model's {field} is 0; it must be positive"):
        replace(TINY, **{field: 0})


def test_heads_share_kv_heads_evenly():
    with pytest.raises(ModelError, match="4 heads cannot share 3 KV heads"):
        replace(TINY, n_kv_heads=3)


def test_plain_frequencies():
    frequencies = replace(TINY, head_dim=4, rope_theta=100.0).inverse_frequencies()
    assert frequencies.tolist() == pytest.approx([1.0, 0.1])


def test_linear_scaling_divides():
    scaled = replace(TINY, rope_scaling=RopeScaling("linear", factor=4.0))
    assert np.allclose(scaled.inverse_frequencies() * 4, TINY.inverse_frequencies())


@pytest.mark.parametrize("name", ["llama-3.1-8b", "llama-3.2-1b"])
def test_llama3_scaling_is_that_of_transformers(name):
    config = SHAPES[name]
    scaling = config.rope_scaling
    theirs = LlamaConfig(
        hidden_size=config.hidden_size,
        num_attention_heads=config.n_heads,
        max_position_embeddings=config.context_length,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": config.rope_theta,
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_context_length,
        },
    )
    expected, _ = ROPE_INIT_FUNCTIONS["llama3"](theirs, torch.device("cpu"))
    assert np.allclose(config.inverse_frequencies(), expected.numpy(), rtol=1e-5)


def test_frequency_factors_divide_one_by_one():
    factors = tuple(float(i + 1) for i in range(TINY.head_dim // 2))
    scaled = replace(TINY, rope_scaling=RopeScaling("factors", frequency_factors=factors))
    assert np.allclose(scaled.inverse_frequencies() * factors, TINY.inverse_frequencies())


def test_expected_shapes_follow_the_flags():
    shapes = expected_shapes(replace(TINY, attention_bias=True, qk_norm=True))
    assert shapes["blk.1.attn_k.weight"] == (32, 64)
    assert shapes["blk.1.attn_k.bias"] == (32,)
    assert shapes["blk.0.attn_q_norm.weight"] == (16,)
    assert "output.weight" not in shapes
    untied = expected_shapes(replace(TINY, tie_word_embeddings=False))
    assert untied["output.weight"] == (512, 64)
    assert "blk.0.attn_q.bias" not in untied


# ---------------------------------------------------------------- GGUF


@pytest.fixture
def tiny_file(tiny_gguf):
    return read_gguf(tiny_gguf())


def changed(file: GGUFFile, **metadata) -> GGUFFile:
    keys = {key.replace("__", "."): value for key, value in metadata.items()}
    merged = {k: v for k, v in (file.metadata | keys).items() if v is not None}
    return replace(file, metadata=merged)


def test_gguf_of_llama(tiny_file):
    assert config_from_gguf(tiny_file) == replace(
        TINY, rope_pairs="adjacent", rms_norm_eps=float(np.float32(1e-5))
    )


def test_the_real_model(smollm2_path):
    assert config_from_gguf(read_gguf(smollm2_path)) == ModelConfig(
        architecture="llama",
        n_layers=30,
        hidden_size=576,
        intermediate_size=1536,
        n_heads=9,
        n_kv_heads=3,
        head_dim=64,
        vocab_size=49_152,
        context_length=8192,
        rope_theta=100_000.0,
        rms_norm_eps=float(np.float32(1e-5)),
        tie_word_embeddings=True,
        rope_pairs="adjacent",
    )


def test_gguf_defaults(tiny_file):
    bare = changed(
        tiny_file,
        llama__attention__head_count_kv=None,
        llama__attention__key_length=None,
        llama__rope__freq_base=None,
        llama__rope__dimension_count=None,
    )
    bare.metadata.pop("llama.attention.head_count_kv", None)
    config = config_from_gguf(
        replace(bare, metadata={**bare.metadata, "llama.attention.sliding_window": 64})
    )
    assert config.sliding_window == 64


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "general.architecture",
            "gptneox",
            "unknown architecture 'gptneox'.*gemma2.*llama.*phi3.*qwen3moe",
        ),
        ("general.architecture", 3, "general.architecture is missing or no text"),
        ("llama.block_count", "two", "metadata 'llama.block_count' is no single number"),
        ("llama.block_count", 2.5, "llama.block_count is 2.5, no integer"),
        ("llama.block_count", None, "metadata 'llama.block_count' is missing"),
        ("llama.attention.head_count", 0, "head_count is 0"),
        ("llama.attention.head_count", np.array([4, 4]), "is no single number"),
        ("llama.expert_count", 8, "metadata 'llama.expert_used_count' is missing"),
        ("llama.rope.dimension_count", 8, "rotates 8 of 16 dimensions"),
        ("llama.rope.scaling.type", "ntk", "RoPE scaling 'ntk' is not supported"),
        ("llama.rope.scaling.type", "yarn", "metadata 'llama.rope.scaling.factor' is missing"),
    ],
)
def test_bad_gguf_metadata(tiny_file, key, value, message):
    metadata = tiny_file.metadata | {key: value}
    if value is None:
        del metadata[key]
    with pytest.raises(ModelError, match=message):
        config_from_gguf(replace(tiny_file, metadata=metadata))


def test_gguf_linear_scaling(tiny_file):
    keys = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.0}
    config = config_from_gguf(replace(tiny_file, metadata=tiny_file.metadata | keys))
    assert config.rope_scaling == RopeScaling("linear", factor=2.0)


def test_gguf_frequency_factors(tiny_file):
    data = np.arange(1, 9, dtype=np.float32).view(np.uint8)
    tensor = Tensor("rope_freqs.weight", GGMLType.F32, (8,), lambda: data)
    file = replace(tiny_file, tensors=tiny_file.tensors | {tensor.name: tensor})
    scaling = config_from_gguf(file).rope_scaling
    assert scaling == RopeScaling("factors", frequency_factors=tuple(map(float, range(1, 9))))


# ---------------------------------------------------------------- config.json

BASE = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
}


def read_hf(folder, **changes) -> ModelConfig:
    (folder / "config.json").write_text(json.dumps(BASE | changes))
    return config_from_hf(folder, *read_hf_config(folder))


def test_hf_llama(tmp_path):
    assert read_hf(tmp_path, tie_word_embeddings=True) == TINY


def test_hf_qwen2_has_biases_and_no_window_by_default(tmp_path):
    config = read_hf(tmp_path, model_type="qwen2", sliding_window=128, use_sliding_window=False)
    assert config.architecture == "qwen2"
    assert config.attention_bias
    assert config.sliding_window is None


def test_hf_qwen3_has_norms_and_its_own_head_dim(tmp_path):
    config = read_hf(tmp_path, model_type="qwen3", head_dim=32)
    assert config.qk_norm
    assert not config.attention_bias
    assert config.head_dim == 32


def test_hf_mistral_is_a_llama_with_a_window(tmp_path):
    config = read_hf(tmp_path, model_type="mistral", sliding_window=128)
    assert config.architecture == "llama"
    assert config.sliding_window == 128


@pytest.mark.parametrize(
    "keys",
    [
        {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}},
    ],
)
def test_hf_rope_of_old_and_new_files(tmp_path, keys):
    config = read_hf(tmp_path, **keys)
    assert config.rope_theta == 5e5
    assert config.rope_scaling == RopeScaling("linear", factor=2.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llamma"}, "unknown model_type 'llamma'; did you mean llama"),
        ({"hidden_size": "64"}, r"Expected `int`, got `str` - at `\$.hidden_size`"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0"),
        ({"hidden_act": "gelu"}, "its activation is gelu"),
        ({"mlp_bias": True}, "its MLP has biases"),
        ({"quantization_config": {"bits": 4}}, "its weights are quantized"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "RoPE scaling 'dynamic'"),
        ({"rope_scaling": {"type": "yarn", "factor": 2, "truncate": False}}, "truncate"),
        ({"model_type": "qwen3_moe", "mlp_only_layers": [0]}, "layers have no experts"),
        ({"model_type": "qwen3_moe"}, "does not say how many experts"),
        ({"model_type": "mixtral", "num_local_experts": 2, "num_experts_per_tok": 3}, "3 of 2"),
        ({"rope_scaling": {"type": "linear"}}, "lacks or garbles 'factor'"),
        ({"sliding_window": 8, "layer_types": ["full_attention", "chunked"]}, "kinds chunked"),
        ({"sliding_window": 8, "layer_types": ["sliding_attention"]}, "1 kinds of 2 layers"),
    ],
)
def test_bad_config_json(tmp_path, changes, message):
    with pytest.raises(ModelError, match=message):
        read_hf(tmp_path, **changes)


def test_config_json_that_is_no_json(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config.json"):
        read_hf_config(tmp_path)
