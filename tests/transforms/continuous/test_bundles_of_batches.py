"""A step that speaks at the end of a bundle speaks of one batch, in the batch's window."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms.window import GlobalWindows, IntervalWindow, TimestampedValue
from apache_beam.utils.windowed_value import WindowedValue

from beam_exactly_once.transforms.continuous.batch_windows import BatchWindows, batch_time
from beam_exactly_once.transforms.continuous.bundles_of_batches import OneBatchBundles, cut_bundles


class Summing(beam.DoFn):
    """The sum of a bundle."""

    def start_bundle(self) -> None:
        self._sum = 0

    def process(self, number: int, factor: int = 1) -> Iterator[Any]:
        self._sum += number * factor
        if number == 7:
            yield beam.pvalue.TaggedOutput("sevens", number)

    def finish_bundle(self) -> list[WindowedValue]:
        return [GlobalWindows.windowed_value(self._sum)]


def window(number: int) -> IntervalWindow:
    return IntervalWindow(batch_time(number), batch_time(number + 1))


def said(outputs: Any) -> list[Any]:
    return [
        (one.value, one.timestamp, *one.windows) if isinstance(one, WindowedValue) else (one.tag, one.value)
        for one in outputs
    ]


def test_a_bundle_ends_where_the_next_batch_begins() -> None:
    cut = OneBatchBundles(Summing())
    cut.start_bundle()
    assert said(cut.process(1, window(0))) == []
    assert said(cut.process(7, window(0))) == [("sevens", 7)]
    assert said(cut.process(3, 10, window(1))) == [(8, batch_time(0), window(0))]
    assert said(cut.finish_bundle()) == [(30, batch_time(1), window(1))]
    cut.start_bundle()
    assert said(cut.finish_bundle()) == []


@pytest.mark.parametrize("factor", [None, 10])
def test_in_a_pipeline_it_takes_its_arguments_and_stays_in_its_window(factor: int | None) -> None:
    """Also a side input, which is of the batch."""
    with beam.Pipeline("FnApiRunner") as pipeline:
        numbers = (
            pipeline
            | beam.Create([(0, 1), (0, 2), (1, 7)], reshuffle=False)
            | beam.MapTuple(lambda batch, number: TimestampedValue(number, batch_time(batch)))
            | beam.WindowInto(BatchWindows())
        )
        arguments = () if factor is None else (beam.pvalue.AsSingleton(pipeline | "factor" >> beam.Create([factor])),)
        summed = numbers | beam.ParDo(Summing(), *arguments).with_outputs("sevens", main="sums")
        seen = summed.sums | beam.Map(lambda total, at=beam.DoFn.WindowParam: (int(at.start), total))
        totals = seen | beam.GroupByKey() | beam.MapTuple(lambda batch, sums: (batch, sum(sums)))
        times = factor or 1
        assert_that(totals, equal_to([(int(batch_time(0)), 3 * times), (int(batch_time(1)), 7 * times)]))
        cut_bundles(pipeline)
