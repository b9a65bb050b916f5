"""The real model: greedy tokens of `transformers`, on weights that it is given independently."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_references import continue_greedily, drain, greedy, logprobs, tokens_of

from enginebench.types import OptionValue
from enginebench_models import Model, open_model
from enginebench_paged.engine import PagedEngine

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("on_the_cpu")]

PROMPTS = ("Once upon a time", "The capital of France is", "def fibonacci(n):\n")
OUTPUT_TOKENS = 32
TEXT = (
    "The harbour lies an hour north of the city, at the mouth of a river that freezes in December."
    " Ships brought timber and took away salted fish, and for two hundred years nobody thought of"
    " building a railway. When it came at last, in the spring of 1894, the first train carried a"
    " brass band, three newspaper men and the mayor, who fell asleep before the second station."
)
_MODULES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


def hf_twin(model: Model) -> Any:
    """The model in `transformers`: rotary pairs lie in halves there, side by side in the file."""
    import transformers

    shape = model.config
    assert shape.rope_pairs == "adjacent" and shape.tie_word_embeddings
    config = transformers.LlamaConfig(
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.n_layers,
        num_attention_heads=shape.n_heads,
        num_key_value_heads=shape.n_kv_heads,
        vocab_size=shape.vocab_size,
        rms_norm_eps=shape.rms_norm_eps,
        max_position_embeddings=shape.context_length,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
    )
    twin = transformers.LlamaForCausalLM(config).eval()
    heads = {"attn_q": shape.n_heads, "attn_k": shape.n_kv_heads}
    names = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
    for layer in range(shape.n_layers):
        for ours, theirs in _MODULES.items():
            names[f"blk.{layer}.{ours}"] = f"model.layers.{layer}.{theirs}"
    state = {}
    for ours, theirs in names.items():
        values = model.weights[f"{ours}.weight"].dequantize()
        kind = ours.rpartition(".")[2]
        if kind in heads:
            values = np.concatenate([_halves(head) for head in np.split(values, heads[kind])])
        state[f"{theirs}.weight"] = torch.from_numpy(values)
    missing, unexpected = twin.load_state_dict(state, strict=False)
    assert (list(missing), list(unexpected)) == (["lm_head.weight"], [])
    twin.tie_weights()
    return twin


def _halves(head: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Rows 0, 2, 4 ... of a head, then rows 1, 3, 5 ..."""
    return np.concatenate([head[0::2], head[1::2]])


def test_greedy_tokens_are_those_of_transformers(smollm2_path: Path) -> None:
    model = open_model(str(smollm2_path))
    twin = hf_twin(model)
    engine = PagedEngine(model, {"dtype": "f32", "kv_memory_gb": 0.2})
    prompts = [tuple(model.tokenizer.encode(text)) for text in PROMPTS]
    for index, prompt in enumerate(prompts):
        engine.add(greedy(str(index), prompt, OUTPUT_TOKENS))
    outputs = drain(engine)
    for index, prompt in enumerate(prompts):
        expected = continue_greedily(twin, prompt, OUTPUT_TOKENS)
        assert tokens_of(outputs[str(index)]) == expected


def test_bf16_tells_the_same_story(smollm2_path: Path) -> None:
    """Where rounding decides between near-ties the wording may part, but not at the first words."""
    model = open_model(str(smollm2_path))
    prompt = model.tokenizer.encode("Once upon a time")
    texts = []
    for dtype in ("f32", "bf16"):
        engine = PagedEngine(model, {"dtype": dtype, "kv_memory_gb": 0.2})
        engine.add(greedy("story", prompt, OUTPUT_TOKENS))
        texts.append(model.tokenizer.decode(tokens_of(drain(engine)["story"])))
    assert texts[0].startswith(", the city of N")
    assert texts[1][:60] == texts[0][:60]


@pytest.mark.parametrize(
    ("options", "most_nats"),
    [
        ({"kv_cache_dtype": "fp8"}, 0.3),
        ({"quantization": "int8"}, 0.15),
        ({"quantization": "int4", "quantization_group": 32}, 0.3),
        ({"quantization": "fp8"}, 0.3),
    ],
    ids=str,
)
def test_fewer_bits_say_nearly_the_same(
    smollm2_path: Path, options: dict[str, OptionValue], most_nats: float
) -> None:
    """Logprobs of a text move by so much in the mean, and perplexity by no more than 10%."""
    model = open_model(str(smollm2_path))
    tokens = tuple(model.tokenizer.encode(TEXT))
    plain: dict[str, OptionValue] = {"dtype": "f32", "kv_memory_gb": 0.2}
    exact, found = (
        logprobs(PagedEngine(model, {**plain, **given}), tokens) for given in ({}, options)
    )
    assert 0.001 < (found - exact).abs().mean() < most_nats
    assert abs(float(found.mean() - exact.mean())) < 0.1
