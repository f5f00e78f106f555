"""Never run: mypy and pyright read it, to see what a user of the front door sees (`tox -e types`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from typing_extensions import assert_type

import beam_exactly_once
from beam_exactly_once import (
    AvailableNow,
    BatchProgress,
    ExactlyOnceStream,
    ProcessingTime,
    ProgressListener,
    PublishedBatch,
    ReadFromKafka,
    Record,
    Secret,
    Trigger,
    WriteToFiles,
    read_batches,
    secret_from_env,
)
from beam_exactly_once.errors import ConfigurationError

assert_type(beam_exactly_once.__version__, str)
assert_type(secret_from_env("PASSWORD"), Secret)
assert_type(read_batches("s3://lake/orders"), Iterator[PublishedBatch])
assert_type(Record().value, bytes | None)
assert_type(ConfigurationError.exit_code, int)


def listen(progress: BatchProgress) -> None:
    assert_type(progress.batch_id, int)


listener: ProgressListener = listen
heard: Callable[[BatchProgress], None] = listener
triggers: list[Trigger] = [AvailableNow(), ProcessingTime(10)]
stream = ExactlyOnceStream("s3://checkpoints/orders", trigger=triggers[0])
assert_type(stream, ExactlyOnceStream)
assert_type(ReadFromKafka("localhost:9092", ["orders"]), ReadFromKafka)
assert_type(WriteToFiles("s3://lake/orders"), WriteToFiles)
WriteToFiles(5)  # type: ignore[arg-type]
WriteToFiles("s3://lake/orders", place="here")  # type: ignore[call-arg]
print(beam_exactly_once.no_such_name)  # type: ignore[attr-defined]
