"""A whole server process over the scripted engine: how an engine's own `serve` module looks."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import SimpleNamespace

from openai_fakes import FakeTemplate, FakeTokenizer, ScriptedEngine, say_back

import enginebench_models
from enginebench.errors import UsageError
from enginebench.types import Option
from enginebench_openai import Layout, serve_main

OPTIONS = (
    Option("step_ms", float, 0.0, "how long a step takes"),
    Option("build_s", float, 0.0, "how long building takes"),
    Option("replicas", int, 1, "how many engines"),
    Option("broken", bool, False, "raise while building"),
)


def reply(request):
    if request.prompt == tuple(b"die"):
        raise RuntimeError("this engine dies of a prompt")
    return say_back(request)


def make_engine(model: object, options: Mapping[str, float]) -> ScriptedEngine:
    if options["step_ms"] < 0:
        raise UsageError(f"step_ms must be 0 or more; got {options['step_ms']}")
    print("building", file=sys.stderr, flush=True) if options["build_s"] else None
    time.sleep(options["build_s"])
    assert options["broken"] in (True, False)
    1 / (not options["broken"])
    return ScriptedEngine(reply, step_s=options["step_ms"] / 1e3)


if __name__ == "__main__":
    enginebench_models.open_model = lambda name: SimpleNamespace(
        config=SimpleNamespace(vocab_size=1000),
        info=SimpleNamespace(size_bytes=2**20),
        tokenizer=FakeTokenizer(),
        chat_template=FakeTemplate(),
    )
    serve_main(
        sys.argv[1:],
        description="The scripted engine.",
        options=OPTIONS,
        make_engine=make_engine,
        layout=lambda options: Layout(replicas=options["replicas"]),
    )
