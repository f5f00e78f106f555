"""Ready-made pipelines in processes that are frozen by SIGSTOP, and wake when another driver has done all and gone on."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from beam_exactly_once.errors import EXIT_DONE, EXIT_FENCED
from beam_exactly_once.pipelines import kafka_to_kafka, kafka_to_sql
from services.streams.copies import numbers_of, records_of
from services.streams.frozen_lives import copier, inserter
from services.streams.topics import Topic
from support.lives import in_a_process

pytestmark = pytest.mark.runs_on("DirectRunner")
NewTopicMade = Callable[..., Topic]


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


@pytest.mark.parametrize(
    ("moment", "batches"), [("committed", 10), ("the receipt was read", 10), ("produce", 10), ("commit", 150)]
)
def test_acopier_wakes_late(new_topic: NewTopicMade, output: Topic, tmp_path: Path, moment: str, batches: int) -> None:
    """Its transaction is open, or was not begun. Its staged rows and its marker were swept, where it was 150 batches."""
    source = new_topic(1)
    source.send(b"%d" % number for number in range(batches))
    arguments = flags(source, tmp_path, output_topic=output.name)
    with in_a_process(copier, arguments, moment) as zombie:
        assert zombie.wait_frozen()
        assert numbers_of(records_of(output.bootstrap_servers, output.name)) == []
        assert kafka_to_kafka.main(arguments) == EXIT_DONE
        zombie.thaw()
        assert zombie.wait() == EXIT_FENCED
    assert numbers_of(records_of(output.bootstrap_servers, output.name)) == list(range(batches))
    source.send([b"%d" % batches])
    assert kafka_to_kafka.main(arguments) == EXIT_DONE
    assert numbers_of(records_of(output.bootstrap_servers, output.name)) == list(range(batches + 1))


@pytest.mark.parametrize(
    ("sql_variable", "moment", "batches"),
    [
        ("postgres", "committed", 10),
        ("postgres", "lock", 10),
        ("postgres", "rows", 150),
        ("mariadb", "committed", 10),
        ("mariadb", "lock", 10),
        ("mariadb", "rows", 10),
    ],
    indirect=["sql_variable"],
)
def test_aninserter_wakes_late(
    new_topic: NewTopicMade, sql_variable: str, tmp_path: Path, moment: str, batches: int
) -> None:
    """Outside of a transaction, or in one that has written nothing or all its rows: its server ended it. After 150 batches its
    staged rows, its plan and its marker are swept."""
    table = f"orders_{secrets.token_hex(4)}"
    source = new_topic(1)
    source.send(b'{"id": %d}' % number for number in range(batches))
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
    assert ids() == list(range(batches))
    source.send([b'{"id": %d}' % batches])
    assert kafka_to_sql.main(arguments) == EXIT_DONE
    assert ids() == list(range(batches + 1))
