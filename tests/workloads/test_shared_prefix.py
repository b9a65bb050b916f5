from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from workload_cells import MODEL, REMOTE, cell_of

from enginebench.errors import UsageError
from enginebench.types import Message
from enginebench_workloads.shared_prefix import SharedPrefixWorkload


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2**40), st.integers(1, 200), st.floats(0, 1, allow_nan=False), st.integers(1, 9)
)
def test_prompts_share_just_the_beginning_of_their_group(
    seed: int, length: int, share: float, groups: int
) -> None:
    made = SharedPrefixWorkload().requests(
        cell_of("shared-prefix", seed=seed, input_tokens=length, shared_share=share, groups=groups),
        MODEL,
    )
    prompts: list[Any] = [request.prompt for request in made]
    assert {len(prompt) for prompt in prompts} == {length}
    shared = round(length * share)
    beginnings = {prompt[:shared] for prompt in prompts[2:]}
    assert len(beginnings) <= groups
    if shared > 8:
        assert beginnings.isdisjoint({prompt[:shared] for prompt in prompts[:2]})  # warm-up
    if length - shared > 8:
        assert len({prompt[shared:] for prompt in prompts}) == len(prompts)
    for one, other in combinations(prompts[2:], 2):
        if shared > 8 and one[:shared] != other[:shared]:
            assert one[:8] != other[:8]


def test_all_groups_come_and_share_as_text_too() -> None:
    cell = cell_of("shared-prefix", requests=60, groups=3, input_tokens=20, route="chat")
    made = SharedPrefixWorkload().requests(cell, REMOTE)
    texts = []
    for request in made:
        (message,) = request.prompt
        assert isinstance(message, Message)
        texts.append(message.content.split())
    assert {len(words) for words in texts} == {20}
    assert len({tuple(words[:10]) for words in texts[2:]}) == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shared_share": 1.1}, r"shared-prefix.shared_share=1.1: must be from 0 to 1"),
        ({"groups": 0}, r"shared-prefix.groups=0: must be at least 1"),
        ({"input_tokens": 0}, r"input_tokens=0: must be at least 1"),
        ({"input_tokens": 500}, r"need a context of 564 tokens, but m has 512"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, float], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        SharedPrefixWorkload().requests(cell_of("shared-prefix", **options), MODEL)
