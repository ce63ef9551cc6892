"""Tables for papers as LaTeX (booktabs), Markdown, CSV and HTML; every name and text is escaped."""

import csv
import io
import textwrap
import unicodedata
from collections.abc import Callable, Iterator, Sequence

from sa_bench.analysis.tables import Entry, Row, Table
from sa_bench.core.escaping import escape_html as page_text
from sa_bench.core.escaping import escape_markdown as md
from sa_bench.core.escaping import escape_paragraph, escape_spreadsheet, fence_code, make_visible

MARKS = {
    "consistent": "$=$",
    "differs": r"$\neq$",
    "inconclusive": "?",
    "not comparable": r"$\times$",
    "not run": "",
}
"""How a verdict begins, and its mark in LaTeX."""
LOW = r"\resizebox*{!}{\ifdim\totalheight>.9\textheight.9\textheight\else\totalheight\fi}{%"
NARROW = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"
"""What shrinks a box that is higher than the page (but for the caption), or wider than the text."""
EMPTY = "What is empty is filled by:"
LINE = 16  # letters of a heading on one line of LaTeX
HEAD = (
    "table",
    "group",
    "method",
    "metric",
    "unit",
    "value",
    "low",
    "high",
    "points",
    "runs",
    "scale",
    "published",
    "verdict",
    "reason",
)
STYLE = """body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem }
table { border-collapse: collapse } .wide { overflow-x: auto }
th, td { padding: .3rem .8rem; text-align: right; border-bottom: 1px solid #ccc }
th:first-child, td:first-child { text-align: left } .group td { font-style: italic; padding-top: 1rem }
small { color: #595959; display: block } pre { overflow-x: auto }"""


def _stacked(title: str) -> str:
    """A heading in lines about as wide as the two columns below it, so that long ones do not shrink the table."""
    lines = [tex(line) for line in textwrap.wrap(title, LINE, break_long_words=False)]
    return "\\shortstack{" + " \\\\ ".join(lines) + "}" if len(lines) > 1 else "".join(lines)


def latex(tables: Sequence[Table]) -> str:
    """A LaTeX `table` each, no wider than the text; below it the notes, margins and claims."""
    parts = ["% Made by sa_bench. Needs \\usepackage{booktabs,graphicx}."]
    for table in tables:
        wide, marks = 2 if table.published else 1, Marks()
        head = [_stacked(c.title + _arrow(c.better)) for c in table.columns]
        heads = " & ".join(f"\\multicolumn{{{wide}}}{{c}}{{{h}}}" for h in head)
        parts += [
            "\\begin{table}",
            "\\centering",
            f"\\caption{{{tex(table.title)}}}",
            LOW,
            "\\begin{minipage}{\\linewidth}",
            "\\centering\\small",
            NARROW,
            f"\\begin{{tabular}}{{l{'r' * (wide * len(head))}}}",
            "\\toprule",
            f" & {heads} \\\\",
        ]
        if table.published:
            rules = " ".join(f"\\cmidrule(lr){{{2 + 2 * i}-{3 + 2 * i}}}" for i in range(len(head)))
            parts += [rules, " & " + " & ".join(["ours & published"] * len(head)) + " \\\\"]
        parts.append("\\midrule")
        for group, row in _grouped(table.rows):
            if group:
                parts.append(
                    f"\\multicolumn{{{1 + wide * len(head)}}}{{l}}{{\\emph{{{tex(group)}}}}} \\\\"
                )
            cells = [tex(row.label)]
            for column, entry in zip(table.columns, row.entries, strict=True):
                ours = tex(_ours(entry))
                cells.append(f"\\textbf{{{ours}}}" if entry.best else ours)
                theirs = tex(_theirs(entry, column.unit))
                cells += (
                    [theirs + (marks.of(entry.verdict) if theirs else "")]
                    if table.published
                    else []
                )
            parts.append(" & ".join(cells) + " \\\\")
        commands = _commands(table)
        parts += [
            "\\bottomrule",
            "\\end{tabular}}",
            "\\par\\smallskip",
            "\\raggedright\\footnotesize\\sloppy",
            *marks.explained(),
            *(f"{tex(line)}\\par" for line in _below(table)),
            "\\end{minipage}}",
            *(
                f"% {' '.join(make_visible(line).split())}"
                for line in ([EMPTY, *commands] if commands else [])
            ),
            "\\end{table}",
        ]
    return "\n".join(parts) + "\n"


class Marks:
    """The marks of verdicts in a LaTeX table, and what each says."""

    def __init__(self) -> None:
        """None yet."""
        self.kinds: set[str] = set()  # of `MARKS`
        self.reasons: list[str] = []

    def of(self, verdict: str) -> str:
        """The mark of a verdict; a verdict that gives a reason has its number as well."""
        kind = next((k for k in MARKS if verdict.startswith(k)), "")
        if not kind:
            return f" ({tex(verdict)})" if verdict else ""
        self.kinds.add(kind)
        if verdict != kind and verdict not in self.reasons:
            self.reasons.append(verdict)
        number = self.reasons.index(verdict) + 1 if verdict != kind else ""
        return f"\\textsuperscript{{{MARKS[kind]}{number}}}" if MARKS[kind] else ""

    def explained(self) -> Iterator[str]:
        """What stands below the table."""
        if self.kinds:
            found = [(kind, mark) for kind, mark in MARKS.items() if kind in self.kinds]
            told = [
                f"\\textsuperscript{{{m}}} {kind}" if m else f"no mark: {kind}" for kind, m in found
            ]
            yield f"Verdicts on what was published: {', '.join(told)}.\\par"
        yield from (f"{i}: {tex(reason)}.\\par" for i, reason in enumerate(self.reasons, 1))


def markdown(tables: Sequence[Table]) -> str:
    """A Markdown table each, what is to be said below it, the claims, and the commands that fill empty cells."""
    parts = []
    for table in tables:
        parts += [f"## {md(table.title)}", ""]
        head = ["", *(md(c.title + _arrow(c.better)) for c in table.columns)]
        rows = [head, ["---"] * len(head)]
        for group, row in _grouped(table.rows):
            rows += [[f"*{md(group)}*", *[""] * len(table.columns)]] if group else []
            rows.append([md(row.label), *map(_cell, row.entries, (c.unit for c in table.columns))])
        parts += [f"| {' | '.join(row)} |" for row in rows]
        parts += ["", *(f"{escape_paragraph(line)}  " for line in _below(table)), ""]
        if commands := _commands(table):
            parts += [EMPTY, "", *fence_code(commands), ""]
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
                first = (table.name, row.group, row.label, c.title, c.unit or "")
                rest = (escape_spreadsheet(text) for text in (e.verdict, e.reason))
                writer.writerow(
                    [
                        *map(escape_spreadsheet, first),
                        *numbers,
                        e.runs,
                        escape_spreadsheet(e.scale),
                        published,
                        *rest,
                    ]
                )
    return out.getvalue()


def page(tables: Sequence[Table]) -> str:
    """One HTML page without script or request."""
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>sa_bench tables</title><style>{STYLE}</style>"
    ]
    for table in tables:
        parts += [f"<h2>{page_text(table.title)}</h2><div class=wide><table><tr><th></th>"]
        parts += [
            f"<th scope=col>{page_text(c.title + _arrow(c.better))}</th>" for c in table.columns
        ]
        for group, row in _grouped(table.rows):
            if group:
                parts.append(
                    f"<tr class=group><td colspan={1 + len(table.columns)}>{page_text(group)}</td>"
                )
            parts.append(f"<tr><td>{page_text(row.label)}</td>")
            for column, e in zip(table.columns, row.entries, strict=True):
                ours = f"<b>{page_text(_ours(e))}</b>" if e.best else page_text(_ours(e))
                theirs = (
                    f"<small>published {page_text(_theirs(e, column.unit))}: {page_text(e.verdict)}</small>"
                    if _theirs(e, column.unit)
                    else ""
                )
                parts.append(f"<td>{ours}{theirs}</td>")
        parts += ["</table></div>", *(f"<p>{page_text(line)}</p>" for line in _below(table))]
        if commands := _commands(table):
            parts.append(f"<p>{EMPTY}</p><pre>{page_text(chr(10).join(commands))}</pre>")
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
    ours = f"**{md(_ours(entry))}**" if entry.best else md(_ours(entry))
    theirs = _theirs(entry, unit)
    return f"{ours or '–'} / {md(theirs)}: {md(entry.verdict)}" if theirs else ours


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


GREEK = {
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "varepsilon", "ζ": "zeta", "η": "eta", "θ": "theta",
    "ι": "iota", "κ": "kappa", "λ": "lambda", "μ": "mu", "ν": "nu", "ξ": "xi", "π": "pi", "ρ": "rho", "σ": "sigma",
    "ς": "varsigma", "τ": "tau", "υ": "upsilon", "φ": "varphi", "χ": "chi", "ψ": "psi", "ω": "omega", "Γ": "Gamma",
    "Δ": "Delta", "Θ": "Theta", "Λ": "Lambda", "Ξ": "Xi", "Π": "Pi", "Σ": "Sigma", "Φ": "Phi", "Ψ": "Psi", "Ω": "Omega",
}  # fmt: skip
LETTERS = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "[": "{[}", "*": "{*}",  # after a row's end both are syntax
    '"': "{''}",  # the straight one is in no font of the default encoding
    "−": "--", "–": "--", "—": "---", "±": r"$\pm$", "†": r"$\dagger$", "‡": r"$\ddagger$", "×": r"$\times$",
    "≥": r"$\geq$", "≤": r"$\leq$", "≠": r"$\neq$", "≈": r"$\approx$", "→": r"$\to$", "∞": r"$\infty$", "‖": r"$\|$",
    "·": r"$\cdot$", "°": r"$^\circ$", "⁄": "/", "‘": "`", "’": "'", "“": "``", "”": "''", "\u00a0": "~",
    "ß": r"\ss{}", "æ": r"\ae{}", "Æ": r"\AE{}", "œ": r"\oe{}", "Œ": r"\OE{}", "ø": r"\o{}", "Ø": r"\O{}",
    "ł": r"\l{}", "Ł": r"\L{}", "ı": r"\i{}", **{letter: f"$\\{name}$" for letter, name in GREEK.items()},
}  # fmt: skip
ACCENTS = {
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u", "\u0307": ".",
    "\u0308": '"', "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0323": "d", "\u0327": "c", "\u0331": "b",
}  # fmt: skip


def tex(text: str) -> str:
    """`text` with everything escaped; what cannot be set is taken apart (NFKD) or named: `[U+5317]`."""
    out: list[str] = []
    for letter in _apart(text):
        if letter in ACCENTS and out and len(out[-1]) == 1 and out[-1].isalpha():
            out[-1] = f"\\{ACCENTS[letter]}{{{out[-1]}}}"
        elif letter in LETTERS:
            out.append(LETTERS[letter])
        elif letter.isspace():
            out.append(" ")
        elif letter.isascii() and letter.isprintable():
            out.append(letter)
        else:
            out.append(f"{{[}}U+{ord(letter):04X}]\\allowbreak{{}}")
    return "".join(out)


def _apart(text: str) -> str:
    """Letters that have no command of their own decomposed, where that leaves one that has or is ASCII."""
    found = []
    for letter in text:
        parts = letter if letter in LETTERS else unicodedata.normalize("NFKD", letter)
        known = parts[0].isascii() or parts[0] in LETTERS
        found.append(
            parts
            if known and all(p.isascii() or p in LETTERS or p in ACCENTS for p in parts)
            else letter
        )
    return "".join(found)
