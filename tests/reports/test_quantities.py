from __future__ import annotations

import pytest

from enginebench_reports.provenance import facts, machine_line
from enginebench_reports.quantities import DASH, amount, quantity, tick


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (12.34, "12.3"),
        (12.0, "12.0"),
        (99.96, "100"),
        (999.7, "1,000"),
        (12345.6, "12,346"),
        (0.01234, "0.0123"),
        (1e-9, "0.000000"),
        (-3.21, "-3.21"),
        (None, DASH),
        (float("nan"), DASH),
        (float("inf"), DASH),
    ],
)
def test_three_significant_digits(value: float | None, text: str) -> None:
    assert amount(value) == text


@pytest.mark.parametrize(("value", "text"), [(15.0, "15"), (0.5, "0.5"), (1000, "1,000"), (0, "0")])
def test_round_numbers_have_no_tail(value: float, text: str) -> None:
    assert tick(value) == text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0123, "s", "12.3 ms"),
        (1.5, "s", "1.50 s"),
        (2e-6, "s", "2.00 µs"),
        (145e6, "bytes", "145 MB"),
        (16 << 30, "bytes", "17.2 GB"),
        (0.015, "share", "1.50%"),
        (180.0, "%", "180%"),
        (98.7, "tokens/s", "98.7 tokens/s"),
        (None, "s", DASH),
    ],
)
def test_the_unit_that_reads_best(value: float | None, unit: str, text: str) -> None:
    assert quantity(value, unit) == text


def test_a_machine_in_a_line() -> None:
    machine = {
        "cpu": {"model": "Example 9000", "usable_cores": 8},
        "memory_bytes": 64_000_000_000,
        "gpus": [{"name": "G1"}, {"name": "G1"}, {"name": "G2"}],
    }
    assert machine_line(machine) == "Example 9000 · 8 cores · 64.0 GB memory · 2x G1 · G2"
    assert machine_line({}) == ""
    assert machine_line({"cpu": None, "gpus": None}) == ""


def test_facts_are_flat_and_carry_units() -> None:
    machine = {
        "cpu": {"caches": {"L2": 1_000_000}, "features": ["avx2", "fma"], "quota_cores": None},
        "memory_bytes": 2_000_000_000,
        "gpus": [{"name": "G1"}],
        "python": "CPython 3.12",
    }
    assert facts(machine) == [
        ("cpu caches L2", "1.00 MB"),
        ("cpu features", "avx2, fma"),
        ("memory", "2.00 GB"),
        ("gpus 0 name", "G1"),
        ("python", "CPython 3.12"),
    ]
