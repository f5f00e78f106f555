"""Ready-made pipeline: a write-ahead log to a table, each record once.

    HOOKS_URL=postgresql+psycopg://user:password@host/database \\
    beam-exactly-once run wal-to-sql \\
        --location s3://logs/hooks --checkpoint-location s3://checkpoints/hooks \\
        --output-url '${env:HOOKS_URL}' --output-table hooks

A record's value is a JSON object, whose fields are the table's columns; with ``--decoder none`` the columns are those of a
record.

``python -m beam_exactly_once.pipelines.wal_to_sql`` is the same. Every option of Beam is taken too. Exit codes: 0 done,
2 configuration, 3 fenced, 4 data loss, 5 checkpoint, 75 start the same command again, 1 anything else.
"""

from __future__ import annotations

import sys
from dataclasses import replace

from beam_exactly_once.pipelines import kafka_to_sql
from beam_exactly_once.transforms.read_wal import ReadFromWal

PIPELINE = replace(
    kafka_to_sql.PIPELINE,
    name="wal-to-sql",
    description="A write-ahead log to a table, exactly once.",
    source=ReadFromWal,
)
main = PIPELINE.main

if __name__ == "__main__":
    sys.exit(main())
