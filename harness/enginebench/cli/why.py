"""`bench why`: what each of an engine's techniques is worth, by turning them off one at a time."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from enginebench import plugins
from enginebench.cli.measure import INTERRUPTED, NewRun, measure
from enginebench.cli.plan_options import plan_options, raw_options
from enginebench.errors import UnknownNameError, UsageError
from enginebench.options import merge_options, parse_options
from enginebench.plan_file import read_plan_file

if TYPE_CHECKING:
    from enginebench.options import PlanOptions
    from enginebench.types import Engine, Option

__all__ = ["why"]

FORMAT = "why"


@click.command()
@click.argument("engine")
@partial(plan_options, leave_out=("engines", "url"))
@click.option(
    "--techniques",
    metavar="NAMES",
    help="Comma list of switches of the engine. [all of its techniques that work there]",
)
@click.option("--plan", metavar="FILE", type=click.Path(path_type=Path), help="As in `bench run`.")
@click.option("--out", metavar="FOLDER", type=click.Path(path_type=Path), default=Path("runs"))
@click.pass_context
def why(ctx: click.Context, /, engine: str, techniques: str | None, **values: Any) -> None:
    """Measure ENGINE as it is, then again without one technique at a time.

    \b
    bench why paged --concurrency 1,16 --repeats 3
    bench why paged --hardware cuda:0 --techniques cuda_graphs,split_kv --reuse-servers

    Prints what each technique is worth; `bench report RUN --format why` does so again.
    """
    from enginebench.plan import build_plan

    manager: plugins.PluginManager = ctx.obj
    options = _options(engine, values)
    found = _engine(engine, manager)
    plain = build_plan(options, manager)
    on_gpu = all(cell.spec.hardware.gpus for cell in plain.plan.cells)
    switches = _switches(found, techniques, on_gpu=on_gpu)
    _check_unset(engine, switches, options)
    planned = build_plan(replace(options, without=tuple(switches)), manager)
    folder = values["out"] / f"{datetime.now():%Y%m%d-%H%M%S}-{planned.plan.name}"
    code = measure(NewRun(planned, folder), manager, with_report=True)
    if code != INTERRUPTED:
        _tell(folder, manager)
    ctx.exit(code)


def _options(engine: str, values: dict[str, Any]) -> PlanOptions:
    typed = {**raw_options(values), "engines": [engine]}
    from_file = read_plan_file(values["plan"]) if values["plan"] is not None else {}
    options = parse_options(merge_options(from_file, typed))
    return options if options.name else replace(options, name=f"why-{engine}")


def _engine(name: str, manager: plugins.PluginManager) -> Engine:
    known = plugins.engines(manager)
    if name not in known:
        raise UnknownNameError("engine", name, known, fix="`bench engines` lists them")
    return known[name]


def _switches(engine: Engine, text: str | None, *, on_gpu: bool) -> Sequence[str]:
    known = {option.name: option for option in engine.options if option.type is bool}
    if text is None:
        found = [name for name, option in known.items() if _works(option, on_gpu)]
        if not found:
            raise UsageError(
                f"{engine.name} names no technique that works there; its switches are: "
                f"{', '.join(known) or 'none'}; choose with --techniques"
            )
        return found
    return _named(engine.name, [part.strip() for part in text.split(",")], known)


def _named(engine: str, names: Sequence[str], known: Mapping[str, Option]) -> Sequence[str]:
    for name in names:
        if name not in known:
            raise UnknownNameError(f"switch of {engine}", name, known)
        if known[name].default is False:
            raise UsageError(
                f"{name} is off anyhow, so that turning it off shows nothing; what turning it on"
                f" does is told by `bench run --engines {engine} --set {engine}.{name}=false,true`"
            )
    if len(set(names)) < len(names):
        raise UsageError(f"--techniques {','.join(names)}: a name comes twice")
    return names


def _check_unset(engine: str, switches: Collection[str], options: PlanOptions) -> None:
    for setting in options.settings:
        if setting.target == engine and setting.option in switches:
            raise UsageError(
                f"--set {setting.key}: what is set cannot also be one of the techniques that are "
                "turned off one at a time; leave it out here or there"
            )


def _works(option: Option, on_gpu: bool) -> bool:
    return option.technique == "everywhere" or (option.technique == "gpu" and on_gpu)


def _tell(folder: Path, manager: plugins.PluginManager) -> None:
    from enginebench.store import load

    known = plugins.reports(manager)
    if FORMAT in known:
        written = known[FORMAT].render(load(folder), folder / "report")
        click.echo(written[0].read_text(encoding="utf-8"))
