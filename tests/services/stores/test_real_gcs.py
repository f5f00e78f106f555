"""The contract of object stores on fake-gcs-server, and the ready-made pipeline on real Kafka and it."""

from __future__ import annotations

import os
import secrets
from collections import Counter
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest
from pyarrow.dataset import dataset
from pyarrow.fs import GcsFileSystem

from beam_exactly_once.errors import EXIT_DONE
from beam_exactly_once.object_store import ObjectStore, open_object_store
from beam_exactly_once.pipelines.kafka_to_files import main
from beam_exactly_once.testing import ObjectStoreContract
from beam_exactly_once.testing.object_store_contract import StoreOpener, staged
from services.streams.to_files import KILL_POINTS, fill, flags, run_killed, values_in
from services.streams.topics import Topic


class TestFakeGcs(ObjectStoreContract):
    """One test stands here for the contract's own: rewrites of fake-gcs-server ignore preconditions."""

    @pytest.fixture
    def open_again(self, gcs_bucket: str) -> StoreOpener:
        uri = f"{gcs_bucket}/some/{secrets.token_hex(8)}"
        return lambda: open_object_store(uri)

    @pytest.fixture
    def has_clock(self) -> bool:
        return True

    def test_publishing_overwrites_nothing(self, store: ObjectStore) -> None:
        """Not proven here. When this fails, the server has learnt it, and the contract's own test may stand again."""
        one = staged(store, "part", b"content")
        store.put_if_absent("part", b"somebody else's")

        assert store.publish(one) is True
        assert store.get("part") == b"content"


# -- the ready-made pipeline --------------------------------------------------------------------------------------


@pytest.mark.runs_on("DirectRunner", storage="GCS")
@pytest.mark.parametrize("kill_after", KILL_POINTS)
def test_killed_and_started_again(new_topic: Callable[..., Topic], gcs_bucket: str, kill_after: str) -> None:
    topic = new_topic(2)
    fill(topic)
    command = flags(topic, gcs_bucket)
    run_killed(command, kill_after)

    assert main(command) == EXIT_DONE

    assert values_in(f"{gcs_bucket}/output") == topic.committed
    assert as_a_folder(gcs_bucket) == topic.committed


def as_a_folder(bucket: str) -> Counter[bytes]:
    """What a query engine sees that lists the folder, and knows nothing of manifests."""
    endpoint = urlsplit(os.environ["STORAGE_EMULATOR_HOST"])
    file_system = GcsFileSystem(anonymous=True, scheme=endpoint.scheme, endpoint_override=endpoint.netloc)
    files = dataset(f"{bucket.removeprefix('gs://')}/output", filesystem=file_system, format="parquet")
    return Counter(files.to_table(columns=["value"])["value"].to_pylist())
