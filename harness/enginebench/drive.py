"""The contract between the executor and a load driver, which runs in a process of its own.

The executor writes a `DriveJob` as JSON and starts the driver's command with the path of that file
as its only argument. The driver

1. reads `requests_path`: one `Request` as JSON a line,
2. sends them to the endpoint under the job's load and budget,
3. appends every finished request to `records_path`, one `RequestRecord` as JSON a line, flushed at
   once, so that a crash loses only what was in flight,
4. prints `DriveProgress` lines to stdout about twice a second, and one `DriveDone` line last,
5. exits with 0. On SIGTERM it stops sending, writes what it has, and exits with 0 as well.

Anything on stderr goes to the cell's driver.log. Requests that fail are records, not exit codes.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from enginebench.types import Budget, Load, StampedBy

__all__ = ["DriveDone", "DriveEvent", "DriveJob", "DriveProgress"]


class DriveJob(msgspec.Struct, frozen=True):
    """All that a driver needs to know.

    With `stamp_in_kernel`, arrivals are stamped by the kernel where it does that. The load may be
    shared by `load_workers` processes of this machine, and by `remote_workers` that join at
    `listen` (HOST:PORT).
    """

    base_url: str
    model_name: str
    load: Load
    budget: Budget
    requests_path: str
    records_path: str
    request_timeout_s: float = 600.0
    api_key: str | None = None
    stamp_in_kernel: bool = True
    load_workers: int = 1
    remote_workers: int = 0
    listen: str | None = None


class DriveProgress(msgspec.Struct, frozen=True, tag="progress", tag_field="event"):
    """Counts since the start of the cell; `phase` is where the driver is now."""

    phase: Literal["warmup", "measure", "drain"]
    requests: int
    tokens: int
    errors: int


class DriveDone(msgspec.Struct, frozen=True, tag="done", tag_field="event"):
    """The steady state on the driver's monotonic clock, and what the driver itself cost.

    `measure_start_ns`..`measure_end_ns`: all users busy with measured requests. None when that
    never happened. `client_cpu_s` is of the driver's one timed thread. How late the driver was for
    its own timers, and so may have been for answers: `max_loop_lag_s` at worst, `loop_lag_s_p99` as
    99th percentile (None where too few were kept). Arrivals `stamped_by` the kernel are none the
    later for it; one read that the driver had to stamp itself makes it "read". Where `workers`
    shared the load, cost and lag are those of the worst.
    """

    measure_start_ns: int | None
    measure_end_ns: int | None
    client_cpu_s: float
    max_loop_lag_s: float
    loop_lag_s_p99: float | None = None
    stamped_by: StampedBy | None = None
    workers: int = 1


DriveEvent = DriveProgress | DriveDone
