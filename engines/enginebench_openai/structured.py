"""From the fields that ask for structured output to the `Grammar` that an engine gets.

response_format      {"type": "text" | "json_object" | "json_schema", "json_schema": {...}}
structured_outputs   {"json" | "json_object" | "regex" | "choice" | "grammar": ...}
grammar              a grammar's text: GBNF if it holds "::=", else Lark
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from enginebench_openai.bodies import GenerationBody, StructuredOutputs
from enginebench_openai.errors import ApiError
from enginebench_openai.protocol import Grammar

__all__ = ["requested_grammar"]

_FIELDS: Final = ("response_format", "structured_outputs", "grammar")


def requested_grammar(body: GenerationBody) -> tuple[Grammar | None, str]:
    """The grammar, if one is asked for, and the field that asks."""
    asked = [field for field in _FIELDS if getattr(body, field) is not None]
    if body.response_format == {"type": "text"}:
        asked.remove("response_format")
    if not asked:
        return None, ""
    if len(asked) > 1:
        raise _wrong(asked[1], f"{asked[0]} is given as well: give one of them")
    if body.ignore_eos or body.min_tokens:
        other = "ignore_eos" if body.ignore_eos else "min_tokens"
        raise _wrong(other, f"it cannot go with {asked[0]}, which says where the output ends")
    if body.response_format is not None:
        return _of_response_format(body.response_format), asked[0]
    if body.structured_outputs is not None:
        return _of_structured_outputs(body.structured_outputs), asked[0]
    return _of_text(body.grammar or ""), asked[0]


def _of_response_format(given: dict[str, Any]) -> Grammar:
    kind, field = given.get("type"), "response_format"
    if kind == "json_object" and set(given) <= {"type", "schema"}:
        schema = given.get("schema")
        return Grammar("json_object") if schema is None else _of_schema(schema, f"{field}.schema")
    if kind != "json_schema":
        known = '"text", "json_object", "json_schema"'
        raise _wrong(f"{field}.type", f"it must be one of {known}; got {kind!r}")
    named = given.get("json_schema")
    if not isinstance(named, dict) or "schema" not in named:
        shape = '{"name": ..., "schema": {...}}'
        raise _wrong(f"{field}.json_schema", f"it must be an object {shape}")
    return _of_schema(named["schema"], f"{field}.json_schema.schema")


def _of_structured_outputs(given: StructuredOutputs) -> Grammar:
    fields = [field for field in given.__struct_fields__ if getattr(given, field) is not None]
    if len(fields) != 1:
        raise _wrong("structured_outputs", f"it must hold exactly one field; got {len(fields)}")
    field = f"structured_outputs.{fields[0]}"
    if given.json is not None:
        return _of_schema(given.json, field)
    if given.regex is not None:
        return Grammar("regex", given.regex)
    if given.choice is not None:
        if not given.choice or not all(given.choice):
            raise _wrong(field, "it must be a list of texts, none of them empty")
        return Grammar("regex", "|".join(map(_literal, given.choice)))
    if given.grammar is not None:
        return _of_text(given.grammar)
    if not given.json_object:
        raise _wrong(field, "it must be true")
    return Grammar("json_object")


def _of_schema(schema: object, field: str) -> Grammar:
    text = schema if isinstance(schema, str) else msgspec.json.encode(schema).decode()
    if not isinstance(schema, str | dict):
        raise _wrong(field, f"it must be a JSON schema, an object; got {text[:40]}")
    return Grammar("json_schema", text)


def _of_text(text: str) -> Grammar:
    return Grammar("gbnf" if "::=" in text else "lark", text)


def _literal(text: str) -> str:
    """The text as a regular expression: Python's `escape` writes a few escapes too many."""
    return re.sub(r"([\\.^$*+?{}\[\]|()/])", r"\\\1", text)


def _wrong(field: str, problem: str) -> ApiError:
    return ApiError(400, f"{field}: {problem}", param=field, code="invalid_value")
