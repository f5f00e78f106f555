"""Beam transforms: read Kafka, write exactly once."""

from beam_exactly_once.transforms.commit_batch import CommitBatch
from beam_exactly_once.transforms.planned_range import PlannedRange
from beam_exactly_once.transforms.read_kafka import ReadFromKafka
from beam_exactly_once.transforms.read_ranges import ReadOffsetRanges, ReadResult
from beam_exactly_once.transforms.write_files import WriteToFiles

__all__ = ["CommitBatch", "PlannedRange", "ReadFromKafka", "ReadOffsetRanges", "ReadResult", "WriteToFiles"]
