"""`bench check`: the gate. Reads Runs or has them measured in turn, asks the judge, tells CI.

A crash of its own must not look like a regression: whatever is neither a verdict nor wrong usage
ends with the code of an invalid measurement.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from enginebench import plugins
from enginebench.cli.output import output_console
from enginebench.errors import BenchError, StoreError, UsageError
from enginebench.gate import EXIT_CODES, GateRules, Judgement
from enginebench.gate_options import read_duration, read_rules
from enginebench.plugins import PluginManager
from enginebench.store import load

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
    install: str | None
    keep_environment: bool
    resume: Path | None
    junit: Path | None
    json: Path | None
    markdown: Path | None


@click.command()
@click.option("--baseline", metavar="RUN", type=PATH, help="The Run to compare with.")
@click.option("--current", metavar="RUN", type=PATH, help="The Run that is judged.")
@click.option(
    "--against",
    metavar="REF_OR_RUN",
    help="Measure both arms now, in turn: the plan as is, and as this git commit does it, or with "
    "the engine options of this Run.",
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
    "--install",
    metavar="COMMAND",
    help="With --against REF: the shell command that installs the checkout, in which it is run, "
    "into its own environment. [pip install -e ., with constraints.txt if there is one]",
)
@click.option(
    "--keep-environment",
    is_flag=True,
    help="With --against REF: build no environment; only the source is that of REF.",
)
@click.option(
    "--resume", metavar="FOLDER", type=PATH, help="Go on with a check that was interrupted."
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
    bench check --against main --plan ci.toml --budget 10m
    bench check --against runs/main --plan ci.toml
    bench check --resume checks/20260101-120000

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
    if chosen.resume is not None:
        _check_resume(chosen, rules)
    with _no_false_regression(ctx):
        judgement = _judged(chosen, rules, ctx.obj)
        output_console().print(judgement.table())
        click.echo(judgement.headline)
        _write_documents(chosen, judgement)
    ctx.exit(EXIT_CODES[judgement.verdict])


def _judged(chosen: Chosen, rules: GateRules, manager: PluginManager) -> Judgement:
    recorded = (chosen.baseline, chosen.current)
    measured = (chosen.against, chosen.plan)
    extras = (chosen.budget, chosen.out, chosen.install, chosen.keep_environment, chosen.resume)
    if None not in recorded and not any((*measured, *extras)):
        assert chosen.baseline is not None and chosen.current is not None
        if chosen.baseline.resolve() == chosen.current.resolve():
            raise UsageError(f"--baseline and --current are both {chosen.baseline}")
        return plugins.gate(manager).judge(load(chosen.baseline), load(chosen.current), rules)
    if chosen.resume is not None or (None not in measured and not any(recorded)):
        return _measured(chosen, rules, manager)
    raise UsageError(
        "give either --baseline RUN and --current RUN, or --against REF_OR_RUN and --plan FILE "
        "(with --budget and --out, if you like), or --resume FOLDER"
    )


def _measured(chosen: Chosen, rules: GateRules, manager: PluginManager) -> Judgement:
    from enginebench.check import DEFAULT_BUDGET_S, CheckRequest, begin, proceed
    from enginebench.checkout import Installation

    given = None if chosen.budget is None else read_duration("--budget", chosen.budget)
    if chosen.resume is not None:
        folder = chosen.resume
    else:
        assert chosen.against is not None and chosen.plan is not None
        request = CheckRequest(
            against=chosen.against,
            plan=chosen.plan,
            rules=rules,
            budget_s=given or DEFAULT_BUDGET_S,
            installation=Installation(chosen.install, chosen.keep_environment),
        )
        named = chosen.out or Path("checks") / f"{datetime.now():%Y%m%d-%H%M%S}"
        folder = begin(request, named, manager)
    try:
        return proceed(folder, manager, lambda line: click.echo(line, err=True), budget_s=given)
    except KeyboardInterrupt:
        click.echo(f"go on with: bench check --resume {folder}", err=True)
        raise


def _check_resume(chosen: Chosen, rules: GateRules) -> None:
    """What was begun is fixed: rules that change with the data in sight prove nothing."""
    fixed = {
        "--baseline": chosen.baseline,
        "--current": chosen.current,
        "--against": chosen.against,
        "--plan": chosen.plan,
        "--out": chosen.out,
        "--install": chosen.install,
        "--keep-environment": chosen.keep_environment,
        "options of the verdict (--fail-over, --metrics, ...)": rules != GateRules(),
    }
    if given := [name for name, value in fixed.items() if value]:
        raise UsageError(
            f"--resume goes on with the check as it was begun; leave out {', '.join(given)}"
        )


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
