"""What crosses the border between front and engine."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from enginebench_openai import messages
from enginebench_openai.protocol import (
    Dry,
    DynamicTemperature,
    EngineStats,
    Feature,
    GenerationRequest,
    Grammar,
    Mirostat,
    SamplingParams,
    TokenLogprob,
    TokenOutput,
    Xtc,
)

REQUEST = GenerationRequest(
    "a", (1, 2**31), 5, SamplingParams(temperature=0.5, top_k=3, seed=2**63 - 1), frozenset({7})
)
SCORED = GenerationRequest(
    "b",
    (1,),
    5,
    SamplingParams(
        logit_bias=((3, -100.0),),
        dynamic_temperature=DynamicTemperature(0.5),
        xtc=Xtc(0.5),
        dry=Dry(0.8, breakers=frozenset({4})),
        mirostat=Mirostat(),
    ),
    min_tokens=2,
    logprobs=0,
    prompt_logprobs=3,
    grammar=Grammar("json_schema", "{}"),
    pooling="mean",
)
LOGPROB = TokenLogprob(5, -1.5, ((5, -1.5), (6, -2.0)))
DOWN = (messages.Add((REQUEST, SCORED)), messages.Abort(("a", "b")), messages.Stop())
UP = (
    messages.Ready(4096, frozenset({Feature.LOGPROBS, Feature.DRY})),
    messages.Tokens((TokenOutput("a", (1, 2)), TokenOutput("b", (), "stop", 16, "why"))),
    messages.Tokens((TokenOutput("a", (5,), logprobs=(LOGPROB,), prompt_logprobs=(LOGPROB,)),)),
    messages.Tokens((TokenOutput("a", (), "stop", embedding=(0.5, -1.0)),)),
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
