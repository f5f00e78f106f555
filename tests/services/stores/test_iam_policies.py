"""The policies of deploy/iam suffice, and none of their actions is too many: streams on MinIO, restricted by its STS.

Driver and worker are one process on FnApiRunner. Its workers are threads, so credentials are handed out by thread.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from beam_exactly_once import ExactlyOnceStream, ReadFromKafka, WriteToFiles, read_batches
from beam_exactly_once.errors import OutputNotWritable
from beam_exactly_once.object_store import ObjectStore, open_object_store
from services.launch.restricted import Policy, filled, policy_of, restricted_to
from services.streams.to_files import values_in
from services.streams.topics import Topic

pytestmark = pytest.mark.runs_on("DirectRunner", storage="S3")

DRIVER, WORKER = policy_of("driver"), policy_of("worker")
NOT_BY_A_STREAM = {
    # MinIO lists open uploads only by their whole keys, so a sweep finds none to abort.
    ("driver", "Output", "s3:AbortMultipartUpload"),
    # A worker whose bundle fails drops its upload in one try; where that is refused, the sweep does it.
    ("worker", "Output", "s3:AbortMultipartUpload"),
}


def actions(role: str, policy: Policy) -> Iterator[tuple[str, str, str]]:
    """Role, statement and action; without what MinIO does not ask for: S3 says 403 instead of 404 of an absent object
    to who may not list, MinIO does not.
    """
    for statement in policy["Statement"]:
        if not statement["Sid"].startswith("MissIn"):
            for action in statement["Action"]:
                yield role, statement["Sid"], action


ACTIONS = [*actions("driver", DRIVER), *actions("worker", WORKER)]


def without(policy: Policy, sid: str, action: str) -> Policy:
    """The policy less one action; a statement without actions goes as a whole."""
    less = copy.deepcopy(policy)
    for statement in less["Statement"]:
        if statement["Sid"] == sid:
            statement["Action"].remove(action)
    less["Statement"] = [statement for statement in less["Statement"] if statement["Action"]]
    return less


class Roles:
    """Options of stores that take the driver's credentials on the thread that runs the stream, else a worker's."""

    def __init__(self, bucket: str, driver: Policy, worker: Policy) -> None:
        name = bucket.removeprefix("s3://")
        self.of_driver = restricted_to(filled(driver, name))
        self.of_worker = restricted_to(filled(worker, name))

    def options(self) -> dict[str, Callable[[], str]]:
        return {name: self._by_thread(name) for name in self.of_driver}

    def _by_thread(self, name: str) -> Callable[[], str]:
        of_driver, of_worker = self.of_driver[name], self.of_worker[name]

        def credential() -> str:
            return of_driver if threading.current_thread() is threading.main_thread() else of_worker

        return credential


def options_of(credentials: dict[str, str]) -> dict[str, Callable[[], str]]:
    return {name: (lambda value=value: value) for name, value in credentials.items()}


def run_two_starts(topic: Topic, bucket: str, storage_options: dict[str, Any]) -> None:
    """All that a stream does: a new checkpoint, batches, a sweep of old plans, a start that goes on."""
    for _ in range(2):
        topic.send([b"%d" % number for number in range(40)])
        read = ReadFromKafka(topic.bootstrap_servers, [topic.name], as_arrow=True, max_batch_offsets=20)
        options = PipelineOptions(["--direct_running_mode=multi_threading"])
        with ExactlyOnceStream(
            f"{bucket}/checkpoint", options=options, retain_batches=2, storage_options=storage_options
        ) as stream:
            _ = stream | read | WriteToFiles(f"{bucket}/output", storage_options=storage_options)


def test_the_policies_suffice(bucket: str, new_topic: Callable[..., Topic]) -> None:
    topic = new_topic()
    topic.send([b"first"])

    run_two_starts(topic, bucket, Roles(bucket, DRIVER, WORKER).options())

    assert values_in(f"{bucket}/output") == topic.committed


@pytest.mark.parametrize(("role", "sid", "action"), sorted(set(ACTIONS) - NOT_BY_A_STREAM))
def test_a_stream_needs_every_action(
    bucket: str, new_topic: Callable[..., Topic], role: str, sid: str, action: str
) -> None:
    less = {"driver": DRIVER, "worker": WORKER}
    less[role] = without(less[role], sid, action)
    options = Roles(bucket, less["driver"], less["worker"]).options()

    with pytest.raises(OutputNotWritable, match=rf"{bucket}/\w+: no permission"):
        run_two_starts(new_topic(), bucket, options)


@pytest.mark.parametrize("role", ["driver", "worker"])
def test_uploads_are_dropped_only_with_their_action(bucket: str, role: str) -> None:
    policy = policy_of(role)

    def store(policy: Policy) -> ObjectStore:
        credentials = restricted_to(filled(policy, bucket.removeprefix("s3://")))
        return open_object_store(f"{bucket}/output", options_of(credentials))

    def drop_one(store: ObjectStore) -> None:
        with store.stage("part") as writer:
            writer.write(b"content")
        store.discard(writer.staged)

    drop_one(store(policy))
    with pytest.raises(OutputNotWritable, match=f"{bucket}/output: no permission"):
        drop_one(store(without(policy, "Output", "s3:AbortMultipartUpload")))


@pytest.mark.parametrize("left_out", [None, *(one[1:] for one in actions("reader", policy_of("reader")))])
def test_a_reader_reads_and_no_more(
    bucket: str, new_topic: Callable[..., Topic], left_out: tuple[str, str] | None
) -> None:
    topic = new_topic()
    run_two_starts(topic, bucket, {})
    policy = policy_of("reader")
    if left_out is not None:
        policy = without(policy, *left_out)
    options = options_of(restricted_to(filled(policy, bucket.removeprefix("s3://"))))

    if left_out is not None:
        with pytest.raises(OutputNotWritable):
            list(read_batches(f"{bucket}/output", storage_options=options))
        return
    assert sum(batch.rows_written for batch in read_batches(f"{bucket}/output", storage_options=options)) == 80
    with pytest.raises(OutputNotWritable, match="PutObject"):
        open_object_store(f"{bucket}/output", options).put_if_absent("mine", b"")
    with pytest.raises(OutputNotWritable, match="ListObjectsV2"):
        list(open_object_store(f"{bucket}/checkpoint", options).list())
