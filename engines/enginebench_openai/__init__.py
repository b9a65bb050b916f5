"""An OpenAI-compatible server over any `TokenEngine`, and the `echo` engine.

`protocol.py` says what an engine must be; `serve_main` is the whole `main()` of an engine's own
server process; `server_launch` writes the command line that starts it. Importing this package is
cheap: the web server is imported by `serve_main` itself.
"""

from __future__ import annotations

from enginebench_openai.launch import parse_arguments, server_launch
from enginebench_openai.layout import Layout
from enginebench_openai.protocol import (
    EngineStats,
    Feature,
    FinishReason,
    GenerationRequest,
    Grammar,
    SamplingParams,
    TimedEngine,
    TokenEngine,
    TokenLogprob,
    TokenOutput,
)
from enginebench_openai.server import serve_main

__all__ = [
    "EngineStats",
    "Feature",
    "FinishReason",
    "GenerationRequest",
    "Grammar",
    "Layout",
    "SamplingParams",
    "TimedEngine",
    "TokenEngine",
    "TokenLogprob",
    "TokenOutput",
    "parse_arguments",
    "serve_main",
    "server_launch",
]
