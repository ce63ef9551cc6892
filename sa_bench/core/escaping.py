"""Escape any text for any output format, one function per format.

Control characters, characters that change the direction of writing and lone surrogates are written
out. Joiners (ZWJ, ZWNJ) stay: Persian, the scripts of India and many emoji need them. LaTeX's
function is `tex` in reports/tables.py.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable

JOINERS = "\u200c\u200d"
STEERING = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # Unicode's categories
FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
"""First characters of what a spreadsheet evaluates; the last four are full-width."""
MARKS = re.compile(r"([\\|*_`\[\]#~$])")
"""Characters with a meaning within a line of Markdown (GitHub's included)."""
BEGINS = re.compile(r"^([-+=]|\d{1,9}(?=[.)]))")
"""Starts of a line that make a list, a rule or a heading."""


def find_steering_characters(text: str) -> list[str]:
    """List the characters that would steer what shows the text, without line ends and tabs."""
    # What Python calls printable has none of these categories; nor has the space that breaks no line.
    if text.replace("\u00a0", " ").isprintable():
        return []
    steering = {
        letter
        for letter in set(text) - set("\n\t" + JOINERS)
        if unicodedata.category(letter) in STEERING
    }
    return [letter for letter in text if letter in steering] if steering else []


def make_visible(text: object) -> str:
    r"""Write out characters of `text` that would steer a page or a terminal: `\x1b`, `\u202e`."""
    visible = str(text)
    for letter in set(find_steering_characters(visible)):
        visible = visible.replace(letter, letter.encode("unicode_escape", "surrogatepass").decode())
    return visible


def escape_terminal(text: object) -> str:
    """Escape text for a terminal or a log."""
    return make_visible(text)


def escape_markdown(text: object) -> str:
    """Escape text for one line of Markdown, which then shows it literally, HTML included."""
    escaped = make_visible(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return " ".join(MARKS.sub(r"\\\1", escaped).split())


def escape_paragraph(text: object) -> str:
    """Escape text at the start of a paragraph of Markdown: it makes no list, rule or heading."""
    return BEGINS.sub(
        lambda m: f"\\{m[1]}" if not m[1].isdigit() else f"{m[1]}\u200b", escape_markdown(text)
    )


def fence_code(lines: Iterable[object]) -> list[str]:
    """Fence lines as a block of code in Markdown, which none of the lines can end."""
    shown = [line for value in lines for line in make_visible(value).split("\n")]
    longest = max((len(run) for line in shown for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return [fence, *shown, fence]


def escape_spreadsheet(text: object) -> str:
    """Escape text for a cell of CSV that no spreadsheet evaluates; not for numbers."""
    visible = make_visible(text)
    return f"'{visible}" if visible.lstrip(" ").startswith(FORMULA) else visible


def escape_html(text: object) -> str:
    """Escape text for HTML, within an element or a quoted attribute."""
    return html.escape(make_visible(text))
