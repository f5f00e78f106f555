"""``WriteToSql``: rows to a table of PostgreSQL, MySQL, MariaDB or SQLite, each row exactly once.

    stream | ReadFromKafka(…) | beam.Map(…) | WriteToSql(secret_from_env("ORDERS_URL"), "orders")

Stages: *blocks* (rows to columns of the table) / *stage* (Arrow streams in the checkpoint location) / *publish* (after the commit
marker: the rows of a shard and its receipt, in one transaction).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import apache_beam as beam

from beam_exactly_once.arguments import names, true_or_false
from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.rows.rejected import OnError, Rejected, checked_on_error
from beam_exactly_once.secrets import Secret
from beam_exactly_once.sinks.sharded import ShardedSink
from beam_exactly_once.sinks.sql.target import Mode, SqlTarget, table_parts
from beam_exactly_once.transforms.named import NamedTransform
from beam_exactly_once.transforms.stream_graph import sink_graph
from beam_exactly_once.transforms.write_to import written


class WriteToSql(NamedTransform):
    """Writes rows to a table of a database: every row of a committed batch once, whatever crashes.

    Bounded a batch; works only in an ``ExactlyOnceStream``. Guarantee: rows wait in the checkpoint location until the batch's
    commit marker names them. Then the rows of a shard are written in one transaction, together with the shard's
    receipt in the table of receipts. The transaction begins with the receipt: it says whether the batch is
    there already, and two who publish the same wait for each other. Readers see the rows of a shard's batch all at once.
    Parallelism: staging, that of the input; publishing, ``shards`` transactions. A batch costs one small transaction a
    shard, also when it is empty.

    Input: dicts, NamedTuples (:class:`~beam_exactly_once.Record` is one), dataclasses, ``beam.Row``, or
    ``pa.RecordBatch``. A field that is not a column of the table is an error, unless ``columns`` says what is written. A field
    that is missing or None is NULL, or the column's default if it has one. Values must fit their columns: integers are not cut,
    texts not shortened. Floats, and texts of numbers, may go into decimal columns, ISO 8601 texts into dates and times, dicts
    and lists into JSON and text columns. Times without zone are UTC.

    A row that does not fit the table fails the batch, or is rejected with ``on_error="reject"``, as by ``WriteToFiles``.
    Before that, the table is looked at once more. Constraints (CHECK, FOREIGN KEY, a unique key with ``"append"``) are the
    database's to judge, after the commit: they stop the stream either way.

    You provide the table, and a user who may INSERT into it (for ``"upsert"`` also UPDATE and SELECT), and who may either create
    the table of receipts or use one that you created: the error has its DDL.

    ``mode="upsert"`` replaces the row with the same ``key_columns``. A batch may have several rows of one key only with
    ``newest_by``. The rows of a batch for one shard are in memory while they are written. MySQL: the table has no
    other unique key that is written.

    A transaction waits for locks for 60 seconds. The server ends one that is left open: at once when a process dies, since its
    connection is closed; after at most 120 seconds when a machine vanishes.

    Args:
        url: SQLAlchemy's URL, such as ``postgresql+psycopg://user:password@host/database``. With a password in it, by
            ``secret_from_env(…)`` or ``secret_from_file(…)``. SQLite: ``sqlite:////folder/file.db``, for streams that run on one
            machine.
        table: its name, with the database's own namespace if it is not the connection's: ``"orders"``, ``"sales.orders"``. A part
            that holds a dot stands in double quotes.
        mode: ``"append"`` or ``"upsert"``.
        key_columns: the columns of a primary key or unique index, for ``"upsert"``.
        newest_by: a column; of a batch's rows with equal keys, the one with its greatest value is written.
        columns: what is written: other fields of the rows are left out, other columns of the table are left to the
            database. None: the whole table, so that a column that rows never have becomes NULL, or its default.
        receipts_table: the table of receipts, such as ``"ops.receipts"``; None: ``beam_exactly_once_receipts`` in the namespace
            of ``table``.
        shards: transactions a batch. ``"upsert"`` gives each key to one of them.
        direct: write before the marker instead of storing the rows first: faster, for a stream whose only sink this is and whose
            every run makes the same rows of the same records. A replay that differs ends with ``ReplayDiffers``.
        on_error: ``"fail"`` or ``"reject"``.
        name: identifies the sink in the checkpoint, and is its label; may be left out for one sink of this kind.

    Raises:
        ConfigurationError: an argument is not possible, or an extra is not installed.
        UnsupportedPipeline: applied outside of a stream, or to windowed rows.

    Raises (while running):
        UnfitRow: a row does not fit, and ``on_error`` is ``"fail"``; nothing of its batch is committed.
        ConfigurationError: no row fits, or two rows have one key.
        OutputNotWritable: the database refuses (no such table, no right, a constraint). Rows that wait are kept.
        SinkUnavailable: the database does not answer.
        SinkAhead, SinkBehind: the receipt is not of this checkpoint.
        ReplayDiffers: with ``direct=True``, a run of a batch makes other rows than an earlier one wrote.
    """

    def __init__(
        self,
        url: str | Secret,
        table: str,
        *,
        mode: Mode = "append",
        key_columns: Sequence[str] = (),
        newest_by: str | None = None,
        columns: Sequence[str] | None = None,
        receipts_table: str | None = None,
        shards: int = 1,
        direct: bool = False,
        on_error: OnError = "fail",
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        true_or_false("direct", direct)
        self._target = SqlTarget(
            *table_parts(table),
            None if columns is None else names("columns", columns),
            mode,
            names("key_columns", key_columns),
            newest_by,
            receipts_table,
            shards,
            direct,
        )
        self._url = url if isinstance(url, Secret) else _canonical_url(url)
        self._rejects = checked_on_error(on_error, direct=direct)

    @property
    def replaces_rows(self) -> bool:
        """Whether a row takes the place of an earlier one with its key."""
        return self._target.mode == "upsert"

    def expand(self, rows: beam.PCollection[Any]) -> beam.pvalue.PDone | beam.PCollection[Rejected]:
        """Wire *blocks* and *stage*, and register what publishes them."""
        from beam_exactly_once.sinks.sql.database import SqlDatabase
        from beam_exactly_once.sinks.sql.encoding import SqlEncoding
        from beam_exactly_once.sinks.sql.shards import SqlShards

        graph = sink_graph(rows, "WriteToSql")
        name = graph.sink_name(self._name, "sql")
        database = SqlDatabase(self._url)
        encoding = SqlEncoding(database, self._target)
        sharded = ShardedSink(name, SqlShards(name, database, self._target), self._target.shards)
        definition = {"kind": sharded.sink.kind, "table": self._target.full_name}
        return written(rows, encoding, sharded, graph, definition, direct=self._target.direct, rejects=self._rejects)


def _canonical_url(url: str) -> str:
    try:
        from beam_exactly_once.sinks.sql.database import canonical_url
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"WriteToSql needs an extra: pip install 'beam_exactly_once[sql]' ({error})."
        ) from None
    return canonical_url(url)
