"""The native reader: records become Arrow buffers in C, where the extension was built and knows the client's library.

It takes records from librdkafka's queue of a partition; all else stays with the consumer of confluent-kafka. Which reader is
used is said once a process. ``$BEAM_EXACTLY_ONCE_READER`` asks for one: ``auto`` (default), ``native``, ``python``.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from itertools import pairwise
from types import ModuleType
from typing import Any

import confluent_kafka.cimpl
import pyarrow as pa
from confluent_kafka import Consumer, KafkaError, KafkaException

from beam_exactly_once.arguments import one_of
from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.kafka.inbox import (
    MAX_CHUNK_BYTES,
    Cause,
    Doubt,
    Event,
    Inbox,
    MessageInbox,
    unreadable_header,
)
from beam_exactly_once.kafka.settings import KafkaSettings
from beam_exactly_once.logs.records import HEADERS_TYPE, Chunk, batch_of
from beam_exactly_once.offsets import TopicPartition

READER_VARIABLE = "BEAM_EXACTLY_ONCE_READER"
_PLUGINS = ".".join(("plugin", "library", "paths"))
"""The client's property that names the files of its plugins."""
_OLDEST, _TOO_NEW = 0x02100000, 0x03000000
"""Versions of librdkafka from the first of these on, below the second: all of one ABI, and tested at both ends."""
_NOTHING, _ENOUGH, _EVENT, _DOUBT = range(4)
_LOGGER = logging.getLogger(__name__)
_CLIENT_LOGGER = logging.getLogger("beam_exactly_once.kafka.client")
"""Gets the client's alarms, which go to stderr otherwise. A client with a logger lets the extension have its errors."""


def reader() -> ModuleType | None:
    """The extension, if it is wanted and can be used; else None: then records are read as messages.

    Raises:
        ConfigurationError: ``$BEAM_EXACTLY_ONCE_READER`` asks for what is not there.
    """
    wanted = os.environ.get(READER_VARIABLE, "auto")
    one_of(READER_VARIABLE, wanted, ("auto", "native", "python"))
    if wanted == "python":
        return None
    extension, fault = _load()
    if extension is None and wanted == "native":
        raise ConfigurationError(
            f"{READER_VARIABLE}=native, but there is no native reader: {fault}. Install where there is a C compiler, or "
            "take 'auto'."
        )
    return extension


@functools.cache
def _load() -> tuple[ModuleType | None, str]:
    try:
        from beam_exactly_once.kafka import _native_reader as extension

        version = extension.load(str(confluent_kafka.cimpl.__file__))
    except ImportError as error:
        return _unused(str(error))
    fault = version_fault(version) or _fault_of_plugin(extension)
    if fault is not None:
        return _unused(fault)
    _LOGGER.info("Kafka is read natively, by librdkafka %s", confluent_kafka.libversion()[0])
    return extension, ""


def version_fault(version: int) -> str | None:
    """What is wrong with this version of librdkafka, as it gives it itself."""
    if _OLDEST <= version < _TOO_NEW:
        return None
    return f"librdkafka {version:#010x} is not one from {_OLDEST:#010x} on and below {_TOO_NEW:#010x}"


def _fault_of_plugin(extension: ModuleType) -> str | None:
    """What keeps librdkafka from telling the extension of a client, tried with one that connects to nobody."""
    try:
        consumer = Consumer(_known_to(extension, {"group.id": "none", "log_level": "0"}))
    except KafkaException as exception:
        return f"the client takes no plugin: {exception.args[0].str()}"
    client = extension.newest_client(print)
    consumer.close()
    return None if client is not None else "the client does not tell its plugin of itself"


def _unused(fault: str) -> tuple[None, str]:
    _LOGGER.info("Kafka is read by way of Python messages, which takes longer: %s", fault)
    return None, fault


def open_reader(
    open_client: Callable[[Callable[[dict[str, Any]], Consumer], KafkaSettings], Consumer], settings: KafkaSettings
) -> tuple[Consumer, Inbox]:
    """A consumer, and the inbox of what it delivers; the inbox is closed first.

    Args:
        open_client: opens what is made of a configuration.
        settings: of the consumer.
    """
    extension = reader()
    if extension is None:
        consumer = open_client(Consumer, settings)
        return consumer, MessageInbox(consumer, settings.headers)
    told: list[Callable[[KafkaError], None]] = []
    events: list[Event] = []

    def open_known(config: dict[str, Any]) -> Consumer:
        told.append(config["error_cb"])
        return Consumer(_known_to(extension, config))

    def on_error(code: int, text: bytes, is_fatal: int) -> None:
        error = _error(code, text, bool(is_fatal))
        if is_fatal:
            events.append(Event(error, -1))
        else:
            told[0](error)

    consumer = open_client(open_known, settings)
    client = extension.newest_client(on_error)
    if client is None:
        return consumer, MessageInbox(consumer, settings.headers)
    return consumer, NativeInbox(extension, client, consumer, events, settings.headers)


def _error(code: int, text: bytes, is_fatal: bool = False) -> KafkaError:
    return KafkaError(code, text.decode(errors="replace"), is_fatal)


def _known_to(extension: ModuleType, config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a client that the extension is told of, also of its errors."""
    plugins = filter(None, (config.get(_PLUGINS), extension.__file__))
    return {**config, _PLUGINS: ";".join(plugins), "logger": _CLIENT_LOGGER}


class NativeInbox:
    """An :class:`~beam_exactly_once.kafka.inbox.Inbox` of librdkafka's own queue.

    Args:
        extension: of :func:`reader`.
        client: what it knows of the consumer's client.
        consumer: its events, and what its callbacks are told, are asked for between chunks.
        events: fatal errors of the client, as they come.
        wants_headers: whether records are taken with their headers.
    """

    def __init__(
        self, extension: ModuleType, client: object, consumer: Consumer, events: list[Event], wants_headers: bool
    ) -> None:
        self._extension = extension
        self._client = client
        self._consumer = consumer
        self._wants_headers = wants_headers
        self._partition: Any = None
        self._events = events

    def open(self, place: TopicPartition) -> None:
        """See :meth:`Inbox.open`."""
        self.close()
        self._events.clear()
        self._partition = self._extension.Partition(self._client, place.topic, place.partition, self._wants_headers)

    def close(self) -> None:
        """See :meth:`Inbox.close`."""
        partition, self._partition = self._partition, None
        if partition is not None:
            partition.close()

    def begin(self) -> None:
        """See :meth:`Inbox.begin`."""
        if self._partition.state() != (0, 0):
            self._partition.collect()  # of a chunk that failed
        self._serve()

    def wants_more(self, max_records: int) -> bool:
        """See :meth:`Inbox.wants_more`."""
        records, taken_bytes = self._partition.state()
        return bool(records < max_records and taken_bytes < MAX_CHUNK_BYTES)

    def take(self, seen: int, stop: int, trusted: int, max_records: int, wait_s: float) -> tuple[int, Cause]:
        """See :meth:`Inbox.take`."""
        if wait_s:
            self._serve()
        if self._events:
            return seen, self._events.pop(0)
        seen, cause, offset, code, text = self._partition.take(
            seen, stop, trusted, max_records, MAX_CHUNK_BYTES, int(wait_s * 1000)
        )
        if cause == _EVENT:
            return seen, Event(_error(code, text), offset)
        return seen, Doubt(offset) if cause == _DOUBT else None

    def _serve(self) -> None:
        """Let the client call back, and take what it says of other things than records."""
        for message in self._consumer.consume(100, 0):
            error = message.error()
            if error is not None:
                self._events.append(Event(error, message.offset() or 0))

    def chunk(self, place: TopicPartition, start: int, stop: int) -> Chunk:
        """See :meth:`Inbox.chunk`."""
        owner, rows, headers, null_keys, null_values, null_texts, _, places = self._partition.collect()
        at = [pa.foreign_buffer(address, length, owner) for address, length in places]
        array = pa.Array.from_buffers
        names = array(pa.string(), headers, [None, at[10], at[11]])
        offsets = array(pa.int64(), rows, [None, at[0]])
        if headers and not _is_valid(names):
            raise unreadable_header(place, _offset_of_unreadable(offsets, at[9], names))
        texts = array(pa.binary(), headers, [at[12] if null_texts else None, at[13], at[14]], null_texts)
        pairs = pa.StructArray.from_arrays([names, texts], fields=list(HEADERS_TYPE.value_type))
        batch = batch_of(
            place.topic,
            place.partition,
            offsets,
            array(pa.int64(), rows, [None, at[1]]),
            array(pa.int8(), rows, [None, at[2]]),
            array(pa.binary(), rows, [at[3] if null_keys else None, at[4], at[5]], null_keys),
            array(pa.binary(), rows, [at[6] if null_values else None, at[7], at[8]], null_values),
            array(HEADERS_TYPE, rows, [None, at[9]], 0, children=[pairs]),
        )
        return Chunk(place.topic, place.partition, start, stop, batch)


def _is_valid(texts: pa.Array) -> bool:
    try:
        texts.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _offset_of_unreadable(offsets: pa.Array, ends: pa.Buffer, names: pa.Array) -> int:
    of_rows = pa.Array.from_buffers(pa.int32(), len(offsets) + 1, [None, ends]).to_pylist()
    first = next(row for row, (start, stop) in enumerate(pairwise(of_rows)) if not _is_valid(names[start:stop]))
    return int(offsets[first].as_py())
