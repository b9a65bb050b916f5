"""`bench compare`: what is matched, what is found where the truth is known, what is said."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import simulated
from click.testing import CliRunner, Result

from enginebench.cli import main
from enginebench.errors import UnknownNameError
from enginebench.results import ResultSet
from enginebench.types import MetricInfo
from enginebench_reports.compare import Comparison, chosen_metrics, compare
from enginebench_reports.compare_arms import arm_of, arms_by_engine, match, metric_infos
from enginebench_reports.compare_table import change_text, notes

TPOT = ("tpot_s_p50",)
NOISE = 0.01


def measured(
    folder: Path,
    tpot_ms: float,
    *,
    repeats: int = 6,
    engine: str = "quant",
    seed: int = 1,
    users: Sequence[int] = (1,),
    options: dict[str, int] | None = None,
) -> ResultSet:
    """A Run of one engine whose true TPOT is known; each repeat has its own luck."""
    rng = random.Random(seed)
    cells = []
    for repeat in range(repeats):
        for each in users:
            index = len(cells)
            speed = simulated.Speed(50, tpot_ms * rng.lognormvariate(0, NOISE))
            planned = simulated.cell(index, engine, each, repeat=repeat, options=options)
            cells.append((planned, simulated.serve(speed, each, requests=12)))
    return simulated.save(folder, cells)


def between(first: ResultSet, second: ResultSet, metrics: Sequence[str] = TPOT) -> Comparison:
    chosen = chosen_metrics(metrics, metric_infos())
    return compare(arm_of("before", first), arm_of("after", second), chosen)


def bench(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_a_true_slowdown_is_found_and_its_interval_holds_the_truth(tmp_path: Path) -> None:
    comparison = between(
        measured(tmp_path / "a", 10.0, seed=1), measured(tmp_path / "b", 11.0, seed=2)
    )
    (contrast,) = comparison.contrasts
    assert contrast.verdict == "worse"
    assert contrast.low is not None and contrast.high is not None
    assert contrast.low < 0.1 < contrast.high
    assert contrast.low < contrast.change < contrast.high
    assert (contrast.first, contrast.second) == pytest.approx((0.010, 0.011), rel=0.02)
    assert contrast.bootstrap is not None


def test_the_same_twice_is_no_clear_change(tmp_path: Path) -> None:
    comparison = between(
        measured(tmp_path / "a", 10.0, seed=1), measured(tmp_path / "b", 10.0, seed=2)
    )
    assert [contrast.verdict for contrast in comparison.contrasts] == ["no clear change"]


def test_higher_throughput_is_better_and_lower_latency_too(tmp_path: Path) -> None:
    comparison = between(
        measured(tmp_path / "a", 12.0),
        measured(tmp_path / "b", 10.0, seed=2),
        ("output_tokens_per_s", "tpot_s_p50", "mean_cpu_percent"),
    )
    found = {each.pairs.metric.name: each for each in comparison.contrasts}
    assert found["output_tokens_per_s"].change > 0
    assert found["tpot_s_p50"].change < 0
    assert found["output_tokens_per_s"].verdict == found["tpot_s_p50"].verdict == "better"
    assert found["mean_cpu_percent"].verdict == "no clear change"


def test_two_repeats_are_too_few_for_a_verdict(tmp_path: Path) -> None:
    comparison = between(
        measured(tmp_path / "a", 10.0, repeats=2), measured(tmp_path / "b", 20.0, repeats=2)
    )
    (contrast,) = comparison.contrasts
    assert (contrast.verdict, contrast.low) == ("too few repeats", None)
    assert "an interval needs 3 pairs" in " ".join(notes(comparison))


def test_one_table_has_one_family_of_errors(tmp_path: Path) -> None:
    """The more is looked at, the wider each interval."""
    first, second = measured(tmp_path / "a", 10), measured(tmp_path / "b", 10, seed=2)
    (alone,) = between(first, second).contrasts
    many = between(first, second, (*TPOT, "output_tokens_per_s", "e2e_s_p50", "itl_s_p50"))
    (same,) = [each for each in many.contrasts if each.pairs.metric.name == TPOT[0]]
    assert alone.low is not None and same.low is not None
    assert same.low < alone.low


def test_options_are_left_out_of_the_match_where_each_arm_has_one_set(tmp_path: Path) -> None:
    first = measured(tmp_path / "a", 10, repeats=1, options={"threads": 1})
    second = measured(tmp_path / "b", 10, repeats=1, options={"threads": 2})
    other = measured(tmp_path / "c", 10, repeats=1, engine="paged")
    assert len(match(arm_of("a", first), arm_of("b", second)).both) == 1
    assert len(match(arm_of("a", first), arm_of("c", other)).both) == 1
    both = ResultSet([*first, *second])
    assert not match(arm_of("both", both), arm_of("c", other)).both


def test_cells_that_only_one_arm_has_are_named(tmp_path: Path) -> None:
    comparison = between(
        measured(tmp_path / "a", 10, users=(1, 4)), measured(tmp_path / "b", 10, users=(1,))
    )
    assert [place.load for place in comparison.only_first] == ["c4"]
    assert any(
        note.startswith("only in before: quant") and "c4" in note for note in notes(comparison)
    )


def test_a_repeat_that_failed_keeps_its_place(tmp_path: Path) -> None:
    """The third repeat of one arm still meets the third of the other."""
    good = simulated.serve(simulated.Speed(50, 10), 1, requests=12)
    cells = [(simulated.cell(i, "quant", 1, repeat=i), good) for i in range(4)]
    cells[1] = (cells[1][0], simulated.failed())
    comparison = between(simulated.save(tmp_path / "a", cells), measured(tmp_path / "b", 10))
    (contrast,) = comparison.contrasts
    assert (len(contrast.pairs.values), contrast.pairs.missing) == (3, 1)
    assert any("invalid failed in 1 of 4" in note for note in notes(comparison))


def test_engines_of_one_run_are_arms(contest: ResultSet) -> None:
    assert [arm.name for arm in arms_by_engine(arm_of("run", contest))] == ["paged", "quant"]


def test_direction_can_be_demanded() -> None:
    known = {
        "good": MetricInfo("good", "s", "lower", ""),
        "size": MetricInfo("size", "s", "neither", ""),
    }
    assert chosen_metrics(["size"], known)
    with pytest.raises(UnknownNameError, match="better direction 'size'"):
        chosen_metrics(["size"], known, directed=True)
    with pytest.raises(UnknownNameError, match="unknown metric 'god'; did you mean good"):
        chosen_metrics(["god"], known)


@pytest.mark.parametrize(
    ("change", "text"),
    [(0.031, "+3.1%"), (-0.004, "-0.4%"), (0.5, "+50.0%"), (1.5, "2.5x"), (0.0, "+0.0%")],
)
def test_changes_as_text(change: float, text: str) -> None:
    assert change_text(change) == text


def test_the_command_compares_runs_and_names_them(tmp_path: Path) -> None:
    measured(tmp_path / "before", 10.0)
    measured(tmp_path / "after", 12.0, seed=2)
    result = bench("compare", tmp_path / "before", tmp_path / "after", "--metrics", "tpot_s_p50")
    assert result.exit_code == 0, result.output
    assert "before" in result.stdout and "after" in result.stdout
    assert "worse" in result.stdout and "+2" in result.stdout


def test_the_command_compares_the_engines_of_one_run(tmp_path: Path) -> None:
    simulated.contest(tmp_path / "run", repeats=3)
    result = bench("compare", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert all(word in result.stdout for word in ("paged", "quant", "c16", "better", "worse"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a"], "holds one engine only (quant)"),
        (["a", "a"], "named twice"),
        (["a", "c"], "no cell is the same in both"),
        (["a", "b", "--metrics", "tpot_s_p50,"], "a name is empty"),
        (["a", "b", "--metrics", "tpot"], "unknown metric 'tpot'; did you mean tpot_s_p"),
    ],
)
def test_what_cannot_be_compared_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    measured(tmp_path / "a", 10, repeats=1)
    measured(tmp_path / "b", 10, repeats=1)
    measured(tmp_path / "c", 10, repeats=1, users=(4,))
    result = bench("compare", *arguments)
    assert result.exit_code == 2
    assert message in result.output
