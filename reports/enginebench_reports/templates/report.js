"use strict";
// Sorting: a click on a heading orders the rows of its table; figures that are missing come last.
for (const table of document.querySelectorAll("table.results")) {
  const body = table.tBodies[0];
  const buttons = table.querySelectorAll("thead button");
  const value = (row, column) => row.cells[column].dataset.value;
  const compare = (a, b) => (isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b);
  for (const button of buttons) {
    button.addEventListener("click", () => {
      const heading = button.closest("th");
      const rising = heading.getAttribute("aria-sort") !== "ascending";
      for (const other of table.querySelectorAll("[aria-sort]")) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", rising ? "ascending" : "descending");
      const column = Number(button.dataset.column);
      const rows = [...body.rows];
      rows.sort((first, second) => {
        const a = value(first, column);
        const b = value(second, column);
        if (a === "" || b === "") return (a === "") - (b === "");
        return rising ? compare(a, b) : compare(b, a);
      });
      body.classList.add("sorted");
      body.append(...rows);
    });
  }
}
// A link to a cell opens it; paper shows everything.
const reveal = () => {
  const target = location.hash && document.querySelector(location.hash);
  if (target && target.tagName === "DETAILS") target.open = true;
};
addEventListener("hashchange", reveal);
reveal();
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
});
