"""The texts of `bench check`'s options."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginebench.errors import UsageError
from enginebench.gate import GateRules
from enginebench.gate_options import read_duration, read_percent, read_rules


def test_nothing_typed_is_the_default() -> None:
    assert read_rules((), None, None, None) == GateRules()


def test_limits_by_metric_beside_the_general_one() -> None:
    rules = read_rules(("5%", "ttft_s_p50 = 12.5%"), "ttft_s_p50, tpot_s_p50", "0.1%", "10%")
    assert rules.limit("ttft_s_p50") == 0.125
    assert rules.limit("tpot_s_p50") == 0.05
    assert rules.metrics == ("ttft_s_p50", "tpot_s_p50")
    assert (rules.false_alarms, rules.missed) == (0.001, 0.1)


@given(st.integers(1, 99_999))
def test_percentages_are_read_back(hundredths: int) -> None:
    assert read_percent("--x", f"{hundredths / 100:.2f}%") == pytest.approx(hundredths / 1e4)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10m", 600), ("1.5h", 5400), ("45", 45), (" 2 m ", 120)]
)
def test_durations(text: str, seconds: float) -> None:
    assert read_duration("--budget", text) == seconds


@pytest.mark.parametrize("text", ["3", "0.03", "-3%", "0%", "nan%", "1e3%", "", "%"])
def test_what_is_no_percentage_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="must be a percentage above 0, as in 3%"):
        read_percent("--fail-over", text)


@pytest.mark.parametrize("text", ["0", "0s", "-1m", "10 minutes", "", "inf"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"--budget .* must be a time above 0"):
        read_duration("--budget", text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((("3%", "4%"), None, None, None), "--fail-over is given twice"),
        ((("a=3%", "a=4%"), None, None, None), "given twice for a"),
        (((), "a,,b", None, None), "a name is empty"),
        (((), None, "30%", None), "--false-alarms '30%': must be 20% at most"),
        (((), None, None, "50%"), "--missed '50%': must be 20% at most"),
        ((("a=b",), None, None, None), "--fail-over a 'b': must be a percentage"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_rules(*arguments)
