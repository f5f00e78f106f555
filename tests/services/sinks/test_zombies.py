"""Ready-made pipelines in processes that are frozen by SIGSTOP, and wake when another driver has done all and gone on."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from beam_exactly_once import ExactlyOnceStream
from beam_exactly_once.errors import EXIT_DONE, EXIT_FENCED
from beam_exactly_once.pipelines import kafka_to_kafka, kafka_to_sql
from services.streams.copies import numbers_of, records_of
from services.streams.frozen_lives import copier, inserter
from services.streams.topics import Topic
from support.lives import in_a_process

pytestmark = pytest.mark.runs_on("DirectRunner")
NewTopicMade = Callable[..., Topic]
BATCHES = 10


@pytest.fixture
def few_are_kept(monkeypatch: pytest.MonkeyPatch, are_swept: bool) -> None:
    """Where it is said so, drivers of this process keep 2 plans and markers, and not 100."""
    defaults = ExactlyOnceStream.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "retain_batches", 2 if are_swept else defaults["retain_batches"])


def flags(source: Topic, folder: Path, **more: object) -> list[str]:
    """One record a batch."""
    given = {
        "bootstrap_servers": source.bootstrap_servers,
        "topics": source.name,
        "checkpoint_location": folder / "checkpoint",
        "max_batch_offsets": 1,
        **more,
    }
    return [f"--{name}={value}" for name, value in given.items()]


@pytest.mark.usefixtures("few_are_kept")
@pytest.mark.parametrize(
    ("moment", "are_swept"),
    [("committed", False), ("the receipt was read", False), ("produce", False), ("commit", True)],
)
def test_a_copier_wakes_late(new_topic: NewTopicMade, output: Topic, tmp_path: Path, moment: str) -> None:
    """Its transaction is open, or was not begun. Its staged rows and its marker are there, or were swept."""
    source = new_topic(1)
    source.send(b"%d" % number for number in range(BATCHES))
    arguments = flags(source, tmp_path, output_topic=output.name)
    with in_a_process(copier, arguments, moment) as zombie:
        assert zombie.wait_frozen()
        assert numbers_of(records_of(output.bootstrap_servers, output.name)) == []
        assert kafka_to_kafka.main(arguments) == EXIT_DONE
        zombie.thaw()
        assert zombie.wait() == EXIT_FENCED
    assert numbers_of(records_of(output.bootstrap_servers, output.name)) == list(range(BATCHES))
    source.send([b"%d" % BATCHES])
    assert kafka_to_kafka.main(arguments) == EXIT_DONE
    assert numbers_of(records_of(output.bootstrap_servers, output.name)) == list(range(BATCHES + 1))


@pytest.mark.parametrize(
    ("sql_variable", "moment", "are_swept"),
    [
        ("postgres", "committed", False),
        ("postgres", "lock", False),
        ("postgres", "rows", True),
        ("mariadb", "committed", False),
        ("mariadb", "lock", False),
        ("mariadb", "rows", False),
    ],
    indirect=["sql_variable"],
)
@pytest.mark.usefixtures("few_are_kept")
def test_an_inserter_wakes_late(new_topic: NewTopicMade, sql_variable: str, tmp_path: Path, moment: str) -> None:
    """Outside of a transaction, or in one that has written nothing or all its rows: its server ended it. Its staged rows, its
    plan and its marker are there, or were swept."""
    table = f"orders_{secrets.token_hex(4)}"
    source = new_topic(1)
    source.send(b'{"id": %d}' % number for number in range(BATCHES))
    arguments = flags(source, tmp_path, output_url=f"${{env:{sql_variable}}}", output_table=table)
    engine = sa.create_engine(os.environ[sql_variable], poolclass=sa.NullPool)

    def ids() -> list[int]:
        with engine.connect() as connection:
            return [row[0] for row in connection.exec_driver_sql(f"SELECT id FROM {table} ORDER BY id")]

    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE TABLE {table} (id BIGINT NOT NULL)")
    with in_a_process(inserter, arguments, moment) as zombie:
        assert zombie.wait_frozen()
        assert ids() == []
        assert kafka_to_sql.main(arguments) == EXIT_DONE
        zombie.thaw()
        assert zombie.wait() == EXIT_FENCED
    assert ids() == list(range(BATCHES))
    source.send([b'{"id": %d}' % BATCHES])
    assert kafka_to_sql.main(arguments) == EXIT_DONE
    assert ids() == list(range(BATCHES + 1))
