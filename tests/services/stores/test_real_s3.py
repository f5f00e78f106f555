"""The contract of object stores on MinIO, a real S3 server, and the ready-made pipeline on real Kafka and it."""

from __future__ import annotations

import json
import os
import secrets
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from urllib.parse import urlsplit

import duckdb
import pytest
from pyarrow.dataset import dataset
from pyarrow.fs import S3FileSystem

from beam_exactly_once.errors import EXIT_DONE, ConfigurationError, StagedOutputMissing
from beam_exactly_once.object_store import ObjectEntry, ObjectStore, StagedObject, open_object_store
from beam_exactly_once.pipelines.kafka_to_files import main
from beam_exactly_once.testing import ObjectStoreContract
from beam_exactly_once.testing.object_store_contract import StoreOpener, staged
from services.streams.racing import create_all
from services.streams.to_files import KILL_POINTS, fill, flags, run_killed, values_in
from services.streams.topics import Topic

PROCESSES = 4


class TestMinio(ObjectStoreContract):
    """Two tests stand here for the contract's own: MinIO lists open uploads only where the prefix is the whole key."""

    @pytest.fixture
    def open_again(self, bucket: str) -> StoreOpener:
        uri = f"{bucket}/some/{secrets.token_hex(8)}"
        return lambda: open_object_store(uri)

    @pytest.fixture
    def has_clock(self) -> bool:
        return True

    def test_staged_content_is_invisible_until_it_is_published(
        self, store: ObjectStore, open_again: StoreOpener
    ) -> None:
        one = staged(store, "out/part", b"content")

        assert list(store.list()) == []
        assert store.get("out/part") is None
        assert [listed.final_key for listed in store.list_staged("out/part")] == ["out/part"]

        assert open_again().publish(StagedObject.from_json(json.loads(json.dumps(one.to_json())))) is True

        assert list(store.list()) == [ObjectEntry("out/part", len(b"content"))]
        assert store.get("out/part") == b"content"
        assert list(store.list_staged("out/part")) == []

    def test_a_sweep_discards_by_what_it_lists(self, store: ObjectStore, open_again: StoreOpener) -> None:
        """So a sweep finds nothing on MinIO, which drops uploads by itself after 24 hours; should that change, see here."""
        one = staged(store, "batch-1/a", b"content")
        assert list(store.list_staged("batch-1/")) == []

        (listed,) = store.list_staged("batch-1/a")
        store.discard(listed)

        assert list(store.list_staged("batch-1/a")) == []
        with pytest.raises(StagedOutputMissing):
            store.publish(one)


def test_racing_processes_have_one_winner_a_key(bucket: str) -> None:
    store = open_object_store(f"{bucket}/some")
    keys = 25
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
        running = [pool.submit(create_all, store.uri, writer, keys) for writer in range(PROCESSES)]
        results = [process.result() for process in running]

    for key in range(keys):
        outcomes = Counter(result[key] for result in results)
        assert outcomes == {"Created": 1, "Taken": PROCESSES - 1}
        winner = next(writer for writer, result in enumerate(results) if result[key] == "Created")
        assert store.get(f"raced/{key}") == b"%d" % winner


def test_a_server_that_drops_open_uploads_is_named(bucket: str, caplog: pytest.LogCaptureFixture) -> None:
    open_object_store(f"{bucket}/new").verify()
    assert "stale_uploads_expiry" in caplog.text


def test_wrong_credentials_are_said_to_be_so(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-51b2")
    with pytest.raises(ConfigurationError, match="S3 refuses the credentials") as raised:
        open_object_store(f"{bucket}/some").put_if_absent("a", b"body")
    assert "canary-51b2" not in str(raised.value)


# -- the ready-made pipeline --------------------------------------------------------------------------------------


@pytest.mark.runs_on("DirectRunner", storage="S3")
@pytest.mark.parametrize("kill_after", KILL_POINTS)
def test_killed_and_started_again(new_topic: Callable[..., Topic], bucket: str, kill_after: str) -> None:
    topic = new_topic(2)
    fill(topic)
    command = flags(topic, bucket)
    run_killed(command, kill_after)

    assert main(command) == EXIT_DONE

    assert values_in(f"{bucket}/output") == topic.committed
    assert as_a_folder(bucket) == topic.committed


def as_a_folder(bucket: str) -> Counter[bytes]:
    """What a query engine sees that lists the folder, and knows nothing of manifests."""
    endpoint = urlsplit(os.environ["S3_ENDPOINT_URL"])
    file_system = S3FileSystem(scheme=endpoint.scheme, endpoint_override=endpoint.netloc)
    files = dataset(f"{bucket.removeprefix('s3://')}/output", filesystem=file_system, format="parquet")
    with duckdb.connect() as engine:
        engine.register("files", files)
        return Counter(dict(engine.sql("select value, count(*) from files group by value").fetchall()))
