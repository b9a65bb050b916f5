"use strict";
// Without this script the page is whole: plots are drawn, the table stands. It adds sorting,
// filters and what a point says when it is touched. Nothing is fetched.
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
for (const hidden of all(".filters")) hidden.hidden = false;

// Sorting: a click on a heading orders the rows; figures that are missing come last.
const sortBy = (table, heading, column) => {
  const rising = heading.getAttribute("aria-sort") !== "ascending";
  for (const other of all("[aria-sort]", table)) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", rising ? "ascending" : "descending");
  const value = (row) => row.cells[column].dataset.value;
  const compare = (a, b) => (isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b);
  const body = table.tBodies[0];
  const rows = [...body.rows].sort((first, second) => {
    const [a, b] = [value(first), value(second)];
    if (a === "" || b === "") return (a === "") - (b === "");
    return rising ? compare(a, b) : compare(b, a);
  });
  body.classList.add("sorted");
  body.append(...rows);
};
for (const button of all("table.results thead button")) {
  button.addEventListener("click", () =>
    sortBy(button.closest("table"), button.closest("th"), Number(button.dataset.column)),
  );
}

// Filters: engines by chips, everything else by lists; they hold for the table and the plots.
const chips = all(".chip");
const lists = all("select[data-facet]");
const applyFilters = () => {
  const off = new Set(chips.filter((chip) => chip.getAttribute("aria-pressed") === "false").map((chip) => chip.dataset.engine));
  const differs = (own, value) => value && own !== undefined && own !== value;
  const fits = ({ dataset }) => !lists.some((list) => differs(dataset[list.dataset.facet], list.value));
  for (const row of all("table.results tbody tr")) row.hidden = off.has(row.dataset.engine) || !fits(row);
  for (const section of all("section.group")) section.hidden = !fits(section);
  for (const part of all("figure [data-series]")) part.classList.toggle("off", off.has(seriesOf(part)));
};
// Where a figure mixes groups, a series is called "engine, group".
const seriesOf = (part) => {
  const name = part.dataset.series;
  return chips.some((chip) => chip.dataset.engine === name) ? name : name.split(", ")[0];
};
for (const chip of chips) {
  chip.addEventListener("click", () => {
    chip.setAttribute("aria-pressed", String(chip.getAttribute("aria-pressed") === "false"));
    applyFilters();
  });
}
for (const list of lists) list.addEventListener("change", applyFilters);
const more = document.getElementById("more");
if (more) {
  more.addEventListener("change", () => {
    for (const table of all("table.results")) table.classList.toggle("all", more.checked);
  });
}

// Hovering: the nearest part of a plot that has something to say says it; its series stands out.
const tip = document.getElementById("tip");
const NEAR = 28; // CSS pixels
const distance = (box, x, y) =>
  Math.hypot(Math.max(box.left - x, 0, x - box.right), Math.max(box.top - y, 0, y - box.bottom));
const nearest = (svg, x, y) => {
  let found = null;
  let least = NEAR;
  for (const part of all("[data-tip]:not(.off)", svg)) {
    const away = distance(part.getBoundingClientRect(), x, y);
    if (away < least) [found, least] = [part, away];
  }
  return found;
};
const highlight = (svg, series) => {
  svg.classList.toggle("lit", Boolean(series));
  for (const part of all("[data-series]", svg)) part.classList.toggle("on", part.dataset.series === series);
};
const place = (x, y) => {
  const { width, height } = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - width - 8))}px`;
  tip.style.top = `${y - height - 12 < 4 ? y + 18 : y - height - 12}px`;
};
for (const svg of all("figure svg")) {
  svg.addEventListener("pointermove", (event) => {
    const part = nearest(svg, event.clientX, event.clientY);
    highlight(svg, part && part.dataset.series);
    tip.hidden = !part;
    if (!part) return;
    tip.textContent = part.dataset.tip;
    place(event.clientX, event.clientY);
  });
  svg.addEventListener("pointerleave", () => {
    tip.hidden = true;
    highlight(svg, "");
  });
}

// A link to a cell opens it; paper shows everything.
const reveal = () => {
  const target = location.hash && document.querySelector(location.hash);
  if (target && target.tagName === "DETAILS") target.open = true;
};
addEventListener("hashchange", reveal);
reveal();
addEventListener("beforeprint", () => {
  for (const details of all("details")) details.open = true;
});
