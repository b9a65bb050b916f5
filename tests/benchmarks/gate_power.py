"""How often the gate errs, and what it costs: false alarms, power and pairs, with known truth.

    python tests/benchmarks/gate_power.py --checks 1000
    bench run --engines echo --model synthetic:tiny --concurrency 2 --requests 8 \
        --output-tokens 32 --repeats 150 --no-report
    python tests/benchmarks/gate_power.py --checks 1000 --recorded runs/...

Every check goes through the gate's own statistics and stops as `bench check --against` does: after
the same looks, at the first that settles it. A check has three comparisons (`--comparisons`) that
share part of their luck, as throughput, TPOT and TTFT of one cell do.

Without `--recorded`, run-level noise is simulated: each run has its own luck (log-normal), and the
machine drifts slowly, as far as the luck itself reaches. In the rows marked "disturbed", one run in
twenty is slower besides, by up to ten times the luck. The noise printed is what is left between
neighbours, as a coefficient of variation of single runs: what identical runs right after one
another would show. With
`--recorded`, the noise is that of a real Run with many repeats, in the order in which it came,
whatever is wrong with it: each check takes consecutive runs from a random place, and slowdowns are
injected into the arm that plays the current one. With `--injected`, a Run of the echo engine at
several cadences, nothing is added to any figure: the slower cadences were measured, repeat by
repeat beside the first, and what was asked of the engine is the truth:

    bench run --engines echo --model synthetic:tiny --concurrency 2 --requests 16 \
        --output-tokens 32 --set echo.itl_ms=5,5.00001,5.05,5.1,5.15,5.25,5.5 --repeats 56 \
        --no-report
    python tests/benchmarks/gate_power.py --checks 1000 --injected runs/... --metrics tpot_s_p50

Not collected by pytest.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from enginebench.gate import GateRules
from enginebench.pairs import LOOKS, MOST_PAIRS, PLANNED_LOOKS
from enginebench.store import load
from enginebench_reports.compare_arms import arm_of
from enginebench_reports.gate import assess
from enginebench_reports.stats_sequential import Looks

LUCK = ((0.005, 0.0), (0.01, 0.0), (0.02, 0.0), (0.03, 0.0), (0.005, 0.05), (0.01, 0.05))
"""Coefficient of variation, and the share of disturbed runs."""
SHARED_LUCK = 0.5
DRIFT_MEMORY = 0.98

Floats = npt.NDArray[np.float64]
Runs = Callable[[np.random.Generator, int], Floats]
"""Log-figures of consecutive runs, (comparisons, 2 * pairs), lower is better; or log-slowdowns of
pairs, (comparisons, pairs)."""


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of the checks of one noise and slowdown."""

    checks: int
    regressions: int
    passes: int
    pairs: Sequence[int]

    def row(self, noise: str, slowdown: float) -> str:
        unknown = self.checks - self.regressions - self.passes
        shares = [count / self.checks for count in (self.regressions, self.passes, unknown)]
        median, most = np.median(self.pairs), np.quantile(self.pairs, 0.9)
        texts = [f"{share:.1%}" for share in shares]
        low, high = wilson(self.regressions, self.checks)
        texts[0] += f" [{low:.1%}, {high:.1%}]"
        return (
            f"| {noise} | {slowdown:.0%} | {texts[0]} | {texts[1]} | {texts[2]} "
            f"| {median:.0f} | {most:.0f} |"
        )


def main() -> None:
    options = _options()
    started = time.monotonic()
    rules = GateRules(fail_over=options.fail_over / 100)
    print(f"{options.checks} checks a row, --fail-over {options.fail_over:g}%, at most", end=" ")
    print(f"{MOST_PAIRS} pairs, false alarms {rules.false_alarms:.0%}, missed {rules.missed:.0%}")
    print("\n| noise (CV) | slowdown | regression [95%] | pass | inconclusive | pairs | 90% |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    if options.injected is not None:
        for name, slowdown, pairs in _injected(options.injected, options.metrics.split(",")):
            rng = np.random.default_rng(options.seed)
            print(_tally(pairs, 0.0, options.checks, rules, rng).row(name, slowdown), flush=True)
    for name, runs in _sources(options):
        for slowdown in (float(text) / 100 for text in options.slowdowns.split(",")):
            rng = np.random.default_rng([options.seed, round(slowdown * 1000)])
            tally = _tally(_paired(runs), slowdown, options.checks, rules, rng)
            print(tally.row(name, slowdown), flush=True)
    print(f"\n{time.monotonic() - started:.0f} s")


def check(logs: Floats, rules: GateRules) -> tuple[str, int]:
    """Verdict and pairs of one check; `logs` are (comparisons, pairs) log-slowdowns."""
    limits = [rules.fail_over] * len(logs)
    for taken, pairs in enumerate(LOOKS, start=1):
        family = [Looks(tuple(each[:pairs]), LOOKS[:taken], PLANNED_LOOKS) for each in logs]
        outcomes = {found.outcome for found in assess(family, limits, rules)}
        if "regression" in outcomes:
            return "regression", pairs
        if outcomes == {"pass"}:
            return "pass", pairs
    return "inconclusive", MOST_PAIRS


def wilson(count: int, total: int) -> tuple[float, float]:
    """The 95% interval of a share."""
    z, share = 1.96, count / total
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + (z / total / 2) ** 2)
    return max(0.0, middle - half), min(1.0, middle + half)


def _tally(
    runs: Runs, slowdown: float, checks: int, rules: GateRules, rng: np.random.Generator
) -> Tally:
    verdicts, pairs = [], []
    for _ in range(checks):
        verdict, taken = check(runs(rng, MOST_PAIRS) + math.log1p(slowdown), rules)
        verdicts.append(verdict)
        pairs.append(taken)
    return Tally(checks, verdicts.count("regression"), verdicts.count("pass"), pairs)


def _paired(runs: Runs) -> Runs:
    """The log-slowdowns of pairs, (comparisons, pairs), of consecutive runs."""
    return lambda rng, pairs: _in_pairs(runs(rng, pairs))


def _in_pairs(runs: Floats) -> Floats:
    """current - baseline of runs that were made in the order ABBA."""
    first, second = runs[:, 0::2], runs[:, 1::2]
    turned = np.where(np.arange(first.shape[1]) % 2 == 0, 1.0, -1.0)
    paired: Floats = (second - first) * turned
    return paired


def _simulated(cv: float, disturbed_share: float, comparisons: int) -> Runs:
    def runs(rng: np.random.Generator, pairs: int) -> Floats:
        count = 2 * pairs
        shared, own = rng.normal(size=(1, count)), rng.normal(size=(comparisons, count))
        luck = math.sqrt(SHARED_LUCK) * shared + math.sqrt(1 - SHARED_LUCK) * own
        steps = rng.normal(size=count) * math.sqrt(1 - DRIFT_MEMORY**2)
        drift = np.empty(count)
        level = rng.normal()
        for place, step in enumerate(steps):
            level = DRIFT_MEMORY * level + step
            drift[place] = level
        disturbed = (rng.random(count) < disturbed_share) * rng.uniform(0, 10, count)
        return cv * (luck + drift + disturbed)

    return runs


def _recorded(run: Path, metrics: Sequence[str]) -> tuple[str, Runs]:
    """Windows of the cells of a Run, read as a ring; and how noisy neighbours are (CV)."""
    (cells,) = arm_of("recorded", load(run)).cells.values()
    figures = np.array([[cell.figures[name] for name in metrics] for cell in cells], float).T
    logs: Floats = np.log(figures) * [[-1.0 if "per_s" in name else 1.0] for name in metrics]
    if not np.isfinite(logs).all():
        raise SystemExit(f"{run}: some cells lack a figure of {', '.join(metrics)}")

    def runs(rng: np.random.Generator, pairs: int) -> Floats:
        places = (rng.integers(logs.shape[1]) + np.arange(2 * pairs)) % logs.shape[1]
        window: Floats = logs[:, places]
        return window

    return " / ".join(f"{each:.2%}" for each in _neighbours(logs)), runs


def _injected(run: Path, metrics: Sequence[str]) -> Sequence[tuple[str, float, Runs]]:
    """Noise, true slowdown and log-slowdowns of pairs: each cadence of echo beside the first."""
    arms = {}
    for place, cells in arm_of("injected", load(run)).cells.items():
        figures = np.array([[cell.figures[name] for name in metrics] for cell in cells], float).T
        signs = [[-1.0 if "per_s" in name else 1.0] for name in metrics]
        arms[float(dict(place.options or ())["itl_ms"])] = np.log(figures) * signs
    base, *slower = sorted(arms)
    noise = " / ".join(f"{each:.2%}" for each in _neighbours(arms[base]))
    return [(noise, cadence / base - 1, _window(arms[cadence] - arms[base])) for cadence in slower]


def _window(pairs_measured: Floats) -> Runs:
    """Consecutive pairs from a random place, read as a ring."""

    def pairs_of(rng: np.random.Generator, pairs: int) -> Floats:
        count = pairs_measured.shape[1]
        window: Floats = pairs_measured[:, (rng.integers(count) + np.arange(pairs)) % count]
        return window

    return pairs_of


def _neighbours(logs: Floats) -> Floats:
    """How much single runs scatter, from the differences between neighbours."""
    scatter: Floats = np.diff(logs, axis=1).std(axis=1) / math.sqrt(2)
    return scatter


def _sources(options: argparse.Namespace) -> Sequence[tuple[str, Runs]]:
    if options.injected is not None:
        return []
    if options.recorded is not None:
        return [_recorded(options.recorded, options.metrics.split(","))]
    found = []
    for cv, disturbed_share in LUCK:
        runs = _simulated(cv, disturbed_share, options.comparisons)
        scatter = _neighbours(runs(np.random.default_rng(0), 100_000)).mean()
        name = f"{scatter:.1%}" + (", disturbed" if disturbed_share else "")
        found.append((name, runs))
    return found


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checks", type=int, default=1000)
    parser.add_argument("--slowdowns", default="0,1,2,3,5,10", metavar="PERCENT,...")
    parser.add_argument("--fail-over", type=float, default=3.0, metavar="PERCENT")
    parser.add_argument("--comparisons", type=int, default=3)
    parser.add_argument("--recorded", type=Path, metavar="RUN")
    parser.add_argument("--injected", type=Path, metavar="RUN")
    parser.add_argument("--metrics", default="output_tokens_per_s,tpot_s_p50,ttft_s_p50")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
