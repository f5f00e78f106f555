"""A step that fails for one number, and what the error of its batch must say, whatever the runner."""

from __future__ import annotations

import re

import apache_beam as beam

from beam_exactly_once import Record
from beam_exactly_once.errors import StepFailed

UNLUCKY = 13


def numbers(records: beam.PCollection[Record]) -> beam.PCollection[dict[str, int]]:
    return records | beam.Map(lambda record: {"number": int(record.value or b"")})


def failing(records: beam.PCollection[Record]) -> beam.PCollection[dict[str, int]]:
    def fail(row: dict[str, int]) -> dict[str, int]:
        if row["number"] == UNLUCKY:
            raise ValueError("an unlucky number")
        return row

    return numbers(records) | beam.Map(fail)


def assert_names_step_and_offsets(error: StepFailed) -> None:
    """Of batch 0 of a topic of orders."""
    assert re.match(
        r"step 'Map\(fail\).*' of batch 0 ended with ValueError\. Read last: orders-\d at offset \d+(, orders-.*)*\. "
        r"Batch 0 reads orders-0\[0, \d+\)",
        str(error),
    ), error
    assert "an unlucky number" in repr(error.__cause__)
