"""The GGUF reader: good files against the `gguf` package, bad ones against the clock and memory."""

from __future__ import annotations

import struct
import time
import tracemalloc

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enginebench.errors import ModelError
from enginebench_models.ggml_types import GGMLType
from enginebench_models.gguf import read_gguf
from enginebench_models.open_gguf import open_gguf


@pytest.fixture
def foreign(tmp_path):
    """A file written by the `gguf` package, with every kind of value."""
    path = tmp_path / "foreign.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint8("a.u8", 200)
    writer.add_int16("a.i16", -300)
    writer.add_uint64("a.u64", 2**63)
    writer.add_float64("a.f64", 0.1)
    writer.add_bool("a.bool", True)
    writer.add_string("a.text", "čaj ☕")
    writer.add_array("a.strings", ["", "a", "é"])
    writer.add_array("a.ints", [1, -2, 3])
    writer.add_array("a.floats", [0.5, -1.5])
    writer.add_tensor("v", np.arange(5, dtype=np.float32))
    writer.add_tensor("m", np.arange(12, dtype=np.float16).reshape(3, 4))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_metadata_of_every_kind(foreign):
    metadata = read_gguf(foreign).metadata
    assert metadata["general.architecture"] == "llama"
    assert metadata["a.u8"] == 200
    assert metadata["a.i16"] == -300
    assert metadata["a.u64"] == 2**63
    assert metadata["a.f64"] == 0.1
    assert metadata["a.bool"] is True
    assert metadata["a.text"] == "čaj ☕"
    assert metadata["a.strings"] == ["", "a", "é"]
    assert metadata["a.ints"].tolist() == [1, -2, 3]
    assert metadata["a.floats"].tolist() == [0.5, -1.5]


def test_tensors_are_read_only_views(foreign):
    tensors = read_gguf(foreign).tensors
    assert tensors["v"].shape == (5,)
    assert tensors["v"].data.shape == (1, 20)
    assert tensors["m"].shape == (3, 4)
    assert tensors["m"].data.shape == (3, 8)
    assert np.array_equal(tensors["m"].dequantize(), np.arange(12.0).reshape(3, 4))
    with pytest.raises(ValueError, match="read-only"):
        tensors["v"].data[0, 0] = 1
    with pytest.raises(ValueError, match="cannot set WRITEABLE"):
        tensors["v"].data.flags.writeable = True


def test_released_pages_can_be_read_again(tiny_gguf):
    tensor = read_gguf(tiny_gguf("f32")).tensors["token_embd.weight"]
    before = tensor.data.copy()
    tensor.release()
    assert np.array_equal(tensor.data, before)


def test_the_real_header_is_read_quickly(smollm2_path):
    fastest = min(timed(lambda: read_gguf(smollm2_path)) for _ in range(5))
    assert fastest < 0.3
    file = read_gguf(smollm2_path)
    assert len(file.metadata["tokenizer.ggml.tokens"]) == 49_152
    types = [tensor.type for tensor in file.tensors.values()]
    assert (types.count(GGMLType.Q4_1), types.count(GGMLType.Q8_0), len(types)) == (210, 1, 272)


@pytest.mark.slow  # the package takes seconds to read the vocabulary
def test_the_real_tensors_are_those_of_the_gguf_package(smollm2_path):
    theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(smollm2_path).tensors}
    ours = read_gguf(smollm2_path).tensors
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.data.tobytes() == theirs[name].data.tobytes()
        assert tensor.shape == tuple(theirs[name].shape[::-1])


# ---------------------------------------------------------------- bad files


def timed(action) -> float:
    start = time.process_time()
    action()
    return time.process_time() - start


def header(*, n_tensors=0, n_keys=0, version=3, rest=b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_keys) + rest


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def tensor(name="t", dimensions=(32,), type=0, offset=0) -> bytes:
    shape = struct.pack(f"<I{len(dimensions)}Q", len(dimensions), *dimensions)
    return text(name) + shape + struct.pack("<IQ", type, offset)


HUGE = 2**62
BAD = {
    "an empty file": (b"", "is empty"),
    "another format": (b"PK\3\4" + b"\0" * 40, "not a GGUF file"),
    "four bytes": (b"GGUF", "version needs 4 bytes"),
    "version 1": (header(version=1), "GGUF version 1; versions 2 and 3"),
    "big-endian": (header(version=3 << 24), "big-endian"),
    "too many keys": (header(n_keys=HUGE), f"metadata count is {HUGE}"),
    "too many tensors": (header(n_tensors=HUGE), f"tensor count is {HUGE}"),
    "a key past the end": (
        header(n_keys=1, rest=struct.pack("<Q", HUGE) + b"x" * 20),
        f"metadata key needs {HUGE} bytes",
    ),
    "an empty key": (header(n_keys=1, rest=text("") + b"\0" * 20), "has 0 characters"),
    "a key that is no UTF-8": (
        header(n_keys=1, rest=struct.pack("<Q", 1) + b"\xff" + b"\0" * 20),
        "metadata key is not UTF-8",
    ),
    "an unknown value type": (
        header(n_keys=1, rest=text("k") + struct.pack("<IQ", 99, 0)),
        "metadata 'k' has the unknown value type 99",
    ),
    "a long number array": (
        header(n_keys=1, rest=text("k") + struct.pack("<IIQ", 9, 4, HUGE)),
        f"metadata 'k' length is {HUGE}",
    ),
    "a long string array": (
        header(n_keys=1, rest=text("k") + struct.pack("<IIQ", 9, 8, HUGE)),
        f"metadata 'k' length is {HUGE}",
    ),
    "a long string in an array": (
        header(n_keys=1, rest=text("k") + struct.pack("<IIQQ", 9, 8, 1, HUGE)),
        "metadata 'k': string 0 reaches past",
    ),
    "strings cut off": (
        header(n_keys=1, rest=text("k") + struct.pack("<IIQ", 9, 8, 2) + text("x" * 9) + b"1234"),
        "cut off after 1 of 2 strings",
    ),
    "arrays in arrays in arrays in arrays": (
        header(n_keys=1, rest=text("k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 4),
        "elements of the unknown type 9",
    ),
    "a key twice": (
        header(n_keys=2, rest=(text("k") + struct.pack("<II", 4, 1)) * 2),
        "'k' stands there twice",
    ),
    "a tensor twice": (header(n_tensors=2, rest=tensor() * 2 + b"\0" * 256), "'t' stands there"),
    "a wild alignment": (
        header(n_keys=1, rest=text("general.alignment") + struct.pack("<II", 4, 3)),
        "general.alignment is 3",
    ),
    "no dimensions": (header(n_tensors=1, rest=tensor(dimensions=())), "has 0 dimensions"),
    "five dimensions": (header(n_tensors=1, rest=tensor(dimensions=(1,) * 5)), "5 dimensions"),
    "an empty tensor": (header(n_tensors=1, rest=tensor(dimensions=(0, 4))), "empty shape"),
    "a huge tensor": (
        header(n_tensors=1, rest=tensor(dimensions=(HUGE, HUGE, HUGE))),
        "tensor 't' needs bytes",
    ),
    "an unknown tensor type": (header(n_tensors=1, rest=tensor(type=77)), "type number 77"),
    "a row that splits a block": (
        header(n_tensors=1, rest=tensor(dimensions=(33,), type=2)),
        "rows of 33 values, no multiple of Q4_0's 32",
    ),
    "an offset between boundaries": (header(n_tensors=1, rest=tensor(offset=7)), "offset 7"),
    "a far offset": (
        header(n_tensors=1, rest=tensor(offset=1 << 40) + b"\0" * 256),
        "truncated or corrupt",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_and_the_field_named(tmp_path, name):
    content, message = BAD[name]
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        read_gguf(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_an_error_with_its_path(tmp_path):
    with pytest.raises(ModelError, match="No such file"):
        read_gguf(tmp_path / "nowhere.gguf")


def test_every_truncation_is_refused(tiny_gguf, tmp_path):
    whole = tiny_gguf().read_bytes()
    path = tmp_path / "cut.gguf"
    for length in [*range(0, 400, 7), *range(400, len(whole) - 64, 997)]:
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError):
            read_gguf(path)


mutations = st.lists(
    st.tuples(
        st.floats(0, 1, exclude_max=True),
        st.one_of(
            st.binary(min_size=1, max_size=9),
            st.sampled_from([0, 1, 2**31, 2**32 - 1, 2**62, 2**64 - 1]).map(
                lambda number: struct.pack("<Q", number)
            ),
        ),
    ),
    min_size=1,
    max_size=4,
)


@settings(
    max_examples=400,
    derandomize=True,
    deadline=2000,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(mutations=mutations, header_only=st.booleans())
def test_a_mutated_file_opens_or_is_refused(tiny_gguf, tmp_path, mutations, header_only):
    content = bytearray(tiny_gguf().read_bytes())
    span = 1500 if header_only else len(content)
    for place, patch in mutations:
        start = int(place * span)
        content[start : start + len(patch)] = patch
    path = tmp_path / "mutated.gguf"
    path.write_bytes(content)
    try:
        model = open_gguf(path, "mutated")
        _ = model.tokenizer
    except ModelError:
        return
    for tensor in model.weights.values():
        assert tensor.data.nbytes == tensor.size_bytes


def test_counts_allocate_nothing_before_they_are_checked(tmp_path):
    path = tmp_path / "greedy.gguf"
    claims = text("k") + struct.pack("<IIQ", 9, 8, 2**40)
    path.write_bytes(header(n_keys=1, rest=claims))
    tracemalloc.start()
    try:
        with pytest.raises(ModelError):
            read_gguf(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
