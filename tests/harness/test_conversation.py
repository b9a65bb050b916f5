"""Conversations: turns, figures, files."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginebench.conversation import Answer, Conversation
from enginebench.errors import UsageError
from enginebench.types import Message


def test_rate_leaves_the_first_token_out() -> None:
    answer = Answer("text", 11, 0.5, 1.5)
    assert answer.tokens_per_s == 10.0
    assert str(answer) == "11 tokens, first after 0.50 s, then 10.0 tokens/s"
    assert str(Answer("text", None, 0.5, 1.5)) == "tokens not counted, first after 0.50 s"
    assert str(Answer("", 0, None, 0.1)) == "0 tokens"


def test_summary_weighs_answers_by_their_time() -> None:
    talk = Conversation()
    for tokens, total_s in ((11, 1.5), (31, 1.5)):
        talk.ask("?")
        talk.answered(Answer("x", tokens, 0.5, total_s))
    assert talk.summary() == "2 answers, 42 tokens, 20.0 tokens/s after the first of each"


def test_an_empty_answer_takes_the_question_back() -> None:
    talk = Conversation("S")
    talk.ask("?")
    talk.answered(Answer("", 0, None, 0.1))
    assert talk.messages() == [Message("system", "S")]


def test_reset_keeps_the_system_prompt() -> None:
    talk = Conversation("S", [Message("user", "x")])
    talk.reset()
    assert talk.messages() == [Message("system", "S")]


texts = st.text(min_size=1, max_size=50)


@given(st.none() | texts, st.lists(st.tuples(texts, texts), max_size=4))
def test_loading_undoes_saving(
    tmp_path_factory: pytest.TempPathFactory,
    system: str | None,
    turns: list[tuple[str, str]],
) -> None:
    path = tmp_path_factory.mktemp("talk") / "talk.json"
    talk = Conversation(system)
    for question, answer in turns:
        talk.ask(question)
        talk.answered(Answer(answer, 1, 0.1, 0.2))
    talk.save(path)
    other = Conversation("forgotten", [Message("user", "forgotten")])
    other.load(path)
    assert other.messages() == talk.messages()


@pytest.mark.parametrize("text", ["", "{}", '[{"role": 1}]', "[1]"])
def test_what_is_no_conversation_leaves_this_one_alone(text: str, tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    path.write_text(text)
    talk = Conversation("S", [Message("user", "x")])
    with pytest.raises(UsageError, match="is no conversation"):
        talk.load(path)
    assert len(talk.messages()) == 2
