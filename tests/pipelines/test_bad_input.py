"""Whatever is wrong gives one error that names the thing and the way out, and loses nothing: after the fix the same
command goes on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

import apache_beam as beam
import orjson
import pyarrow as pa
import pytest

from beam_exactly_once import ExactlyOnceStream, ReadFromKafka, Record, WriteToFiles, read_batches
from beam_exactly_once.checkpoint import Attempt, Checkpoint, marker_of_resolution
from beam_exactly_once.checkpoint.layout import commits_key, offsets_key
from beam_exactly_once.checkpoint.resolution import propose
from beam_exactly_once.errors import (
    BeamExactlyOnceError,
    CheckpointHole,
    CorruptObject,
    DataLoss,
    Fenced,
    ForeignObject,
    KafkaUnavailable,
    NewerFormat,
    OutputNotWritable,
    PipelineChanged,
    SinkAhead,
    UnknownTopic,
    UnsuitableStore,
)
from beam_exactly_once.object_store import Created, ObjectStore, PutResult, open_object_store, override_stores
from beam_exactly_once.pipelines.kafka_to_files import main
from beam_exactly_once.sinks.files.manifest import OWNER, owner_bytes
from beam_exactly_once.testing.crashing import KillPoint, StoreCalls, WatchedStore, watching
from support.orders_to_files import OrdersToFiles

pytestmark = pytest.mark.runs_on("DirectRunner")


@pytest.fixture
def stream(tmp_path: Path) -> OrdersToFiles:
    stream = OrdersToFiles(tmp_path)
    stream.produce(1, 2)
    stream.run()
    assert stream.written() == [1, 2]
    stream.produce(3)
    return stream


def refused(stream: OrdersToFiles, error: type[BeamExactlyOnceError], *words: str, **run: Any) -> str:
    """The run ends with that error, whose message has these words; what is visible stays."""
    before = stream.written()
    with pytest.raises(error) as raised:
        stream.run(**run)
    message = str(raised.value)
    assert [word for word in words if word not in message] == [], message
    assert "\n" not in message
    assert stream.written() == before
    return message


def test_an_unknown_topic_is_named_before_anything_is_claimed(stream: OrdersToFiles) -> None:
    refused(stream, UnknownTopic, "'refunds'", topics=("refunds",))
    assert len(list((stream.folder / "writers").iterdir())) == 1
    stream.run()
    assert stream.written() == [1, 2, 3]


def test_an_unreachable_broker_is_named_within_the_time_that_was_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(
        [
            "--bootstrap-servers=127.0.0.1:1",
            "--topics=orders",
            f"--output-location={tmp_path / 'output'}",
            f"--checkpoint-location={tmp_path / 'checkpoint'}",
            "--timeout-s=1",
        ]
    )
    assert code == KafkaUnavailable.exit_code
    assert "KafkaUnavailable: Kafka at 127.0.0.1:1 did not answer within 1 s" in capsys.readouterr().err


def test_offsets_that_retention_took_are_an_error(stream: OrdersToFiles) -> None:
    stream.produce(4, 5)
    stream.cluster.delete_records("orders", 0, 4)
    refused(stream, DataLoss, "orders-0", "[2, 4)", "on_data_loss")


def test_offsets_that_retention_took_are_passed_on_the_record_when_loss_is_allowed(stream: OrdersToFiles) -> None:
    stream.produce(4, 5)
    stream.cluster.delete_records("orders", 0, 4)
    stream.run(on_data_loss="skip")
    assert stream.written() == [1, 2, 5]
    assert stream.progress[-1].offsets_lost["kafka"] == 2
    marker = orjson.loads((stream.folder / commits_key(1)).read_bytes())["body"]
    assert marker["sources"]["kafka"]["lost"] == {"orders": {"0": [[2, 4]]}}


def test_offsets_that_vanish_between_plan_and_read_are_an_error_or_on_the_record(stream: OrdersToFiles) -> None:
    calls = StoreCalls(KillPoint("put_if_absent", "offsets/", 1), lambda: stream.cluster.delete_records("orders", 0, 3))
    with watching(calls):
        refused(stream, DataLoss, "orders-0")
    stream.produce(4)
    stream.run(on_data_loss="skip")
    assert stream.written() == [1, 2, 4]
    assert [sum(batch.offsets_lost.values()) for batch in stream.progress[1:]] == [1, 0]


def test_a_newer_format_says_to_upgrade(stream: OrdersToFiles) -> None:
    edit(stream.folder / "metadata.json", min_reader_version=99)
    refused(stream, NewerFormat, "metadata.json", "99", "nstall")


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty"])
def test_a_damaged_marker_is_named(stream: OrdersToFiles, damage: str) -> None:
    marker = stream.folder / commits_key(0)
    whole = marker.read_bytes()
    marker.write_bytes(
        {"truncate": whole[:-20], "flip": whole.replace(b'"committed"', b'"abandoned"'), "empty": b""}[damage]
    )
    refused(stream, CorruptObject, commits_key(0), "verify")
    marker.write_bytes(whole)
    stream.run()
    assert stream.written() == [1, 2, 3]


def test_an_object_of_another_stream_is_named(stream: OrdersToFiles, tmp_path: Path) -> None:
    other = OrdersToFiles(tmp_path / "other")
    other.produce(1)
    other.run()
    shutil.copy(other.folder / commits_key(0), stream.folder / commits_key(0))
    refused(stream, ForeignObject, commits_key(0))


def test_a_checkpoint_without_its_metadata_is_refused(stream: OrdersToFiles) -> None:
    (stream.folder / "metadata.json").unlink()
    refused(stream, CheckpointHole, "metadata.json")


def test_a_hole_in_the_plans_is_named(stream: OrdersToFiles) -> None:
    second = stream.folder / offsets_key(2)
    shutil.copy(stream.folder / offsets_key(0), second)
    refused(stream, CheckpointHole, "batch 1")


def test_a_wiped_checkpoint_does_not_write_its_output_again(stream: OrdersToFiles) -> None:
    shutil.rmtree(stream.folder)
    refused(stream, SinkAhead, str(stream.output), "stream")


def test_of_two_new_streams_on_one_empty_output_the_second_is_refused_before_it_stages(
    tmp_path: Path, stream: OrdersToFiles
) -> None:
    """Both found it empty; the second one's sweep would remove what the first one has committed and not yet published."""
    output = tmp_path / "shared"
    open_object_store(str(output)).put_if_absent(OWNER, owner_bytes("0123456789abcdef"))
    stream.output = output
    shutil.rmtree(stream.folder)
    refused(stream, SinkAhead, str(output), "belongs to stream 0123456789abcdef", f"remove {OWNER}")


def test_an_older_copy_of_the_checkpoint_does_not_write_its_output_again(stream: OrdersToFiles) -> None:
    copy = stream.folder.with_name("copy")
    shutil.copytree(stream.folder, copy)
    stream.run()
    shutil.rmtree(stream.folder)
    copy.rename(stream.folder)
    refused(stream, SinkAhead, str(stream.output), "older copy")


def test_a_driver_whose_location_is_wiped_publishes_nothing_more(stream: OrdersToFiles) -> None:
    """Its marker is in the emptied location by then; nothing there can be taken for a new stream."""
    calls = StoreCalls(KillPoint("put_if_absent", "offsets/", 1), lambda: shutil.rmtree(stream.folder))
    with watching(calls):
        refused(stream, CheckpointHole, stream.location, "emptied or replaced")
    refused(stream, CheckpointHole, "metadata.json")


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to run the pipeline as somebody else")
@pytest.mark.parametrize("place", ["output", "checkpoint"])
def test_a_place_without_permission_is_named(tmp_path: Path, place: str) -> None:
    for name in ("output", "checkpoint"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o555 if name == place else 0o777)
    for folder in (tmp_path, *takewhile(lambda one: one != Path(tempfile.gettempdir()), tmp_path.parents)):
        folder.chmod(0o755)
    # The interpreter may live where only root may read, so the child becomes somebody else once all is imported.
    script = (
        "import os, sys; import beam_exactly_once.testing as kit; import beam_exactly_once.pipelines.kafka_to_files as job\n"
        "with kit.MemoryKafka({'orders': 1}).serving():\n"
        "    os.setuid(65534)\n"
        "    sys.exit(job.main(sys.argv[1:]))"
    )
    child = subprocess.run(
        [
            sys.executable,
            "-c",
            script,
            "--bootstrap-servers=memory:9092",
            "--topics=orders",
            f"--output-location={tmp_path}/output/orders",
            f"--checkpoint-location={tmp_path}/checkpoint/orders",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == OutputNotWritable.exit_code, child.stderr
    assert f"{tmp_path}/{place}" in child.stderr.splitlines()[-1]
    assert "no permission" in child.stderr.splitlines()[-1]


def test_an_output_that_is_a_file_is_named(tmp_path: Path) -> None:
    stream = OrdersToFiles(tmp_path)
    stream.produce(1)
    stream.output.write_text("in the way")
    with pytest.raises(OutputNotWritable, match="output"):
        stream.run()


def test_an_output_that_was_proved_is_not_proved_again_but_must_be_writable(stream: OrdersToFiles) -> None:
    """The first start proved it."""
    calls = StoreCalls(None, lambda: None)
    with watching(calls):
        stream.run()
    before_claim = [method for method, key in takewhile(lambda one: not one[1].startswith("writers/"), calls.log)]
    assert "check_writable" in before_claim
    assert "verify" not in before_claim


def test_two_drivers_on_one_checkpoint_end_with_the_older_one_fenced(stream: OrdersToFiles) -> None:
    newer = OrdersToFiles(stream.folder.parent)
    newer.cluster = stream.cluster
    calls = StoreCalls(KillPoint("put_if_absent", "offsets/", 1), newer.run)
    with watching(calls), pytest.raises(Fenced, match=r"writer 2 .* was replaced by writer 3"):
        stream.run()
    assert stream.written() == [1, 2, 3]


def test_a_store_that_ignores_conditional_writes_is_refused(tmp_path: Path) -> None:
    class Careless(WatchedStore):
        verify = ObjectStore.verify

        def put_if_absent(self, key: str, body: bytes) -> PutResult:
            self.delete([key])
            super().put_if_absent(key, body)
            return Created()

    def open_careless(uri: str, options: Mapping[str, Any] | None) -> ObjectStore:
        return Careless(open_object_store(uri, options), StoreCalls(None, lambda: None))

    stream = OrdersToFiles(tmp_path)
    stream.produce(1)
    with override_stores(open_careless), pytest.raises(UnsuitableStore, match="conditional"):
        stream.run()


def test_a_renamed_sink_is_refused(stream: OrdersToFiles) -> None:
    refused(stream, PipelineChanged, "'files'", "name='files'", sink="orders")


def test_a_sink_that_moved_is_refused(stream: OrdersToFiles) -> None:
    stream.output = stream.output.with_name("elsewhere")
    refused(stream, PipelineChanged, "elsewhere", "location")


def test_a_wrong_output_of_a_new_stream_can_be_corrected(tmp_path: Path) -> None:
    stream = OrdersToFiles(tmp_path)
    stream.produce(1)
    right = stream.output
    stream.output = tmp_path / "file" / "output"
    stream.output.parent.write_text("in the way")
    with pytest.raises(OutputNotWritable):
        stream.run()
    stream.output = right
    stream.run()
    assert stream.written() == [1]


def test_a_test_of_the_store_that_was_cut_off_is_no_stream(tmp_path: Path) -> None:
    stream = OrdersToFiles(tmp_path)
    stream.produce(1)
    left = stream.folder / ".verify" / "00"
    left.parent.mkdir(parents=True)
    left.write_text("left behind")
    stream.run()
    assert stream.written() == [1]


@pytest.mark.parametrize(
    ("moment", "outcomes"),
    [(("get", "offsets/", 1), ["abandoned", "committed"]), (("list", "offsets/", 1), ["committed"])],
    ids=["replay", "recovery"],
)
def test_a_batch_that_an_operator_abandons_while_a_driver_replays_it_is_read_by_the_next(
    stream: OrdersToFiles, moment: tuple[str, str, int], outcomes: list[str]
) -> None:
    """The operator's marker wins; the driver goes on from where that marker says, not from its own plan. Where it comes
    while the driver recovers, the driver recovers again."""
    planned = StoreCalls(KillPoint("put_if_absent", "offsets/", 1), stop_here)
    with watching(planned), pytest.raises(Stopped):
        stream.run()
    proposal = propose(open_object_store(stream.location), 1, "abandoned")

    def abandon() -> None:
        checkpoint = Checkpoint(open_object_store(stream.location), proposal.checkpoint.stream_id)
        plan = checkpoint.read_plan(1)
        assert plan is not None
        checkpoint.create_marker(marker_of_resolution(plan, Attempt(1, 1, "operator"), "abandoned", 1))

    stream.produce(4)
    replaying = StoreCalls(KillPoint(*moment), abandon)
    with watching(replaying):
        stream.run()
    assert stream.written() == [1, 2, 3, 4]
    assert [batch.outcome for batch in stream.progress[1:]] == outcomes


class Stopped(Exception):
    pass


def stop_here() -> None:
    raise Stopped


def test_a_sink_that_came_later_begins_where_the_stream_stood(stream: OrdersToFiles) -> None:
    def build(records: beam.PCollection[pa.RecordBatch]) -> None:
        _ = records | "Old" >> WriteToFiles(str(stream.output), format="json", name="files")
        _ = records | "New" >> WriteToFiles(f"{stream.output}-new", format="json", name="new")

    stream.run_with(build, as_arrow=True, max_batch_offsets=None)
    assert [(batch.batch_id, batch.rows_written) for batch in read_batches(f"{stream.output}-new")] == [(0, 0), (1, 1)]
    assert [(batch.batch_id, batch.rows_written) for batch in read_batches(str(stream.output))] == [(0, 2), (1, 1)]
    stream.produce(4, 5)
    shutil.rmtree(f"{stream.output}-new/_batches")  # as a consumer does who has read them
    stream.run_with(build, as_arrow=True, max_batch_offsets=None)
    assert [(batch.batch_id, batch.rows_written) for batch in read_batches(f"{stream.output}-new")] == [(1, 1), (2, 2)]


def test_a_renamed_source_is_refused(stream: OrdersToFiles) -> None:
    refused(stream, PipelineChanged, "source 'kafka'", name="orders")


def test_a_checkpoint_survives_new_code_between_the_same_source_and_sink(stream: OrdersToFiles) -> None:
    with stream.cluster.serving(), ExactlyOnceStream(stream.location) as changed:
        _ = (
            changed
            | "Other" >> ReadFromKafka("memory:9092", ["orders"])
            | beam.Map(lambda record: {"value": record.value})
            | beam.Reshuffle()
            | "Otherwise" >> WriteToFiles(str(stream.output), format="json")
        )
    assert stream.written() == [1, 2, 3]


def test_partitions_that_are_no_longer_named_keep_their_place(
    stream: OrdersToFiles, caplog: pytest.LogCaptureFixture
) -> None:
    stream.cluster.add_partitions("orders", 2)
    stream.cluster.append([Record("orders", 1, value=b"10")])
    stream.run()
    assert stream.written() == [1, 2, 3, 10]
    stream.cluster.append([Record("orders", 1, value=b"11"), Record("orders", 0, value=b"4")])
    assert "no longer reads" not in caplog.text
    stream.run(topics={"orders": [0]})
    assert "source 'kafka' no longer reads topic orders, read partition 1 up to 1. It goes on there" in caplog.text
    assert stream.written() == [1, 2, 3, 4, 10]
    stream.run()
    assert stream.written() == [1, 2, 3, 4, 10, 11]


def test_what_is_available_now_is_read_now_however_little(stream: OrdersToFiles) -> None:
    stream.run(min_batch_offsets=1000, max_batch_delay_s=3600.0)
    assert stream.written() == [1, 2, 3]


def edit(file: Path, **fields: Any) -> None:
    file.write_bytes(orjson.dumps({**orjson.loads(file.read_bytes()), **fields}))
