"""The repack is exact: planes give what the file's blocks give, bit for bit."""

import pytest
import torch
from packed_cases import random_bytes, random_planes

from enginebench_models import GGMLType, dequantize
from enginebench_quant.gpu.synthetic import fill_planes
from enginebench_quant.kernels.gpu import planes as home
from enginebench_quant.kernels.gpu.planes import FORMATS, empty_planes, repack, values

CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("rows, columns", [(1, 256), (7, 768), (33, 1024)])
def test_repack_is_exact(kind: str, rows: int, columns: int) -> None:
    data = random_bytes(kind, rows, columns, seed=rows)
    planes = empty_planes(kind, rows, columns, CPU)
    repack(torch.from_numpy(data), planes)
    expected = torch.from_numpy(dequantize(data, GGMLType[kind], (rows, columns)))
    assert torch.equal(values(planes), expected)


@pytest.mark.parametrize("kind", FORMATS)
def test_repack_in_pieces(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = random_planes(kind, 19, 256, CPU)
    monkeypatch.setattr(home, "VALUES_AT_ONCE", 4 * 256)
    pieces = random_planes(kind, 19, 256, CPU)
    assert all(torch.equal(a, b) for a, b in zip(whole.tensors, pieces.tensors, strict=True))


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "MXFP4"])
def test_blocks_of_32_need_no_whole_super_block(kind: str) -> None:
    data = random_bytes(kind, 3, 96)
    planes = random_planes(kind, 3, 96, CPU)
    expected = torch.from_numpy(dequantize(data, GGMLType[kind], (3, 96)))
    assert torch.equal(values(planes), expected)


@pytest.mark.parametrize("kind", FORMATS)
def test_sizes(kind: str) -> None:
    planes = random_planes(kind, 5, 512, CPU)
    form, type = FORMATS[kind], GGMLType[kind]
    assert planes.n_bytes == 5 * 16 * form.bytes_per_block
    assert (form.block_bytes, form.file_values) == (type.block_bytes, type.block_size)
    assert planes.n_bytes <= 1.03 * 5 * type.row_bytes(512)
    assert (planes.rows, planes.columns) == (5, 512)


@pytest.mark.parametrize("kind", FORMATS)
def test_made_up_planes_have_the_spread_of_weights(kind: str) -> None:
    planes = empty_planes(kind, 64, 1024, CPU)
    fill_planes(planes, torch.Generator().manual_seed(1))
    numbers = values(planes)
    assert abs(numbers.mean()) < 0.2 * numbers.std()
    assert 0.7 < numbers.std() * 32 < 1.4


def test_a_slice_shares_memory() -> None:
    planes = random_planes("Q6_K", 8, 256, CPU)
    part = planes.slice(2, 5)
    assert torch.equal(values(part), values(planes)[2:5])
    part.scales.zero_()
    assert values(planes)[2:5].count_nonzero() == 0


def test_rows_of_broken_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="288 values are no whole number of Q4_K blocks"):
        empty_planes("Q4_K", 2, 288, CPU)
