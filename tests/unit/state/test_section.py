"""A section is read as it was written, or refused by name: never as an empty one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import ipc

from beam_exactly_once.errors import CheckpointHole, CorruptObject, NewerFormat
from beam_exactly_once.object_store.memory import MemoryStore
from beam_exactly_once.state.run import Run
from beam_exactly_once.state.section import _digest, batch_of, fetch_from, pack, read_section
from beam_exactly_once.state.state_list import Section
from support.state_rows import Row, rows_of, rows_with, run_of

KEY = "state/counts/00000000000000000007-ab.arrow"
ROWS = rows_with(st.sampled_from([b"", b"\0", b"1"]))
SOME = [Row(b"a", b"", b"1", 9), Row(b"a", b"x", b"2", 5), Row(b"b", b"", None)]


def written(batch: pa.RecordBatch, *, times: int = 1) -> tuple[Section, bytes]:
    """A section that only its content could give away."""
    sink = pa.BufferOutputStream()
    with ipc.new_stream(sink, batch.schema) as writer:
        for _ in range(times):
            writer.write_batch(batch)
    body = sink.getvalue().to_pybytes()
    return Section(KEY, 0, len(body), _digest(body), batch.num_rows, int(run_of(SOME).tombstones)), body


def changed(column: str, values: Any) -> tuple[Section, bytes]:
    batch = batch_of(run_of(SOME))
    at = batch.schema.names.index(column)
    return written(batch.set_column(at, batch.schema.field(at), pa.array(values, batch.schema.field(at).type)))


@given(st.lists(st.tuples(ROWS, st.sampled_from([0, 4, 64])), max_size=4))
def test_each_section_of_an_object_is_read_by_itself(written_rows: list[tuple[list[Row], int]]) -> None:
    runs = [run_of(rows, bits) for rows, bits in written_rows]

    body, refs = pack(KEY, runs)

    assert sum(ref.size_bytes for ref in refs) == len(body)
    for ref, run in zip(refs, runs, strict=True):
        read = read_section(ref, body[ref.offset :][: ref.size_bytes])
        assert rows_of(read) == rows_of(run)
        assert read.hashes.tolist() == run.hashes.tolist()
        assert read.versions.tolist() == run.versions.tolist()
        assert read.due(-1, 9).tolist() == run.due(-1, 9).tolist()
        assert (ref.rows, ref.tombstones) == (len(run), run.tombstones)


def test_a_slice_of_a_run_is_written_without_the_rest() -> None:
    run = run_of([Row(b"%d" % number, b"", b"v" * 1000, number) for number in range(1000)])
    part = run.slice(int(run.hashes[500]), int(run.hashes[510]))

    body, (ref,) = pack(KEY, [part])

    assert len(body) < 10_000
    assert rows_of(read_section(ref, body)) == rows_of(run)[500:510]


@pytest.mark.parametrize(
    "value_type",
    [pa.int64(), pa.decimal128(20, 3), pa.list_(pa.struct([("a", pa.string())])), pa.map_(pa.string(), pa.float64())],
    ids=str,
)
def test_values_may_be_of_plain_arrow_types(value_type: pa.DataType) -> None:
    body, (ref,) = pack(KEY, [Run.empty(value_type)])

    assert read_section(ref, body).values.type == value_type


@pytest.mark.parametrize(
    "value_type",
    [
        pa.dictionary(pa.int8(), pa.string()),
        pa.list_(pa.dictionary(pa.int8(), pa.string())),
        pa.uuid() if hasattr(pa, "uuid") else pa.string_view(),
        pa.struct([("a", pa.list_(pa.string_view()))]),
        pa.run_end_encoded(pa.int32(), pa.int64()),
        pa.sparse_union([pa.field("a", pa.int64())]),
    ],
    ids=str,
)
def test_types_that_are_more_than_their_bytes_are_refused(value_type: pa.DataType) -> None:
    run = replace(Run.empty(pa.int64()), values=pa.nulls(0, value_type))

    with pytest.raises(ValueError, match="state cannot be of type"):
        pack(KEY, [run])


@given(st.data())
def test_no_flipped_bit_and_no_cut_is_taken(data: st.DataObject) -> None:
    body, (_, ref) = pack(KEY, [run_of(SOME), run_of(SOME)])
    section = bytearray(body[ref.offset :])
    at = data.draw(st.integers(0, len(section) - 1))
    if data.draw(st.booleans()):
        section[at] ^= 1 << data.draw(st.integers(0, 7))
        complaint = "does not match its checksum"
    else:
        del section[at:]
        complaint = f"ends after {at} of {ref.size_bytes} bytes"

    with pytest.raises(CorruptObject, match=f"{KEY}: the section at byte {ref.offset} {complaint}"):
        read_section(ref, bytes(section))


@pytest.mark.parametrize(
    ("forged", "complaint"),
    [
        (written(batch_of(run_of(SOME)), times=2), "it has 2 batches of rows"),
        (written(batch_of(run_of(SOME)).drop_columns(["subkey"])), "its columns are"),
        (written(batch_of(run_of(SOME)).drop_columns(["by_expiry"])), "expire in no order"),
        (written(batch_of(run_of(SOME)).replace_schema_metadata({})), "its columns are"),
        (changed("hash", [3, 2, 1]), "not sorted"),
        (changed("subkey", [b"", b"", b""]), "not sorted|has 3 rows"),
        (changed("key", [b"a", None, b"b"]), "nulls where none can be"),
        (changed("by_expiry", [0, 0, 1]), "expire in another order"),
        (changed("by_expiry", [0, 1, 7]), "expire in another order"),
        (changed("version", [1, 1, 1]), "has 3 rows and 0 tombstones, not 3 and 1"),
        ((Section(KEY, 0, 4, _digest(b"what"), 0, 0), b"what"), "is not a section"),
        ((Section(KEY, 0, 0, _digest(b""), 0, 0), b""), "is not a section"),
    ],
)
def test_what_is_no_section_is_refused_whatever_its_checksum(forged: tuple[Section, bytes], complaint: str) -> None:
    with pytest.raises(CorruptObject, match=rf"{KEY}: the section at byte 0 .*({complaint})"):
        read_section(*forged)


def test_sections_of_newer_versions_are_named() -> None:
    batch = batch_of(run_of(SOME)).replace_schema_metadata({"beam_exactly_once.section": "2"})

    with pytest.raises(NewerFormat, match=f"{KEY} has a section of format 2 at byte 0"):
        read_section(*written(batch))


def test_sections_are_fetched_from_their_places_and_missed_by_name() -> None:
    store = MemoryStore("memory://sections")
    body, refs = pack(KEY, [run_of(SOME), run_of(SOME[:1])])
    store.put_if_absent(KEY, body)
    fetch = fetch_from(store)

    ref = refs[1]
    assert rows_of(read_section(ref, fetch(ref.object_key, ref.offset, ref.size_bytes))) == SOME[:1]

    gone = replace(ref, object_key="state/gone")
    with pytest.raises(
        CheckpointHole, match=f"memory://sections/state/gone does not exist.* from byte {ref.offset} on"
    ):
        fetch(gone.object_key, gone.offset, gone.size_bytes)
