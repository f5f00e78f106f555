"""``ReadFromKafka``: topics in, records out, in a stream or in an ordinary pipeline, up to an end or without one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from beam_exactly_once.arguments import options_of
from beam_exactly_once.kafka import ConfigValue, KafkaSettings, TopicSelection, selection_of
from beam_exactly_once.kafka.settings import IsolationLevel
from beam_exactly_once.planning import BatchLimits
from beam_exactly_once.planning.event_time import EventTime
from beam_exactly_once.planning.start import StartValue
from beam_exactly_once.planning.stop import StopValue
from beam_exactly_once.rows.rejected import OnError
from beam_exactly_once.topics import OnDataLoss
from beam_exactly_once.transforms.decode_records import Decoder
from beam_exactly_once.transforms.reading.read_log import MAX_BATCH_BYTES, ReadLog
from beam_exactly_once.transforms.stream_graph import StreamGraph


class ReadFromKafka(ReadLog):
    """Reads topics directly: explicit offset ranges, no consumer group, no JVM.

    In an ``ExactlyOnceStream`` each batch reads the ranges planned in the checkpoint. The records carry the
    start of 1970 as their timestamp, so that a step may give them any later one; event time is
    ``record.timestamp_ms``. In an ordinary ``beam.Pipeline`` it is a bounded read up to ``stop``, and the records carry
    their Kafka timestamp, or the nearest that Beam has. Without ``stop`` it reads on and on there, on runners that run
    pipelines without an end, also topics and partitions that appear later.

    Guarantee: each record of the ranges once for each successful execution; exactly-once end to end together with a
    sink of this library in a stream. A read without an end gives what its runner promises of its sources. Parallelism: see
    :class:`ReadOffsetRanges`; not bound by the number of partitions. The user must provide retention that outlasts any
    stop of the stream.

    Output: :class:`~beam_exactly_once.Record` each, or with ``as_arrow=True`` a ``pa.RecordBatch`` a
    chunk of at most 1000 records; with ``decoder`` what that makes of them, and with ``on_error="reject"`` two
    collections, ``rows, rejected = …``.

    Args:
        bootstrap_servers: ``host:port``, several with commas.
        topics: names; all partitions of these are read, also those added later (from their earliest offset). Or the partitions
            to read of each: ``{"orders": [0, 1]}``.
        topic_pattern: instead of ``topics``, a regular expression that the whole name of a topic must match. Topics that
            appear while the stream runs are read from their earliest offset. One that disappears is data loss. Internal
            topics (``__…``) match only a pattern that itself begins with ``__``.
        start: where a new stream begins: ``"earliest"``; ``"latest"``; a datetime with a time zone, for the first record at
            or after it; offsets, ``{"orders": {0: 17}}``, with other partitions from their earliest; or
            :class:`~beam_exactly_once.FromGroup`, for where a consumer group stands.
        stop: in an ordinary pipeline, where to end: ``"latest"``, what is there when the pipeline runs; a datetime with a time
            zone, up to the first record at or after it; or offsets, of which the first is not read any more. None: it has no
            end. A stream ends by its trigger.
        decoder: the function of a :class:`~beam_exactly_once.DecodeRecords` right behind the read.
        as_arrow: give Arrow batches instead of records, to the decoder too: much the fastest.
        headers: whether records have their headers. False reads on over a header whose name is not UTF-8, for which the read
            fails otherwise.
        event_time: in a stream, when records happened, for operators whose windows and timeouts are in event time. Of an
            unbounded read in an ordinary pipeline, which timestamps its records carry, and how far Beam's watermark stays behind
            them; None: those of the clock as it reads. Of a bounded one, leave it out.
        on_error: what becomes of a record that cannot be decoded: ``"fail"`` or ``"reject"``.
        on_data_loss: ``"fail"``; or ``"skip"``, which puts offsets that Kafka no longer has on record, in the marker and in
            progress, and goes on; of an unbounded read, in the log and in Beam's counter ``offsets_lost``.
        commit_to_group: of an unbounded read, the consumer group, without members, that is told every five seconds how far
            final bundles have read, for those who watch its lag. Nothing here rests on it, and a failure is a warning. Needs
            a runner that says when bundles are final.
        max_batch_offsets: most offsets in a batch, shared over partitions in proportion to their lag.
        max_batch_bytes: the same in bytes, by the measured average record size; None means no limit.
        min_batch_offsets: wait for that many, at most ``max_batch_delay_s`` seconds.
        max_batch_delay_s: see ``min_batch_offsets``.
        name: identifies the source in the checkpoint, and is its label; may be left out while it is the only one.
        isolation_level: ``"read_committed"`` or ``"read_uncommitted"``.
        client_config: librdkafka properties; secrets as ``secret_from_env(…)``, ``secret_from_file(…)`` or a callable.
        timeout_s: seconds until an unreachable broker or unknown topic is an error.

    Raises:
        ConfigurationError: an argument is wrong; plain-text secrets included.
    """

    kind = "kafka"
    has_groups = True

    def __init__(
        self,
        bootstrap_servers: str,
        topics: Sequence[str] | Mapping[str, Sequence[int]] = (),
        *,
        topic_pattern: str | None = None,
        start: StartValue = "earliest",
        stop: StopValue | None = None,
        decoder: Decoder | None = None,
        as_arrow: bool = False,
        headers: bool = True,
        event_time: EventTime | None = None,
        on_error: OnError = "fail",
        on_data_loss: OnDataLoss = "fail",
        commit_to_group: str | None = None,
        max_batch_offsets: int | None = None,
        max_batch_bytes: int | None = MAX_BATCH_BYTES,
        min_batch_offsets: int | None = None,
        max_batch_delay_s: float | None = None,
        name: str | None = None,
        isolation_level: IsolationLevel = "read_committed",
        client_config: Mapping[str, ConfigValue] | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        super().__init__(
            start=start,
            stop=stop,
            decoder=decoder,
            as_arrow=as_arrow,
            event_time=event_time,
            on_error=on_error,
            on_data_loss=on_data_loss,
            limits=BatchLimits(max_batch_offsets, max_batch_bytes, min_batch_offsets, max_batch_delay_s),
            name=name,
            commit_to_group=commit_to_group,
        )
        self._selection = selection_of(topics, topic_pattern)
        self._settings = KafkaSettings(
            bootstrap_servers,
            options_of("client_config", client_config) or {},
            isolation_level=isolation_level,
            timeout_s=timeout_s,
            headers=headers,
        )

    def log_in(self, graph: StreamGraph | None) -> tuple[KafkaSettings, TopicSelection]:
        """The cluster, and its topics."""
        return self._settings, self._selection
