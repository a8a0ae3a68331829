// Clicks on a column's title sort the table by it, by data-value where a cell has one.
"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const value = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent;
  const order = (a, b) => a.localeCompare(b, "en", { numeric: true });
  const number = (text) => (text === "" ? NaN : Number(text));
  table.tHead.rows[0].querySelectorAll("th").forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
      const rows = [...body.rows].map((row) => [value(row, column), row]);
      const isNumeric = rows.every(([text]) => text === "" || !isNaN(number(text)));
      rows.sort(([a], [b]) => {
        if (a === "" || b === "") return (a === "") - (b === ""); // what has no value comes last
        return sign * (isNumeric ? number(a) - number(b) || 0 : order(a, b));
      });
      body.append(...rows.map(([, row]) => row));
    });
  });
}
