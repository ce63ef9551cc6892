
// Comparing: two rows of a board side by side. All texts are in the page; nothing is computed here.
(() => {
  const data = document.getElementById("data");
  if (!data) return;
  const boards = JSON.parse(data.textContent), form = document.querySelector(".choose"), place = document.getElementById("compared");
  const [board, first, second] = ["board", "first", "second"].map((id) => document.getElementById(id));
  const make = (name, text, attributes = {}) => {
    const element = document.createElement(name);
    if (text !== undefined) element.textContent = text;
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  };
  const row = (cells) => { const tr = make("tr"); tr.append(...cells); return tr; };
  const table = (name, heads, rows) => {
    const box = make("div", undefined, { class: "scroll" }), element = make("table", undefined, { class: name }), head = make("thead"), body = make("tbody");
    head.append(row(heads.map((text) => make("th", text, { scope: "col" }))));
    body.append(...rows);
    element.append(head, body);
    box.append(element);
    return box;
  };
  const options = (select, texts) => select.replaceChildren(...texts.map((text, i) => make("option", text, { value: i })));
  const name = (line) => line.label + (line.tag ? ` (${line.tag})` : "");

  const show = () => {
    const chosen = boards[board.value], [i, j] = [Number(first.value), Number(second.value)], key = `${Math.min(i, j)}-${Math.max(i, j)}`;
    const [a, b] = [chosen.rows[i], chosen.rows[j]], parts = [];
    parts.push(make("h2", "Side by side"));
    parts.push(table("beside-each", ["", name(a), name(b)], Object.keys(a.facts).map((fact) => row([make("th", fact, { scope: "row" }), make("td", a.facts[fact]), make("td", b.facts[fact])]))));
    parts.push(make("h2", "What is shown of their difference"));
    if (i === j) parts.push(make("p", "This is one row; choose two."));
    else if (chosen.pairs[key]) {
      const heads = ["shown", "difference", "p (Holm)", "runs", "checkpoints differ"];
      parts.push(table("index", ["endpoint", ...heads], chosen.pairs[key].map((pair) => {
        const endpoint = make("td", pair.endpoint), texts = [pair.verdict, pair.difference, pair.p || "–", pair.runs, pair.checkpoints];
        endpoint.append(make("span", pair.metric, { class: "ci" }));
        return row([endpoint, ...texts.map((text, n) => make("td", text, { "data-head": heads[n] }))]);
      })));
    } else parts.push(make("p", chosen.reasons[chosen.missing[key]]));
    const link = make("p", undefined, { class: "meta" }), shown = [...Object.values(a.facts), ...Object.values(b.facts)].join(" ");
    link.append(make("a", "The whole board", { href: chosen.path }));
    chosen.notes.forEach((text, n) => shown.includes(`[${n + 1}]`) && parts.push(make("p", `[${n + 1}] ${text}`, { class: "meta" })));
    parts.push(link);
    place.replaceChildren(...parts);
    const state = new URLSearchParams({ board: chosen.path, a: a.label, b: b.label });
    try { history.replaceState(null, "", `#${state}`); } catch { /* a page in a frame has no address of its own */ }
  };
  const choose = (a, b) => {
    const { rows } = boards[board.value], methods = rows.map((_, i) => i).filter((i) => !rows[i].tag.match(/control|reference|target/));
    const number = (label, otherwise) => { const i = rows.findIndex((line) => line.label === label); return i < 0 ? otherwise : i; };
    for (const select of [first, second]) options(select, rows.map(name));
    first.value = number(a, methods[0] ?? 0);
    second.value = number(b, methods[1] ?? Math.min(1, rows.length - 1));
    show();
  };
  const restore = () => {
    const state = new URLSearchParams(location.hash.slice(1)), i = boards.findIndex((one) => one.path === state.get("board"));
    board.value = Math.max(0, i);
    choose(state.get("a"), state.get("b"));
  };
  options(board, boards.map((one) => one.title));
  board.addEventListener("change", () => choose());
  for (const select of [first, second]) select.addEventListener("change", show);
  form.addEventListener("submit", (event) => event.preventDefault());
  addEventListener("hashchange", restore);
  if (boards.length) { form.hidden = false; restore(); }
})();
