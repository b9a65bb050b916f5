"""Named mixes: the types that a known model gets, and the rules of the fallbacks."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import gguf
import pytest

from enginebench.errors import UnknownNameError
from enginebench_models import ModelConfig, expected_shapes
from enginebench_models.ggml_types import GGMLType
from enginebench_models.mixes import MIX_NAMES, find_mix
from enginebench_models.quantizers import QUANTIZABLE

LLAMA_8B = ModelConfig(
    architecture="llama",
    n_layers=32,
    hidden_size=4096,
    intermediate_size=14336,
    n_heads=32,
    n_kv_heads=8,
    head_dim=128,
    vocab_size=128_256,
    context_length=8192,
)


def types(mix: str, config: ModelConfig) -> dict[str, GGMLType]:
    chosen = find_mix(mix)
    shapes = expected_shapes(config)
    return {name: chosen.type_of(name, shape, config) for name, shape in shapes.items()}


def counts(mix: str, config: ModelConfig = LLAMA_8B) -> dict[str, int]:
    return dict(Counter(type.name for type in types(mix, config).values()))


# Tensors of each type. Those of q3_k_m, q3_k_l, q5_k_m and q6_k are what llama.cpp logs when it
# loads published files of Llama 3 8B; the others were counted by its rules.
TYPES_OF_8B = {
    "q2_k": {"F32": 65, "Q2_K": 129, "Q3_K": 64, "Q4_K": 32, "Q6_K": 1},
    "q3_k_s": {"F32": 65, "Q3_K": 225, "Q6_K": 1},
    "q3_k_m": {"F32": 65, "Q3_K": 129, "Q4_K": 92, "Q5_K": 4, "Q6_K": 1},
    "q3_k_l": {"F32": 65, "Q3_K": 129, "Q5_K": 96, "Q6_K": 1},
    "q4_k_s": {"F32": 65, "Q4_K": 217, "Q5_K": 8, "Q6_K": 1},
    "q4_k_m": {"F32": 65, "Q4_K": 193, "Q6_K": 33},
    "q5_k_s": {"F32": 65, "Q5_K": 225, "Q6_K": 1},
    "q5_k_m": {"F32": 65, "Q5_K": 193, "Q6_K": 33},
    "q6_k": {"F32": 65, "Q6_K": 226},
    "q8_0": {"F32": 65, "Q8_0": 226},
}


@pytest.mark.parametrize("mix", TYPES_OF_8B)
def test_the_types_of_an_8b_model(mix):
    assert counts(mix) == TYPES_OF_8B[mix]


def test_the_layers_that_get_more_bits():
    chosen = types("q4_k_m", LLAMA_8B)
    finer = [i for i in range(32) if chosen[f"blk.{i}.ffn_down.weight"] is GGMLType.Q6_K]
    assert finer == [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]
    assert chosen["output.weight"] is GGMLType.Q6_K
    assert chosen["token_embd.weight"] is GGMLType.Q4_K
    tied = types("q4_k_m", replace(LLAMA_8B, tie_word_embeddings=True))
    assert tied["token_embd.weight"] is GGMLType.Q6_K


def test_value_projections_of_70b_get_five_bits():
    config = replace(LLAMA_8B, n_layers=80)
    assert types("q4_k_m", config)["blk.11.attn_v.weight"] is GGMLType.Q5_K
    unshared = replace(config, n_kv_heads=32)  # 65B
    assert types("q4_k_m", unshared)["blk.11.attn_v.weight"] is GGMLType.Q4_K


@pytest.mark.parametrize(
    ("mix", "columns", "expected"),
    [
        ("q2_k", 576, "Q4_0"),
        ("q3_k_s", 576, "Q4_0"),
        ("q4_k_s", 576, "Q5_0"),
        ("q5_k_s", 576, "Q5_1"),
        ("q6_k", 576, "Q8_0"),
        ("iq4_xs", 576, "IQ4_NL"),
        ("q4_0", 576, "Q4_0"),
        ("q4_0", 80, "F16"),
        ("q6_k", 80, "F16"),
        ("bf16", 7, "BF16"),
    ],
)
def test_rows_that_split_blocks_get_another_type(mix, columns, expected):
    chosen = find_mix(mix).type_of("blk.9.attn_q.weight", (64, columns), LLAMA_8B)
    assert chosen.name == expected


def test_the_head_without_whole_blocks_is_q8_0():
    config = replace(LLAMA_8B, hidden_size=576)
    assert types("q4_1", config)["output.weight"] is GGMLType.Q8_0
    assert types("q4_k_m", config)["output.weight"] is GGMLType.Q8_0


def test_vectors_stay_and_floats_are_not_mixed():
    assert counts("f16") == {"F16": 226, "F32": 65}
    assert counts("f32") == {"F32": 291}


@pytest.mark.parametrize("name", MIX_NAMES)
def test_every_mix_can_be_written_and_has_its_number(name):
    mix = find_mix(name)
    assert set(types(name, LLAMA_8B).values()) <= set(QUANTIZABLE)
    theirs = gguf.LlamaFileType(mix.file_type).name
    assert theirs.removeprefix("MOSTLY_").removeprefix("ALL_") == name.upper()


def test_names():
    assert find_mix("Q4_K_M") is find_mix("q4_k") is find_mix("q4_k_m")
    with pytest.raises(UnknownNameError, match="did you mean q4_k_m"):
        find_mix("q4km")
