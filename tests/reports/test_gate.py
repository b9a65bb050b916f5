"""The gate against simulated arms of known truth: verdicts, validity, what it refuses."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import simulated
from hypothesis import given
from hypothesis import strategies as st

from enginebench.errors import UnknownNameError, UsageError
from enginebench.gate import Gate, GateRules, LooksTaken
from enginebench.plugins import gate
from enginebench.results import ResultSet
from enginebench.store import load
from enginebench_reports.gate import Assessed, GateJudgement, assess, judge
from enginebench_reports.gate_validity import machine_differences
from enginebench_reports.stats_sequential import Looks

ONE = GateRules(metrics=("tpot_s_p50",))


def arm(
    folder: Path,
    tpot_ms: float = 10.0,
    *,
    repeats: int = 8,
    seed: int = 1,
    noise: float = 0.005,
    users: Sequence[int] = (1,),
    rss_mb: float = 300,
) -> ResultSet:
    """A Run whose true TPOT is known, with run-to-run noise."""
    rng = random.Random(seed)
    cells = []
    for repeat in range(repeats):
        for each in users:
            luck = rng.lognormvariate(0, noise)
            speed = simulated.Speed(50 * luck, tpot_ms * luck, rss_mb=rss_mb)
            planned = simulated.cell(len(cells), "quant", each, repeat=repeat)
            cells.append((planned, simulated.serve(speed, each, requests=12)))
    return simulated.save(folder, cells)


def assessed(logs: Sequence[float], limit: float = 0.03, **rules: float) -> Assessed:
    return assess([Looks.once(logs)], [limit], GateRules(**rules))[0]  # type: ignore[arg-type]


# ---------------------------------------------------------------- verdicts


def test_a_real_slowdown_fails(tmp_path: Path) -> None:
    judgement = judge(arm(tmp_path / "a"), arm(tmp_path / "b", 11.0, seed=2), GateRules())
    assert judgement.verdict == "regression"
    found = {finding.metric.name: finding.assessed for finding in judgement.findings}
    assert found["tpot_s_p50"].outcome == found["output_tokens_per_s"].outcome == "regression"
    assert found["ttft_s_p50"].outcome == "pass"
    assert found["tpot_s_p50"].low < 0.1 < found["tpot_s_p50"].high


def test_the_same_twice_passes(tmp_path: Path) -> None:
    judgement = judge(arm(tmp_path / "a"), arm(tmp_path / "b", seed=2), GateRules())
    assert judgement.verdict == "pass"
    assert all(finding.assessed.high < 0.03 for finding in judgement.findings)


def test_getting_faster_passes(tmp_path: Path) -> None:
    judgement = judge(arm(tmp_path / "a"), arm(tmp_path / "b", 8.0, seed=2), GateRules())
    assert judgement.verdict == "pass"
    throughput = judgement.findings[0]
    assert throughput.metric.name == "output_tokens_per_s"
    assert throughput.assessed.slowdown < 0 < throughput.current - throughput.baseline


def test_noise_that_hides_the_limit_is_inconclusive(tmp_path: Path) -> None:
    noisy = (arm(tmp_path / n, seed=s, noise=0.05, repeats=4) for n, s in (("a", 1), ("b", 2)))
    judgement = judge(*noisy, GateRules())
    assert judgement.verdict == "inconclusive"
    assert judgement.pairs_needed is not None and judgement.pairs_needed > 20


def test_one_repeat_never_passes(tmp_path: Path) -> None:
    single = arm(tmp_path / "a", repeats=1), arm(tmp_path / "b", repeats=1)
    judgement = judge(*single, GateRules())
    assert judgement.verdict == "inconclusive"
    assert {finding.assessed.p_adjusted for finding in judgement.findings} == {1.0}


def test_real_but_under_the_limit_passes() -> None:
    found = assessed([0.010, 0.011, 0.009, 0.010, 0.0105, 0.0095])
    assert found.outcome == "pass"
    assert 0 < found.low < found.high < 0.03


def test_real_and_perhaps_over_the_limit_fails() -> None:
    found = assessed([0.02, 0.035, 0.025, 0.03, 0.028, 0.022])
    assert found.outcome == "regression"
    assert 0 < found.low < 0.03 < found.high


@given(st.lists(st.floats(-0.2, 0.2), min_size=3, max_size=20), st.floats(0.005, 0.2))
def test_every_verdict_is_what_its_bounds_say(logs: list[float], limit: float) -> None:
    found = assessed(logs, limit)
    expected = "pass" if found.high < limit else "regression" if found.low > 0 else "inconclusive"
    if np.std(logs) > 1e-9 and abs(found.high - limit) > 1e-12 and abs(found.low) > 1e-12:
        assert found.outcome == expected
    assert (found.pairs_needed is not None) == (found.outcome == "inconclusive")


@given(st.lists(st.floats(-0.1, 0.1), min_size=4, max_size=20), st.integers(2, 9))
def test_a_larger_family_is_judged_more_strictly(logs: list[float], count: int) -> None:
    alone = assessed(logs)
    many = assess([Looks.once(logs)] * count, [0.03] * count, GateRules())
    for each in many:
        assert each.low <= alone.low
        assert each.high == alone.high
        assert each.p_adjusted >= alone.p_adjusted


def test_more_looks_cost_certainty() -> None:
    logs = tuple(0.02 + 0.004 * math.sin(place) for place in range(10))
    once, often = Looks.once(logs), Looks(logs, (4, 6, 10), 8)
    (first,), (second,) = (assess([looks], [0.03], GateRules()) for looks in (once, often))
    assert second.p_adjusted > first.p_adjusted
    assert second.high - second.low > first.high - first.low


def test_each_metric_may_have_its_own_limit(tmp_path: Path) -> None:
    arms = arm(tmp_path / "a"), arm(tmp_path / "b", 11.0, seed=2)
    rules = GateRules(metrics=("tpot_s_p50",), fail_over_of={"tpot_s_p50": 0.2})
    assert judge(*arms, rules).verdict == "pass"


@pytest.mark.parametrize(("slowdown", "verdict"), [(0.0, "pass"), (0.10, "regression")])
def test_seen_after_four_pairs_a_clear_case_is_settled(
    tmp_path: Path, slowdown: float, verdict: str
) -> None:
    arms = arm(tmp_path / "a"), arm(tmp_path / "b", 10 * (1 + slowdown), seed=2)
    judgement = judge(*arms, ONE, LooksTaken((4,), 8))
    assert judgement.verdict == verdict
    assert [len(finding.pairs) for finding in judgement.findings] == [4]


def test_equal_arms_rarely_fail_and_slow_ones_rarely_pass() -> None:
    """Three comparisons, run-to-run CV 1%, ten pairs looked at once."""
    rng, tries, limit = np.random.default_rng(8), 1500, 0.03
    outcomes = {0.0: {"regression": 0}, limit: {"pass": 0}}
    for slowdown, counts in outcomes.items():
        logs = rng.normal(math.log1p(slowdown), 0.01 * math.sqrt(2), (tries, 3, 10))
        for family in logs:
            found = assess([Looks.once(list(each)) for each in family], [limit] * 3, GateRules())
            for outcome in counts:
                counts[outcome] += any(each.outcome == outcome for each in found)
    assert outcomes[0.0]["regression"] / tries <= 0.01
    assert outcomes[limit]["pass"] / tries <= 3 * 0.05


# ---------------------------------------------------------------- validity


def test_a_failed_cell_makes_it_invalid(tmp_path: Path) -> None:
    good = simulated.serve(simulated.Speed(50, 10), 1, requests=12)
    cells = [(simulated.cell(i, "quant", 1, repeat=i), good) for i in range(4)]
    cells[2] = (cells[2][0], simulated.failed("quant died"))
    judgement = judge(arm(tmp_path / "a", repeats=4), simulated.save(tmp_path / "b", cells), ONE)
    assert judgement.verdict == "invalid"
    assert any("repeat 2: failed: quant died" in reason for reason in judgement.reasons)


def test_a_cell_that_was_not_measured_again_makes_it_invalid(tmp_path: Path) -> None:
    judgement = judge(arm(tmp_path / "a", users=(1, 4)), arm(tmp_path / "b", users=(1,)), ONE)
    assert judgement.verdict == "invalid"
    assert "measured in the baseline only" in judgement.reasons[0]


def test_a_new_cell_is_only_noted(tmp_path: Path) -> None:
    judgement = judge(arm(tmp_path / "a"), arm(tmp_path / "b", users=(1, 4), seed=2), ONE)
    assert judgement.verdict == "pass"
    assert any("is new" in note for note in judgement.notes)


def test_unequal_repeats_are_noted(tmp_path: Path) -> None:
    judgement = judge(arm(tmp_path / "a", repeats=6), arm(tmp_path / "b", repeats=8, seed=2), ONE)
    assert [len(finding.pairs) for finding in judgement.findings] == [6]
    assert any("the last 2 were left out" in note for note in judgement.notes)


def test_another_machine_is_refused_unless_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = arm(tmp_path / "a")
    other = {**simulated.MACHINE, "cpu": {"model": "Example 8000", "usable_cores": 2}}
    monkeypatch.setattr(simulated, "MACHINE", other)
    second = arm(tmp_path / "b", seed=2)
    refused = judge(first, second, ONE)
    assert refused.verdict == "invalid"
    assert "CPU: Example 9000, Example 8000" in refused.reasons[0]
    allowed = GateRules(metrics=ONE.metrics, allow_machine_mismatch=True)
    assert judge(first, second, allowed).verdict == "pass"


def test_machines_are_compared_by_what_matters(tmp_path: Path) -> None:
    run = arm(tmp_path / "a", repeats=1).runs[0]
    assert machine_differences([run, run]) == []


def test_a_figure_asked_for_that_nobody_has_is_invalid(tmp_path: Path) -> None:
    rules = GateRules(metrics=("tpot_s_p50", "peak_gpu_memory_bytes"))
    judgement = judge(arm(tmp_path / "a"), arm(tmp_path / "b", seed=2), rules)
    assert judgement.verdict == "invalid"
    assert "no peak_gpu_memory_bytes" in judgement.reasons[0]


def test_other_sizes_can_be_judged_too(tmp_path: Path) -> None:
    rules = GateRules(metrics=("peak_rss_bytes",))
    first = arm(tmp_path / "a")
    assert judge(first, arm(tmp_path / "b", rss_mb=330), rules).verdict == "regression"
    assert judge(first, arm(tmp_path / "c", rss_mb=301), rules).verdict == "pass"


# ---------------------------------------------------------------- refusals


def test_arms_without_a_common_cell_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no cell in common"):
        judge(arm(tmp_path / "a"), arm(tmp_path / "b", users=(4,)), ONE)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (GateRules(metrics=("tpot",)), "unknown metric"),
        (GateRules(metrics=("window_s",)), "metric with a better direction"),
    ],
)
def test_unknown_and_directionless_metrics_are_refused(
    tmp_path: Path, rules: GateRules, message: str
) -> None:
    both = arm(tmp_path / "a", repeats=1), arm(tmp_path / "b", repeats=1)
    with pytest.raises(UnknownNameError, match=message):
        judge(*both, rules)


def test_a_limit_for_a_metric_that_is_not_judged_is_refused(tmp_path: Path) -> None:
    both = arm(tmp_path / "a", repeats=1), arm(tmp_path / "b", repeats=1)
    rules = GateRules(metrics=("tpot_s_p50",), fail_over_of={"ttft_s_p50": 0.1})
    with pytest.raises(UsageError, match="ttft_s_p50 is not judged"):
        judge(*both, rules)


def test_the_gate_comes_in_by_its_hook(tmp_path: Path) -> None:
    found = gate()
    assert isinstance(found, Gate)
    arm(tmp_path / "a")
    arm(tmp_path / "b", seed=2)
    judgement = found.judge(load(tmp_path / "a"), load(tmp_path / "b"), ONE)
    assert isinstance(judgement, GateJudgement)


def test_what_else_differs_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = arm(tmp_path / "a", repeats=4)
    monkeypatch.setattr(simulated, "VERSIONS", {"enginebench": "0.1.0", "torch": "2.11"})
    cells = [
        (replace(one.cell, seed=99 if one.cell.repeat == 1 else one.cell.seed), data)
        for one, data in zip(
            before, [simulated.serve(simulated.Speed(50, 10), 1, requests=12)] * 4, strict=True
        )
    ]
    notes = judge(before, simulated.save(tmp_path / "b", cells), ONE).notes
    assert "in 1 of the pairs the arms did not answer the same prompts (other seeds)" in notes
    assert (
        "the arms differ in installed packages: numpy 2.4.0, now absent; torch absent, now 2.11"
        in notes
    )


def test_arms_that_are_alike_need_no_note(tmp_path: Path) -> None:
    said = "".join(judge(arm(tmp_path / "a"), arm(tmp_path / "b", seed=2), ONE).notes)
    assert "prompts" not in said and "packages" not in said
