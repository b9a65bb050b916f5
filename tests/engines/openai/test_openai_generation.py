"""One generation: tokens in, text out."""

from __future__ import annotations

import pytest
from openai_fakes import FakeTokenizer, spell

from enginebench_openai.generation import Generation
from enginebench_openai.protocol import GenerationRequest, TokenOutput


def generation(*stops: str) -> Generation:
    return Generation(GenerationRequest("r", (1, 2), 99), FakeTokenizer(), index=0, stops=stops)


def out(text: str | bytes, finish=None, **facts) -> TokenOutput:
    data = text.encode() if isinstance(text, str) else text
    return TokenOutput("r", tuple(data), finish, **facts)


def test_half_a_character_waits_for_its_other_half():
    one = generation()
    first, second = "é".encode()
    one.push(out(bytes([first])))
    assert not one.has_text
    one.push(out(bytes([second]), "length"))
    assert (one.take(), one.take(), one.completion_tokens) == ("é", "", 2)


def test_half_a_character_at_the_end_is_not_lost():
    one = generation()
    one.push(out(b"a\xc3", "length"))
    assert one.take() == "a\ufffd"


def test_a_stop_string_ends_it_at_its_own_token_even_inside_a_step():
    one = generation("STOP")
    one.push(out("ab STOP and more"))
    assert (one.take(), one.finish_reason, one.completion_tokens) == ("ab ", "stop", 7)


def test_what_was_held_back_is_shown_when_no_stop_string_came():
    one = generation("STOP")
    for tokens in spell("ab STO"):
        one.push(TokenOutput("r", tokens))
    assert one.take() == "ab "
    one.push(out("", "length"))
    assert (one.take(), one.finish_reason) == ("STO", "length")


def test_a_stop_string_completed_by_the_last_token_is_a_stop():
    one = generation("b")
    one.push(out("ab", "length"))
    assert (one.take(), one.finish_reason) == ("a", "stop")


@pytest.mark.parametrize("reason", ["error", "abort"])
def test_an_engine_that_gives_up_is_an_error_with_a_reason(reason):
    one = generation()
    one.push(out("a", reason))
    assert one.finish_reason == "error" and one.error and one.blame == "engine"


def test_cached_tokens_are_kept():
    one = generation()
    one.push(out("a", cached_prompt_tokens=1))
    one.push(out("b", "length"))
    assert one.cached_tokens == 1
