(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  document.documentElement.classList.add("js");

  // Sorting: every heading of a sortable table is a button; the first click sorts in ascending order. A column is
  // numeric if each of its cells begins with a number; cells without a value come last in either order.
  // What a cell says first: its text up to the first element, but for the places where a long name may be broken.
  const words = (cell) => {
    let said = "";
    for (const node of cell.childNodes) {
      if (node.nodeType !== Node.TEXT_NODE && node.nodeName !== "WBR") return said.trim() || node.textContent.trim();
      said += node.textContent;
    }
    return said.trim();
  };
  const text = (cell) => (cell ? cell.dataset.v ?? words(cell) : "");
  const missing = (s) => s === "" || s === "–" || s.startsWith("n/a");
  const number = (s) => parseFloat(s.replace(/(\d),(?=\d{3})/g, "$1").replace(/^−/, "-"));
  for (const table of all("table.sortable")) {
    const body = table.tBodies[0], first = [...body.rows];
    all("thead th", table).forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const now = head.getAttribute("aria-sort"), next = { ascending: "descending", descending: null }[now] ?? (now ? null : "ascending");
        all("th", table.tHead).forEach((h) => h.removeAttribute("aria-sort"));
        if (!next) return body.append(...first);
        head.setAttribute("aria-sort", next);
        const sign = next === "ascending" ? 1 : -1;
        const known = first.map((row) => text(row.cells[column])).filter((s) => !missing(s));
        const numbers = known.every((s) => !isNaN(number(s)));
        const order = (a, b) => {
          const [s, t] = [a, b].map((row) => text(row.cells[column]));
          if (missing(s) || missing(t)) return missing(s) - missing(t);
          return sign * (numbers ? number(s) - number(t) : s.localeCompare(t, "en", { numeric: true }));
        };
        body.append(...[...body.rows].sort(order));
      });
    });
  }

  // Filtering: all words must occur in a row.
  for (const field of all("input.filter")) {
    const root = field.closest("section"), rows = all("tr[data-line], tr[data-of]", root), box = field.closest(".find");
    const lines = all("table.board tr[data-line]", root).map((row) => row.dataset.line); // in the order of the page
    const says = (row) => (row.dataset.line ?? lines[row.dataset.of]).toLowerCase();
    box.hidden = false;
    field.addEventListener("input", () => {
      const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
      for (const row of rows) row.hidden = !words.every((word) => says(row).includes(word));
      const board = rows.filter((row) => row.closest("table.board"));
      box.querySelector("output").textContent = words.length ? `${board.filter((row) => !row.hidden).length} of ${board.length}` : "";
    });
  }

  // An image that is shown in several places is in the file once.
  for (const image of all("img[data-as]")) image.src = document.getElementById(image.dataset.as).src;

  // Images: a click unveils a veiled image, and enlarges any other.
  const dialog = document.createElement("dialog"), large = document.createElement("img");
  dialog.append(large);
  document.body.append(dialog);
  dialog.addEventListener("click", () => dialog.close());
  for (const image of all(".seen img")) {
    const say = () => image.setAttribute("aria-label", `${image.alt}: ${image.classList.contains("veiled") ? "blurred; show" : "enlarge"}`);
    image.tabIndex = 0;
    image.setAttribute("role", "button");
    say();
    const act = () => {
      if (image.classList.contains("veiled")) return image.classList.remove("veiled"), say();
      large.src = image.src;
      large.alt = image.alt;
      dialog.showModal();
    };
    image.addEventListener("click", act);
    image.addEventListener("keydown", (e) => (e.key === "Enter" || e.key === " ") && (e.preventDefault(), act()));
  }

  // A link into a folded part opens it; for printing all parts are open but the long ones, which list every run.
  const reveal = () => {
    const target = location.hash ? document.getElementById(decodeURIComponent(location.hash.slice(1))) : null;
    for (let e = target; e; e = e.parentElement) if (e.tagName === "DETAILS") e.open = true;
    target?.scrollIntoView();
  };
  addEventListener("hashchange", reveal);
  reveal();
  let folded = [];
  addEventListener("beforeprint", () => (folded = all("details:not([open], .long)")).forEach((d) => (d.open = true)));
  addEventListener("afterprint", () => folded.forEach((d) => (d.open = false)));
})();
