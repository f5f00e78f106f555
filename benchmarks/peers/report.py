"""What was measured, as a table, as bars, and in docs/."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from xml.sax.saxutils import escape

from peers.environments import ROOT
from peers.page import PAGE, put
from peers.ways import BYTEWAX_ROWS, BYTEWAX_ROWS_ORJSON, OUR_ROWS, OUR_ROWS_ORJSON, OURS, RAW, Way

PICTURE = ROOT / "docs" / "peers.svg"


@dataclass(frozen=True)
class Sample:
    """One run of one way."""

    seconds: float
    cpu_seconds: float
    peak_mb: float
    repeated: int
    """Rows that it wrote besides every record once."""


Pair = tuple[Sample, Sample]
"""In one round: with few records, with all of them."""


@dataclass(frozen=True)
class Figure:
    """One line of the table. Medians of rounds; what the process costs with few records is left out, but for ``start_*``."""

    name: str
    title: str
    version: str
    guarantee: str
    writes: str
    start_s: float
    start_cpu_s: float
    records_per_s: float
    cpu_s: float
    """For a million records."""
    cpu_s_least: float
    cpu_s_most: float
    cpu_ratio: float
    """To that of this library's columns, within a round."""
    speed_ratio: float
    peak_mb: float
    repeated: int


def figures_of(samples: Mapping[Way, Sequence[Pair]], few: int, many: int) -> list[Figure]:
    """A figure a way, in the order of the ways; this library's columns must be among them."""
    more_millions = (many - few) / 1e6
    cpu_s = {way: [_more(pair, "cpu_seconds") / more_millions for pair in pairs] for way, pairs in samples.items()}
    seconds = {way: [_more(pair, "seconds") for pair in pairs] for way, pairs in samples.items()}
    return [
        Figure(
            name=way.name,
            title=way.title,
            version=_version(way),
            guarantee=way.guarantee,
            writes=way.writes,
            start_s=statistics.median(start.seconds for start, _ in pairs),
            start_cpu_s=statistics.median(start.cpu_seconds for start, _ in pairs),
            records_per_s=(many - few) / statistics.median(seconds[way]),
            cpu_s=statistics.median(cpu_s[way]),
            cpu_s_least=min(cpu_s[way]),
            cpu_s_most=max(cpu_s[way]),
            cpu_ratio=_median_ratio(cpu_s[way], cpu_s[OURS]),
            speed_ratio=_median_ratio(seconds[OURS], seconds[way]),
            peak_mb=max(whole.peak_mb for _, whole in pairs),
            repeated=max(whole.repeated for _, whole in pairs),
        )
        for way, pairs in samples.items()
    ]


def _more(pair: Pair, what: str) -> float:
    """What all records cost more than few of them; never nothing, whatever a busy machine measures."""
    start, whole = pair
    return max(float(getattr(whole, what) - getattr(start, what)), 1e-3)


def _median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    return statistics.median(one / other for one, other in zip(above, below, strict=True))


def _version(way: Way) -> str:
    if way is RAW:
        return version("confluent-kafka")
    return way.environment.version if way.environment.requirements else version("beam_exactly_once")


def table(figures: Sequence[Figure]) -> Iterator[str]:
    """Lines of Markdown."""
    yield "| way | version | promises | writes | k records/s | CPU s a million | its CPU by ours | start: s, CPU s |"
    yield "|---|---|---|---|---|---|---|---|"
    for one in figures:
        repeated = f"; {one.repeated} repeated" if one.repeated else ""
        yield (
            f"| {one.title} | {one.version} | {one.guarantee}{repeated} | {one.writes} | {one.records_per_s / 1000:.0f} "
            f"| {one.cpu_s:.2f} [{one.cpu_s_least:.2f} to {one.cpu_s_most:.2f}] | {one.cpu_ratio:.2f} "
            f"| {one.start_s:.1f}, {one.start_cpu_s:.1f} |"
        )


def bars(figures: Sequence[Figure]) -> Iterator[str]:
    """What this library is to reach, and what it reached, as lines of Markdown."""
    by_name = {one.name: one for one in figures}
    ours, raw = by_name[OURS.name], by_name[RAW.name]
    yield "| bar | measured | met |"
    yield "|---|---|---|"
    yield _bar("columns: at most 2.0 CPU s a million", f"{ours.cpu_s:.2f}", ours.cpu_s <= 2.0)
    speed = 1 / raw.speed_ratio
    yield _bar("columns: at least 0.75 of the speed of the loop of confluent-kafka", f"{speed:.2f}", speed >= 0.75)
    peers = [by_name[way.name] for way in (BYTEWAX_ROWS, BYTEWAX_ROWS_ORJSON) if way.name in by_name]
    if peers:
        times = min(1 / one.speed_ratio for one in peers)
        yield _bar("columns: at least 4 times as fast as bytewax", f"{times:.1f}", times >= 4)
    for mine, other in ((OUR_ROWS, BYTEWAX_ROWS), (OUR_ROWS_ORJSON, BYTEWAX_ROWS_ORJSON)):
        if other.name in by_name:
            share = by_name[mine.name].cpu_ratio / by_name[other.name].cpu_ratio
            what = f"rows by {mine.parser}: at most 0.75 of the CPU of bytewax with the same"
            yield _bar(what, f"{share:.2f}", share <= 0.75)


def _bar(what: str, measured: str, is_met: bool) -> str:
    return f"| {what} | {measured} | {'yes' if is_met else 'no'} |"


def document(figures: Sequence[Figure], command: str, page: Path = PAGE, picture: Path = PICTURE) -> None:
    """Write the tables between the marks of ``command``, and the picture beside the page."""
    shown = f"![CPU seconds for a million records, by program]({picture.name})"
    put(command, [*table(figures), "", *bars(figures), "", shown], page)
    picture.write_text(draw(figures), encoding="utf-8")


_LEFT, _BAR_WIDTH, _ROW_HEIGHT, _TOP = 280, 440, 30, 50
_COLOURS = {"this library": "#0969da", "others": "#8c959f"}


def draw(figures: Sequence[Figure]) -> str:
    """CPU seconds for a million records, a bar a way; the same figures give the same text."""
    height = _TOP + len(figures) * _ROW_HEIGHT + 10
    most = max(one.cpu_s for one in figures)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 900 {height}" font-family="sans-serif" font-size="12">',
        "<title>CPU seconds for a million records, from Kafka to files</title>",
        f'<rect width="900" height="{height}" fill="#ffffff"/>',
        '<text x="20" y="26" font-weight="bold">CPU seconds for a million records: Kafka, JSON, files</text>',
    ]
    for number, one in enumerate(figures):
        y = _TOP + number * _ROW_HEIGHT
        width = _BAR_WIDTH * one.cpu_s / most
        colour = _COLOURS["this library" if one.title.startswith("this library") else "others"]
        lines.append(f'<text x="20" y="{y + 14}">{escape(one.title.replace("`", ""))}</text>')
        lines.append(f'<rect x="{_LEFT}" y="{y}" width="{width:.1f}" height="18" fill="{colour}"/>')
        said = f"{one.cpu_s:.2f} ({one.guarantee})"
        lines.append(f'<text x="{_LEFT + width + 8:.1f}" y="{y + 14}">{escape(said)}</text>')
    return "\n".join([*lines, "</svg>\n"])
