"""What the lab found, as SVG."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape

from beam_exactly_once.lab.experiment import RECORDS, Outcome
from beam_exactly_once.lab.lives import Fate
from beam_exactly_once.lab.moments import DESIGNS, MOMENTS, Design, Moment
from beam_exactly_once.lab.report import counts

_COLOURS: dict[Fate, str] = {"once": "#2da44e", "lost": "#cf222e", "repeated": "#d4a72c"}
_MARGIN, _TOP, _ROW_HEIGHT, _BAR_HEIGHT = 20, 76, 62, 14
_COLUMN_X: dict[Design, int] = {"receiver": 240, "logged_receiver": 460, "offset_ranges": 680}
_BAR_WIDTH = 200
_WIDTH = 900


def draw(outcomes: Sequence[Outcome]) -> str:
    """A row a moment, a bar a design; the same outcomes give the same text."""
    tops = {moment.name: _TOP + number * _ROW_HEIGHT for number, moment in enumerate(MOMENTS)}
    height = _TOP + len(MOMENTS) * _ROW_HEIGHT + 20
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" font-size="12">',
            f"<title>{RECORDS:,} records, and a process that is killed</title>",
            f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
            *_head(),
            *(part for moment in MOMENTS for part in _row(moment, tops[moment.name])),
            *(part for outcome in outcomes for part in _bar(outcome, tops[outcome.moment.name])),
            "</svg>\n",
        ]
    )


def _head() -> Iterator[str]:
    yield _text(_MARGIN, 24, f"{RECORDS:,} records, and SIGKILL", "bold")
    x = _MARGIN
    for fate, colour in _COLOURS.items():
        yield f'<rect x="{x}" y="38" width="10" height="10" fill="{colour}"/>'
        yield _text(x + 14, 47, fate)
        x += 66
    for design, title in DESIGNS.items():
        yield _text(_COLUMN_X[design], 24, title.replace("\n", " "), "bold")


def _row(moment: Moment, top: int) -> Iterator[str]:
    yield f'<line x1="{_MARGIN}" x2="{_WIDTH - _MARGIN}" y1="{top - 16}" y2="{top - 16}" stroke="#d0d7de"/>'
    yield _text(_MARGIN, top, moment.victim, "dim")
    yield _text(_MARGIN, top + 15, moment.text)
    yield _text(_MARGIN, top + 36, moment.why, "dim")
    yield _text(_COLUMN_X["offset_ranges"], top + 36, moment.kill_text, "dim")
    for design in moment.impossible:
        yield _text(_COLUMN_X[design], top, "no such moment", "dim")


def _bar(outcome: Outcome, top: int) -> Iterator[str]:
    x = float(_COLUMN_X[outcome.design])
    for fate, count in outcome.tally.fates():
        width = _BAR_WIDTH * count / RECORDS
        yield f'<rect x="{x:g}" y="{top - 11}" width="{width:g}" height="{_BAR_HEIGHT}" fill="{_COLOURS[fate]}"/>'
        x += width
    yield _text(_COLUMN_X[outcome.design], top + 17, counts(outcome.tally))


def _text(x: int, y: int, text: str, style: str = "") -> str:
    more = {"bold": ' font-weight="bold"', "dim": ' fill="#57606a"'}.get(style, "")
    return f'<text x="{x}" y="{y}"{more}>{escape(text)}</text>'
