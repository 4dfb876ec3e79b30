"""Tables of results, as text and as HTML."""

from adderlab.results import Result, html_lines, html_table, text_table

ROWS = [
    {"name": "a<b", "pairs": 12000, "share": "99.5%", "margin": 0.123456, "proved": True},
    {"name": "longer", "pairs": 7, "share": "-", "margin": None, "proved": False},
]


def test_text_is_aligned_with_numbers_to_the_right() -> None:
    assert text_table(ROWS) == [
        "name     pairs  share  margin  proved",
        "a<b     12,000  99.5%  0.1235  True",
        "longer       7      -          False",
    ]
    assert text_table([]) == []


def test_html_is_escaped() -> None:
    html = html_table(ROWS, "two & more")
    assert "a&lt;b" in html and "two &amp; more" in html and html.count("<tr>") == 3
    assert html_table([], "none") == "<i>none</i>"
    assert html_lines(["a<b", "c"]) == "<b>a&lt;b</b><br>c"


class Shown(Result):
    def describe(self) -> list[str]:
        return ["first", "second"]


def test_a_result_shows_its_description() -> None:
    assert repr(Shown()) == "first\nsecond" and Shown()._repr_html_() == "<b>first</b><br>second"
