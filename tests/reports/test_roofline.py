from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from simulated import MODEL, Speed, cell, serve

from enginebench.ceilings import Ceilings
from enginebench.results import CellResult
from enginebench.run_folder import RunFolder
from enginebench.store import load
from enginebench.types import ModelInfo, ModelShape, Numerics, Plan
from enginebench_reports.metrics import serving_figures
from enginebench_reports.validity import flags

SHAPE = ModelShape(
    token_weights=1_000_000_000,
    token_bytes=500_000_000,
    head_weights=100_000_000,
    kv_values=100_000,
    attention_values=10_000,
)
WHOLE = replace(MODEL, shape=SHAPE, precision="q4_1")
CEILINGS = Ceilings(
    "cpu:2",
    ((10_000_000, 200e9), (100_000_000, 100e9), (4_000_000_000, 50e9)),
    {"f32": 1e12, "int8": 4e12},
    0.02,
    "2026-01-01T00:00:00+00:00",
    {},
)
QUANT = Numerics("q4_1", "int8", "f16")


def measured(
    folder: Path,
    numerics: Numerics | None = QUANT,
    *,
    ttft_ms: float = 500.0,
    tpot_ms: float = 10.0,
    model: ModelInfo = WHOLE,
    ceilings: Ceilings | None = CEILINGS,
) -> CellResult:
    """One cell of 128 tokens of prompt at a known speed."""
    planned = cell(0, "quant", 1)
    kept = {} if ceilings is None else {"cpu:2": msgspec.to_builtins(ceilings)}
    plan = Plan("demo", 1, (planned,), {MODEL.name: model})
    run = RunFolder.create(folder / "run", plan, machine={"ceilings": kept})
    data = serve(Speed(ttft_ms, tpot_ms), 1, requests=30)
    place = run.cell(planned)
    place.begin(planned)
    place.write_requests(data.requests)
    place.write_records(data.records)
    place.seal(replace(data.status, numerics=numerics), data.telemetry)
    return load(folder / "run").cells[0]


def names(found: CellResult) -> list[str]:
    return [flag.name for flag in flags(found, serving_figures(found))]


def test_the_floor_is_what_must_be_read_and_multiplied(tmp_path: Path) -> None:
    figures = serving_figures(measured(tmp_path))
    read = (500_000_000 + 128 * 100_000 * 2) / 100e9  # at the rate of the next smaller size
    assert figures["tpot_floor_s"] == pytest.approx(read)
    assert figures["tpot_floor_share"] == pytest.approx(read / 0.010)
    operations = 2 * (900_000_000 * 128 + 100_000_000) + 2 * 10_000 * 128**2
    assert figures["prefill_floor_s"] == pytest.approx(operations / 4e12)
    assert figures["prefill_floor_share"] == pytest.approx(operations / 4e12 / 0.5)


def test_decoded_weights_count_as_what_they_became(tmp_path: Path) -> None:
    figures = serving_figures(measured(tmp_path, Numerics("f32", "f32", "f32")))
    assert figures["tpot_floor_s"] == pytest.approx((4e9 + 128 * 100_000 * 4) / 50e9)


def test_where_multiplying_takes_longer_it_is_the_floor(tmp_path: Path) -> None:
    slow = replace(CEILINGS, operations_per_s={"int8": 1e11})
    figures = serving_figures(measured(tmp_path, ceilings=slow))
    assert figures["tpot_floor_s"] == pytest.approx(2e9 / 1e11)


@pytest.mark.parametrize(
    "facts",
    [
        {"numerics": None},
        {"numerics": Numerics()},
        {"numerics": Numerics("marvellous")},
        {"ceilings": None},
        {"model": MODEL},
    ],
)
def test_what_is_not_known_gives_no_figure(tmp_path: Path, facts: dict[str, Any]) -> None:
    figures = serving_figures(measured(tmp_path, **facts))
    assert figures["tpot_floor_s"] is None and figures["tpot_floor_share"] is None


def test_types_without_a_ceiling_leave_out_the_prefill(tmp_path: Path) -> None:
    figures = serving_figures(measured(tmp_path, Numerics("q4_1", "int4", "f16")))
    assert figures["prefill_floor_share"] is None
    assert figures["tpot_floor_share"] is not None


@pytest.mark.parametrize(
    ("tpot_ms", "ttft_ms", "doubted"),
    [(6.0, 500.0, False), (5.2, 500.0, False), (4.0, 500.0, True), (10.0, 30.0, True)],
)
def test_faster_than_the_machine_is_invalid(
    tmp_path: Path, tpot_ms: float, ttft_ms: float, doubted: bool
) -> None:
    found = names(measured(tmp_path, ttft_ms=ttft_ms, tpot_ms=tpot_ms))
    assert ("above_ceiling" in found) is doubted
