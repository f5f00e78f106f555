"""Running ``beam-exactly-once`` in this process."""

from __future__ import annotations

from click.testing import CliRunner, Result

from beam_exactly_once import Record
from beam_exactly_once.cli import commands
from beam_exactly_once.testing import MemoryKafka
from support.hand_made_stream import P0, P1


def run(*arguments: object, answer: str | None = None) -> Result:
    result = CliRunner(env={"COLUMNS": "100"}).invoke(commands.main, [str(one) for one in arguments], input=answer)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def shown(*arguments: object) -> str:
    """What is printed, without the blanks that fill lines."""
    result = run(*arguments)
    return "\n".join(line.rstrip() for line in result.stdout.splitlines())


def kafka_holding(*, p0: tuple[int, int], p1: tuple[int, int]) -> MemoryKafka:
    kafka = MemoryKafka({"orders": 2})
    for place, (earliest, latest) in ((P0, p0), (P1, p1)):
        kafka.append(Record("orders", place.partition) for _ in range(latest))
        kafka.delete_records("orders", place.partition, earliest)
    return kafka
