from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from simulated import MODEL, Speed, cell, serve

from enginebench.answers import Answer, Answers
from enginebench.questions import Question
from enginebench.results import CellResult
from enginebench.run_folder import RunFolder
from enginebench.run_settings import RunSettings
from enginebench.store import load
from enginebench.types import Numerics, Plan
from enginebench_reports.agreement import agreement, reference_of
from enginebench_reports.metrics import serving_figures
from enginebench_reports.validity import flags

PROMPTS = [f"prompt {number}" for number in range(20)]
RIGHT = [Answer(("the", " cat", " sat", " down"), finish_reason="length")] * 20
F32 = Numerics("f32", "f32")
Q4 = Numerics("q4_1", "int8")


def answered(*pieces: str, times: int = 20) -> list[Answer]:
    return [Answer(pieces, finish_reason="length")] * times


def contest(
    folder: Path,
    said: Mapping[str, Sequence[Answer]],
    numerics: Mapping[str, Numerics],
    reference: str | None = None,
    model_format: str = "gguf",
) -> dict[str, CellResult]:
    """A Run in which each engine said `said` to the same prompts."""
    cells = tuple(cell(place, engine, 1) for place, engine in enumerate(said))
    model = replace(MODEL, format=model_format)  # type: ignore[arg-type]
    plan = Plan("demo", 1, cells, {MODEL.name: model})
    run = RunFolder.create(folder / "run", plan, settings=RunSettings(reference=reference))
    for each in cells:
        engine = each.spec.engine
        measured = serve(Speed(50, 10), 1, requests=12)
        place = run.cell(each)
        place.begin(each)
        place.write_requests(measured.requests)
        place.write_records(measured.records)
        asked = tuple(map(Question, PROMPTS[: len(said[engine])]))
        place.write_answers(Answers(asked, tuple(said[engine])))
        place.seal(replace(measured.status, numerics=numerics.get(engine)), measured.telemetry)
    return {each.cell.spec.engine: each for each in load(folder / "run")}


def names(cell: CellResult) -> dict[str, str]:
    return {flag.name: flag.level for flag in flags(cell, serving_figures(cell))}


def test_tokens_up_to_the_first_that_differs_are_compared(tmp_path: Path) -> None:
    half = [*RIGHT[:10], *answered("the", " cat", " ran", " away", times=10)]
    found = contest(tmp_path, {"good": RIGHT, "other": half}, {"good": F32, "other": Q4})
    figures = agreement(found["other"])
    assert figures["answer_first_token_share"] == 1.0
    assert figures["answer_decode_share"] == pytest.approx((30 + 10) / (30 + 10 + 10))
    assert figures["answer_agreement_share"] == pytest.approx(60 / 70)
    assert all(value is None for value in agreement(found["good"]).values())


@pytest.mark.parametrize(
    ("said", "name", "level"),
    [
        (RIGHT, None, None),
        (answered("x", "y"), "answers_differ", "invalid"),
        (answered("the", " dog"), "answers_differ", "invalid"),
        ([Answer((), finish_reason="stop")] * 20, "answers_differ", "invalid"),
        ([*RIGHT[:14], *answered("x", times=6)], "answers_deviate", "caution"),
        ([Answer(error="status 500: no")] * 20, "answers_unchecked", "caution"),
    ],
)
def test_a_broken_engine_is_found(
    tmp_path: Path, said: list[Answer], name: str | None, level: str | None
) -> None:
    found = contest(tmp_path, {"good": RIGHT, "other": said}, {"good": F32, "other": Q4})
    assert names(found["good"]) == {}
    assert names(found["other"]) == ({name: level} if name else {})


def test_random_weights_are_a_caution_only(tmp_path: Path) -> None:
    said = {"good": RIGHT, "other": answered("x", "y")}
    found = contest(tmp_path, said, {"good": F32, "other": Q4}, model_format="synthetic")
    assert names(found["other"]) == {"answers_deviate": "caution"}


@pytest.mark.parametrize(
    ("numerics", "named", "expected"),
    [
        ({"a": Q4, "b": F32, "c": Numerics("bf16", "bf16")}, None, "b"),
        ({"a": Q4, "b": F32, "c": Numerics("bf16", is_reference=True)}, None, "c"),
        ({"a": Q4, "b": F32, "c": F32}, "a", "a"),
        ({"a": F32, "b": F32}, None, "a"),
        ({}, None, "a"),
        ({"a": F32}, "nobody", None),
    ],
)
def test_which_engine_is_the_reference(
    tmp_path: Path, numerics: dict[str, Numerics], named: str | None, expected: str | None
) -> None:
    engines = {"a": RIGHT, "b": RIGHT, "c": RIGHT}
    found = contest(tmp_path, engines, numerics, named)
    told = {
        engine: reference.label if (reference := reference_of(each)) else None
        for engine, each in found.items()
    }
    assert told == {engine: None if engine == expected else expected for engine in engines}


def test_near_ties_of_the_reference_are_no_difference(tmp_path: Path) -> None:
    tie = ({"the": -0.70, "a": -0.72}, {" cat": -0.1})
    good = [Answer(("the", " cat"), tie, "length")] * 20
    other = [*good[:10], *answered("a", " cat", times=10)]
    found = contest(tmp_path, {"good": good, "other": other}, {"good": F32})
    assert agreement(found["other"])["answer_first_token_share"] == 1.0
    clear = [Answer(("the", " cat"), ({"the": -0.1, "a": -3.0}, {" cat": -0.1}), "length")] * 20
    found = contest(tmp_path / "clear", {"good": clear, "other": other}, {"good": F32})
    assert agreement(found["other"])["answer_first_token_share"] == 0.5


def test_logprobs_are_compared_where_both_offer_them(tmp_path: Path) -> None:
    good = [Answer(("the",), ({"the": -0.5, "a": -1.5},), "length")] * 20
    other = [Answer(("the",), ({"the": -0.75, "a": -1.0},), "length")] * 20
    found = contest(tmp_path, {"good": good, "other": other}, {"good": F32})
    assert agreement(found["other"])["answer_logprob_distance"] == pytest.approx(0.25)


def test_too_few_common_answers_say_nothing(tmp_path: Path) -> None:
    found = contest(tmp_path, {"good": RIGHT, "other": answered("x", times=5)}, {"good": F32})
    assert set(agreement(found["other"]).values()) == {None}
