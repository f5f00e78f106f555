"""How much a runner bears of one job that has no end, before it is replaced by the next one."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from beam_exactly_once.transforms.continuous.plan_batches import Rests


@dataclass(frozen=True, slots=True)
class JobBounds:
    """What a runner keeps of a job that runs on; by default nothing that grows.

    Attributes:
        max_batches: after so many batches the job is renewed.
        max_idle_s: so many seconds after its submission an idle one is.
        rests: of the step that plans.
    """

    max_batches: int | None = None
    max_idle_s: float = math.inf
    rests: Rests = field(default_factory=Rests)
