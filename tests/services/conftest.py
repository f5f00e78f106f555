"""Fixtures that need a real service: skipped, with the way to get it, where no environment variable says where it is."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
import sqlalchemy as sa
from confluent_kafka.admin import AdminClient
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from services.launch.kafka_broker import Kafka
from services.launch.kafka_security import SecureKafka
from services.streams.copies import Copy
from services.streams.flink_streams import cluster_options, shared_options
from services.streams.topics import Topic

REQUIRE_VARIABLE = "BEAM_EXACTLY_ONCE_REQUIRE_SERVICES"


def address(service: str, variable: str) -> str:
    """Where a service is; else the test is skipped, or fails when services are required."""
    found = os.environ.get(variable)
    if found:
        return found
    way = (
        f"needs {service}: ${variable} is not set. "
        f"Run it as: python tests/services/run.py {service} -- pytest tests/services"
    )
    if os.environ.get(REQUIRE_VARIABLE) == "1":
        pytest.fail(way, pytrace=False)
    pytest.skip(way)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with tests on Flink first: they take longest, and who begins with one late would work on alone."""
    on_flink = {
        item.path for item in items for mark in item.iter_markers("runs_on") if mark.args[0].startswith("FlinkRunner")
    }
    items.sort(key=lambda item: item.path not in on_flink)


@pytest.fixture(scope="session")
def bootstrap_servers() -> str:
    """Of a real Kafka broker."""
    return address("kafka", "KAFKA_BOOTSTRAP_SERVERS")


@pytest.fixture(scope="session")
def kafka_cluster(bootstrap_servers: str) -> Iterator[Kafka]:
    """Three brokers of the tests' own, where a real Kafka is asked for; who ends one starts it again."""
    with Kafka(brokers=3) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def secure_kafka(bootstrap_servers: str) -> Iterator[SecureKafka]:
    """A broker with TLS, credentials and access rules, where a real Kafka is asked for."""
    with SecureKafka(["reader", "watcher", "stranger", "leaver", "writer"]) as kafka:
        yield kafka


@pytest.fixture
def new_topic(bootstrap_servers: str) -> Iterator[Callable[..., Topic]]:
    """Creates topics of this test alone; ends their open transactions and deletes them afterwards."""
    topics: list[Topic] = []

    def create(partitions: int = 1, *, name: str | None = None, **config: object) -> Topic:
        topics.append(Topic(bootstrap_servers, name or f"orders-{secrets.token_hex(4)}", partitions, config))
        return topics[-1]

    yield create
    for topic in topics:
        topic.close()


@pytest.fixture
def output(new_topic: Callable[..., Topic]) -> Topic:
    """A topic to write to."""
    return new_topic(3)


@pytest.fixture
def copy(output: Topic, tmp_path: Path) -> Copy:
    """A stream that writes there."""
    return Copy(output.bootstrap_servers, output.name, str(tmp_path / "checkpoint"))


@pytest.fixture
def admin(bootstrap_servers: str) -> AdminClient:
    """Of the real Kafka broker."""
    return AdminClient({"bootstrap.servers": bootstrap_servers})


@pytest.fixture
def bucket() -> str:
    """URI of an empty bucket of this test alone, on a real S3 server."""
    endpoint_url = address("s3", "S3_ENDPOINT_URL")
    name = f"lake-{secrets.token_hex(4)}"
    boto3.client("s3", endpoint_url=endpoint_url).create_bucket(Bucket=name)
    return f"s3://{name}"


@pytest.fixture
def gcs_bucket() -> str:
    """URI of an empty bucket of this test alone, on fake-gcs-server."""
    address("gcs", "STORAGE_EMULATOR_HOST")
    name = f"lake-{secrets.token_hex(4)}"
    storage.Client(project="tests", credentials=AnonymousCredentials()).create_bucket(name)
    return f"gs://{name}"


@pytest.fixture
def prism_location() -> str:
    """The path of Beam's Prism runner."""
    return address("prism", "PRISM_LOCATION")


@pytest.fixture(scope="session")
def flink_job_server_jar() -> str:
    """The path of Beam's job server for Flink."""
    return address("flink", "FLINK_JOB_SERVER_JAR")


@pytest.fixture(scope="session")
def flink_options(flink_job_server_jar: str) -> list[str]:
    """Pipeline options of the session's cluster."""
    return cluster_options(address("flink", "FLINK_MASTER"), address("flink", "BEAM_WORKER_POOL"), flink_job_server_jar)


@pytest.fixture(scope="session")
def shared_flink() -> list[str]:
    """Pipeline options of the session's cluster, with workers in this process."""
    return shared_options(address("flink", "FLINK_MASTER"), address("flink", "FLINK_JOB_ENDPOINT"))


@pytest.fixture(scope="session", autouse=True)
def own_databases(worker_id: str) -> None:
    """A database for each process of tests: streams of one database share its receipts, which tests drop and lock."""
    for variable in ("POSTGRES_URL", "MARIADB_URL"):
        if worker_id == "master" or variable not in os.environ:
            continue
        url, name = sa.make_url(os.environ[variable]), f"tests_{worker_id}_{os.getpid()}"
        engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        os.environ[variable] = url.set(database=name).render_as_string(hide_password=False)


@pytest.fixture(params=["postgres", "mariadb"])
def sql_variable(request: pytest.FixtureRequest) -> str:
    """The variable with the URL of a real database."""
    variable = f"{request.param.upper()}_URL"
    address(request.param, variable)
    return variable
