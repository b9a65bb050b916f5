"""Answers that are more than text: reasoning and tool calls, however the text is cut."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai_fakes import FakeTemplate, ScriptedEngine, http_post, serving, spell

from enginebench_openai.deltas import (
    CallArguments,
    CallStart,
    Content,
    Delta,
    Reader,
    Reasoning,
)
from enginebench_openai.reasoning import THINK, ReasoningReader, opens_reasoning, tags_of
from enginebench_openai.tool_calls import (
    FORCED,
    HERMES,
    LLAMA3,
    MISTRAL,
    ToolCallReader,
    ToolFormat,
    format_of,
)

CALLS = [
    (
        HERMES,
        'Let me see.\n<tool_call>\n{"name": "f", "arguments": {"a": "x}\\"]", "b": [1, {}]}}\n'
        '</tool_call>\n<tool_call>\n{"arguments": {}, "name": "g"}\n</tool_call>\n',
        ["Let me see.", ("f", {"a": 'x}"]', "b": [1, {}]}), ("g", {})],
    ),
    (HERMES, "a < b, <tool", ["a < b, <tool"]),
    (HERMES, '<tool_call>{"name": "f"}</tool_call> done', [("f", {}), " done"]),
    (HERMES, "<tool_call>oops</tool_call>", ["oops</tool_call>"]),
    (HERMES, '<tool_call>{"answer": 42}</tool_call>', ['{"answer": 42}</tool_call>']),
    (
        MISTRAL,
        '[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}, '
        '{"name": "g", "arguments": "{\\"b\\": 2}"}]',
        [("f", {"a": 1}), ("g", {"b": 2})],
    ),
    (
        MISTRAL,
        'Let me see.[TOOL_CALLS]f[ARGS]{"a": "x}[ARGS]", "b": {"c": [1]}}[TOOL_CALLS]g'
        "[CALL_ID]a1B2c3D4e[ARGS] {} ",
        ["Let me see.", ("f", {"a": "x}[ARGS]", "b": {"c": [1]}}), ("g", {})],
    ),
    (MISTRAL, "[TOOL_CALLS]not a call", ["not a call"]),
    (MISTRAL, "[TOOL_CALLS]f[ARGS]oops {}", ["f[ARGS]oops {}"]),
    (MISTRAL, "[TOOL_CALLS]" + "x" * 400, ["x" * 400]),
    (LLAMA3, '{"name": "f", "parameters": {"a": 1 } }', [("f", {"a": 1})]),
    (LLAMA3, '<|python_tag|>{"name": "f", "parameters": {}}', [("f", {})]),
    (LLAMA3, '{"answer": 42}', ['{"answer": 42}']),
    (LLAMA3, 'Hello {"name": 1}', ['Hello {"name": 1}']),
    (FORCED, '[{"name": "f", "parameters": {"a": [{"b": 1}]}}]', [("f", {"a": [{"b": 1}]})]),
    (FORCED, "  hi", ["  hi"]),
]
THOUGHTS = [
    (False, "<think>\nso be it\n</think>\n\nYes <think>", "so be it", "Yes <think>"),
    (True, "hm</think>ok", "hm", "ok"),
    (True, "never ends </thi", "never ends </thi", ""),
    (False, "plain <think>", "", "plain <think>"),
    (False, "<thin", "", "<thin"),
    (False, "", "", ""),
]


def read(reader: Reader, text: str, cuts: Sequence[int]) -> list[Delta]:
    found: list[Delta] = []
    edges = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    for start, end in itertools.pairwise(edges):
        found += reader.push(text[start:end])
    return [*found, *reader.finish()]


def joined(deltas: Sequence[Delta]) -> list[object]:
    """Texts, and calls as (name, arguments)."""
    found: list[object] = []
    calls: dict[int, tuple[int, str, str]] = {}
    for delta in deltas:
        if isinstance(delta, CallStart):
            calls[delta.index] = (len(found), delta.name, "")
            found.append(None)
        elif isinstance(delta, CallArguments):
            at, name, text = calls[delta.index]
            calls[delta.index] = (at, name, text + delta.text)
        elif found and isinstance(found[-1], str):
            found[-1] += delta.text
        else:
            found.append(delta.text)
    for at, name, text in calls.values():
        found[at] = (name, json.loads(text))
    return found


@pytest.mark.parametrize(("format", "text", "expected"), CALLS)
@given(cuts=st.lists(st.integers(1, 120), max_size=12))
@settings(max_examples=15, deadline=None)
def test_calls_are_found_however_the_text_is_cut(format, text, expected, cuts):
    assert joined(read(ToolCallReader(format), text, cuts)) == expected


@pytest.mark.parametrize(("inside", "text", "thought", "said"), THOUGHTS)
@given(cuts=st.lists(st.integers(1, 40), max_size=12))
@settings(max_examples=15, deadline=None)
def test_reasoning_is_set_apart_however_the_text_is_cut(inside, text, thought, said, cuts):
    deltas = read(ReasoningReader(THINK, inside=inside), text, cuts)
    of = {Reasoning: "", Content: ""}
    for delta in deltas:
        of[type(delta)] += delta.text
    assert (of[Reasoning], of[Content]) == (thought, said)


@given(st.text(alphabet='{}[]"\\,:;<>/ ntolcamegurk_', max_size=60), st.sampled_from([*CALLS]))
@settings(max_examples=200, deadline=None)
def test_no_text_is_too_strange(text, case):
    for format in (HERMES, MISTRAL, LLAMA3, FORCED):
        read(ToolCallReader(format), case[1][: len(text)] + text, [1, 3, 7, 20])


def test_a_call_may_bring_its_id():
    text = "[TOOL_CALLS]f[CALL_ID]a1B2c3D4e[ARGS]{}[TOOL_CALLS]g[ARGS]{}"
    starts = [one for one in read(ToolCallReader(MISTRAL), text, []) if isinstance(one, CallStart)]
    assert starts[0].id == "a1B2c3D4e" and len(starts[1].id) == 9 and starts[1].id.isalnum()


def test_a_call_that_was_cut_short_has_its_beginning():
    deltas = read(ToolCallReader(HERMES), '<tool_call>{"name": "f", "arguments": {"a', [14])
    assert [type(delta) for delta in deltas] == [CallStart, CallArguments]
    assert deltas[1].text == '{"a'


def test_only_as_many_calls_as_were_asked_for():
    deltas = read(ToolCallReader(HERMES, 1), CALLS[0][1], [])
    assert joined(deltas) == CALLS[0][2][:2]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ tools }} <tool_call>", HERMES),
        ("{{ tools }} [TOOL_CALLS]", MISTRAL),
        ('{{ tools }} <|python_tag|> "parameters"', LLAMA3),
        ("{{ tools }}", None),
        ("<tool_call>", None),
    ],
)
def test_a_template_names_its_notation(template: str, expected: ToolFormat | None):
    assert format_of(template) is expected


def test_a_prompt_may_open_the_reasoning():
    assert opens_reasoning("<|im_start|>assistant\n<think>\n")
    assert not opens_reasoning("<think>\n\n</think>\n\n")


def test_a_template_names_its_tags():
    tags = tags_of("{{ bos }}[SYSTEM_PROMPT][THINK]")
    assert tags is not None and opens_reasoning("[INST]x[/INST][THINK]", tags)
    reader = ReasoningReader(tags, inside=False)
    assert reader.push("[THINK]hm[/TH") == [Reasoning("hm")]
    assert reader.push("INK]\nYes <think>") == [Content("Yes <think>")]
    assert tags_of("{{ <think> }}") is THINK and tags_of("plain") is None


class ToolTemplate(FakeTemplate):
    source = "{{ tools }} <tool_call> <think>"


SAID = '<think>hm</think><tool_call>{"name":"f","arguments":{}}'


@pytest.fixture(scope="module")
def talking():
    engine = ScriptedEngine(lambda request: spell(SAID))
    with serving(engine, chat_template=ToolTemplate()) as running:
        yield running


def ask(running, **more: object):
    body = {"model": "fake", "messages": [{"role": "user", "content": "x"}], **more}
    tools = [{"type": "function", "function": {"name": "f"}}]
    return http_post(f"{running.url}/v1/chat/completions", json={"tools": tools, **body})


def test_a_message_with_reasoning_and_a_call(talking):
    message = ask(talking).json()["choices"][0]["message"]
    (call,) = message["tool_calls"]
    assert message["reasoning_content"] == "hm" and message["content"] is None
    assert call["function"] == {"name": "f", "arguments": "{}"} and call["id"]


def test_a_stream_with_reasoning_and_a_call(talking):
    lines = [line[6:] for line in ask(talking, stream=True).text.split("\n\n") if line]
    chunks = [json.loads(line)["choices"][0] for line in lines if line != "[DONE]"]
    deltas = [chunk["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "hm"
    calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
    assert calls[0]["function"]["name"] == "f" and calls[0]["type"] == "function"
    assert "".join(call["function"]["arguments"] for call in calls) == "{}"
    assert chunks[-1]["finish_reason"] == "tool_calls" and lines[-1] == "[DONE]"


def test_without_tools_the_notation_is_text(talking):
    message = ask(talking, tool_choice="none").json()["choices"][0]["message"]
    assert "tool_calls" not in message and message["content"].startswith("<tool_call>")


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"tool_choice": "required", "tools": []}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),  # the engine knows no grammars
        (
            {"tools": [{"type": "function", "function": {"name": "f", "strict": True}}]},
            "tools[0].function.strict",
        ),
        ({"tools": [{"type": "function", "function": {"name": ""}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
    ],
)
def test_tools_that_cannot_be_are_refused_by_name(talking, more, param):
    answer = ask(talking, **more)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param
