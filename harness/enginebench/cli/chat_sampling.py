"""How an answer of `bench chat` is drawn: options that become fields of the request.

Their names and meanings are those of the server's API; what a server does not know it refuses.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from enginebench.errors import UsageError

__all__ = ["sampling_body", "sampling_options"]

Command = TypeVar("Command", bound=Callable[..., Any])

_NUMBERS: Final[dict[str, tuple[click.FloatRange | click.IntRange, str]]] = {
    "temperature": (click.FloatRange(0), "0 is greedy. [the server's]"),
    "top_k": (click.IntRange(1), "Draw among the likeliest K."),
    "top_p": (click.FloatRange(0, 1, min_open=True), "... among the fewest that sum to P."),
    "min_p": (click.FloatRange(0, 1), "... among those P times as likely as the likeliest."),
    "typical_p": (click.FloatRange(0, 1, min_open=True), "... among the most typical."),
    "repetition_penalty": (click.FloatRange(0, min_open=True), "Above 1: say nothing twice."),
    "presence_penalty": (click.FloatRange(-2, 2), "Less of what was said at all."),
    "frequency_penalty": (click.FloatRange(-2, 2), "Less of what was said often."),
    "dry_multiplier": (click.FloatRange(0), "DRY: continue no repetition; 0.8 is usual."),
    "dry_allowed_length": (click.IntRange(1), "DRY: repetitions up to here are free."),
    "xtc_probability": (click.FloatRange(0, 1), "XTC: how often top choices are excluded."),
    "xtc_threshold": (click.FloatRange(0, 1), "XTC: what a top choice is."),
    "dynatemp_range": (click.FloatRange(0), "Dynamic temperature: this much up and down."),
    "mirostat_tau": (click.FloatRange(0, min_open=True), "Mirostat 2: surprise to keep, in bits."),
    "mirostat_eta": (click.FloatRange(0, 1, min_open=True), "Mirostat 2: how fast it learns."),
    "seed": (click.IntRange(0), "The same answers again."),
}
_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


def sampling_options(command: Command) -> Command:
    """Adds them all to a command; `sampling_body` reads their values."""
    formats = [
        click.option("--json", "as_json", is_flag=True, help="Answers are JSON objects."),
        click.option("--json-schema", type=_FILE, help="Answers match the JSON schema in FILE."),
        click.option("--grammar", type=_FILE, help="... the grammar in FILE (GBNF or Lark)."),
        click.option("--logit-bias", multiple=True, metavar="ID=BIAS", help="Push a token."),
    ]
    for option in reversed(formats):
        command = option(command)
    for name, (type, text) in reversed(_NUMBERS.items()):
        command = click.option(f"--{name.replace('_', '-')}", type=type, help=text)(command)
    return command


def sampling_body(values: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of the request; raises UsageError for what cannot be."""
    body = {name: values[name] for name in _NUMBERS if values[name] is not None}
    if "mirostat_tau" in body or "mirostat_eta" in body:
        body["mirostat"] = 2
    if values["logit_bias"]:
        body["logit_bias"] = dict(map(_bias, values["logit_bias"]))
    return body | _format(values)


def _format(values: Mapping[str, Any]) -> dict[str, Any]:
    """What answers must look like."""
    asked = [name for name in ("as_json", "json_schema", "grammar") if values[name]]
    if len(asked) > 1:
        raise UsageError("give one of --json, --json-schema and --grammar")
    if values["grammar"]:
        return {"grammar": _text(values["grammar"])}
    if values["as_json"]:
        return {"response_format": {"type": "json_object"}}
    if values["json_schema"]:
        path: Path = values["json_schema"]
        try:
            schema = json.loads(_text(path))
        except ValueError as error:
            raise UsageError(f"--json-schema {path}: is no JSON: {error}") from error
        named = {"name": "answer", "schema": schema}
        return {"response_format": {"type": "json_schema", "json_schema": named}}
    return {}


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}") from error


def _bias(text: str) -> tuple[str, float]:
    token, _, bias = text.partition("=")
    try:
        return str(int(token)), float(bias)
    except ValueError:
        raise UsageError(
            f"--logit-bias takes a token id and a bias, as 42=-5; got {text}"
        ) from None
