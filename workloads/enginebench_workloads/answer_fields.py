"""What a request says about the answer it wants: decoding, length, form."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from enginebench.errors import UsageError
from enginebench.types import Option
from enginebench_workloads.cell_options import CellOptions

__all__ = ["JSON_SCHEMA_OPTION", "answer_fields"]

JSON_SCHEMA_OPTION = Option(
    "json_schema",
    str,
    None,
    "file with a JSON schema that answers must follow (response_format); they end by themselves "
    "then, at output_tokens at the latest",
)


def answer_fields(chosen: CellOptions, *, exact: bool = True) -> Mapping[str, Any]:
    """Greedy; with `exact` just as long as planned (`ignore_eos`), unless a schema says the form.

    Raises UsageError for a schema that cannot be read.
    """
    path = chosen.optional_text("json_schema")
    if path is None:
        return {"temperature": 0.0, **({"ignore_eos": True} if exact else {})}
    schema = {"name": Path(path).stem, "strict": True, "schema": _schema(Path(path))}
    form = {"type": "json_schema", "json_schema": schema}
    return {"temperature": 0.0, "response_format": form}


def _schema(path: Path) -> Mapping[str, Any]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except OSError as error:
        raise UsageError(f"cannot read the JSON schema {path}: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise UsageError(f"{path} is not a JSON schema (an object): {error}") from None
