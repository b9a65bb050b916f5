"""Stop strings across token borders."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginebench_openai.stops import StopWatch

TEXT = st.text("abc", max_size=40)
STOPS = st.lists(st.text("abc", min_size=1, max_size=5), min_size=1, max_size=4, unique=True)


def cut_at_first_stop(text: str, stops: list[str]) -> tuple[str, bool]:
    """The plain twin: the stop that is complete first, the longest of those, cuts the text."""
    for end in range(1, len(text) + 1):
        lengths = [len(stop) for stop in stops if text[:end].endswith(stop)]
        if lengths:
            return text[: end - max(lengths)], True
    return text, False


@given(pieces=st.lists(TEXT, max_size=12), stops=STOPS)
def test_any_cut_into_pieces_gives_the_same_text(pieces, stops):
    watch = StopWatch(stops)
    shown = "".join(watch.push(piece) for piece in pieces)
    stopped = watch.stopped
    shown += watch.finish()
    assert (shown, stopped) == cut_at_first_stop("".join(pieces), stops)


@given(pieces=st.lists(TEXT, max_size=12), stops=STOPS)
def test_no_part_of_a_stop_string_is_ever_shown(pieces, stops):
    """What has been shown so far never has to be taken back, whatever comes next."""
    watch = StopWatch(stops)
    shown = text = ""
    for piece in pieces:
        text += piece
        shown += watch.push(piece)
        for stop in stops:
            for extension in (stop[at:] for at in range(len(stop) + 1)):
                assert cut_at_first_stop(text + extension, stops)[0].startswith(shown)


@given(pieces=st.lists(TEXT, max_size=12), stops=STOPS)
def test_holds_back_no_more_than_needed(pieces, stops):
    watch = StopWatch(stops)
    shown = text = ""
    for piece in pieces:
        text += piece
        shown += watch.push(piece)
        if not watch.stopped:
            held = text[len(shown) :]
            assert not held or any(stop.startswith(held) for stop in stops)


@pytest.mark.parametrize("stops", [["END"], ["EN", "END"], ["D"]])
def test_nothing_comes_after_the_stop(stops):
    watch = StopWatch(stops)
    watch.push("xEND")
    assert watch.stopped
    assert watch.push("more") == watch.finish() == ""
