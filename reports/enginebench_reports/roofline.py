"""How near a cell came to what its machine can do: floors of TPOT and of prefill, share reached.

To give one token, the weights that it is multiplied with and the keys and values before it are
read once (or, where that takes longer, multiplied once). No engine can be faster, whatever its
batch; with many users each token's time is longer, and the share says less. Ceilings are those that
`bench calibrate` measured (`enginebench.ceilings`); without them, or where an engine does not say
in which types it computes, there is no figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import msgspec
import numpy as np

from enginebench.ceilings import Ceilings
from enginebench.results import CellResult
from enginebench.types import MetricInfo, ModelShape
from enginebench_reports.agreement import type_bits
from enginebench_reports.measured import Measured

__all__ = ["COLUMNS", "ceilings_of", "roofline"]

COLUMNS: Sequence[MetricInfo] = (
    MetricInfo(
        "tpot_floor_s", "s", "neither", "Least time in which this machine can give one token"
    ),
    MetricInfo(
        "tpot_floor_share", "share", "higher", "That floor / TPOT p50: 100% is the machine's limit"
    ),
    MetricInfo(
        "prefill_floor_s",
        "s",
        "neither",
        "Least time in which this machine can compute a prompt of the median length",
    ),
    MetricInfo(
        "prefill_floor_share",
        "share",
        "higher",
        "That floor / TTFT p50 from the actual send: 100% is the machine's limit",
    ),
)


@dataclass(frozen=True, slots=True)
class _Work:
    """What the engine of a cell has to read and multiply."""

    shape: ModelShape
    weight_bytes: float
    kv_token_bytes: float
    compute: str | None

    @classmethod
    def of(cls, cell: CellResult) -> Self | None:
        shape, numerics = cell.model.shape, cell.status.numerics
        if shape is None or numerics is None or numerics.weights is None:
            return None
        as_in_file = numerics.weights == cell.model.precision
        bits = numerics.weight_bits or type_bits(numerics.weights)
        if not as_in_file and not bits:
            return None
        weight_bytes = shape.token_bytes if as_in_file else shape.token_weights * bits / 8
        kv_bits = type_bits(numerics.kv_cache)
        return cls(shape, weight_bytes, shape.kv_values * kv_bits / 8, numerics.compute)

    def decode_s(self, context: float, ceilings: Ceilings) -> float | None:
        """One token behind `context` others."""
        size = self.weight_bytes + context * self.kv_token_bytes
        return _longer(
            _time(size, ceilings.read_rate(self.weight_bytes)),
            self._multiply_s(2.0 * self.shape.token_weights, ceilings),
        )

    def prefill_s(self, prompt: float, cached: float, ceilings: Ceilings) -> float | None:
        """A prompt of which `cached` tokens need no computing, and its first token."""
        shape, tokens = self.shape, prompt - cached
        body = shape.token_weights - shape.head_weights
        products = 2.0 * (body * tokens + shape.head_weights)
        attention = 2.0 * shape.attention_values * (prompt**2 - cached**2)
        multiply_s = self._multiply_s(products + attention, ceilings)
        if multiply_s is None:
            return None
        return _longer(multiply_s, _time(self.weight_bytes, ceilings.read_rate(self.weight_bytes)))

    def _multiply_s(self, operations: float, ceilings: Ceilings) -> float | None:
        return _time(operations, ceilings.operations_per_s.get(self.compute or ""))


def roofline(
    cell: CellResult, measured: Measured, latencies: Mapping[str, float | None]
) -> Mapping[str, float | None]:
    """All of COLUMNS; `latencies` are the cell's own."""
    figures: dict[str, float | None] = dict.fromkeys(column.name for column in COLUMNS)
    ceilings, work = ceilings_of(cell), _Work.of(cell)
    known = measured.prompt_tokens[~np.isnan(measured.prompt_tokens)]
    if ceilings is None or work is None or len(known) == 0:
        return figures
    prompt = float(np.median(known))
    cached = float(np.median(np.nan_to_num(measured.cached_tokens)))
    decode_s = work.decode_s(prompt, ceilings)
    prefill_s = work.prefill_s(prompt, cached, ceilings)
    return {
        "tpot_floor_s": decode_s,
        "tpot_floor_share": _share(decode_s, latencies.get("tpot_s_p50")),
        "prefill_floor_s": prefill_s,
        "prefill_floor_share": _share(prefill_s, latencies.get("ttft_from_send_s_p50")),
    }


def ceilings_of(cell: CellResult) -> Ceilings | None:
    """The ceilings of the cell's hardware entry, as its Run recorded them."""
    kept = cell.run.machine.get("ceilings") or {}
    found = kept.get(str(cell.cell.spec.hardware))
    return None if found is None else msgspec.convert(found, Ceilings)


def _time(amount: float, rate: float | None) -> float | None:
    return amount / rate if rate else None


def _longer(*times: float | None) -> float | None:
    return max((each for each in times if each is not None), default=None)


def _share(floor_s: float | None, took_s: float | None) -> float | None:
    return floor_s / took_s if floor_s and took_s else None
