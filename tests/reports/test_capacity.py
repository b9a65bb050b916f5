"""Fleets: the simulation against queueing theory, curves against known Runs, the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simulated
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from enginebench.cli import main
from enginebench.slo import Slo
from enginebench_reports.capacity import least_fleet, met
from enginebench_reports.capacity_curve import ServiceCurve, service_curves
from enginebench_reports.capacity_simulation import poisson_times, simulate
from enginebench_reports.summary import Summary


def service(prompt_s: list[float], token_s: list[float], tokens: float = 11.0) -> ServiceCurve:
    nothing: Any = None  # the simulation knows no group
    return ServiceCurve("engine", nothing, tokens, np.array(prompt_s), np.array(token_s))


@pytest.mark.parametrize("load", [0.3, 0.8])
def test_one_slot_waits_as_theory_says(load: float) -> None:
    """M/D/1: the mean wait is load * S / (2 * (1 - load)) (Pollaczek-Khinchine)."""
    one = service([0.5], [0.05])  # an answer takes a second
    served = simulate(one, poisson_times(load, 60_000, seed=3), 1)
    waited = float((served.ttft_s - 0.5).mean())
    assert waited == pytest.approx(load / (2 * (1 - load)), rel=0.06)
    assert served.tpot_s == pytest.approx(0.05)


def test_slots_that_do_not_slow_each_other_down_add_no_wait() -> None:
    free = service([0.5] * 200, [0.05] * 200)
    served = simulate(free, np.arange(2000) * 1.2, 1)
    assert served.ttft_s == pytest.approx(0.5)
    assert served.e2e_s == pytest.approx(1.0)


def test_a_prompt_waits_for_half_the_step_of_those_that_answer() -> None:
    pair = service([0.5, 0.5], [0.05, 0.08])
    served = simulate(pair, np.array([0.0, 0.6]), 1)
    assert served.ttft_s == pytest.approx([0.5, 0.5 + 0.05 / 2])


def test_prompts_wait_for_each_other_as_theory_says() -> None:
    """M/D/1 again: prompts are computed one after the other, however many slots there are."""
    free = service([0.5] * 200, [1e-4] * 200)  # tokens of no account
    served = simulate(free, poisson_times(1.0, 60_000, seed=3), 1)
    assert float((served.ttft_s - 0.5).mean()) == pytest.approx(0.5 * 0.5 / (2 * 0.5), rel=0.06)
    assert served.tpot_s == pytest.approx(1e-4)


def test_sharing_a_replica_costs_what_was_measured() -> None:
    """Two that come together: one prompt after the other, then both answer at the pace of two."""
    pair = service([0.2, 0.3], [0.01, 0.05])
    served = simulate(pair, np.zeros(2), 1)
    assert served.ttft_s == pytest.approx([0.3, 0.6])
    assert served.e2e_s[0] == pytest.approx(0.8)  # ten tokens, all while the other is at work
    assert served.e2e_s[1] == pytest.approx(0.6 + 0.2 + 6 * 0.01)  # four of its ten beside another
    apart = simulate(pair, np.zeros(2), 2)
    assert apart.e2e_s == pytest.approx(0.3)


@settings(max_examples=60, deadline=None)
@given(
    gaps=st.lists(st.floats(0, 1), min_size=1, max_size=40),
    slots=st.integers(1, 4),
    replicas=st.integers(1, 3),
    tokens=st.integers(1, 5),
)
def test_every_request_is_served_once_and_never_faster_than_alone(
    gaps: list[float], slots: int, replicas: int, tokens: int
) -> None:
    curve = service([0.1 * (n + 1) for n in range(slots)], [0.01 * (n + 1) for n in range(slots)])
    one = ServiceCurve(curve.label, curve.group, float(tokens), curve.prompt_s, curve.token_s)
    served = simulate(one, np.cumsum(gaps), replicas)
    assert (served.ttft_s >= 0.1 - 1e-9).all()
    assert (served.e2e_s >= one.request_s(1) - 1e-9).all()
    assert np.isfinite(served.e2e_s).all()


def test_the_fleet_is_the_smallest_that_keeps_the_slo() -> None:
    one = service([0.5], [0.05])
    slo = Slo.parse("ttft=2s")
    fleet = least_fleet(one, 5.0, slo, share=0.95)
    assert fleet.replicas is not None and fleet.replicas > 5  # 5 would be loaded to the brim
    assert fleet.met_share >= 0.95
    fewer = simulate(one, poisson_times(5.0, 8000, seed=0), fleet.replicas - 1)
    assert met(fewer, slo)[1600:].mean() < 0.95
    assert fleet.load_share == pytest.approx(5.0 / fleet.replicas)


def test_thousands_of_replicas_need_what_their_load_says() -> None:
    fleet = least_fleet(service([0.5], [0.05]), 20_000.0, Slo.parse("ttft=2s"), share=0.95)
    assert fleet.replicas is not None
    assert 20_000 < fleet.replicas < 24_000


def test_no_fleet_is_enough_for_what_an_idle_replica_misses() -> None:
    fleet = least_fleet(service([0.5], [0.05]), 1.0, Slo.parse("ttft=400ms"), share=0.95)
    assert (fleet.replicas, fleet.met_share) == (None, 0.0)


def test_curves_reproduce_the_throughput_of_their_cells(tmp_path: Path) -> None:
    results = simulated.contest(tmp_path / "run", repeats=2, requests=128)
    curves = {each.label: each for each in service_curves(Summary.of(results).groups)}
    assert curves["quant"].slots == 1  # more requests at once only wait
    assert curves["paged"].slots == 16
    for label, users in (("quant", 1), ("paged", 16)):
        truth = simulated.TRUE_SPEEDS[label][users]
        request_s = (truth.ttft_ms + 31 * truth.tpot_ms) / 1e3
        assert curves[label].output_tokens == pytest.approx(32, rel=0.02)
        assert curves[label].requests_per_s == pytest.approx(users / request_s, rel=0.1)


def bench(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["plan-capacity", *(str(each) for each in arguments)])


def test_the_command_names_the_cheapest_fleet(tmp_path: Path) -> None:
    simulated.contest(tmp_path / "run")
    out = tmp_path / "plan.json"
    slo = ("--slo", "ttft=2s,tpot=80ms")
    result = bench(tmp_path / "run", "--rate", "1,8", *slo, "--price", "cpu:2=0.1", "--json", out)
    assert result.exit_code == 0, result.output
    assert "replicas for 99% of all requests to keep ttft=2s,tpot=80ms" in result.output
    fleets = json.loads(out.read_text())["fleets"]
    assert [(each["engine"], each["rate_rps"]) for each in fleets] == [
        ("paged", 1.0),
        ("quant", 1.0),
        ("paged", 8.0),
        ("quant", 8.0),
    ]
    assert all(each["price_per_hour"] == pytest.approx(each["replicas"] / 10) for each in fleets)
    assert all(each["slo_met_share"] >= 0.99 for each in fleets)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--rate", "0", "--slo", "ttft=1s"), "--rate '0': give a number above 0"),
        (("--rate", "1", "--slo", "ttft"), "is no bound"),
        (("--rate", "1", "--slo", "ttft=1s", "--share", "100"), "try 99.9"),
        (("--rate", "1", "--slo", "ttft=1s", "--price", "2.5"), "write HARDWARE=DOLLARS"),
    ],
)
def test_what_makes_no_sense_is_refused(
    tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    simulated.contest(tmp_path / "run")
    result = bench(tmp_path / "run", *options)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


def test_runs_without_a_lone_request_say_what_to_measure(tmp_path: Path) -> None:
    cells = [(simulated.cell(0, "paged", 4), simulated.serve(simulated.Speed(9, 9), 4, requests=9))]
    simulated.save(tmp_path / "run", cells)
    result = bench(tmp_path / "run", "--rate", "1", "--slo", "ttft=1s")
    assert result.exit_code == 2
    assert "bench run --concurrency 1,4,16" in " ".join(result.output.split())
