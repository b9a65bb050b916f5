"""What techniques are worth, found in Runs of known truth."""

from __future__ import annotations

from pathlib import Path

import pytest
import simulated

from enginebench.results import ResultSet
from enginebench.types import OptionValue
from enginebench_reports.why import ablations
from enginebench_reports.why_documents import NOTHING, markdown, plot_losses, render

TPOT_MS = {None: 10.0, "cuda_graphs": 20.0, "split_kv": 12.5, "prefix_cache": 10.0}


def options(technique: str | None) -> dict[str, OptionValue]:
    return {"block_size": 32} | ({technique: False} if technique else {})


def ablated(folder: Path, repeats: int = 1) -> ResultSet:
    """An engine that gets slower without some techniques, by a known amount, at 1 and 4."""
    cells = []
    for repeat in range(repeats):
        for technique, tpot_ms in TPOT_MS.items():
            for users in (1, 4):
                index = len(cells)
                planned = simulated.cell(
                    index, "paged", users, repeat=repeat, options=options(technique)
                )
                speed = simulated.Speed(tpot_ms, tpot_ms * (1 + 0.001 * repeat))
                cells.append((planned, simulated.serve(speed, users, requests=12, seed=index)))
    return simulated.save(folder, cells)


def test_each_switch_is_held_against_everything_on(tmp_path: Path) -> None:
    (ablation,) = ablations(ablated(tmp_path / "run"))
    assert ablation.engine == "paged block_size=32"
    assert [loss.technique for loss in ablation.losses][:2] == ["cuda_graphs", "split_kv"]
    assert len(ablation.losses) == 3
    worst = ablation.losses[0]
    for place in ablation.places:
        contrast = worst.at(place, "tpot_s_p50")
        assert contrast is not None
        assert contrast.change == pytest.approx(1.0)
        throughput = worst.at(place, "output_tokens_per_s")
        assert throughput is not None
        assert throughput.change == pytest.approx(-0.5, abs=0.01)


def test_the_document_says_what_is_worth_most_and_by_how_much(tmp_path: Path) -> None:
    text = markdown(ablations(ablated(tmp_path / "run")))
    assert "## paged block_size=32: without cuda_graphs it gives 50% fewer output tokens/s" in text
    assert "| without | c1 | c4 |" in text
    assert "| split_kv | +25.0% | +25.0% |" in text


def test_repeats_bring_intervals(tmp_path: Path) -> None:
    text = markdown(ablations(ablated(tmp_path / "run", repeats=4)))
    assert "| cuda_graphs | +100.0% [+100.0% to +100.0%] |" in text


def test_files_and_bars(tmp_path: Path) -> None:
    results = ablated(tmp_path / "run")
    names = [path.relative_to(tmp_path).as_posix() for path in render(results, tmp_path)]
    assert names == ["why.md", "plots/why.png", "plots/why.svg"]
    ax = plot_losses(ablations(results)[0])
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        "no cuda_graphs",
        "no split_kv",
        "no prefix_cache",
    ]
    assert [round(bar.get_width()) for bar in ax.patches[:3]] == [50, 80, 100]


def test_a_run_without_switches_says_how_to_get_one(tmp_path: Path) -> None:
    results = simulated.contest(tmp_path / "run")
    assert ablations(results) == []
    (path,) = render(results, tmp_path)
    assert path.read_text() == NOTHING


def test_two_switches_at_once_or_a_changed_value_are_no_ablation(tmp_path: Path) -> None:
    both = {"cuda_graphs": False, "split_kv": False}
    chosen = [{}, both, {"block_size": 64}, {"cuda_graphs": True}]
    cells = [
        (
            simulated.cell(index, "paged", 1, options=given),
            simulated.serve(simulated.Speed(10, 10), 1, requests=4),
        )
        for index, given in enumerate(chosen)
    ]
    assert ablations(simulated.save(tmp_path / "run", cells)) == []
