"""Output that a terminal's encoding lacks falls back to ASCII instead of ending the command.

A finished training must not be lost to a Latin-1 terminal because its last line has a character outside
it (``PYTHONIOENCODING=latin-1``, ``LC_ALL=C`` with UTF-8 mode off, a Windows code page).
"""

from __future__ import annotations

import codecs
import io
import unicodedata
from typing import TextIO

_NEAREST = {
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212\u2500\u2501\u254c\u2578\u257a", "-"),
    **dict.fromkeys("\u2018\u2019", "'"),
    **dict.fromkeys("\u201c\u201d", '"'),
    **dict.fromkeys("\u2502\u2503", "|"),
    **dict.fromkeys("\u2588\u2593\u2592", "#"),
    "\u2026": "...",
    "\u00d7": "x",
    "\u00b7": ".",
    "\u2022": "*",
    "\u00b1": "+-",
    "\u2192": "->",
    "\u2264": "<=",
    "\u2265": ">=",
    "\u00df": "ss",
    "\u00f8": "o",
    "\u0142": "l",
}
"""What Unicode does not take apart into ASCII."""


def to_ascii(text: str) -> str:
    """The nearest ASCII: accents are dropped, dashes are hyphens, what is left a question mark."""
    parts = []
    for character in text:
        plain = _NEAREST.get(character) or unicodedata.normalize("NFKD", character)
        parts.append(plain.encode("ascii", "ignore").decode() or "?")
    return "".join(parts)


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return to_ascii(error.object[error.start : error.end]), error.end


codecs.register_error("adderlab.ascii", _replace)


def make_printable(*streams: TextIO) -> None:
    """From now on the streams print whatever they are given, in their own encodings. Those that fail
    nowhere stay as they are."""
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper) and not _is_unicode(stream.encoding):
            stream.reconfigure(errors="adderlab.ascii")


def _is_unicode(encoding: str) -> bool:
    return codecs.lookup(encoding).name.startswith("utf")
