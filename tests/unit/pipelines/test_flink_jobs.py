"""Jobs of a stream on a Flink cluster: a driver cancels those that it has replaced, waits for that, and touches no other."""

from __future__ import annotations

from typing import Any

import pytest

from beam_exactly_once.errors import RunnerUnavailable
from beam_exactly_once.pipelines.continuous import flink_jobs
from beam_exactly_once.pipelines.continuous.flink_jobs import END_TIMEOUT_S, StreamJobs
from beam_exactly_once.pipelines.runners.flink_rest import RestUnreachable
from support.hand_made_stream import HandClock

URL = "http://flink:8081"


class Cluster:
    """Flink's REST interface over jobs by name; a job that is cancelled ends when it is looked at for the third time."""

    def __init__(self, *names: str, stubborn: bool = False) -> None:
        self.looks = dict.fromkeys(names, -1)
        self.stubborn, self.is_away = stubborn, False
        self.cancelled: list[str] = []

    def ask(self, url: str, method: str = "GET") -> Any:
        if self.is_away:
            raise RestUnreachable("nobody is there")
        if method == "PATCH":
            name = url.removeprefix(f"{URL}/jobs/").removesuffix("?mode=cancel")
            self.cancelled.append(name)
            self.looks[name] = 0
            return {}
        jobs = []
        for name, looks in self.looks.items():
            self.looks[name] += looks >= 0 and not self.stubborn
            jobs.append({"jid": name, "name": name, "state": "CANCELED" if looks >= 2 else "RUNNING"})
        return {"jobs": jobs}


def jobs(monkeypatch: pytest.MonkeyPatch, cluster: Cluster, epoch: int = 7, prefix: str = "") -> StreamJobs:
    monkeypatch.setattr(flink_jobs, "ask", cluster.ask)
    return StreamJobs(URL, "ab", epoch, prefix, HandClock())


def test_only_older_ones_of_the_stream_are_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    older = ["ab-continuous-3-x", "orders-ab-continuous-6-x"]
    others = ["ab-continuous-7-x", "ab-continuous-12-x", "cab-continuous-3-x", "ab-3-x", "ab-continuous-x", "WordCount"]
    cluster = Cluster(*older, *others)

    jobs(monkeypatch, cluster).end_older()

    assert sorted(cluster.cancelled) == older


def test_its_own_job_is_known_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster()
    mine = jobs(monkeypatch, cluster, prefix="orders")
    cluster.looks = {mine.name: -1, "ab-continuous-3-x": -1}

    mine.end_this()

    assert mine.name.startswith("orders-ab-continuous-7-")
    assert cluster.cancelled == [mine.name]


@pytest.mark.parametrize(("is_away", "said"), [(False, "ab-continuous-3-x was cancelled"), (True, "nobody is there")])
def test_a_job_that_does_not_end_is_named(monkeypatch: pytest.MonkeyPatch, is_away: bool, said: str) -> None:
    cluster = Cluster("ab-continuous-3-x", stubborn=True)
    cluster.is_away = is_away
    with pytest.raises(RunnerUnavailable, match=rf"{said}.* in {END_TIMEOUT_S:g} s") as raised:
        jobs(monkeypatch, cluster).end_older()
    assert "\n" not in str(raised.value)
    assert cluster.cancelled == ([] if is_away else ["ab-continuous-3-x"])
