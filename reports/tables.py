"""Tables for papers as LaTeX (booktabs), Markdown, CSV and HTML; every name and text is escaped."""

import csv
import io
import itertools
import re
import textwrap
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from sa_bench.analysis.tables import Entry, Row, Table
from sa_bench.analysis.wording import FRONT
from sa_bench.core.declarations import title_label
from sa_bench.core.escaping import escape_html as page_text
from sa_bench.core.escaping import escape_markdown as md
from sa_bench.core.escaping import escape_paragraph, escape_spreadsheet, fence_code, make_visible
from sa_bench.results.format import is_rate

MARKS = {
    "consistent": "$=$",
    "differs": r"$\neq$",
    "inconclusive": "?",
    "not comparable": r"$\times$",
    "not run": "",
}
"""First words of a verdict to its mark in LaTeX."""
LAYOUTS = {
    "narrow": ("table", r"\footnotesize", r"\scriptsize", "2.5pt"),
    "wide": ("table*", r"\small", r"\footnotesize", "4pt"),
}
"""LaTeX layouts: one column of a page of two, or the whole page. Each has its environment, the sizes of
the letters of the table and of the notes, and the space beside a column."""
NARROW_COLUMNS = 4  # columns up to which a table is set narrow unless the user says otherwise
BOX = r"\ifdefined\sabenchbox\else\newsavebox{\sabenchbox}\fi"
WIDTH = r"\dimen0=\wd\sabenchbox\ifdim\dimen0<\linewidth\dimen0=\linewidth\fi"
"""The notes are as wide as the table, or as the text where that is wider."""
LOW = r"\resizebox*{!}{\ifdim\totalheight>.9\textheight.9\textheight\else\totalheight\fi}{%"
SHRINK = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"
"""Shrink a box that is higher than the page without the caption, or wider than the text; the notes shrink
with the table and so are never larger."""
EMPTY = "What is empty is filled by:"
LINE, LABEL = (
    16,
    32,
)  # maximal number of letters per line of a heading, and of a row's label, in LaTeX
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
    "text",
)
STYLE = """body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem }
table { border-collapse: collapse } .wide { overflow-x: auto }
th, td { padding: .3rem .8rem; text-align: right; border-bottom: 1px solid #ccc }
th:first-child, td:first-child { text-align: left } .group td { font-style: italic; padding-top: 1rem }
small { color: #595959; display: block } pre { overflow-x: auto }"""


def _stack_heading(title: str, width: int = LINE, align: str = "c") -> str:
    """Break a heading into lines of at most `width` letters, aligned `c` or `l`.

    Long headings would otherwise shrink the table.
    """
    lines = [
        tex(line)
        for line in textwrap.wrap(title, width, break_long_words=False, break_on_hyphens=False)
    ]
    stacked = f"\\shortstack[{align}]{{" + " \\\\ ".join(lines) + "}"
    return stacked if len(lines) > 1 else "".join(lines)


def latex(tables: Sequence[Table], layout: str = "") -> str:
    """Write each table as a LaTeX float no wider than the text, with notes, margins and claims.

    Args:
        tables: the tables.
        layout: `narrow` for one column of a page of two, with intervals below their values and
            without front and cost; `wide` for the whole page; "" chooses by the number of columns.
    """
    source = ["% Made by sa_bench. Needs \\usepackage{booktabs,graphicx}.", BOX]
    names = _name_labels(tables)
    for table, name in zip(tables, names, strict=True):
        columns_per_metric, marks = 2 if table.published else 1, Marks()
        fits = columns_per_metric * len(table.columns) <= NARROW_COLUMNS
        chosen = layout or ("narrow" if fits else "wide")
        is_narrow = chosen == "narrow"
        if is_narrow and table.name == "leaderboard":
            table = _keep_endpoints(table)
        columns = columns_per_metric * len(table.columns)
        environment, letters, small_letters, space = LAYOUTS[chosen]
        head = [_stack_heading(c.title + _format_direction(c.better)) for c in table.columns]
        heads = " & ".join(f"\\multicolumn{{{columns_per_metric}}}{{c}}{{{h}}}" for h in head)
        source += [
            f"\\begin{{{environment}}}",
            "\\centering",
            f"\\caption{{{tex(table.title)}}}",
            f"\\label{{tab:{name}}}",
            f"\\setlength{{\\tabcolsep}}{{{space}}}",
            f"\\sbox{{\\sabenchbox}}{{{letters}%",
            f"\\begin{{tabular}}{{l{'r' * columns}}}",
            "\\toprule",
            f" & {heads} \\\\",
        ]
        if table.published:
            rules = " ".join(f"\\cmidrule(lr){{{2 + 2 * i}-{3 + 2 * i}}}" for i in range(len(head)))
            source += [rules, " & " + " & ".join(["ours & published"] * len(head)) + " \\\\"]
        source.append("\\midrule")
        titles = {row.label: title_label(row.label) for row in table.rows}
        for group, row in _label_groups(table.rows):
            if group:
                source.append(f"\\multicolumn{{{1 + columns}}}{{l}}{{\\emph{{{tex(group)}}}}} \\\\")
            cells = [_stack_heading(titles[row.label], LABEL, "l")]
            for column, entry in zip(table.columns, row.entries, strict=True):
                cells.append(_set_value(entry, is_narrow, titles))
                published = tex(_format_published(entry, column.unit))
                cells += (
                    [published + (marks.mark(entry.verdict) if published else "")]
                    if table.published
                    else []
                )
            source.append(" & ".join(cells) + " \\\\")
            if is_narrow and any(entry.interval for entry in row.entries):
                texts = (tex(f"({e.interval})") if e.interval else "" for e in row.entries)
                blanks = [""] * (columns_per_metric - 1)
                below = [cell for text in texts for cell in (f"\\tiny {text}", *blanks)]
                source[-1] += "[-2pt]"
                source.append(" & ".join(["", *below]) + " \\\\")
        commands = _list_commands(table)
        source += [
            "\\bottomrule",
            "\\end{tabular}}",
            WIDTH,
            LOW,
            SHRINK,
            "\\begin{minipage}{\\dimen0}",
            "\\centering\\usebox{\\sabenchbox}",
            "\\par\\smallskip",
            f"\\raggedright{small_letters}\\sloppy",
            *marks.explain(),
            *(f"{tex(line)}\\par" for line in _notes_below(table)),
            "\\end{minipage}}}",
            *(
                f"% {' '.join(make_visible(line).split())}"
                for line in ([EMPTY, *commands] if commands else [])
            ),
            f"\\end{{{environment}}}",
        ]
    return "\n".join(source) + "\n"


def _name_labels(tables: Sequence[Table]) -> list[str]:
    """Name each table for references: a published one by its name, a leaderboard by its board; none twice."""
    names: list[str] = []
    for table in tables:
        name = re.sub("[^A-Za-z0-9_-]+", "-", table.anchor).strip("-") or table.name
        names.append(f"{name}-{names.count(name) + 1}" if name in names else name)
    return names


def _keep_endpoints(table: Table) -> Table:
    """Leave out of a leaderboard what a narrow column has no room for: the front and the cost."""
    kept = [c.title == "outcome" or bool(c.metric) for c in table.columns]
    columns = tuple(itertools.compress(table.columns, kept))
    rows = (replace(r, entries=tuple(itertools.compress(r.entries, kept))) for r in table.rows)
    notes = tuple(note for note in table.notes if note != FRONT)
    return replace(table, columns=columns, rows=tuple(rows), notes=notes)


def _set_value(entry: Entry, is_narrow: bool, titles: Mapping[str, str]) -> str:
    """Set our value in LaTeX, bold if it is the best; in a narrow table without its interval.

    Rows that dominate are named by `titles`, from their labels.
    """
    if entry.rivals:
        names = ", ".join(titles.get(label, title_label(label)) for label in entry.rivals)
        return _stack_heading(f"no: {names}", 2 * LINE, "r")
    text = tex(entry.text if is_narrow and entry.text else _format_ours(entry))
    return f"\\textbf{{{text}}}" if entry.best else text


class Marks:
    """Marks of verdicts in a LaTeX table, and their explanations."""

    def __init__(self) -> None:
        """Start without any mark."""
        self.kinds: set[str] = set()  # keys of `MARKS`
        self.reasons: list[str] = []

    def mark(self, verdict: str) -> str:
        """Return the mark of a verdict, with a number if the verdict gives a reason."""
        kind = next((k for k in MARKS if verdict.startswith(k)), "")
        if not kind:
            return f" ({tex(verdict)})" if verdict else ""
        self.kinds.add(kind)
        if verdict != kind and verdict not in self.reasons:
            self.reasons.append(verdict)
        number = self.reasons.index(verdict) + 1 if verdict != kind else ""
        return f"\\textsuperscript{{{MARKS[kind]}{number}}}" if MARKS[kind] else ""

    def explain(self) -> Iterator[str]:
        """Yield the explanations below the table."""
        if self.kinds:
            used_marks = [(kind, mark) for kind, mark in MARKS.items() if kind in self.kinds]
            explanations = [
                f"\\textsuperscript{{{m}}} {kind}" if m else f"no mark: {kind}"
                for kind, m in used_marks
            ]
            yield f"Verdicts on what was published: {', '.join(explanations)}.\\par"
        yield from (f"{i}: {tex(reason)}.\\par" for i, reason in enumerate(self.reasons, 1))


def markdown(tables: Sequence[Table]) -> str:
    """Write each table in Markdown, with notes, claims, and the commands that fill empty cells."""
    paragraphs = []
    for table in tables:
        paragraphs += [f"## {md(table.title)}", ""]
        head = ["", *(md(c.title + _format_direction(c.better)) for c in table.columns)]
        rows = [head, ["---"] * len(head)]
        for group, row in _label_groups(table.rows):
            rows += [[f"*{md(group)}*", *[""] * len(table.columns)]] if group else []
            rows.append(
                [md(row.label), *map(_format_cell, row.entries, (c.unit for c in table.columns))]
            )
        paragraphs += [f"| {' | '.join(row)} |" for row in rows]
        paragraphs += ["", *(f"{escape_paragraph(line)}  " for line in _notes_below(table)), ""]
        if commands := _list_commands(table):
            paragraphs += [EMPTY, "", *fence_code(commands), ""]
    return "\n".join(paragraphs)


def comma_separated(tables: Sequence[Table]) -> str:
    """Write one line per entry as CSV; `text` is the entry as the other formats print it, without its interval.

    `low` and `high` are 95 % bounds: of one run its interval; of five or more, Student's t over base
    models.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(HEAD)
    for table in tables:
        for row in table.rows:
            for c, e in zip(table.columns, row.entries, strict=True):
                numbers = ["" if v is None else repr(float(v)) for v in (e.value, e.low, e.high)]
                numbers.append(" ".join(repr(float(v)) for v in e.points))
                published = "" if e.published is None else repr(float(e.published))
                first = (table.name, row.group, row.label, c.metric or c.title, c.unit or "")
                rest = (escape_spreadsheet(text) for text in (e.verdict, e.reason, e.text))
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
    return buffer.getvalue()


def page(tables: Sequence[Table]) -> str:
    """Write one HTML page without scripts or requests."""
    fragments = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>sa_bench tables</title><style>{STYLE}</style>"
    ]
    for table in tables:
        fragments += [f"<h2>{page_text(table.title)}</h2><div class=wide><table><tr><th></th>"]
        fragments += [
            f"<th scope=col>{page_text(c.title + _format_direction(c.better))}</th>"
            for c in table.columns
        ]
        for group, row in _label_groups(table.rows):
            if group:
                fragments.append(
                    f"<tr class=group><td colspan={1 + len(table.columns)}>{page_text(group)}</td>"
                )
            fragments.append(f"<tr><td>{page_text(row.label)}</td>")
            for column, e in zip(table.columns, row.entries, strict=True):
                ours = (
                    f"<b>{page_text(_format_ours(e))}</b>" if e.best else page_text(_format_ours(e))
                )
                published = (
                    f"<small>published {page_text(_format_published(e, column.unit))}: {page_text(e.verdict)}</small>"
                    if _format_published(e, column.unit)
                    else ""
                )
                fragments.append(f"<td>{ours}{published}</td>")
        fragments += [
            "</table></div>",
            *(f"<p>{page_text(line)}</p>" for line in _notes_below(table)),
        ]
        if commands := _list_commands(table):
            fragments.append(f"<p>{EMPTY}</p><pre>{page_text(chr(10).join(commands))}</pre>")
    return "\n".join(fragments) + "\n"


FORMATS: dict[str, Callable[..., str]] = {
    "markdown": markdown,
    "latex": latex,
    "csv": comma_separated,
    "html": page,
}


def _label_groups(rows: Sequence[Row]) -> Iterator[tuple[str, Row]]:
    """Yield each row with its group's name if it is the first of its group, else with ""."""
    previous_group = ""
    for row in rows:
        yield (row.group if row.group != previous_group else ""), row
        previous_group = row.group


def _format_ours(entry: Entry) -> str:
    """Format our value with its interval."""
    if not entry.text:
        return "n/a" if entry.reason else ""
    return f"{entry.text} ({entry.interval})" if entry.interval else entry.text


def _format_published(entry: Entry, unit: str | None) -> str:
    """Format the published value with all the digits that were printed."""
    if entry.published is None:
        return ""
    return f"{100 * entry.published:.4g} %" if is_rate(unit) else f"{entry.published:g}"


def _format_cell(entry: Entry, unit: str | None) -> str:
    """Format an entry of a Markdown table."""
    our_value = f"**{md(_format_ours(entry))}**" if entry.best else md(_format_ours(entry))
    published = _format_published(entry, unit)
    return f"{our_value or '–'} / {md(published)}: {md(entry.verdict)}" if published else our_value


def _notes_below(table: Table) -> Iterator[str]:
    """Yield the notes below a table as plain text: notes, margins, claims."""
    yield from table.notes
    if table.published and table.margins:
        margins = ", ".join(f"{title} {margin}" for title, margin in table.margins.items())
        yield f"Margins, declared before any run (half of the widest interval that may still say something): {margins}."
    for verdict in table.claims:
        claim = verdict.claim
        yield f"Claim: {claim.claim} ({claim.source}): {verdict.verdict}. {verdict.evidence}"


def _list_commands(table: Table) -> list[str]:
    """List the commands that fill the table's empty entries."""
    return [row.command for row in table.rows if row.command]


def _format_direction(better: str | None) -> str:
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
    "−": "$-$", "–": "--", "—": "---", "±": r"$\pm$", "†": r"$\dagger$", "‡": r"$\ddagger$", "×": r"$\times$",
    "≥": r"$\geq$", "≤": r"$\leq$", "≠": r"$\neq$", "≈": r"$\approx$", "→": r"$\to$", "∞": r"$\infty$", "‖": r"$\|$",
    "·": r"$\cdot$", "°": r"$^\circ$", "⁄": "/", "‘": "`", "’": "'", "“": "``", "”": "''", "\u00a0": "~",
    "ß": r"\ss{}", "æ": r"\ae{}", "Æ": r"\AE{}", "œ": r"\oe{}", "Œ": r"\OE{}", "ø": r"\o{}", "Ø": r"\O{}",
    "ł": r"\l{}", "Ł": r"\L{}", "ı": r"\i{}", **{letter: f"$\\{name}$" for letter, name in GREEK.items()},
}  # fmt: skip
ACCENTS = {
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u", "\u0307": ".",
    "\u0308": '"', "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0323": "d", "\u0327": "c", "\u0331": "b",
}  # fmt: skip

NEGATIVE = re.compile(r"(?<![\w.)\]-])-(?=\.?\d)")
"""The hyphen of a negative number, not that of a range or of a name."""


def tex(text: str) -> str:
    """Escape `text` for LaTeX; letters that cannot be set are decomposed (NFKD) or named: `[U+5317]`.

    The hyphen before a number becomes a minus sign.
    """
    letters: list[str] = []
    for letter in _decompose(NEGATIVE.sub("−", text)):
        if letter in ACCENTS and letters and len(letters[-1]) == 1 and letters[-1].isalpha():
            letters[-1] = f"\\{ACCENTS[letter]}{{{letters[-1]}}}"
        elif letter in LETTERS:
            letters.append(LETTERS[letter])
        elif letter.isspace():
            letters.append(" ")
        elif letter.isascii() and letter.isprintable():
            letters.append(letter)
        else:
            letters.append(f"{{[}}U+{ord(letter):04X}]\\allowbreak{{}}")
    return "".join(letters)


def _decompose(text: str) -> str:
    """Decompose letters that have no command of their own, where the result has one or is ASCII."""
    letters = []
    for letter in text:
        decomposed = letter if letter in LETTERS else unicodedata.normalize("NFKD", letter)
        starts_known = decomposed[0].isascii() or decomposed[0] in LETTERS
        if starts_known and all(p.isascii() or p in LETTERS or p in ACCENTS for p in decomposed):
            letters.append(decomposed)
        else:
            letters.append(letter)
    return "".join(letters)
