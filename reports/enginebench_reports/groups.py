"""Which cells may be compared: like with like.

A Group holds the cells of one model, hardware, workload (with its options) and kind of load, from
one kind of machine; inside it, engines differ and the load grows. Closed and open loop never
share a group. Figures of several repeats of one cell are summed up by their median and range.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Literal

from enginebench.results import CellResult

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Group",
    "Point",
    "curve",
    "groups",
    "load_of",
    "model_name",
    "most_shared_load",
    "without_null",
]


@dataclass(frozen=True, slots=True)
class Point:
    """One load level of one engine: the median over `repeats`, and their range."""

    load: float
    median: float
    low: float
    high: float
    repeats: int


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Comparable cells. `frame` has one row per cell, as `ResultSet.to_pandas` gives them.

    `machine` is empty where all groups of a report come from one kind of machine.
    """

    model: str
    machine: str
    hardware: str
    workload: str
    options: str
    loop: Literal["closed", "open"]
    frame: pd.DataFrame

    @property
    def load_column(self) -> str:
        return "users" if self.loop == "closed" else "rate_rps"

    @property
    def load_title(self) -> str:
        return "concurrent requests" if self.loop == "closed" else "requests per second offered"

    @property
    def title(self) -> str:
        loop = "" if self.loop == "closed" else ", open loop"
        where = self.hardware or "a remote server"
        machine = f" of {self.machine}" if self.machine else ""
        return f"{model_name(self.model)} on {where}{machine}, {self.workload}{loop}"

    @property
    def loads(self) -> Sequence[float]:
        return sorted(float(load) for load in self.frame[self.load_column].unique())

    @property
    def labels(self) -> Sequence[str]:
        """Engines (with their options) in order of name."""
        return sorted(self.frame["label"].unique())

    def load_text(self, load: float) -> str:
        return f"{load:g} concurrent" if self.loop == "closed" else f"{load:g} requests/s"


def model_name(model: str) -> str:
    """A model as titles call it: of a local path, the last part."""
    is_path = model.endswith(".gguf") or model.startswith(("/", "./", "../", "~"))
    return PurePath(model).name if is_path else model


def load_of(result: CellResult) -> float:
    """Users of a closed loop, requests per second of an open one."""
    load = result.cell.load
    return float(load.users if load.users is not None else load.rate_rps or 0.0)


def most_shared_load(results: Iterable[CellResult], at_most: float = math.inf) -> float | None:
    """The load at which most engines were measured, of several such the highest.

    Loads above `at_most` only count where there are no others; None without any cell.
    """
    labels: dict[float, set[str]] = {}
    for result in results:
        labels.setdefault(load_of(result), set()).add(result.cell.spec.label)
    allowed = [load for load in labels if load <= at_most] or sorted(labels)[:1]
    return max(allowed, key=lambda load: (len(labels[load]), load), default=None)


def without_null(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of engines that compute, or all rows where there are no such."""
    real = frame[~frame["is_null"].astype(bool)] if len(frame) else frame
    return real if len(real) else frame


def groups(frame: pd.DataFrame) -> Sequence[Group]:
    """The groups of a frame, in order of first appearance; none for an empty frame."""
    if frame.empty:
        return []
    options = sorted(name for name in frame.columns if name.startswith("workload."))
    loops = frame["users"].notna().map({True: "closed", False: "open"})
    keys = ["model", "machine", "hardware", "workload", *options]
    parts = frame.groupby([*keys, loops], sort=False, dropna=False, observed=True)
    one_machine = frame["machine"].nunique() == 1
    return [_group(key, options, part, one_machine) for key, part in parts]


def _group(key: Hashable, options: Sequence[str], part: pd.DataFrame, one_machine: bool) -> Group:
    assert isinstance(key, tuple)
    model, machine, hardware, workload, *values, loop = key
    named = zip(options, values, strict=True)
    text = " ".join(
        f"{name.removeprefix('workload.')}={value}" for name, value in named if value == value
    )
    return Group(model, "" if one_machine else machine, hardware, workload, text, loop, part)


def curve(group: Group, label: str, metric: str) -> Sequence[Point]:
    """One engine's figures by load; loads without any figure are left out."""
    return list(_points(group, label, metric))


def _points(group: Group, label: str, metric: str) -> Iterator[Point]:
    import numpy as np

    if metric not in group.frame:
        return
    rows = group.frame[group.frame["label"] == label]
    for load, part in rows.groupby(group.load_column, sort=True):
        values = part[metric].to_numpy(float)
        values = values[np.isfinite(values)]
        if len(values):
            low, high = float(values.min()), float(values.max())
            yield Point(float(load), float(np.median(values)), low, high, len(values))  # type: ignore[arg-type]
