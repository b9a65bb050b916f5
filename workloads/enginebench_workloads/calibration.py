"""Plays the driver against the pacer and compares what it stamped with what was sent.

    outcome = play(Trial(streams=64, itl_ms=20.0))
    outcome.itl_error_s(99)

Both are processes of their own, as in a real cell, on cores of their own where there are two. All
streams are in step, as a batching server's are: its tokens leave at the same moment, and the driver
has to take them all at once. Their clocks are one, so what lies between a sending and its stamp is
the driver's error and the kernel's few microseconds.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeVar

import msgspec

from enginebench.drive import DriveDone, DriveEvent, DriveJob
from enginebench.errors import DriverError
from enginebench.process import describe_exit, log_tail, start
from enginebench.types import Budget, Load, Request, RequestRecord
from enginebench_workloads.pacer import Sent

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["Outcome", "Trial", "play"]

T = TypeVar("T")
GRACE_S = 5.0


@dataclass(frozen=True, slots=True)
class Trial:
    """How the driver is loaded: `streams` users, each asking for `tokens` tokens at a time.

    `stamp_in_kernel`: whether the kernel stamps arrivals, or the driver when it has read them.
    """

    streams: int
    itl_ms: float = 20.0
    ttft_ms: float = 20.0
    tokens: int = 128
    seconds: float = 4.0
    stamp_in_kernel: bool = True

    @property
    def rounds(self) -> int:
        """Requests of each user: enough to fill the time."""
        return max(2, round(self.seconds * 1e3 / (self.ttft_ms + self.tokens * self.itl_ms)))


@dataclass(frozen=True, eq=False)
class Outcome:
    """`late_s`: by how much each event was stamped after it was sent, request after request.

    `itl_errors_s` are measured minus true gaps, and `ttft_errors_s` measured minus true TTFTs,
    which is how late the first events were stamped: the sending is the driver's own doing.
    """

    late_s: npt.NDArray[np.float64]
    itl_errors_s: npt.NDArray[np.float64]
    ttft_errors_s: npt.NDArray[np.float64]
    span_s: float
    done: DriveDone

    @property
    def events_per_s(self) -> float:
        return len(self.late_s) / self.span_s

    @property
    def cpu_s_per_event(self) -> float:
        return self.done.client_cpu_s / len(self.late_s)

    @property
    def cpu_share(self) -> float:
        """Of one core."""
        return self.done.client_cpu_s / self.span_s

    def ttft_error_s(self, percent: float) -> float:
        """Percentile of the errors of TTFT, signs apart."""
        return _percentile(self.ttft_errors_s, percent)

    def itl_error_s(self, percent: float) -> float:
        """Percentile of the errors of ITL, signs apart."""
        return _percentile(self.itl_errors_s, percent)


def play(trial: Trial) -> Outcome:
    """Raises DriverError if the driver fails or loses anything."""
    with TemporaryDirectory(prefix="enginebench-selftest-") as name:
        folder = Path(name)
        with _pacer(trial, folder) as url:
            done = _drive(trial, url, folder)
        records = _read(folder / "records.jsonl", RequestRecord)
        sent = {one.request_index: one for one in _read(folder / "stamps.jsonl", Sent)}
        return _compare(records, sent, done)


def _cores(trial_part: str) -> Sequence[int]:
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) < 2:
        return ()
    return cores[-1:] if trial_part == "pacer" else cores[:-1]


@contextmanager
def _pacer(trial: Trial, folder: Path) -> Iterator[str]:
    argv = [sys.executable, "-m", "enginebench_workloads.pacer"]
    argv += ["--stamps", str(folder / "stamps.jsonl")]
    argv += ["--ttft-ms", str(trial.ttft_ms), "--itl-ms", str(trial.itl_ms)]
    log = folder / "pacer.log"
    with start(
        argv, log=log, stdout=subprocess.PIPE, cores=_cores("pacer"), grace_s=GRACE_S
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().decode().strip()
        if not url:
            raise DriverError(f"the pacer did not start: {log_tail(log)}")
        yield url


def _drive(trial: Trial, url: str, folder: Path) -> DriveDone:
    job = _job(trial, url, folder)
    (folder / "job.json").write_bytes(msgspec.json.encode(job))
    argv = [sys.executable, "-m", "enginebench_workloads.driver", str(folder / "job.json")]
    log = folder / "driver.log"
    with start(
        argv, log=log, stdout=subprocess.PIPE, cores=_cores("driver"), grace_s=GRACE_S
    ) as process:
        assert process.stdout is not None
        last = process.stdout.read().splitlines()[-1:]
        code = process.wait(GRACE_S)
    event = msgspec.json.decode(last[0], type=DriveEvent) if last else None
    if code != 0 or not isinstance(event, DriveDone):
        raise DriverError(f"the load driver {describe_exit(code)}: {log_tail(log)}")
    return event


def _job(trial: Trial, url: str, folder: Path) -> DriveJob:
    count = trial.streams * trial.rounds
    requests = [Request(index, (index, 1), trial.tokens) for index in range(count)]
    (folder / "requests.jsonl").write_bytes(
        b"".join(msgspec.json.encode(request) + b"\n" for request in requests)
    )
    return DriveJob(
        base_url=url,
        model_name="pacer",
        load=Load(users=trial.streams),
        budget=Budget(requests=count, warmup_requests=0),
        requests_path=str(folder / "requests.jsonl"),
        records_path=str(folder / "records.jsonl"),
        stamp_in_kernel=trial.stamp_in_kernel,
    )


def _read(path: Path, kind: type[T]) -> list[T]:
    decode = msgspec.json.Decoder(kind).decode
    return [decode(line) for line in path.read_bytes().splitlines()]


def _compare(records: Sequence[RequestRecord], sent: dict[int, Sent], done: DriveDone) -> Outcome:
    import numpy as np

    late, itl_errors = [], []
    for record in records:
        truth = sent.get(record.request_index)
        if record.error or truth is None or len(truth.sent_ns) != len(record.chunk_ns):
            raise DriverError(
                f"request {record.request_index} was lost or cut short: "
                f"{record.error or 'fewer chunks than were sent'}"
            )
        late.append(np.array(record.chunk_ns) - np.array(truth.sent_ns))
        itl_errors.append(np.diff(late[-1]))
    span_ns = max(r.end_ns for r in records) - min(r.sent_ns for r in records)
    return Outcome(
        np.concatenate(late) * 1e-9,
        np.concatenate(itl_errors) * 1e-9,
        np.array([one[0] for one in late]) * 1e-9,
        span_ns * 1e-9,
        done,
    )


def _percentile(values: npt.NDArray[np.float64], percent: float) -> float:
    import numpy as np

    return float(np.percentile(np.abs(values), percent))
