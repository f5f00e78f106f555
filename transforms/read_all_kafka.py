"""``ReadAllFromKafka``: topics and partitions that an ordinary pipeline makes itself, read on and on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import apache_beam as beam

from beam_exactly_once.arguments import options_of
from beam_exactly_once.errors import UnsupportedPipeline
from beam_exactly_once.kafka import ConfigValue, KafkaSettings, TopicSelection
from beam_exactly_once.kafka.settings import IsolationLevel
from beam_exactly_once.planning import BatchLimits
from beam_exactly_once.planning.event_time import EventTime
from beam_exactly_once.planning.start import StartValue
from beam_exactly_once.rows.rejected import OnError
from beam_exactly_once.topics import OnDataLoss
from beam_exactly_once.transforms.decode_records import Decoder
from beam_exactly_once.transforms.reading.read_log import ReadLog
from beam_exactly_once.transforms.stream_graph import StreamGraph, graph_of


class ReadAllFromKafka(ReadLog):
    """Reads what its input names, as :class:`~beam_exactly_once.ReadFromKafka` does in an ordinary pipeline without ``stop``.

    Unbounded. Works only in an ordinary ``beam.Pipeline``, on runners that run pipelines without an end. Guarantee: each
    offset is claimed once; the rest is what the runner promises of its sources. Parallelism: any number of workers, by
    partition and by splits.

    Input: the name of a topic, or a :class:`~beam_exactly_once.TopicPartition`, each once. Output: as of ``ReadFromKafka``.

    Args:
        bootstrap_servers: ``host:port``, several with commas.
        start: where to begin in the partitions that are there when an element comes: ``"earliest"``; ``"latest"``; a
            datetime with a time zone, for the first record at or after it; or :class:`~beam_exactly_once.FromGroup`. Partitions
            that are added later are read from their earliest offset.
        decoder: the function of a :class:`~beam_exactly_once.DecodeRecords` right behind the read.
        as_arrow: give Arrow batches instead of records, to the decoder too.
        headers: whether records have their headers.
        event_time: which timestamps records carry, and how far the watermark stays behind them; None: those of the clock.
        on_error: what becomes of a record that cannot be decoded: ``"fail"`` or ``"reject"``.
        on_data_loss: ``"fail"``; or ``"skip"``, which names lost offsets in the log, counts them, and goes on.
        commit_to_group: the consumer group that is told how far the read is; see ``ReadFromKafka``.
        name: is its label.
        isolation_level: ``"read_committed"`` or ``"read_uncommitted"``.
        client_config: librdkafka properties; secrets as ``secret_from_env(…)``, ``secret_from_file(…)`` or a callable.
        timeout_s: seconds until an unreachable broker or unknown topic is an error.

    Raises:
        ConfigurationError: an argument is wrong; plain-text secrets included.
        UnsupportedPipeline: applied in an ``ExactlyOnceStream``.
    """

    kind = "kafka"
    has_groups = True

    def __init__(
        self,
        bootstrap_servers: str,
        *,
        start: StartValue = "earliest",
        decoder: Decoder | None = None,
        as_arrow: bool = False,
        headers: bool = True,
        event_time: EventTime | None = None,
        on_error: OnError = "fail",
        on_data_loss: OnDataLoss = "fail",
        commit_to_group: str | None = None,
        name: str | None = None,
        isolation_level: IsolationLevel = "read_committed",
        client_config: Mapping[str, ConfigValue] | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        super().__init__(
            start=start,
            stop=None,
            decoder=decoder,
            as_arrow=as_arrow,
            event_time=event_time,
            on_error=on_error,
            on_data_loss=on_data_loss,
            limits=BatchLimits(),
            name=name,
            commit_to_group=commit_to_group,
        )
        self._settings = KafkaSettings(
            bootstrap_servers,
            options_of("client_config", client_config) or {},
            isolation_level=isolation_level,
            timeout_s=timeout_s,
            headers=headers,
        )

    def log_in(self, graph: StreamGraph | None) -> tuple[KafkaSettings, TopicSelection | None]:
        """The cluster; each element says what of it."""
        return self._settings, None

    def expand(self, places: beam.PCollection[Any]) -> Any:
        """The partitions of each place, and what is in them."""
        if graph_of(places.pipeline) is not None:
            raise UnsupportedPipeline(
                f"{self._said} does not work in an ExactlyOnceStream, whose checkpoint knows its topics: use "
                "ReadFromKafka with topics= or topic_pattern=."
            )
        records = self._expand_unbounded(places)
        return records if self._decode is None else records | self._decode
