// A table wider than its column scrolls; the keyboard must reach it.
document.addEventListener("DOMContentLoaded", () => {
  for (const table of document.querySelectorAll(".bd-article table, .wide")) {
    if (table.scrollWidth > table.clientWidth) table.tabIndex = 0;
  }
});

// Sort the scoreboard by a click on a column's head; filter it, and the picture of claims beside it, by the three menus.
document.addEventListener("DOMContentLoaded", () => {
  const table = document.getElementById("all-papers");
  if (!table) return;
  const body = table.tBodies[0];
  const value = (row, column) => row.cells[column].dataset.sort ?? row.cells[column].textContent.trim().toLowerCase();

  for (const head of table.tHead.rows[0].cells) {
    head.querySelector("button").addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const column = head.cellIndex;
      const numeric = head.classList.contains("n");
      const order = (a, b) => numeric ? value(a, column) - value(b, column) : value(a, column).localeCompare(value(b, column));
      body.append(...[...body.rows].sort((a, b) => (up ? 1 : -1) * order(a, b)));
    });
  }

  const menus = [...document.querySelectorAll(".filters select")];
  const apply = () => {
    const shown = (data) => menus.every((menu) => !menu.value || data[menu.name].split(" ").includes(menu.value));
    let count = 0;
    for (const row of body.rows) {
      row.hidden = !shown(row.dataset);
      count += row.hidden ? 0 : 1;
    }
    for (const paper of document.querySelectorAll(".claims .paper")) paper.hidden = !shown(paper.dataset);
    document.getElementById("shown").textContent = `${count} of ${body.rows.length} papers`;
  };
  for (const menu of menus) menu.addEventListener("change", apply);
  apply();
});
