"""The page in headless Chromium: no errors, sorting, filters, hovering, dark mode, phone, paper.

One browser for all tests, driven over WebDriver; pages are written once and opened at the width and
in the colours that a test asks for.
"""

from __future__ import annotations

import base64
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import simulated
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.wait import WebDriverWait

from enginebench.results import ResultSet
from enginebench_reports.html import page
from enginebench_reports.summary import Summary

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None or DRIVER is None,
        reason="needs Chromium and its driver (Debian packages `chromium`, `chromium-driver`)",
    ),
]

SORT = """
const table = document.querySelector("table.results");
const column = (place) => [...table.tBodies[0].rows].map((row) => row.cells[place].dataset.value);
return [...table.querySelectorAll("thead button")].map((button) => {
  const place = Number(button.dataset.column);
  const heading = button.closest("th");
  const orders = [0, 1].map(() => {
    button.click();
    return [heading.getAttribute("aria-sort"), column(place)];
  });
  const marked = table.querySelectorAll("[aria-sort]").length;
  return { place, title: button.textContent.trim(), orders, marked };
});"""
CLIPPED = """
return [...document.querySelectorAll("figure svg text")].filter((text) => {
  const [own, whole] = [text.getBoundingClientRect(), text.closest("svg").getBoundingClientRect()];
  return own.left < whole.left - 2 || own.right > whole.right + 2 || own.top < whole.top - 2;
}).map((text) => text.textContent);"""
COVERED = """
const cell = document.querySelector("table.results tbody tr").cells[arguments[0]];
cell.scrollIntoView({ block: "center" });
const now = cell.getBoundingClientRect();
const there = document.elementFromPoint(now.right - 4, now.top + now.height / 2);
return !cell.contains(there);"""

Open = Callable[..., WebDriver]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebDriver]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for switch in (
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def whole(
    troubled: ResultSet, contest: ResultSet, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A page of good and bad cells from two machines."""
    elsewhere = simulated.MACHINE | {"cpu": {"model": "Another", "usable_cores": 4}}
    others = [replace(each, run=replace(each.run, machine=elsewhere)) for each in contest]
    results = ResultSet([*contest, *troubled, *others])
    path = tmp_path_factory.mktemp("whole") / "report.html"
    path.write_text(page(Summary.of(results)), encoding="utf-8")
    return path


@pytest.fixture
def opened(browser: WebDriver, whole: Path) -> Iterator[Open]:
    """Opens a page (the whole one by default); at the end, the console must be empty."""

    def open_page(path: Path = whole, *, width: int = 1280, dark: bool = False) -> WebDriver:
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": [scheme]})
        browser.get("about:blank")
        browser.get(path.as_uri())
        return browser

    yield open_page
    assert browser.get_log("browser") == []


def style(view: WebDriver, selector: str, name: str) -> str:
    found: str = view.find_element(By.CSS_SELECTOR, selector).value_of_css_property(name)
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


def test_a_click_on_a_heading_sorts(opened: Open) -> None:
    columns = sorted(opened().execute_script(SORT), key=lambda each: each["place"])
    assert [each["place"] for each in columns] == list(range(len(columns)))
    assert [each["title"] for each in columns[:3]] == ["engine", "at once", "tokens/s"]
    assert any("" in each["orders"][0][1] for each in columns)
    for column in columns:
        (first, rising), (second, falling) = column["orders"]
        assert (first, second) == ("ascending", "descending")
        assert in_order(rising, rising=True), column
        assert in_order(falling, rising=False), column
        assert column["marked"] == 1


def test_filters_hold_for_the_table_and_the_plots(
    opened: Open, contest: ResultSet, troubled: ResultSet
) -> None:
    view = opened()

    def shown(name: str) -> list[str]:
        rows = view.find_elements(By.CSS_SELECTOR, f"table.results tbody tr[data-{name}]")
        return [str(row.get_attribute(f"data-{name}")) for row in rows if row.is_displayed()]

    everything = len(contest) * 2 + len(troubled)
    assert len(shown("engine")) == everything
    chip = view.find_element(By.CSS_SELECTOR, '.chip[data-engine="quant"]')
    chip.click()
    assert shown("engine") and "quant" not in shown("engine")
    assert style(view, 'figure [data-series="quant"]', "display") == "none"
    chip.click()
    chosen = view.find_element(By.CSS_SELECTOR, 'select[data-facet="machine"]')
    chosen.find_elements(By.TAG_NAME, "option")[2].click()
    assert set(shown("machine")) == {"Another, 4 cores"}
    assert len(view.find_elements(By.CSS_SELECTOR, "section.group:not([hidden])")) == 1
    chosen.find_elements(By.TAG_NAME, "option")[0].click()
    assert len(shown("engine")) == everything


def test_all_metrics_are_a_tick_away(opened: Open) -> None:
    view = opened()
    extra = view.find_element(By.CSS_SELECTOR, ".results thead .more")
    assert not extra.is_displayed()
    view.find_element(By.ID, "more").click()
    assert extra.is_displayed()


@pytest.mark.parametrize("width", [1280, 360])
def test_pointing_at_a_plot_says_what_is_there(opened: Open, width: int) -> None:
    view = opened(width=width)
    part = view.find_element(By.CSS_SELECTOR, 'figure [data-tip^="quant"]')
    view.execute_script("arguments[0].scrollIntoView({block: 'center'})", part)
    tip = view.find_element(By.ID, "tip")
    ActionChains(view).move_to_element(part).perform()
    assert tip.is_displayed() and tip.text == part.get_attribute("data-tip")
    assert tip.text.startswith("quant at 1 concurrent: ")
    assert tip.rect["x"] + tip.rect["width"] <= width
    lit = view.find_elements(By.CSS_SELECTOR, "svg.lit .on")
    assert {each.get_attribute("data-series") for each in lit} == {"quant"}
    ActionChains(view).move_to_element(view.find_element(By.TAG_NAME, "h2")).perform()
    assert not tip.is_displayed()


@pytest.mark.parametrize("width", [1280, 360])
def test_it_fits_the_screen(opened: Open, width: int) -> None:
    view = opened(width=width)
    assert view.execute_script("return document.documentElement.scrollWidth") <= width
    svg = view.find_element(By.CSS_SELECTOR, "figure svg")
    assert 0 < svg.rect["width"] <= width
    assert view.execute_script(CLIPPED) == []


def test_on_a_phone_no_column_covers_the_figures(opened: Open) -> None:
    """Two machines: what tells them apart is a column, too, and not one that sticks."""
    view = opened(width=375)
    assert not view.execute_script(COVERED, 2)
    assert opened(width=1280).execute_script(COVERED, 2) is False


def test_a_link_to_a_cell_opens_it(opened: Open) -> None:
    view = opened()
    closed = view.find_element(By.CSS_SELECTOR, "details.cell:not([open])")
    view.find_element(By.CSS_SELECTOR, f'a[href="#{closed.get_attribute("id")}"]').click()
    # the page hears of its new address a moment after the click
    WebDriverWait(view, 10).until(lambda _: closed.get_property("open"))


def test_dark_is_dark_in_the_plots_too(opened: Open) -> None:
    view = opened()
    assert style(view, "body", "background-color") == "rgba(254, 254, 254, 1)"
    view = opened(dark=True)
    assert style(view, "body", "background-color") == "rgba(20, 23, 29, 1)"
    assert style(view, "body", "color") == "rgba(232, 235, 242, 1)"
    assert style(view, "figure svg text", "fill") == "rgb(163, 172, 189)"


def test_paper_has_everything_but_the_controls(opened: Open) -> None:
    view = opened()
    view.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    view.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert not view.find_element(By.CSS_SELECTOR, "div.filters").is_displayed()
    assert all(
        each.get_attribute("open") is not None
        for each in view.find_elements(By.CSS_SELECTOR, "details")
    )
    printed = base64.b64decode(view.execute_cdp_cmd("Page.printToPDF", {})["data"])
    assert printed.startswith(b"%PDF") and printed.count(b"/Type /Page\n") > 2


def test_long_names_are_not_cut_off(opened: Open, tmp_path: Path) -> None:
    name = "an-engine-of-a-plugin-with-a-long-name"
    options = [{"attention_backend": "experimental"}, {"attention_backend": "torch", "width": 32}]
    cells = []
    for chosen in options:
        for users in (1, 4):
            cell = simulated.cell(len(cells), name, users, options=chosen)
            cells.append((cell, simulated.serve(simulated.Speed(50, 10), users, requests=12)))
    path = tmp_path / "long.html"
    path.write_text(page(Summary.of(simulated.save(tmp_path / "run", cells))), encoding="utf-8")
    for width in (1280, 360):
        view = opened(path, width=width)
        assert view.execute_script("return document.documentElement.scrollWidth") <= width
        assert view.execute_script(CLIPPED) == []
    plot = view.find_element(By.CSS_SELECTOR, "figure svg").rect
    assert plot["height"] < 1.5 * plot["width"]
