"""The ready-made pipeline as a program, on a broker that speaks Kafka's protocol, to disk and to S3."""

from __future__ import annotations

import base64
import bz2
import datetime
import io
import logging
import secrets
import signal
import subprocess
import sys
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import duckdb
import orjson
import pyarrow.parquet as pq
import pytest
from apache_beam.portability.api import beam_runner_api_pb2
from click.testing import CliRunner

from beam_exactly_once import ExactlyOnceStream, ReadFromKafka, WriteToFiles, read_batches, secret_from_env
from beam_exactly_once.cli import main as cli
from beam_exactly_once.errors import EXIT_CONFIGURATION, EXIT_DONE
from beam_exactly_once.kafka import EmbeddedBroker, produce
from beam_exactly_once.object_store import open_object_store
from beam_exactly_once.pipelines.kafka_to_files import main
from support.servers.moto_server import moto_server

pytestmark = pytest.mark.runs_on("DirectRunner")

CANARY = "canary-7f3a9c"
PARTITIONS = 3


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker({"orders": PARTITIONS}) as broker:
        yield broker


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URI of an empty bucket of this test alone: moto's buckets outlive its server."""
    with moto_server() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server.create_bucket(f"lake-{secrets.token_hex(4)}")


def send(broker: EmbeddedBroker, ids: Iterable[int]) -> None:
    for _ in produce(broker.bootstrap_servers, "orders", PARTITIONS, (orjson.dumps({"id": number}) for number in ids)):
        pass


def flags(broker: EmbeddedBroker, place: str, *more: str) -> list[str]:
    return [
        f"--bootstrap-servers={broker.bootstrap_servers}",
        "--topics=orders",
        f"--output-location={place}/output",
        f"--checkpoint-location={place}/checkpoint",
        *more,
    ]


def ids_in(output: str) -> list[int]:
    """What a reader of the manifests sees."""
    store = open_object_store(output)
    found: list[int] = []
    for batch in read_batches(output):
        for file in batch.files:
            body = store.get(file.name)
            assert body is not None
            found += [orjson.loads(value)["id"] for value in pq.read_table(io.BytesIO(body))["value"].to_pylist()]
    return sorted(found)


def test_topics_by_pattern(broker: EmbeddedBroker, tmp_path: Path) -> None:
    broker.create_topic("orders-eu", 1)
    send(broker, range(10))
    for _ in produce(broker.bootstrap_servers, "orders-eu", 1, [b"{}"]):
        pass
    by_name = flags(broker, str(tmp_path))
    by_pattern = ["--topic-pattern=orders-.*" if flag == "--topics=orders" else flag for flag in by_name]

    assert main(by_pattern) == EXIT_DONE

    (batch,) = read_batches(f"{tmp_path}/output")
    assert [pq.read_table(file.uri)["topic"].to_pylist() for file in batch.files] == [["orders-eu"]]
    assert main([*by_name, "--topic-pattern=orders"]) == EXIT_CONFIGURATION


def test_to_parquet_on_a_disk_and_again_after_more_came(broker: EmbeddedBroker, tmp_path: Path) -> None:
    send(broker, range(1000))
    assert main(flags(broker, str(tmp_path), "--max-batch-offsets=300")) == EXIT_DONE
    assert ids_in(f"{tmp_path}/output") == list(range(1000))
    assert main(flags(broker, str(tmp_path))) == EXIT_DONE
    send(broker, range(1000, 1500))
    assert main(flags(broker, str(tmp_path))) == EXIT_DONE
    assert ids_in(f"{tmp_path}/output") == list(range(1500))


def test_to_json_lines(broker: EmbeddedBroker, tmp_path: Path) -> None:
    send(broker, range(10))
    assert main(flags(broker, str(tmp_path), "--output-format=json", "--output-compression=gzip")) == EXIT_DONE
    (file, *rest) = (tmp_path / "output").glob("*.json.gz")
    assert rest == []
    rows = [orjson.loads(line) for line in zlib.decompress(file.read_bytes(), wbits=31).splitlines()]
    assert sorted(orjson.loads(row["value"])["id"] for row in rows) == list(range(10))
    assert {row["topic"] for row in rows} == {"orders"}


def test_to_csv_by_topic_and_event_date(broker: EmbeddedBroker, tmp_path: Path) -> None:
    send(broker, range(100))
    to_csv = flags(
        broker,
        str(tmp_path),
        "--output-format=csv",
        "--output-compression=zstd",
        "--output-partition-by=topic,event_date",
    )
    assert main(to_csv) == EXIT_DONE
    read = duckdb.sql(
        f"select value, topic, event_date, timestamp_ms from read_csv('{tmp_path}/output/*/*/*.csv.zst', "
        "hive_partitioning=true, hive_types={'event_date': date})"
    ).fetchall()
    assert sorted(orjson.loads(value)["id"] for value, *_ in read) == list(range(100))
    assert {topic for _, topic, *_ in read} == {"orders"}
    for _, _, event_date, timestamp_ms in read:
        assert datetime.datetime.fromtimestamp(timestamp_ms / 1000, datetime.timezone.utc).date() == event_date


def test_to_parquet_by_partition_and_what_verify_says(broker: EmbeddedBroker, bucket: str) -> None:
    send(broker, range(100))
    assert main(flags(broker, bucket, "--max-batch-offsets=40")) == EXIT_DONE
    send(broker, range(100, 200))
    assert main(flags(broker, bucket, "--output-partition-by=partition")) == EXIT_DONE, "it may come later"
    assert ids_in(f"{bucket}/output") == list(range(200))
    names = [file.name for batch in read_batches(f"{bucket}/output") for file in batch.files]
    assert {name.partition("/")[0] for name in names if "/" in name} == {f"partition={n}" for n in range(PARTITIONS)}
    verified = CliRunner().invoke(cli, ["verify", f"{bucket}/checkpoint", "--json"])
    assert verified.exit_code == EXIT_DONE, verified.output
    missing = next(name for name in names if "/" in name)
    open_object_store(f"{bucket}/output").delete([missing])
    verified = CliRunner().invoke(cli, ["verify", f"{bucket}/checkpoint", "--json"])
    assert verified.exit_code != EXIT_DONE
    assert missing in verified.output


def test_to_text_is_the_value_a_line(broker: EmbeddedBroker, tmp_path: Path) -> None:
    send(broker, range(20))
    assert main(flags(broker, str(tmp_path), "--output-format=text", "--output-partition-by=partition")) == EXIT_DONE
    files = list((tmp_path / "output").glob("partition=*/*.txt"))
    assert sorted(orjson.loads(line)["id"] for file in files for line in file.read_bytes().splitlines()) == list(
        range(20)
    )


def test_records_that_are_no_line_go_to_an_output_of_their_own(broker: EmbeddedBroker, tmp_path: Path) -> None:
    values = [b"one", b"two\nlines", b"three"]
    for _ in produce(broker.bootstrap_servers, "orders", PARTITIONS, values):
        pass
    to_text = flags(broker, str(tmp_path), "--output-format=text")
    assert main(to_text) == EXIT_CONFIGURATION
    assert main([*to_text, f"--rejected-location={tmp_path}/rejected"]) == EXIT_DONE
    files = (tmp_path / "output").glob("*.txt")
    assert sorted(line for file in files for line in file.read_bytes().splitlines()) == [b"one", b"three"]
    (rejected,) = pq.read_table(tmp_path / "rejected").to_pylist()
    assert (rejected["topic"], rejected["value"], rejected["step"]) == ("orders", b"two\nlines", "files")


def test_a_column_that_records_do_not_have_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(
        [
            "--bootstrap-servers=nowhere:9092",
            "--topics=orders",
            f"--output-location={tmp_path}/output",
            f"--checkpoint-location={tmp_path}/checkpoint",
            "--output-partition-by=topic,country",
        ]
    )
    assert code == EXIT_CONFIGURATION
    assert "country is not known" in capsys.readouterr().err


@pytest.mark.runs_on("DirectRunner", storage="S3, by moto")
def test_to_s3_with_the_checkpoint_there_too(broker: EmbeddedBroker, bucket: str) -> None:
    send(broker, range(500))
    to_s3 = flags(broker, bucket, "--max-batch-offsets=200")
    assert main(to_s3) == EXIT_DONE
    send(broker, range(500, 700))
    assert main(to_s3) == EXIT_DONE
    assert ids_in(f"{bucket}/output") == list(range(700))


@pytest.mark.runs_on("DirectRunner", storage="S3, by moto")
@pytest.mark.parametrize(
    "kill_after", ["put_if_absent:commits/:2", "stage::2", "publish::2", "put_if_absent:offsets/:2"]
)
def test_killed_while_writing_to_s3(broker: EmbeddedBroker, bucket: str, kill_after: str) -> None:
    send(broker, range(500))
    command = flags(broker, bucket, "--max-batch-offsets=200")
    killed = subprocess.run(
        [
            sys.executable,
            *("-m", "beam_exactly_once.testing.crashing", "--kill_after", kill_after),
            "beam_exactly_once.pipelines.kafka_to_files",
            *command,
        ],
        check=False,
        capture_output=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert main(command) == EXIT_DONE
    assert ids_in(f"{bucket}/output") == list(range(500))
    assert list(open_object_store(f"{bucket}/output").list_staged()) == []


@pytest.mark.runs_on("DirectRunner", trigger="ProcessingTime")
def test_sigterm_finishes_the_batch_and_exits_0(broker: EmbeddedBroker, tmp_path: Path) -> None:
    send(broker, range(100))
    command = flags(broker, str(tmp_path), "--trigger=processing_time=0.05", "--listeners=json_lines=-")
    with subprocess.Popen(
        [sys.executable, "-m", "beam_exactly_once.pipelines.kafka_to_files", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as running:
        try:
            assert running.stdout is not None
            assert orjson.loads(running.stdout.readline())["records_read"] == 100
            send(broker, range(100, 250))
            seen = 100
            while seen < 250:
                seen += orjson.loads(running.stdout.readline())["records_read"]
            running.send_signal(signal.SIGTERM)
            assert running.wait(180) == EXIT_DONE
        finally:
            running.kill()
    assert ids_in(f"{tmp_path}/output") == list(range(250))


def test_a_secret_is_nowhere_to_be_found(
    broker: EmbeddedBroker, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Not in the checkpoint, the output, the logs, the progress, or the error of a run that fails."""
    send(broker, range(10))
    secret_file = tmp_path / "secret" / "password"
    secret_file.parent.mkdir()
    secret_file.write_text(CANARY)
    config = tmp_path / "secret" / "client.properties"
    config.write_text(f"sasl.username=me\nsasl.password=${{file:{secret_file}}}\nssl.key.password={CANARY}\n")
    place = str(tmp_path / "stream")
    with caplog.at_level(logging.DEBUG):
        code = main(flags(broker, place, f"--client-config-file={config}", f"--listeners=json_lines={place}-progress"))
        assert code == EXIT_DONE
        assert main(flags(broker, place, f"--client-config-file={config}", "--topics=missing", "--timeout-s=1")) != 0
    captured = capfd.readouterr()
    assert "UnknownTopic" in captured.err
    texts = [captured.out, captured.err, caplog.text]
    texts += [path.read_bytes().decode(errors="replace") for path in tmp_path.rglob("*") if stored(path)]
    assert [text for text in texts if CANARY in text] == []
    assert len(texts) > 8


def stored(path: Path) -> bool:
    return path.is_file() and path.parent.name != "secret"


def test_a_secret_is_not_in_the_pipeline_proto(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KAFKA_PASSWORD", CANARY)
    stream = ExactlyOnceStream(str(tmp_path / "checkpoint"))
    _ = (
        stream
        | ReadFromKafka(
            "localhost:9092", ["orders"], client_config={"sasl.password": secret_from_env("KAFKA_PASSWORD")}
        )
        | WriteToFiles(str(tmp_path / "output"))
    )
    payloads = list(payloads_of(stream.to_runner_api()))
    assert any(b"KAFKA_PASSWORD" in payload for payload in payloads), "the reference itself must be found"
    assert not any(CANARY.encode() in payload for payload in payloads)


def payloads_of(proto: beam_runner_api_pb2.Pipeline) -> Iterator[bytes]:
    """Every payload, as it is and with Beam's pickle packing undone."""
    yield proto.SerializeToString()
    for transform in proto.components.transforms.values():
        if "pardo" in transform.spec.urn or "par_do" in transform.spec.urn:
            packed = beam_runner_api_pb2.ParDoPayload.FromString(transform.spec.payload).do_fn.payload
            for unpack in (bz2.decompress, zlib.decompress):
                try:
                    yield unpack(base64.b64decode(packed))
                except (OSError, ValueError, zlib.error):
                    continue


def test_flags_of_beam_are_taken(broker: EmbeddedBroker, tmp_path: Path) -> None:
    send(broker, range(3))
    assert main(flags(broker, str(tmp_path), "--direct_num_workers=1")) == EXIT_DONE
    assert ids_in(f"{tmp_path}/output") == [0, 1, 2]
