// A table is sorted by the heading that is pressed; empty cells stay last, equal ones as they are.
for (const table of document.querySelectorAll("table")) {
  const headings = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  const valueOf = (row, column) => row.cells[column].dataset.value ?? "";
  const compare = (one, other) => {
    const numbers = [Number(one), Number(other)];
    return numbers.some(Number.isNaN) ? one.localeCompare(other) : numbers[0] - numbers[1];
  };
  headings.forEach((heading, column) => {
    heading.firstElementChild.addEventListener("click", () => {
      const turn = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      headings.forEach((other) => other.setAttribute("aria-sort", "none"));
      heading.setAttribute("aria-sort", turn === 1 ? "ascending" : "descending");
      const rows = [...body.rows].sort((one, other) => {
        const [first, second] = [valueOf(one, column), valueOf(other, column)];
        if (first === "" || second === "") return (first === "") - (second === "");
        return turn * compare(first, second);
      });
      body.append(...rows);
    });
  });
}
