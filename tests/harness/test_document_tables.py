"""Tables in documents: made from Runs, and only between their marks."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from enginebench.cli import main
from enginebench.document_tables import refreshed
from enginebench.errors import StoreError, UnknownNameError, UsageError

TOP = Path(__file__).parents[2]
RUN = "notebooks/runs/first_look"


def document(columns: str, old: str = "") -> str:
    return f"before\n<!-- table {RUN}: {columns} -->\n{old}<!-- end table -->\nafter\n"


def test_a_row_for_each_engine_under_each_load() -> None:
    text = refreshed(document("output_tokens_per_s, requests_failed", "| old |\n"), TOP)
    lines = text.splitlines()
    assert (lines[0], lines[-1]) == ("before", "after")
    assert lines[3] == "| engine | at once | output tok/s | errors |"
    assert lines[4] == "| --- | ---: | ---: | ---: |"
    assert [line.split("|")[1:3] for line in lines[5:-3]] == [
        [f" `{engine}` ", f" {users} "] for users in (1, 4, 16) for engine in ("paged", "quant")
    ]
    assert "| `paged` | 1 | 34.2 | 0 |" in lines
    assert refreshed(text, TOP) == text


def test_figures_at_a_load_make_a_row_for_each_engine() -> None:
    text = refreshed(document("output_tokens_per_s@1, tpot_s_p50@16"), TOP)
    assert "| engine | output tok/s, 1 at once | TPOT p50 ms, 16 at once |" in text
    assert "| `paged` | 34.2 | 75.4 |" in text
    assert text.count("`paged`") == text.count("`quant`") == 1


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        ("output_token_per_s", UnknownNameError, "output_tokens_per_s"),
        ("tpot_s_p50@3", UsageError, r"no cell has 3 users; there are \[1, 4, 16\]"),
    ],
)
def test_what_is_not_there_is_told(columns: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        refreshed(document(columns), TOP)
    with pytest.raises(StoreError):
        refreshed(document(columns).replace(RUN, "nowhere"), TOP)


def test_the_command_writes_or_only_says(tmp_path: Path) -> None:
    file = tmp_path / "a.md"
    file.write_text(document("requests_failed").replace(RUN, str(TOP / RUN)))
    before = file.read_text()
    invoke = CliRunner().invoke
    assert invoke(main, ["tables", "--check", str(file)]).exit_code == 1
    assert file.read_text() == before
    assert invoke(main, ["tables", str(file)]).output == f"{file}: refreshed\n"
    assert invoke(main, ["tables", "--check", str(file)]).exit_code == 0
    missing = invoke(main, ["tables", str(tmp_path / "no.md")])
    assert missing.exit_code == 2 and "cannot read" in missing.output


@pytest.mark.parametrize("name", ["README.md", "docs/performance.md"])
def test_our_own_documents_are_up_to_date(name: str) -> None:
    text = (TOP / name).read_text(encoding="utf-8")
    assert "<!-- table " in text
    assert refreshed(text, (TOP / name).parent) == text
