"""How long the reports of a big Run take: a million records, rendered format by format.

    python tests/benchmarks/big_report.py --records 1000000 --formats html,markdown,json

Makes a Run of two engines at 1 to 256 concurrent requests (with telemetry), whose answers
take a TTFT and a TPOT with lognormal scatter, in a temporary folder (or `--keep FOLDER`). Each
format is rendered by a fresh `bench report`, so imports count. Not collected by
pytest: it measures, and asserts nothing.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from enginebench.results import CellStatus
from enginebench.run_folder import RunFolder
from enginebench.schemas import records_schema, requests_schema
from enginebench.types import (
    Budget,
    Cell,
    EngineSpec,
    Hardware,
    Load,
    ModelInfo,
    Plan,
    WorkloadSpec,
)

USERS = (1, 4, 16, 64, 256)
TTFT_S = {"paged": 0.02, "quant": 0.012}
TPOT_S = {"paged": 0.004, "quant": 0.003}
PROMPT_TOKENS = 128
NS = 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--tokens", type=int, default=32, help="of each answer, one a chunk")
    parser.add_argument("--formats", default="html,markdown,plots,json,csv")
    parser.add_argument("--keep", type=Path, help="make the Run here, and leave it")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        run = chosen.keep or Path(temporary) / "big"
        if not run.exists():
            write_run(run, chosen.records, chosen.tokens)
        for name in chosen.formats.split(","):
            started = time.perf_counter()
            command = [str(Path(sys.executable).with_name("bench")), "report", str(run)]
            slo = ["--slo", "ttft=100ms,tpot=10ms"]
            out = ["--format", name, "--out", str(Path(temporary) / "report")]
            subprocess.run([*command, *slo, *out], check=True, stdout=subprocess.DEVNULL)
            print(f"{name:10s} {time.perf_counter() - started:6.1f} s")


def write_run(path: Path, records: int, tokens: int) -> None:
    """A sealed Run with that many records over all of its cells."""
    cells = tuple(_cells())
    plan = Plan("big", 0, cells, {"m": ModelInfo("m", "gguf", parameters=10**9)}, ())
    machine = {"cpu": {"model": "Simulated", "usable_cores": 2}, "gpus": []}
    folder = RunFolder.create(path, plan, command="bench run --name big", machine=machine)
    rng = np.random.default_rng(0)
    for cell in cells:
        _write_cell(folder, cell, records // len(cells), tokens, rng)


def _cells() -> Iterator[Cell]:
    for users in USERS:
        for engine in TTFT_S:
            spec = EngineSpec(engine, "m", Hardware(cpu_threads=2))
            workload = WorkloadSpec("fixed", {"input_tokens": PROMPT_TOKENS})
            place = USERS.index(users) * len(TTFT_S) + list(TTFT_S).index(engine)
            name = f"{place:04d}-{engine}-c{users}-r0"
            yield Cell(place, spec, workload, Load(users=users), Budget(), 0, place, name)


def _write_cell(
    run: RunFolder, cell: Cell, count: int, tokens: int, rng: np.random.Generator
) -> None:
    users = cell.load.users or 1
    ttft_s = TTFT_S[cell.spec.engine] * np.sqrt(users) * rng.lognormal(0, 0.3, count)
    gaps_s = TPOT_S[cell.spec.engine] * np.sqrt(users) * rng.lognormal(0, 0.2, (count, tokens - 1))
    offsets_s = np.hstack([ttft_s[:, None], gaps_s]).cumsum(axis=1)  # (count, tokens)
    sent_s = _closed_loop(offsets_s[:, -1], users)
    times = ((sent_s[:, None] + offsets_s) * NS).astype(np.int64)
    folder = run.cell(cell)
    folder.begin(cell)
    pq.write_table(_records(sent_s, times, users), folder.path / "records.parquet")
    pq.write_table(_requests(count, tokens), folder.path / "requests.parquet")
    end_s = float(times[:, -1].max() / NS)
    status = CellStatus("ok", measure_start_ns=0, measure_end_ns=int(end_s * 0.95 * NS))
    folder.seal(status, _telemetry(end_s))


def _closed_loop(durations_s: np.ndarray, users: int) -> np.ndarray:
    """When each request is sent if request i is user i % users's next one."""
    padded = np.zeros(-(-len(durations_s) // users) * users)
    padded[: len(durations_s)] = durations_s
    turns = padded.reshape(-1, users)
    return (turns.cumsum(axis=0) - turns).ravel()[: len(durations_s)]


def _records(sent_s: np.ndarray, times: np.ndarray, users: int) -> pa.Table:
    count, tokens = times.shape
    sent_ns = (sent_s * NS).astype(np.int64)
    ends = pa.array(np.arange(0, count * tokens + 1, tokens, dtype=np.int32))
    columns = {
        "request_index": np.arange(count),
        "user": np.arange(count) % users,
        "phase": ["measure"] * count,
        "scheduled_ns": sent_ns,
        "sent_ns": sent_ns,
        "end_ns": times[:, -1],
        "chunk_ns": pa.ListArray.from_arrays(ends, pa.array(times.ravel())),
        "chunk_tokens": pa.ListArray.from_arrays(ends, pa.array(np.ones(count * tokens, np.int32))),
        "token_count_source": ["chunk_usage"] * count,
        "prompt_tokens": [PROMPT_TOKENS] * count,
        "completion_tokens": [tokens] * count,
        "cached_prompt_tokens": pa.nulls(count, pa.int32()),
        "finish_reason": ["length"] * count,
        "http_status": [200] * count,
        "error": pa.nulls(count, pa.string()),
        "text": ["a few words of an answer"] * count,
    }
    schema = records_schema()
    return pa.table({name: columns.get(name, pa.nulls(count)) for name in schema.names}).cast(
        schema
    )


def _requests(count: int, tokens: int) -> pa.Table:
    columns = {
        "index": np.arange(count),
        "prompt_text": ["a question"] * count,
        "max_tokens": [tokens] * count,
        "body": ['{"ignore_eos":true}'] * count,
    }
    schema = requests_schema()
    return pa.table({name: columns.get(name, pa.nulls(count)) for name in schema.names}).cast(
        schema
    )


def _telemetry(end_s: float) -> Iterator[dict[str, float]]:
    for t_s in np.linspace(0, end_s, 400):
        yield {
            "t_ns": int(t_s * NS),
            "cpu_percent": 180.0,
            "rss_bytes": 500_000_000,
            "client_cpu_percent": 5.0,
        }


if __name__ == "__main__":
    main()
