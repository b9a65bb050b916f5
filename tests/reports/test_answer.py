"""The answer is computed: other truths give other sentences."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from simulated import TRUE_SPEEDS, Speed, cell, contest, failed, save, serve

from enginebench.results import ResultSet
from enginebench.types import Hardware
from enginebench_reports.crossover import crossovers
from enginebench_reports.groups import groups
from enginebench_reports.summary import Summary

Speeds = Mapping[str, Mapping[int, Speed]]


def run(folder: Path, speeds: Speeds, *, repeats: int = 1, requests: int = 32) -> ResultSet:
    cells = []
    for repeat in range(repeats):
        for engine, loads in speeds.items():
            for users, speed in loads.items():
                found = serve(speed, users, requests=requests, seed=len(cells))
                cells.append((cell(len(cells), engine, users, repeat=repeat), found))
    return save(folder, cells)


def said(results: ResultSet) -> str:
    return Summary.of(results).headline


def test_the_contest(contest: ResultSet) -> None:
    summary = Summary.of(contest)
    rate = summary.frame.set_index(["label", "users"])["output_tokens_per_s"]
    times = rate["paged", 16] / rate["quant", 16]
    assert summary.headline.startswith(
        f"`paged` gives {times:.1f}x the output tokens/s of `quant` at 16 concurrent; "
        "at 1, `quant` answers 1.7x faster (TPOT 1"
    )
    assert re.search(r"`paged` overtakes in throughput at about \d\.\d \[1-4\]\.", summary.headline)
    assert (
        "`quant` needs 6.9x less memory than `paged` (145 MB against 1.00 GB)" in summary.headline
    )


def test_the_other_way_round(tmp_path: Path) -> None:
    swapped = {"quant": TRUE_SPEEDS["paged"], "paged": TRUE_SPEEDS["quant"]}
    text = said(run(tmp_path / "run", swapped))
    assert text.startswith("`quant` gives ")
    assert re.search(r"`quant` overtakes in throughput at about \d\.\d \[1-4\]\.", text)
    assert "`paged` needs 6.9x less memory than `quant`" in text


def test_one_that_is_better_everywhere_overtakes_nobody(tmp_path: Path) -> None:
    fast, slow = Speed(10, 5), Speed(20, 10)
    text = said(run(tmp_path / "run", {"a": {1: fast, 4: fast}, "b": {1: slow, 4: slow}}))
    assert "`a` gives 2.0x the output tokens/s of `b` at 4 concurrent" in text
    assert "at 1, `a` answers 2.0x faster too (TPOT 5.00 ms against 10.0 ms)" in text
    assert "overtakes" not in text
    assert "memory" not in text  # both need the same


def test_a_tie_is_called_one(tmp_path: Path) -> None:
    text = said(run(tmp_path / "run", {"a": {1: Speed(10, 5)}, "b": {1: Speed(10, 5.05)}}))
    assert text.startswith("At 1 concurrent, `a` and `b` give the same output tokens/s")


def test_repeats_give_an_interval(tmp_path: Path) -> None:
    speeds = {"a": {4: Speed(10, 5, jitter=0.05)}, "b": {4: Speed(20, 10, jitter=0.05)}}
    text = said(run(tmp_path / "run", speeds, repeats=4))
    assert text.startswith("`a` gives 2.0x [")
    same = {"a": {4: Speed(20, 10, jitter=0.3)}, "b": {4: Speed(20, 10, jitter=0.3)}}
    assert "give the same output tokens/s" in said(run(tmp_path / "same", same, repeats=4))


def test_the_best_of_three_is_compared_with_the_next(tmp_path: Path) -> None:
    speeds = {name: {2: Speed(1, pace)} for name, pace in (("a", 10), ("b", 5), ("c", 20))}
    assert said(run(tmp_path / "run", speeds)).startswith(
        "`b` gives 2.0x the output tokens/s of `a`"
    )


def test_a_null_engine_wins_nothing(tmp_path: Path) -> None:
    speeds = {"echo": {1: Speed(1, 1)}, "a": {1: Speed(10, 5)}, "b": {1: Speed(10, 10)}}
    text = said(run(tmp_path / "run", speeds))
    assert "echo" not in text
    assert "`a` gives" in text
    alone = said(run(tmp_path / "alone", {"echo": {1: Speed(1, 1)}}))
    assert alone.startswith("`echo` gives")


def test_one_engine_is_described(tmp_path: Path) -> None:
    text = said(run(tmp_path / "run", {"a": {1: Speed(0, 10), 8: Speed(0, 20)}}))
    assert text == (
        "`a` gives 413 output tokens/s at 8 concurrent (TPOT 20.0 ms) and 103 output tokens/s at "
        "1 concurrent (TPOT 10.0 ms)."
    )


def test_invalid_cells_are_not_quoted(tmp_path: Path) -> None:
    cells = [
        (cell(0, "a", 1), serve(Speed(10, 5), 1, requests=12)),
        (cell(1, "b", 1), failed("no device")),
    ]
    text = said(save(tmp_path / "run", cells))
    assert text.startswith("`a` gives")
    assert "`b`" not in text


def test_engines_that_share_no_load_are_not_compared(tmp_path: Path) -> None:
    text = said(run(tmp_path / "run", {"a": {1: Speed(0, 10)}, "b": {4: Speed(0, 10)}}))
    assert text == (
        "`a` gives 103 output tokens/s at 1 concurrent (TPOT 10.0 ms). "
        "`b` gives 413 output tokens/s at 4 concurrent (TPOT 10.0 ms)."
    )


def test_nothing_to_say_is_said(tmp_path: Path) -> None:
    assert said(ResultSet([])) == "This Run holds no cells, so there is nothing to say."
    bad = save(tmp_path / "run", [(cell(0, "a", 1), failed()), (cell(1, "b", 1), None)])
    assert said(bad).startswith("No figure can be quoted: of 2 cells, 1 failed, 1 pending")


def test_only_like_is_compared_with_like(tmp_path: Path) -> None:
    cells = [
        (cell(0, "a", 1), serve(Speed(10, 5), 1, requests=12)),
        (cell(1, "b", 1, hardware=Hardware(gpus=(0,))), serve(Speed(10, 1), 1, requests=12)),
        (cell(2, "b", 1, model="other"), serve(Speed(10, 1), 1, requests=12)),
        (cell(3, "b", 1, rate_rps=2.0), serve(Speed(10, 1), 1, requests=12)),
    ]
    results = save(tmp_path / "run", cells)
    found = groups(results.to_pandas())
    assert [group.title for group in found] == [
        "smollm2-135m on cpu:2, fixed",
        "smollm2-135m on cuda:0, fixed",
        "other on cpu:2, fixed",
        "smollm2-135m on cpu:2, fixed, open loop",
    ]
    assert len(Summary.of(results).answers) == 4


@pytest.mark.parametrize(
    ("mine", "theirs", "expected"),
    [
        ([1, 5, 9], [2, 4, 8], ("a", 1, 2, 2 ** (1 / 2))),
        ([3, 4, 1], [2, 4, 8], ("b", 1, 4, 4 ** (1 / 8))),
        ([3, 5, 9], [2, 4, 8], None),
    ],
)
def test_crossovers_lie_between_measured_loads(
    contest: ResultSet,
    mine: list[float],
    theirs: list[float],
    expected: tuple[str, float, float, float] | None,
) -> None:
    frame = contest.to_pandas()
    frame["users"] = frame["users"].map({1: 1, 4: 2, 16: 4})
    frame["label"] = frame["label"].map({"paged": "a", "quant": "b"})
    for label, values in (("a", mine), ("b", theirs)):
        frame.loc[frame["label"] == label, "output_tokens_per_s"] = values
    (group,) = groups(frame)
    found = crossovers(group, "a", "b", "output_tokens_per_s")
    assert len(found) == (expected is not None)
    if expected is not None:
        overtaker, after, until, at = expected
        assert (found[0].overtaker, found[0].after, found[0].until) == (overtaker, after, until)
        assert found[0].at == pytest.approx(at)
        assert (found[0].low, found[0].high) == (after, until)  # one repeat: no more is known


def test_repeats_narrow_a_crossover(tmp_path: Path) -> None:
    (group,) = groups(contest(tmp_path / "run", repeats=4, requests=64).to_pandas())
    (found,) = crossovers(group, "paged", "quant", "output_tokens_per_s")
    assert found.after <= found.low < found.at < found.high <= found.until
    assert found.high - found.low < found.until - found.after


def test_a_range_over_repeats(tmp_path: Path) -> None:
    from enginebench_reports.groups import curve

    results = contest(tmp_path / "run", repeats=3)
    (group,) = groups(results.to_pandas())
    points = curve(group, "paged", "output_tokens_per_s")
    assert [point.load for point in points] == [1, 4, 16]
    assert all(p.repeats == 3 and p.low <= p.median <= p.high for p in points)
