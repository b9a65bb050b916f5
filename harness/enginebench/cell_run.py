"""One attempt at one cell: requests, server, load, seal.

`measure` takes a cell through all of it and seals its folder, as ok or failed. What is not the
cell's own failure (a full disk, Ctrl-C, a bug) passes through, and the cell stays unsealed with the
records that it has. Knows nothing of the other cells.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from enginebench.answers import ask
from enginebench.cell_folder import CellFolder
from enginebench.drive import DriveDone, DriveJob
from enginebench.driving import drive
from enginebench.errors import BenchError, DamagedError, DriverError, EngineError, UsageError
from enginebench.machine import pick_cores
from enginebench.process import log_head
from enginebench.progress import Listener
from enginebench.questions import questions
from enginebench.results import CellStatus
from enginebench.run_settings import RunSettings
from enginebench.scrape import Scraper
from enginebench.server import Server, start_server
from enginebench.server_slot import ServerSlot
from enginebench.switching import switch_s
from enginebench.telemetry import Sampler
from enginebench.types import (
    Cell,
    Engine,
    Hardware,
    ModelInfo,
    NullEngine,
    Numerics,
    Request,
    TellsMetrics,
    TellsNumerics,
    Workload,
)

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Bench", "measure"]

_CLIENT_GRACE_S = 5.0


@dataclass(frozen=True, slots=True)
class Bench:
    """What all cells of a run are measured with."""

    engines: Mapping[str, Engine]
    workloads: Mapping[str, Workload]
    models: Mapping[str, ModelInfo]
    driver_command: Sequence[str]
    settings: RunSettings
    listener: Listener


def measure(
    bench: Bench, cell: Cell, folder: CellFolder, slot: ServerSlot, *, keep_server: bool
) -> CellStatus:
    """Measure `cell` and seal `folder`; the server stays in `slot` if the cell went well."""
    folder.begin(cell)
    bench.listener.cell_started(cell)
    with Sampler(cell.spec.hardware.gpus, bench.settings.telemetry_interval_s) as sampler:
        attempt = _Attempt(bench, cell, folder, slot, sampler)
        status = attempt.status(keep_server)
    folder.seal(status, sampler.samples)
    bench.listener.cell_finished(cell, status)
    return status


class _Attempt:
    """The state of one attempt, so that a failure can tell how far it came."""

    def __init__(
        self, bench: Bench, cell: Cell, folder: CellFolder, slot: ServerSlot, sampler: Sampler
    ) -> None:
        self.bench, self.cell, self.folder, self.slot = bench, cell, folder, slot
        self.sampler = sampler
        self.engine = bench.engines[cell.spec.engine]
        self.model = bench.models[cell.spec.model]
        self.ready_s: float | None = None
        self.switch_s: float | None = None
        self.numerics: Numerics | None = None

    def status(self, keep_server: bool) -> CellStatus:
        """Run the cell; its own failures become a status, everything else is raised."""
        keep = False
        try:
            done = self._run()
            keep = keep_server
            return self._ok(done)
        except (EngineError, DriverError, UsageError) as error:
            return self._failed(error)
        finally:
            self.slot.share_log(self.folder.server_log)
            if not keep:
                self.slot.stop()

    def _run(self) -> DriveDone:
        workload = self.bench.workloads[self.cell.workload.name]
        requests = workload.requests(self.cell, self.model)
        self.folder.write_requests(requests)
        server = self._server()
        self.bench.listener.engine_ready(self.cell, self.ready_s or 0.0)
        self.numerics = self._numerics(server)
        self._ask(server)
        self._switch(server)
        with self._scraping(server):
            done = self._drive(server, requests)
        self._check_records()
        return done

    def _server(self) -> Server:
        running = self.slot.take(self.cell.spec)
        if running is not None:
            self.sampler.watch_server(running.endpoint.pid)
            return running
        server = start_server(
            self.engine,
            self.cell.spec,
            self.model,
            log=self.folder.server_log,
            settings=self.bench.settings,
            on_start=self.sampler.watch_server,
        )
        self.slot.put(self.cell.spec, server)
        self.ready_s = server.ready_s
        return server

    @contextmanager
    def _scraping(self, server: Server) -> Iterator[None]:
        if not isinstance(self.engine, TellsMetrics):
            yield
            return
        with Scraper(server.endpoint, self.engine.server_metrics) as scraper:
            self.sampler.watch_metrics(scraper)
            yield

    def _numerics(self, server: Server) -> Numerics | None:
        if not isinstance(self.engine, TellsNumerics):
            return None
        return self.engine.numerics(self.cell.spec, self.model, log_head(server.log))

    def _ask(self, server: Server) -> None:
        """Have the fixed questions answered, once by each server that computes something."""
        if not self.bench.settings.check_answers or isinstance(self.engine, NullEngine):
            return
        if self.slot.answers is None:
            self.slot.answers = ask(server.endpoint, questions(self.model))
            server.check()
        self.folder.write_answers(self.slot.answers)

    def _switch(self, server: Server) -> None:
        """Once by each server that can."""
        other = self.bench.settings.switch_to
        if other is not None and server.switches and self.ready_s is not None:
            self.switch_s = switch_s(server.endpoint, other)
            server.check()

    def _drive(self, server: Server, requests: Sequence[Request]) -> DriveDone:
        settings, endpoint = self.bench.settings, server.endpoint
        self.folder.write_job(
            DriveJob(
                base_url=endpoint.base_url,
                model_name=endpoint.model_name,
                load=self.cell.load,
                budget=self.cell.budget,
                requests_path=str(self.folder.requests_jsonl.absolute()),
                records_path=str(self.folder.records_jsonl.absolute()),
                request_timeout_s=settings.request_timeout_s,
                api_key=endpoint.api_key,
                load_workers=settings.load_workers,
                remote_workers=settings.remote_workers,
                listen=settings.load_listen,
            )
        )
        try:
            return self._driven(server, requests)
        finally:
            self.folder.job.unlink(missing_ok=True)  # it may hold an API key

    def _driven(self, server: Server, requests: Sequence[Request]) -> DriveDone:
        settings = self.bench.settings
        return drive(
            [*self.bench.driver_command, str(self.folder.job.absolute())],
            server,
            log=self.folder.driver_log,
            stall_timeout_s=settings.stall_timeout_s + _longest_pause_s(requests),
            grace_s=_CLIENT_GRACE_S,
            on_start=self.sampler.watch_client,
            on_progress=lambda event, s: self.bench.listener.progress(self.cell, event, s),
            cores=_client_cores(self.cell.spec.hardware),
        )

    def _check_records(self) -> None:
        try:
            table = self.folder.pack_records()
        except DamagedError as error:
            raise DriverError(str(error)) from error
        if problem := _failure_of_all(table):
            raise EngineError(problem, self.slot.log_tail())

    def _ok(self, done: DriveDone) -> CellStatus:
        return CellStatus(
            "ok",
            ready_s=self.ready_s,
            engine_version=self.engine.availability().version,
            measure_start_ns=done.measure_start_ns,
            measure_end_ns=done.measure_end_ns,
            client_cpu_s=done.client_cpu_s,
            max_loop_lag_s=done.max_loop_lag_s,
            loop_lag_s_p99=done.loop_lag_s_p99,
            numerics=self.numerics,
            stamped_by=done.stamped_by,
            switch_s=self.switch_s,
        )

    def _failed(self, error: BenchError) -> CellStatus:
        tail = error.log_tail if isinstance(error, EngineError) else self.slot.log_tail()
        return CellStatus(
            "failed",
            error=str(error),
            log_tail=tail,
            ready_s=self.ready_s,
            engine_version=self.engine.availability().version,
            engine_exit_code=self.slot.exit_code,
            numerics=self.numerics,
        )


def _failure_of_all(records: pa.Table) -> str:
    """Why a cell has no figure: nothing was measured, or every request failed."""
    import pyarrow.compute as pc

    measured = records.filter(pc.equal(records["phase"], "measure"))
    if measured.num_rows == 0:
        return "no measured request was finished"
    errors = measured["error"].drop_null()
    if len(errors) < measured.num_rows:
        return ""
    return f"all {measured.num_rows} requests failed; the first: {errors[0].as_py()}"


def _client_cores(server: Hardware) -> Sequence[int]:
    """The cores that a pinned server leaves to the load driver; none: wherever there is room."""
    if server.cpu_threads is None:
        return ()
    return sorted(os.sched_getaffinity(0) - set(pick_cores(server.cpu_threads)))


def _longest_pause_s(requests: Sequence[Request]) -> float:
    """In which a healthy engine has nothing to do."""
    thinking_s = max((request.think_s for request in requests), default=0.0)
    due = [request.scheduled_s for request in requests if request.scheduled_s is not None]
    waiting_s = max((later - earlier for earlier, later in pairwise([0.0, *due])), default=0.0)
    return max(thinking_s, waiting_s)
