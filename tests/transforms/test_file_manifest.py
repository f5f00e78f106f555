"""Manifests: whole batches in order, and who may write to an output."""

from __future__ import annotations

import pytest

from beam_exactly_once import read_batches
from beam_exactly_once.errors import (
    CheckpointHole,
    CorruptObject,
    NewerFormat,
    OlderFormat,
    SinkAhead,
)
from beam_exactly_once.object_store.store_location import StoreLocation
from beam_exactly_once.sinks.files.manifest import OWNER, batch_id_of_part, manifest_key, part_name
from beam_exactly_once.sinks.files.publisher import FilesPublisher
from support.file_sinks import (
    STREAM,
    attempt_of,
    keys,
    publish_batch,
    records,
    stage_bundle,
    store_of,
)


class TestStart:
    def test_a_new_output_is_taken_for_the_stream(self, output: str) -> None:
        publisher = FilesPublisher("orders", StoreLocation(output, None))
        for _ in range(2):
            publisher.check_start(STREAM, 0)
        assert keys(output) == [OWNER]
        with pytest.raises(SinkAhead, match=f"belongs to stream {STREAM}; this is stream 0ther"):
            publisher.check_start("0ther", 0)

    @pytest.mark.parametrize("next_batch_id", [3, 4])
    def test_the_newest_batch_may_lack_its_manifest(self, output: str, next_batch_id: int) -> None:
        for batch_id in range(3):
            publisher = publish_batch(output, [], batch_id)
        publisher.check_start(STREAM, next_batch_id)

    @pytest.mark.parametrize("next_batch_id", [0, 1, 2])
    def test_an_output_ahead_of_the_checkpoint_is_refused(self, output: str, next_batch_id: int) -> None:
        for batch_id in range(3):
            publisher = publish_batch(output, [], batch_id)
        with pytest.raises(SinkAhead, match=rf"next batch of the checkpoint is {next_batch_id}.*older copy"):
            publisher.check_start(STREAM, next_batch_id)

    @pytest.mark.parametrize("next_batch_id", [0, 1, 9])
    def test_an_output_of_another_stream_is_refused(self, output: str, next_batch_id: int) -> None:
        publisher = publish_batch(output, [], 0, stream_id="0ther")
        with pytest.raises(SinkAhead, match=r"belongs to stream 0ther.*this is stream 5eed"):
            publisher.check_start(STREAM, next_batch_id)

    def test_other_objects_among_the_manifests_do_not_matter(self, output: str) -> None:
        publish_batch(output, [], 0)
        store_of(output).put_if_absent("_batches/README.md", b"")
        FilesPublisher("orders", StoreLocation(output, None)).check_start(STREAM, 1)
        assert [batch.batch_id for batch in read_batches(output)] == [0]


class TestReadBatches:
    def test_batches_come_in_order_and_a_reader_goes_on(self, output: str) -> None:
        for batch_id in (0, 1, 2):
            publish_batch(output, stage_bundle(output, records(batch_id), batch_id), batch_id)
        assert [(batch.batch_id, batch.rows_written) for batch in read_batches(output)] == [(0, 0), (1, 1), (2, 2)]
        assert [batch.batch_id for batch in read_batches(output, after_batch_id=1)] == [2]
        assert list(read_batches(output, after_batch_id=2)) == []

    def test_an_output_without_batches(self, output: str) -> None:
        assert list(read_batches(output)) == []

    def test_a_hole_is_named_after_what_comes_before_it(self, output: str) -> None:
        for batch_id in (0, 1, 3):
            publish_batch(output, [], batch_id)
        batches = read_batches(output)
        assert [next(batches).batch_id, next(batches).batch_id] == [0, 1]
        with pytest.raises(CheckpointHole, match=f"{manifest_key(2)} is missing"):
            next(batches)

    @pytest.mark.parametrize(
        ("body", "error"),
        [
            (b"", CorruptObject),
            (b"[]", CorruptObject),
            (b'{"format_version": 2}', CorruptObject),
            (b'{"format_version": 3}', NewerFormat),
            (b'{"format_version": 1}', OlderFormat),
        ],
    )
    def test_manifests_that_cannot_be_read(self, output: str, body: bytes, error: type[Exception]) -> None:
        store_of(output).put_if_absent(manifest_key(0), body)
        with pytest.raises(error, match=manifest_key(0)):
            list(read_batches(output))

    def test_a_manifest_under_a_wrong_name(self, output: str) -> None:
        publish_batch(output, [], 0)
        body = store_of(output).get(manifest_key(0))
        assert body is not None
        store_of(output).put_if_absent(manifest_key(1), body)
        with pytest.raises(CorruptObject, match="manifest of batch 0"):
            list(read_batches(output))


def test_names_sort_by_batch() -> None:
    batch_ids = [0, 9, 10, 99, 10**12]
    names = [part_name(attempt_of(batch_id), "0" * 16, 0, "json.gz") for batch_id in reversed(batch_ids)]
    assert list(map(batch_id_of_part, sorted(names))) == batch_ids
