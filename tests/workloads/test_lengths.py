import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from workload_cells import MODEL, REMOTE, cell_of

from enginebench.errors import UsageError
from enginebench.types import Request
from enginebench_workloads.lengths import LengthsWorkload


def shape(request: Request) -> tuple[int, int]:
    assert isinstance(request.prompt, tuple)
    return len(request.prompt), request.max_tokens


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**40), st.integers(1, 500), st.integers(1, 300), st.integers(0, 400))
def test_every_pair_fits_the_context_and_prompts_are_of_ordinary_tokens(
    seed: int, mean_in: int, mean_out: int, deviation: int
) -> None:
    made = LengthsWorkload().requests(
        cell_of(
            "lengths",
            seed=seed,
            input_tokens=f"normal:{mean_in}:{deviation + mean_in / 4}",
            output_tokens=f"lognormal:{mean_out}:{deviation + mean_out / 4}",
        ),
        MODEL,
    )
    assert [request.index for request in made] == list(range(22))
    for request in made:
        length, answer = shape(request)
        assert length >= 1 and answer >= 1 and length + answer <= 512
        assert all(isinstance(i, int) and 10 <= i < 990 for i in request.prompt)


def test_lengths_vary_and_a_seed_repeats_them() -> None:
    one, again, other = (
        LengthsWorkload().requests(cell_of("lengths", seed=seed), MODEL) for seed in (5, 5, 6)
    )
    assert one == again
    assert [shape(r) for r in one] != [shape(r) for r in other]
    assert len({shape(request) for request in one}) > 10


def test_a_number_is_a_fixed_length_and_texts_have_about_as_many_words() -> None:
    cell = cell_of("lengths", input_tokens="9", output_tokens="uniform:2:3", users=8)
    made = LengthsWorkload().requests(cell, REMOTE)
    assert all(isinstance(r.prompt, str) and len(r.prompt.split()) == 9 for r in made)
    assert {request.max_tokens for request in made} == {2, 3}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"input_tokens": "pareto:1:2"}, r"lengths.input_tokens=pareto:1:2: must be N, uniform"),
        ({"output_tokens": "0"}, r"lengths.output_tokens=0: lengths must be at least 1"),
        ({"input_tokens": "600"}, r"hardly any prompt and answer fit m's context of 512"),
    ],
)
def test_impossible_lengths_are_refused(options: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        LengthsWorkload().requests(cell_of("lengths", **options), MODEL)
