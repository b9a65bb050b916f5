"""A project's performance over time: figures of Runs by commit and machine, in one SQLite file.

    with open_history(Path("history.sqlite")) as store:
        store.add(results, commit=None)
        store.entries()

SQLite, because a history is one file that is added to now and then, often by CI, and must survive
being interrupted: every Run is added whole or not at all, and twice is once. It holds figures, not
records, so it stays small and the Run folders may go. Tables and columns are documented in
`docs/gate.md`. Judges nothing; `history` does.
"""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from enginebench.errors import StoreError, UsageError
from enginebench.results import ResultSet, RunInfo
from enginebench.revision import CHANGES, git
from enginebench.types import MetricInfo
from enginebench_reports.compare_arms import Place, arm_of, metric_infos
from enginebench_reports.gate_validity import machine_identity
from enginebench_reports.history_order import places
from enginebench_reports.summary import CellSummary

__all__ = ["Added", "Commit", "Entry", "HistoryStore", "open_history"]

VERSION = 1
TABLES = """
CREATE TABLE runs (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    created_at TEXT NOT NULL,
    revision TEXT NOT NULL,
    committed_at TEXT,
    subject TEXT,
    machine TEXT NOT NULL,
    versions TEXT NOT NULL
);
CREATE TABLE figures (
    run INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    place TEXT NOT NULL,
    metric TEXT NOT NULL,
    unit TEXT NOT NULL,
    better TEXT NOT NULL,
    value REAL NOT NULL
);
CREATE INDEX figures_of ON figures (metric, place);
"""
_HASH = re.compile(r"[0-9a-f]{7,64}")


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit that was measured. `at` is when it was committed, else when it was measured."""

    id: str
    at: datetime
    subject: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """One figure of one cell of a Run."""

    machine: str
    place: Place
    metric: MetricInfo
    commit: Commit
    value: float


@dataclass(frozen=True, slots=True)
class Added:
    """What became of a Run: `left_out` counts cells without figures to believe."""

    run: str
    revision: str
    cells: int
    left_out: int
    is_new: bool


class HistoryStore:
    """An open history; made by `open_history`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def add(self, results: ResultSet, commit: str | None = None) -> Sequence[Added]:
        """All Runs in `results`, each under its own commit, or under `commit`.

        Raises UsageError, and adds nothing, if a Run tells no commit.
        """
        filed = [(run, _revision(run, commit)) for run in results.runs]
        with self._connection:
            return [self._add(run, revision, results) for run, revision in filed]

    def entries(self, metrics: Sequence[str] | None = None) -> Sequence[Entry]:
        """Every figure, commits in order; `metrics` None: of all metrics."""
        known = metric_infos()
        rows = self._connection.execute(
            "SELECT machine, place, metric, unit, better, revision, committed_at, created_at, "
            "subject, value FROM figures JOIN runs ON figures.run = runs.id ORDER BY figures.rowid"
        )
        entries = [
            Entry(
                machine,
                msgspec.json.decode(place, type=Place),
                known.get(metric) or MetricInfo(metric, unit, better, ""),
                Commit(revision, _time(committed_at or created_at), subject or ""),
                value,
            )
            for machine, place, metric, unit, better, revision, committed_at, created_at, subject,
            value in rows
            if metrics is None or metric in metrics
        ]  # fmt: skip
        order = places([entry.commit for entry in entries])
        return sorted(entries, key=lambda entry: order[entry.commit.id])

    def _add(self, run: RunInfo, revision: str, results: ResultSet) -> Added:
        own = ResultSet([cell for cell in results if cell.run is run or cell.run == run])
        known = metric_infos()
        arm = arm_of(run.name, own)
        places = [(place, cell) for place, cells in arm.cells.items() for cell in cells]
        good = [(place, cell) for place, cell in places if cell.is_valid]
        added = Added(run.folder.name, revision, len(good), len(places) - len(good), True)
        row = _row(run, revision, own)
        found = self._connection.execute("SELECT id FROM runs WHERE key = ?", (row["key"],))
        if found.fetchone():
            return Added(added.run, revision, added.cells, added.left_out, False)
        names = ", ".join(row)
        marks = ", ".join("?" * len(row))
        cursor = self._connection.execute(
            f"INSERT INTO runs ({names}) VALUES ({marks})", tuple(row.values())
        )
        self._connection.executemany(
            "INSERT INTO figures VALUES (?, ?, ?, ?, ?, ?)",
            [
                (cursor.lastrowid, *figure)
                for place, cell in good
                for figure in _figures(place, cell, known)
            ],
        )
        return added


@contextmanager
def open_history(path: Path, *, create: bool = False) -> Iterator[HistoryStore]:
    """The history in `path`, which is made with `create`; raises StoreError for anything else."""
    if not create and not path.is_file():
        raise StoreError(f"there is no history {path}; `bench history add RUN` begins one")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=30)
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"cannot open the history {path}: {error}") from error
    try:
        connection.execute("PRAGMA foreign_keys = ON")
        _check_tables(connection, path)
        yield HistoryStore(connection)
    except sqlite3.DatabaseError as error:
        raise StoreError(f"cannot use the history {path}: {error}") from error
    finally:
        connection.close()


def _check_tables(connection: sqlite3.Connection, path: Path) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if version == 0 and tables == 0:
        connection.executescript(
            f"BEGIN IMMEDIATE; {TABLES} PRAGMA user_version = {VERSION}; COMMIT;"
        )
    elif version != VERSION:
        raise StoreError(
            f"{path} is no history that this enginebench reads (version {version}, known: "
            f"{VERSION}); name another file with --store"
        )


def _revision(run: RunInfo, commit: str | None) -> str:
    """Under which commit to file a Run."""
    if commit is not None:
        found = git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{commit}^{{commit}}")
        if found is None and not _HASH.fullmatch(commit):
            raise UsageError(
                f"--commit {commit}: no commit of this folder's git repository, nor a hash"
            )
        return found or commit
    if run.revision is None:
        raise UsageError(
            f"{run.folder} does not tell which commit it measured (it was not typed in a git "
            "repository); say it with --commit"
        )
    if run.revision.endswith(CHANGES):
        raise UsageError(
            f"{run.folder} measured {run.revision.removesuffix(CHANGES)[:12]} with uncommitted "
            "changes, which is no commit; commit and measure again, or say with --commit under "
            "which one to file it"
        )
    return run.revision


def _row(run: RunInfo, revision: str, own: ResultSet) -> Mapping[str, str | None]:
    told = git("show", "-s", "--format=%cI%x09%s", revision, "--") or ""
    committed_at, _, subject = told.partition("\t")
    return {
        "key": _key(run, own),
        "name": run.name,
        "created_at": run.created_at,
        "revision": revision,
        "committed_at": committed_at or None,
        "subject": subject or None,
        "machine": json.dumps(machine_identity(run.machine), sort_keys=True),
        "versions": json.dumps(dict(run.versions), sort_keys=True),
    }


def _key(run: RunInfo, own: ResultSet) -> str:
    """The same for the same Run wherever its folder lies: its head, and when its cells ran."""
    times = [[cell.cell.id, cell.status.measure_start_ns, cell.status.ready_s] for cell in own]
    facts = [run.name, run.created_at, run.command, dict(machine_identity(run.machine)), times]
    return hashlib.blake2b(json.dumps(facts).encode(), digest_size=16).hexdigest()


def _figures(
    place: Place, cell: CellSummary, known: Mapping[str, MetricInfo]
) -> Iterator[tuple[str, str, str, str, float]]:
    text = msgspec.json.encode(place).decode()
    for name, value in cell.figures.items():
        if value is not None and value > 0:
            yield text, name, known[name].unit, known[name].better, value


def _time(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
