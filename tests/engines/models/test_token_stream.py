"""Streams of tokens: whatever the cuts, no broken character comes out."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from enginebench_models.token_stream import TokenStream

BYTES = [bytes([byte]) for byte in range(256)]


def test_a_character_waits_for_its_last_byte():
    stream = TokenStream(BYTES, frozenset())
    assert [stream.push([byte]) for byte in "é☕".encode()] == ["", "é", "", "", "☕"]
    assert stream.finish() == ""


def test_an_unfinished_character_is_marked_at_the_end():
    stream = TokenStream(BYTES, frozenset())
    assert stream.push("☕".encode()[:2]) == ""
    assert stream.finish() == "\ufffd"


def test_bytes_that_are_no_text_are_marked_at_once():
    stream = TokenStream(BYTES, frozenset())
    assert stream.push([0xFF, ord("a")]) == "\ufffda"


def test_hidden_and_unknown_ids_yield_nothing():
    stream = TokenStream(BYTES, frozenset({65}))
    assert stream.push([65, 66, 999, -1]) == "B"


def test_only_the_first_space_is_stripped():
    stream = TokenStream([b" a", b" b"], frozenset(), strip_space=True)
    assert stream.push([0]) + stream.push([1, 0]) == "a b a"


@given(text=st.text(), cuts=st.lists(st.integers(0, 60)))
def test_any_cutting_gives_the_text_back(text, cuts):
    data = text.encode()
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    stream = TokenStream(BYTES, frozenset())
    parts = [stream.push(data[a:b]) for a, b in pairwise(edges)]
    assert "".join(parts) + stream.finish() == text
    assert not any("\ufffd" in part for part in parts) or "\ufffd" in text


@given(data=st.binary())
def test_any_bytes_decode_as_a_whole_text_does(data):
    stream = TokenStream(BYTES, frozenset())
    streamed = "".join(stream.push([byte]) for byte in data) + stream.finish()
    assert streamed == data.decode("utf-8", "replace")
