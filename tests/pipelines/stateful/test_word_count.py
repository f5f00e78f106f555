"""The ready-made pipeline that counts words."""

from __future__ import annotations

import sqlite3
from collections import Counter
from pathlib import Path

import orjson
import pyarrow as pa
import pytest

from beam_exactly_once import ExactlyOnceStream, Record
from beam_exactly_once.errors import EXIT_CONFIGURATION, EXIT_DONE, UnfitRow
from beam_exactly_once.kafka import RECORD_SCHEMA
from beam_exactly_once.pipelines.kafka_to_kafka import on_cluster_of
from beam_exactly_once.pipelines.ready_made import Given
from beam_exactly_once.pipelines.word_count import PIPELINE, main, words_of
from beam_exactly_once.testing import MemoryKafka
from beam_exactly_once.testing.crashing import KillPoint, StoreCalls, watching
from support.ending import kill

pytestmark = pytest.mark.runs_on("DirectRunner")

LINES = ["to be or not to be", "  that is\tthe question ", "", "Über  alles", "to\u00a0be"]


@pytest.fixture
def cluster() -> MemoryKafka:
    return MemoryKafka({"lines": 2})


def send(cluster: MemoryKafka, *values: str | bytes | None) -> None:
    encoded = [value.encode() if isinstance(value, str) else value for value in values]
    cluster.append(Record("lines", partition=number % 2, value=value) for number, value in enumerate(encoded))


def flags(tmp_path: Path, *more: str) -> list[str]:
    return ["--bootstrap-servers=memory:9092", "--topics=lines", f"--checkpoint-location={tmp_path}/checkpoint", *more]


def to_table(tmp_path: Path, *more: str) -> list[str]:
    with sqlite3.connect(tmp_path / "words.db") as database:
        database.execute("CREATE TABLE IF NOT EXISTS words (word TEXT PRIMARY KEY, count BIGINT)")
    return flags(tmp_path, f"--output-url=sqlite:///{tmp_path}/words.db", "--output-table=words", *more)


def counts(tmp_path: Path) -> dict[str, int]:
    with sqlite3.connect(tmp_path / "words.db") as database:
        return dict(database.execute("SELECT word, count FROM words"))


def plain(*lines: str) -> Counter[str]:
    return Counter(word for line in lines for word in line.split())


def test_words_are_counted_over_all_batches_and_starts(cluster: MemoryKafka, tmp_path: Path) -> None:
    """Also one that is killed between commit and publish."""
    run = to_table(tmp_path, "--max-batch-offsets=2", "--count-shards=3", "--output-shards=2")
    with cluster.serving():
        send(cluster, *LINES)
        with watching(StoreCalls(KillPoint.parse("put_if_absent:commits/:2"), kill)):
            assert main(run) != EXIT_DONE
        assert main(run) == EXIT_DONE
        send(cluster, None, *LINES)
        assert main(run) == EXIT_DONE
    assert counts(tmp_path) == plain(*LINES, *LINES)


def test_a_value_that_is_no_text_is_rejected(
    cluster: MemoryKafka, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    send(cluster, "a b", "b", b"\xff b", "c")
    with cluster.serving():
        assert main(to_table(tmp_path)) == EXIT_CONFIGURATION
        assert "the value of record lines-0 at offset 1 is not text in UTF-8" in capsys.readouterr().err
        rejected = f"--rejected-location={tmp_path}/rejected"
        assert main(to_table(tmp_path, rejected, "--rejected-format=json")) == EXIT_DONE
    assert counts(tmp_path) == {"a": 1, "b": 2, "c": 1}
    (file,) = (tmp_path / "rejected").glob("*.json")
    assert [orjson.loads(line)["offset"] for line in file.read_bytes().splitlines()] == [1]


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ((), "say where the counts go: either --output-url and --output-table, or --output-topic."),
        (("--output-url=sqlite:///x.db", "--output-topic=words"), "or --output-topic. Both are given."),
        (("--output-url=sqlite:///x.db",), "--output-table must be given"),
        (("--output-topic=words", "--output-table=words"), "--output-table does not go with --output-topic"),
        (
            ("--output-url=sqlite:///x.db", "--output-table=words", "--output-compression=gzip"),
            "--output-compression does",
        ),
        (("--output-topic=lines",), "--output-topic=lines is one of the topics that are read"),
    ],
)
def test_where_the_counts_go_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], complaint: str
) -> None:
    assert main(flags(tmp_path, *more)) == EXIT_CONFIGURATION
    assert complaint in capsys.readouterr().err


def test_the_counts_may_go_to_a_topic(tmp_path: Path) -> None:
    """On the cluster of the source, unless another one is named."""
    values, _ = PIPELINE.parser().parse(flags(tmp_path, "--output-topic=words"))
    stream = ExactlyOnceStream(**values["stream"])
    PIPELINE.wire(stream, Given(**values))
    graph = stream.stream_graph
    assert graph.sinks["kafka"].definition["topic"] == "words"
    assert list(graph.operators) == ["words"]
    assert on_cluster_of(values["source"], values["output"])["bootstrap_servers"] == "memory:9092"
    elsewhere = {"bootstrap_servers": "other:9092"}
    assert on_cluster_of(values["source"], elsewhere) == elsewhere


def test_words_are_those_of_python() -> None:
    spaces = " \t\n\v\f\r\x1c\x85\u00a0\u2003\u3000"
    values = ["".join(f"{space}w{number}" for number, space in enumerate(spaces)), *LINES]
    columns = [pa.array([value.encode() for value in values], pa.binary())]
    counted = words_of(pa.RecordBatch.from_arrays(columns, ["value"]))
    assert dict(zip(*(column.to_pylist() for column in counted.columns), strict=True)) == plain(*values)


def test_of_a_chunk_the_record_that_is_no_text_is_named() -> None:
    rows = [Record("lines", 1, offset, value=value) for offset, value in enumerate([b"a", None, b"\xfe", b"\xff"])]
    chunk = pa.RecordBatch.from_pylist([row._asdict() for row in rows], schema=RECORD_SCHEMA)
    with pytest.raises(UnfitRow, match="record lines-1 at offset 2 is not text"):
        words_of(chunk)
