"""The contract of object stores on MinIO, a real S3 server, and the ready-made pipeline on real Kafka and it."""

from __future__ import annotations

import io
import json
import secrets
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pyarrow.parquet as pq
import pytest
from contract.test_object_store import *  # noqa: F403 (every test of the contract, with the fixture below)

from beam_exactly_once.errors import EXIT_DONE, ConfigurationError, StagedOutputMissing
from beam_exactly_once.object_store import ObjectEntry, ObjectStore, StagedObject, open_object_store
from beam_exactly_once.pipelines.kafka_to_files import main
from beam_exactly_once.transforms.file_manifest import read_batches
from services.racing import create_all
from services.topics import Topic

PROCESSES = 4
RECORDS_A_TRANSACTION = 40


@pytest.fixture
def open_again(bucket: str) -> Callable[[], ObjectStore]:
    """Opens one empty root, again and again."""
    uri = f"{bucket}/some/{secrets.token_hex(8)}"
    return lambda: open_object_store(uri)


def test_racing_processes_have_one_winner_a_key(store: ObjectStore) -> None:
    keys = 25
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
        running = [pool.submit(create_all, store.uri, writer, keys) for writer in range(PROCESSES)]
        results = [process.result() for process in running]

    for key in range(keys):
        outcomes = Counter(result[key] for result in results)
        assert outcomes == {"Created": 1, "Taken": PROCESSES - 1}
        winner = next(writer for writer, result in enumerate(results) if result[key] == "Created")
        assert store.get(f"raced/{key}") == b"%d" % winner


def test_wrong_credentials_are_said_to_be_so(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-51b2")
    with pytest.raises(ConfigurationError, match="S3 refuses the credentials") as raised:
        open_object_store(f"{bucket}/some").put_if_absent("a", b"body")
    assert "canary-51b2" not in str(raised.value)


# -- where MinIO is not like S3: it lists open uploads only where the prefix is the whole key -----------------------


def test_staged_content_is_invisible_until_it_is_published(
    store: ObjectStore, open_again: Callable[[], ObjectStore]
) -> None:
    one = staged(store, "out/part", b"content")  # noqa: F405

    assert list(store.list()) == []
    assert store.get("out/part") is None
    assert [listed.final_key for listed in store.list_staged("out/part")] == ["out/part"]

    assert open_again().publish(StagedObject.from_json(json.loads(json.dumps(one.to_json())))) is True

    assert list(store.list()) == [ObjectEntry("out/part", len(b"content"))]
    assert store.get("out/part") == b"content"
    assert list(store.list_staged("out/part")) == []


def test_a_sweep_discards_by_what_it_lists(store: ObjectStore) -> None:
    """So a sweep finds nothing on MinIO, which drops uploads by itself after 24 hours; should that change, see here."""
    one = staged(store, "batch-1/a", b"content")  # noqa: F405
    assert list(store.list_staged("batch-1/")) == []

    (listed,) = store.list_staged("batch-1/a")
    store.discard(listed)

    assert list(store.list_staged("batch-1/a")) == []
    with pytest.raises(StagedOutputMissing):
        store.publish(one)


# -- the ready-made pipeline --------------------------------------------------------------------------------------


def fill(topic: Topic) -> None:
    """Committed and aborted transactions in turn, in both partitions; one stays open at the end."""
    for number in range(6):
        values = [f"{number}-{one}".encode() for one in range(RECORDS_A_TRANSACTION)]
        if number % 3 == 1:
            topic.send_aborted(values, partition=number % 2)
        else:
            topic.send_committed(values, partition=number % 2)
    topic.begin([b"open"])


def flags(topic: Topic, place: str) -> list[str]:
    return [
        f"--bootstrap_servers={topic.bootstrap_servers}",
        f"--topics={topic.name}",
        f"--output={place}/output",
        f"--checkpoint_location={place}/checkpoint",
        "--max_offsets_per_batch=70",
    ]


def values_in(output: str) -> Counter[bytes]:
    """What a reader of the manifests sees; nothing else is visible."""
    store = open_object_store(output)
    found: Counter[bytes] = Counter()
    names: list[str] = []
    for batch in read_batches(output):
        for file in batch.files:
            body = store.get(file.name)
            assert body is not None
            names.append(file.name)
            found.update(pq.read_table(io.BytesIO(body))["value"].to_pylist())
    assert [entry.key for entry in store.list() if not entry.key.startswith("_batches/")] == sorted(names)
    return found


@pytest.mark.parametrize(
    "kill_after",
    [
        "put_if_absent:offsets/:2",  # planned, not read
        "stage::2",  # while writing
        "put_if_absent:commits/:2",  # committed, not published
        "publish::2",  # published in part
    ],
)
def test_killed_and_started_again(new_topic: Callable[..., Topic], bucket: str, kill_after: str) -> None:
    topic = new_topic(2)
    fill(topic)
    command = flags(topic, bucket)
    killed = subprocess.run(
        [
            *(sys.executable, "-m", "beam_exactly_once.testing.crashing", "--kill_after", kill_after),
            "beam_exactly_once.pipelines.kafka_to_files",
            *command,
        ],
        check=False,
        capture_output=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()

    assert main(command) == EXIT_DONE

    assert values_in(f"{bucket}/output") == topic.committed
