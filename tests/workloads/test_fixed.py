from dataclasses import replace

import pytest

from enginebench.errors import UsageError
from enginebench.types import (
    Budget,
    Cell,
    EngineSpec,
    Hardware,
    Load,
    Message,
    ModelInfo,
    OptionValue,
    WorkloadSpec,
)
from enginebench_workloads.fixed import FixedWorkload

MODEL = ModelInfo(
    "m",
    "gguf",
    vocab_size=1000,
    first_ordinary_token=10,
    ordinary_token_end=990,
    context_length=512,
)


def cell(seed: int = 1, load: Load = Load(users=4), **options: OptionValue) -> Cell:  # noqa: B008
    return Cell(
        index=0,
        spec=EngineSpec("echo", "m", Hardware(cpu_threads=1)),
        workload=WorkloadSpec("fixed", options),
        load=load,
        budget=Budget(requests=20, warmup_requests=2),
        repeat=0,
        seed=seed,
        id="c",
    )


def test_prompts_have_the_exact_length_and_only_ordinary_tokens() -> None:
    made = FixedWorkload().requests(cell(input_tokens=33, output_tokens=7), MODEL)
    assert len(made) == 22
    assert [request.index for request in made] == list(range(22))
    for request in made:
        assert isinstance(request.prompt, tuple) and len(request.prompt) == 33
        assert all(isinstance(i, int) and 10 <= i < 990 for i in request.prompt)
        assert request.max_tokens == 7 and request.scheduled_s is None
        assert request.body == {"temperature": 0.0, "ignore_eos": True}


def test_a_seed_repeats_and_another_seed_shares_nothing() -> None:
    workload = FixedWorkload()
    first, again, other = (workload.requests(cell(seed), MODEL) for seed in (5, 5, 6))
    assert first == again
    assert {r.prompt for r in first}.isdisjoint({r.prompt for r in other})
    assert len({r.prompt for r in first}) == len(first)


def test_fewer_requests_than_users_still_gives_each_user_one() -> None:
    made = FixedWorkload().requests(cell(load=Load(users=50)), MODEL)
    assert len(made) == 52


def test_a_timed_cell_gets_enough_requests_for_an_engine_of_1_ms_a_token() -> None:
    timed = replace(cell(output_tokens=16), budget=Budget(duration_s=2.0, warmup_requests=0))
    assert len(FixedWorkload().requests(timed, MODEL)) >= 4 * 2.0 / (16 * 0.0015)


def test_text_and_chat_need_no_vocabulary() -> None:
    remote = ModelInfo("served", "remote")
    text = FixedWorkload().requests(cell(input_tokens=9), remote)[0]
    assert isinstance(text.prompt, str) and len(text.prompt.split()) == 9
    chat = FixedWorkload().requests(cell(route="chat", input_tokens=9), remote)[0]
    assert isinstance(chat.prompt, tuple)
    message = chat.prompt[0]
    assert isinstance(message, Message) and message.role == "user"


def test_an_open_loop_is_scheduled_before_the_start() -> None:
    made = FixedWorkload().requests(cell(load=Load(rate_rps=10.0), arrival="constant"), MODEL)
    assert [request.scheduled_s for request in made[:5]] == [None, None, 0.0, 0.1, 0.2]
    assert all(request.scheduled_s is not None for request in made[2:])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"input_tokens": 0}, "input_tokens=0: must be at least 1"),
        ({"output_tokens": -3}, "output_tokens=-3: must be at least 1"),
        ({"input_tokens": 500, "output_tokens": 13}, "need a context of 513 tokens, but m has 512"),
    ],
)
def test_impossible_lengths_are_refused(options: dict[str, OptionValue], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        FixedWorkload().requests(cell(**options), MODEL)
