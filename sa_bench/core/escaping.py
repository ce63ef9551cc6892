"""Any text for any page: one function a format (LaTeX's is `tex` in reports/tables.py). What would steer a page is shown.

Control characters, overrides of the direction of writing and lone surrogates never reach a reader as they are. Joiners
(ZWJ, ZWNJ) do: Persian, the scripts of India and many emoji need them.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable

JOINERS = "\u200c\u200d"
STEERING = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # Unicode's categories
FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
"""What a spreadsheet computes begins so; the last four are wide."""
MARKS = re.compile(r"([\\|*_`\[\]#~$])")
"""What Markdown, and GitHub's, gives a meaning within a line."""
BEGINS = re.compile(r"^([-+=]|\d{1,9}(?=[.)]))")
"""At the start of a line: a list, a rule, a heading."""


def find_steering_characters(text: str) -> list[str]:
    """The characters of a text that would steer what shows it; line ends and tabs are none."""
    if text.isascii() and text.isprintable():
        return []
    return [
        c
        for c in text
        if c not in "\n\t" and c not in JOINERS and unicodedata.category(c) in STEERING
    ]


def make_visible(text: object) -> str:
    r"""`text` with what would steer a page or a terminal written out: `\x1b`, `\u202e`."""
    out = str(text)
    for letter in set(find_steering_characters(out)):
        out = out.replace(letter, letter.encode("unicode_escape", "surrogatepass").decode())
    return out


def escape_terminal(text: object) -> str:
    """Text for a terminal or a log."""
    return make_visible(text)


def escape_markdown(text: object) -> str:
    """Text on one line of Markdown, within a paragraph or a table, which shows it literally; so does the HTML in it."""
    out = make_visible(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return " ".join(MARKS.sub(r"\\\1", out).split())


def escape_paragraph(text: object) -> str:
    """A paragraph of Markdown that begins with this text and is no list, rule or heading."""
    return BEGINS.sub(
        lambda m: f"\\{m[1]}" if not m[1].isdigit() else f"{m[1]}\u200b", escape_markdown(text)
    )


def fence_code(lines: Iterable[object]) -> list[str]:
    """A block of code in Markdown, which no line in it can end."""
    shown = [line for text in lines for line in make_visible(text).split("\n")]
    longest = max((len(run) for line in shown for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return [fence, *shown, fence]


def escape_spreadsheet(text: object) -> str:
    """A text for a cell of CSV that no spreadsheet computes; numbers are not to go through here."""
    out = make_visible(text)
    return f"'{out}" if out.lstrip(" ").startswith(FORMULA) else out


def escape_html(text: object) -> str:
    """Text for HTML, within an element or a quoted attribute."""
    return html.escape(make_visible(text))
