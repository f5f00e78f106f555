"""Options that Beam asks for at each step of a graph."""

from __future__ import annotations

from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions, TypeOptions

from beam_exactly_once import ExactlyOnceStream
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


class OwnOptions(PipelineOptions):
    @classmethod
    def _add_argparse_args(cls, parser: Any) -> None:
        parser.add_argument("--own_flag", default="x")


def test_a_stream_gives_back_the_options_of_the_users_class() -> None:
    stream = ExactlyOnceStream("memory://options/checkpoint", options=OwnOptions(["--own_flag=y"]))
    assert isinstance(stream.options, OwnOptions)
    assert stream.options.own_flag == "y"
    stream.options.own_flag = "z"
    assert stream.options.own_flag == "z"
