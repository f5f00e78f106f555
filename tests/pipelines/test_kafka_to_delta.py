"""The ready-made pipeline to a Delta table as a program, on a broker that speaks Kafka's protocol."""

from __future__ import annotations

import datetime
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import orjson
import polars
import pytest
from click.testing import CliRunner
from deltalake import DeltaTable

from beam_exactly_once.cli import main as cli
from beam_exactly_once.errors import EXIT_CONFIGURATION, EXIT_DONE
from beam_exactly_once.kafka import EmbeddedBroker, produce
from beam_exactly_once.pipelines.kafka_to_delta import main

pytestmark = pytest.mark.runs_on("DirectRunner")

PARTITIONS = 2


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker({"orders": PARTITIONS}) as broker:
        yield broker


def send(broker: EmbeddedBroker, ids: Iterable[int]) -> None:
    for _ in produce(broker.bootstrap_servers, "orders", PARTITIONS, (orjson.dumps({"id": number}) for number in ids)):
        pass


def flags(broker: EmbeddedBroker, place: Path, *more: str) -> list[str]:
    return [
        f"--bootstrap-servers={broker.bootstrap_servers}",
        "--topics=orders",
        f"--output-location={place}/output",
        f"--checkpoint-location={place}/checkpoint",
        *more,
    ]


def files_of(place: Path) -> list[str]:
    return DeltaTable(f"{place}/output").file_uris()


def ids_in(place: Path) -> list[int]:
    values = DeltaTable(f"{place}/output").to_pyarrow_table(columns=["value"])["value"].to_pylist()
    return sorted(orjson.loads(value)["id"] for value in values)


def test_by_event_date_and_again_after_more_came(broker: EmbeddedBroker, tmp_path: Path) -> None:
    to_delta = flags(broker, tmp_path, "--output-partition-by=topic,event_date", "--max-batch-offsets=40")
    send(broker, range(100))
    assert main(to_delta) == EXIT_DONE
    send(broker, range(100, 120))
    assert main(to_delta) == EXIT_DONE
    assert ids_in(tmp_path) == list(range(120))
    verified = CliRunner().invoke(cli, ["verify", f"{tmp_path}/checkpoint", "--json"])
    assert verified.exit_code == EXIT_DONE, verified.output
    examined = {check["name"]: check["examined"] for check in orjson.loads(verified.output)["checks"]}
    assert (examined["receipts of sink delta"], examined["files of sink delta"]) == (1, len(files_of(tmp_path)))
    rows = polars.read_delta(f"{tmp_path}/output")
    assert rows["topic"].unique().to_list() == ["orders"]
    for timestamp_ms, event_date in rows.select("timestamp_ms", "event_date").iter_rows():
        assert datetime.datetime.fromtimestamp(timestamp_ms / 1000, datetime.timezone.utc).date() == event_date


@pytest.mark.parametrize("kill_after", ["put_if_absent:commits/:2", "publish:part-:2"])
def test_killed_by_the_system_and_started_again(broker: EmbeddedBroker, tmp_path: Path, kill_after: str) -> None:
    """The second is between the names of files and the commit of the table."""
    send(broker, range(60))
    to_delta = flags(broker, tmp_path, "--max-batch-offsets=20")
    killed = subprocess.run(
        [
            *(sys.executable, "-m", "beam_exactly_once.testing.crashing", f"--kill_after={kill_after}"),
            *("beam_exactly_once.pipelines.kafka_to_delta", *to_delta),
        ],
        check=False,
        timeout=120,
    )
    assert killed.returncode == -signal.SIGKILL
    assert len(ids_in(tmp_path)) < 60
    assert main(to_delta) == EXIT_DONE
    assert ids_in(tmp_path) == list(range(60))


def test_other_partitioning_is_a_matter_of_configuration(
    broker: EmbeddedBroker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    send(broker, range(3))
    assert main(flags(broker, tmp_path)) == EXIT_DONE
    assert main(flags(broker, tmp_path, "--output-partition-by=topic")) == EXIT_CONFIGURATION
    assert "A table's partitioning cannot change" in capsys.readouterr().err
    assert main(flags(broker, tmp_path, "--output-partition-by=country")) == EXIT_CONFIGURATION
