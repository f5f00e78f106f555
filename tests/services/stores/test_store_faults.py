"""Streams whose store fails as networks and overloaded servers do: on real servers, with a proxy before them."""

from __future__ import annotations

import itertools
import os
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from beam_exactly_once.errors import EXIT_DONE, EXIT_RETRYABLE, StoreUnavailable
from beam_exactly_once.object_store import gcs, open_object_store, override_stores, s3_client
from beam_exactly_once.object_store.definite import DefiniteStore
from beam_exactly_once.pipelines.kafka_to_files import main
from services.launch.fault_proxy import SEED, Fault, FaultProxy, Request
from services.streams.to_files import flags, run_stream, values_in
from services.streams.topics import Topic

pytestmark = pytest.mark.runs_on("DirectRunner", storage="S3 and GCS")

NewTopic = Callable[..., Topic]

WRITES = "PUT|POST|DELETE"
NOT_TESTING_THE_STORE = r"^(?!.*\.verify/)"
PART = r"part-[0-9a-f-]+\.parquet"


@dataclass(frozen=True)
class Service:
    """One kind of store: its fixtures, and how to recognise the writes of a batch."""

    bucket: str
    address: str
    variable: str
    writes: dict[str, tuple[str, str]]


SERVICES = {
    "s3": Service(
        bucket="bucket",
        address="S3_ENDPOINT_URL",
        variable="AWS_ENDPOINT_URL_S3",
        writes={
            "claim": ("PUT", "checkpoint/writers/"),
            "plan": ("PUT", "checkpoint/offsets/"),
            "begin upload": ("POST", rf"{PART}\?uploads$"),
            "part": ("PUT", rf"{PART}\?.*partNumber="),
            "marker": ("PUT", "checkpoint/commits/"),
            "publish": ("POST", rf"{PART}\?uploadId="),
            "manifest": ("PUT", "output/_batches/"),
            "delete plans": ("POST", r"\?delete checkpoint/offsets/"),
            "delete markers": ("POST", r"\?delete checkpoint/commits/"),
        },
    ),
    "gcs": Service(
        bucket="gcs_bucket",
        address="STORAGE_EMULATOR_HOST",
        variable="STORAGE_EMULATOR_HOST",
        writes={
            "claim": ("POST", " checkpoint/writers/"),
            "plan": ("POST", " checkpoint/offsets/"),
            "part": ("POST", rf" \.output\.staging/{PART}"),
            "marker": ("POST", " checkpoint/commits/"),
            "publish": ("POST", "/rewriteTo/"),
            "delete staged": ("DELETE", r"/\.output\.staging/"),
            "manifest": ("POST", " output/_batches/"),
            "delete plans": ("DELETE", "/checkpoint/offsets/"),
            "delete markers": ("DELETE", "/checkpoint/commits/"),
        },
    ),
}
KINDS_OF_A_BATCH = ("plan", "part", "marker", "publish", "manifest")


@dataclass(frozen=True)
class Place:
    """An empty bucket behind a proxy."""

    service: Service
    uri: str
    proxy: FaultProxy

    @property
    def output(self) -> str:
        return f"{self.uri}/output"

    @property
    def scheme(self) -> str:
        return self.uri.partition("://")[0]

    @property
    def writes_of_a_batch(self) -> list[tuple[str, str]]:
        """Method and target, in their order."""
        return [self.service.writes[kind] for kind in KINDS_OF_A_BATCH]


@pytest.fixture(params=SERVICES)
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    service = SERVICES[request.param]
    uri = request.getfixturevalue(service.bucket)
    with FaultProxy(os.environ[service.address]) as proxy:
        monkeypatch.setenv(service.variable, proxy.url)
        yield Place(service, uri, proxy)


@pytest.fixture
def impatient() -> Iterator[None]:
    """Stores that give up after a second instead of a minute."""

    def open_impatient(uri: str, options: Any) -> DefiniteStore:
        store = open_object_store(uri, options)
        assert isinstance(store, DefiniteStore)
        store._retry_timeout_s = 1.0
        return store

    with override_stores(open_impatient):
        yield


def send_three_batches(topic: Topic) -> None:
    topic.send([b"%d" % number for number in range(60)])


def three_batches(topic: Topic, place: str) -> list[str]:
    return [*flags(topic, place)[:-1], "--max-batch-offsets=20"]


def kind_of(service: Service, request: Request) -> str | None:
    for kind, (method, target) in service.writes.items():
        if request.method == method and re.search(target, request.target):
            return kind
    return None


def test_every_lost_answer(place: Place, new_topic: NewTopic) -> None:
    """A write is carried out and its answer lost: those of a new stream at once, each one of a later start and of two
    batches in turn.
    """
    topic = new_topic()
    first = place.proxy.fail(Fault.ANSWER_LOST, method=WRITES, target="(metadata|definition).json", times=None)
    run_stream(topic, place.uri)
    assert len(first.failed) == 3
    place.proxy.heal()

    lost: set[str | None] = set()
    for number in itertools.count():
        topic.send([b"%d-%d" % (number, one) for one in range(20)])
        rule = place.proxy.fail(Fault.ANSWER_LOST, method=WRITES, target=NOT_TESTING_THE_STORE, skip=number)

        run_stream(topic, place.uri, max_batch_offsets=10, retain_batches=2)

        place.proxy.heal()
        assert values_in(place.output) == topic.committed, rule.failed
        if not rule.failed:
            break
        lost.update(kind_of(place.service, request) for request in rule.failed)
    assert set(place.service.writes) - lost == set()


def test_overload_in_the_middle_of_batches(place: Place, new_topic: NewTopic) -> None:
    topic = new_topic()
    send_three_batches(topic)
    rules = [place.proxy.fail(status, share=0.1, times=None) for status in (409, 429, 500, 503)]

    assert main(three_batches(topic, place.uri)) == EXIT_DONE

    assert all(len(rule.failed) > 3 for rule in rules)
    place.proxy.heal()
    assert values_in(place.output) == topic.committed


def test_cuts_that_are_soon_mended(place: Place, new_topic: NewTopic) -> None:
    topic = new_topic()
    send_three_batches(topic)
    rules = [
        place.proxy.fail(Fault.REQUEST_LOST, method=method, target=target, skip=1, times=4, then_all=True)
        for method, target in place.writes_of_a_batch
    ]

    assert main(three_batches(topic, place.uri)) == EXIT_DONE

    assert all(len(rule.failed) == 4 for rule in rules)
    assert values_in(place.output) == topic.committed


def test_requests_that_nobody_answers(place: Place, new_topic: NewTopic, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_client, "READ_TIMEOUT_S", 1.0)
    monkeypatch.setattr(gcs, "TIMEOUT_S", 1.0)
    topic = new_topic()
    send_three_batches(topic)
    rules = [
        place.proxy.fail(Fault.STALLED, method=method, target=target) for method, target in place.writes_of_a_batch
    ]

    assert main(three_batches(topic, place.uri)) == EXIT_DONE

    assert all(rule.failed for rule in rules)
    assert values_in(place.output) == topic.committed


@pytest.mark.parametrize("kind", KINDS_OF_A_BATCH)
def test_a_cut_that_lasts(
    place: Place, new_topic: NewTopic, impatient: None, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The request at which the cut begins is carried out, none after it."""
    topic = new_topic()
    send_three_batches(topic)
    method, target = place.service.writes[kind]
    place.proxy.fail(Fault.ANSWER_LOST, method=method, target=target, skip=1)
    place.proxy.fail(Fault.REQUEST_LOST, method=method, target=target, skip=1, times=None, then_all=True)

    assert main(three_batches(topic, place.uri)) == EXIT_RETRYABLE

    said = capsys.readouterr().err
    assert re.search(rf"StoreUnavailable: {place.uri}/\w+ gave no definite answer .*: start again when", said)
    place.proxy.heal()
    assert main(three_batches(topic, place.uri)) == EXIT_DONE
    assert values_in(place.output) == topic.committed


# -- the peculiar ones of GCS ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["gcs"], indirect=True)
def test_a_rewrite_that_finds_its_own_work(place: Place, new_topic: NewTopic) -> None:
    """GCS refuses the second rewrite; the proxy says so for fake-gcs-server, which would carry it out."""
    topic = new_topic()
    send_three_batches(topic)
    place.proxy.fail(Fault.ANSWER_LOST, target="/rewriteTo/")
    refused = place.proxy.fail(412, target="/rewriteTo/")

    run_stream(topic, place.uri)

    assert refused.failed
    assert values_in(place.output) == topic.committed


# -- files of several parts, or of an upload session -----------------------------------------------------------------

LARGE = {
    "s3": (("POST", r"\?uploads$", 0), ("PUT", "partNumber=1", 0), ("PUT", "partNumber=2", 0)),
    "gs": (("POST", "uploadType=resumable", 0), ("PUT", "upload_id=", 0), ("PUT", "upload_id=", 1)),
}
"""Beginning, first and last part: method, target, and how many such requests come between this and the one before."""


def send_large(topic: Topic) -> None:
    """More than one chunk, however well it is compressed."""
    noise = random.Random(SEED)
    topic.send([noise.randbytes(900_000) for _ in range(12)])


@pytest.mark.parametrize("fault", [503, Fault.REQUEST_LOST])
def test_a_large_file_whose_upload_is_disturbed(place: Place, new_topic: NewTopic, fault: Fault | int) -> None:
    topic = new_topic()
    send_large(topic)
    rules = [
        place.proxy.fail(fault, method=method, target=target, skip=skip) for method, target, skip in LARGE[place.scheme]
    ]

    run_stream(topic, place.uri)

    assert all(rule.failed for rule in rules)
    assert values_in(place.output) == topic.committed


def test_a_large_file_whose_answers_are_lost(place: Place, new_topic: NewTopic) -> None:
    """S3 takes a part twice. fake-gcs-server, unlike GCS, takes a repeated chunk for more: the next start goes on."""
    topic = new_topic()
    send_large(topic)
    rules = [
        place.proxy.fail(Fault.ANSWER_LOST, method=method, target=target, skip=skip)
        for method, target, skip in LARGE[place.scheme]
    ]
    if place.scheme == "gs":
        with pytest.raises(StoreUnavailable, match="stage part-"):
            run_stream(topic, place.uri)
        place.proxy.heal()

    run_stream(topic, place.uri)

    assert any(rule.failed for rule in rules)
    assert values_in(place.output) == topic.committed
