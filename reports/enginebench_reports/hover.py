"""What a browser is told about the parts of a figure: whose they are, what they say when touched.

matplotlib writes an artist's gid into the SVG as the id of its group. Here that id carries a series
and a text, which `as_attributes` turns into `data-series` and `data-tip` for the page's script.
Saved PNG and SVG files look the same with it as without.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.artist import Artist

__all__ = ["as_attributes", "belongs", "tells"]

PREFIX = "hover:"
BREAK = "\n"


def belongs(artist: Artist, series: str) -> None:
    """The artist is highlighted and hidden with its series."""
    artist.set_gid(f"{PREFIX}{series}")


def tells(artist: Artist, series: str, text: str) -> None:
    """It also shows `text` when it is pointed at."""
    artist.set_gid(f"{PREFIX}{series}{BREAK}{text}")


def as_attributes(svg: str) -> str:
    """Gids become data attributes; all other ids of groups are removed."""
    return re.sub(r'<g id="([^"]*)"', _attributes, svg)


def _attributes(match: re.Match[str]) -> str:
    if not match[1].startswith(PREFIX):
        return "<g"
    series, *texts = re.split("&#10;|\n", match[1].removeprefix(PREFIX))
    tip = f' data-tip="{" ".join(texts)}"' if texts else ""
    return f'<g data-series="{series}"{tip}'
