"""Whole models: against numpy, against `transformers`, and the real one against a known answer."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from quant_models import (
    TINY,
    mixed_model,
    random_model,
    reference_shape,
    reference_weights,
    with_flags,
)

from enginebench.errors import ModelError
from enginebench_models import Model, ModelConfig, RopeScaling, open_model
from enginebench_quant.kernels.reference import forward, quantize_activations
from enginebench_quant.kernels.table import Kernels
from enginebench_quant.model import MAX_CHUNK_TOKENS, QuantModel

TOKENS = [3, 14, 15, 92, 65, 35, 89, 79, 32, 38, 46, 26, 43]


def make_runner(model: Model, kernels: Kernels, threads: int = 2) -> QuantModel:
    return QuantModel(model, kernels, context=256, threads=threads)


def reference_logits(model: Model, tokens: list[int]) -> NDArray[np.float32]:
    is_int8 = model.weights["blk.0.attn_q.weight"].type.is_quantized
    activations = quantize_activations if is_int8 else lambda x: x
    shape, weights = reference_shape(model.config), reference_weights(model)
    return forward(shape, weights, np.array(tokens), activations)


def error_of(found: NDArray[np.float32] | None, expected: NDArray[np.float32]) -> float:
    assert found is not None
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def random_models(config: ModelConfig, type: str) -> list[Model]:
    return [random_model(config, type, seed) for seed in range(3)]


def check(models: Sequence[Model], kernels: Kernels) -> None:
    """A prompt, then single tokens, against numpy doing the same arithmetic, for three models.

    They agree to float precision, unless some activation is so close to the middle between two
    int8 codes (or a key between two halves) that it is rounded the other way: from there on logits
    differ by up to a percent. So a good part must agree exactly, and none differ by more.
    """
    errors = []
    for model in models:
        expected = reference_logits(model, TOKENS)
        runner = make_runner(model, kernels)
        try:
            errors.append([error_of(runner.forward(TOKENS[:10], 0), expected[9])])
            for position in range(10, len(TOKENS)):
                logits = runner.forward([TOKENS[position]], position)
                errors[-1].append(error_of(logits, expected[position]))
        finally:
            runner.close()
    assert np.quantile(errors, 0.25) < 2e-5
    assert np.max(errors) < 2e-2


@pytest.mark.parametrize("type", ["F16", "Q4_1", "Q8_0"])
def test_every_level(kernels: Kernels, type: str) -> None:
    check(random_models(TINY, type), kernels)


@pytest.mark.parametrize("type", ["F32", "BF16", "Q4_0", "Q5_0", "Q5_1", "IQ4_NL", "MXFP4"])
def test_every_type_that_fits_any_width(best_kernels: Kernels, type: str) -> None:
    check(random_models(TINY, type), best_kernels)


@pytest.mark.parametrize("type", ["IQ4_XS", "Q2_K", "Q3_K", "Q5_K"])
def test_superblocks(best_kernels: Kernels, type: str) -> None:
    config = with_flags(hidden_size=256, intermediate_size=256, n_heads=4, head_dim=64, n_layers=1)
    check(random_models(config, type), best_kernels)


def test_a_file_of_mixed_types(kernels: Kernels) -> None:
    """As llama.cpp mixes them: Q4_K and Q6_K, or Q5_0 and Q8_0 where superblocks do not fit."""
    config = with_flags(hidden_size=256, n_heads=4)
    models = [mixed_model(replace(config, intermediate_size=size)) for size in (96, 160, 224)]
    types = {tensor.type.name for tensor in models[0].weights.values()}
    assert types == {"F32", "Q4_K", "Q6_K", "Q5_0", "Q8_0"}
    check(models, kernels)


@pytest.mark.parametrize(
    "config",
    [
        with_flags(architecture="qwen2", attention_bias=True, rope_pairs="halves"),
        with_flags(architecture="qwen3", qk_norm=True, rope_pairs="halves", head_dim=32),
        with_flags(attention_bias=True, qk_norm=True),
        with_flags(tie_word_embeddings=False, n_kv_heads=6),
        with_flags(n_kv_heads=1, head_dim=8),
        with_flags(rope_scaling=RopeScaling("llama3", factor=8, original_context_length=64)),
        with_flags(rope_scaling=RopeScaling("linear", factor=4)),
    ],
    ids=["qwen2", "qwen3", "both", "untied-mha", "mqa", "llama3-rope", "linear-rope"],
)
def test_every_shape_and_flag(best_kernels: Kernels, config: ModelConfig) -> None:
    fills_blocks = config.head_dim * config.n_heads % 32 == 0
    check(random_models(config, "Q8_0" if fills_blocks else "F16"), best_kernels)


def test_widths_that_fill_no_block(best_kernels: Kernels) -> None:
    config = with_flags(hidden_size=44, intermediate_size=70, head_dim=12, n_heads=4)
    check(random_models(config, "F16"), best_kernels)


def test_chunks_and_cached_positions_change_nothing(best_kernels: Kernels) -> None:
    model = random_model(TINY, "BF16")
    tokens = np.random.default_rng(1).integers(0, TINY.vocab_size, 200).tolist()
    expected = reference_logits(model, tokens)[-1]
    runner = make_runner(model, best_kernels, threads=3)
    try:
        assert runner.forward(tokens[:MAX_CHUNK_TOKENS], 0, want_logits=False) is None
        logits = runner.forward(tokens[MAX_CHUNK_TOKENS:], MAX_CHUNK_TOKENS)
        assert error_of(logits, expected) < 1e-4
        runner.forward([1] * 60, 140)  # another continuation of the same prefix
        assert error_of(runner.forward(tokens[140:], 140), expected) < 1e-4
    finally:
        runner.close()


def test_logits_of_each_token(best_kernels: Kernels) -> None:
    model = random_model(TINY, "F16")
    expected = reference_logits(model, TOKENS)
    runner = make_runner(model, best_kernels)
    try:
        runner.forward(TOKENS[:4], 0, want_logits=False)
        found = [logits.copy() for logits in runner.forward_each(TOKENS[4:], 4)]
    finally:
        runner.close()
    assert error_of(np.stack(found), expected[4:]) < 1e-4


def test_threads_change_no_bit(best_kernels: Kernels) -> None:
    model = random_model(TINY, "Q4_1")
    found = []
    for threads in (1, 2, 4):
        runner = make_runner(model, best_kernels, threads)
        try:
            logits = runner.forward(TOKENS, 0)
            assert logits is not None
            found.append(logits.copy())
        finally:
            runner.close()
    assert (found[0] == found[1]).all() and (found[0] == found[2]).all()


def test_a_type_without_kernel_is_named(best_kernels: Kernels) -> None:
    model = random_model(TINY, "F32")
    tensor = model.weights["blk.1.attn_v.weight"]
    foreign = replace(tensor, type=type(tensor.type)["IQ2_XS"])
    others = [t for t in model.weights.values() if t.name != tensor.name]
    broken = replace(model, weights=type(model.weights)([*others, foreign]))
    with pytest.raises(
        ModelError, match=r"'blk.1.attn_v.weight' is IQ2_XS, which has no CPU kernel"
    ):
        make_runner(broken, best_kernels)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_matches_transformers(
    best_kernels: Kernels, architecture: str, tmp_path: Path, tiny_hf: Callable[..., Path]
) -> None:
    """A random model saved by `transformers` gives the logits that `transformers` computes."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    kind = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3"}[architecture]
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        vocab_size=512,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        initializer_range=0.1,
    )
    oracle = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    for name, parameter in oracle.named_parameters():
        if name.endswith(("bias", "norm.weight")):  # fresh ones are 0 and 1, as if left out
            torch.nn.init.normal_(parameter, mean=0.5, std=0.5)
    oracle.save_pretrained(tmp_path)
    for path in tiny_hf("f32").glob("tokenizer*"):
        shutil.copy(path, tmp_path)
    with torch.no_grad():
        expected = oracle(torch.tensor([TOKENS])).logits[0].numpy()
    runner = make_runner(open_model(str(tmp_path)), best_kernels)
    try:
        assert error_of(runner.forward(TOKENS[:9], 0), expected[8]) < 1e-3  # keys are f16 here
        assert error_of(runner.forward(TOKENS[9:], 9), expected[-1]) < 1e-3
    finally:
        runner.close()


CONTINUATION = (
    ", the city of New Haven was a thriving metropolis, with towering skyscrapers and bustling "
    "streets. But as the years went by, the city began to lose its way"
)


@pytest.mark.slow
def test_the_real_model_continues_as_the_reference_does(
    smollm2_path: Path, kernels: Kernels
) -> None:
    """llama.cpp's greedy answer, token by token, given what it said before.

    Where it says "New", exact arithmetic on the dequantized weights says "Nova" by 0.16: near ties
    go the way that the rounding of activations to int8 falls. So a few of its 32 tokens may differ,
    but each must come within 0.3 of the best logit.
    """
    model = open_model(str(smollm2_path))
    prompt = model.tokenizer.encode("Once upon a time")
    answer = model.tokenizer.encode(CONTINUATION)
    runner = make_runner(model, kernels)
    gaps = []
    try:
        logits = runner.forward(prompt, 0)
        for position, token in enumerate(answer, len(prompt)):
            assert logits is not None
            gaps.append(float(logits.max() - logits[token]))
            logits = runner.forward([token], position)
    finally:
        runner.close()
    assert max(gaps) < 0.3
    assert sum(gap > 0 for gap in gaps) <= 3
