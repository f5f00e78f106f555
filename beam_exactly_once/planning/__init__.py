"""What the next batch reads: where a source stands, what its log has, and how much of it a batch may take. No Beam."""

from beam_exactly_once.planning.limits import BatchLimits
from beam_exactly_once.planning.ranges import PlannedRanges, plan_ranges
from beam_exactly_once.planning.source import LogSource

__all__ = ["BatchLimits", "LogSource", "PlannedRanges", "plan_ranges"]
