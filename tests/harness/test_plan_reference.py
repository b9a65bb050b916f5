"""--reference, --unchecked and --price, from the options to what a run is told."""

from __future__ import annotations

import pytest

from enginebench.errors import UnknownNameError, UsageError
from enginebench.hardware import Capacity
from enginebench.options import parse_options
from enginebench.plan import build_plan
from enginebench.run_settings import RunSettings

HERE = Capacity(cores=4, gpus=())


def planned(**raw: str) -> RunSettings:
    texts = {"engines": "echo", "model": "synthetic:tiny", **raw}
    options = parse_options({key: [text] for key, text in texts.items()})
    return build_plan(options, capacity=HERE).settings


def test_defaults_check_answers_and_name_nobody() -> None:
    found = planned()
    assert (found.check_answers, found.reference, found.price_per_hour) == (True, None, None)


def test_what_was_said_is_kept() -> None:
    found = planned(reference="echo", price="2.5/h")
    assert (found.check_answers, found.reference, found.price_per_hour) == (True, "echo", 2.5)
    assert not planned(unchecked="true").check_answers


def test_a_reference_must_take_part() -> None:
    with pytest.raises(UnknownNameError, match=r"reference 'vllm'.*one of --engines"):
        planned(reference="vllm")
    with pytest.raises(UsageError, match="--unchecked asks nobody"):
        planned(reference="echo", unchecked="true")
