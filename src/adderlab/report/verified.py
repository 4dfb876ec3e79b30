"""The page of a folder of submissions: what each file came to, in one table.

Everything that a submission says of itself is a stranger's text, and escaped.
"""

from __future__ import annotations

from html import escape

from adderlab.format import duration
from adderlab.publish.folder import FileResult, FolderResult, summary
from adderlab.report.html import page, paragraph, tag, tile

_MOODS = {
    **dict.fromkeys(("qualified", "proved"), "yes"),
    **dict.fromkeys(("rejected", "failed", "refuted"), "no"),
    **dict.fromkeys(("not qualified", "undecided", "not decided"), "open"),
}
_HEADS = ("file", "claimed", "counted", "verdict", "score", "strata", "decided", "time")
_NUMERIC = {"claimed", "counted", "score", "strata", "time"}


def verified_page(result: FolderResult) -> str:
    """A whole HTML file."""
    counts, total = summary(result.files), len(result.files)
    spent = duration(sum(each.seconds for each in result.files))
    tiles = [
        tile("qualified", f"{counts['qualified']} of {total}", "99% of the board's pairs", "yes"),
        tile("proved", f"{counts['proved']} of {total}", "right on all pairs", "yes"),
        tile("refuted", f"{counts['refuted']} of {total}", "a pair with a wrong sum is named", "no"),
        tile(
            "rejected or failed",
            f"{counts['rejected'] + counts['failed']} of {total}",
            "reasons are below the table",
            "open",
        ),
    ]
    parts = [
        tag("h1", escape(f"Submissions in {result.folder}")),
        paragraph(f"{total} files, checked in {spent}.", class_="lead"),
        tag("div", *tiles, class_="tiles"),
        _table(result.files),
        *_reasons(result.files),
    ]
    if result.left_out:
        names = ", ".join(result.left_out)
        parts.append(paragraph(f"Left out, for they have no build_model: {names}", class_="muted"))
    return page(f"{result.folder} - submissions", "\n".join(parts))


def _table(files: tuple[FileResult, ...]) -> str:
    """On a narrow screen every row is a block, and the head stands beside each value."""

    def cell(name: str, text: str) -> str:
        mood = _MOODS.get(text.split(":")[0]) if name in ("verdict", "decided") else None
        kinds = " ".join(filter(None, (mood, "n" if name in _NUMERIC else None)))
        return tag("td", escape(text), class_=kinds or None, data_name=name)

    rows = []
    for each in files:
        row = {name: "-" if value is None else str(value) for name, value in each.row().items()}
        rows.append(tag("tr", *(cell(name, row[name]) for name in _HEADS)))
    heads = (tag("th", name, class_="n" if name in _NUMERIC else None) for name in _HEADS)
    head = tag("thead", tag("tr", *heads))
    return tag("div", tag("table", head, tag("tbody", *rows), class_="rows"), class_="scroll")


def _reasons(files: tuple[FileResult, ...]) -> list[str]:
    found = [each for each in files if each.why]
    if not found:
        return []
    rows = [
        tag("tr", tag("td", escape(each.file), data_name="file"), tag("td", escape(each.why)))
        for each in found
    ]
    table = tag("table", tag("tbody", *rows), class_="rows")
    return [tag("h2", "Why"), tag("div", table, class_="scroll")]
