from pathlib import Path

import pytest
from workload_cells import MODEL, REMOTE, cell_of

from enginebench.errors import UsageError
from enginebench.types import Message, Request
from enginebench_workloads.conversations import ConversationsWorkload
from enginebench_workloads.dataset import DatasetWorkload
from enginebench_workloads.dialogue import Dialogue

WORKLOAD = ConversationsWorkload()


def conversations(requests: list[Request]) -> list[list[Request]]:
    made: list[list[Request]] = []
    for request in requests:
        if request.follows is None:
            made.append([])
        else:
            assert request.follows == made[-1][-1].index == request.index - 1
        made[-1].append(request)
    return made


def test_conversations_have_turns_pauses_and_seeds() -> None:
    cell = cell_of("conversations", turns="3", input_tokens="7", output_tokens="5", think_s=0.25)
    made = list(WORKLOAD.requests(cell, MODEL))
    assert made == list(WORKLOAD.requests(cell, MODEL))
    warm, rest = conversations(made)[:2], conversations(made)[2:]
    assert [len(each) for each in warm] == [1, 1] and {len(each) for each in rest} == {3}
    assert sum(map(len, rest)) >= 20 + 4  # the budget ends the cell, not the schedule
    for first, *later in rest:
        assert first.think_s == 0 and all(turn.think_s > 0 for turn in later)
        for turn in (first, *later):
            (message,) = turn.prompt
            assert isinstance(message, Message) and message.role == "user"
            assert len(message.content.split()) == 7 and turn.max_tokens == 5
    assert len({str(request.prompt) for request in made}) == len(made)
    pauses = [turn.think_s for each in rest for turn in each[1:]]
    assert 0.1 < sum(pauses) / len(pauses) < 0.5


def test_a_system_prompt_is_shared_and_pauses_may_be_constant() -> None:
    cell = cell_of(
        "conversations", turns="2", system_tokens=9, think="constant", think_s=2.0, warmup=0
    )
    made = conversations(list(WORKLOAD.requests(cell, REMOTE)))
    assert len({each[0].prompt[0] for each in made}) == 1
    assert all(len(each[1].prompt) == 1 and each[1].think_s == 2.0 for each in made)


def test_in_an_open_loop_turns_come_at_the_rate() -> None:
    cell = cell_of(
        "conversations", rate_rps=8.0, requests=None, duration_s=10.0, warmup=0, turns="4",
        arrival="constant", input_tokens="8", output_tokens="8",
    )  # fmt: skip
    made = conversations(list(WORKLOAD.requests(cell, MODEL)))
    assert [each[0].scheduled_s for each in made] == [0.5 * i for i in range(20)]
    assert all(turn.scheduled_s is None for each in made for turn in each[1:])


def test_conversations_fit_the_context_or_are_refused() -> None:
    cell = cell_of("conversations", turns="3", input_tokens="uniform:1:200", output_tokens="40")
    for each in conversations(list(WORKLOAD.requests(cell, MODEL))):
        words = sum(len(turn.prompt[0].content.split()) for turn in each)  # type: ignore[union-attr]
        assert words + 40 * len(each) + 16 * len(each) <= 512
    with pytest.raises(UsageError, match=r"lower conversations\.turns"):
        WORKLOAD.requests(cell_of("conversations", turns="40"), MODEL)


def test_a_dialogue_is_the_history_with_the_real_answers() -> None:
    cell = cell_of("conversations", turns="3", warmup=0)
    first, second, third, *_ = WORKLOAD.requests(cell, REMOTE)
    dialogue = Dialogue(first)
    sent = dialogue.turn("one", second)
    assert sent.prompt == (*first.prompt, Message("assistant", "one"), *second.prompt)
    assert sent.index == second.index and sent.max_tokens == second.max_tokens
    assert dialogue.turn("two", third).prompt == (
        *sent.prompt, Message("assistant", "two"), *third.prompt
    )  # fmt: skip


SHARE = """[{"conversations": [
 {"from": "gpt", "value": "cut"}, {"from": "system", "value": "s"}, {"from": "human", "value": "a"},
 {"from": "gpt", "value": "x"}, {"from": "human", "value": "b"}, {"from": "gpt", "value": "y"},
 {"from": "human", "value": "c"}]}]"""


def test_later_turns_of_a_dataset(tmp_path: Path) -> None:
    (tmp_path / "share.json").write_text(SHARE)
    (tmp_path / "turns.jsonl").write_text('{"turns": ["a", "b", "c"], "max_tokens": 9}\n')
    for name, first in (("share.json", ("s", "a")), ("turns.jsonl", ("a",))):
        options = {"file": str(tmp_path / name), "multi_turn": True, "think_s": 0.0}
        cell = cell_of("dataset", warmup=0, requests=3, users=1, **options)
        made = conversations(list(DatasetWorkload().requests(cell, MODEL)))[0]
        said = [tuple(message.content for message in turn.prompt) for turn in made]  # type: ignore[union-attr]
        assert said == [first, ("b",), ("c",)]
    alone = cell_of("dataset", warmup=0, file=str(tmp_path / "share.json"))
    assert {r.follows for r in DatasetWorkload().requests(alone, MODEL)} == {None}
    with pytest.raises(UsageError, match=r"dataset\.route=chat"):
        cell = cell_of("dataset", file=options["file"], multi_turn=True, route="completions")
        DatasetWorkload().requests(cell, MODEL)


@pytest.mark.parametrize(
    "row", ['{"turns": []}', '{"turns": ["a", " "]}', '{"turns": ["a"], "prompt": "b"}']
)
def test_turns_that_cannot_be_used_are_named(tmp_path: Path, row: str) -> None:
    (tmp_path / "turns.jsonl").write_text(row + "\n")
    cell = cell_of("dataset", file=str(tmp_path / "turns.jsonl"))
    with pytest.raises(UsageError, match=r"turns.jsonl:1"):
        DatasetWorkload().requests(cell, MODEL)


def test_a_schema_is_sent_along_and_ends_answers(tmp_path: Path) -> None:
    (tmp_path / "person.json").write_text('{"type": "object"}')
    cell = cell_of("conversations", json_schema=str(tmp_path / "person.json"))
    body = WORKLOAD.requests(cell, MODEL)[0].body
    form = {"name": "person", "strict": True, "schema": {"type": "object"}}
    assert body["response_format"] == {"type": "json_schema", "json_schema": form}
    assert "ignore_eos" not in body
    for content, words in (("[1]", "not a JSON schema"), (None, "cannot read")):
        path = tmp_path / "other.json"
        path.write_text(content) if content else path.unlink()
        with pytest.raises(UsageError, match=words):
            WORKLOAD.requests(cell_of("conversations", json_schema=str(path)), MODEL)
