"""enginebench: puts LLM inference engines on the same bench.

`load` opens Run folders; `hookimpl` marks a plugin's hooks; the nouns stand in `enginebench.types`.
"""

from __future__ import annotations

from importlib.metadata import version

from enginebench.hookspecs import hookimpl
from enginebench.results import CellResult, ResultSet
from enginebench.store import load

__all__ = ["CellResult", "ResultSet", "__version__", "hookimpl", "load"]

__version__ = version("enginebench")
