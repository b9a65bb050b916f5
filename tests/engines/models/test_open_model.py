"""`open_model`: every kind of name, the same model from either kind of file, and wrong names."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from enginebench.errors import ModelError, UnknownNameError
from enginebench_models import open_model
from enginebench_models.hf_names import canonical_name, hf_name


@pytest.fixture
def folder(tiny_hf, tmp_path):
    """A copy of the tiny folder that a test may damage."""
    return shutil.copytree(tiny_hf(), tmp_path / "model")


def test_a_gguf_file_by_content_not_by_name(tiny_gguf, tmp_path):
    path = shutil.copy(tiny_gguf(), tmp_path / "model.bin")
    model = open_model(str(path))
    assert model.info.format == "gguf"
    assert model.info.name == str(path)
    assert model.info.precision == "q4_1"
    assert model.info.parameters == 106_816
    assert (model.info.first_ordinary_token, model.info.ordinary_token_end) == (3, 512)


def test_a_folder(tiny_hf):
    model = open_model(str(tiny_hf()))
    assert model.info.format == "hf"
    assert model.config.rope_pairs == "halves"
    assert model.info.size_bytes == 4 * 106_816


def test_a_synthetic_model():
    assert open_model("synthetic:tiny@q8_0").info.format == "synthetic"


def test_a_registered_model(smollm2_path):
    model = open_model("smollm2-135m")
    assert model.info.path == str(smollm2_path)
    assert model.info.parameters == 134_515_008
    assert (model.info.first_ordinary_token, model.info.ordinary_token_end) == (17, 49_152)


def test_a_registered_model_that_was_not_pulled(monkeypatch, tmp_path):
    monkeypatch.setenv("ENGINEBENCH_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="type `bench models pull smollm2-135m`"):
        open_model("smollm2-135m")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("smollm2-135", "did you mean smollm2-135m"),
        ("synthetic:lama-3.1-8b", "did you mean llama-3.1-8b"),
        ("synthetic:tiny@q4", r"unknown synthetic weight type 'q4'.*q4_0"),
        ("./nowhere/model.gguf", "there is no such file or folder"),
        ("/nowhere", "there is no such file or folder"),
    ],
)
def test_wrong_names(name, message):
    with pytest.raises(ModelError if "nowhere" in name else UnknownNameError, match=message):
        open_model(name)


def test_a_file_of_another_format(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(b"PK\3\4....")
    with pytest.raises(ModelError, match="is no GGUF file"):
        open_model(str(path))


def test_a_folder_that_is_no_model(tmp_path):
    with pytest.raises(ModelError, match=r"it has no config.json"):
        open_model(str(tmp_path))


# ---------------------------------------------------------------- both formats hold one model


def rows_in_halves(weight: np.ndarray, heads: int) -> np.ndarray:
    """Undo what GGUF files of llama models do to the rows of q and k."""
    return weight.reshape(heads, -1, 2, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def test_gguf_and_folder_hold_the_same_weights(tiny_gguf, tiny_hf):
    ours, theirs = open_model(str(tiny_gguf("f32"))), open_model(str(tiny_hf("f32")))
    assert ours.weights.keys() == theirs.weights.keys()
    for name, tensor in ours.weights.items():
        values = tensor.dequantize()
        if "attn_q.weight" in name or "attn_k.weight" in name:
            heads = ours.config.n_heads if "attn_q" in name else ours.config.n_kv_heads
            values = rows_in_halves(values, heads)
        assert np.array_equal(values, theirs.weights[name].dequantize())


def test_gguf_and_folder_have_the_same_tokenizer(tiny_gguf, tiny_hf):
    ours, theirs = (open_model(str(path)).tokenizer for path in (tiny_gguf(), tiny_hf()))
    text = "hello wor ld <|im_end|> 你好"
    assert ours.encode(text) == theirs.encode(text)
    assert ours.encode(text, parse_special=True) == theirs.encode(text, parse_special=True)
    assert ours.pieces == theirs.pieces
    assert (ours.eos_ids, ours.special_ids) == (theirs.eos_ids, theirs.special_ids)


def test_transformers_loads_the_folder_and_agrees(tiny_hf):
    theirs = AutoModelForCausalLM.from_pretrained(tiny_hf()).state_dict()
    ours = open_model(str(tiny_hf())).weights
    for name, tensor in ours.items():
        assert torch.equal(torch.from_numpy(tensor.dequantize()), theirs[hf_name(name)])


def test_names_translate_both_ways(tiny_hf):
    names = load_file(tiny_hf() / "model.safetensors")
    assert all(hf_name(canonical_name(name)) == name for name in names)
    assert canonical_name("model.layers.3.self_attn.q_proj.bias") == "blk.3.attn_q.bias"
    assert canonical_name("visual.patch.weight") == "visual.patch.weight"


# ---------------------------------------------------------------- damaged folders


def change_tensors(folder, change) -> None:
    path = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    change(tensors)
    save_file(tensors, path)


def change_config(folder, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_missing_tensor_is_named_as_the_file_would(folder):
    change_tensors(folder, lambda t: t.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(ModelError, match=r"missing: model.layers.1.mlp.up_proj.weight"):
        open_model(str(folder))


def test_a_tensor_without_a_place_is_named(folder):
    change_tensors(folder, lambda t: t.update({"model.layers.0.mlp.router.weight": torch.ones(2)}))
    with pytest.raises(ModelError, match=r"have no place .*model.layers.0.mlp.router.weight"):
        open_model(str(folder))


def test_a_wrong_shape_is_named(folder):
    change_config(folder, intermediate_size=64)
    with pytest.raises(ModelError, match=r"mlp.gate_proj.weight' is \(128, 64\), not \(64, 64\)"):
        open_model(str(folder))


def test_absurd_layer_counts_end_at_once(folder):
    change_config(folder, num_hidden_layers=2**40)
    with pytest.raises(ModelError, match="says 1099511627776 layers, but has 20 tensors"):
        open_model(str(folder))


def test_a_tied_head_may_be_in_the_file_all_the_same(folder):
    change_tensors(folder, lambda t: t.update({"lm_head.weight": torch.ones(512, 64)}))
    assert "output.weight" not in open_model(str(folder)).weights


def test_a_folder_without_tokenizer(folder):
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"tokenizer.json: cannot be read"):
        open_model(str(folder))
