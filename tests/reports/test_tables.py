from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from simulated import Speed, cell, record, save, serve
from simulated import contest as simulate

from enginebench import plugins
from enginebench.results import CellResult, ResultSet
from enginebench.store import CellData
from enginebench.types import MetricInfo
from enginebench_reports.html import page
from enginebench_reports.metrics import COLUMNS
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


class LongestAnswer:
    columns = (MetricInfo("longest_answer_s", "s", "lower", "Slowest request"),)

    def compute(self, cell: CellResult) -> Mapping[str, float | None]:
        return {"longest_answer_s": 0.25}


def test_metrics_of_plugins_have_columns_without_being_known(
    contest: ResultSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    built_in = plugins.metrics()
    monkeypatch.setattr(plugins, "metrics", lambda: [*built_in, LongestAnswer()])
    summary = Summary.of(contest)
    found = result_table(summary, *summary.groups, further=True)
    assert entry(found, found.rows[0], "longest answer").text == "250"
    heading = next(each for each in found.headings if each.metric == "longest_answer_s")
    assert (heading.unit, heading.is_extra) == ("ms", False)
    assert "<dt>longest_answer_s</dt><dd>250 ms</dd>" in page(summary)


def test_further_metrics_wait_until_they_are_asked_for(contest: ResultSet) -> None:
    summary = Summary.of(contest)
    found = result_table(summary, *summary.groups, further=True)
    extra = {each.metric: each for each in found.headings if each.is_extra}
    assert extra["e2e_s_p90"].full_title == "e2e p90"
    assert extra["ready_s"].title == "ready"
    at_first = {each.metric for each in table(contest).headings}
    assert not at_first & set(extra)
    built_in = {info.name for info in COLUMNS} & {each.metric for each in found.headings}
    assert built_in == at_first | set(extra)


def test_rows_say_what_they_can_be_filtered_by(contest: ResultSet, tmp_path: Path) -> None:
    other = simulate(tmp_path / "again")
    summary = Summary.of(ResultSet([*contest, *other]))
    found = result_table(summary, *summary.groups)
    assert found.facets == ["run"]
    assert found.rows[0].facets["machine"] == "Example 9000, 2 cores"
    assert {row.facets["engine"] for row in found.rows} == {"paged", "quant"}
