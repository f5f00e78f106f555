"""Ready-made pipeline: a write-ahead log to exactly-once files.

    beam-exactly-once run wal-to-files \\
        --location s3://logs/hooks \\
        --output-location s3://lake/hooks --checkpoint-location s3://checkpoints/hooks

``python -m beam_exactly_once.pipelines.wal_to_files`` is the same. Every option of Beam is taken too. Exit codes: 0 done,
2 configuration, 3 fenced, 4 data loss, 5 checkpoint, 75 start the same command again, 1 anything else.
"""

from __future__ import annotations

import sys
from functools import partial

from beam_exactly_once.pipelines.kafka_to_files import wire
from beam_exactly_once.pipelines.ready_made import ReadyMade
from beam_exactly_once.transforms.read_wal import ReadFromWal
from beam_exactly_once.transforms.write_files import WriteToFiles

PIPELINE = ReadyMade(
    "wal-to-files",
    "A write-ahead log to files, exactly once.",
    WriteToFiles,
    partial(wire, ReadFromWal),
    source=ReadFromWal,
)
main = PIPELINE.main

if __name__ == "__main__":
    sys.exit(main())
