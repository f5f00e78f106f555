"""``ReadFromWal``: what a write-ahead log holds, in a stream or in an ordinary pipeline, up to an end or without one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from beam_exactly_once.arguments import location_of, options_of
from beam_exactly_once.kafka import TopicSelection, selection_of
from beam_exactly_once.object_store.store_location import StoreLocation
from beam_exactly_once.planning import BatchLimits
from beam_exactly_once.planning.event_time import EventTime
from beam_exactly_once.planning.start import StartValue
from beam_exactly_once.planning.stop import StopValue
from beam_exactly_once.rows.rejected import OnError
from beam_exactly_once.topics import OnDataLoss
from beam_exactly_once.transforms.decode_records import Decoder
from beam_exactly_once.transforms.reading.read_log import MAX_BATCH_BYTES, ReadLog
from beam_exactly_once.transforms.stream_graph import StreamGraph
from beam_exactly_once.wal.settings import WalSettings


class ReadFromWal(ReadLog):
    """Reads a write-ahead log, which a receiver or a :class:`~beam_exactly_once.WalWriter` fills, by explicit offset ranges.

    All that :class:`~beam_exactly_once.ReadFromKafka` does for topics: the log is one topic, called like the last part of its
    location, and the time of a record is that of its arrival.

    Guarantee: each record of the ranges once for each successful execution; exactly-once end to end together with a sink of this
    library in a stream. A stream keeps in the log what it may read again, so retention there never takes it. An ordinary
    ``beam.Pipeline`` keeps nothing: what retention takes before it was read is lost.

    Output: :class:`~beam_exactly_once.Record` each, or with ``as_arrow=True`` a ``pa.RecordBatch`` a chunk of at most 1000
    records; with ``decoder`` what that makes of them, and with ``on_error="reject"`` two collections, ``rows, rejected = …``.

    Args:
        location: of the log. It must not change while the stream's checkpoint lives.
        start: where a new stream begins: ``"earliest"``; ``"latest"``; a datetime with a time zone, for the first record that
            arrived at or after it; or offsets, ``{"hooks": {0: 17}}``, with other partitions from their earliest.
        stop: in an ordinary pipeline, where to end: ``"latest"``, what is there when the pipeline runs; a datetime with a time
            zone, up to the first record at or after it; or offsets, of which the first is not read any more. None: it has no
            end. A stream ends by its trigger.
        decoder: the function of a :class:`~beam_exactly_once.DecodeRecords` right behind the read.
        as_arrow: give Arrow batches instead of records, to the decoder too: much the fastest.
        event_time: in a stream, when records happened, for operators whose windows and timeouts are in event time. Of an
            unbounded read in an ordinary pipeline, which timestamps its records carry, and how far Beam's watermark stays behind
            them; None: those of the clock as it reads. Of a bounded one, leave it out.
        on_error: what becomes of a record that cannot be decoded: ``"fail"`` or ``"reject"``.
        on_data_loss: ``"fail"``; or ``"skip"``, which puts offsets that the log no longer has on record, in the marker and in
            progress, and goes on; of an unbounded read, in the log and in Beam's counter ``offsets_lost``.
        max_batch_offsets: most offsets in a batch, shared over partitions in proportion to their lag.
        max_batch_bytes: the same in bytes, by the measured average record size; None means no limit.
        min_batch_offsets: wait for that many, at most ``max_batch_delay_s`` seconds.
        max_batch_delay_s: see ``min_batch_offsets``.
        name: identifies the source in the checkpoint and in the log, and is its label; may be left out while it is the only one.
        storage_options: of the log's store; None: the stream's own, if its checkpoint is on the same kind of store.

    Raises:
        ConfigurationError: an argument is wrong.
    """

    kind = "wal"

    def __init__(
        self,
        location: str,
        *,
        start: StartValue = "earliest",
        stop: StopValue | None = None,
        decoder: Decoder | None = None,
        as_arrow: bool = False,
        event_time: EventTime | None = None,
        on_error: OnError = "fail",
        on_data_loss: OnDataLoss = "fail",
        max_batch_offsets: int | None = None,
        max_batch_bytes: int | None = MAX_BATCH_BYTES,
        min_batch_offsets: int | None = None,
        max_batch_delay_s: float | None = None,
        name: str | None = None,
        storage_options: Mapping[str, Any] | None = None,
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
        )
        self._location = location_of("location", location, "a log")
        self._storage_options = options_of("storage_options", storage_options)

    def log_in(self, graph: StreamGraph | None) -> tuple[WalSettings, TopicSelection]:
        """The log: all of its one topic."""
        if graph is None:
            place = StoreLocation(self._location, self._storage_options)
        else:
            place = graph.located(self._location, self._storage_options)
        settings = WalSettings(place.canonical())
        return settings, selection_of([settings.topic])
