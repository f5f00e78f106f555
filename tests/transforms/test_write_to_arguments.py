"""What ``WriteTo`` refuses where the user gives it."""

from __future__ import annotations

from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest

from beam_exactly_once import ExactlyOnceStream, ReadFromKafka
from beam_exactly_once.errors import ConfigurationError, UnsupportedPipeline
from beam_exactly_once.sinks import Delivery, TransactionalSink, WriteTo


class Own(TransactionalSink):
    kind, location = "own", "own://orders"

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)

    def write(self, delivery: Delivery) -> None:
        raise AssertionError("not called")


class Nameless(TransactionalSink):
    def write(self, delivery: Delivery) -> None:
        raise AssertionError("not called")


@pytest.mark.parametrize(
    ("sink", "options", "words"),
    [
        (print, {}, "must be a TransactionalSink of beam_exactly_once.sinks"),
        (Own, {}, "must be a TransactionalSink"),
        (Nameless(), {}, "kind=None of Nameless must be a word for its system"),
        (Own(kind="sql"), {}, "kind='sql' of Own must be a word for its system, and not one of delta, files"),
        (Own(kind="a word"), {}, "name='a word' cannot name"),
        (Own(location=""), {}, "location='' of Own must say where it writes"),
        (Own(), {"schema": "id"}, "schema= must be a pyarrow.Schema, not a str"),
        (Own(), {"schema": pa.schema([])}, "must have at least one column"),
        (Own(), {"shards": 0}, "shards=0 must be a whole number of at least 1"),
        (Own(), {"direct": 1}, "direct=1 must be True or False"),
        (Own(), {"on_error": "skip"}, "on_error='skip' is not known"),
        (Own(), {"on_error": "reject", "direct": True}, "Leave one of them out"),
        (Own(), {"name": "a/b"}, "name='a/b' cannot name"),
    ],
)
def test_what_is_not_possible(sink: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        WriteTo(sink, **options)


def test_it_needs_a_stream() -> None:
    with (
        pytest.raises(UnsupportedPipeline, match="WriteTo works only in an ExactlyOnceStream"),
        beam.Pipeline() as plain,
    ):
        _ = plain | beam.Create([{"id": 1}]) | WriteTo(Own())


def test_its_kind_is_its_name_and_the_checkpoint_knows_where_it_writes() -> None:
    stream = ExactlyOnceStream("memory://write-to-arguments/checkpoint")
    rows = stream | ReadFromKafka("memory:9092", ["in"])
    _ = rows | WriteTo(Own())
    _ = rows | WriteTo(Own(), name="second")
    sinks = stream.stream_graph.sinks
    assert list(sinks) == ["own", "second"]
    assert all(sink.definition == {"kind": "own", "location": "own://orders"} for sink in sinks.values())
    with pytest.raises(ConfigurationError, match="two sinks are named 'own'"):
        _ = rows | "third" >> WriteTo(Own())
