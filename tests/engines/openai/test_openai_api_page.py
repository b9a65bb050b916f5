"""docs/api.md knows every field that a request may have, and every feature of an engine."""

from __future__ import annotations

from pathlib import Path

import pytest

import enginebench_openai
from enginebench_openai.bodies import NEUTRAL, ChatBody, CompletionBody, StreamOptions
from enginebench_openai.embeddings import EmbeddingBody
from enginebench_openai.native_bodies import NativeBody

PAGE = (Path(enginebench_openai.__file__).parents[2] / "docs/api.md").read_text("utf-8")
GROUPS = ("dynatemp_", "xtc_", "dry_", "mirostat")  # written as "dry_*"
ROUTES = {"model", "messages", "prompt"}  # said by the examples


@pytest.mark.parametrize(
    "body", [CompletionBody, ChatBody, StreamOptions, EmbeddingBody, NativeBody]
)
def test_every_field_is_on_the_page(body):
    for field in set(body.__struct_fields__) - set(NEUTRAL) - ROUTES:
        group = next((f"`{name}*`" for name in GROUPS if field.startswith(name)), f"`{field}`")
        assert group in PAGE or f"`{field}:" in PAGE, field


def test_every_route_is_on_the_page(http):
    for path in http.get("/openapi.json").json()["paths"]:
        assert f"`{path.split('/{')[0]}" in PAGE or path.split("/{")[0] in PAGE, path
