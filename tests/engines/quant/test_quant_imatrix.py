"""Importance matrices: what they sum, their file, and that quantizing by one errs less by it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from quant_models import TINY, random_model, reference_shape, reference_weights

from enginebench.cli import main
from enginebench.errors import ModelError
from enginebench_models import GGMLType, dequantize, quantize
from enginebench_models.ggml_types import GGMLType as Types
from enginebench_models.gguf import read_gguf
from enginebench_models.gguf_writer import write_gguf
from enginebench_models.imatrix import InputSums, read_importance, write_imatrix
from enginebench_models.quantizers import WEIGHTED
from enginebench_models.weights import Tensor
from enginebench_quant.importance import input_sums
from enginebench_quant.kernels.reference import forward
from enginebench_quant.perplexity import Windows


def write(path: Path, sums: dict[str, InputSums]) -> None:
    write_imatrix(path, sums, dataset="text.txt", chunks=2, chunk_tokens=512)


def test_the_file_is_in_the_known_format(tmp_path: Path) -> None:
    path = tmp_path / "model.imatrix"
    write(path, {"blk.0.attn_q.weight": InputSums(np.array([8.0, 2.0, 0.0]), 4)})
    file = read_gguf(path)
    assert file.metadata["general.type"] == "imatrix"
    assert file.metadata["imatrix.datasets"] == ["text.txt"]
    assert (file.metadata["imatrix.chunk_count"], file.metadata["imatrix.chunk_size"]) == (2, 512)
    shapes = {name: tensor.shape for name, tensor in file.tensors.items()}
    assert shapes == {"blk.0.attn_q.weight.in_sum2": (1, 3), "blk.0.attn_q.weight.counts": (1, 1)}
    found = read_importance(path)
    assert found["blk.0.attn_q.weight"].tolist() == [2.0, 0.5, 0.0]


def test_sums_are_of_what_goes_into_each_product() -> None:
    """With an input that is known: the first norm of the embeddings; all of them in order."""
    model, tokens = random_model(TINY, "F32"), [[3, 14, 15, 92], [65, 35, 89, 79]]
    done: list[int] = []
    sums = input_sums(model, Windows(tokens, 4), done.append)
    assert done == [1, 2]
    seen: list[np.ndarray] = []

    def see(x: np.ndarray) -> np.ndarray:
        seen.append(x)
        return x

    for window in tokens:
        forward(reference_shape(TINY), reference_weights(model), np.array(window), see)
    per_window = 4 * TINY.n_layers + 1
    inputs = {"blk.0.attn_k": 0, "blk.0.attn_output": 1, "blk.1.ffn_up": 6, "blk.1.ffn_down": 7}
    for name, index in inputs.items():
        found, both = sums[f"{name}.weight"], [seen[index], seen[per_window + index]]
        assert found.squares == pytest.approx(np.square(np.concatenate(both)).sum(0), rel=1e-5)
        assert found.count == 8
    assert sums["token_embd.weight"].squares.size == TINY.hidden_size
    assert len(sums) == 7 * TINY.n_layers + 1


@pytest.mark.parametrize("kind", WEIGHTED, ids=lambda kind: kind.name)
def test_errors_weigh_less_where_it_matters(kind: GGMLType) -> None:
    random = np.random.default_rng(0)
    values = random.standard_normal((64, 512)).astype(np.float32)
    importance = random.gamma(0.3, size=512).astype(np.float32)

    def error(data: np.ndarray) -> float:
        found = dequantize(data, kind, values.shape)
        return float((importance * np.square(found - values)).sum())

    assert error(quantize(values, kind, importance)) < 0.95 * error(quantize(values, kind))
    even = quantize(values, kind, np.ones(512, np.float32))
    assert np.square(dequantize(even, kind, values.shape) - values).mean() < 0.15
    nothing = quantize(np.zeros((2, 512), np.float32), kind, importance)
    assert not dequantize(nothing, kind, (2, 512)).any()


@pytest.mark.parametrize("kind", WEIGHTED, ids=lambda kind: kind.name)
@pytest.mark.parametrize("size", [1e-3, 1.0])
def test_the_reference_s_bytes(kind: GGMLType, size: float) -> None:
    libgguf = pytest.importorskip("libgguf")
    random = np.random.default_rng(1)
    values = (size * random.standard_normal((40, 512))).astype(np.float32)
    values[3], values[4, :64], values[5] = 0, 0, np.abs(values[5])
    importance = (random.gamma(0.3, size=512) + 1e-6).astype(np.float32)
    expected = libgguf.quantize_rows(values, int(kind), imatrix=importance)
    assert (quantize(values, kind, importance) == expected).all()


def test_the_reference_reads_our_file(tmp_path: Path) -> None:
    libgguf = pytest.importorskip("libgguf")
    path = tmp_path / "model.imatrix"
    write(path, {"blk.0.attn_q.weight": InputSums(np.array([8.0, 2.0, 1.0]), 4)})
    found = libgguf.load_imatrix(str(path))
    assert found["blk.0.attn_q.weight"] == pytest.approx([2.0, 0.5, 0.25])


def bench(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_from_a_text_to_a_smaller_file(tiny_gguf: Callable[..., Path], tmp_path: Path) -> None:
    text, matrix, out = (tmp_path / name for name in ("text.txt", "tiny.imatrix", "out.gguf"))
    text.write_text("Say it once more. " * 60)
    done = bench("imatrix", tiny_gguf("f32"), text, "-o", matrix, "--context", 32, "--windows", 2)
    assert done.exit_code == 0, done.output
    assert "15 tensors, 2 windows of 32 tokens" in done.output
    plain = tmp_path / "plain.gguf"
    bench("quantize", tiny_gguf("f32"), plain, "--type", "q4_0")
    done = bench("quantize", tiny_gguf("f32"), out, "--type", "q4_0", "--imatrix", matrix)
    assert done.exit_code == 0, done.output
    assert "importance matrix: 14 tensors quantized by it" in done.output
    assert out.stat().st_size == plain.stat().st_size and out.read_bytes() != plain.read_bytes()
    done = bench(
        "quantize", tiny_gguf("f32"), tmp_path / "x", "--type", "q8_0", "--imatrix", matrix
    )
    assert done.exit_code == 2 and "--imatrix does nothing for q8_0" in done.output


def test_a_matrix_of_another_model_is_refused(
    tiny_gguf: Callable[..., Path], tmp_path: Path
) -> None:
    matrix, out = tmp_path / "other.imatrix", tmp_path / "out.gguf"
    write(matrix, {"blk.0.attn_q.weight": InputSums(np.ones(32), 4)})
    done = bench("quantize", tiny_gguf("f32"), out, "--type", "q4_0", "--imatrix", matrix)
    assert done.exit_code != 0 and "of another model" in done.output
    assert not out.exists()


def tensor(name: str, values: np.ndarray) -> Tensor:
    data = values.astype(np.float32).view(np.uint8).reshape(-1)
    return Tensor(name, Types.F32, values.shape, load=lambda: data)


@pytest.mark.parametrize(
    ("kind", "tensors", "message"),
    [
        ("model", [], "no importance matrix"),
        ("imatrix", [], "no importance of any tensor"),
        ("imatrix", [("a.in_sum2", np.ones((1, 4)))], "has no a.counts"),
        (
            "imatrix",
            [("a.in_sum2", -np.ones((1, 4))), ("a.counts", np.ones((1, 1)))],
            "what no sum of squares can be",
        ),
        (
            "imatrix",
            [("a.in_sum2", np.ones((8, 4))), ("a.counts", np.ones((8, 1)))],
            "several experts",
        ),
    ],
)
def test_what_is_no_matrix_is_refused(
    tmp_path: Path, kind: str, tensors: list[tuple[str, np.ndarray]], message: str
) -> None:
    path = tmp_path / "bad.imatrix"
    write_gguf(path, {"general.type": kind}, [tensor(*pair) for pair in tensors])
    with pytest.raises(ModelError, match=message):
        read_importance(path)
