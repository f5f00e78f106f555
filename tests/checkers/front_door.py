"""Never run: mypy and pyright read it, to see what a user of the front door sees (`tox -e types`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from typing_extensions import assert_type

import beam_exactly_once
from beam_exactly_once import (
    AvailableNow,
    BatchProgress,
    CheckpointAt,
    Continuous,
    ExactlyOnceStream,
    JsonState,
    ProcessingTime,
    ProgressListener,
    PublishedBatch,
    ReadAllFromKafka,
    ReadFromKafka,
    ReadFromWal,
    Record,
    Secret,
    Trigger,
    WriteToFiles,
    read_batches,
    secret_from_env,
)
from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.sinks import Delivery, TransactionalSink, WriteTo
from beam_exactly_once.testing import STORIES, Story, run_in_memory

assert_type(beam_exactly_once.__version__, str)
assert_type(secret_from_env("PASSWORD"), Secret)
assert_type(read_batches("s3://lake/orders"), Iterator[PublishedBatch])
assert_type(Record().value, bytes | None)
assert_type(ConfigurationError.exit_code, int)

assert_type(STORIES, list[Story])
assert_type(run_in_memory(print, {}).rows("files"), list[dict[str, Any]])


def listen(progress: BatchProgress) -> None:
    assert_type(progress.batch_id, int)


listener: ProgressListener = listen
heard: Callable[[BatchProgress], None] = listener
triggers: list[Trigger] = [AvailableNow(), ProcessingTime(10), Continuous(1)]
stream = ExactlyOnceStream(
    "s3://checkpoints/orders",
    trigger=triggers[0],
    listeners=[listener],
    continue_from=CheckpointAt("s3://checkpoints/old", storage_options={"region_name": "eu-central-1"}),
    without=["operators/old"],
)
assert_type(stream, ExactlyOnceStream)
assert_type(ReadFromKafka("localhost:9092", ["orders"], start="latest", on_data_loss="skip"), ReadFromKafka)
ReadFromKafka("localhost:9092", {"orders": [0, 1]}, start={"orders": {0: 17}}, decoder=lambda record: record.value)
assert_type(ReadAllFromKafka("localhost:9092", start="latest"), ReadAllFromKafka)
assert_type(ReadFromWal("s3://logs/hooks", start={"hooks": {0: 17}}, as_arrow=True), ReadFromWal)
ReadFromKafka("localhost:9092", on_data_loss="ignore")  # type: ignore[arg-type]
assert_type(WriteToFiles("s3://lake/orders"), WriteToFiles)
assert_type(JsonState(dict, version=2, upgrades={1: dict}), JsonState)
JsonState(dict, 2)  # type: ignore[call-arg]
WriteToFiles(5)  # type: ignore[arg-type]
WriteToFiles("s3://lake/orders", place="here")  # type: ignore[call-arg]


class OwnSink(TransactionalSink):
    kind, location = "own", "own://orders"

    def write(self, delivery: Delivery) -> None:
        assert_type(delivery.key, str)
        assert_type(delivery.receipt, str)
        assert_type(delivery.is_due(None), bool)


assert_type(WriteTo(OwnSink(), shards=3, direct=True), WriteTo)
WriteTo(TransactionalSink())  # type: ignore[abstract]
WriteTo(OwnSink(), shards="3")  # type: ignore[arg-type]
print(beam_exactly_once.no_such_name)  # type: ignore[attr-defined]
