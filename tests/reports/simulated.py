"""Runs of known truth for the tests of reports: the time of every chunk is chosen."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginebench.results import CellStatus, ResultSet
from enginebench.store import CellData, load, save_run
from enginebench.types import (
    Budget,
    Cell,
    EngineSpec,
    Hardware,
    Load,
    ModelInfo,
    Plan,
    Request,
    RequestRecord,
    WorkloadSpec,
)

MS = 1_000_000
SECOND = 1_000_000_000
MODEL = ModelInfo("smollm2-135m", "gguf", parameters=134_515_008, precision="Q4_1")
MACHINE = {
    "cpu": {"model": "Example 9000", "usable_cores": 2, "features": ["avx2", "fma"]},
    "memory_bytes": 16 << 30,
    "os": "Linux",
    "gpus": [],
}
VERSIONS = {"enginebench": "0.1.0", "numpy": "2.4.0"}


def record(
    index: int = 0,
    *,
    scheduled_ms: float = 0,
    sent_ms: float | None = None,
    chunks_ms: Sequence[float] = (100, 110, 120),
    tokens: Sequence[int] | None = None,
    end_ms: float | None = None,
    **other: Any,
) -> RequestRecord:
    """A request by its times in ms; one token a chunk unless `tokens` says otherwise."""
    counts = tuple(tokens) if tokens is not None else (1,) * len(chunks_ms)
    last_ms = chunks_ms[-1] if chunks_ms else scheduled_ms
    facts: dict[str, Any] = {
        "request_index": index,
        "user": 0,
        "phase": "measure",
        "scheduled_ns": _ns(scheduled_ms),
        "sent_ns": _ns(scheduled_ms if sent_ms is None else sent_ms),
        "end_ns": _ns(last_ms if end_ms is None else end_ms),
        "chunk_ns": tuple(map(_ns, chunks_ms)),
        "chunk_tokens": counts,
        "token_count_source": "chunk_usage",
        "prompt_tokens": 128,
        "completion_tokens": sum(counts),
        "finish_reason": "length",
        "http_status": 200,
    }
    return RequestRecord(**(facts | other))


@dataclass(frozen=True)
class Speed:
    """A simulated engine: its true TTFT and TPOT at one load, and what it occupies."""

    ttft_ms: float
    tpot_ms: float
    rss_mb: float = 300
    jitter: float = 0.0


def serve(speed: Speed, users: int, *, requests: int, tokens: int = 32, seed: int = 1) -> CellData:
    """A closed loop in which every answer takes the engine's TTFT and TPOT (with jitter)."""
    rng = random.Random(seed)
    records, free_ms = [], [0.0] * users
    for index in range(requests):
        user = min(range(users), key=free_ms.__getitem__)
        start = free_ms[user]
        first = start + speed.ttft_ms * rng.lognormvariate(0, speed.jitter)
        pace = speed.tpot_ms * rng.lognormvariate(0, speed.jitter / 3)
        times = [first + pace * step for step in range(tokens)]
        records.append(record(index, scheduled_ms=start, chunks_ms=times, user=user))
        free_ms[user] = times[-1]
    return CellData(
        CellStatus(
            "ok",
            ready_s=1.5,
            engine_version="0.1.0",
            measure_start_ns=0,
            measure_end_ns=_ns(min(free_ms)),
            client_cpu_s=0.4,
        ),
        [
            Request(index, (1, 2, 3), tokens, None, {"ignore_eos": True})
            for index in range(requests)
        ],
        records,
        [
            {
                "t_ns": _ns(place * max(free_ms) / 10),
                "cpu_percent": 180.0,
                "rss_bytes": int(speed.rss_mb * 1e6 * (0.5 + place / 20)),
                "client_cpu_percent": 4.0,
            }
            for place in range(11)
        ],
    )


def cell(
    index: int,
    engine: str,
    users: int,
    *,
    repeat: int = 0,
    model: str = "smollm2-135m",
    hardware: Hardware | None = None,
    options: Mapping[str, Any] | None = None,
    rate_rps: float | None = None,
) -> Cell:
    return Cell(
        index,
        EngineSpec(engine, model, hardware or Hardware(cpu_threads=2), options or {}),
        WorkloadSpec("fixed", {"input_tokens": 128, "output_tokens": 32}),
        Load(users=users) if rate_rps is None else Load(rate_rps=rate_rps),
        Budget(requests=32),
        repeat,
        seed=index,
        id=f"{index:03d}-{engine}-c{users}",
    )


def save(
    folder: Path,
    cells: Iterable[tuple[Cell, CellData | None]],
    *,
    command: str = "bench run --engines paged,quant --concurrency 1,16",
) -> ResultSet:
    """Write a Run through the store and open it again; cells without data stay pending."""
    pairs = list(cells)
    models = {each.spec.model: MODEL for each, _ in pairs}
    plan = Plan("demo", 1, tuple(each for each, _ in pairs), models)
    data = {each.id: found for each, found in pairs if found is not None}
    save_run(folder, plan, data, command=command, machine=MACHINE, versions=VERSIONS)
    return load(folder)


TRUE_SPEEDS: Mapping[str, Mapping[int, Speed]] = {
    "paged": {
        1: Speed(70, 21, rss_mb=900, jitter=0.05),
        4: Speed(140, 28, rss_mb=950, jitter=0.1),
        16: Speed(420, 60, rss_mb=1000, jitter=0.2),
    },
    "quant": {
        1: Speed(50, 12, rss_mb=140, jitter=0.05),
        4: Speed(1300, 12.5, rss_mb=142, jitter=0.1),
        16: Speed(6300, 13, rss_mb=145, jitter=0.2),
    },
}


def contest(folder: Path, *, repeats: int = 1, requests: int = 32) -> ResultSet:
    """`paged` against `quant` at 1, 4 and 16: paged wins at 16, quant is quicker alone."""
    cells = []
    for repeat in range(repeats):
        for users in (1, 4, 16):
            for engine, speeds in TRUE_SPEEDS.items():
                index = len(cells)
                count = max(requests, 2 * users)
                data = serve(speeds[users], users, requests=count, seed=index)
                cells.append((cell(index, engine, users, repeat=repeat), data))
    return save(folder, cells)


def data(records: Sequence[RequestRecord], **status: Any) -> CellData:
    """A finished cell with just these records."""
    return CellData(CellStatus("ok", **status), records=records)


def failed(error: str = "paged died while it started", log_tail: str = "Killed") -> CellData:
    return CellData(CellStatus("failed", error=error, log_tail=log_tail))


def _ns(ms: float) -> int:
    return round(ms * MS)
