import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginebench_workloads.exchange import Exchange
from enginebench_workloads.sse import read_answer, spread_tokens

MS = 1_000_000


def exchange(events: list[Any], *, status: int = 200, done: bool = True) -> Exchange:
    """An answer whose i-th event arrived at (i + 1) ms, each in a read of its own."""
    made = Exchange(sent_ns=0, status=status, end_ns=99 * MS)
    payloads = [e if isinstance(e, bytes) else json.dumps(e).encode() for e in events]
    for i, payload in enumerate([*payloads, *([b"[DONE]"] if done else [])]):
        made.body.append(((i + 1) * MS, b"data: " + payload + b"\n\n"))
    return made


def text(value: str, finish: str | None = None, usage: dict[str, int] | None = None) -> Any:
    event: dict[str, Any] = {"choices": [{"text": value, "finish_reason": finish}]}
    return event | ({"usage": usage} if usage else {})


def test_role_only_empty_and_usage_only_events_are_not_chunks() -> None:
    answer = read_answer(
        exchange(
            [
                {"choices": [{"delta": {"role": "assistant", "content": ""}}]},
                {"choices": [{"delta": {"reasoning_content": "hm"}}]},
                {"choices": [{"delta": {"content": "yes"}}]},
                {"choices": [{"delta": {}, "finish_reason": "length"}]},
                {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}},
            ]
        )
    )
    assert answer.chunk_ns == [2 * MS, 3 * MS]
    assert answer.chunk_tokens == [1, 1] and answer.token_count_source == "usage"
    assert "".join(answer.texts) == "hmyes"
    assert (answer.finish_reason, answer.prompt_tokens, answer.error) == ("length", 5, None)


def test_usage_of_each_chunk_wins() -> None:
    counts = [{"completion_tokens": n} for n in (3, 4, 9)]
    answer = read_answer(
        exchange(
            [text("a", usage=counts[0]), text("b", usage=counts[1]), text("c", "stop", counts[2])]
        )
    )
    assert answer.chunk_tokens == [3, 1, 5] and answer.token_count_source == "chunk_usage"
    assert answer.completion_tokens == 9


def test_tokens_without_a_text_count_with_the_last_chunk() -> None:
    counts = [{"completion_tokens": n} for n in (1, 2, 4)]
    answer = read_answer(
        exchange(
            [text("a", usage=counts[0]), text("b", usage=counts[1]), text("", "length", counts[2])]
        )
    )
    assert answer.chunk_tokens == [1, 3] and answer.token_count_source == "chunk_usage"


def test_without_usage_a_chunk_is_counted_as_one_and_the_source_says_so() -> None:
    answer = read_answer(exchange([text("a"), text("b", "stop")]))
    assert answer.chunk_tokens == [1, 1] and answer.token_count_source == "chunks"
    assert answer.completion_tokens is None


def test_several_events_in_one_read_share_its_stamp() -> None:
    made = Exchange(status=200)
    payload = b"".join(b"data: " + json.dumps(text(c)).encode() + b"\r\n\r\n" for c in "ab")
    made.body = [(7, payload), (9, b"data: [DONE]\r\n\r\n")]
    answer = read_answer(made)
    assert answer.chunk_ns == [7, 7] and answer.texts == ["a", "b"]


def test_cached_prompt_tokens_are_kept() -> None:
    usage = {
        "prompt_tokens": 9,
        "completion_tokens": 1,
        "prompt_tokens_details": {"cached_tokens": 4},
    }
    answer = read_answer(exchange([text("a", "stop"), {"choices": [], "usage": usage}]))
    assert answer.cached_prompt_tokens == 4


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (exchange([text("a")], done=False), "truncated stream"),
        (exchange([b"{not json"]), "malformed stream"),
        (exchange([{"error": {"message": "out of blocks"}}]), "out of blocks"),
        (exchange([b'{"choices": 7}']), "malformed stream"),
    ],
)
def test_a_bad_stream_is_a_record_with_an_error(made: Exchange, words: str) -> None:
    error = read_answer(made).error
    assert error is not None and words in error


def test_a_refusal_is_quoted() -> None:
    made = Exchange(status=400)
    made.body = [(1, b'{"error": {"message": "prompt is too long"}}')]
    assert read_answer(made).error == "HTTP 400: prompt is too long"


@given(st.integers(0, 500), st.integers(1, 100))
def test_spread_tokens_adds_up(tokens: int, chunks: int) -> None:
    spread = spread_tokens(tokens, chunks)
    assert len(spread) == chunks and sum(spread) == tokens and min(spread) >= 0
    if tokens >= chunks > 1:
        assert spread[0] == 1 and max(spread[1:]) - min(spread[1:]) <= 1


@given(st.binary(max_size=300))
def test_garbage_never_raises(data: bytes) -> None:
    made = Exchange(status=200)
    made.body = [(1, data)]
    answer = read_answer(made)
    assert answer.error is not None or answer.finish_reason is not None or b"[DONE]" in data
