"""Beam transforms: read Kafka, write exactly once."""

from beam_exactly_once.rows.rejected import REJECTED_SCHEMA, Rejected
from beam_exactly_once.sinks.calling import BatchRows
from beam_exactly_once.transforms.commit_batch import CommitBatch
from beam_exactly_once.transforms.decode_records import DecodeRecords
from beam_exactly_once.transforms.for_each_batch import ForEachBatch
from beam_exactly_once.transforms.planned_range import PlannedRange
from beam_exactly_once.transforms.read_kafka import ReadFromKafka
from beam_exactly_once.transforms.read_ranges import ReadOffsetRanges, ReadResult
from beam_exactly_once.transforms.write_delta import WriteToDelta
from beam_exactly_once.transforms.write_files import WriteToFiles
from beam_exactly_once.transforms.write_kafka import WriteToKafka
from beam_exactly_once.transforms.write_sql import WriteToSql

__all__ = [
    "REJECTED_SCHEMA",
    "BatchRows",
    "CommitBatch",
    "DecodeRecords",
    "ForEachBatch",
    "PlannedRange",
    "ReadFromKafka",
    "ReadOffsetRanges",
    "ReadResult",
    "Rejected",
    "WriteToDelta",
    "WriteToFiles",
    "WriteToKafka",
    "WriteToSql",
]
