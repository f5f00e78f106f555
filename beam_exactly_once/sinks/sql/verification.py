"""What ``beam-exactly-once verify`` checks of a table: its receipts against the markers. Needs the extra ``sql``."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from beam_exactly_once.checkpoint.findings import Check
from beam_exactly_once.checkpoint.verification import Contents
from beam_exactly_once.errors import BeamExactlyOnceError, SinkBehind
from beam_exactly_once.secrets import Secret
from beam_exactly_once.sinks.receipts import Receipt
from beam_exactly_once.sinks.sql.database import SqlDatabase, canonical_url
from beam_exactly_once.sinks.sql.receipts import SqlReceipts
from beam_exactly_once.sinks.sql.target import RECEIPTS_TABLE, table_parts
from beam_exactly_once.sinks.verification import ReceiptCheck


def verify_table(contents: Contents, sink: str, url: str | Secret, receipts_table: str | None) -> Check:
    """Check that the receipts of a table are those of the newest marker. Reads only.

    Args:
        contents: of the checkpoint.
        sink: name of a sink of a database.
        url: of the database.
        receipts_table: as in the pipeline.

    What cannot be looked at is a fault of the check, not an error of the call.
    """
    check = Check(f"receipts of sink {sink}")
    table = str(contents.sinks[sink]["table"])
    where = f"sink {sink!r}, table {table}"
    if receipts_table is None:
        receipts = SqlReceipts(RECEIPTS_TABLE, table_parts(table)[1])
    else:
        receipts = SqlReceipts(*table_parts(receipts_table, argument="receipts_table"))
    try:
        database = SqlDatabase(url if isinstance(url, Secret) else canonical_url(url))
        found = _receipts(database, receipts, contents.checkpoint.stream_id, sink, where)
        ReceiptCheck(contents, sink, where).compare(check, found)
    except BeamExactlyOnceError as error:
        check.fault(where, f"the receipts cannot be looked at: {error}")
    return check


def _receipts(
    database: SqlDatabase, receipts: SqlReceipts, stream_id: str, sink: str, where: str
) -> dict[int, Receipt]:
    file = database.engine.url.database
    if database.dialect == "sqlite" and not Path(str(file)).exists():  # to connect would create it
        raise SinkBehind(f"{where}: {database.place} is not there. Restore it, or correct --output-url.")

    def look(connection: sa.Connection) -> dict[int, Receipt]:
        if not receipts.is_there(connection):
            raise SinkBehind(f"{where}: the table of receipts is gone. Restore it, or correct --output-receipts-table.")
        return receipts.of_sink(connection, stream_id, sink)

    return database.read(look, f"{where}: reading receipts")
