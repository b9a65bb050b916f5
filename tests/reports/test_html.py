"""The page as a document: self-contained, whole, escaped. `test_html_browser` has it behave."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from simulated import contest as simulate

from enginebench.results import ResultSet
from enginebench_reports.html import page, render
from enginebench_reports.summary import Summary

VOID = {"meta", "link", "br", "path", "use", "rect", "input"}


class Outline(HTMLParser):
    """Checks that elements nest and ids are unique, and collects text by element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.text: dict[str, str] = {}
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if found.get("id"):
            self.ids.append(str(found["id"]))
        self.links += [str(found[name]) for name in ("src", "href") if found.get(name)]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        for tag in set(self.open):
            self.text[tag] = self.text.get(tag, "") + data


@pytest.fixture(scope="module")
def text(contest: ResultSet) -> str:
    return page(Summary.of(contest))


def test_it_opens_with_the_answer(text: str) -> None:
    outline = Outline(text)
    assert " ".join(outline.text["h1"].split()).startswith("paged gives 4")
    assert outline.text["title"].startswith("paged gives")


def test_it_needs_nothing_from_elsewhere(text: str) -> None:
    outline = Outline(text)
    assert all(link.startswith(("#", "data:")) for link in outline.links)
    assert not re.findall(r"url\((?!#)|@import|https?://(?!www\.w3\.org/)", text)


def test_ids_are_unique_and_links_lead_somewhere(text: str) -> None:
    outline = Outline(text)
    assert len(outline.ids) == len(set(outline.ids))
    targets = {link[1:] for link in outline.links if link.startswith("#")}
    assert targets <= set(outline.ids)


def test_it_tells_all(text: str, contest: ResultSet) -> None:
    run = contest.runs[0]
    for said in (run.command, "Example 9000", "17.2 GB", "numpy", "tpot_s_p50", "needs 662"):
        assert said in text
    assert text.count("<figure") == 8
    assert 'data-tip="paged at 16 concurrent: ' in text
    assert text.count('<tr class="ok') == 6
    assert text.count("<dt>output_tokens_per_s</dt>") == 6  # every metric of every cell


def test_claims_stand_with_their_cells(text: str) -> None:
    section = text[text.index('id="claims"') : text.index('id="cells"')]
    settled, untested = section.split("<details>")
    assert "Both serve an OpenAI-compatible API" in settled
    assert re.search(r'<a href="#cell-\d+">\d+-paged-c4</a>', settled)
    assert "no cells of paged, gpus &gt;=2" in untested
    assert "cannot be tested here</span>" not in settled


def test_a_run_that_settles_no_claim_has_no_such_section(troubled: ResultSet) -> None:
    only = ResultSet([cell for cell in troubled if cell.cell.spec.engine == "reset"])
    assert 'id="claims"' not in page(Summary.of(only))


def test_claims_of_ones_own(contest: ResultSet, tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text(
        """
        [[claim]]
        id = "faster"
        aspect = "own"
        claim = "quant is a thousand times faster"
        [[claim.test]]
        kind = "ratio"
        metric = "output_tokens_per_s"
        of = { engine = "quant" }
        over = { engine = "paged" }
        where = { users = 1 }
        at_least = 1000
        """
    )
    said = page(Summary.of(contest.with_claims(own)))
    assert "quant is a thousand times faster" in said
    assert "does not hold</span>" in said
    assert "Both serve an OpenAI-compatible API" not in said


def test_what_a_run_says_is_escaped(troubled: ResultSet) -> None:
    text = page(Summary.of(troubled))
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text
    outline = Outline(text)
    assert "Traceback" in outline.text["pre"]
    assert "4 of 6 cells" in outline.text["strong"]


def test_nothing_measured_is_said(tmp_path: Path) -> None:
    (path,) = render(ResultSet([]), tmp_path)
    assert "no cells" in Outline(path.read_text()).text["h1"]


def test_several_runs_stand_together(contest: ResultSet, tmp_path: Path) -> None:
    other = simulate(tmp_path / "another")
    text = page(Summary.of(ResultSet([*contest, *other])))
    outline = Outline(text)
    assert "Machine and versions of demo" in outline.text["summary"]
    assert text.count('class="command"') == 2
