"""docs/models.md says what the code does: the table of types and the names of the mixes."""

from __future__ import annotations

import re
from pathlib import Path

import enginebench_models
from enginebench_models.dequantizers import DEQUANTIZABLE
from enginebench_models.ggml_types import GGMLType
from enginebench_models.mixes import MIX_NAMES
from enginebench_models.quantizers import QUANTIZABLE
from enginebench_quant.plugin import COMPUTED_TYPES

PAGE = Path(enginebench_models.__file__).parents[2] / "docs/models.md"


def row(type: GGMLType) -> str:
    written = "yes" if type in QUANTIZABLE else ""
    computed = "yes" if type.name in COMPUTED_TYPES else ""
    bits = f"{type.bits_per_weight:.4g}"
    cells = (type.name, str(type.block_size), bits, written, computed)
    return "| " + " | ".join(cells) + " |"


def test_the_table_of_types():
    rows = re.findall(r"^\| [A-Z0-9_]+ \| \d.*\|$", PAGE.read_text("utf-8"), re.MULTILINE)
    assert rows == [row(type) for type in sorted(DEQUANTIZABLE, key=lambda t: -t.bits_per_weight)]


def test_the_names_of_the_mixes():
    assert ", ".join(f"`{name}`" for name in MIX_NAMES) in PAGE.read_text("utf-8")
