"""Tables for papers as LaTeX (booktabs), Markdown, CSV and HTML; every name and text is escaped."""

import csv
import html
import io
from collections.abc import Callable, Iterator, Sequence

from sa_bench.tables import Entry, Row, Table

LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "λ": r"$\lambda$", "θ": r"$\theta$", "η": r"$\eta$", "γ": r"$\gamma$", "−": "--", "–": "--",
    "±": r"$\pm$", "†": r"$\dagger$", "×": r"$\times$", "≥": r"$\geq$", "≤": r"$\leq$",
    "→": r"$\to$", "∞": r"$\infty$", "é": r"\'e", "ń": r"\'n", "·": r"$\cdot$",
}  # fmt: skip


EMPTY = "What is empty is filled by:"
HEAD = (
    "table", "group", "method", "metric", "unit", "value", "low", "high", "points", "runs", "scale", "published", "verdict",
    "reason",
)  # fmt: skip
STYLE = """body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem }
table { border-collapse: collapse } .wide { overflow-x: auto }
th, td { padding: .3rem .8rem; text-align: right; border-bottom: 1px solid #ccc }
th:first-child, td:first-child { text-align: left } .group td { font-style: italic; padding-top: 1rem }
small { color: #595959; display: block } pre { overflow-x: auto }"""


def latex(tables: Sequence[Table]) -> str:
    """A LaTeX `table` each, with the rules of the package booktabs."""
    parts = ["% Made by sa_bench. Needs \\usepackage{booktabs}."]
    for table in tables:
        wide = 2 if table.published else 1
        head = [_tex(c.title + _arrow(c.better)) for c in table.columns]
        heads = " & ".join(f"\\multicolumn{{{wide}}}{{c}}{{{h}}}" for h in head)
        parts += [
            "\\begin{table}", "\\centering", f"\\caption{{{_tex(table.title)}}}",
            f"\\begin{{tabular}}{{l{'r' * (wide * len(head))}}}", "\\toprule", f" & {heads} \\\\",
        ]  # fmt: skip
        if table.published:
            rules = " ".join(f"\\cmidrule(lr){{{2 + 2 * i}-{3 + 2 * i}}}" for i in range(len(head)))
            parts += [rules, " & " + " & ".join(["ours & published"] * len(head)) + " \\\\"]
        parts.append("\\midrule")
        for group, row in _grouped(table.rows):
            if group:
                parts.append(f"\\multicolumn{{{1 + wide * len(head)}}}{{l}}{{\\emph{{{_tex(group)}}}}} \\\\")
            cells = [_tex(row.label)]
            for column, entry in zip(table.columns, row.entries, strict=True):
                ours = _tex(_ours(entry))
                cells.append(f"\\textbf{{{ours}}}" if entry.best else ours)
                cells += [_tex(_theirs(entry, column.unit))] if table.published else []
            parts.append(" & ".join(cells) + " \\\\")
        commands = _commands(table)
        remarks = [*_below(table), *([EMPTY, *commands] if commands else [])]
        parts += [
            "\\bottomrule",
            "\\end{tabular}",
            *(f"% {' '.join(line.split())}" for line in remarks),
            "\\end{table}",
        ]
    return "\n".join(parts) + "\n"


def markdown(tables: Sequence[Table]) -> str:
    """A Markdown table each, what is to be said below it, the claims, and the commands that fill empty cells."""
    parts = []
    for table in tables:
        parts += [f"## {_md(table.title)}", ""]
        head = ["", *(_md(c.title + _arrow(c.better)) for c in table.columns)]
        rows = [head, ["---"] * len(head)]
        for group, row in _grouped(table.rows):
            rows += [[f"*{_md(group)}*", *[""] * len(table.columns)]] if group else []
            rows.append([_md(row.label), *map(_cell, row.entries, (c.unit for c in table.columns))])
        parts += [f"| {' | '.join(row)} |" for row in rows]
        parts += ["", *(f"{_md(line)}  " for line in _below(table)), ""]
        if commands := _commands(table):
            parts += [EMPTY, "", "```", *commands, "```", ""]
    return "\n".join(parts)


def comma_separated(tables: Sequence[Table]) -> str:
    """One line a cell. `low` and `high` are 95 %: of one run its interval; of five or more, Student's t over base models."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(HEAD)
    for table in tables:
        for row in table.rows:
            for c, e in zip(table.columns, row.entries, strict=True):
                numbers = ["" if v is None else repr(float(v)) for v in (e.value, e.low, e.high)]
                numbers.append(" ".join(repr(float(v)) for v in e.points))
                published = "" if e.published is None else repr(float(e.published))
                first, rest = (
                    (table.name, row.group, row.label),
                    (e.runs, e.scale, published, e.verdict, e.reason),
                )
                writer.writerow([*first, c.title, c.unit or "", *numbers, *rest])
    return out.getvalue()


def page(tables: Sequence[Table]) -> str:
    """One HTML page without script or request."""
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>sa_bench tables</title><style>{STYLE}</style>"
    ]
    for table in tables:
        parts += [f"<h2>{_h(table.title)}</h2><div class=wide><table><tr><th></th>"]
        parts += [f"<th scope=col>{_h(c.title + _arrow(c.better))}</th>" for c in table.columns]
        for group, row in _grouped(table.rows):
            if group:
                parts.append(f"<tr class=group><td colspan={1 + len(table.columns)}>{_h(group)}</td>")
            parts.append(f"<tr><td>{_h(row.label)}</td>")
            for column, e in zip(table.columns, row.entries, strict=True):
                ours = f"<b>{_h(_ours(e))}</b>" if e.best else _h(_ours(e))
                theirs = (
                    f"<small>published {_h(_theirs(e, column.unit))}: {_h(e.verdict)}</small>"
                    if _theirs(e, column.unit)
                    else ""
                )
                parts.append(f"<td>{ours}{theirs}</td>")
        parts += ["</table></div>", *(f"<p>{_h(line)}</p>" for line in _below(table))]
        if commands := _commands(table):
            parts.append(f"<p>{EMPTY}</p><pre>{_h(chr(10).join(commands))}</pre>")
    return "\n".join(parts) + "\n"


FORMATS: dict[str, Callable[[Sequence[Table]], str]] = {
    "markdown": markdown,
    "latex": latex,
    "csv": comma_separated,
    "html": page,
}


def _grouped(rows: Sequence[Row]) -> Iterator[tuple[str, Row]]:
    """Each row with its group's name where it is the first of it."""
    last = ""
    for row in rows:
        yield (row.group if row.group != last else ""), row
        last = row.group


def _ours(entry: Entry) -> str:
    if not entry.text:
        return "n/a" if entry.reason else ""
    return f"{entry.text} ({entry.interval})" if entry.interval else entry.text


def _theirs(entry: Entry, unit: str | None) -> str:
    """The published value with all the digits that were printed."""
    if entry.published is None:
        return ""
    rate = unit in ("rate", "probability")
    return f"{100 * entry.published:.4g} %" if rate else f"{entry.published:g}"


def _cell(entry: Entry, unit: str | None) -> str:
    ours = f"**{_md(_ours(entry))}**" if entry.best else _md(_ours(entry))
    theirs = _theirs(entry, unit)
    return f"{ours or '–'} / {theirs}: {_md(entry.verdict)}" if theirs else ours


def _below(table: Table) -> Iterator[str]:
    """What is to be said of the table, as plain text."""
    yield from table.notes
    if table.published and table.margins:
        found = ", ".join(f"{title} {margin}" for title, margin in table.margins.items())
        yield f"Margins, declared before any run (half of the widest interval that may still say something): {found}."
    for found in table.claims:
        claim = found.claim
        yield f"Claim: {claim.claim} ({claim.source}): {found.verdict}. {found.evidence}"


def _commands(table: Table) -> list[str]:
    return [row.command for row in table.rows if row.command]


def _arrow(better: str | None) -> str:
    return {"lower": " (lower)", "higher": " (higher)"}.get(better or "", "")


def _tex(text: str) -> str:
    return "".join(LATEX.get(letter, letter) for letter in text)


def _md(text: str) -> str:
    out = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for mark in ("\\", "|", "*", "_", "`", "[", "]", "#"):
        out = out.replace(mark, "\\" + mark)
    return " ".join(out.split())


def _h(text: str) -> str:
    return html.escape(text)
