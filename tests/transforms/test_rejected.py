"""What is known of a rejected row, and how such rows are found in a chunk."""

from __future__ import annotations

import datetime
import random
from collections import Counter
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest

from beam_exactly_once import RECORD_SCHEMA, Record, Rejected, with_event_date
from beam_exactly_once.errors import ConfigurationError, UnfitRow
from beam_exactly_once.kafka import Chunk
from beam_exactly_once.rows.rejected import MAX_REASON_LETTERS, MAX_ROW_LETTERS, isolated, rejected_of
from beam_exactly_once.sinks.files.encoding import FileEncoding
from beam_exactly_once.sinks.files.layout import FileLayout
from beam_exactly_once.transforms.encode_rows import ToBlocks, ToBlocksOrReject
from beam_exactly_once.transforms.rejecting import COUNTS, REJECTED
from beam_exactly_once.transforms.reports import RejectedCount, gathered

RECORD = Record("orders", 3, 7, 1_700_000_000_000, 1, b"\xff", b"v", (("trace", b"\xfe"), ("none", None)))
OF_RECORD = Rejected(
    "step", "ValueError", "odd", "orders", 3, 7, 1_700_000_000_000, b"\xff", b"v", (("trace", b"\xfe"), ("none", None))
)
SCHEMA = pa.schema([("id", pa.int64()), ("place", pa.string())])


class BadRepr:
    def __repr__(self) -> str:
        raise KeyError("no repr")


BAD_REPR = BadRepr()


class TestRejectedOf:
    @pytest.mark.parametrize(
        "row",
        [
            RECORD,
            Chunk.from_records([RECORD], 7, 8).to_arrow(),
            with_event_date(Chunk.from_records([RECORD], 7, 8).to_arrow()),
            OF_RECORD._replace(step="before", reason="another"),
        ],
        ids=["record", "arrow", "wider arrow", "rejected before"],
    )
    def test_a_kafka_record_is_kept_whole(self, row: Any) -> None:
        assert rejected_of(row, ValueError("odd"), step="step") == OF_RECORD

    @pytest.mark.parametrize(
        ("row", "shown"),
        [
            ({"n": 1}, "{'n': 1}"),
            ("text", "'text'"),
            (None, "None"),
            (
                pa.record_batch({"n": [1], "at": [datetime.date(2026, 1, 31)]}),
                "{'at': datetime.date(2026, 1, 31), 'n': 1}",
            ),
            ("\ud800", "'\\ud800'"),
            (BAD_REPR, f"<BadRepr instance at {id(BAD_REPR):#x}>"),
        ],
        ids=["dict", "text", "none", "batch", "surrogate", "bad repr"],  # an address would be another one at each run
    )
    def test_any_other_row_is_shown(self, row: Any, shown: str) -> None:
        rejected = rejected_of(row, ValueError("odd"), step="step")
        assert (rejected.topic, rejected.row) == (None, shown)

    def test_a_date_that_python_does_not_know_is_shown(self) -> None:
        batch = pa.record_batch({"day": pa.array([10**7], pa.date32())})
        assert "29349" in (rejected_of(batch, ValueError(), step="s").row or "")

    def test_everything_is_bounded(self) -> None:
        row = {f"name{number}": "x" * 10**6 for number in range(1000)}
        rejected = rejected_of(row, ValueError("long " * 10**6), step="s")
        assert len(rejected.reason) == MAX_REASON_LETTERS
        assert 1000 < len(rejected.row or "") <= MAX_ROW_LETTERS


class TestIsolated:
    @pytest.mark.parametrize("bad", [set(), {0}, {99}, {50, 51}, {0, 13, 99}, set(range(100))])
    def test_all_but_the_bad_rows_are_made_in_order_and_in_few_calls(self, bad: set[int]) -> None:
        calls, rejected = [], []

        def make(start: int, stop: int) -> range:
            calls.append((start, stop))
            if bad & set(range(start, stop)):
                raise UnfitRow("bad")
            return range(start, stop)

        made = isolated(100, make, lambda index, _: rejected.append(index), lambda error: isinstance(error, UnfitRow))
        assert [number for part in made for number in part] == sorted(set(range(100)) - bad)
        assert rejected == sorted(bad)
        assert len(calls) <= 1 + 2 * 7 * len(bad)

    def test_other_errors_pass_through(self) -> None:
        def make(start: int, stop: int) -> None:
            raise OSError("the store")

        with pytest.raises(OSError, match="the store"):
            isolated(3, make, lambda index, error: None, lambda error: isinstance(error, UnfitRow))

    def test_no_rows(self) -> None:
        assert isolated(0, lambda start, stop: 1 // 0, lambda index, error: None, lambda error: True) == []


class TestNames:
    """The step names the sink, once, whatever raised: what encodes rows does not know whose they are."""

    @pytest.mark.parametrize(
        ("layout", "row", "words"),
        [
            (FileLayout("text"), "two\nlines", "got a row that holds a line end"),
            (FileLayout(schema=SCHEMA), {"id": "x"}, r"a row \(dict\) does not fit its schema: column 'id'"),
            (FileLayout(), {"id": 1}, "got a row of type dict and has no schema"),
            (FileLayout(schema=SCHEMA), pa.record_batch({"id": [1]}), "got an Arrow batch without exactly one column"),
            (
                FileLayout(partition_by=["place"]),
                pa.record_batch({"id": [1]}),
                r"partition_by=\['place'\], and the rows",
            ),
        ],
    )
    def test_an_error_names_the_sink_once(self, layout: FileLayout, row: Any, words: str) -> None:
        blocks = ToBlocks(FileEncoding(layout), "orders")
        with pytest.raises(ConfigurationError, match=f"^sink 'orders': {words}") as raised:
            _ = blocks.process(row), blocks.finish_bundle()
        assert str(raised.value).count("orders") == 1

    def test_a_reason_does_not_since_its_step_does(self) -> None:
        rejecting = FileEncoding(FileLayout("text")).rejecting_blocks("orders")
        rejecting.of_rows(["two\nlines"])
        (rejected,) = rejecting.rejected
        assert rejected.step == "orders"
        assert rejected.reason.startswith("got a row that holds a line end")


class TestArrowInFolders:
    def test_rows_that_name_no_folder_are_rejected_out_of_many_batches(self) -> None:
        seed = 5
        chooser = random.Random(seed)
        rows = [{"id": number, "place": chooser.choice(["a", "b", "c", None])} for number in range(40_000)]
        for number in (17, 20_000, 39_999):
            rows[number]["place"] = ""
        batches = [pa.RecordBatch.from_pylist(rows[at : at + 1000], SCHEMA) for at in range(0, len(rows), 1000)]
        blocks = ToBlocksOrReject(FileEncoding(FileLayout(partition_by=["place"])), "orders")
        blocks.start_bundle()
        emitted = [one for batch in batches for one in blocks.process(batch) or ()]
        at_end = blocks.finish_bundle()
        emitted += [plain(one) for one in at_end]

        counts = [one.value for one in emitted if isinstance(one, beam.pvalue.TaggedOutput) and one.tag == COUNTS]
        assert counts == [gathered(RejectedCount("orders", 3))]
        rejected = [one.value for one in emitted if isinstance(one, beam.pvalue.TaggedOutput) and one.tag == REJECTED]
        assert sorted(row.row for row in rejected) == sorted(str(rows[number]) for number in (17, 20_000, 39_999))
        found = Counter(
            (folder, number)
            for folder, batch in (one for one in emitted if isinstance(one, tuple))
            for number in batch.column("id").to_pylist()
        )
        expected = [row for row in rows if row["place"] != ""]
        folders = {None: "place=__HIVE_DEFAULT_PARTITION__", "a": "place=a", "b": "place=b", "c": "place=c"}
        assert found == Counter((folders[row["place"]], row["id"]) for row in expected), f"seed {seed}"

    def test_a_failed_bundle_counts_for_nothing(self) -> None:
        blocks = ToBlocksOrReject(FileEncoding(FileLayout("text")), "orders")
        blocks.start_bundle()
        for _ in range(2000):
            blocks.process("two\nlines")
        blocks.start_bundle()
        blocks.process("two\nlines")
        assert [plain(one).value for one in blocks.finish_bundle()][1:] == [gathered(RejectedCount("orders", 1))]

    def test_the_records_schema_has_all_that_a_rejected_record_keeps(self) -> None:
        assert set(Rejected._fields[3:-1]) < set(RECORD_SCHEMA.names)


def plain(output: Any) -> Any:
    """An output of ``finish_bundle`` without its window."""
    if isinstance(output, beam.pvalue.TaggedOutput):
        return beam.pvalue.TaggedOutput(output.tag, output.value.value)
    return output.value
