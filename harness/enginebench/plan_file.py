"""`plan.toml`: the options of `bench run` in a file, under the same names.

    engines = ["paged", "quant"]        # or "paged,quant", as on the command line
    model = "smollm2-135m"
    concurrency = [1, 4, 16]
    repeats = 3

    [set.paged]                         # or: set = ["paged.block_size=16,32"]
    block_size = [16, 32]

This module reads the file into the texts that the command line would have given and knows nothing
of their meaning: `enginebench.options` reads both alike.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from enginebench.errors import UnknownNameError, UsageError
from enginebench.options import OPTION_KEYS

__all__ = ["read_plan_file"]


def read_plan_file(path: Path) -> dict[str, tuple[str, ...]]:
    """The options in the file; raises UsageError naming the file and the key at fault."""
    table = _parse(path)
    for key in table:
        if key not in OPTION_KEYS:
            known = (name for name in OPTION_KEYS)
            raise UnknownNameError(f"key in {path}:", key, known)
    return {key: _texts(path, key, value) for key, value in table.items()}


def _parse(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the plan {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"the plan {path} is not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"the plan {path} is not valid TOML: {error}") from None


def _texts(path: Path, key: str, value: object) -> tuple[str, ...]:
    if key == "set" and isinstance(value, Mapping):
        return tuple(_set_texts(path, value))
    if key == "set":
        return tuple(_scalar(path, key, item) for item in _items(value))
    return (",".join(_scalar(path, key, item) for item in _items(value)),)


def _set_texts(path: Path, tables: Mapping[str, object]) -> Iterable[str]:
    for target, options in tables.items():
        if not isinstance(options, Mapping):
            # "paged.block_size" = 16: a quoted key instead of a table
            options, target = {target.partition(".")[2]: options}, target.partition(".")[0]
        for option, value in options.items():
            key = f"set.{target}.{option}"
            values = (_scalar(path, key, item).replace(",", "\\,") for item in _items(value))
            yield f"{target}.{option}={','.join(values)}"


def _items(value: object) -> Iterable[object]:
    return value if isinstance(value, list) else [value]


def _scalar(path: Path, key: str, value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float):
        return str(value)
    raise UsageError(
        f"{path}: {key} = {value!r}: must be a text, a number, true or false, or a list of those"
    )
