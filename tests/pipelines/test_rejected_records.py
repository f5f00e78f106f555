"""Records that a step cannot take: fail by default, or go to a sink of their own in the same batch. Nothing is dropped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from apache_beam.testing.util import assert_that, equal_to

from beam_exactly_once import (
    REJECTED_SCHEMA,
    DecodeRecords,
    ExactlyOnceStream,
    ReadFromKafka,
    Record,
    Rejected,
    WriteToFiles,
)
from beam_exactly_once.errors import ConfigurationError, DataLoss, UnfitRow, UnsupportedPipeline
from beam_exactly_once.testing import MemoryKafka, run_in_memory
from support.ending import ends_with

BAD = Record("orders", 3, 0, 1_700_000_000_000, 1, b"\xffkey", b"{broken", (("trace", b"\xfe"), ("none", None)))
BATCHES = {"orders": [[b'{"n": 1}', BAD, b'{"n": 2}'], [b'{"n": 3}'], [b"null!", b"[", b'{"n": 4}']]}
SCHEMA = pa.schema([("n", pa.int64())])


def decode(record: Record) -> Any:
    return json.loads(record.value or b"")


def decode_batch(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Numbers as text, all at once: one that is none fails the whole batch."""
    return pa.record_batch({"n": pc.cast(batch.column("value").cast(pa.string()), pa.int64())})


def records(stream: beam.Pipeline, *, as_arrow: bool = False) -> beam.PCollection[Any]:
    return stream | ReadFromKafka("localhost:9092", ["orders"], as_arrow=as_arrow)


class TestDecoding:
    def test_rejected_records_are_committed_with_their_batch(self) -> None:
        def build(stream: ExactlyOnceStream) -> None:
            rows, rejected = records(stream) | DecodeRecords(decode, on_error="reject")
            _ = rows | "Write" >> WriteToFiles("/lake/orders", schema=SCHEMA, name="orders")
            _ = rejected | "WriteRejected" >> WriteToFiles("/lake/rejected", name="rejected")

        run = run_in_memory(build, BATCHES)
        assert [sorted(row["n"] for row in batch) for batch in run.published["orders"]] == [[1, 2], [3], [4]]
        (first,), second, third = run.published["rejected"]
        assert first == {
            "step": "decode_records",
            "error": "json.decoder.JSONDecodeError",
            "reason": "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
            "topic": "orders",
            "partition": 3,
            "offset": 0,
            "timestamp_ms": 1_700_000_000_000,
            "key": b"\xffkey",
            "value": b"{broken",
            "headers": [{"key": "trace", "value": b"\xfe"}, {"key": "none", "value": None}],
            "row": None,
        }
        assert second == []
        assert sorted((row["value"], row["offset"]) for row in third) == [(b"[", 4), (b"null!", 3)]
        assert [batch.records_rejected for batch in run.progress] == [
            {"decode_records": 1},
            {"decode_records": 0},
            {"decode_records": 2},
        ]
        assert [batch.rows_written for batch in run.progress] == [
            {"orders": 2, "rejected": 1},
            {"orders": 1, "rejected": 0},
            {"orders": 1, "rejected": 2},
        ]
        assert [batch.records_read for batch in run.progress] == [3, 1, 3]

    def test_as_json_and_behind_a_shuffle(self) -> None:
        def build(stream: ExactlyOnceStream) -> None:
            rows, rejected = records(stream) | DecodeRecords(decode, on_error="reject")
            _ = rows | "Write" >> WriteToFiles("/lake/orders", format="json", name="orders")
            _ = rejected | beam.Reshuffle() | "R" >> WriteToFiles("/lake/bad", format="json", name="bad")

        run = run_in_memory(build, BATCHES)
        assert sorted(row["n"] for row in run.rows("orders")) == [1, 2, 3, 4]
        (first,) = run.published["bad"][0]
        assert (first["value"], first["key_base64"]) == ("{broken", "/2tleQ==")
        assert first["headers"] == [{"key": "trace", "value_base64": "/g=="}, {"key": "none", "value": None}]

    def test_text_that_no_runner_carries_is_rejected_wherever_it_is_in_a_bundle(self) -> None:
        half = b'{"n": "\\ud83d"}'
        values = [half, *(b'{"n": %d, "emoji": "\\ud83d\\ude00"}' % number for number in range(40)), half]

        def build(stream: ExactlyOnceStream) -> None:
            rows, rejected = records(stream) | DecodeRecords(decode, on_error="reject")
            _ = rows | "Write" >> WriteToFiles("/lake/orders", schema=SCHEMA.append(pa.field("emoji", pa.string())))
            _ = rejected | "R" >> WriteToFiles("/lake/bad", name="bad")

        run = run_in_memory(build, {"orders": [[Record("orders", 0, value=value) for value in values]]})
        assert sorted((row["n"], row["emoji"]) for row in run.rows("files")) == [(n, "\U0001f600") for n in range(40)]
        assert sorted((row["offset"], row["error"], row["value"]) for row in run.rows("bad")) == [
            (0, "UnicodeEncodeError", half),
            (41, "UnicodeEncodeError", half),
        ]

    def test_text_that_no_runner_carries_fails_by_its_record(self) -> None:
        def build(stream: ExactlyOnceStream) -> None:
            _ = records(stream) | DecodeRecords(decode) | WriteToFiles("/lake/orders", schema=SCHEMA)

        with pytest.raises(
            UnfitRow, match="'decode_records' cannot decode record orders-0 at offset 0: UnicodeEncodeError"
        ):
            run_in_memory(build, {"orders": [[Record("orders", 0, value=b'{"n": "\\ud83d"}')]]})

    def test_of_arrow_batches_only_the_bad_records_are_rejected(self) -> None:
        sizes: list[int] = []

        def counted(batch: pa.RecordBatch) -> pa.RecordBatch:
            sizes.append(batch.num_rows)
            return decode_batch(batch)

        def build(stream: ExactlyOnceStream) -> None:
            rows, rejected = records(stream, as_arrow=True) | DecodeRecords(counted, on_error="reject", name="numbers")
            _ = rows | "Write" >> WriteToFiles("/lake/orders", name="orders")
            _ = rejected | "R" >> WriteToFiles("/lake/bad", name="bad")

        values = [b"%d" % number for number in range(1000)]
        values[17], values[900] = b"seventeen", b"\xff"
        run = run_in_memory(build, {"orders": [values, [b"1000"]]})
        assert sorted(row["n"] for row in run.rows("orders")) == sorted({*range(1001)} - {17, 900})
        bad = run.published["bad"][0]
        assert [(row["step"], row["offset"], row["value"]) for row in bad] == [
            ("numbers", 17, b"seventeen"),
            ("numbers", 900, b"\xff"),
        ]
        assert [batch.records_rejected for batch in run.progress] == [{"numbers": 2}, {"numbers": 0}]

    @pytest.mark.parametrize("as_arrow", [False, True])
    def test_the_default_fails_and_names_the_record(self, as_arrow: bool) -> None:
        def build(stream: ExactlyOnceStream) -> None:
            rows = records(stream, as_arrow=as_arrow) | DecodeRecords(decode_batch if as_arrow else decode)
            _ = rows | WriteToFiles("/lake/orders", schema=SCHEMA)

        which = "record orders-0 at offset 0" if as_arrow else "record orders-3 at offset 0: JSONDecodeError: Expecting"
        with pytest.raises(UnfitRow, match=f"step 'decode_records' cannot decode {which}"):
            run_in_memory(build, BATCHES)

    @pytest.mark.parametrize("error", [DataLoss("of the library"), MemoryError("of the machine")])
    def test_what_is_not_the_records_fault_fails(self, error: Exception) -> None:
        def broken(record: Record) -> Any:
            raise error

        def build(stream: ExactlyOnceStream) -> None:
            rows, rejected = records(stream) | DecodeRecords(broken, on_error="reject")
            _ = (rows, rejected) | beam.Flatten() | WriteToFiles("/lake/orders", format="json")

        with ends_with(repr(error)):
            run_in_memory(build, BATCHES)

    def test_in_an_ordinary_pipeline(self) -> None:
        with beam.Pipeline() as pipeline:
            given = pipeline | beam.Create([Record(value=b"[1]"), Record("t", 1, 5, value=b"x")])
            rows, rejected = given | DecodeRecords(decode, on_error="reject")
            assert_that(rows, equal_to([[1]]))
            assert_that(rejected | beam.Map(lambda row: row[3:6]), equal_to([("t", 1, 5)]), label="rejected")


class TestSinks:
    @pytest.mark.parametrize(
        ("layout", "bad"),
        [
            ({"schema": SCHEMA}, {"n": "seven"}),
            ({"format": "csv", "schema": pa.schema([*SCHEMA, ("raw", pa.binary())])}, {"n": 7, "raw": b"\xff"}),
            ({"format": "json"}, {"n": 2**70}),
            ({"format": "text"}, {"n": 7}),
            ({"format": "json", "partition_by": ["p"]}, {"n": 7, "p": ""}),
            ({"schema": pa.schema([*SCHEMA, ("p", pa.string())]), "partition_by": ["p"]}, {"n": 7, "p": "x" * 300}),
        ],
    )
    def test_a_row_that_does_not_fit_is_rejected_and_the_others_written(
        self, layout: dict[str, Any], bad: dict[str, Any]
    ) -> None:
        is_text = layout.get("format") == "text"

        def build(stream: ExactlyOnceStream) -> None:
            rows = records(stream) | beam.FlatMap(lambda record: rows_of(int(record.value)))
            rejected = rows | "Write" >> WriteToFiles("/lake/orders", name="orders", on_error="reject", **layout)
            _ = rejected | "R" >> WriteToFiles("/lake/bad", name="bad")

        def rows_of(number: int) -> list[Any]:
            good = str(number) if is_text else {"n": number, "raw": b"text", "p": "a"}
            return [good, bad] if number in (3, 150) else [good]

        run = run_in_memory(build, {"orders": [[b"%d" % number for number in range(300)]]})
        found = sorted(int(row["line" if is_text else "n"]) for row in run.rows("orders"))
        assert found == list(range(300))
        assert [batch.rows_written for batch in run.progress] == [{"orders": 300, "bad": 2}]
        assert [batch.records_rejected for batch in run.progress] == [{"orders": 2}]
        first, second = run.rows("bad")
        assert first == second
        assert (first["step"], first["error"]) == ("orders", "beam_exactly_once.errors.UnfitRow")
        assert first["reason"].startswith(("a row", "got a row", "cannot partition by p"))
        assert first["row"].startswith("{'n': ")
        assert first["topic"] is None

    @pytest.mark.parametrize("as_arrow", [False, True])
    def test_kafka_records_are_rejected_whole(self, as_arrow: bool) -> None:
        def build(stream: ExactlyOnceStream) -> None:
            text = {"format": "text", "schema": pa.schema([("value", pa.binary())])}
            rejected = records(stream, as_arrow=as_arrow) | WriteToFiles("/lake/lines", on_error="reject", **text)  # type: ignore[arg-type]
            _ = rejected | "R" >> WriteToFiles("/lake/bad", name="bad")

        odd = BAD._replace(value=b"two\nlines")
        run = run_in_memory(build, {"orders": [[b"one", odd, b"two", Record("orders", 0)], [b"three"]]})
        assert [sorted(row["line"] for row in batch) for batch in run.published["files"]] == [
            [b"one", b"two"],
            [b"three"],
        ]
        rejected = {row["partition"]: row for row in run.rows("bad")}
        assert rejected[3]["value"] == b"two\nlines"
        assert rejected[3]["headers"] == [{"key": "trace", "value": b"\xfe"}, {"key": "none", "value": None}]
        assert (rejected[0]["offset"], rejected[0]["value"]) == (2, None)

    def test_a_sink_of_rejected_records_may_reject_too(self) -> None:
        """Three sinks in a row, one marker: what the second cannot hold is in the third."""

        def build(stream: ExactlyOnceStream) -> None:
            text = {"format": "text", "schema": pa.schema([("value", pa.binary())]), "on_error": "reject"}
            first = records(stream) | "A" >> WriteToFiles("/a", format="csv", name="a", schema=pa.schema([
                ("value", pa.string()), ("offset", pa.int8())]), on_error="reject")  # fmt: skip
            second = first | "B" >> WriteToFiles("/b", name="b", **text)  # type: ignore[arg-type]
            _ = second | "C" >> WriteToFiles("/c", name="c")

        run = run_in_memory(build, {"orders": [[b"fits", b"\xff", b"\xff\n"]]})
        assert [row["value"] for row in run.rows("a")] == ["fits"]
        assert [row["line"] for row in run.rows("b")] == [b"\xff"]
        assert [(row["step"], row["offset"], row["value"]) for row in run.rows("c")] == [("b", 2, b"\xff\n")]
        assert [batch.records_rejected for batch in run.progress] == [{"a": 2, "b": 1}]

    def test_what_no_row_could_pass_fails_all_the_same(self) -> None:
        def build(stream: ExactlyOnceStream) -> None:
            rows = records(stream) | beam.Map(lambda record: {"n": 1})
            rejected = rows | WriteToFiles("/lake/orders", on_error="reject")
            _ = rejected | "R" >> WriteToFiles("/lake/bad", name="bad")

        with pytest.raises(ConfigurationError, match="has no schema to write it with"):
            run_in_memory(build, BATCHES)


def from_decoder(stream: ExactlyOnceStream) -> None:
    rows, _ = records(stream) | DecodeRecords(decode, on_error="reject")
    _ = rows | WriteToFiles("/lake/orders", schema=SCHEMA)


def from_sink(stream: ExactlyOnceStream) -> None:
    _ = records(stream) | WriteToFiles("/lake/orders", name="decode_records", on_error="reject")


@pytest.mark.parametrize("build", [from_decoder, from_sink])
def test_rejected_records_that_nothing_consumes_are_refused(build: Callable[[ExactlyOnceStream], None]) -> None:
    with pytest.raises(
        ConfigurationError, match="step 'decode_records' rejects records, and nothing in the stream consumes"
    ):
        run_in_memory(build, BATCHES)


def test_two_rejecting_steps_need_names() -> None:
    def build(stream: ExactlyOnceStream) -> None:
        _ = records(stream) | "One" >> DecodeRecords(decode, on_error="reject")
        _ = stream.stream_graph.rejecting["decode_records"].rejected | "Two" >> DecodeRecords(decode, on_error="reject")

    with pytest.raises(ConfigurationError, match="two rejecting steps are named 'decode_records'"):
        run_in_memory(build, BATCHES)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DecodeRecords("json"), "decoder='json' must be a function"),  # type: ignore[arg-type]
        (lambda: DecodeRecords(decode, on_error="drop"), "on_error='drop'"),  # type: ignore[arg-type]
        (lambda: WriteToFiles("/x", on_error="skip"), "on_error='skip'"),  # type: ignore[arg-type]
    ],
)
def test_wrong_arguments_are_refused_where_they_are_given(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make()


def test_the_marker_says_what_was_rejected_and_a_replay_rejects_again(tmp_path: Path) -> None:
    """The first run dies after staging; the replay gives the same rows, and each rejected record once."""
    cluster = MemoryKafka({"orders": 1})
    cluster.append(Record("orders", 0, value=value) for value in (b"1", b"x", b"2", b"y"))

    def run(*, fails: bool) -> None:
        with ExactlyOnceStream(str(tmp_path / "checkpoint")) as stream:
            rows, rejected = records(stream) | DecodeRecords(decode, on_error="reject")
            _ = rows | beam.Map(lambda n: {"n": n}) | WriteToFiles(str(tmp_path / "orders"), schema=SCHEMA)
            _ = rejected | "R" >> WriteToFiles(str(tmp_path / "bad"), name="bad")
            if fails:
                _ = rejected | beam.Reshuffle() | beam.Map(refuse)

    with cluster.serving():
        with ends_with("after staging"):
            run(fails=True)
        assert not list((tmp_path / "bad").rglob("*.parquet"))
        run(fails=False)
    assert sorted(pq.read_table(tmp_path / "bad")["value"].to_pylist()) == [b"x", b"y"]
    assert sorted(pq.read_table(tmp_path / "orders")["n"].to_pylist()) == [1, 2]
    (marker,) = (tmp_path / "checkpoint" / "commits").glob("*.json")
    assert orjson.loads(marker.read_bytes())["body"]["records_rejected"] == {"decode_records": 2}


def refuse(rejected: Rejected) -> None:
    raise RuntimeError("after staging")


def test_the_schema_has_the_columns_of_rejected_records_in_order() -> None:
    assert REJECTED_SCHEMA.names == list(Rejected._fields)


class TestDecoderOfASource:
    @pytest.mark.parametrize(("name", "step"), [(None, "decode_records"), ("orders", "decode_records-orders")])
    def test_it_rejects_as_the_step_does(self, name: str | None, step: str) -> None:
        def build(stream: ExactlyOnceStream) -> None:
            read = ReadFromKafka("localhost:9092", ["orders"], name=name, decoder=decode, on_error="reject")
            rows, rejected = stream | read
            _ = rows | "Write" >> WriteToFiles("/lake/orders", schema=SCHEMA, name="orders")
            _ = rejected | "WriteRejected" >> WriteToFiles("/lake/rejected", name="rejected")

        run = run_in_memory(build, BATCHES)
        assert [sorted(row["n"] for row in batch) for batch in run.published["orders"]] == [[1, 2], [3], [4]]
        assert [[row["value"] for row in batch] for batch in run.published["rejected"]] == [
            [b"{broken"],
            [],
            [b"null!", b"["],
        ]
        assert [batch.records_rejected for batch in run.progress] == [{step: 1}, {step: 0}, {step: 2}]

    def test_it_decodes_arrow_batches(self) -> None:
        def build(stream: ExactlyOnceStream) -> None:
            rows = stream | ReadFromKafka("localhost:9092", ["orders"], as_arrow=True, decoder=decode_batch)
            _ = rows | WriteToFiles("/lake/orders", schema=SCHEMA, name="orders")

        assert run_in_memory(build, {"orders": [[b"1", b"2"], [b"3"]]}).published["orders"] == [
            [{"n": 1}, {"n": 2}],
            [{"n": 3}],
        ]

    def test_it_fails_by_default_and_names_the_record(self) -> None:
        def build(stream: ExactlyOnceStream) -> None:
            rows = stream | ReadFromKafka("localhost:9092", ["orders"], decoder=decode)
            _ = rows | WriteToFiles("/lake/orders", schema=SCHEMA, name="orders")

        with pytest.raises(UnfitRow, match="orders-3 at offset 0"):
            run_in_memory(build, BATCHES)

    def test_to_reject_needs_a_decoder(self) -> None:
        with pytest.raises(ConfigurationError, match="on_error='reject' of ReadFromKafka needs a decoder="):
            ReadFromKafka("localhost:9092", ["orders"], on_error="reject")


def test_rejecting_behind_windows_is_refused_with_the_way_out() -> None:
    def build(stream: ExactlyOnceStream) -> None:
        windowed = records(stream) | beam.WindowInto(beam.window.FixedWindows(60))
        windowed | DecodeRecords(decode, on_error="reject", name="orders")

    with pytest.raises(UnsupportedPipeline, match=r"orders.*before `beam\.WindowInto"):
        run_in_memory(build, BATCHES, allow_per_batch=True)


def test_what_is_decoded_before_windows_is_counted_for_its_batch(tmp_path: Path) -> None:
    def build(stream: ExactlyOnceStream) -> None:
        rows, rejected = records(stream) | DecodeRecords(decode, on_error="reject")
        in_windows = rows | beam.WindowInto(beam.window.FixedWindows(60)) | beam.Reshuffle()
        out = in_windows | "Global" >> beam.WindowInto(beam.window.GlobalWindows())
        out | "Rows" >> WriteToFiles(str(tmp_path / "rows"), format="json", name="rows")
        sliding = beam.WindowInto(beam.window.SlidingWindows(60, 30))
        refused = rejected | "Windows" >> sliding | "Shuffle" >> beam.Reshuffle()
        (
            refused
            | "GlobalAgain" >> beam.WindowInto(beam.window.GlobalWindows())
            | WriteToFiles(str(tmp_path / "rejected"), schema=REJECTED_SCHEMA, name="rejected")
        )

    run = run_in_memory(build, BATCHES, allow_per_batch=True)

    assert [one.records_rejected["decode_records"] for one in run.progress] == [1, 0, 2]
