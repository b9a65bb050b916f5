"""What generated tokens cost, where the price of the machine was said (`bench run --price`).

The whole machine is paid for while a cell runs, whatever part of it the engine uses; prompt tokens
are not counted apart. The currency is the user's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from enginebench.types import MetricInfo

__all__ = ["COLUMNS", "cost"]

COLUMNS: Sequence[MetricInfo] = (
    MetricInfo(
        "cost_per_million_tokens",
        "price",
        "lower",
        "Price of the machine over the window / tokens generated in it, times a million (--price)",
    ),
)


def cost(
    output_tokens_per_s: float | None, price_per_hour: float | None
) -> Mapping[str, float | None]:
    """All of COLUMNS; None without a price or without a rate."""
    if not output_tokens_per_s or price_per_hour is None:
        return {"cost_per_million_tokens": None}
    return {"cost_per_million_tokens": price_per_hour / 3600 / output_tokens_per_s * 1e6}
