import json
import os
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from workload_cells import MODEL, cell_of

from enginebench.errors import UsageError
from enginebench.types import Message, Request
from enginebench_workloads.data_file import DataFile
from enginebench_workloads.dataset import DatasetWorkload
from enginebench_workloads.dataset_file import read_dataset


def made(path: Path, **options: Any) -> list[Request]:
    seed, users = options.pop("seed", 1), options.pop("users", 4)
    cell = cell_of("dataset", file=str(path), seed=seed, users=users, **options)
    return list(DatasetWorkload().requests(cell, MODEL))


def write(folder: Path, text: str) -> Path:
    path = folder / "data"
    path.write_text(text, encoding="utf-8")
    return path


def turns(*pairs: tuple[str, str]) -> dict[str, Any]:
    return {"id": "x", "conversations": [{"from": who, "value": what} for who, what in pairs]}


def test_sharegpt_asks_what_was_asked_first(tmp_path: Path) -> None:
    rows = [
        turns(("human", "Hi?"), ("gpt", "Hello."), ("human", "More?")),
        turns(("system", "Be brief."), ("human", "Why?"), ("gpt", "So.")),
        turns(("gpt", "...and so on."), ("human", "What?")),
    ]
    path = write(tmp_path, json.dumps(rows, indent=1))
    prompts = {request.prompt for request in made(path, requests=3, warmup=0)}
    assert prompts == {
        (Message("user", "Hi?"),),
        (Message("system", "Be brief."), Message("user", "Why?")),
        (Message("user", "What?"),),
    }


def test_jsonl_takes_prompts_and_messages_and_the_rows_own_length(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        '{"prompt": "One", "max_tokens": 7, "extra": [1]}\n\n'
        '{"messages": [{"role": "user", "content": "Two"}]}\n',
    )
    by_prompt = {r.prompt: r.max_tokens for r in made(path, requests=4, output_tokens=9)}
    assert by_prompt == {(Message("user", "One"),): 7, (Message("user", "Two"),): 9}
    texts = {request.prompt for request in made(path, requests=4, route="completions")}
    assert texts == {"One", "Two"}


def test_lines_of_text_are_prompts(tmp_path: Path) -> None:
    path = write(tmp_path, "\ufeffGrüße, wie geht's?\r\n\r\nsecond\n")
    requests = made(path, requests=2, warmup=0, route="completions", users=1)
    assert sorted(str(request.prompt) for request in requests) == ["Grüße, wie geht's?", "second"]
    assert all(request.body == {"temperature": 0.0} for request in requests)
    assert made(path, ignore_eos=True)[0].body == {"temperature": 0.0, "ignore_eos": True}


def test_a_format_that_is_named_wins_over_looks(tmp_path: Path) -> None:
    path = write(tmp_path, "[not a list\n")
    (row,) = read_dataset(path, "text")
    assert row.prompt == "[not a list"


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**40), st.integers(1, 30))
def test_each_row_comes_once_before_any_comes_again(seed: int, count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), "".join(f"row {i}\n" for i in range(count)))
        requests = made(path, seed=seed, requests=3 * count, warmup=0, users=1)
        again = made(path, seed=seed, requests=3 * count, warmup=0, users=1)
    prompts = [request.prompt for request in requests]
    assert prompts == [request.prompt for request in again]
    for start in range(0, 3 * count, count):
        assert len(set(prompts[start : start + count])) == count


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[\n{"conversations": []}]', r"data:2: the conversation has no question"),
        ('[{"conversations": [{"from": "gpt", "value": "x"}]}]', "data:1: .* no question"),
        (
            '[\n {"conversations":\n [{"from": "human", "value": "x"}]},\n\n {"x": 1}]',
            "data:5: not a conversation: .*conversations",
        ),
        ('[{"conversations": [{"from": "elf", "value": "x"}]}]', "data:1: unknown speaker 'elf'"),
        ("[1, 2", "not a JSON list"),
        ('{"prompt": "a"}\n{"prompt": 5}\n', r"data:2: not a row: .*\$.prompt"),
        ('{"prompt": "a"}\n\n{"prompt"\n', "data:3: not a row"),
        ('{"prompt": "a", "messages": []}', "data:1: a row has either a prompt, messages or turns"),
        ('{"text": "a"}', "data:1: a row has either"),
        ('{"prompt": ""}', "data:1: the prompt is empty"),
        ('{"messages": []}', "data:1: the prompt is empty"),
        ('{"prompt": "a", "max_tokens": 0}', "data:1: max_tokens 0: must be at least 1"),
        (" \n ", "data is empty"),
    ],
)
def test_a_bad_row_names_its_file_and_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        made(write(tmp_path, text))


def test_files_that_cannot_be_read_and_options_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read the file .*gone: No such file"):
        made(tmp_path / "gone")
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    with pytest.raises(UsageError, match=r"latin is not UTF-8 text \(byte 3\)"):
        made(tmp_path / "latin")
    with pytest.raises(UsageError, match=r"--set dataset.file=VALUE"):
        DatasetWorkload().requests(cell_of("dataset"), MODEL)
    chat = write(tmp_path, '{"messages": [{"role": "system", "content": "x"}]}')
    with pytest.raises(UsageError, match=r"data:1: messages need a chat"):
        made(chat, route="completions")


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    path = write(tmp_path, "one\n")
    assert len(read_dataset(path, None)) == 1
    path.write_text("one\ntwo\n")
    os.utime(path, ns=(1, 1))
    assert len(read_dataset(path, None)) == 2


@given(st.lists(st.recursive(st.integers() | st.text(), st.lists, max_leaves=4)), st.data())
def test_elements_know_the_lines_on_which_they_begin(values: list[Any], data: Any) -> None:
    breaks = [data.draw(st.integers(0, 3)) for _ in range(len(values) + 1)]
    text, lines, line = "[" + "\n" * breaks[0], [], 1 + breaks[0]
    for value, following in zip(values, breaks[1:], strict=True):
        lines.append(line)
        separator = "" if len(lines) == len(values) else ","
        text += json.dumps(value) + "\n" * following + separator
        line += following
    found = list(DataFile(Path("x"), text + "]").elements())
    assert [number for number, _ in found] == lines
    assert all(a <= b for a, b in pairwise(lines))
