"""Which logs a reader leaves to the next one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from beam_exactly_once.kafka import KafkaSettings
from beam_exactly_once.kafka.kept_clients import keeping_clients
from beam_exactly_once.kafka.kept_logs import leave_log, take_log
from beam_exactly_once.kafka.log import ConfluentLog
from beam_exactly_once.logs.opening import override_logs

COMMITTED = KafkaSettings("memory:9092")
UNCOMMITTED = COMMITTED.at_isolation_level("read_uncommitted")


class ImaginedLog:
    def __init__(self, *, may_be_kept: bool) -> None:
        self.may_be_kept = may_be_kept
        self.is_closed = False

    def expect(self, ranges: Any, topic_ids: Any) -> None:
        pass

    def rest(self) -> bool:
        return self.may_be_kept

    def close(self) -> None:
        self.is_closed = True


@pytest.mark.parametrize("readers_only", [True, False])
def test_a_log_is_left_to_who_reads_at_its_isolation_level(readers_only: bool) -> None:
    left: Any = ImaginedLog(may_be_kept=True)
    new: Any = ImaginedLog(may_be_kept=True)
    with override_logs(lambda settings: new), keeping_clients(readers_only=readers_only):
        leave_log(COMMITTED, left)
        assert take_log(UNCOMMITTED) is new
        assert take_log(COMMITTED) is left
        assert take_log(COMMITTED) is new
        leave_log(COMMITTED, left)
    assert left.is_closed


@pytest.mark.parametrize("is_driver", [True, False])
def test_no_log_is_left_that_had_trouble_or_whose_process_keeps_none(is_driver: bool) -> None:
    log: Any = ImaginedLog(may_be_kept=not is_driver)
    if is_driver:
        with keeping_clients():
            leave_log(COMMITTED, log)
            assert log.is_closed
    else:
        leave_log(COMMITTED, log)
        assert log.is_closed


def test_a_log_that_is_old_is_not_kept() -> None:
    """Else it would keep its first password for ever, since it is never idle."""
    now = SimpleNamespace(s=0.0)
    clock: Any = SimpleNamespace(monotonic_s=lambda: now.s)
    log = ConfluentLog(COMMITTED, clock)
    now.s = 599.0
    assert log.rest()
    now.s = 600.0
    assert not log.rest()
