"""Seeded damage to files: what transfers, disks, editors and people who mean harm do to them."""

import random
import struct

HOSTILE = (
    b"\x00" * 16, b"\xff" * 16, b"[" * 3000, b'{"a":' * 3000, b"1e999", b"-1", b"NaN", b"9" * 400, b"null", b"[1]", b"{}",
    b'""', b"true", b"../../x", b"/etc/passwd", b"\xed\xa0\x80", "\u202e".encode(), b"\x1b[2J", b"1000000000000",
    b"18446744073709551615", b"\r\n", b",", b'"', b"=1+1", b"\\u0000",
)  # fmt: skip
SIZES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**40, 2**63 - 1, 2**64 - 1)


def mutated(raw: bytes, rng: random.Random) -> bytes:
    """`raw` after one to four kinds of damage, at most 1 MiB longer."""
    out = bytearray(raw)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(out) + 1)
        kind = rng.randrange(9)
        if kind == 0 and out:
            out[min(at, len(out) - 1)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[at : at + rng.randrange(1, 64)] = rng.randbytes(rng.randrange(0, 64))
        elif kind == 2:
            del out[at:]
        elif kind == 3:
            out[at:at] = rng.choice(HOSTILE)
        elif kind == 4:
            piece = rng.choice(HOSTILE)
            out[at : at + len(piece)] = piece
        elif kind == 5:
            width = rng.choice("BHIQ")
            value = rng.choice(SIZES) & (2 ** (8 * struct.calcsize(width)) - 1)
            out[at : at + struct.calcsize(width)] = struct.pack(f"<{width}", value)
        elif kind == 6:
            other = rng.randrange(len(out) + 1)
            out[at:at] = out[other : other + rng.randrange(1, 4096)]
        elif kind == 7:
            digits = [
                i for i in range(max(0, at - 2000), min(len(out), at + 2000)) if 48 <= out[i] <= 57
            ]
            for i in digits[: rng.randrange(1, 8)]:
                out[i] = rng.choice(b"0123456789-e.[{")
        else:
            out[: rng.randrange(len(out) + 1)] = b""
    return bytes(out)
