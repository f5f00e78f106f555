"""Ready-made pipeline: a write-ahead log to a Delta Lake table, exactly once, one commit a batch.

    beam-exactly-once run wal-to-delta \\
        --location s3://logs/hooks \\
        --output-location s3://lake/hooks --checkpoint-location s3://checkpoints/hooks

``python -m beam_exactly_once.pipelines.wal_to_delta`` is the same. Every option of Beam is taken too. Exit codes: 0 done,
2 configuration, 3 fenced, 4 data loss, 5 checkpoint, 75 start the same command again, 1 anything else.
"""

from __future__ import annotations

import sys
from dataclasses import replace

from beam_exactly_once.pipelines import kafka_to_delta
from beam_exactly_once.transforms.read_wal import ReadFromWal

PIPELINE = replace(
    kafka_to_delta.PIPELINE,
    name="wal-to-delta",
    description="A write-ahead log to a Delta Lake table, exactly once.",
    source=ReadFromWal,
)
main = PIPELINE.main

if __name__ == "__main__":
    sys.exit(main())
