"""What crosses the border between front and engine."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from enginebench_openai import messages
from enginebench_openai.protocol import (
    EngineStats,
    GenerationRequest,
    SamplingParams,
    TokenOutput,
)

REQUEST = GenerationRequest(
    "a", (1, 2**31), 5, SamplingParams(temperature=0.5, top_k=3, seed=2**63 - 1), frozenset({7})
)
DOWN = (messages.Add((REQUEST, REQUEST)), messages.Abort(("a", "b")), messages.Stop())
UP = (
    messages.Ready(4096),
    messages.Tokens((TokenOutput("a", (1, 2)), TokenOutput("b", (), "stop", 16, "why"))),
    messages.Stats(EngineStats(1, 2, 3, 4, kv_blocks_total=5)),
    messages.No("a", "too long"),
    messages.Dead("it broke", None),
    messages.Dead("the model is not there", 2),
)


@given(cuts=st.lists(st.integers(0, 2000)))
def test_messages_arrive_whole_however_they_are_cut(cuts):
    stream = b"".join(map(messages.frame, UP + DOWN))
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    frames = messages.Frames()
    bodies = [
        body for start, end in itertools.pairwise(edges) for body in frames.cut(stream[start:end])
    ]
    assert tuple(map(messages.decode_up, bodies[: len(UP)])) == UP
    assert tuple(map(messages.decode_down, bodies[len(UP) :])) == DOWN
