"""`--hardware`: every way to write it, what is refused, and that reading undoes writing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginebench import hardware
from enginebench.errors import UsageError
from enginebench.hardware import Capacity, default_hardware, parse_hardware
from enginebench.types import Hardware

BIG = Capacity(cores=64, gpus=(0, 1, 2, 3))
SMALL = Capacity(cores=2)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cpu", [Hardware(64)]),
        ("cpu:2", [Hardware(2)]),
        ("cpu:1,cpu:2,cuda:0", [Hardware(1), Hardware(2), Hardware(gpus=(0,))]),
        ("cuda:0,1", [Hardware(gpus=(0, 1))]),
        ("cuda:0,cuda:1", [Hardware(gpus=(0,)), Hardware(gpus=(1,))]),
        ("cuda:0,1,cuda:2", [Hardware(gpus=(0, 1)), Hardware(gpus=(2,))]),
        ("cuda:0+cpu:8", [Hardware(8, (0,))]),
        ("cpu:8+cuda:0", [Hardware(8, (0,))]),
        ("cuda:1,0+cpu:8,cpu", [Hardware(8, (1, 0)), Hardware(64)]),
        ("cuda:0+cpu", [Hardware(64, (0,))]),
        (" cpu:1 , cuda:0, 1 ", [Hardware(1), Hardware(gpus=(0, 1))]),
    ],
)
def test_reads(text: str, expected: list[Hardware]) -> None:
    assert list(parse_hardware(text, BIG)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cpu:64", "asks for 64 cores, this machine has 2; use cpu:1 to cpu:2"),
        ("cpu:0", "asks for 0 cores"),
        ("cpu:1,2", "write cpu:1,cpu:2"),
        ("cuda:0", "asks for a GPU, this machine has none"),
        ("gpu:0", "cannot read 'gpu:0'; write cpu"),
        ("", "cannot read ''"),
        ("cpu:1,", "cannot read ''"),
        ("1", "cannot read '1'"),
        ("cpu:x", "cannot read 'cpu:x'"),
        ("cpu:-1", "cannot read 'cpu:-1'"),
        ("cpu:1+cpu:2", "names cpu twice"),
        ("cpu:1,cpu:1", "names cpu:1 twice"),
        ("cpu:2,cpu", "names cpu:2 twice"),
        ("cpu:" + "9" * 5000, "cannot read"),
    ],
)
def test_refuses_on_a_small_machine(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message.replace(":", r"\:")):
        parse_hardware(text, SMALL)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cuda:4", "there is no cuda:4, only cuda:0, cuda:1, cuda:2, cuda:3"),
        ("cuda", "does not say which GPU"),
        ("cuda:1,1", "names a GPU twice"),
        ("cuda:0+cuda:1", "names cuda twice"),
    ],
)
def test_refuses_gpus_that_are_not_there(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_hardware(text, BIG)


entries = st.builds(
    Hardware,
    cpu_threads=st.none() | st.integers(1, BIG.cores),
    gpus=st.lists(st.sampled_from(BIG.gpus), unique=True).map(tuple),
).filter(lambda entry: entry != Hardware())


@given(st.lists(entries, min_size=1, max_size=5, unique=True))
def test_reading_undoes_writing(expected: list[Hardware]) -> None:
    assert parse_hardware(",".join(map(str, expected)), BIG) == tuple(expected)


@given(st.text(alphabet="cpuda:0123456789,+ ", max_size=20))
def test_any_text_is_read_or_refused_as_a_user_error(text: str) -> None:
    try:
        found = parse_hardware(text, BIG)
    except UsageError:
        return
    assert all(entry.gpus or entry.cpu_threads for entry in found)
    assert all(entry.cpu_threads is None or entry.cpu_threads <= BIG.cores for entry in found)


def test_default_is_the_first_gpu_or_all_cores() -> None:
    assert default_hardware(Capacity(8, (2, 3))) == Hardware(gpus=(2,))
    assert default_hardware(SMALL) == Hardware(2)


@pytest.mark.parametrize(
    ("visible", "expected"),
    [(None, (0, 1, 2)), ("1,2", (1, 2)), ("", ()), ("7", ()), ("GPU-3f", (0, 1, 2))],
)
def test_cuda_visible_devices_hides_gpus(
    visible: str | None, expected: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "_count_gpus", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert hardware.this_capacity().gpus == expected
    assert hardware.this_capacity().cores >= 1
