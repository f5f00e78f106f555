"""A broker inside this process, for demos and tests."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from functools import cache
from types import TracebackType

from confluent_kafka import cimpl

_BROKER_ID = 1
_API_FETCH = 1
_ERROR_BYTES = 512


class EmbeddedBroker:
    """librdkafka's mock cluster with one broker on a free port of the loopback interface; a context manager.

    Any client, also of another process, can produce and consume through :attr:`bootstrap_servers` until
    :meth:`close`. It keeps records in memory.

    What it is not: it has no transactions (aborted records and those of open transactions are delivered, whatever
    the isolation level), no fencing of producers, no search by timestamp, no compaction, no security, and it drops the
    oldest records of a partition above 5 MiB as sent. It cannot show that anything is exactly-once.

    Args:
        topics: Number of partitions of each topic. A producer that names another topic creates it with 4.
    """

    def __init__(self, topics: Mapping[str, int]) -> None:
        self._client: int | None = None
        library = _library()
        error = ctypes.create_string_buffer(_ERROR_BYTES)
        config = library.rd_kafka_conf_new()
        library.rd_kafka_conf_set(config, b"log_level", b"0", error, _ERROR_BYTES)
        self._client = library.rd_kafka_new(0, config, error, _ERROR_BYTES)
        if not self._client:
            raise RuntimeError(f"the mock cluster's client cannot be made: {error.value.decode()}")
        self._cluster = library.rd_kafka_mock_cluster_new(self._client, 1)
        library.rd_kafka_mock_set_controller_id(self._cluster, _BROKER_ID)
        self.bootstrap_servers: str = library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()
        for name, partitions in topics.items():
            self.create_topic(name, partitions)

    def __enter__(self) -> EmbeddedBroker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def create_topic(self, name: str, partitions: int) -> None:
        """Create a topic with this many partitions."""
        self._check(_library().rd_kafka_mock_topic_create(self._open(), name.encode(), partitions, 1))

    def delete_records(self, topic: str, partition: int, before_offset: int) -> None:
        """Delete the records below ``before_offset``, as retention would."""
        self._check(
            _library().rd_kafka_mock_partition_delete_records(self._open(), topic.encode(), partition, before_offset)
        )

    def push_fetch_errors(self, codes: Sequence[int]) -> None:
        """Answer the next fetch requests with these Kafka error codes, one each."""
        values = (ctypes.c_int * len(codes))(*codes)
        _library().rd_kafka_mock_push_request_errors_array(self._open(), _API_FETCH, len(codes), values)

    def set_down(self) -> None:
        """Break all connections and refuse new ones; the records stay."""
        self._check(_library().rd_kafka_mock_broker_set_down(self._open(), _BROKER_ID))

    def set_up(self) -> None:
        """Accept connections again."""
        self._check(_library().rd_kafka_mock_broker_set_up(self._open(), _BROKER_ID))

    def close(self) -> None:
        """End the broker at once and forget its records. Twice does no harm."""
        client, self._client = self._client, None
        if client:
            _library().rd_kafka_mock_cluster_destroy(self._cluster)
            _library().rd_kafka_destroy(client)

    def _open(self) -> int:
        if not self._client:
            raise RuntimeError("this embedded broker is closed")
        return int(self._cluster)

    @staticmethod
    def _check(code: int) -> None:
        if code:
            text = _library().rd_kafka_err2str(code).decode()
            raise RuntimeError(f"the mock cluster refuses: {text}")


@cache
def _library() -> ctypes.CDLL:
    """librdkafka as the client's extension has loaded it: its symbols resolve through the extension's own file."""
    library = ctypes.CDLL(cimpl.__file__)
    handle, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    shapes: dict[str, tuple[type | None, list[type]]] = {
        "rd_kafka_conf_new": (handle, []),
        "rd_kafka_conf_set": (number, [handle, text, text, text, ctypes.c_size_t]),
        "rd_kafka_new": (handle, [number, handle, text, ctypes.c_size_t]),
        "rd_kafka_destroy": (None, [handle]),
        "rd_kafka_err2str": (text, [number]),
        "rd_kafka_mock_cluster_new": (handle, [handle, number]),
        "rd_kafka_mock_cluster_destroy": (None, [handle]),
        "rd_kafka_mock_cluster_bootstraps": (text, [handle]),
        "rd_kafka_mock_set_controller_id": (None, [handle, ctypes.c_int32]),
        "rd_kafka_mock_topic_create": (number, [handle, text, number, number]),
        "rd_kafka_mock_partition_delete_records": (number, [handle, text, ctypes.c_int32, ctypes.c_int64]),
        "rd_kafka_mock_push_request_errors_array": (
            None,
            [handle, ctypes.c_int16, ctypes.c_size_t, ctypes.POINTER(number)],
        ),
        "rd_kafka_mock_broker_set_down": (number, [handle, ctypes.c_int32]),
        "rd_kafka_mock_broker_set_up": (number, [handle, ctypes.c_int32]),
    }
    for name, (result, arguments) in shapes.items():
        function = getattr(library, name)
        function.restype = result
        function.argtypes = arguments
    return library
