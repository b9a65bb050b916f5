from __future__ import annotations

from pathlib import Path

from simulated import Speed, cell, record, save, serve
from simulated import contest as simulate

from enginebench.results import ResultSet
from enginebench.store import CellData
from enginebench_reports.quantities import DASH
from enginebench_reports.summary import Summary
from enginebench_reports.tables import Entry, Row, Table, result_table


def table(results: ResultSet) -> Table:
    summary = Summary.of(results)
    return result_table(summary, summary.groups[0])


def entry(found: Table, row: Row, title: str) -> Entry:
    return row.entries[[heading.full_title for heading in found.headings].index(title)]


def test_rows_stand_by_load_and_engine(contest: ResultSet) -> None:
    rows = table(contest).rows
    assert [(row.load, row.label) for row in rows] == [
        (load, label) for load in (1, 4, 16) for label in ("paged", "quant")
    ]


def test_figures_carry_the_unit_of_their_heading(contest: ResultSet) -> None:
    found = table(contest)
    frame = contest.to_pandas()
    shown = entry(found, found.rows[0], "TPOT p50")
    assert shown.value == frame.loc[0, "tpot_s_p50"]
    assert shown.text == f"{frame.loc[0, 'tpot_s_p50'] * 1000:.1f}"
    assert entry(found, found.rows[0], "memory RSS").text == "900"


def test_dashes_and_estimates_explain_themselves(contest: ResultSet) -> None:
    found = table(contest)
    missing = entry(found, found.rows[0], "TTFT p99")
    assert (missing.text, missing.note) == (DASH, "p99 needs 100 samples, there are 32")
    estimate = entry(found, found.rows[0], "TTFT p90")
    assert estimate.text.startswith("~")
    assert "bound needs 64" in estimate.note
    assert not entry(found, found.rows[0], "TTFT p50").text.startswith("~")


def test_the_best_of_each_load_is_marked(contest: ResultSet) -> None:
    found = table(contest)
    best = [(row.load, row.label) for row in found.rows if entry(found, row, "TTFT p50").is_best]
    assert best == [(1, "quant"), (4, "paged"), (16, "paged")]


def test_invalid_cells_and_null_engines_are_never_best(tmp_path: Path) -> None:
    quick = serve(Speed(1, 1), 1, requests=12)
    wrong = CellData(
        quick.status, (), [record(i, error="oops") for i in range(3)] + [*quick.records]
    )
    cells = [
        (cell(0, "echo", 1), quick),
        (cell(1, "wrong", 1), wrong),
        (cell(2, "a", 1), serve(Speed(5, 5), 1, requests=12)),
        (cell(3, "b", 1), serve(Speed(9, 9), 1, requests=12)),
    ]
    found = table(save(tmp_path / "run", cells))
    assert [row.label for row in found.rows if any(each.is_best for each in row.entries)] == ["a"]
    assert {row.label: row.status for row in found.rows}["wrong"] == "invalid"


def test_columns_without_any_figure_are_left_out(contest: ResultSet) -> None:
    titles = [heading.full_title for heading in table(contest).headings]
    assert "memory RSS" in titles
    assert "memory GPU" not in titles
    assert "energy" not in titles


def test_families_span_all_headings(contest: ResultSet, troubled: ResultSet) -> None:
    for results in (contest, troubled):
        found = table(results)
        members = [heading for _, together in found.families for heading in together]
        assert members == list(found.headings)
        assert len(dict(found.families)["TTFT"]) == 3


def test_repeats_have_a_column_only_where_there_are_any(tmp_path: Path, contest: ResultSet) -> None:
    assert not table(contest).has_repeats
    repeated = table(simulate(tmp_path / "run", repeats=2))
    assert repeated.has_repeats
    assert [row.repeat for row in repeated.rows[:4]] == [0, 1, 0, 1]


def test_failed_and_pending_cells_have_rows_too(troubled: ResultSet) -> None:
    found = table(troubled)
    assert {row.label: row.status for row in found.rows} == {
        "quant": "ok",
        "paged": "invalid",
        "vllm": "invalid",
        "reset": "invalid",
        "silent": "caution",
        "nothing": "invalid",
    }
