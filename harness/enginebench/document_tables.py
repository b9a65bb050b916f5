"""Tables in documents that come from Runs: written by a command, never by hand.

    <!-- table notebooks/runs/first_look: output_tokens_per_s, ttft_s_p50 -->
    <!-- end table -->

What stands between the two lines is replaced by a Markdown table: a row for each engine under each
load, a column for each figure (those of `ResultSet.to_pandas()`), repeats averaged. With figures as
`output_tokens_per_s@16` there is one row for each engine, and the figure is that at 16 users (one
without `@` is then the mean of all loads).
Several Runs are written one after another. Paths start at the document's folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Final

from enginebench.errors import UnknownNameError, UsageError
from enginebench.result_table import FIGURES, figure, text_of
from enginebench.store import load

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["refreshed"]

_TABLE: Final = re.compile(
    r"(?P<begin><!-- table (?P<runs>[^:\n]+): (?P<columns>[^\n]+) -->\n)"
    r".*?(?P<end><!-- end table -->)",
    re.DOTALL,
)
_LOAD: Final = "at once"
_TITLES: Final = {column: (title, show) for column, title, show in FIGURES}
_AXES: Final = (("label", "engine"), ("model", "model"), ("hardware", "hardware"))


@dataclass(frozen=True, slots=True)
class _Column:
    """A figure, at a load or at that of the row."""

    figure: str
    users: int | None

    @property
    def title(self) -> str:
        name = _TITLES[self.figure][0] if self.figure in _TITLES else self.figure
        return name if self.users is None else f"{name}, {self.users} {_LOAD}"


def refreshed(text: str, folder: Path) -> str:
    """`text` with all its tables made anew; UsageError for a Run or a figure that is not there."""

    def table(match: re.Match[str]) -> str:
        frame = load([folder / run for run in match["runs"].split()]).to_pandas()
        frame = frame[~frame["is_null"]]  # engines that compute nothing compete with nobody
        columns = [_column(name.strip(), frame) for name in match["columns"].split(",")]
        return match["begin"] + "\n" + "\n".join(_lines(frame, columns)) + "\n\n" + match["end"]

    return _TABLE.sub(table, text)


def _column(text: str, frame: pd.DataFrame) -> _Column:
    name, _, users = text.partition("@")
    if name not in frame:
        raise UnknownNameError("figure", name, list(frame.columns))
    if users and not (users.isdecimal() and int(users) in set(frame["users"])):
        there = sorted(int(each) for each in frame["users"].dropna().unique())
        raise UsageError(f"{text!r}: no cell has {users} users; there are {there}")
    return _Column(name, int(users) if users else None)


def _lines(frame: pd.DataFrame, columns: Sequence[_Column]) -> Iterator[str]:
    frame = frame.assign(
        model=[PurePath(name).name for name in frame["model"]],
        load=[_load(row) for _, row in frame.iterrows()],
    )
    axes = [axis for axis in _AXES if axis[0] == "label" or frame[axis[0]].nunique() > 1]
    order = ["users", "rate_rps"]
    if all(column.users is None for column in columns):
        axes.append(("load", _LOAD))
    else:
        order = []
    keys = [name for name, _ in axes]
    yield "| " + " | ".join([*(t for _, t in axes), *(c.title for c in columns)]) + " |"
    marks = ["---:" if name == "load" else "---" for name in keys] + ["---:"] * len(columns)
    yield "| " + " | ".join(marks) + " |"
    if order:
        frame = frame.sort_values(["model", "hardware", *order, "label"], kind="stable")
    for key, rows in frame.groupby(keys, sort=False):
        cells = [f"`{key[0]}`", *map(str, key[1:]), *(_text(rows, each) for each in columns)]
        yield "| " + " | ".join(cells) + " |"


def _load(row: Any) -> str:
    return f"{row['users']:.0f}" if row["users"] == row["users"] else f"{row['rate_rps']:g}/s"


def _text(rows: pd.DataFrame, column: _Column) -> str:
    if column.users is not None:
        rows = rows[rows["users"] == column.users]
    show = _TITLES[column.figure][1] if column.figure in _TITLES else figure
    return text_of(rows[column.figure].mean(), show)
