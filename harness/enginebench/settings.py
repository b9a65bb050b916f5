"""`--set TARGET.OPTION=VALUE[,VALUE...]`: texts in, typed option values out.

A target is an engine or a workload; several values make a sweep. This module knows the types that
an `Option` can have, and nothing of which targets exist.

    parse_setting("paged.block_size=16,32")   # Setting("paged", "block_size", ("16", "32"))
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from enginebench.errors import UnknownNameError, UsageError
from enginebench.types import Option, OptionValue

__all__ = ["Setting", "combinations", "parse_setting", "truth", "typed_value"]

_BOOLEANS = {"true": True, "yes": True, "on": True, "1": True}
_BOOLEANS |= {"false": False, "no": False, "off": False, "0": False}


@dataclass(frozen=True, slots=True)
class Setting:
    """One option of one target and the values to try, still as text."""

    target: str
    option: str
    values: tuple[str, ...]

    @property
    def key(self) -> str:
        """How it is written left of the equals sign."""
        return f"{self.target}.{self.option}"


def parse_setting(text: str) -> Setting:
    """Read `TARGET.OPTION=VALUE[,VALUE...]`; a backslash before a comma keeps the comma."""
    key, equals, right = text.partition("=")
    target, dot, option = (part.strip() for part in key.partition("."))
    if not (equals and dot and target and option):
        raise UsageError(f"--set {text!r}: write ENGINE.OPTION=VALUE, as in paged.block_size=16,32")
    values = tuple(_split_values(right))
    if any(not value for value in values):
        raise UsageError(f"--set {text!r}: a value is empty; write {key}=VALUE or {key}=V1,V2")
    return Setting(target, option, values)


def typed_value(target: str, option: Option, text: str) -> OptionValue:
    """`text` as the type of `option`, checked against its choices."""
    value = _convert(option, text)
    if value is None:
        kind = "true or false" if option.type is bool else f"a value of type {option.type.__name__}"
        raise UsageError(f"{target}.{option.name}={text!r}: must be {kind}")
    if option.choices and value not in option.choices:
        raise UnknownNameError(f"value for {target}.{option.name}", text, map(str, option.choices))
    return value


def truth(text: str) -> bool | None:
    """What `text` says of a switch; None if it is neither on nor off."""
    return _BOOLEANS.get(text.lower())


def combinations(
    target: str, options: Sequence[Option], settings: Iterable[Setting]
) -> list[dict[str, OptionValue]]:
    """Every combination of the values given for `target`; one empty dict when there are none."""
    known = {option.name: option for option in options}
    axes: Mapping[str, list[OptionValue]] = {
        setting.option: _axis(target, known, setting)
        for setting in settings
        if setting.target == target
    }
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def _axis(target: str, known: Mapping[str, Option], setting: Setting) -> list[OptionValue]:
    if setting.option not in known:
        fix = "" if known else f"{target} takes no options"
        raise UnknownNameError(f"option of {target}", setting.option, known, fix=fix)
    axis = [typed_value(target, known[setting.option], text) for text in setting.values]
    if len(set(axis)) < len(axis):
        raise UsageError(f"--set {setting.key}={','.join(setting.values)}: a value comes twice")
    return axis


def _split_values(text: str) -> Iterable[str]:
    value = ""
    characters = iter(text)
    for character in characters:
        if character == ",":
            yield value.strip()
            value = ""
        elif character == "\\":
            following = next(characters, "")
            value += following if following == "," else character + following
        else:
            value += character
    yield value.strip()


def _convert(option: Option, text: str) -> OptionValue | None:
    if option.type is str:
        return text
    if option.type is bool:
        return truth(text)
    try:
        value = option.type(text)
    except ValueError:
        return None
    return value if not isinstance(value, float) or math.isfinite(value) else None
