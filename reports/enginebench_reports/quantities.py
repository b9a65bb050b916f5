"""Figures as text: three significant digits, the unit that reads best, a dash for none."""

from __future__ import annotations

import math

__all__ = ["DASH", "amount", "in_unit", "quantity", "tick"]

DASH = "\N{EN DASH}"
SCALES = {
    "s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")),
    "bytes": ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "bytes")),
}
SHARES = {"share": (0.01, "%"), "0 or 1": (1.0, "")}


def amount(value: float | None) -> str:
    """A measured number: 3 significant digits, trailing zeros kept, thousands separated."""
    if value is None or not math.isfinite(value):
        return DASH
    if value == 0:
        return "0"
    if abs(value) < 1000:
        value = float(f"{value:.3g}")
    decimals = 2 - math.floor(math.log10(abs(value)))
    return f"{value:,.{min(max(decimals, 0), 6)}f}"


def tick(value: float) -> str:
    """A round number, as on an axis or of things counted: no zeros after the point."""
    text = amount(value)
    return text.rstrip("0").rstrip(".") if "." in text else text


def in_unit(value: float | None, unit: str) -> tuple[str, str]:
    """The figure in the largest unit that leaves it at 1 or above, and that unit."""
    if value is None or not math.isfinite(value):
        return DASH, ""
    scales = SCALES.get(unit) or (SHARES.get(unit, (1.0, unit)),)
    factor, name = next((scale for scale in scales if abs(value) >= scale[0]), scales[-1])
    return amount(value / factor), name


def quantity(value: float | None, unit: str) -> str:
    """`12.3 ms`, `412 MB`, `98.5 tokens/s`, `1.5%`."""
    number, name = in_unit(value, unit)
    return f"{number}{'' if name in ('', '%') else ' '}{name}"
