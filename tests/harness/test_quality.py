"""Quality figures in a Run folder: kept, replaced, read back, said."""

from dataclasses import replace
from pathlib import Path

import pytest

from enginebench.errors import DamagedError
from enginebench.quality import Distance, Quality, read_quality, write_quality

FOUND = Quality("small-q4_0", "text.md", "quant on cpu, as prompts", 512, 1000, 22.0, 0.5)
DISTANCE = Distance("small", 20.0, 0.0123, 0.001, 0.951)


def test_what_is_kept_is_read(tmp_path: Path) -> None:
    assert read_quality(tmp_path) == []
    beside = replace(FOUND, model="small-q8_0", distance=DISTANCE)
    write_quality(tmp_path, beside)
    write_quality(tmp_path, FOUND)
    assert read_quality(tmp_path) == [FOUND, beside]


def test_measured_again_it_takes_the_place(tmp_path: Path) -> None:
    write_quality(tmp_path, FOUND)
    again = replace(FOUND, perplexity=21.0)
    write_quality(tmp_path, again)
    assert read_quality(tmp_path) == [again]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = write_quality(tmp_path, FOUND)
    path.write_text("{}")
    with pytest.raises(DamagedError, match=f"{path.name}: .*; delete it, or measure again"):
        read_quality(tmp_path)


def test_the_sentence_tells_all_of_it() -> None:
    assert FOUND.sentence == (
        "`small-q4_0` predicts text.md with perplexity 22 ± 0.5 (1,000 tokens in windows of 512, "
        "quant on cpu, as prompts)."
    )
    compared = replace(FOUND, distance=DISTANCE).sentence
    assert ", 10.00% above that of `small`; KL divergence 0.0123 ± 0.001 nats a token" in compared
    assert compared.endswith("the same most likely token in 95.1%.")
