"""Options that Beam asks for at each step of a graph."""

from __future__ import annotations

from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions, TypeOptions

from beam_exactly_once.pipelines.runners.seen_options import SeenOptions


def test_a_view_is_made_once() -> None:
    seen = PipelineOptions(["--runner=PrismRunner"]).view_as(SeenOptions)
    view = seen.view_as(StandardOptions)
    assert view.runner == "PrismRunner"
    assert seen.view_as(StandardOptions) is view
    assert isinstance(seen.view_as(TypeOptions), TypeOptions)


def test_all_views_have_the_same_values() -> None:
    given = PipelineOptions([])
    seen = given.view_as(SeenOptions)
    before = seen.view_as(StandardOptions)
    given.view_as(StandardOptions).streaming = True
    assert (before.streaming, seen.get_all_options()["streaming"]) == (True, True)
    before.runner = "FlinkRunner"
    assert given.view_as(StandardOptions).runner == "FlinkRunner"
