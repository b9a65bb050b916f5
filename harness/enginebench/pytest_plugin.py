"""The gate in a test suite: the fixture `bench`, for pytest.

    def test_the_server_got_no_slower(bench):
        bench.assert_no_regression(against="main", plan="ci.toml", budget="5m", fail_over="5%")

pytest loads this module in every session, so it imports nothing of ours before a test asks for the
fixture. The verdict is that of `bench check`: a regression fails the test, and so does what was
shown neither way, unless the test says otherwise. Runs go to the test's `tmp_path`.
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

if TYPE_CHECKING:
    from enginebench.check import CheckRequest
    from enginebench.gate import GateRules, Judgement

__all__ = ["BenchFixture", "bench", "pytest_addoption"]

DEFAULT_BUDGET = "5m"
Unknown = Literal["fail", "skip", "pass"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--bench-against` and `--bench-budget`, for tests that use `bench`."""
    group = parser.getgroup("enginebench", "performance tests (fixture `bench`)")
    group.addoption(
        "--bench-against",
        metavar="REF_OR_RUN",
        help="What `bench` compares with where a test does not say it.",
    )
    group.addoption(
        "--bench-budget",
        metavar="TIME",
        help="How long each check of `bench` may add pairs, whatever its test says: 90s, 10m.",
    )


@pytest.fixture
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> BenchFixture:
    """Checks for performance regressions; see `BenchFixture`."""
    config = request.config
    return BenchFixture(
        tmp_path, config.getoption("--bench-against"), config.getoption("--bench-budget")
    )


class BenchFixture:
    """What the fixture `bench` gives. `folder` is where its Runs go."""

    def __init__(self, folder: Path, against: str | None = None, budget: str | None = None) -> None:
        self.folder, self._against, self._budget = folder, against, budget
        self._checks = 0

    def assert_no_regression(
        self,
        *,
        plan: str | PathLike[str],
        against: str | None = None,
        budget: str = DEFAULT_BUDGET,
        fail_over: str | Mapping[str, str] = "3%",
        metrics: str | None = None,
        install: str | None = None,
        keep_environment: bool = False,
        inconclusive: Unknown = "fail",
    ) -> Judgement:
        """Measure `plan` as it is here and as `against` (a git reference, or a Run folder) does it.

        Arguments are those of `bench check --against`; `fail_over` is the limit of all metrics, or
        one for each of some. Fails the test on a regression and on an invalid measurement, and does
        what `inconclusive` says where the budget did not suffice for a verdict.
        """
        from enginebench.check import begin, proceed

        request = self._request(
            against or self._against,
            Path(plan),
            self._budget or budget,
            _rules(fail_over, metrics),
            install,
            keep_environment,
        )
        self._checks += 1
        folder = begin(request, self.folder / f"check-{self._checks}")
        return _settled(proceed(folder, tell=print), inconclusive)

    def assert_no_slower_run(
        self,
        baseline: str | PathLike[str],
        current: str | PathLike[str],
        *,
        fail_over: str | Mapping[str, str] = "3%",
        metrics: str | None = None,
        allow_machine_mismatch: bool = False,
        inconclusive: Unknown = "fail",
    ) -> Judgement:
        """Judge two Runs (or folders of Runs) that were measured before."""
        from enginebench import plugins
        from enginebench.store import load

        rules = _rules(fail_over, metrics, allow_machine_mismatch=allow_machine_mismatch)
        judgement = plugins.gate().judge(load(baseline), load(current), rules)
        return _settled(judgement, inconclusive)

    def _request(
        self,
        against: str | None,
        plan: Path,
        budget: str,
        rules: GateRules,
        install: str | None,
        keep_environment: bool,
    ) -> CheckRequest:
        from enginebench.check import CheckRequest
        from enginebench.checkout import Installation
        from enginebench.errors import UsageError
        from enginebench.gate_options import read_duration

        if against is None:
            raise UsageError(
                "assert_no_regression: nothing to compare with; give against=REF_OR_RUN, or "
                "--bench-against on the command line"
            )
        return CheckRequest(
            against=against,
            plan=plan,
            rules=rules,
            budget_s=read_duration("budget", budget),
            installation=Installation(install, keep_environment),
        )


def _rules(
    fail_over: str | Mapping[str, str],
    metrics: str | None,
    *,
    allow_machine_mismatch: bool = False,
) -> GateRules:
    from enginebench.gate_options import read_rules

    texts = (
        [fail_over]
        if isinstance(fail_over, str)
        else [f"{metric}={limit}" for metric, limit in fail_over.items()]
    )
    return read_rules(texts, metrics, None, None, allow_machine_mismatch=allow_machine_mismatch)


def _settled(judgement: Judgement, inconclusive: Unknown) -> Judgement:
    """The judgement, if the test may go on."""
    if judgement.verdict == "pass":
        return judgement
    if judgement.verdict == "inconclusive":
        if inconclusive == "pass":
            return judgement
        if inconclusive == "skip":
            pytest.skip(judgement.headline)
    pytest.fail(judgement.markdown(), pytrace=False)
