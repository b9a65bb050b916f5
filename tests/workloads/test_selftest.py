from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from enginebench.drive import DriveDone
from enginebench_workloads import calibration
from enginebench_workloads.calibration import Outcome, Trial
from enginebench_workloads.selftest import Row, conclusion, selftest

FINE = Row(64, 3200.0, 12.0, 0.05, 0.4, 0.02, 0.6, 0.3)


def outcome(error_ms: float, cpu_s: float = 0.1) -> Outcome:
    error_s = np.full(200, error_ms / 1e3)
    done = DriveDone(1, 2, cpu_s, max_loop_lag_s=0.1, loop_lag_s_p99=0.002)
    return Outcome(np.full(1000, 0.001), error_s, error_s / 2, 1.0, done)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (FINE, None),
        (replace(FINE, ttft_p99_ms=1.2), "TTFT was 1.20 ms off"),
        (replace(FINE, itl_p99_ms=1.01), "ITL was 1.01 ms off"),
        (replace(FINE, cpu_percent=96.0), "needed 96% of its core"),
    ],
)
def test_what_is_honest(row: Row, words: str | None) -> None:
    problem = row.problem(limit_ms=1.0)
    assert problem is None if words is None else problem is not None and words in problem
    assert replace(FINE, ttft_p99_ms=1.2).problem(limit_ms=2.0) is None


def test_the_conclusion_names_the_load_at_which_honesty_ends() -> None:
    bad = replace(FINE, streams=256, events_per_s=12_800.0, itl_p99_ms=4.0)
    assert conclusion([FINE], 1.0).endswith("up to 3,200 events/s (64 streams).")
    assert conclusion([FINE, bad, FINE], 1.0) == (
        "Honest up to 3,200 events/s (64 streams); no more at 12,800 events/s (256 streams): "
        "ITL was 4.00 ms off (p99)."
    )
    assert conclusion([bad], 1.0).startswith("Not honest at any load that was tried: ITL was 4.00")


def test_the_test_rises_until_two_loads_in_a_row_are_not_honest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    played: list[Trial] = []
    errors = {1: 0.1, 4: 3.0, 16: 0.2, 64: 2.0, 256: 5.0, 512: 0.1}

    def play(trial: Trial) -> Outcome:
        played.append(trial)
        return outcome(errors[trial.streams])

    monkeypatch.setattr(calibration, "play", play)
    result = CliRunner().invoke(selftest, ["--streams", "1,4,16,64,256,512", "--itl-ms", "5"])
    assert result.exit_code == 0, result.output
    assert [trial.streams for trial in played] == [1, 4, 16, 64, 256]
    assert {trial.itl_ms for trial in played} == {5.0}
    assert result.stdout.count("not honest") == 3
    assert "Honest up to 1,000 events/s (1 stream); no more at 1,000 events/s (4" in result.stdout


def test_a_machine_that_is_never_honest_ends_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "play", lambda trial: outcome(9.0))
    result = CliRunner().invoke(selftest, ["--streams", "1"])
    assert result.exit_code == 1 and "Not honest at any load" in result.stdout


@pytest.mark.parametrize("streams", ["0,1", "4,1", "1,1", "many", ""])
def test_bad_streams_are_named(streams: str) -> None:
    result = CliRunner().invoke(selftest, ["--streams", streams])
    assert result.exit_code != 0
    assert "rising order" in str(result.exception)
