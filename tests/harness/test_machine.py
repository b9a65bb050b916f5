"""The fingerprint is plain, complete and anonymous; cores are picked one thread a core first."""

from __future__ import annotations

import getpass
import json
import os
import socket
from importlib.metadata import version
from pathlib import Path

import msgspec
import pytest

from enginebench import machine, nvml


def test_the_fingerprint_is_plain_data_that_names_this_machine() -> None:
    found = machine.fingerprint()
    assert json.loads(msgspec.json.encode(found)) == found
    assert found["cpu"]["usable_cores"] == len(os.sched_getaffinity(0))
    assert found["memory_bytes"] > 1 << 20
    assert found["python"].startswith("CPython 3.")
    assert isinstance(found["gpus"], list)


def test_the_fingerprint_tells_nothing_private() -> None:
    text = json.dumps(machine.fingerprint())
    for private in (socket.gethostname(), getpass.getuser(), str(Path.home())):
        assert f'"{private}"' not in text
    assert not {"host", "hostname", "user", "uuid", "serial"} & set(json.loads(text))


def test_versions_are_of_installed_packages() -> None:
    versions = machine.package_versions()
    assert versions["enginebench"] == version("enginebench")
    assert versions["msgspec"] == msgspec.__version__
    assert "vllm" not in versions or versions["vllm"] == version("vllm")


def test_one_thread_of_each_core_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four cores, of which 0 and 4, 1 and 5 ... are the two threads of one; 1 is not ours."""
    for core in range(8):
        topology = tmp_path / f"cpu{core}" / "topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(f"{core % 4},{core % 4 + 4}\n")
    monkeypatch.setattr(machine, "_CPU_FOLDER", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 2, 3, 4, 5, 6, 7})
    assert machine.pick_cores(1) == (0,)
    assert machine.pick_cores(3) == (0, 2, 3)
    assert machine.pick_cores(4) == (0, 2, 3, 4)


def test_without_a_driver_there_are_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    import pynvml

    def missing() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", missing)
    assert nvml.describe_gpus() == []
    with nvml.gpu_session((0,)) as gpus:
        assert not gpus


@pytest.mark.gpu
def test_gpus_are_described_and_sampled() -> None:
    if not nvml.describe_gpus():
        pytest.skip("NVML shows no GPU")
    (first, *_) = nvml.describe_gpus()
    assert first["memory_bytes"] > 1 << 30 and first["driver"]
    with nvml.gpu_session((0,)) as (gpu,):
        sample = gpu.sample()
    assert sample.memory_bytes is not None and 0 <= sample.memory_bytes <= first["memory_bytes"]
    assert sample.power_w is None or 0 < sample.power_w < 2000
