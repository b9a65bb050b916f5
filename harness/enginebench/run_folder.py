"""The Run folder as a whole: `run.json`, `plan.json`, `machine.json`, `versions.json`, `cells/`.

`create` makes one (whole or not at all), `open` finds one; both give a RunFolder, which hands out
the folders of its cells. `save_run` writes a finished Run from objects at hand. The files are
documented in `docs/run-folder.md`. Knows nothing of engines, drivers or reports.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from enginebench.atomic import write_error, write_json
from enginebench.cell_folder import CellFolder
from enginebench.errors import DamagedError, StoreError, UsageError
from enginebench.quality import read_quality
from enginebench.results import CellStatus, RunInfo
from enginebench.run_settings import RunSettings
from enginebench.search import Found
from enginebench.types import Cell, Plan, Request, RequestRecord, Search

__all__ = ["SCHEMA_VERSION", "CellData", "RunFolder", "RunHead", "save_run"]

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RunHead:
    """What `run.json` holds. `created_at` is UTC, ISO 8601; `command` what the user typed.

    `revision` is the commit that was measured, as `enginebench.revision` found it.
    """

    name: str
    command: str
    seed: int
    enginebench_version: str
    created_at: str
    settings: RunSettings = field(default_factory=RunSettings)
    revision: str | None = None
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True, slots=True)
class CellData:
    """A finished cell as objects, for `save_run`."""

    status: CellStatus
    requests: Sequence[Request] = ()
    records: Iterable[RequestRecord] = ()
    telemetry: Iterable[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A Run on disk. `path` may have been moved since it was written."""

    path: Path
    head: RunHead
    plan: Plan
    machine: Mapping[str, Any]
    versions: Mapping[str, str]

    @classmethod
    def create(
        cls,
        path: Path,
        plan: Plan,
        *,
        command: str = "",
        settings: RunSettings | None = None,
        machine: Mapping[str, Any] | None = None,
        versions: Mapping[str, str] | None = None,
        created_at: datetime | None = None,
        revision: str | None = None,
    ) -> RunFolder:
        """Make the folder of a new Run; every cell is pending.

        Raises UsageError if `path` exists, StoreError if it cannot be written; nothing is left
        behind then.
        """
        if path.exists():
            raise UsageError(
                f"{path} exists already; give another folder, or go on with it by "
                f"`bench run --resume {path}`"
            )
        head = RunHead(
            name=plan.name,
            command=command,
            seed=plan.seed,
            enginebench_version=(versions or {}).get("enginebench", _own_version()),
            created_at=(created_at or datetime.now(UTC)).astimezone(UTC).isoformat("T", "seconds"),
            settings=settings or RunSettings(),
            revision=revision,
        )
        run = cls(path, head, plan, machine or {}, versions or {})
        run._write()
        return run

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """The Run in `path`; StoreError if it is none, is damaged, or is of a newer version."""
        if not (path / "run.json").is_file():
            raise StoreError(
                f"{path} is no Run folder: it has no run.json; give the folder that "
                "`bench run` named, or one that holds several of those"
            )
        _check_version(path / "run.json")
        return cls(
            path,
            _read(path / "run.json", RunHead),
            _read(path / "plan.json", Plan),
            _read(path / "machine.json", dict[str, Any]),
            _read(path / "versions.json", dict[str, str]),
        )

    @property
    def info(self) -> RunInfo:
        """The Run as reports see it."""
        head = self.head
        return RunInfo(
            self.path,
            head.name,
            head.created_at,
            head.command,
            head.enginebench_version,
            self.machine,
            self.versions,
            self.plan,
            head.settings,
            frozenset(self.plan.null_engines or ()),
            head.settings.slo,
            revision=head.revision,
            quality=read_quality(self.path),
        )

    def cell(self, cell: Cell) -> CellFolder:
        """The folder of one of the plan's cells, which may not exist yet."""
        return CellFolder(self.path / "cells" / cell.id)

    def unsealed(self, *, or_failed: bool = False) -> Sequence[Cell]:
        """The cells still to be measured, in order; with `or_failed` the failed ones as well."""
        open_states = {"pending", "failed"} if or_failed else {"pending"}
        return [cell for cell in self.plan.cells if self.cell(cell).status().state in open_states]

    def with_plan(self, plan: Plan) -> RunFolder:
        """This Run with another plan, one that has gained cells, which is on disk then."""
        write_json(self.path / "plan.json", plan)
        return replace(self, plan=plan)

    @property
    def found(self) -> Mapping[str, Found]:
        """How searches ended, by their ids; those that have not are not in it."""
        files = sorted((self.path / "searches").glob("*.json"))
        return {file.stem: _read(file, Found) for file in files}

    @property
    def unfinished(self) -> Sequence[Search]:
        """The searches that have not ended, in order."""
        found = self.found
        return [search for search in self.plan.searches if search.id not in found]

    def write_found(self, found: Found) -> None:
        """Close a search for good."""
        folder = self.path / "searches"
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise write_error(folder, error) from error
        write_json(folder / f"{found.search}.json", found)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Held by the process that measures into this Run; a second one gets a UsageError."""
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError as error:
            raise UsageError(
                f"{self.path} is being measured by another process; wait for its end, or stop it"
            ) from error
        finally:
            os.close(descriptor)

    def _write(self) -> None:
        """All files go into a sibling folder first, which then becomes `path`."""
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        try:
            (temporary / "cells").mkdir(parents=True)
            write_json(temporary / "plan.json", self.plan)
            write_json(temporary / "machine.json", self.machine)
            write_json(temporary / "versions.json", self.versions)
            write_json(temporary / "run.json", self.head)
            temporary.rename(self.path)
        except OSError as error:
            raise write_error(self.path, error) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def save_run(
    path: Path,
    plan: Plan,
    cells: Mapping[str, CellData],
    *,
    command: str = "",
    machine: Mapping[str, Any] | None = None,
    versions: Mapping[str, str] | None = None,
    created_at: datetime | None = None,
    revision: str | None = None,
) -> RunFolder:
    """Write a Run from objects: `cells` by cell id, those that it lacks are left pending."""
    unknown = set(cells) - {cell.id for cell in plan.cells}
    if unknown:
        raise UsageError(f"the plan has no cells {', '.join(sorted(unknown))}")
    run = RunFolder.create(
        path,
        plan,
        command=command,
        machine=machine,
        versions=versions,
        created_at=created_at,
        revision=revision,
    )
    for cell in plan.cells:
        if cell.id in cells:
            data, folder = cells[cell.id], run.cell(cell)
            folder.begin(cell)
            folder.write_requests(data.requests)
            folder.write_records(data.records)
            folder.seal(data.status, data.telemetry)
    return run


def _own_version() -> str:
    from importlib.metadata import version

    return version("enginebench")


class _Version(msgspec.Struct):
    schema_version: int


def _check_version(path: Path) -> None:
    found = _read(path, _Version).schema_version
    if found > SCHEMA_VERSION:
        raise StoreError(
            f"{path.parent} was written by a newer enginebench (schema {found}, this one reads up "
            f"to {SCHEMA_VERSION}); update with `pip install --upgrade enginebench`"
        )


def _read(path: Path, kind: Any) -> Any:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError) as error:
        raise DamagedError(
            f"cannot read {path}: {error}; the Run folder is damaged: copy it again, or repeat "
            "the run"
        ) from error
