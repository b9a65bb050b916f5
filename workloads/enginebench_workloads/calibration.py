"""Plays the driver against the pacer and compares what it measured with what was sent.

    outcome = play(Trial(streams=64, itl_ms=20.0))
    outcome.itl_error_ms(99)

Both are processes of their own, as in a real cell. Knows no harness beyond the driver's contract.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeVar

import msgspec

from enginebench.drive import DriveDone, DriveEvent, DriveJob
from enginebench.errors import DriverError
from enginebench.types import Budget, Load, Request, RequestRecord
from enginebench_workloads.pacer import Sent

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["Outcome", "Trial", "play"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Trial:
    """How the driver is loaded: `streams` users, each asking for `tokens` tokens at a time."""

    streams: int
    itl_ms: float = 20.0
    ttft_ms: float = 20.0
    tokens: int = 128
    seconds: float = 4.0

    @property
    def rounds(self) -> int:
        """Requests of each user: enough to fill the time."""
        return max(2, round(self.seconds * 1e3 / (self.ttft_ms + self.tokens * self.itl_ms)))


@dataclass(frozen=True, eq=False)
class Outcome:
    """Errors in seconds, one for each request (TTFT) or gap or event; and what the driver cost."""

    ttft_errors_s: npt.NDArray[np.float64]
    itl_errors_s: npt.NDArray[np.float64]
    lateness_s: npt.NDArray[np.float64]
    span_s: float
    done: DriveDone

    @property
    def events(self) -> int:
        return len(self.lateness_s)

    @property
    def events_per_s(self) -> float:
        return self.events / self.span_s

    @property
    def cpu_s_per_event(self) -> float:
        return self.done.client_cpu_s / self.events

    @property
    def cpu_share(self) -> float:
        """Of one core."""
        return self.done.client_cpu_s / self.span_s


def play(trial: Trial) -> Outcome:
    """Raises DriverError if the driver fails or loses anything."""
    with TemporaryDirectory(prefix="enginebench-selftest-") as name:
        folder = Path(name)
        stamps = folder / "stamps.jsonl"
        with _pacer(trial, stamps) as url:
            done = _drive(trial, url, folder)
        records = _read(folder / "records.jsonl", RequestRecord)
        return _compare(records, {one.request_index: one for one in _read(stamps, Sent)}, done)


@contextmanager
def _pacer(trial: Trial, stamps: Path) -> Iterator[str]:
    argv = [sys.executable, "-m", "enginebench_workloads.pacer", "--stamps", str(stamps)]
    argv += ["--ttft-ms", str(trial.ttft_ms), "--itl-ms", str(trial.itl_ms)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()
            process.wait()


def _drive(trial: Trial, url: str, folder: Path) -> DriveDone:
    count = trial.streams * trial.rounds
    requests = [Request(i, (i, 1), trial.tokens) for i in range(count)]
    (folder / "requests.jsonl").write_bytes(
        b"".join(msgspec.json.encode(request) + b"\n" for request in requests)
    )
    job = DriveJob(
        base_url=url,
        model_name="pacer",
        load=Load(users=trial.streams),
        budget=Budget(requests=count, warmup_requests=0),
        requests_path=str(folder / "requests.jsonl"),
        records_path=str(folder / "records.jsonl"),
    )
    (folder / "job.json").write_bytes(msgspec.json.encode(job))
    argv = [sys.executable, "-m", "enginebench_workloads.driver", str(folder / "job.json")]
    ran = subprocess.run(argv, capture_output=True, check=False)
    last = ran.stdout.splitlines()[-1:]
    event = msgspec.json.decode(last[0], type=DriveEvent) if last else None
    if ran.returncode != 0 or not isinstance(event, DriveDone):
        raise DriverError(f"the load driver failed: {ran.stderr.decode()[-2000:]}")
    return event


def _read(path: Path, kind: type[T]) -> list[T]:
    decode = msgspec.json.Decoder(kind).decode
    return [decode(line) for line in path.read_bytes().splitlines()]


def _compare(records: list[RequestRecord], sent: dict[int, Sent], done: DriveDone) -> Outcome:
    import numpy as np

    ttft, itl, late = [], [], []
    for record in records:
        truth = sent.get(record.request_index)
        if record.error or truth is None or len(truth.sent_ns) != len(record.chunk_ns):
            raise DriverError(f"request {record.request_index} was lost or cut: {record.error}")
        arrived, left = np.array(record.chunk_ns), np.array(truth.sent_ns)
        ttft.append(arrived[0] - record.sent_ns - (left[0] - truth.received_ns))
        itl.append(np.diff(arrived) - np.diff(left))
        late.append(arrived - left)
    span_ns = max(r.end_ns for r in records) - min(r.sent_ns for r in records)
    return Outcome(
        np.array(ttft) * 1e-9,
        np.concatenate(itl) * 1e-9,
        np.concatenate(late) * 1e-9,
        span_ns * 1e-9,
        done,
    )
