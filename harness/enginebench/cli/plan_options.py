"""The options of `bench run` that shape the plan: one for each key of `plan.toml`.

All of them are taken as texts: `enginebench.options` reads them by the rules of the file.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

import click

from enginebench.options import OPTION_KEYS, RawOptions

__all__ = ["engine_options", "plan_options", "raw_options"]

Function = TypeVar("Function", bound=Callable[..., Any])

_HELP = {
    "engines": (
        "NAMES",
        "Comma list; all: every one that can run here, save those by name only. [all]",
    ),
    "model": (
        "MODELS",
        "Comma list of registry names, .gguf files, folders, hub ids, synthetic:NAME, "
        "remote:NAME. [smollm2-135m]",
    ),
    "hardware": (
        "HW",
        "Comma list of cpu:2, cuda:0, cuda:0,1 (one entry), cuda:0+cpu:8. "
        "[the first GPU, else all cores]",
    ),
    "concurrency": (
        "N,...",
        "Closed loop: how many users at a time; slo or slo:FIRST searches for the most that "
        "--slo allows. [1,16; none where only --rate is given]",
    ),
    "rate": (
        "R,...",
        "Open loop: how many requests come a second, whatever became of the others; a trace also "
        "1x, 2x, ...: as fast as it was recorded, or that many times. saturate searches for the "
        "highest that the engine keeps up with, slo for the highest that --slo allows; "
        "saturate:8 begins there.",
    ),
    "slo": (
        "BOUNDS",
        "What a good request keeps, as in ttft=500ms,tpot=50ms,e2e=10s: goodput counts those. "
        "Without --concurrency and --rate: search for the highest rate that keeps it.",
    ),
    "slo_share": ("PERCENT", "How many requests must be good where a search asks. [90%]"),
    "arrival": (
        "HOW",
        "Open loop: constant, poisson or gamma (bursts), an option of the workload. [poisson]",
    ),
    "workload": ("NAME", "What the requests are like; `bench workloads` lists them. [fixed]"),
    "route": ("NAME", "completions or chat, an option of the workload."),
    "requests": ("N", "Measured requests of a cell."),
    "duration": (
        "SECONDS",
        "How long a cell is measured; with --requests, whichever ends first. "
        "[10; no limit where only --requests is given]",
    ),
    "input_tokens": ("N,...", "Prompt lengths, an option of the workload."),
    "output_tokens": ("N,...", "Answer lengths, an option of the workload."),
    "ramp": (
        "SECONDS",
        "Users join one by one, or the rate rises from 0, over so long; an option of the workload.",
    ),
    "warmup": (
        "N",
        "Requests of a cell that come before the measured ones; auto: until they come at a steady "
        "pace, 32 at most. [1]",
    ),
    "repeats": ("N", "How often everything is measured, engines taking turns. [1]"),
    "precision": (
        "PERCENT",
        "Repeat until output tokens/s are known to that (95% interval), or --budget is spent. "
        "Begins with 3 repeats.",
    ),
    "budget": ("TIME", "For each search, and for the repeats of --precision. [10m]"),
    "seed": ("N", "Decides the prompts. [0]"),
    "reuse_servers": (None, "One server for all loads of an engine, whose cells then follow on."),
    "stall_timeout": (
        "SECONDS",
        "A cell fails when its engine produces no token for so long. [180]",
    ),
    "unchecked": (None, "Ask no questions that check each engine's answers before its load."),
    "reference": (
        "ENGINE",
        "Whose answers the others are held against. [transformers if it takes part, else the "
        "engine of the highest precision]",
    ),
    "switch_to": (
        "MODEL",
        "Measure what changing to this model and back takes, where a server does that by itself.",
    ),
    "price": ("AMOUNT", "What this machine costs an hour: reports tell the cost of tokens."),
    "load_workers": ("N", "Processes of this machine that share the load. [1]"),
    "remote_workers": ("N", "How many of other machines join it, by `bench worker --join`. [0]"),
    "load_listen": ("HOST:PORT", "Where they join."),
    "set": ("TARGET.OPTION=V,...", "An option of an engine or workload; several values: a sweep."),
    "name": ("NAME", "Ends the name of the Run folder. [the models]"),
    "url": (
        "URL",
        "A running OpenAI-compatible server: alone, or beside others with --engines all or url,...",
    ),
}


def plan_options(function: Function, *, leave_out: Collection[str] = ()) -> Function:
    """Add all of them to a command, under their keys (`set` as `settings`)."""
    for key in reversed(OPTION_KEYS):
        if key in leave_out:
            continue
        metavar, text = _HELP[key]
        function = click.option(
            _flag(key),
            _parameter(key),
            metavar=metavar,
            help=text,
            multiple=metavar is not None,  # as a list in the file; of one value, two are an error
            is_flag=metavar is None,
        )(function)
    return function


def engine_options(function: Function) -> Function:
    """Those that make sense for one engine alone: model, hardware, settings."""
    for name, parameter, metavar, text in (
        ("--set", "settings", "OPTION=VALUE", "An option of the engine; `bench engines` NAME."),
        ("--hardware", "hardware", "HW", "cpu:2, cuda:0, cuda:0,1 or cuda:0+cpu:8."),
        ("--model", "model", "MODEL", "As in `bench run`. [smollm2-135m]"),
    ):
        function = click.option(
            name, parameter, metavar=metavar, help=text, multiple=name == "--set"
        )(function)
    return function


def raw_options(values: Mapping[str, Any]) -> RawOptions:
    """Those that were typed, as texts under their keys."""
    given = {key: values.get(_parameter(key)) for key in OPTION_KEYS}
    return {key: _texts(value) for key, value in given.items() if value not in (None, False, ())}


def _texts(value: Any) -> list[str]:
    if value is True:
        return ["true"]
    return [value] if isinstance(value, str) else list(value)


def _flag(key: str) -> str:
    return "--" + key.replace("_", "-")


def _parameter(key: str) -> str:
    return "settings" if key == "set" else key
