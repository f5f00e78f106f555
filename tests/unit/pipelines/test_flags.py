"""From flags to arguments: what is written, what it becomes, and what is refused."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from beam_exactly_once import Continuous, ProcessingTime, Secret, secret_from_env, secret_from_file
from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.pipelines import kafka_to_files
from beam_exactly_once.pipelines.flags.arguments import Argument, flags_of
from beam_exactly_once.pipelines.flags.parsing import FlagParser
from beam_exactly_once.pipelines.flags.values import Unreadable, known_kinds, value_of
from beam_exactly_once.pipelines.progress import JsonLinesListener, ProgressListener
from beam_exactly_once.pipelines.triggers import AvailableNow, Trigger


@dataclass(frozen=True)
class Elsewhere:
    """The only kind of its type."""

    location: str
    batch_id: int | None = None


START = Literal["earliest", "latest"] | datetime.datetime | Mapping[str, Mapping[int, int]]


@pytest.mark.parametrize(
    ("text", "hint", "value"),
    [
        ("orders", str, "orders"),
        ("3", int, 3),
        ("0.5", float | None, 0.5),
        ("none", float | None, None),
        ("none", str, "none"),
        ("true", bool, True),
        ("append", Literal["append", "upsert"], "append"),
        ("a, b,", Sequence[str], ["a", "b"]),
        ('["a,b"]', Sequence[str], ["a,b"]),
        ("a", Sequence[str] | Mapping[str, Sequence[int]], ["a"]),
        ('{"a": [0, 1]}', Sequence[str] | Mapping[str, Sequence[int]], {"a": [0, 1]}),
        ("available_now", Trigger, AvailableNow()),
        ('{"available_now": {"drain": true}}', Trigger, AvailableNow(drain=True)),
        ("processing_time=10", Trigger, ProcessingTime(10.0)),
        ("continuous", Trigger, Continuous()),
        ("continuous=0.5", Trigger, Continuous(0.5)),
        ("earliest", START, "earliest"),
        ("2026-01-31T06:00:00Z", START, datetime.datetime(2026, 1, 31, 6, tzinfo=datetime.timezone.utc)),
        ('{"orders": {"0": 17}}', START, {"orders": {0: 17}}),
        ("s3://old/a=b", Elsewhere | None, Elsewhere("s3://old/a=b")),
        ("elsewhere=s3://old", Elsewhere | None, Elsewhere("s3://old")),
        ('{"location": "s3://old", "batch_id": 41}', Elsewhere | None, Elsewhere("s3://old", 41)),
        ("${env:URL}", str | Secret, secret_from_env("URL")),
        ("sqlite:///orders.db", str | Secret, "sqlite:///orders.db"),
        ('{"key": "${file:/run/key}"}', Mapping[str, Any] | None, {"key": secret_from_file("/run/key")}),
    ],
)
def test_the_value_that_a_text_says(text: str, hint: Any, value: Any) -> None:
    assert value_of(text, hint, known_kinds(hint)) == value


@pytest.mark.parametrize(
    ("text", "hint", "message"),
    [
        ("many", int, "must be a whole number"),
        ("maybe", bool, "must be true or false"),
        ("replace", Literal["append", "upsert"], "must be append or upsert"),
        ("sometimes", Trigger, "must be available_now, processing_time=INTERVAL_S or continuous"),
        ("processing_time", Trigger, "must be processing_time=INTERVAL_S"),
        ("processing_time=soon", Trigger, "must be a number"),
        ("available_now=1", Trigger, "must be available_now"),
        ('{"processing_time": {"minutes": 1}}', Trigger, "says minutes of processing_time, which has interval_s"),
        ("2026-01-31", START, "has no time zone: write 2026-01-31Z"),
        ("[1", Sequence[str], "is not JSON"),
        ('{"orders": {"zero": 17}}', START, "must be a whole number"),
    ],
)
def test_what_a_text_does_not_say(text: str, hint: Any, message: str) -> None:
    with pytest.raises(Unreadable, match=message):
        value_of(text, hint, known_kinds(hint))


def takes(
    location: str,
    *,
    max_rows: int = 7,
    columns: Sequence[str] | None = None,
    direct: bool = False,
    client_config: Mapping[str, str | Secret] | None = None,
    listeners: Sequence[ProgressListener] = (),
    fn: Callable[[], None] | None = None,
    name: str | None = None,
) -> None:
    """Takes arguments of every kind.

    Args:
        location: where it
            goes, ``s3://``.
        max_rows: 100 % of them, as :class:`~beam_exactly_once.Record` each.

    Raises:
        nothing.
    """


def parser(*prefixes: str) -> FlagParser:
    return FlagParser("program", "Does it.", {prefix: flags_of(takes, prefix, less=["name"]) for prefix in prefixes})


def flag(name: str) -> Argument:
    return next(argument for argument in flags_of(takes) if argument.name == name)


def test_flags_are_arguments_by_their_names_less_functions_of_python() -> None:
    names = [argument.flag for argument in flags_of(takes, "output-", less=["name"])]
    assert names == [
        "--output-location",
        "--output-max-rows",
        "--output-columns",
        "--output-direct",
        "--output-client-config",
        "--output-listeners",
    ]


def test_help_is_what_the_docstring_says() -> None:
    assert flag("location").help == "where it goes, s3://. (text)"
    assert flag("max_rows").help == "100 % of them, as Record each. (a whole number; default: 7)"
    assert flag("listeners").help == "(json_lines=PATH or a list with commas)"


def test_what_is_given_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "client.properties"
    file.write_text("acks=all\nlinger.ms=5\n")
    argv = ["--location", "s3://a", "--output-location=b", "--output_direct", "--output-columns", "x,y"]
    argv += [
        f"--client-config-file={file}",
        "--client_config",
        "linger.ms=7",
        "--client-config=sasl.password=${env:P=W}",
    ]
    values, of_beam = parser("", "output-").parse(argv)
    assert values == {
        "": {
            "location": "s3://a",
            "client_config": {"acks": "all", "linger.ms": "7", "sasl.password": secret_from_env("P=W")},
        },
        "output-": {"location": "b", "direct": True, "columns": ["x", "y"]},
    }
    assert of_beam == []


def test_listeners_are_made(tmp_path: Path) -> None:
    values, _ = parser("").parse(["--location=a", f"--listeners=json_lines={tmp_path / 'progress'}"])
    (listener,) = values[""]["listeners"]
    assert isinstance(listener, JsonLinesListener)


def test_beam_gets_its_own_flags_as_it_spells_them() -> None:
    argv = ["--runner", "FlinkRunner", "--flink-master=host:8081", "--location=a", "--parallelism=2", "--streaming"]
    _, of_beam = parser("").parse(argv)
    assert of_beam == ["--runner", "FlinkRunner", "--flink_master=host:8081", "--parallelism=2", "--streaming"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--locatoin=a"], "--locatoin is not known, here or by Apache Beam. Is --location meant?"),
        (
            ["--location=a", "--flink-mister=b"],
            "--flink-mister is not known, here or by Apache Beam. Is --flink-master meant?",
        ),
        (["--location=a", "--rows_max=9"], "--rows_max is not known, here or by Apache Beam. Is --max-rows meant?"),
        (["--location=a", "orders"], "orders is not known, here or by Apache Beam."),
        (["--max-rows=1"], "--location must be given."),
        (["--location=a", "--max-rows=all"], "--max-rows must be a whole number"),
        (["--location=a", "--client-config=acks"], "--client-config must be KEY=VALUE, not 'acks'"),
        (["--location=a", "--loc=b"], "--loc is not known"),
    ],
)
def test_refused_with_2(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parser("").parse(argv)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_a_file_that_cannot_be_read_is_named() -> None:
    with pytest.raises(ConfigurationError, match="/nowhere"):
        parser("").parse(["--location=a", "--client-config-file=/nowhere"])


@pytest.mark.parametrize(
    ("flag", "meant"),
    [
        ("--isolation_levl=read_uncommitted", "--isolation-level"),
        ("--max_offset_per_batch=9", "--max-batch-offsets"),
        ("--rejected_ouput=s3://lake/rejected", "--rejected-"),
    ],
)
def test_a_misspelt_flag_of_a_ready_made_pipeline_is_never_ignored(
    flag: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--bootstrap-servers=b:9092", "--topics=orders", "--output-location=o", "--checkpoint-location=c"]
    with pytest.raises(SystemExit) as ended:
        kafka_to_files.main([*given, flag])
    assert ended.value.code == 2
    assert f"Is {meant}" in capsys.readouterr().err
