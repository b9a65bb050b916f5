"""The page in headless Chromium: no errors, sorting, dark mode, phone width.

The page is opened in frames of a test bench page, whose script clicks, looks, and leaves what it
saw in the DOM, which Chromium prints.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from simulated import MACHINE

from enginebench.results import ResultSet
from enginebench_reports.html import page
from enginebench_reports.summary import Summary

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian package `chromium`)"),
]

WATCH = """<script>
window.seen = [];
addEventListener("error", (event) => seen.push(event.message));
for (const name of ["error", "warn"]) console[name] = (...words) => seen.push(words.join(" "));
</script>"""
BENCH = """<!doctype html><body><pre id="found"></pre><script>
const page = %s;
const open = (width) => new Promise((done) => {
  const frame = document.createElement("iframe");
  Object.assign(frame.style, { width: width + "px", height: "900px", border: 0 });
  frame.onload = () => done(frame.contentWindow);
  frame.srcdoc = page;
  document.body.append(frame);
});
const sort = (view) => {
  const table = view.document.querySelector("table.results");
  const column = (place) => [...table.tBodies[0].rows].map((row) => row.cells[place].dataset.value);
  const found = {};
  for (const button of table.querySelectorAll("thead button")) {
    const place = Number(button.dataset.column);
    const heading = button.closest("th");
    const orders = [0, 1].map(() => {
      button.click();
      return [heading.getAttribute("aria-sort"), column(place)];
    });
    const all = table.querySelectorAll("[aria-sort]").length;
    found[place] = { title: button.textContent.trim(), orders, all };
  }
  return found;
};
const look = (view) => {
  const style = view.getComputedStyle(view.document.body);
  const text = view.document.querySelector("figure svg text");
  return {
    paper: style.backgroundColor,
    ink: style.color,
    plot: view.getComputedStyle(text).fill,
    page_width: view.document.documentElement.scrollWidth,
    window_width: view.innerWidth,
    svg_width: view.document.querySelector("figure svg").getBoundingClientRect().width,
    errors: view.seen,
  };
};
const filter = (view) => {
  const rows = [...view.document.querySelectorAll("table.results tbody tr")];
  const shown = () => rows.filter((row) => !row.hidden).map((row) => row.dataset.engine);
  const chip = view.document.querySelector('.chip[data-engine="quant"]');
  const drawn = view.document.querySelector('figure [data-series="quant"]');
  const found = { all: shown().length };
  chip.click();
  found.without = shown();
  found.line = view.getComputedStyle(drawn).display;
  chip.click();
  const list = view.document.querySelector('select[data-facet="machine"]');
  list.selectedIndex = 2;
  list.dispatchEvent(new view.Event("change"));
  const left = rows.filter((row) => !row.hidden).map((row) => row.dataset.machine);
  found.machines = [...new Set(left)];
  found.sections = view.document.querySelectorAll("section.group:not([hidden])").length;
  list.selectedIndex = 0;
  list.dispatchEvent(new view.Event("change"));
  found.again = shown().length;
  return found;
};
const more = (view) => {
  const headings = [...view.document.querySelectorAll(".results thead .more")];
  const count = () => headings.filter((heading) => heading.offsetWidth).length;
  const before = count();
  view.document.getElementById("more").click();
  const found = [before, count()];
  view.document.getElementById("more").click();
  return found;
};
const hover = (view) => {
  const part = view.document.querySelector('figure [data-tip^="quant"]');
  const svg = part.closest("svg");
  const box = part.getBoundingClientRect();
  const at = { bubbles: true, clientX: box.x + box.width / 2, clientY: box.y + box.height / 2 };
  const tip = view.document.getElementById("tip");
  part.dispatchEvent(new view.PointerEvent("pointermove", at));
  const found = { said: tip.textContent, due: part.dataset.tip, hidden: tip.hidden };
  found.lit = [...svg.querySelectorAll(".on")].every((one) => one.dataset.series === "quant");
  found.tip = tip.getBoundingClientRect().right;
  svg.dispatchEvent(new view.PointerEvent("pointerleave"));
  found.after = [tip.hidden, svg.classList.contains("lit")];
  return found;
};
const follow = (view) => {
  const cell = view.document.querySelector("details.cell:not([open])");
  view.location.hash = cell.id;
  return new Promise((done) => setTimeout(() => done(cell.open), 200));
};
(async () => {
  const wide = await open(1280);
  const phone = await open(360);
  const found = { sorted: sort(wide), wide: look(wide), phone: look(phone) };
  if (wide.document.querySelector("select")) found.filtered = filter(wide);
  Object.assign(found, { more: more(wide), hovered: [hover(wide), hover(phone)] });
  for (const view of [wide, phone]) found.errors = [...(found.errors || []), ...view.seen];
  found.opened = await follow(wide);
  document.getElementById("found").textContent = JSON.stringify(found);
})();
</script>"""


def opened(results: ResultSet, folder: Path, *switches: str) -> dict[str, Any]:
    """What the test bench's script saw."""
    assert CHROMIUM is not None
    text = page(Summary.of(results)).replace("<head>", f"<head>{WATCH}", 1)
    bench = folder / "bench.html"
    bench.write_text(BENCH % json.dumps(text).replace("</", "<\\/"), encoding="utf-8")
    command = [
        *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
        *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
        *("--disable-sync", f"--user-data-dir={folder / 'profile'}", "--window-size=1400,1000"),
        *("--virtual-time-budget=5000", "--dump-dom", *switches, bench.as_uri()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    match = re.search(r'<pre id="found">(.+?)</pre>', done.stdout, re.DOTALL)
    assert match, done.stdout[-2000:] + done.stderr[-2000:]
    found: dict[str, Any] = json.loads(unescape(match[1]))
    return found


def in_order(values: list[str], *, rising: bool) -> bool:
    """Numbers by size, other text by letter, missing figures last either way."""
    known = [value for value in values if value]
    if values != known + [""] * (len(values) - len(known)):
        return False
    try:
        keys: list[Any] = [float(value) for value in known]
    except ValueError:
        keys = list(known)
    return keys == sorted(keys, reverse=not rising)


@pytest.mark.slow
def test_the_page_works(troubled: ResultSet, contest: ResultSet, tmp_path: Path) -> None:
    elsewhere = MACHINE | {"cpu": {"model": "Another", "usable_cores": 4}}
    others = [replace(each, run=replace(each.run, machine=elsewhere)) for each in contest]
    found = opened(ResultSet([*contest, *troubled, *others]), tmp_path)
    assert found["errors"] == []
    for look in (found["wide"], found["phone"]):
        assert look["errors"] == []
        assert look["page_width"] <= look["window_width"]
        assert 0 < look["svg_width"] <= look["window_width"]
    assert found["opened"] is True
    assert found["wide"]["paper"] == "rgb(254, 254, 254)"
    sorted_by = found["sorted"]
    assert [*sorted_by] == [str(place) for place in range(len(sorted_by))]
    assert [sorted_by[place]["title"] for place in ("0", "1", "2")] == [
        "engine",
        "at once",
        "tokens/s",
    ]
    assert any("" in each["orders"][0][1] for each in sorted_by.values())
    for column in sorted_by.values():
        (first, rising), (second, falling) = column["orders"]
        assert (first, second) == ("ascending", "descending")
        assert in_order(rising, rising=True), column
        assert in_order(falling, rising=False), column
        assert column["all"] == 1

    filtered = found["filtered"]
    assert filtered["all"] == filtered["again"] == len(contest) * 2 + len(troubled)
    assert filtered["without"] and "quant" not in filtered["without"]
    assert filtered["line"] == "none"
    assert filtered["machines"] == ["Another, 4 cores"]
    assert filtered["sections"] == 1
    hidden, shown = found["more"]
    assert hidden == 0 < shown
    for hovered in found["hovered"]:
        assert hovered["said"] == hovered["due"]
        assert hovered["said"].startswith("quant at 1 concurrent: ")
        assert hovered["lit"] and not hovered["hidden"]
        assert hovered["after"] == [True, False]
    assert found["hovered"][1]["tip"] <= 360


@pytest.mark.slow
def test_dark_is_dark_in_the_plots_too(contest: ResultSet, tmp_path: Path) -> None:
    look = opened(contest, tmp_path, "--blink-settings=preferredColorScheme=0")["wide"]
    assert look["paper"] == "rgb(20, 23, 29)"
    assert look["ink"] == "rgb(232, 235, 242)"
    assert look["plot"] == "rgb(163, 172, 189)"
