from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from simulated import Speed, cell, failed, save, serve

from enginebench.errors import UsageError
from enginebench.results import ResultSet
from enginebench.types import Hardware
from enginebench_reports import plots
from enginebench_reports.figures import draw, render
from enginebench_reports.groups import groups
from enginebench_reports.labels import LINE_HEIGHT, spread
from enginebench_reports.look import CSS_NAMES, DARK, SERIES, marks
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
    for data in (frame, groups(frame)[0]):
        assert {"paged", "quant"} <= words(plots.throughput(data))


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
    data = serve(Speed(5, 5), 1, requests=12)
    cells = [
        (cell(0, "a", 1), data),
        (cell(1, "a", 1, hardware=Hardware(cpu_threads=1)), data),
    ]
    found = words(plots.throughput(save(tmp_path / "run", cells)))
    assert {"a, smollm2-135m on cpu:2, fixed", "a, smollm2-135m on cpu:1, fixed"} <= found


def test_closed_and_open_loop_share_no_figure(tmp_path: Path) -> None:
    data = serve(Speed(5, 5), 1, requests=12)
    results = save(tmp_path / "run", [(cell(0, "a", 1), data), (cell(1, "a", 1, rate_rps=2), data)])
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
