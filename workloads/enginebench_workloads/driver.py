"""The load driver: `python -m enginebench_workloads.driver JOB.json` (see `enginebench.drive`).

Locust keeps the users; what they do stands in `cell_driver`. Only this module, `fleet` and
`load_worker` import locust, and they run in processes of their own.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, cast

os.environ.setdefault("LOCUST_SKIP_MONKEY_PATCH", "1")

import gevent
import msgspec
from locust import User, task
from locust.env import Environment
from locust.exception import StopUser

from enginebench.drive import DriveDone, DriveJob, DriveProgress
from enginebench_workloads.cell_driver import CellDriver
from enginebench_workloads.connection import Address
from enginebench_workloads.open_files import allow_many_sockets
from enginebench_workloads.recorder import Recorder
from enginebench_workloads.wire_requests import WireRequests

__all__ = ["carry_out", "main"]


def _print(event: DriveProgress | DriveDone) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(event) + b"\n")
    sys.stdout.buffer.flush()


def _user_class(driver: CellDriver) -> type[User]:
    """A locust user that lives its whole life in one task, then leaves."""
    numbers = iter(range(driver.window.users))

    class StreamingUser(User):
        @task
        def live(self) -> None:
            if driver.job.load.users is None:
                driver.dispatch()
            else:
                driver.live(next(numbers))
            raise StopUser

    return StreamingUser


def carry_out(driver: CellDriver, recorder: Recorder) -> DriveDone:
    """From the first user to the last record."""
    environment = Environment(user_classes=[_user_class(driver)])
    runner = environment.create_local_runner()
    users = driver.window.users
    driver.end_users = runner.quit
    gevent.signal_handler(signal.SIGTERM, driver.stop)
    watcher = gevent.spawn(driver.watch)
    driver.lag.start()
    cpu_before_s = time.process_time()
    runner.start(users, spawn_rate=users)
    assert runner.spawning_greenlet is not None
    runner.spawning_greenlet.join()
    runner.user_greenlets.join()
    watcher.kill()
    driver.lag.stop()
    recorder.drain()
    cpu_s = time.process_time() - cpu_before_s
    runner.quit()
    driver.tell_progress()
    lag = driver.lag
    return DriveDone(*driver.window.bounds, cpu_s, lag.max_s, lag.p99_s, driver.stamped_by)


def _conduct(job: DriveJob) -> int:
    from enginebench_workloads.fleet import Fleet

    fleet = Fleet(job, _print)
    gevent.signal_handler(signal.SIGTERM, fleet.stop)
    _print(fleet.conduct())
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job file named by the only argument."""
    arguments = sys.argv[1:] if argv is None else argv
    job = msgspec.json.decode(Path(arguments[0]).read_bytes(), type=DriveJob)
    if job.load_workers > 1 or job.remote_workers:
        return _conduct(job)
    address = Address.parse(job.base_url)
    allow_many_sockets()
    requests = WireRequests.read(job, address)
    gc.freeze()
    gc.disable()  # a collection would stop the clock; nothing here makes cycles that matter
    with Path(job.records_path).open("ab") as sink:
        recorder = Recorder(cast(IO[bytes], sink))
        _print(carry_out(CellDriver(job, address, requests, recorder, _print), recorder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
