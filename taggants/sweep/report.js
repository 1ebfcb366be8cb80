"use strict";
// The page says all it has to say without this: it narrows views, sorts tables, copies commands, opens all for print.

const controls = document.getElementById("controls");
if (controls) {
  const show = () => {
    const chosen = new FormData(controls);
    for (const view of document.querySelectorAll(".view")) {
      view.hidden = ["alpha", "combination"].some((name) => name in view.dataset && view.dataset[name] !== chosen.get(name));
    }
  };
  controls.addEventListener("change", show);
  controls.hidden = false;
  show();
}

for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    heading.ariaSort = "none";
    button.addEventListener("click", () => {
      const order = heading.ariaSort === "ascending" ? "descending" : "ascending";
      headings.forEach((other) => { other.ariaSort = other === heading ? order : "none"; });
      const key = (row) => row.cells[column].dataset.sort;
      const compare = (a, b) => {
        if (key(a) === "" || key(b) === "") return (key(a) === "") - (key(b) === ""); // what is missing comes last
        const both = [Number(key(a)), Number(key(b))];
        const way = both.some(Number.isNaN) ? key(a).localeCompare(key(b), "en", { numeric: true }) : both[0] - both[1];
        return order === "ascending" ? way : -way;
      };
      table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
    });
  });
}

for (const command of document.querySelectorAll("pre.command")) {
  const button = document.createElement("button");
  const status = document.createElement("span");
  button.type = "button";
  button.className = "copy";
  button.textContent = "Copy command";
  button.setAttribute("aria-describedby", command.id);
  status.className = "status";
  status.setAttribute("role", "status");
  command.after(button, status);
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(command.textContent);
      status.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(command);
      status.textContent = "Selected: press Ctrl+C or Command+C";
    }
  });
}

let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  opened.forEach((details) => { details.open = true; });
});
addEventListener("afterprint", () => opened.forEach((details) => { details.open = false; }));

// A link into a closed part opens it.
const openTarget = () => document.getElementById(location.hash.slice(1))?.closest("details")?.setAttribute("open", "");
addEventListener("hashchange", openTarget);
openTarget();
