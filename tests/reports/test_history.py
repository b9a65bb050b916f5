"""The history: filed by commit and machine, whole or not at all, steps named by their commit."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import simulated
from click.testing import CliRunner, Result

from enginebench.cli import main
from enginebench.errors import StoreError, UsageError
from enginebench.revision import git
from enginebench.run_folder import save_run
from enginebench.store import load
from enginebench.types import Plan
from enginebench_reports.compare_arms import metric_infos
from enginebench_reports.history import Trend, machine_title, trends
from enginebench_reports.history_store import open_history

START = datetime(2026, 1, 1, tzinfo=UTC)
METRICS = ("output_tokens_per_s", "tpot_s_p50")


def commit_id(number: int) -> str:
    return f"{number:02d}" + "abcdef" * 6 + "ab"


def measured(
    folder: Path,
    number: int,
    tpot_ms: float,
    *,
    cpu: str = "Example 9000",
    revision: str | None = "",
) -> Path:
    """A Run of one cell, `number` hours after the first."""
    cell = simulated.cell(0, "quant", 1)
    data = simulated.serve(simulated.Speed(50, tpot_ms), 1, requests=12)
    machine = {**simulated.MACHINE, "cpu": {"model": cpu, "usable_cores": 2}}
    save_run(
        folder,
        Plan("ci", 1, (cell,), {cell.spec.model: simulated.MODEL}),
        {cell.id: data},
        machine=machine,
        versions=simulated.VERSIONS,
        created_at=START + timedelta(hours=number),
        revision=commit_id(number) if revision == "" else revision,
    )
    return folder


def store_of(folder: Path, speeds: Sequence[float], **machine: str) -> Path:
    path = folder / "history.sqlite"
    with open_history(path, create=True) as store:
        for number, tpot_ms in enumerate(speeds):
            run = measured(folder / f"{machine.get('cpu', '')}{number}", number, tpot_ms, **machine)
            store.add(load(run))
    return path


def trends_of(path: Path, metrics: Sequence[str] = METRICS) -> Sequence[Trend]:
    with open_history(path) as store:
        return trends(store.entries(metrics), false_alarms=0.05)


@pytest.fixture(scope="module")
def stepped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen commits, of which the tenth made it 20% slower."""
    luck = np.random.default_rng(3).normal(0, 0.005, 16)
    speeds = [(12.0 if number >= 9 else 10.0) * np.exp(luck[number]) for number in range(16)]
    return store_of(tmp_path_factory.mktemp("stepped"), speeds)


def test_the_commit_that_made_it_slower_is_named(stepped: Path) -> None:
    for trend in trends_of(stepped):
        (step,) = trend.steps
        assert (step.last.id, step.commit.id) == (commit_id(8), commit_id(9))
        assert step.slowdown == pytest.approx(0.2, abs=0.03) and step.is_worse
        assert [(start, end) for start, end, _ in trend.levels] == [(0, 8), (9, 15)]
        assert trend.since_first == pytest.approx(0.2, abs=0.05)


def test_machines_are_never_mixed(tmp_path: Path) -> None:
    """Two machines, one twice as fast: as one series, they would step."""
    luck = np.random.default_rng(4).normal(0, 0.005, 8)
    store_of(tmp_path, list(10 * np.exp(luck)), cpu="Example 9000")
    path = store_of(tmp_path, list(20 * np.exp(luck)), cpu="Other 1")
    found = trends_of(path, ("tpot_s_p50",))
    assert [machine_title(trend.machine) for trend in found] == [
        "Example 9000, 2 cores, no GPU",
        "Other 1, 2 cores, no GPU",
    ]
    assert [len(trend.points) for trend in found] == [8, 8]
    assert not any(trend.steps for trend in found)


def test_a_run_is_added_once_wherever_it_lies(tmp_path: Path) -> None:
    path = store_of(tmp_path, [10.0])
    (tmp_path / "0").rename(tmp_path / "moved")
    with open_history(path) as store:
        before = store.entries()
        (added,) = store.add(load(tmp_path / "moved"))
        assert not added.is_new
        assert store.entries() == before
    assert {entry.metric.name for entry in before} <= set(metric_infos())


def test_figures_of_a_commit_are_one_point(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite"
    with open_history(path, create=True) as store:
        for number, tpot_ms in enumerate((10.0, 40.0)):
            store.add(load(measured(tmp_path / str(number), number, tpot_ms)), "abcdef1")
    (trend,) = trends_of(path, ("tpot_s_p50",))
    (point,) = trend.points
    assert (point.count, point.value) == (2, pytest.approx(0.020))
    assert trend.fewest is None


@pytest.mark.parametrize(
    ("revision", "commit", "message"),
    [
        (None, None, "does not tell which commit"),
        (commit_id(1) + "+changes", None, "with uncommitted changes"),
        (commit_id(1), "no such thing", "no commit of this folder"),
    ],
)
def test_a_run_without_a_commit_adds_nothing(
    tmp_path: Path, revision: str | None, commit: str | None, message: str
) -> None:
    good, bad = (
        measured(tmp_path / "good", 0, 10),
        measured(tmp_path / "x", 1, 10, revision=revision),
    )
    with open_history(tmp_path / "h", create=True) as store:
        with pytest.raises(UsageError, match=message):
            store.add(load(good, bad), commit)
        assert store.entries() == []


def test_cells_that_failed_are_left_out(tmp_path: Path) -> None:
    cells = [(simulated.cell(0, "quant", 1), simulated.failed())]
    with open_history(tmp_path / "h", create=True) as store:
        (added,) = store.add(simulated.save(tmp_path / "run", cells), commit_id(1))
        assert (added.cells, added.left_out) == (0, 1)
        assert store.entries() == []


def test_what_is_no_history_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database, but long enough to be told from one" * 20)
    with sqlite3.connect(tmp_path / "newer") as newer:
        newer.execute("PRAGMA user_version = 99")
    newer.close()
    for name, message in (
        ("missing", "there is no history"),
        ("text", "cannot use the history"),
        ("newer", "version 99, known: 1"),
    ):
        with pytest.raises(StoreError, match=message), open_history(tmp_path / name):
            pass


def bench(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["history", *arguments])


def test_show_names_the_commit_draws_and_writes(stepped: Path, tmp_path: Path) -> None:
    plot, document = tmp_path / "trend.png", tmp_path / "trend.json"
    files = ["--plot", str(plot), "--json", str(document)]
    result = bench("show", "--store", str(stepped), "--metric", ",".join(METRICS), *files)
    assert result.exit_code == 0, result.output
    short = commit_id(9)[:10]
    assert f"worse at {short}" in result.stdout
    assert f"git log {commit_id(8)[:10]}..{short}" in result.stdout
    assert plot.read_bytes().startswith(b"\x89PNG")
    found = json.loads(document.read_text())
    assert [each["steps"][0]["commit"] for each in found] == [commit_id(9)] * 2
    assert len(found[0]["commits"]) == 16


def test_one_trend_is_shown_commit_by_commit(stepped: Path) -> None:
    result = bench("show", "--store", str(stepped), "--metric", "tpot_s_p50", "--cell", "quant c1")
    assert result.exit_code == 2 and "quant smollm2-135m" in result.output
    result = bench("show", "--store", str(stepped), "--metric", "tpot_s_p50", "--cell", "quant")
    assert result.exit_code == 0, result.output
    assert all(commit_id(number)[:10] in result.stdout for number in range(16))


def test_add_says_what_it_did(tmp_path: Path) -> None:
    run, store = measured(tmp_path / "run", 0, 10), str(tmp_path / "h.sqlite")
    assert "run: added under 00abcdefab, 1 cells" in bench("add", str(run), "--store", store).stdout
    assert "run: known already" in bench("add", str(run), "--store", store).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--metric", "nothing"], "unknown metric with a better direction"),
        (["--plot", "trend.gif"], "must end with .png"),
        (["--false-alarms", "1"], "must be a percentage"),
        (["--store", "nowhere.sqlite"], "there is no history"),
    ],
)
def test_wrong_usage_of_show_is_explained(
    stepped: Path, arguments: list[str], message: str
) -> None:
    result = bench("show", "--store", str(stepped), *arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_commits_stand_as_the_repository_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second commit is dated before the first, as after a rebase; an unknown one: by date."""
    repository = tmp_path / "repository"
    repository.mkdir()
    monkeypatch.chdir(repository)
    for name in ("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"):
        monkeypatch.setenv(name, "a")
    for name in ("GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"):
        monkeypatch.setenv(name, "a@example.org")
    assert git("init", "-q", ".") is not None
    commits = []
    for day in (3, 1, 2):
        monkeypatch.setenv("GIT_COMMITTER_DATE", f"2026-01-0{day}T00:00:00Z")
        assert git("commit", "-q", "--allow-empty", "-m", str(day)) is not None
        commits.append(str(git("rev-parse", "HEAD")))
    path = tmp_path / "history.sqlite"
    with open_history(path, create=True) as store:
        for number, commit in enumerate(reversed(commits)):
            run = measured(tmp_path / str(number), number, 10.0, revision=commit)
            store.add(load(run))
        assert list(dict.fromkeys(entry.commit.id for entry in store.entries())) == commits
        store.add(load(measured(tmp_path / "other", 9, 10.0)))  # after all the others
        by_date = [commits[1], commits[2], commits[0]]
        found = list(dict.fromkeys(entry.commit.id for entry in store.entries()))
        assert [commit for commit in found if commit in commits] == by_date
