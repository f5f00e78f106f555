"""What publishes ``WriteToDelta``: files get their names, then one commit of the table names them and sets the receipt."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from beam_exactly_once.checkpoint.records import Json
from beam_exactly_once.clock import SYSTEM_CLOCK, Clock, now_ms
from beam_exactly_once.errors import ConfigurationError, OutputNotWritable, SinkAhead, SinkUnavailable
from beam_exactly_once.object_store import StagedObject
from beam_exactly_once.object_store.store_location import StoreLocation
from beam_exactly_once.sinks.contract import DriverSide, Part, Publisher, is_to_write
from beam_exactly_once.sinks.delta.files import DeltaLayout, batch_id_of_file
from beam_exactly_once.sinks.delta.table import Overtaken, TableVersion

PUBLISH_THREADS = 16
"""Files of a batch that get their names at a time."""
MAX_COMMITS = 10
"""How often a commit is tried that others' conflict with. Most do not, such as appends: delta-rs goes behind them by itself."""


class DeltaPublisher(Publisher, DriverSide):
    """One shard: all of a batch is one commit of the table."""

    shards = 1

    def __init__(
        self, sink: str, output: StoreLocation, layout: DeltaLayout, add_columns: bool, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._sink = sink
        self._output = output
        self._clock = clock
        self._layout = layout
        self._add_columns = add_columns
        self._where = f"sink {sink!r}: Delta table {output.uri}"

    def publish(self, part: Part) -> None:
        """Name the files, then commit; skipped when the receipt says that it was done.

        Raises:
            SinkAhead, SinkBehind, StagedOutputMissing: see :class:`Publisher`.
            OutputNotWritable: the table is gone.
            ConfigurationError: it was replaced by one that the rows do not fit.
            SinkUnavailable: the table's store does not answer, or other writers keep changing the table.
        """
        unknown: SinkUnavailable | None = None
        conflict = ""
        for _ in range(MAX_COMMITS):
            table = TableVersion.open(self._output, self._where)
            found = None if table is None else table.receipt(part.stream_id, self._sink)
            if not is_to_write(part, found, self._where):
                return
            if unknown is not None:
                raise unknown
            if table is None:
                raise OutputNotWritable(f"{self._where} is gone. Restore it, or start again to create a new one.")
            self._refuse_missing(table.missing_columns(self._layout.schema, self._layout.partition_by))
            table.refuse_files(part.committables, part.attempt.batch_id)
            self._name_files(part.committables)
            try:
                table.append(part.stream_id, self._sink, part.receipt, part.committables, now_ms(self._clock))
                return
            except Overtaken as error:
                conflict = str(error)
            except SinkUnavailable as error:
                unknown = error  # the receipt tells whether it was made
        raise SinkUnavailable(
            f"{self._where} was changed by other writers at each of {MAX_COMMITS} tries ({conflict}). Start again."
        )

    def check_place(self) -> None:
        """Prove that the table's place can be written, and that a table which is there takes the rows.

        Raises:
            ConfigurationError, OutputNotWritable, UnsuitableStore, SinkUnavailable: see :class:`WriteToDelta`.
        """
        self._output.store.check_reachable()
        self._output.store.verify()
        self._check_table()

    def check_known_place(self) -> None:
        """Prove that the table's place may still be written, and the rest of :meth:`check_place`."""
        self._output.store.check_reachable()
        self._output.store.check_writable()
        self._check_table()

    def _check_table(self) -> None:
        table = TableVersion.open(self._output, self._where)
        if table is not None and not self._add_columns:
            self._refuse_missing(table.missing_columns(self._layout.schema, self._layout.partition_by))

    def check_start(self, stream_id: str, next_batch_id: int) -> None:
        """Create the table or add columns to it where that is wanted, and look at the receipt.

        Raises:
            ConfigurationError, OutputNotWritable, SinkAhead, SinkUnavailable: see :class:`WriteToDelta`.
        """
        schema, partition_by = self._layout.schema, self._layout.partition_by
        table = TableVersion.open(self._output, self._where)
        if table is None:
            table = TableVersion.create(self._output, schema, partition_by, self._where)
        missing = table.missing_columns(schema, partition_by)
        if missing and self._add_columns:
            table.add_columns(missing)
        else:
            self._refuse_missing(missing)
        found = table.receipt(stream_id, self._sink)
        if found is not None and found.batch_id >= next_batch_id:
            raise SinkAhead(
                f"{self._where} holds batch {found.batch_id} of this stream, while the next batch of the checkpoint is "
                f"{next_batch_id}: the checkpoint was restored from an older copy, or is used twice. Restore the newest "
                "checkpoint, or start a new one with continue_from=CheckpointAt(…)."
            )

    def sweep(self, published_batch_id: int) -> None:
        """Discard what this sink staged for batches up to ``published_batch_id`` and never named: nothing in a table."""
        store = self._output.store
        for staged in store.list_staged():
            batch_id = batch_id_of_file(staged.final_key, self._layout.origin)
            if batch_id is not None and batch_id <= published_batch_id:
                store.discard(staged)

    def _refuse_missing(self, missing: Sequence[pa.Field]) -> None:
        if missing:
            names = ", ".join(f"{field.name} {field.type}" for field in missing)
            raise ConfigurationError(
                f"{self._where} has no columns {names}. Leave them out of schema=, or let the sink add them: add_columns=True."
            )

    def _name_files(self, committables: Sequence[Json]) -> None:
        if not committables:
            return
        staged = [StagedObject.from_json(committable["staged"]) for committable in committables]
        with ThreadPoolExecutor(min(PUBLISH_THREADS, len(staged))) as threads:
            for _ in threads.map(self._output.store.publish, staged):
                pass
