"""Folders by the values of columns: readers see the values again, and no value leaves its folder."""

from __future__ import annotations

import datetime
import random
from collections import Counter
from pathlib import Path
from typing import Any

import apache_beam as beam
import duckdb
import pyarrow as pa
import pyarrow.dataset
import pytest

from beam_exactly_once import Record, WriteToFiles, read_batches
from beam_exactly_once.errors import ConfigurationError, UnfitRow
from beam_exactly_once.object_store import open_object_store
from beam_exactly_once.object_store.store_location import StoreLocation
from beam_exactly_once.sinks.files.bundle import BundleFiles
from beam_exactly_once.sinks.files.encoding import FileEncoding, row_blocks
from beam_exactly_once.sinks.files.layout import FileLayout
from beam_exactly_once.sinks.files.manifest import batch_id_of_part
from support.file_sinks import (
    Sink,
    attempt_of,
    keys,
    publish_batch,
    read_published,
    records,
    stage_bundle,
    staged_names,
    store_of,
)
from support.servers.moto_server import moto_server

SCHEMA = pa.schema([("id", pa.int64()), ("place", pa.string())])
PLACES = [
    "DE", "..", ".", "...", "/", "../../escaped", "a/b", "/etc/passwd", "\\", "a\\b", "C:", "~", "é", "e\u0301", "日本", "😀",
    " ", "a b", "a+b", "100%", "%41", "%2F", "x=y", "a&b", "a:b", "'", '"', "*?<>|#;$", "[x]", "{y}", "^", "\x00", "\x01",
    "\n", "\r\n", "\x7f", "\x85", "\u2028", "\u202e", "007", "1e3", "true", "null", "NULL", "_hidden", ".hidden", "_batches",
    "part-1.parquet", "2026-01-31", "\ufffe", "\U0010ffff", "place=DE",
]  # fmt: skip
"""Everything that a value might do to a path."""


def id_and_place(place: str | None, number: int) -> dict[str, Any]:
    return {"id": number, "place": place}


ROWS = [id_and_place(place, number) for number, place in enumerate([*PLACES, None, "DE", None])]


def seen_by_duckdb(place: str | None) -> str | None:
    """Before its version 2, which needs Python 3.11, a folder of the text "null" is one of nulls."""
    if int(duckdb.__version__.partition(".")[0]) < 2 and place is not None and place.lower() == "null":
        return None
    return place


def given_as(kind: str, rows: list[dict[str, Any]]) -> list[Any]:
    if kind == "rows":
        return list(rows)
    whole = pa.RecordBatch.from_pylist(rows, SCHEMA)
    if kind == "dictionary":
        return [pa.record_batch([whole[0], whole[1].dictionary_encode()], names=SCHEMA.names)]
    return [whole.slice(start, 7) for start in range(0, len(rows), 7)]


class TestReaders:
    @pytest.mark.parametrize("kind", ["rows", "arrow", "dictionary"])
    @pytest.mark.parametrize("format", ["parquet", "csv", "json"])
    def test_any_value_comes_back_and_stays_below_the_output(self, tmp_path: Path, format: str, kind: str) -> None:
        output = tmp_path / "lake" / "orders"
        layout: dict[str, Any] = {"format": format, "partition_by": ["place"]}
        if kind != "dictionary" and not (format == "json" and kind == "rows"):
            layout["schema"] = SCHEMA
        publish_batch(str(output), stage_bundle(str(output), given_as(kind, ROWS), **layout))

        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        depths = Counter(len(path.relative_to(output).parts) for path in files)
        assert depths == {2: len(PLACES) + 2}, "a folder for each value, and the manifest's"
        assert {path.parent.parent for path in files} == {output}

        partitioning = pa.dataset.partitioning(pa.schema([("place", pa.string())]), flavor="hive")
        found = pa.dataset.dataset(
            [str(path) for path in files if path.parent.name != "_batches"],
            format=format,
            partitioning=partitioning,
            partition_base_dir=str(output),
        )
        by_arrow = sorted((row["id"], row["place"]) for row in found.to_table().to_pylist())
        reader = {"parquet": "read_parquet", "csv": "read_csv", "json": "read_json"}[format]
        by_duckdb = duckdb.sql(
            f"select id, place from {reader}('{output}/place=*/*', hive_partitioning=true, hive_types_autocast=false) order by 1"
        ).fetchall()
        expected = [(row["id"], row["place"]) for row in ROWS]
        assert by_arrow == expected
        assert by_duckdb == [(number, seen_by_duckdb(place)) for number, place in expected]
        assert sorted((int(row["id"]), row["place"]) for row in read_published(str(output))) == expected

    def test_any_value_is_a_key_of_s3(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with moto_server() as server:
            for name, value in server.environment.items():
                monkeypatch.setenv(name, value)
            output = f"{server.create_bucket('lake-of-places')}/orders"
            stage_bundle(output, given_as("arrow", ROWS), 0, schema=SCHEMA, partition_by=["place"])
            committables = stage_bundle(output, given_as("arrow", ROWS), 1, schema=SCHEMA, partition_by=["place"])
            publish_batch(output, committables, 1).sweep(1)
            assert staged_names(output) == []
            assert [key for key in keys(output) if "/part-" in key] == sorted(one["final_key"] for one in committables)
            assert sorted((row["id"], row["place"]) for row in read_published(output)) == [
                (row["id"], row["place"]) for row in ROWS
            ]

    @pytest.mark.parametrize("as_arrow", [False, True])
    def test_columns_of_every_type_in_the_given_order(self, tmp_path: Path, as_arrow: bool) -> None:
        output = str(tmp_path / "out")
        schema = pa.schema(
            [("day", pa.date32()), ("id", pa.int64()), ("paid", pa.bool_()), ("shard", pa.int16()), ("at", pa.date64())]
        )
        day = datetime.date(2026, 1, 31)
        rows = [
            {"day": day, "id": 0, "paid": True, "shard": -3, "at": day},
            {"day": None, "id": 1, "paid": False, "shard": 7, "at": day},
            {"day": day, "id": 2, "paid": None, "shard": None, "at": None},
            {"day": day, "id": 3, "paid": True, "shard": -3, "at": day},
        ]
        given: list[Any] = [pa.RecordBatch.from_pylist(rows, schema)] if as_arrow else rows
        partition_by = ["paid", "shard", "day", "at"]
        publish_batch(output, stage_bundle(output, given, schema=schema, partition_by=partition_by))
        null = "__HIVE_DEFAULT_PARTITION__"
        assert sorted({key.rpartition("/")[0] for key in keys(output) if "part-" in key}) == [
            f"paid={null}/shard={null}/day=2026-01-31/at={null}",
            f"paid=false/shard=7/day={null}/at=2026-01-31",
            "paid=true/shard=-3/day=2026-01-31/at=2026-01-31",
        ]
        read = duckdb.sql(
            f"select day, id, paid, shard, \"at\" from read_parquet('{output}/*/*/*/*/*.parquet', hive_partitioning=true, "
            "hive_types={'day': date, 'paid': bool, 'shard': smallint, 'at': date}) order by id"
        )
        assert read.fetchall() == [tuple(row.values()) for row in rows]

    def test_rows_keep_their_order_within_a_folder(self, output: str) -> None:
        seed = 11
        chooser = random.Random(seed)
        rows = [
            {"id": number, "place": chooser.choice("abc"), "shard": chooser.randrange(2)} for number in range(40_000)
        ]
        schema = pa.schema([*SCHEMA, ("shard", pa.int8())])
        batches = [pa.RecordBatch.from_pylist(rows[at : at + 900], schema) for at in range(0, len(rows), 900)]
        publish_batch(output, stage_bundle(output, batches, partition_by=["shard", "place"]))
        (batch,) = read_batches(output)
        assert len(batch.files) == 6
        assert batch.rows_written == len(rows)
        by_folder: dict[Any, list[int]] = {}
        for row in read_published(output):
            by_folder.setdefault((row["place"], int(row["shard"])), []).append(row["id"])
        for (place, shard), ids in by_folder.items():
            assert ids == [row["id"] for row in rows if (row["place"], row["shard"]) == (place, shard)], f"seed {seed}"

    def test_kafka_records_by_topic_and_partition(self, output: str) -> None:
        given = [
            Record("a", 0, 0, value=b"0"),
            Record("a", 1, 1, value=b"1"),
            Record("b.c", 0, 2, value=b"2"),
        ]
        for batch_id, layout in enumerate([{}, {"format": "json"}]):
            committables = stage_bundle(output, given, batch_id, partition_by=["topic", "partition"], **layout)
            publish_batch(output, committables, batch_id)
            folders = [str(one["final_key"]).rpartition("/")[0] for one in committables]
            assert folders == ["topic=a/partition=0", "topic=a/partition=1", "topic=b.c/partition=0"]
        for row in read_published(output):
            value = row["value"] if isinstance(row["value"], bytes) else row["value"].encode()
            assert Record(row["topic"], int(row["partition"]), row["offset"], value=value) in given

    def test_text_by_the_other_columns(self, output: str) -> None:
        schema = pa.schema([("line", pa.string()), ("place", pa.string())])
        rows = [{"line": "one", "place": "a"}, {"line": "two", "place": "b"}, {"line": "three", "place": "a"}]
        publish_batch(output, stage_bundle(output, rows, format="text", schema=schema, partition_by=["place"]))
        assert read_published(output) == [
            {"line": b"one", "place": "a"},
            {"line": b"three", "place": "a"},
            {"line": b"two", "place": "b"},
        ]


class TestBounds:
    @pytest.mark.parametrize("format", ["parquet", "csv", "json"])
    def test_many_folders_in_turn_take_bounded_files_and_memory(
        self, output: str, format: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        max_waiting = 64 << 10
        monkeypatch.setattr("beam_exactly_once.sinks.files.bundle.MAX_GATHERED_BYTES", max_waiting)
        monkeypatch.setattr("beam_exactly_once.sinks.files.encoding.SPLIT_ROWS", 10)
        sink = Sink(output, schema=SCHEMA, format=format, partition_by=["place"], max_open_files=5)
        sink.start_bundle(attempt_of(0))
        most_open = most_waiting = 0
        for first in range(0, 1000, 10):
            rows = [id_and_place(f"p{number % 100}", number) for number in range(first, first + 10)]
            sink.process(pa.RecordBatch.from_pylist(rows, SCHEMA))
            files = sink.stage._files
            if files is not None:
                most_open, most_waiting = max(most_open, len(files._open)), max(most_waiting, files._waiting_bytes)
        committables = sink.finish_bundle()
        assert most_open == 5
        assert max_waiting / 2 < most_waiting < max_waiting
        publish_batch(output, committables)
        names = [one["final_key"] for one in committables]
        assert len(set(names)) == len(names) > 100, "folders whose file was closed got another"
        numbers = sorted(int(name.partition(".")[0][-5:]) for name in names)
        assert numbers == list(range(len(names)))
        found = sorted((int(row["id"]), row["place"]) for row in read_published(output))
        assert found == [(number, f"p{number % 100}") for number in range(1000)]

    def test_small_blocks_count_for_what_they_take(self, output: str) -> None:
        """A batch of one row takes kilobytes, whatever Arrow says of its bytes."""
        files = BundleFiles(store_of(output), FileLayout(partition_by=["place"]), attempt_of(0))
        before = pa.total_allocated_bytes()
        for number in range(1000):
            files.write(f"place=p{number}", pa.RecordBatch.from_pylist([{"id": number}]))
        allocated = pa.total_allocated_bytes() - before
        assert 0 < allocated <= files._waiting_bytes
        files.abort()

    @pytest.mark.parametrize("format", ["parquet", "json"])
    def test_a_full_file_of_a_folder_gives_way_to_a_new_one(self, output: str, format: str) -> None:
        chooser = random.Random(7)
        rows = [
            {"id": number, "place": "ab"[number % 2], "noise": chooser.randbytes(50).hex()} for number in range(2000)
        ]
        schema = pa.schema([*SCHEMA, ("noise", pa.string())])
        committables = stage_bundle(
            output, rows, schema=schema, format=format, partition_by=["place"], max_file_bytes=20_000
        )
        publish_batch(output, committables)
        of_folder = Counter(one["final_key"].partition("/")[0] for one in committables)
        assert of_folder.keys() == {"place=a", "place=b"}
        assert min(of_folder.values()) >= 2
        for place, count in of_folder.items():
            names = [one["final_key"] for one in committables if one["final_key"].startswith(f"{place}/")]
            assert names == sorted(names)
            assert len(names) == count
        assert sorted(int(row["id"]) for row in read_published(output)) == list(range(2000))

    def test_a_failed_bundle_drops_the_files_of_all_folders(self, output: str) -> None:
        sink = Sink(output, schema=SCHEMA, format="json", partition_by=["place"], max_file_bytes=100)
        sink.start_bundle(attempt_of(0))
        for number in range(5000):
            sink.process(id_and_place("ab"[number % 2], number))
        closed = staged_names(output)
        (committable,) = sink.bundle([id_and_place("c", 9999)], attempt_of(0, nonce="ffff"))
        sink.stage.teardown()
        assert committable["rows"] == 1
        assert set(staged_names(output)) <= {*closed, committable["final_key"]}

    @pytest.mark.parametrize("format", ["parquet", "json"])
    def test_blocks_travel_between_workers_that_do_not_fuse(self, format: str) -> None:
        layout = FileLayout(format, SCHEMA, partition_by=["place"])  # type: ignore[arg-type]
        made = row_blocks(layout)
        blocks = made.of_batch(pa.RecordBatch.from_pylist(ROWS, SCHEMA)) + made.rest()
        coder = beam.coders.registry.get_coder(layout.folder_block_type)
        assert len(blocks) == len(PLACES) + 1
        assert [coder.decode(coder.encode(block)) for block in blocks] == blocks


class TestNames:
    def test_sweep_and_manifests_know_nested_names(self, output: str) -> None:
        losing = stage_bundle(output, given_as("arrow", ROWS), 3, schema=SCHEMA, partition_by=["place"])
        kept = stage_bundle(output, given_as("arrow", ROWS), 5, schema=SCHEMA, partition_by=["place"])
        assert {batch_id_of_part(one["final_key"]) for one in losing} == {3}
        publisher = publish_batch(output, stage_bundle(output, records(1), 4), 4)
        publisher.sweep(4)
        assert staged_names(output) == sorted(one["final_key"] for one in kept)
        publish_batch(output, kept, 5)
        assert [(batch.batch_id, batch.rows_written) for batch in read_batches(output)] == [(4, 1), (5, len(ROWS))]
        for file in list(read_batches(output))[1].files:
            assert store_of(output).size_bytes(file.name) == file.size_bytes

    @pytest.mark.parametrize("format", ["parquet", "json"])
    def test_the_longest_name_that_a_disk_takes_and_a_longer_one(self, tmp_path: Path, format: str) -> None:
        layout: dict[str, Any] = {"format": format, "partition_by": ["place"]}
        if format == "parquet":
            layout["schema"] = SCHEMA
        output = str(tmp_path / "out")
        publish_batch(output, stage_bundle(output, [id_and_place("é" * 60, 1)], **layout))
        assert [row["place"] for row in read_published(output)] == ["é" * 60]
        for length in (154, 240):
            with pytest.raises(UnfitRow, match=r"cannot partition by place: .* which is too long there"):
                stage_bundle(output, [id_and_place("x" * length, 1)], **layout)
        with pytest.raises(ConfigurationError, match=r"partition by place: .*256 bytes, and 255 is the most"):
            stage_bundle(output, [id_and_place("x" * 250, 1)], **layout)
        assert len(list(open_object_store(output).list_staged())) == 0

    def test_rows_of_folders_that_are_too_long_are_rejected_alone(self, tmp_path: Path) -> None:
        layout = FileLayout("json", partition_by=["place"])
        blocks = FileEncoding(layout, StoreLocation(str(tmp_path), None)).rejecting_blocks("orders")
        rows = [id_and_place("x" * length, length) for length in (1, 200, 2, 230)]
        made = blocks.of_rows(rows)
        assert sorted(folder for folder, _ in made) == ["place=x", "place=xx"]
        assert [rejected.error for rejected in blocks.rejected] == [f"{UnfitRow.__module__}.UnfitRow"] * 2

    @pytest.mark.parametrize("root", ["{}/out", "s3://lake/orders", "gs://lake/orders"])
    def test_the_longest_key_that_a_store_takes(self, tmp_path: Path, root: str) -> None:
        """One folder in another, each short enough."""
        store = open_object_store(root.format(tmp_path))
        lengths = [length for length in range(1, 1200) if store.takes("/".join(["x" * 20] * 60)[:length])]
        longest = len(lengths)
        assert lengths == list(range(1, longest + 1))
        if root.startswith("s3"):
            assert longest == 1024 - len("orders/")
        elif root.startswith("gs"):
            assert longest == 1024 - len(".orders.staging/") - len("/" + "0" * 32)
        else:
            key = "/".join(["x" * 20] * 60)[:longest]
            with store.stage(key) as target:
                target.write(b"1")
            assert store.publish(target.staged)

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            (id_and_place("", 1), "place: its value is an empty text, .* readers would take it for null"),
            (id_and_place("__HIVE_DEFAULT_PARTITION__", 1), "readers would take it for null"),
        ],
    )
    @pytest.mark.parametrize("kind", ["rows", "arrow"])
    def test_values_that_readers_would_take_for_null_are_refused(
        self, output: str, row: dict[str, Any], message: str, kind: str
    ) -> None:
        layout: dict[str, Any] = {"schema": SCHEMA} if kind == "arrow" else {"format": "json"}
        with pytest.raises(ConfigurationError, match=message):
            stage_bundle(output, given_as(kind, [row]), partition_by=["place"], **layout)
        assert staged_names(output) == []

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            (1.5, "type float"),
            (b"x", "type bytes"),
            (datetime.datetime(2026, 1, 1), "datetime"),
            ("\ud800", "not Unicode"),
        ],
    )
    def test_values_that_name_no_folder_are_refused(self, output: str, value: Any, message: str) -> None:
        with pytest.raises(ConfigurationError, match=message):
            stage_bundle(output, [{"id": 1, "place": value}], format="json", partition_by=["place"])

    def test_arrow_batches_without_the_column_are_refused(self, output: str) -> None:
        with pytest.raises(ConfigurationError, match="no column 'place': they have id"):
            stage_bundle(output, [pa.record_batch({"id": [1]})], partition_by=["place"])
        with pytest.raises(ConfigurationError, match="leaves nothing for the files"):
            stage_bundle(output, [pa.record_batch({"place": ["a"]})], partition_by=["place"])

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"partition_by": "place"}, r"must be a list of columns: partition_by=\['place'\]"),
            ({"partition_by": [7]}, "must be a list of names of columns"),
            ({"partition_by": ["a=b"]}, "'a=b'"),
            ({"partition_by": ["_hidden"]}, "'_hidden'"),
            ({"partition_by": ["../up"]}, "up"),
            ({"partition_by": ["place", "place"]}, "twice"),
            ({"partition_by": ["city"], "schema": SCHEMA}, "no column 'city'"),
            ({"partition_by": ["id", "place"], "schema": SCHEMA}, "leaves nothing"),
            ({"partition_by": ["f"], "schema": pa.schema([("f", pa.float64()), ("g", pa.int8())])}, "of type double"),
            ({"partition_by": ["f"], "schema": pa.schema([("f", pa.timestamp("s")), ("g", pa.int8())])}, "timestamp"),
            ({"partition_by": ["place"], "max_open_files": 0}, "max_open_files=0"),
        ],
    )
    def test_arguments_are_checked_at_once(self, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigurationError, match=message):
            WriteToFiles("/tmp/x", **arguments)
