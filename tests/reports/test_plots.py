from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from simulated import MS, Speed, cell, data, failed, record, save, serve

from enginebench.errors import UsageError
from enginebench.results import ResultSet
from enginebench.slo import Slo
from enginebench.types import Hardware
from enginebench_reports import plots
from enginebench_reports.crossover import crossovers
from enginebench_reports.figures import draw, render
from enginebench_reports.groups import groups
from enginebench_reports.labels import LINE_HEIGHT, spread
from enginebench_reports.look import CSS_NAMES, DARK, SERIES, marks
from enginebench_reports.quantities import amount
from enginebench_reports.summary import Summary

ALL: list[Callable[..., Axes]] = [
    plots.throughput,
    plots.latency,
    plots.latency_against_throughput,
    plots.ttft_distribution,
    plots.itl_distribution,
    plots.memory,
]


def words(ax: Axes) -> set[str]:
    figure = ax.get_figure(root=True)
    assert figure is not None
    return {text.get_text() for text in figure.findobj(lambda each: hasattr(each, "get_text"))}  # type: ignore[attr-defined]


@pytest.mark.parametrize("plot", ALL)
def test_a_plot_returns_axes_and_names_every_engine(
    plot: Callable[..., Axes], contest: ResultSet
) -> None:
    ax = plot(contest)
    assert isinstance(ax, Axes)
    assert {"paged", "quant"} <= words(ax)


@pytest.mark.parametrize("plot", ALL)
def test_a_plot_draws_into_given_axes(plot: Callable[..., Axes], contest: ResultSet) -> None:
    mine = Figure().add_subplot()
    assert plot(contest, ax=mine) is mine


def test_frames_and_groups_are_results_too(contest: ResultSet) -> None:
    frame = contest.to_pandas()
    for each in (frame, groups(frame)[0]):
        assert {"paged", "quant"} <= words(plots.throughput(each))


def test_the_lines_are_the_figures(contest: ResultSet) -> None:
    frame = contest.to_pandas()
    lines = [line for line in plots.throughput(contest).lines if line.get_linestyle() == "-"]
    paged = frame[frame["label"] == "paged"]
    assert list(lines[0].get_xdata()) == [1, 4, 16]
    assert list(lines[0].get_ydata()) == list(paged["output_tokens_per_s"])


@pytest.mark.parametrize("plot", ALL)
@pytest.mark.parametrize("what", ["empty", "failed"])
def test_nothing_to_draw_is_said(plot: Callable[..., Axes], what: str, tmp_path: Path) -> None:
    results = ResultSet([])
    if what == "failed":
        results = save(tmp_path / "run", [(cell(0, "paged", 1), failed())])
    assert "no cell has these figures" in words(plot(results))


def test_one_load_is_one_point(tmp_path: Path) -> None:
    results = save(tmp_path / "run", [(cell(0, "a", 1), serve(Speed(5, 5), 1, requests=12))])
    for plot in ALL:
        plot(results).get_figure(root=True).savefig(tmp_path / "plot.png")  # type: ignore[union-attr]


def test_several_machines_are_told_apart(tmp_path: Path) -> None:
    served = serve(Speed(5, 5), 1, requests=12)
    cells = [
        (cell(0, "a", 1), served),
        (cell(1, "a", 1, hardware=Hardware(cpu_threads=1)), served),
    ]
    found = words(plots.throughput(save(tmp_path / "run", cells)))
    assert {"a, smollm2-135m on cpu:2, fixed", "a, smollm2-135m on cpu:1, fixed"} <= found


def test_closed_and_open_loop_share_no_figure(tmp_path: Path) -> None:
    once = serve(Speed(5, 5), 1, requests=12)
    results = save(tmp_path / "run", [(cell(0, "a", 1), once), (cell(1, "a", 1, rate_rps=2), once)])
    with pytest.raises(UsageError, match="closed-loop and open-loop"):
        plots.throughput(results)


def test_engines_keep_their_look() -> None:
    found = marks([f"engine-{number:02d}" for number in range(20)])
    assert len({(mark.colour, mark.line) for mark in found.values()}) == 20
    assert marks(["b", "a"])["a"] == marks(["a", "c"])["a"]
    assert marks(["echo", "paged"], last=["echo"])["paged"].colour == SERIES[0]
    assert set(CSS_NAMES) == set(DARK)


def test_labels_are_moved_apart_and_no_further() -> None:
    assert spread([0.1, 0.5, 0.9]) == pytest.approx([0.1, 0.5, 0.9])
    close = spread([0.5, 0.5, 0.5])
    assert close == pytest.approx([0.5 - LINE_HEIGHT, 0.5, 0.5 + LINE_HEIGHT])


def test_the_plots_report_writes_png_and_svg(contest: ResultSet, tmp_path: Path) -> None:
    written = render(contest, tmp_path)
    assert {path.suffix for path in written} == {".png", ".svg"}
    assert len(written) == 16
    for path in written:
        if path.suffix == ".svg":
            ElementTree.parse(path)
        else:
            assert path.read_bytes().startswith(b"\x89PNG")


def test_inlined_svg_follows_the_page(contest: ResultSet) -> None:
    ((_, drawings),) = draw(Summary.of(contest))
    ids: list[str] = []
    for drawing in drawings:
        svg = drawing.inline_svg()
        ElementTree.fromstring(svg)
        assert not any(colour in svg for colour in CSS_NAMES)
        assert "DejaVu" not in svg
        assert 'role="img"' in svg
        ids += re.findall(r'id="([^"]+)"', svg)
        assert svg == drawing.inline_svg()
    assert len(ids) == len(set(ids))


def test_pyplot_is_never_imported(contest: ResultSet) -> None:
    code = (
        "import sys, enginebench\n"
        "from enginebench_reports import plots\n"
        f"plots.throughput(enginebench.load({str(contest.runs[0].folder)!r}))\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def tips(ax: Axes) -> list[str]:
    """What a browser would be told, artist by artist."""
    found = [each.get_gid() for each in ax.get_children()]
    return [gid.partition("\n")[2] for gid in found if gid and "\n" in gid]


def test_every_point_says_what_it_is(contest: ResultSet) -> None:
    frame = contest.to_pandas().set_index(["label", "users"])
    rate = amount(frame.loc[("quant", 4), "output_tokens_per_s"])
    assert f"quant at 4 concurrent: {rate} tokens/s" in tips(plots.throughput(contest))


def test_the_crossover_is_drawn_where_it_is(contest: ResultSet) -> None:
    (said,) = [tip for tip in tips(plots.throughput(contest)) if "overtakes" in tip]
    (group,) = groups(contest.to_pandas())
    (change,) = crossovers(group, "paged", "quant", "output_tokens_per_s")
    assert said == f"paged overtakes quant at {change.text}"


def test_the_front_holds_what_nothing_beats(tmp_path: Path) -> None:
    cells = [
        (cell(place, name, users), serve(speed, users, requests=4 * users))
        for place, (name, users, speed) in enumerate(
            [
                ("quick", 1, Speed(5, 5)),
                ("quick", 4, Speed(300, 11)),
                ("wide", 1, Speed(9, 9)),
                ("wide", 4, Speed(9, 10)),
            ]
        )
    ]
    ax = plots.latency_against_throughput(save(tmp_path / "run", cells))
    front = next(line for line in ax.lines if line.get_gid() == "hover:")
    rows = save(tmp_path / "again", cells).to_pandas().set_index(["label", "users"])
    best = rows.loc[[("quick", 1), ("wide", 4)]]
    assert list(front.get_xdata()) == sorted(best["output_tokens_per_s"])


def test_goodput_and_latency_are_the_metrics(contest: ResultSet) -> None:
    within = contest.with_slo(Slo.parse("ttft=200ms"))
    frame = within.to_pandas()
    for plot, metric, scale in (
        (plots.goodput, "goodput_rps", 1),
        (plots.latency, "tpot_s_p50", 1e3),
    ):
        line = next(line for line in plot(within).lines if line.get_linestyle() == "-")
        paged = frame.loc[frame["label"] == "paged", metric] * scale
        assert list(line.get_ydata()) == pytest.approx(list(paged))


def test_a_timeline_shows_every_request_and_its_tokens(tmp_path: Path) -> None:
    records = [
        record(0, chunks_ms=(100, 200, 300)),
        record(1, scheduled_ms=50, chunks_ms=(), end_ms=250, error="connection reset"),
        record(2, chunks_ms=(1, 2), phase="warmup"),
    ]
    samples = [
        {"t_ns": ms * MS, "server_kv_used_share": share, "rss_bytes": None}
        for ms, share in ((0, 0.25), (100, 0.5), (200, 0.4), (900, 1.0))
    ]
    served = replace(data(records), telemetry=samples)
    (result,) = save(tmp_path / "run", [(cell(0, "paged", 2), served)])
    ax = plots.timeline(result)
    said = set(tips(ax))
    assert "KV cache in use: at most 50.0% here" in said  # what came after the last request is not
    assert not [tip for tip in said if "memory" in tip]
    assert "first token after 100 ms, all 3 chunks after 300 ms" in said
    assert "failed after 200 ms: connection reset" in said
    assert "waiting for a first token, up to 1" in words(ax)
    assert len(ax.patches) == 4  # waiting and streaming, of two requests


def test_a_timeline_of_nothing_says_so(tmp_path: Path) -> None:
    (result,) = save(tmp_path / "run", [(cell(0, "paged", 1), failed())])
    assert "no request was measured in this cell" in words(plots.timeline(result))


def test_sweeps_join_what_differs_in_one_thing(tmp_path: Path) -> None:
    quick, slow = serve(Speed(5, 5), 1, requests=12), serve(Speed(9, 9), 1, requests=12)
    gpu = Hardware(gpus=(0,))
    results = save(
        tmp_path / "run",
        [(cell(0, "a", 1), slow), (cell(1, "a", 1, hardware=gpu), quick), (cell(2, "b", 1), slow)],
    )
    ax = plots.hardware_sweep(results)
    assert {"a at 1 concurrent", "cpu:2", "cuda:0"} <= words(ax)
    assert len([tip for tip in tips(ax) if tip.startswith("a at 1")]) == 2
    assert not [tip for tip in tips(ax) if tip.startswith("b")]  # on one hardware only
    assert "no cell has these figures" in words(plots.model_sweep(results))


def test_the_model_sweep_is_over_parameters(tmp_path: Path) -> None:
    found = [serve(Speed(ms, ms), 1, requests=12) for ms in (5, 9)]
    cells = [(cell(i, "a", 1, model=f"m{i}"), each) for i, each in enumerate(found)]
    results = save(tmp_path / "run", cells)
    sized = ResultSet(
        [
            replace(each, model=replace(each.model, parameters=size))
            for each, size in zip(results, (10**9, 4 * 10**9), strict=True)
        ]
    )
    line = next(each for each in plots.model_sweep(sized).lines if each.get_linestyle() == "-")
    assert list(line.get_xdata()) == [1.0, 4.0]


def test_a_long_legend_takes_no_room_from_the_plot(tmp_path: Path) -> None:
    served = serve(Speed(5, 5), 1, requests=12)
    options = [{"block_size": 2**power} for power in range(8)]
    cells = [(cell(i, "paged", 1, options=each), served) for i, each in enumerate(options)]
    heights = []
    for chosen in (cells[:1], cells):
        (_, drawings), *_ = draw(Summary.of(save(tmp_path / str(len(chosen)), chosen)))
        figure = drawings[0].figure
        heights.append(figure.axes[0].get_position().height * figure.get_size_inches()[1])
    assert heights[1] > 0.9 * heights[0]
