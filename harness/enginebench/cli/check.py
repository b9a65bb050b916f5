"""`bench check`: the gate. Reads Runs or has them measured in turn, asks the judge, tells CI.

A crash of its own must not look like a regression: whatever is neither a verdict nor wrong usage
ends with the code of an invalid measurement.
"""

from __future__ import annotations

import os
import shlex
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from enginebench import plugins
from enginebench.cli.output import output_console
from enginebench.errors import BenchError, StoreError, UsageError
from enginebench.gate import EXIT_CODES, GateRules, Judgement, LooksTaken
from enginebench.gate_options import read_duration, read_rules
from enginebench.plugins import PluginManager
from enginebench.store import load

if TYPE_CHECKING:
    from enginebench.pairs import Arms

__all__ = ["check"]

INTERRUPTED = 130
PATH = click.Path(path_type=Path)


@dataclass(frozen=True, slots=True)
class Chosen:
    """What is compared, and where documents go."""

    baseline: Path | None
    current: Path | None
    against: str | None
    plan: Path | None
    budget: str | None
    out: Path | None
    junit: Path | None
    json: Path | None
    markdown: Path | None


@click.command()
@click.option("--baseline", metavar="RUN", type=PATH, help="The Run to compare with.")
@click.option("--current", metavar="RUN", type=PATH, help="The Run that is judged.")
@click.option(
    "--against",
    metavar="RUN",
    help="Measure both arms now, in turn: the plan with the engine options of this Run, and as is.",
)
@click.option(
    "--plan", metavar="FILE", type=PATH, help="With --against: what to measure (`bench run`)."
)
@click.option(
    "--budget",
    metavar="TIME",
    help="With --against: when to stop adding pairs, as 90s or 10m. [10m]",
)
@click.option(
    "--out", metavar="FOLDER", type=PATH, help="With --against: for the Runs. [checks/DATE-TIME]"
)
@click.option(
    "--fail-over",
    metavar="PERCENT",
    multiple=True,
    help="The slowdown that must not pass, also METRIC=PERCENT for one metric. [3%]",
)
@click.option("--metrics", metavar="NAMES", help="Comma list. [throughput, TPOT p50, TTFT p50]")
@click.option(
    "--false-alarms", metavar="PERCENT", help="How often equal arms may fail, at most. [1%]"
)
@click.option(
    "--missed", metavar="PERCENT", help="How often such a slowdown may pass, at most. [5%]"
)
@click.option(
    "--allow-machine-mismatch", is_flag=True, help="Judge Runs of different machines all the same."
)
@click.option("--junit", metavar="FILE", type=PATH, help="Write JUnit XML.")
@click.option("--json", metavar="FILE", type=PATH, help="Write everything as JSON.")
@click.option("--markdown", metavar="FILE", type=PATH, help="Write Markdown.")
@click.pass_context
def check(ctx: click.Context, /, **values: Any) -> None:
    """Fail on a real performance regression, and on nothing else.

    \b
    bench check --baseline runs/main --current runs/pr
    bench check --against runs/main --plan ci.toml --budget 10m

    Each figure of each cell is compared over pairs of runs; repeats are paired in order. Markdown
    is appended to $GITHUB_STEP_SUMMARY where that is set. Exit code 0: pass; 1: regression; 2:
    wrong usage; 3: inconclusive; 4: invalid measurement.
    """
    chosen = Chosen(**{key: values[key] for key in Chosen.__dataclass_fields__})
    rules = read_rules(
        values["fail_over"],
        values["metrics"],
        values["false_alarms"],
        values["missed"],
        allow_machine_mismatch=values["allow_machine_mismatch"],
    )
    with _no_false_regression(ctx):
        judgement = _judged(chosen, rules, ctx.obj)
        output_console().print(judgement.table())
        click.echo(judgement.headline)
        _write_documents(chosen, judgement)
    ctx.exit(EXIT_CODES[judgement.verdict])


def _judged(chosen: Chosen, rules: GateRules, manager: PluginManager) -> Judgement:
    recorded = (chosen.baseline, chosen.current)
    measured = (chosen.against, chosen.plan)
    if None not in recorded and not any((*measured, chosen.budget, chosen.out)):
        assert chosen.baseline is not None and chosen.current is not None
        if chosen.baseline.resolve() == chosen.current.resolve():
            raise UsageError(f"--baseline and --current are both {chosen.baseline}")
        return plugins.gate(manager).judge(load(chosen.baseline), load(chosen.current), rules)
    if None not in measured and not any(recorded):
        return _measured(chosen, rules, manager)
    raise UsageError(
        "give either --baseline RUN and --current RUN, or --against RUN and --plan FILE (with "
        "--budget and --out, if you like)"
    )


def _measured(chosen: Chosen, rules: GateRules, manager: PluginManager) -> Judgement:
    from enginebench.pairs import MOST_PAIRS, PairsOutcome, measure_pairs
    from enginebench.types import Cell

    assert chosen.against is not None and chosen.plan is not None
    budget_s = read_duration("--budget", chosen.budget or "10m")
    folder = chosen.out or Path("checks") / f"{datetime.now():%Y%m%d-%H%M%S}"
    arms = _arms(chosen, manager)
    repeats: list[list[Cell]] = [[] for _ in range(MOST_PAIRS)]
    for cell in arms.plan.cells:
        repeats[cell.repeat].append(cell)

    def judge(looks: LooksTaken) -> Judgement:
        baseline, current = load(folder / "baseline"), load(folder / "current")
        return plugins.gate(manager).judge(baseline, current, rules, looks)

    def tell(pairs: int, elapsed_s: float, judgement: Judgement | None) -> None:
        said = "" if judgement is None else f": {judgement.headline}"
        click.echo(f"pair {pairs} after {elapsed_s:.0f} s of {budget_s:.0f} s{said}", err=True)

    outcome: PairsOutcome = measure_pairs(
        repeats, arms, folder, judge, budget_s=budget_s, on_pair=tell
    )
    click.echo(
        f"{outcome.pairs} pairs in {outcome.elapsed_s:.0f} s; their Runs: {folder}", err=True
    )
    return outcome.judgement


def _arms(chosen: Chosen, manager: PluginManager) -> Arms:
    from enginebench.arms import PlannedArm, replayed_arm
    from enginebench.options import merge_options, parse_options
    from enginebench.pairs import MOST_PAIRS, Arms
    from enginebench.plan import build_plan
    from enginebench.plan_file import read_plan_file

    assert chosen.against is not None and chosen.plan is not None
    raw = read_plan_file(chosen.plan)
    for key in ("repeats", "reuse_servers"):
        if key in raw:
            raise UsageError(
                f"{chosen.plan}: {key} has no place in a plan for `bench check`, which adds pairs "
                "as they are needed and starts a server for each cell; remove it"
            )
    planned = build_plan(
        parse_options(merge_options(raw, {"repeats": (str(MOST_PAIRS),)})), manager
    )
    for out in planned.left_out:
        click.echo(f"left out: {out}", err=True)
    here = PlannedArm(planned.plan, shlex.join(["bench", *sys.argv[1:]]), manager)
    replayed = replayed_arm(Path(chosen.against), here)
    for difference in replayed.differences:
        click.echo(f"not as in {chosen.against}: {difference}", err=True)
    return Arms(planned.plan, replayed, here)


def _write_documents(chosen: Chosen, judgement: Judgement) -> None:
    for path, text in (
        (chosen.junit, judgement.junit),
        (chosen.json, judgement.json),
        (chosen.markdown, judgement.markdown),
    ):
        if path is not None:
            _write(path, text(), "w")
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        _write(Path(summary), judgement.markdown(), "a")


def _write(path: Path, text: str, mode: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open(mode, encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}") from error


@contextmanager
def _no_false_regression(ctx: click.Context) -> Iterator[None]:
    """Exit code 1 is a regression's alone."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo("stopped: no verdict", err=True)
        ctx.exit(INTERRUPTED)
    except BenchError as error:
        if error.exit_code == UsageError.exit_code:
            raise
        click.echo(f"Error: {error}", err=True)
        ctx.exit(EXIT_CODES["invalid"])
    except Exception:  # noqa: BLE001 - a bug, shown in full; its usual exit code is a regression's
        traceback.print_exc()
        ctx.exit(EXIT_CODES["invalid"])
