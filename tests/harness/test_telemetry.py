"""Samples tell what a process tree really costs."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from enginebench.nvml import GpuSample
from enginebench.process_tree import ProcessTree
from enginebench.schemas import telemetry_schema, telemetry_table
from enginebench.telemetry import Sampler

MEGABYTES = 64
BUSY = f"""
import subprocess, sys, threading
block = bytearray(b"x" * ({MEGABYTES} << 20))
child = subprocess.Popen([sys.executable, "-I", "-S", "-c", "while True: pass"])
threading.Thread(target=child.wait).start()
print("ready", flush=True)
sys.stdin.read()
child.kill()
"""


@contextmanager
def busy() -> Iterator[int]:
    """A process with a block of memory and two threads, whose child burns a core."""
    argv = [sys.executable, "-I", "-S", "-c", BUSY]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(argv, **pipes) as process:  # type: ignore[call-overload]
        assert process.stdout.readline() == b"ready\n"
        yield process.pid


def test_samples_cover_the_whole_tree() -> None:
    with busy() as pid, Sampler(interval_s=0.05) as sampler:
        sampler.watch_server(pid)
        time.sleep(1.0)
    samples = [sample for sample in sampler.samples if "rss_bytes" in sample]
    last = samples[-1]
    assert last["processes"] == 2
    assert last["threads"] == 3
    assert last["rss_bytes"] > MEGABYTES << 20
    assert last["rss_anon_bytes"] > MEGABYTES << 20
    assert last["rss_anon_bytes"] + last["rss_file_bytes"] == last["rss_bytes"]
    assert any(sample.get("pss_bytes", 0) > MEGABYTES << 20 for sample in samples)
    assert any(sample.get("involuntary_switches", 0) > 0 for sample in samples)
    burnt = last["cpu_s"] - samples[0]["cpu_s"]
    assert 0.1 < burnt < 1.5
    assert max(sample.get("cpu_percent", 0) for sample in samples) > 20


def test_samples_are_a_table_in_order() -> None:
    with Sampler(interval_s=0.02) as sampler:
        time.sleep(0.2)
    assert {key for sample in sampler.samples for key in sample} <= set(telemetry_schema().names)
    table = telemetry_table(sampler.samples)
    times = table["t_ns"].to_pylist()
    assert times == sorted(set(times)) and len(times) >= 3
    assert table["rss_bytes"].null_count == table.num_rows  # nobody was watched


def test_a_process_that_ends_keeps_its_cpu_time_and_then_has_no_samples() -> None:
    with busy() as pid:
        tree = ProcessTree(pid)
        time.sleep(0.3)
        before = tree.sample()
    assert before["cpu_s"] > 0
    assert tree.sample() == {}


def test_an_unknown_process_gives_no_figures() -> None:
    with subprocess.Popen(["true"]) as process:
        pass
    assert ProcessTree(process.pid).sample() == {}


def test_the_client_has_its_own_columns() -> None:
    with busy() as pid, Sampler(interval_s=0.05) as sampler:
        sampler.watch_client(pid)
        time.sleep(0.3)
    last = sampler.samples[-1]
    assert last["client_rss_bytes"] > MEGABYTES << 20
    assert last["client_cpu_s"] > 0 and "cpu_s" not in last


def test_gpus_are_summed_and_kept_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    class FakeGpu:
        def __init__(self, index: int) -> None:
            self.index = index

        def sample(self) -> GpuSample:
            if self.index == 1:
                return GpuSample(5, 50.0, None, None, 1000.0, 2000.0, 60.0, 4)
            return GpuSample(7, 100.0, 300.0, 9.0, 2000.0, 2000.0, 40.0, 1)

    @contextmanager
    def session(indices: Sequence[int]) -> Iterator[Sequence[FakeGpu]]:
        yield [FakeGpu(index) for index in indices]

    monkeypatch.setattr("enginebench.telemetry.gpu_session", session)
    with Sampler(gpus=(0, 1), interval_s=0.02) as sampler:
        time.sleep(0.1)
    row = telemetry_table(sampler.samples).to_pylist()[0]
    assert row["gpu_memory_bytes"] == 12 and row["each_gpu_memory_bytes"] == [7, 5]
    assert row["gpu_utilization_percent"] == 75.0
    assert row["gpu_power_w"] == 300.0 and row["each_gpu_power_w"] == [300.0, None]
    assert row["gpu_temperature_c"] == 60.0
    assert row["gpu_throttle_reasons"] == 5


def test_an_error_in_the_sampling_thread_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise ZeroDivisionError("in the thread")

    monkeypatch.setattr("enginebench.telemetry.psutil.virtual_memory", broken)
    with pytest.raises(ZeroDivisionError, match="in the thread"), Sampler(interval_s=0.01):
        time.sleep(0.1)
