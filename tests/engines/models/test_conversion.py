"""From folders and files to GGUF of another type: weights, words and metadata survive."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, normalizers

from enginebench.errors import ModelError, UsageError
from enginebench_models import ModelConfig, expected_shapes
from enginebench_models.cli_quantize import quantize_command
from enginebench_models.conversion import convert, open_source
from enginebench_models.ggml_types import GGMLType
from enginebench_models.gguf import read_gguf
from enginebench_models.hf_names import hf_name
from enginebench_models.mixes import MIX_NAMES, find_mix
from enginebench_models.open import open_model
from enginebench_models.pretokenizers import BPE_RULES
from enginebench_models.quantizers import quantize
from enginebench_models.sentencepiece import merges_from_scores
from enginebench_quant.kernels.reference import Shape, forward

TEXT = "Hello world! It's 2024:\n\tdef f(x): return x**2  # café 你好 👩‍👩‍👧 e\u0301"
CONFIG = ModelConfig(
    architecture="llama",
    n_layers=2,
    hidden_size=64,
    intermediate_size=96,
    n_heads=4,
    n_kv_heads=2,
    head_dim=16,
    vocab_size=512,
    context_length=256,
    rms_norm_eps=1e-5,
)
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def write_folder(folder: Path, tokenizer_from: Path, config: ModelConfig, **more) -> Path:
    """Random weights of the shape of `config`; `more` goes into config.json."""
    folder.mkdir()
    random = np.random.default_rng(1)
    tensors = {
        hf_name(name): random.normal(name.endswith("norm.weight"), 0.2, shape).astype(np.float32)
        for name, shape in expected_shapes(config).items()
    }
    save_file(tensors, folder / "model.safetensors")
    settings = {
        "model_type": config.architecture,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": config.rms_norm_eps,
        "tie_word_embeddings": config.tie_word_embeddings,
        "attention_bias": config.attention_bias,
    }
    (folder / "config.json").write_text(json.dumps(settings | more))
    for path in tokenizer_from.glob("tokenizer*"):
        shutil.copy(path, folder)
    return folder


def logits(path: Path) -> np.ndarray:
    model = open_model(str(path))
    config = model.config
    shape = Shape(
        n_layers=config.n_layers,
        n_heads=config.n_heads,
        n_kv_heads=config.n_kv_heads,
        head_dim=config.head_dim,
        eps=config.rms_norm_eps,
        adjacent_pairs=config.rope_pairs == "adjacent",
        frequencies=config.inverse_frequencies(),
    )
    weights = {name: tensor.dequantize() for name, tensor in model.weights.items()}
    return forward(shape, weights, np.arange(3, 90))


def written(source: Path, out: Path, mix: str, threads: int = 2) -> Path:
    convert(open_source(str(source)), out, find_mix(mix), threads=threads)
    return out


# ---------------------------------------------------------------- folders


@pytest.mark.parametrize(
    ("config", "more"),
    [
        (CONFIG, {}),
        (replace(CONFIG, tie_word_embeddings=True), {"rope_theta": 1e6}),
        (replace(CONFIG, attention_bias=True), {}),
        (CONFIG, {"rope_scaling": LLAMA3}),
        (CONFIG, {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
        (replace(CONFIG, architecture="qwen2", attention_bias=True), {}),
        (replace(CONFIG, architecture="qwen3", qk_norm=True, head_dim=32), {}),
    ],
    ids=["llama", "tied", "biases", "llama3-rope", "linear-rope", "qwen2", "qwen3"],
)
def test_a_folder_computes_the_same_as_a_file(tmp_path, tiny_hf, config, more):
    folder = write_folder(tmp_path / "model", tiny_hf("f32"), config, **more)
    expected, found = logits(folder), logits(written(folder, tmp_path / "out.gguf", "f32"))
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def test_words_and_template_survive(tmp_path, tiny_hf):
    model = open_model(str(tiny_hf("bf16")))
    back = open_model(str(written(tiny_hf("bf16"), tmp_path / "out.gguf", "q8_0")))
    assert back.tokenizer.encode(TEXT) == model.tokenizer.encode(TEXT)
    assert back.tokenizer.eos_ids == model.tokenizer.eos_ids
    assert back.tokenizer.special_ids == model.tokenizer.special_ids
    messages = [{"role": "user", "content": "Hi"}]
    assert back.chat_template.render(messages) == model.chat_template.render(messages)


def test_the_gguf_package_reads_the_same(tmp_path, tiny_hf):
    path = written(tiny_hf("f32"), tmp_path / "out.gguf", "q4_0")
    theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    source = open_source(str(tiny_hf("f32"))).weights
    values = source["blk.1.ffn_up.weight"].dequantize()
    expected = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q4_0)
    assert np.array_equal(theirs["blk.1.ffn_up.weight"].data, expected)
    assert theirs.keys() == dict(source).keys()


def test_the_real_model_comes_back_byte_for_byte(tmp_path, smollm2_path):
    """llama.cpp wrote that file; written as a folder and converted, it is the same again."""
    model = open_model(str(smollm2_path))
    layer = replace(model.config, n_layers=1)
    folder = tmp_path / "model"
    words = _real_tokenizer(model, tmp_path / "words")
    write_folder(folder, words, layer, rope_theta=model.config.rope_theta)
    tensors = {
        hf_name(n): _as_folder_has_it(model.weights[n], layer) for n in expected_shapes(layer)
    }
    save_file(tensors, folder / "model.safetensors")
    file = read_gguf(written(folder, tmp_path / "out.gguf", "q4_1"))
    for name, tensor in file.tensors.items():
        assert tensor.type is model.weights[name].type
        assert np.array_equal(tensor.data, model.weights[name].data)
    original = read_gguf(smollm2_path).metadata
    for key in ("pre", "tokens", "merges", "token_type", "bos_token_id", "eos_token_id"):
        found = file.metadata[f"tokenizer.ggml.{key}"]
        assert np.array_equal(found, original[f"tokenizer.ggml.{key}"])


def _as_folder_has_it(tensor, config) -> np.ndarray:
    """With rotary pairs as halves."""
    values = tensor.dequantize()
    if not tensor.name.endswith(("attn_q.weight", "attn_k.weight")):
        return values
    pairs = values.reshape(-1, config.head_dim // 2, 2, config.hidden_size)
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(values.shape)


def _real_tokenizer(model, folder: Path) -> Path:
    folder.mkdir()
    parsing = Tokenizer.from_str(model.tokenizer.parsing.to_str())
    parsing.decoder = decoders.ByteLevel()
    parsing.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "add_bos_token": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


# ---------------------------------------------------------------- tokenizers


def with_tokenizer(tmp_path: Path, tiny_hf, change) -> Path:
    """The tiny model with another tokenizer.json: what `change` makes of its own."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_hf("f32"), folder)
    tokenizer = change(Tokenizer.from_file(str(folder / "tokenizer.json")))
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.parametrize("name", ["qwen2", "llama-bpe", "smollm", "gpt-2"])
def test_the_way_of_splitting_is_recognized(tmp_path, tiny_hf, name):
    def change(tokenizer):
        rules = BPE_RULES[name]
        tokenizer.pre_tokenizer = rules.pre_tokenizer()
        if rules.nfc:
            tokenizer.normalizer = normalizers.NFC()
        tokenizer.model.ignore_merges = rules.whole_words_first
        return tokenizer

    folder = with_tokenizer(tmp_path, tiny_hf, change)
    source = open_source(str(folder))
    assert source.metadata["tokenizer.ggml.pre"] == name


def test_an_unknown_way_of_splitting_is_refused(tmp_path, tiny_hf):
    def change(tokenizer):
        tokenizer.normalizer = normalizers.Lowercase()
        return tokenizer

    folder = with_tokenizer(tmp_path, tiny_hf, change)
    with pytest.raises(ModelError, match="in a way that has no name in GGUF"):
        open_source(str(folder))


def sentence_piece_tokenizer(_) -> Tokenizer:
    pieces = ["▁", *"abcdefghijklmnop", "▁a", "ab", "bc", "▁ab", "abc", "cab", "ca", "▁c", "▁ca"]
    scores = {piece: -float(rank) for rank, piece in enumerate(pieces)}
    texts = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    vocabulary = {text: id for id, text in enumerate(texts)}
    model = models.BPE(
        vocabulary,
        merges_from_scores(scores),
        unk_token="<unk>",
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = Tokenizer(model)
    steps = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


def test_sentence_pieces_survive(tmp_path, tiny_hf):
    folder = with_tokenizer(tmp_path, tiny_hf, sentence_piece_tokenizer)
    settings = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    settings |= {"add_bos_token": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    original = open_model(str(folder)).tokenizer
    path = written(folder, tmp_path / "out.gguf", "f16")
    metadata = read_gguf(path).metadata
    assert metadata["tokenizer.ggml.model"] == "llama"
    assert metadata["tokenizer.ggml.token_type"][:4].tolist() == [2, 3, 3, 6]
    found = open_model(str(path)).tokenizer
    for text in (TEXT, "cab abc  bca", "", "</s>abc"):
        assert found.encode(text) == original.encode(text)
        assert found.decode(found.encode(text)) == text
    assert found.adds_bos


# ---------------------------------------------------------------- files


def test_a_file_keeps_its_metadata_and_its_rows(tmp_path, tiny_gguf):
    source = read_gguf(tiny_gguf("f32"))
    found = read_gguf(written(tiny_gguf("f32"), tmp_path / "out.gguf", "q8_0"))
    assert found.metadata["general.file_type"] == 7
    for key, value in source.metadata.items():
        assert np.array_equal(found.metadata[key], value)
    for name, tensor in source.tensors.items():
        values = tensor.dequantize()
        target = found.tensors[name]
        assert target.type is (GGMLType.Q8_0 if values.ndim == 2 else GGMLType.F32)
        assert np.array_equal(target.data, quantize(values, target.type))


@pytest.mark.parametrize("mix", MIX_NAMES)
def test_every_mix_of_a_small_model(tmp_path, tiny_gguf, mix):
    weights = open_model(str(written(tiny_gguf("f32"), tmp_path / "out.gguf", mix))).weights
    for name, tensor in read_gguf(tiny_gguf("f32")).tensors.items():
        values, found = tensor.dequantize(), weights[name].dequantize()
        assert np.linalg.norm(found - values) < 0.15 * np.linalg.norm(values)


def test_threads_and_slices_change_no_byte(tmp_path, tiny_gguf, monkeypatch):
    whole = written(tiny_gguf("f32"), tmp_path / "a.gguf", "q4_1", threads=1).read_bytes()
    monkeypatch.setattr("enginebench_models.conversion._SLICE_VALUES", 500)
    assert written(tiny_gguf("f32"), tmp_path / "b.gguf", "q4_1", threads=3).read_bytes() == whole


def test_tensors_of_the_same_type_are_taken_over(tmp_path, tiny_gguf):
    source = read_gguf(tiny_gguf("q4_1"))
    found = read_gguf(written(tiny_gguf("q4_1"), tmp_path / "out.gguf", "q4_1"))
    name = "blk.0.ffn_down.weight"
    assert np.array_equal(found.tensors[name].data, source.tensors[name].data)


def test_progress_adds_up(tmp_path, tiny_gguf):
    done = []
    source = open_source(str(tiny_gguf("f32")))
    out, mix = tmp_path / "out.gguf", find_mix("q5_1")
    convert(source, out, mix, threads=2, progress=lambda name, n: done.append(n))
    assert sum(done) == source.weights.parameters


def test_broken_weights_leave_no_file(tmp_path, tiny_hf):
    folder = write_folder(tmp_path / "model", tiny_hf("f32"), CONFIG)
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-4:] = np.float32(np.nan).tobytes()
    path.write_bytes(content)
    with pytest.raises(ModelError, match="holds infinities or NaN"):
        written(folder, tmp_path / "out.gguf", "q8_0")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


# ---------------------------------------------------------------- the command


def run(*arguments: object):
    return CliRunner().invoke(quantize_command, [str(a) for a in arguments])


def test_the_command_says_what_it_wrote(tmp_path, tiny_gguf):
    out = tmp_path / "out.gguf"
    done = run(tiny_gguf("f32"), out, "--type", "Q8_0", "--threads", 1)
    assert done.exit_code == 0, done.output
    assert "100 %" in done.stderr
    assert "(32.00 bits each) -> " in done.stdout
    assert "5 F32" in done.stdout
    assert out.stat().st_mode & 0o444 == 0o444 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_what_is_there_is_replaced_only_when_asked(tmp_path, tiny_gguf):
    out = tmp_path / "out.gguf"
    out.write_text("precious")
    refused = run(tiny_gguf("f32"), out, "--type", "f16")
    assert isinstance(refused.exception, UsageError)
    assert "--force replaces it" in str(refused.exception)
    assert out.read_text() == "precious"
    assert run(tiny_gguf("f32"), out, "--type", "f16", "--force").exit_code == 0
    assert read_gguf(out).metadata["general.file_type"] == 1


def test_a_quantized_source_is_pointed_out(tmp_path, tiny_gguf):
    done = run(tiny_gguf("q4_1"), tmp_path / "out.gguf", "--type", "q8_0")
    assert "quantized itself (Q4_1" in done.stderr
    plain = run(tiny_gguf("q4_1"), tmp_path / "f16.gguf", "--type", "f16")
    assert "quantized itself" not in plain.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["OUT", "--type", "q9"], "unknown quantization 'q9'"),
        (["nowhere/out.gguf", "--type", "f16"], "there is no folder"),
    ],
)
def test_bad_requests(tmp_path, tiny_gguf, arguments, message):
    places = [str(tmp_path / "out.gguf") if a == "OUT" else a for a in arguments]
    done = run(tiny_gguf("f32"), *places)
    assert message in str(done.exception)


def test_synthetic_models_are_refused(tmp_path):
    done = run("synthetic:tiny", tmp_path / "out.gguf", "--type", "f16")
    assert "from a GGUF file or a Hugging Face folder only" in str(done.exception)
