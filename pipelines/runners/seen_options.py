"""A pipeline's options as Beam asks for them: again at each step."""

from __future__ import annotations

from typing import TypeVar

from apache_beam.options.pipeline_options import PipelineOptions

View = TypeVar("View", bound=PipelineOptions)


class SeenOptions(PipelineOptions):
    """Options each of whose views is made once, by ``options.view_as(SeenOptions)``.

    Beam asks for a view at each step of a graph and builds an argument parser for it: about half of what a start computes.
    All views share one dictionary of values, so a view that was made before shows what was set since.
    """

    def view_as(self, cls: type[View]) -> View:
        """As of ``PipelineOptions``; the same object for the same class."""
        views = self.__dict__.setdefault("views", {})
        if cls not in views:
            views[cls] = super().view_as(cls)
        view: View = views[cls]
        return view
