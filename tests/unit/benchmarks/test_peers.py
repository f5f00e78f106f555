"""The comparison with other programs, without these programs: its arithmetic, its oracle, its versions, its page."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.json
import pyarrow.parquet as pq
import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
sys.path.append(str(BENCHMARKS))  # and not for longer: it has a support.py, as tests/ has a support/

from peers import page, report, rows, ways  # noqa: E402
from peers.environments import python_of  # noqa: E402
from peers.latency_report import Latency, table  # noqa: E402
from peers.measuring import ProgramFailed, run_measured  # noqa: E402

sys.path.remove(str(BENCHMARKS))

PROGRAMS = sorted((BENCHMARKS / "peers" / "programs").glob("*.py"))


def pair(start: float, whole: float) -> report.Pair:
    """A round in which both runs took as many seconds as CPU seconds."""
    return report.Sample(start, start, 100, 0), report.Sample(whole, whole, 200, 0)


def figures(**of_way: list[report.Pair]) -> list[report.Figure]:
    by_name = {way.name: way for way in ways.WAYS}
    return report.figures_of({by_name[name]: pairs for name, pairs in of_way.items()}, few=0, many=500_000)


def test_figures_leave_out_what_the_start_costs_and_ratios_are_taken_within_a_round() -> None:
    raw, ours = figures(
        raw=[pair(1, 2), pair(1, 3), pair(1, 2)],
        ours_columns=[pair(2, 4), pair(3, 4), pair(2, 4)],
    )
    assert (ours.start_s, ours.start_cpu_s, ours.peak_mb) == (2, 2, 200)
    assert (ours.records_per_s, ours.cpu_s, ours.cpu_s_least, ours.cpu_s_most) == (250_000, 4, 2, 4)
    assert (ours.cpu_ratio, raw.cpu_ratio, raw.speed_ratio) == (1, 0.5, 2)


def test_bars_say_which_are_met() -> None:
    some = figures(
        raw=[pair(0, 1)],
        ours_columns=[pair(0, 1)],
        ours_rows_json=[pair(0, 2)],
        bytewax_rows_json=[pair(0, 4)],
        ours_rows_orjson=[pair(0, 3)],
        bytewax_rows_orjson=[pair(0, 3)],
    )
    assert [line.rsplit("|", 3)[1:3] for line in report.bars(some)][2:] == [
        [" 2.00 ", " yes "],
        [" 1.00 ", " yes "],
        [" 3.0 ", " no "],
        [" 0.50 ", " yes "],
        [" 1.00 ", " no "],
    ]


def write(file: Path, numbers: list[int], paid: bool | None = None) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [pa.py_buffer(rows.value_of(number)) for number in numbers]
    parsed = pa.json.read_json(pa.BufferReader(b"\n".join(memoryview(line) for line in lines)))
    if paid is not None:
        parsed = parsed.set_column(2, "paid", pa.array([paid] * len(numbers)))
    pq.write_table(parsed, file)


def test_what_was_written_is_compared_by_value(tmp_path: Path) -> None:
    write(tmp_path / "a" / "1.parquet", [0, 2])
    write(tmp_path / "_staged" / "2.parquet", [1])
    with pytest.raises(rows.WrongRows, match="2 ids of 3"):
        rows.count_repeated(tmp_path, 3)
    (tmp_path / "b.jsonl").write_bytes(rows.value_of(1) + b"\n" + rows.value_of(2))
    assert rows.count_repeated(tmp_path, 3) == 1
    write(tmp_path / "c.parquet", [1], paid=True)
    with pytest.raises(rows.WrongRows, match="not what was sent"):
        rows.count_repeated(tmp_path, 3)


def test_every_program_is_python_and_has_a_way() -> None:
    for program in PROGRAMS:
        compile(program.read_text(encoding="utf-8"), program.name, "exec")
    assert {program.stem for program in PROGRAMS} == {way.program for way in (*ways.WAYS, *ways.STREAM_WAYS)}


def test_versions_stand_in_one_place() -> None:
    requirements = [one for way in ways.WAYS for one in way.environment.requirements]
    assert requirements
    assert all(re.fullmatch(r"[\w\[\]-]+==[\d.]+", one) for one in requirements)
    others = [file for file in (BENCHMARKS / "peers").rglob("*.py") if file.name != "ways.py"]
    assert [file.name for file in others if re.search(r"\w==\d", file.read_text(encoding="utf-8"))] == []
    assert python_of(ways.HERE) == Path(sys.executable)


def test_children_are_measured_that_a_program_leaves_behind(tmp_path: Path) -> None:
    """As PySpark leaves its JVM: the program ends, and a child of it goes on working."""
    burn = "import time\nwhile time.process_time() < 0.2: pass"
    leave = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {burn!r}])"
    run = run_measured([sys.executable, "-c", leave], tmp_path, {}, 60)
    assert run.cpu_seconds > 0.2 or sys.platform != "linux"
    with pytest.raises(ProgramFailed, match="ended with 3"):
        run_measured([sys.executable, "-c", "raise SystemExit(3)"], tmp_path, {}, 60)


def test_the_page_is_written_between_its_marks(tmp_path: Path) -> None:
    text = "before\n<!-- made by {}: begin -->\nold\n<!-- end -->\nafter\n"
    page_file, picture = tmp_path / "page.md", tmp_path / "picture.svg"
    page_file.write_text(text.format("python other.py") + text.format("python benchmarks/peers/run.py"))
    made = figures(raw=[pair(0, 1)], ours_columns=[pair(0, 2)])
    report.document(made, "python benchmarks/peers/run.py --rounds 1", page_file, picture)
    written = page_file.read_text()
    assert written.startswith(text.format("python other.py") + "before\n")
    assert written.endswith("<!-- end -->\nafter\n")
    between = page.written("python benchmarks/peers/run.py", page_file)
    assert "old" not in between
    assert between.startswith("\n\n`python benchmarks/peers/run.py --rounds 1`, 20")
    report.document(made, "python benchmarks/peers/run.py --rounds 1", page_file, picture)
    assert page_file.read_text().count("begin -->") == 2
    with pytest.raises(ValueError, match="has no <!-- made by python nobody"):
        page.put("python nobody.py --write", [], page_file)


def test_the_picture_shows_the_figures_of_the_page() -> None:
    between = page.written("python benchmarks/peers/run.py")
    figures_of_page = re.findall(r"^\| (?:[^|]+\|){5} ([\d.]+) \[", between, re.MULTILINE)
    picture = report.PICTURE.read_text(encoding="utf-8") if report.PICTURE.exists() else ""
    assert figures_of_page == re.findall(r"<text [^>]*>([\d.]+) \(", picture)


def test_a_stream_that_falls_behind_has_no_latency() -> None:
    found = [
        Latency("ours", "files", "exactly once", 40.0, 80.0, 1.0),
        Latency("Spark, 0", "files", "exactly once", 30.0, 90.0, 0.5),
        Latency("ours", "kafka", "exactly once", 160.0, 170.0, 0.995),
        Latency("Quix, 1", "kafka", "exactly once", 500.0, 990.0, 1.0),
    ]
    assert list(table(found))[2:] == [
        "| files | ours | exactly once | 40 ms | 80 ms |",
        "| files | Spark, 0 | exactly once | fell behind |  |",
        "| kafka | ours | exactly once | 160 ms | 170 ms |",
        "| kafka | Quix, 1 | exactly once | 500 ms | 990 ms |",
        "",
        "| bar | measured | met |",
        "|---|---|---|",
        "| files: p50 of at most 50 ms | 40 ms | yes |",
        "| files: p50 below that of Spark | fell behind | yes |",
        "| kafka: p50 of at most 150 ms | 160 ms | no |",
        "| kafka: p50 below that of Quix | 500 ms | yes |",
    ]
