"""What ``beam-exactly-once verify`` checks of a Delta table: its receipt against the markers, and rows of files that it has."""

from __future__ import annotations

from beam_exactly_once.checkpoint.findings import Check
from beam_exactly_once.checkpoint.verification import Contents
from beam_exactly_once.errors import BeamExactlyOnceError
from beam_exactly_once.object_store.store_location import StoreLocation
from beam_exactly_once.sinks.delta.table import TableVersion, require_deltalake
from beam_exactly_once.sinks.verification import ReceiptCheck


def verify_table(contents: Contents, sink: str, location: StoreLocation) -> tuple[Check, Check]:
    """Check that the receipt of a table is that of the newest marker, and that files have the rows that markers name.

    Files that the table no longer has were deleted or compacted by their owner: they are not faults. Reads only.

    Args:
        contents: of the checkpoint.
        sink: name of a sink of Delta tables.
        location: of the table.

    What cannot be looked at is a fault of the check, not an error of the call.
    """
    receipts, files = Check(f"receipts of sink {sink}"), Check(f"files of sink {sink}")
    where = f"sink {sink!r}: Delta table {location.uri}"
    try:
        require_deltalake()
        table = TableVersion.open(location, where)
        receipt = None if table is None else table.receipt(contents.checkpoint.stream_id, sink)
        ReceiptCheck(contents, sink, where).compare(receipts, {} if receipt is None else {0: receipt})
        if table is not None:
            _check_files(contents, sink, table, files, where)
    except BeamExactlyOnceError as error:
        receipts.fault(where, f"the table cannot be looked at: {error}")
    return receipts, files


def _check_files(contents: Contents, sink: str, table: TableVersion, check: Check, where: str) -> None:
    rows = table.rows_of_files()
    for batch_id, marker in contents.retained_markers.items():
        for committable in marker.committables.get(sink, ()):
            name, written = str(committable["final_key"]), int(committable["rows"])
            if name not in rows:
                continue
            check.examined += 1
            if rows[name] != written:
                check.fault(
                    f"{where}, {name}",
                    f"{where} has {rows[name]:,} rows of {name}, of which batch {batch_id} has committed {written:,}. Another "
                    "writer changed the file's entry in the log: restore an older version of the table.",
                )
