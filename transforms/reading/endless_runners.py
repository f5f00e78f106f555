"""What runners do with a read without an end."""

from __future__ import annotations

import apache_beam as beam
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner, SwitchingDirectRunner
from apache_beam.runners.portability.flink_runner import FlinkRunner
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.portability.prism_runner import PrismRunner

from beam_exactly_once.errors import ConfigurationError

_WITH_AN_END = (FnApiRunner, BundleBasedDirectRunner, SwitchingDirectRunner)
"""They run each step to its end before the next one."""
_FLINK_GOES_ON = ("shutdown_sources_after_idle_ms", "checkpointing_interval")
"""Without one of them Flink ends a job's root at once, and what a reader puts off is resumed behind the end of time, or never."""


def refuse_runner(pipeline: beam.Pipeline, said: str) -> None:
    """Refuse a runner that would hang without a word.

    Args:
        pipeline: the reader's.
        said: what its user calls the read.

    Raises:
        ConfigurationError: it would.
    """
    runner = pipeline.runner
    if isinstance(runner, _WITH_AN_END):
        raise ConfigurationError(
            f"stop=None of {said} is an unbounded read, which {type(runner).__name__} does not run: it runs each step "
            "to its end. Give stop=\"latest\" to read what is there, a datetime or offsets; or use runner='PrismRunner'."
        )
    if isinstance(runner, FlinkRunner):
        flags = pipeline.options.get_all_options(retain_unknown_options=True)
        if not any(flags.get(one) for one in _FLINK_GOES_ON):
            raise ConfigurationError(
                f"stop=None of {said} is an unbounded read, and FlinkRunner ends its root at once without one of these flags: "
                "--shutdown_sources_after_idle_ms=3600000, or --checkpointing_interval. Give one of them."
            )


def keeps_one_watermark(pipeline: beam.Pipeline) -> bool:
    """Whether the runner has but one watermark for all that a step works on. It then has one process for the step, too."""
    return isinstance(pipeline.runner, PrismRunner)
