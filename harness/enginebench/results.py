"""What report, metric and notebook code reads: Run folders opened as plain tables.

    import enginebench
    results = enginebench.load("runs/20260101-120000-smollm2-135m")
    results.to_pandas()                      # one row per cell: what was run, and every metric
    results.frames.requests                  # DataFrames of all cells: also chunks, telemetry
    results.cells[0].records                 # pyarrow table, one row per request (RequestRecord)
    results.cells[0].telemetry               # pyarrow table, one row per sample

Nothing here writes, and pandas and pyarrow are imported when first needed. `docs/run-folder.md`
describes the files and every column.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from enginebench.frames import Frames
from enginebench.quality import Quality
from enginebench.run_settings import RunSettings
from enginebench.slo import Slo
from enginebench.types import Cell, ModelInfo, Numerics, Plan, StampedBy

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from enginebench.answers import Answers

__all__ = ["CellResult", "CellStatus", "ResultSet", "RunInfo"]


@dataclass(frozen=True, slots=True)
class RunInfo:
    """A Run as a whole: `machine` is what machine.py found, `versions` package name to version.

    `null_engines` compute nothing and compete with nobody; goodput is counted against `slo`.
    `revision` is the commit that was measured (`+changes`: with others); None: unknown. `quality`
    is what `bench perplexity --into` added.
    """

    folder: Path
    name: str
    created_at: str
    command: str
    enginebench_version: str
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    plan: Plan
    settings: RunSettings = field(default_factory=RunSettings)
    null_engines: frozenset[str] = frozenset()
    slo: Slo | None = None
    revision: str | None = None
    quality: Sequence[Quality] = ()

    @property
    def machine_name(self) -> str:
        """The kind of machine, without its memory: GPUs, CPU, cores that could be used.

        Figures of two Runs may be compared where it is equal; empty if nothing was recorded.
        """
        return ", ".join(_machine_parts(self.machine))


@dataclass(frozen=True, slots=True)
class CellStatus:
    """How a cell ended. `ready_s`: engine start to first healthy answer (None: never, or not ours).

    `numerics` is what the engine said of its precision. `switch_s`: what changing to another model
    took (None: not asked for, or the server does not do it by itself).

    `measure_start_ns` and `measure_end_ns` (driver clock) bound the steady state: from the moment
    that all users are busy with measured requests until the first of them has no more to send.
    `log_tail` is the end of the engine's log when the cell failed, `engine_exit_code` what it ended
    with by itself (negative: the signal). `max_loop_lag_s`: how late the driver was at worst;
    `loop_lag_s_p99`: the 99th percentile of that. `stamped_by` the kernel, arrivals are free of it.
    """

    state: Literal["ok", "failed", "pending"]
    error: str | None = None
    log_tail: str = ""
    ready_s: float | None = None
    engine_version: str | None = None
    measure_start_ns: int | None = None
    measure_end_ns: int | None = None
    client_cpu_s: float | None = None
    max_loop_lag_s: float | None = None
    engine_exit_code: int | None = None
    loop_lag_s_p99: float | None = None
    numerics: Numerics | None = None
    stamped_by: StampedBy | None = None
    switch_s: float | None = None


@dataclass(frozen=True)
class CellResult:
    """One sealed (or failed, or pending) cell with its raw facts, read when first asked for."""

    cell: Cell
    status: CellStatus
    model: ModelInfo
    run: RunInfo
    folder: Path

    @property
    def is_null(self) -> bool:
        """Whether the engine computes nothing."""
        return self.cell.spec.engine in self.run.null_engines

    @cached_property
    def records(self) -> pa.Table:
        """One row per request, columns as the fields of RequestRecord; maybe none."""
        from enginebench.store import read_records

        return read_records(self.folder)

    @cached_property
    def requests(self) -> pa.Table:
        """One row per request as it was scheduled: the fields of Request, with the prompt in
        `prompt_text`, `prompt_tokens` or `prompt_messages`, and `body` as JSON.
        """
        from enginebench.store import read_requests

        return read_requests(self.folder)

    @cached_property
    def answers(self) -> Answers | None:
        """The fixed questions and what the engine said; None where it was not asked."""
        from enginebench.store import read_answers

        return read_answers(self.folder)

    @cached_property
    def telemetry(self) -> pa.Table:
        """One row per sample: t_ns, cpu_percent, rss_bytes, threads, gpu_memory_bytes, ..."""
        from enginebench.store import read_telemetry

        return read_telemetry(self.folder)


@dataclass(frozen=True)
class ResultSet:
    """Cells of one or several Runs, in the order in which they were run.

    `claims_file` has the claims that reports hold against them; None: the built-in ones.
    """

    cells: Sequence[CellResult]
    claims_file: Path | None = None

    def __len__(self) -> int:
        return len(self.cells)

    def __iter__(self) -> Iterator[CellResult]:
        return iter(self.cells)

    @property
    def runs(self) -> Sequence[RunInfo]:
        """The Runs that the cells come from, each once."""
        return list({cell.run.folder: cell.run for cell in self.cells}.values())

    @cached_property
    def frames(self) -> Frames:
        """Everything as tidy DataFrames: `cells`, `requests`, `chunks`, `telemetry`."""
        return Frames(self)

    def with_slo(self, slo: Slo) -> ResultSet:
        """The same cells, their goodput counted against `slo` instead of what the Runs say."""
        runs = {run.folder: replace(run, slo=slo) for run in self.runs}
        cells = [replace(cell, run=runs[cell.run.folder]) for cell in self.cells]
        return ResultSet(cells, self.claims_file)

    def with_claims(self, claims_file: Path) -> ResultSet:
        """The same cells, with the claims of a file instead of the built-in ones."""
        return replace(self, claims_file=claims_file)

    def to_pandas(self) -> pd.DataFrame:
        """One row per cell: what was run (`run`, `cell`, `engine`, `label`, `is_null`, `model`,
        `machine`, `hardware`, `workload`, `users`, `rate_rps`, `repeat`, `state`,
        `precision`), engine and
        workload options as `engine.NAME` and `workload.NAME`, then every registered metric's
        columns (None as NaN).
        """
        import pandas as pd

        from enginebench.plugins import metrics

        known = metrics()
        rows = []
        for cell in self.cells:
            row = dict(_facts(cell))
            for metric in known:
                row.update(metric.compute(cell))
            rows.append(row)
        names = [info.name for metric in known for info in metric.columns]
        frame = pd.DataFrame(rows)
        return frame.astype({name: float for name in names if name in frame})


def _facts(result: CellResult) -> Iterator[tuple[str, Any]]:
    cell = result.cell
    yield from {
        "run": result.run.folder.name,
        "cell": cell.id,
        "engine": cell.spec.engine,
        "label": cell.spec.label,
        "is_null": result.is_null,
        "model": cell.spec.model,
        "machine": result.run.machine_name,
        "hardware": str(cell.spec.hardware),
        "workload": cell.workload.name,
        "users": cell.load.users,
        "rate_rps": cell.load.rate_rps,
        "repeat": cell.repeat,
        "state": result.status.state,
        "precision": str(result.status.numerics or "") or None,
    }.items()
    for name, value in cell.spec.options.items():
        yield f"engine.{name}", value
    for name, value in cell.workload.options.items():
        yield f"workload.{name}", value


def _machine_parts(machine: Mapping[str, Any]) -> Iterator[str]:
    gpus = [gpu for gpu in machine.get("gpus") or () if isinstance(gpu, Mapping)]
    names = [str(gpu.get("name", "GPU")) for gpu in gpus]
    for name in dict.fromkeys(names):
        yield f"{names.count(name)}x {name}" if names.count(name) > 1 else name
    cpu = machine.get("cpu")
    if isinstance(cpu, Mapping):
        if cpu.get("model"):
            yield str(cpu["model"])
        if cores := cpu.get("usable_cores") or cpu.get("logical_cores"):
            yield f"{cores} cores"
