"""The folder of one cell: what is in it while the cell runs, and what is left when it is sealed.

While it runs: `cell.json`, `requests.parquet`, `requests.jsonl`, `job.json`, `records.jsonl` and
the logs. Sealing turns the records into `records.parquet`, adds `telemetry.parquet`, removes what
only the driver needed, and writes `status.json` last: a cell is sealed if and only if it has one.
Knows nothing of Runs, engines or drivers.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from enginebench.answers import Answers
from enginebench.atomic import replacing, write_bytes, write_error, write_json
from enginebench.drive import DriveJob
from enginebench.errors import DamagedError
from enginebench.results import CellStatus
from enginebench.schemas import (
    records_schema,
    records_table,
    requests_schema,
    requests_table,
    telemetry_schema,
    telemetry_table,
)
from enginebench.types import Cell, Request, RequestRecord

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["CellFolder"]

_JSON_BLOCK_BYTES = 1 << 26  # the longest record that can be read back
_DELTA_PACKED = {"chunk_ns.list.element": "DELTA_BINARY_PACKED"}


@dataclass(frozen=True, slots=True)
class CellFolder:
    """Reads and writes `cells/<id>/`. Every write is atomic and raises StoreError."""

    path: Path

    @property
    def requests_jsonl(self) -> Path:
        return self.path / "requests.jsonl"

    @property
    def records_jsonl(self) -> Path:
        return self.path / "records.jsonl"

    @property
    def job(self) -> Path:
        return self.path / "job.json"

    @property
    def server_log(self) -> Path:
        return self.path / "server.log"

    @property
    def driver_log(self) -> Path:
        return self.path / "driver.log"

    @property
    def _records(self) -> Path:
        return self.path / "records.parquet"

    # ------------------------------------------------------------ writing

    def begin(self, cell: Cell) -> None:
        """Make the folder afresh: what an earlier, unfinished attempt left is removed."""
        try:
            if self.path.exists():
                shutil.rmtree(self.path)
            self.path.mkdir(parents=True)
        except OSError as error:
            raise write_error(self.path, error) from error
        write_json(self.path / "cell.json", cell)

    def write_requests(self, requests: Sequence[Request]) -> None:
        """Store the schedule, both as parquet and as the lines that the driver reads."""
        self._write_table("requests.parquet", requests_table(requests))
        encoder = msgspec.json.Encoder()
        with replacing(self.requests_jsonl) as temporary, temporary.open("wb") as file:
            file.writelines(encoder.encode(request) + b"\n" for request in requests)

    def write_job(self, job: DriveJob) -> None:
        """Store the driver's orders, for our eyes only: they may hold an API key."""
        write_bytes(self.job, msgspec.json.encode(job), mode=0o600)

    def write_answers(self, answers: Answers) -> None:
        """Store the fixed questions with what the engine said."""
        write_json(self.path / "answers.json", answers)

    def pack_records(self) -> pa.Table:
        """Turn the lines that the driver wrote into `records.parquet`; gives them back."""
        table = self.records()
        if not self._records.exists():
            self._write_table("records.parquet", table)
        self.records_jsonl.unlink(missing_ok=True)
        return table

    def seal(self, status: CellStatus, telemetry: Iterable[Mapping[str, Any]] = ()) -> None:
        """Close the cell for good: `status.json` is written last.

        Raises StoreError when something cannot be written; the cell is unsealed then. Lines of a
        failed cell's driver that are no records are left as they are, in `records.jsonl`.
        """
        try:
            self.pack_records()
        except DamagedError:
            if status.state == "ok":
                raise
            self.write_records(())
        self._write_table("telemetry.parquet", telemetry_table(telemetry))
        for working in (self.requests_jsonl, self.job):
            working.unlink(missing_ok=True)
        write_json(self.path / "status.json", status)

    def write_records(self, records: Iterable[RequestRecord]) -> None:
        """Store records that are at hand as objects."""
        self._write_table("records.parquet", records_table(records))

    def _write_table(self, name: str, table: pa.Table) -> None:
        import pyarrow.parquet as pq

        nested = name == "records.parquet"
        with replacing(self.path / name) as temporary:
            pq.write_table(
                table,
                temporary,
                compression="zstd",
                use_dictionary=["phase", "token_count_source", "finish_reason"] if nested else True,
                column_encoding=_DELTA_PACKED if nested else None,
            )

    # ------------------------------------------------------------ reading

    def status(self) -> CellStatus:
        """How the cell ended; `pending` as long as it is not sealed."""
        path = self.path / "status.json"
        if not path.exists():
            return CellStatus("pending")
        try:
            return msgspec.json.decode(path.read_bytes(), type=CellStatus)
        except (OSError, msgspec.MsgspecError) as error:
            raise DamagedError(
                f"cannot read {path}: {error}; remove it, then `bench run --resume` measures the "
                "cell again"
            ) from error

    def answers(self) -> Answers | None:
        """What the engine answered before its load; None where it was not asked."""
        path = self.path / "answers.json"
        if not path.exists():
            return None
        try:
            return msgspec.json.decode(path.read_bytes(), type=Answers)
        except (OSError, msgspec.MsgspecError) as error:
            raise DamagedError(f"cannot read {path}: {_first_line(error)}; {_REPEAT}") from error

    def records(self) -> pa.Table:
        """One row per request; of an unsealed cell, those that were written so far."""
        if self.records_jsonl.exists() and not self._records.exists():
            return self._read_lines()
        return self._read_table("records.parquet", records_schema())

    def requests(self) -> pa.Table:
        """One row per scheduled request; no rows before the schedule is written."""
        return self._read_table("requests.parquet", requests_schema())

    def telemetry(self) -> pa.Table:
        """One row per sample; no rows before the cell is sealed."""
        return self._read_table("telemetry.parquet", telemetry_schema())

    def _read_table(self, name: str, schema: pa.Schema) -> pa.Table:
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = self.path / name
        if not path.exists():
            if self.status().state == "pending":
                return schema.empty_table()
            raise DamagedError(f"{path} is missing from a sealed cell; {_REPEAT}")
        try:
            table = pq.read_table(path, partitioning=None)
            return _with_later_columns(table, schema).select(schema.names).cast(schema)
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            raise DamagedError(f"{path} is damaged: {_first_line(error)}; {_REPEAT}") from error

    def _read_lines(self) -> pa.Table:
        """The complete lines of `records.jsonl`; one cut off by a crash is left out."""
        import pyarrow as pa
        import pyarrow.json as pj

        path = self.records_jsonl
        try:
            with pa.memory_map(str(path)) as file:
                whole = _length_of_whole_lines(path)
                if whole == 0:
                    return records_schema().empty_table()
                table = pj.read_json(
                    pa.BufferReader(file.read_buffer(whole)),
                    pj.ReadOptions(block_size=_JSON_BLOCK_BYTES),
                    pj.ParseOptions(explicit_schema=_nullable(records_schema())),
                )
            return _checked(table.select(records_schema().names), path)
        except (pa.ArrowException, OSError, KeyError) as error:
            raise DamagedError(
                f"{path} holds lines that are no records: {_first_line(error)}; {_REPEAT}"
            ) from error


_REPEAT = "remove the cell's folder, then `bench run --resume` measures it again"


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _nullable(schema: pa.Schema) -> pa.Schema:
    import pyarrow as pa

    return pa.schema([field.with_nullable(True) for field in schema])


def _checked(table: pa.Table, path: Path) -> pa.Table:
    """`table` with the records' schema; StoreError if a required value is missing."""
    import pyarrow.compute as pc

    for field in records_schema():
        if not field.nullable and table[field.name].null_count:
            raise DamagedError(f"{path} holds a record without {field.name!r}; {_REPEAT}")
    lengths = (pc.list_value_length(table[name]) for name in ("chunk_ns", "chunk_tokens"))
    if not pc.all(pc.equal(*lengths), min_count=0).as_py():
        raise DamagedError(
            f"{path} holds a record with more chunk_ns than chunk_tokens, or fewer; {_REPEAT}"
        )
    return table.cast(records_schema())


def _with_later_columns(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Null in the columns that Runs of an earlier version did not have."""
    import pyarrow as pa

    for field in schema:
        if field.nullable and field.name not in table.column_names:
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    return table


def _length_of_whole_lines(path: Path) -> int:
    with path.open("rb") as file:
        end = file.seek(0, 2)
        while end > 0:
            start = max(0, end - (1 << 16))
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            end = start
    return 0
