"""The safetensors reader against the library's writer, and on bad files."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from enginebench.errors import ModelError
from enginebench_models.ggml_types import GGMLType
from enginebench_models.safetensors_file import read_safetensors, read_safetensors_folder

INDEX = "model.safetensors.index.json"


def test_every_float_type(tmp_path):
    values = torch.randn(3, 8)
    types = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    path = tmp_path / "x.safetensors"
    save_file({name: values.to(dtype) for name, dtype in types.items()}, path)
    for tensor in read_safetensors(path):
        assert tensor.type is GGMLType[tensor.name]
        assert tensor.shape == (3, 8)
        expected = values.to(types[tensor.name]).float().numpy()
        assert np.array_equal(tensor.dequantize(), expected)


def shards(folder, weight_map):
    save_file({"a": torch.ones(2)}, folder / "one.safetensors")
    save_file({"b": torch.zeros(3)}, folder / "two.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))


def test_shards(tmp_path):
    shards(tmp_path, {"a": "one.safetensors", "b": "two.safetensors"})
    assert {tensor.name for tensor in read_safetensors_folder(tmp_path)} == {"a", "b"}


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": "three.safetensors"}, "the shard 'three.safetensors' is missing"),
        ({"c": "one.safetensors"}, "tensor 'c' is not in one.safetensors"),
        ({"a": "../one.safetensors"}, r"'../one.safetensors' is no file name"),
        ({"a": 3}, r"Expected `str`, got `int` - at `\$.weight_map"),
    ],
)
def test_bad_indexes(tmp_path, weight_map, message):
    shards(tmp_path, weight_map)
    with pytest.raises(ModelError, match=message):
        read_safetensors_folder(tmp_path)


def test_a_folder_without_weights(tmp_path):
    with pytest.raises(ModelError, match=r"has neither model.safetensors nor model.safetensors.in"):
        read_safetensors_folder(tmp_path)


def entry(dtype="F32", shape=(2,), offsets=(0, 8)) -> dict:
    return {"t": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (entry(dtype="I64"), "tensor 't' is I64; only F32, F16, BF16"),
        (entry(offsets=(0, 9)), "truncated or corrupt"),
        (entry(offsets=(8, 16)), "truncated or corrupt"),
        (entry(offsets=(0, 8.5)), "Expected `int`"),
        (entry(offsets=(-8, 0)), "truncated or corrupt"),
        (entry(shape=(2**40, 2**40), offsets=(0, 2**82)), "truncated or corrupt"),
        (entry(shape=()), "has the shape"),
        (entry(shape=(0,), offsets=(0, 0)), "has the shape"),
        ({"t": 3}, "t: is not what it should be"),
        ([], "is not what it should be"),
    ],
)
def test_bad_headers(tmp_path, header, message):
    path = tmp_path / "bad.safetensors"
    encoded = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + b"\0" * 8)
    with pytest.raises(ModelError, match=message):
        read_safetensors(path)


@pytest.mark.parametrize("content", [b"", b"abc", b"\xff" * 8, struct.pack("<Q", 100) + b"{}"])
def test_short_files(tmp_path, content):
    path = tmp_path / "short.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"short.safetensors"):
        read_safetensors(path)


@settings(
    max_examples=200,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(st.tuples(st.integers(0, 150), st.binary(min_size=1, max_size=8)), max_size=3))
def test_a_mutated_file_opens_or_is_refused(tmp_path, mutations):
    content = bytearray(save({"a": torch.ones(4, 8), "b": torch.ones(2)}))
    for start, patch in mutations:
        content[start : start + len(patch)] = patch
    path = tmp_path / "mutated.safetensors"
    path.write_bytes(content)
    try:
        tensors = read_safetensors(path)
    except ModelError:
        return
    for tensor in tensors:
        assert tensor.data.nbytes == tensor.size_bytes
