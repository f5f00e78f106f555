"""One Delta table, as a sink sees it: columns, the receipt of a stream, and one commit a batch. The only importer of deltalake.

The receipt is three application transactions, ``beam_exactly_once/<stream id>/<sink>/…``: ``batch_id``, ``writer_epoch`` and
``nonce`` (as a signed number). They are in the log with the files of the batch, checkpoints of the log carry them on, and a
commit conflicts with every other one that sets them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote

import orjson
import pyarrow as pa

from beam_exactly_once.checkpoint import Attempt
from beam_exactly_once.checkpoint.records import Json
from beam_exactly_once.errors import BeamExactlyOnceError, ConfigurationError, OutputNotWritable, SinkUnavailable
from beam_exactly_once.object_store.contract import without_credentials
from beam_exactly_once.object_store.store_location import StoreLocation
from beam_exactly_once.sinks.delta.schema import delta_schema, missing_columns
from beam_exactly_once.sinks.delta.statistics import completed
from beam_exactly_once.sinks.delta.storage import deltalake_options
from beam_exactly_once.sinks.files.partitions import values_of_folders
from beam_exactly_once.sinks.receipts import StagedReceipt

_REFUSED = ("accessdenied", "access denied", "permission denied", "permissiondenied", "forbidden")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
"""delta-rs paints what stores say."""
_COMPUTED = ("delta.invariants", "delta.generationExpression", "delta.identity.start")
"""Metadata of columns whose values a writer must check or make."""


class Overtaken(Exception):
    """Somebody else's commit came first, and this one does not go after it as it is."""


def require_deltalake() -> None:
    """Raise unless the extra is installed.

    Raises:
        ConfigurationError: it is not.
    """
    try:
        import deltalake  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(
            f"WriteToDelta needs an extra: pip install 'beam_exactly_once[delta]' ({error})."
        ) from None


_FORGETTING = "delta.setTransactionRetentionDuration"


class TableVersion:
    """The table as it is at one moment. A commit is made against this version: what came since is looked at then.

    Args:
        location: of the table.
        table: opened.
        where: the sink and its table, for messages.
    """

    def __init__(self, location: StoreLocation, table: Any, where: str) -> None:
        self._location = location
        self._table = table
        self._where = where

    @classmethod
    def open(cls, location: StoreLocation, where: str) -> TableVersion | None:
        """The newest version; None where no table is.

        Raises:
            SinkUnavailable, OutputNotWritable: the store does not answer, or refuses.
        """
        from deltalake import DeltaTable
        from deltalake.exceptions import TableNotFoundError

        with sorted_errors(where):
            try:
                table = DeltaTable(location.uri, storage_options=deltalake_options(location))
            except TableNotFoundError:
                return None
        return cls(location, table, where)

    @classmethod
    def create(
        cls, location: StoreLocation, schema: pa.Schema, partition_by: Sequence[str], where: str
    ) -> TableVersion:
        """A new table; that of another creator, if one came first.

        Raises:
            As :meth:`open`.
        """
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError

        with sorted_errors(where):
            try:
                DeltaTable.create(
                    location.uri, schema, partition_by=list(partition_by), storage_options=deltalake_options(location)
                )
            except DeltaError:
                if cls.open(location, where) is None:
                    raise
        created = cls.open(location, where)
        if created is None:
            raise SinkUnavailable(f"{where} vanished while it was created. Start again.")
        return created

    def missing_columns(self, rows: pa.Schema, partition_by: Sequence[str]) -> list[pa.Field]:
        """The columns of ``rows`` that the table lacks.

        Raises:
            ConfigurationError: the rows cannot be rows of this table, or it wants what this sink does not do.
        """
        with sorted_errors(self._where):
            self._refuse_computed()
            partitioned_by = self._table.metadata().partition_columns
        return missing_columns(
            rows,
            self._columns(),
            partition_by=partition_by,
            partitioned_by=partitioned_by,
            where=self._where,
        )

    def refuse_files(self, files: Sequence[Json], batch_id: int) -> None:
        """Refuse files of a batch that was staged for another table, whatever rows of today have.

        Raises:
            ConfigurationError: a file has a column that the table lacks, or has with another type.
        """
        of_table = {field.name: str(field.type) for field in self._columns()}
        for file in files:
            for name, kind in file.get("columns", {}).items():  # older versions noted none
                if of_table.get(name) != kind:
                    raise ConfigurationError(
                        f"{self._where} has {_shown(name, of_table.get(name))}, and batch {batch_id}, which is committed, was "
                        f"written with {kind}. The table was replaced, or altered, before the batch was in it. Restore it, or "
                        "give it the column as it was, and start again with schema= as it was."
                    )

    def _columns(self) -> pa.Schema:
        with sorted_errors(self._where):
            columns = pa.schema(self._table.schema().to_arrow())
        return delta_schema(columns, where=self._where)

    def add_columns(self, columns: Sequence[pa.Field]) -> None:
        """Add columns, nullable; fine when they are there by now."""
        from deltalake import Schema

        nullable = pa.schema([column.with_nullable(True) for column in columns])
        with sorted_errors(self._where):
            self._table.alter.add_columns(Schema.from_arrow(nullable).fields)

    def receipt(self, stream_id: str, sink: str) -> StagedReceipt | None:
        """The receipt of this stream and sink; None if there is none."""
        with sorted_errors(self._where):
            found = {
                name: self._table.transaction_version(app_id) for name, app_id in _app_ids(stream_id, sink).items()
            }
        if found["batch_id"] is None:
            return None
        nonce = (found["nonce"] or 0).to_bytes(8, "big", signed=True)
        return StagedReceipt(Attempt(found["writer_epoch"] or 0, found["batch_id"], nonce.hex()))

    def rows_of_files(self) -> dict[str, int]:
        """How many rows each file of the table has, by its name; without files whose rows the log does not count."""
        with sorted_errors(self._where):
            actions = pa.table(self._table.get_add_actions(flatten=True)).to_pydict()
        counted = zip(actions.get("path", ()), actions.get("num_records", ()), strict=False)
        # delta-rs says names as the log has them, or once more encoded.
        return {one: int(rows) for name, rows in counted if rows is not None for one in (name, unquote(name))}

    def append(self, stream_id: str, sink: str, receipt: StagedReceipt, files: Sequence[Json], at_ms: int) -> None:
        """One commit at ``at_ms``, in milliseconds since 1970 UTC: the files, and the receipt.

        Raises:
            Overtaken: it conflicts with a commit that came since.
            SinkUnavailable: whether it was made is unknown.
            OutputNotWritable, ConfigurationError: the store refuses, or the table.
        """
        from deltalake import CommitProperties, Transaction
        from deltalake.exceptions import CommitFailedError
        from deltalake.transaction import AddAction

        attempt = receipt.attempt
        partition_columns = self._table.metadata().partition_columns
        columns = pa.schema(self._table.schema().to_arrow())
        actions = [
            AddAction(
                path=file["final_key"],
                size=file["size_bytes"],
                partition_values=values_of_folders(file["final_key"]),
                modification_time=at_ms,
                data_change=True,
                stats=completed(file["statistics"], columns, partition_columns),
            )
            for file in files
        ]
        versions = {
            "batch_id": attempt.batch_id,
            "writer_epoch": attempt.writer_epoch,
            "nonce": int.from_bytes(bytes.fromhex(attempt.nonce), "big", signed=True),
        }
        told = {"stream_id": stream_id, "sink": sink, **attempt.to_json()}
        properties = CommitProperties(
            custom_metadata={"beam_exactly_once": orjson.dumps(told).decode()},
            # With a time: where a table forgets transactions of applications, Spark forgets those that have none first.
            app_transactions=[
                Transaction(app_id, versions[name], at_ms) for name, app_id in _app_ids(stream_id, sink).items()
            ],
        )
        with sorted_errors(self._where):
            try:
                self._table.create_write_transaction(
                    actions, "append", self._table.schema(), partition_columns, commit_properties=properties
                )
            except CommitFailedError as error:
                raise Overtaken(_brief(error)) from None

    def _refuse_computed(self) -> None:
        configuration: Mapping[str, str] = self._table.metadata().configuration
        if _FORGETTING in configuration:
            raise ConfigurationError(
                f"{self._where} has {_FORGETTING}={configuration[_FORGETTING]!r}: it forgets the sink's receipts, and a batch "
                f"could not be told from one that is missing. ALTER TABLE … UNSET TBLPROPERTIES ('{_FORGETTING}'), or write to "
                "another table."
            )
        wanted = [key for key in configuration if key.startswith("delta.constraints.")]
        if configuration.get("delta.columnMapping.mode", "none") != "none":
            wanted.append("delta.columnMapping.mode")
        if configuration.get("delta.enableRowTracking", "false") != "false":
            wanted.append("delta.enableRowTracking")
        for field in self._table.schema().fields:
            wanted += [f"{key} of column {field.name!r}" for key in _COMPUTED if key in field.metadata]
        if wanted:
            raise ConfigurationError(
                f"{self._where} has {', '.join(wanted)}: this sink adds files as they are, and checks or computes nothing "
                "for the table. Drop it from the table, or write to another table and copy from there."
            )


def _shown(name: str, kind: str | None) -> str:
    return f"no column {name!r}" if kind is None else f"column {name!r} of type {kind}"


def _app_ids(stream_id: str, sink: str) -> dict[str, str]:
    return {name: f"beam_exactly_once/{stream_id}/{sink}/{name}" for name in ("batch_id", "writer_epoch", "nonce")}


@contextmanager
def sorted_errors(where: str) -> Iterator[None]:
    """Errors of delta-rs, sorted by who must act.

    Raises:
        OutputNotWritable: the store refuses.
        ConfigurationError: the table cannot be used.
        SinkUnavailable: no definite answer.
    """
    from deltalake.exceptions import DeltaProtocolError, SchemaMismatchError

    try:
        yield
    except (BeamExactlyOnceError, Overtaken):
        raise
    except (DeltaProtocolError, SchemaMismatchError) as error:
        raise ConfigurationError(
            f"{where} cannot be written: {_brief(error)}. If the table was changed, take that back (DROP FEATURE, or "
            "restore it), and start again: what is committed waits for it."
        ) from None
    except Exception as error:  # delta-rs raises whatever its stores do, OSError for most
        text = _brief(error)
        if isinstance(error, PermissionError) or any(refusal in text.lower() for refusal in _REFUSED):
            raise OutputNotWritable(f"{where}: no permission to read or write the table: {text}") from None
        raise SinkUnavailable(f"{where} does not answer: {text}. Start again.") from None


def _brief(error: Exception) -> str:
    return without_credentials(" ".join(_COLOURS.sub("", str(error)).split()))[:400]
