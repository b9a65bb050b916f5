"""The columns of the result table: which metrics, under which heading, in which unit.

The figures that people ask for first have headings of their own here. Every other metric, of this
package or of a plugin, gets one from its name and unit: `e2e_s_p99` is `p99` under `e2e`, in ms.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from enginebench.types import MetricInfo
from enginebench_reports import cost
from enginebench_reports.metrics import COLUMNS
from enginebench_reports.percentiles import PERCENTS

__all__ = ["Heading", "first_headings", "further_headings"]


@dataclass(frozen=True, slots=True)
class Heading:
    """A column: `metric` divided by `scale`, in `unit`; a percentile rests on `samples`.

    `is_extra`: a page may leave it away until somebody asks for it.
    """

    family: str
    title: str
    unit: str
    metric: str
    scale: float = 1.0
    percent: int | None = None
    samples: str = "requests_ok"
    is_extra: bool = False

    @property
    def is_count(self) -> bool:
        return self.metric.startswith("requests_") and not self.metric.endswith("_s")

    @property
    def full_title(self) -> str:
        return " ".join(part for part in (self.family, self.title) if part)


def first_headings(names: Mapping[str, object]) -> Sequence[Heading]:
    """Those asked for first; of the optional ones, those whose metric is among `names`."""
    return [each for each in HEADINGS if each.metric not in OPTIONAL or each.metric in names]


def further_headings(
    infos: Mapping[str, MetricInfo], names: Mapping[str, object]
) -> Sequence[Heading]:
    """All other metrics among `names` of which more or less is better, those of plugins first."""
    known = {each.metric for each in HEADINGS}
    found = [
        _heading(info)
        for name, info in infos.items()
        if name in names and name not in known and info.better != "neither"
    ]
    return sorted(found, key=lambda each: each.is_extra)


def _percentile_headings(family: str, name: str, samples: str = "requests_ok") -> Iterator[Heading]:
    for percent in PERCENTS:
        metric = f"{name}_p{percent}"
        yield Heading(family, f"p{percent}", "ms", metric, 1e-3, percent, samples)


HEADINGS: Sequence[Heading] = (
    Heading("output", "tokens/s", "", "output_tokens_per_s"),
    *_percentile_headings("TTFT", "ttft_s"),
    *_percentile_headings("TPOT", "tpot_s"),
    *_percentile_headings("ITL", "itl_s", "itl_samples"),
    Heading("", "req/s", "", "requests_per_s"),
    Heading("goodput", "req/s", "", "goodput_rps"),
    Heading("goodput", "SLO met", "%", "slo_met_share", 0.01),
    Heading("", "ok", "", "requests_ok"),
    Heading("", "errors", "", "requests_failed"),
    Heading("memory", "RSS", "MB", "peak_rss_bytes", 1e6),
    Heading("memory", "GPU", "MB", "peak_gpu_memory_bytes", 1e6),
    Heading("", "energy", "J/token", "energy_j_per_token"),
    Heading("answers", "agree", "%", "answer_agreement_share", 0.01),
    Heading("of limit", "TPOT", "%", "tpot_floor_share", 0.01, is_extra=True),
)
OPTIONAL = {
    "peak_rss_bytes",
    "peak_gpu_memory_bytes",
    "energy_j_per_token",
    "goodput_rps",
    "slo_met_share",
    "answer_agreement_share",
    "tpot_floor_share",
}
"""Columns that only appear where at least one cell of the report has them."""
SECOND = {info.name for info in COLUMNS} - {info.name for info in cost.COLUMNS}
"""Built-in metrics are left away at first; what a token costs is there only if it was asked for."""
SCALES = {"s": (1e-3, "ms"), "bytes": (1e6, "MB"), "share": (0.01, "%")}


def _heading(info: MetricInfo) -> Heading:
    match = re.fullmatch(r"(.+?)(?:(?<!_per)_s|_bytes|_share|_percent)?(?:_p(\d+))?", info.name)
    assert match is not None
    scale, unit = SCALES.get(info.unit, (1.0, info.unit))
    stem, percent = match[1].replace("_", " "), match[2]
    return Heading(
        stem if percent else "",
        f"p{percent}" if percent else stem,
        unit,
        info.name,
        scale,
        int(percent) if percent and int(percent) in PERCENTS else None,
        is_extra=info.name in SECOND,
    )
