"""Any text as LaTeX that pdflatex compiles, with no package and no input encoding."""

from __future__ import annotations

import unicodedata

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
            parts if known and all(p.isascii() or p in LETTERS or p in ACCENTS for p in parts) else letter
        )
    return "".join(found)
