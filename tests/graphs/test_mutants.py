"""Each part of what makes any graph right is needed: without it, a story of a known graph fails."""

from __future__ import annotations

import copy
import functools
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from apache_beam.coders.coders import BytesCoder, GlobalWindowCoder, WindowedValueCoder
from apache_beam.options.value_provider import RuntimeValueProvider
from apache_beam.runners.portability.fn_api_runner import FnApiRunner, execution
from apache_beam.runners.portability.fn_api_runner.worker_handlers import WorkerHandlerManager
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.thread_pool_executor import UnboundedThreadPoolExecutor

from beam_exactly_once.errors import IncompleteBatch
from beam_exactly_once.pipelines.runners import (
    kept_harness,
    kept_steps,
    open_stages,
    repeated_run,
    stage_by_stage,
    whole_elements,
)
from beam_exactly_once.pipelines.runners.fresh_side_inputs import FreshSideInputs
from beam_exactly_once.pipelines.runners.one_thread import OneThread
from beam_exactly_once.pipelines.runners.open_stages import OpenStages
from beam_exactly_once.pipelines.runners.stage_by_stage import StageByStage
from beam_exactly_once.pipelines.runners.stage_timers import StageTimers
from beam_exactly_once.pipelines.runners.whole_elements import WholeElementWorkers
from beam_exactly_once.transforms import commit_batch
from beam_exactly_once.transforms.batch_task import BatchTask
from graphs import test_kept_steps as kept
from graphs import test_known_graphs as graphs
from graphs import test_known_runners as runners
from graphs import test_known_timers as timers
from graphs.known_streams import number_stream
from graphs.timed_steps import Alarms

Patch = pytest.MonkeyPatch


class InBeamsOrder:
    """A graph that Beam's own loop runs, each time from scratch."""

    def __init__(self, runner: Any, graph: Any, options: Any) -> None:
        self._runner = runner
        self._graph = graph
        self._options = options

    def run(self, impulses: Mapping[str, bytes]) -> Any:
        (task,) = impulses.values()
        element = (
            WindowedValueCoder(BytesCoder(), GlobalWindowCoder())
            .get_impl()
            .encode_nested(GlobalWindows.windowed_value(task))
        )
        with Patch.context() as patch:
            patch.setattr(execution, "ENCODED_IMPULSE_VALUE", element)
            patch.setattr(StageByStage, "run_stages", FnApiRunner.run_stages)
            return FnApiRunner.run_via_runner_api(self._runner, copy.deepcopy(self._graph), self._options)

    def close(self, timeout_s: float = 0) -> None:
        """Beam has ended the workers."""


def beams_own_order(patch: Patch) -> None:
    patch.setattr(StageByStage, "open", lambda *opened: InBeamsOrder(*opened))


def no_second_way_to_the_commit(patch: Patch) -> None:
    sorted_out = commit_batch._sorted_out

    def believing(gathered: Any, complete: Any) -> Any:
        came = list(gathered)
        counted = Counter(commit_batch.whose(one) for one in came if not isinstance(one, BatchTask))
        return sorted_out(came, counted)

    patch.setattr(commit_batch, "_sorted_out", believing)


def side_inputs_after_each_bundle(patch: Patch) -> None:
    run_bundles = OpenStages._run_bundles

    def run_and_store(self: Any, manager: Any, *rest: Any) -> Any:
        results, context = run_bundles(self, manager, *rest), self._context
        context.commit_side_inputs_to_state(context.side_input_descriptors_by_stage.get(manager.stage.name, {}))
        return results

    patch.setattr(OpenStages, "_run_bundles", run_and_store)


def rests_of_the_first_worker_alone(patch: Patch) -> None:
    deferred = OpenStages._deferred
    patch.setattr(OpenStages, "_deferred", lambda self, manager, results: deferred(self, manager, results[:1]))


def rings_that_pass(patch: Patch) -> None:
    patch.setattr(stage_by_stage, "in_order", lambda stages: stages)


def the_whole_graph_publishes_again(patch: Patch) -> None:
    patch.setattr(repeated_run.TranslatedGraphs, "of", lambda self, task: self._whole)


def one_runner_for_all(patch: Patch) -> None:
    patch.setattr(repeated_run, "copy", type("NoCopy", (), {"copy": lambda one: one, "deepcopy": copy.deepcopy}))


def all_timers_in_one_round(patch: Patch) -> None:
    take_due = StageTimers.take_due

    def take_all(self: Any) -> Any:
        due: dict[Any, list[bytes]] = {}
        while round_ := take_due(self):
            for family, encoded in round_.items():
                due.setdefault(family, []).extend(encoded)
        return due

    patch.setattr(StageTimers, "take_due", take_all)


def workers_that_send_by_time(patch: Patch) -> None:
    patch.setattr(whole_elements, "_never_flushing", lambda environment: environment)


def a_driver_that_sends_by_time(patch: Patch) -> None:
    patch.setattr(WholeElementWorkers, "get_worker_handlers", WorkerHandlerManager.get_worker_handlers)


def state_of_the_batch_before(patch: Patch) -> None:
    patch.setattr(WholeElementWorkers, "forget_state", lambda self: None)


def one_token_for_all(patch: Patch) -> None:
    tokens = FnApiRunner.get_cache_token_generator
    patch.setattr(FnApiRunner, "get_cache_token_generator", staticmethod(lambda static=True: tokens(static=True)))


def caches_that_stay(patch: Patch) -> None:
    patch.setattr(kept_steps._LightlyWeighed, "invalidate_all", lambda self: None, raising=False)


def any_thread_for_a_worker(patch: Patch) -> None:
    patch.setattr(WholeElementWorkers, "call", lambda self, worker, function: OneThread("any").submit(function))


def any_thread_in_a_worker(patch: Patch) -> None:
    pool = type("Pool", (UnboundedThreadPoolExecutor,), {"submit": lambda self, task: OneThread("any").submit(task)})
    patch.setattr(kept_harness, "_BundleThread", lambda steps: pool())


def side_inputs_for_ever(patch: Patch) -> None:
    patch.setattr(FreshSideInputs, "begin", lambda self: RuntimeValueProvider.experiments)
    patch.setattr(FreshSideInputs, "end", lambda self, begun: True)


def a_switch_that_stays(patch: Patch) -> None:
    end = FreshSideInputs.end
    patch.setattr(FreshSideInputs, "end", lambda self, begun: end(self, begun) or True)


def tasks_for_all_roots(patch: Patch) -> None:
    impulses_of = open_stages._Impulses.of
    every = type("Every", (dict,), {"get": lambda self, root, default: next(iter(self.values()))})
    patch.setattr(open_stages._Impulses, "of", lambda self, impulses: impulses_of(self, every(impulses)))


def a_story(story: Callable[..., None], *arguments: Any) -> Callable[[Path], None]:
    def tell(folder: Path) -> None:
        with number_stream() as stream:
            story(stream, *arguments)

    return tell


LATE_BRANCH = a_story(graphs.test_a_branch_that_is_ready_late_is_in_the_commit_of_its_batch, graphs.regrouped)
VIEW = a_story(graphs.test_a_side_input_behind_a_step_that_runs_twice, graphs.deferred, "AsList")
RING = a_story(graphs.test_steps_that_wait_for_each_other_are_refused_with_the_way_out, 2)
EMPTY = a_story(graphs.test_a_step_that_fails_without_records_lets_every_start_go_on, graphs.greatest, [[3], [5], [6]])
ALARMS = a_story(timers.test_timers_of_a_key_fire_one_after_the_other, Alarms(), [12, 12])
ROW_OF_TIMERS = a_story(timers.test_a_step_gets_all_of_what_the_timers_above_it_make_before_its_own_fire)
STATE = a_story(kept.in_three_batches_state_is_that_of_each)
SIDE_INPUT = a_story(kept.test_a_side_input_is_that_of_its_own_batch, *kept.SIDE_INPUTS[0])
BESIDE = a_story(kept.test_another_pipeline_beside_it_changes_no_side_input)
ROOTS = a_story(kept.test_roots_of_the_user_get_what_beam_gives_them)
OWN_THREAD = functools.partial(runners.steps_are_set_up_once_in_a_thread_of_their_worker, "two_workers")
OWN_THREAD_BEHIND_GRPC = functools.partial(runners.steps_are_set_up_once_in_a_thread_of_their_worker, "threads")
BATCHES_BEHIND_GRPC = functools.partial(runners.nothing_of_a_batch_reaches_the_next_one, "threads")
SHARED: Callable[[Path], None] = lambda folder: runners.test_two_streams_may_share_one_runner_one_after_the_other()  # noqa: E731
RESTS: Callable[[Path], None] = lambda folder: (  # noqa: E731
    runners.test_what_a_splittable_dofn_defers_is_read_by_any_number_of_workers("two_workers", folder)
)


def whole_elements_story(folder: Path) -> None:
    """By what the two sides are told, not by an element that is cut: its reader takes any bytes for a length, and all memory."""
    with pytest.MonkeyPatch.context() as patch:
        runners.test_no_side_flushes_by_time_and_other_pipelines_are_as_beam_makes_them(None, patch)


@pytest.mark.parametrize(
    ("mutations", "story"),
    [
        ([beams_own_order], LATE_BRANCH),
        ([beams_own_order, no_second_way_to_the_commit], LATE_BRANCH),
        ([side_inputs_after_each_bundle], VIEW),
        ([rests_of_the_first_worker_alone], RESTS),
        ([rings_that_pass], RING),
        ([the_whole_graph_publishes_again], EMPTY),
        ([one_runner_for_all], SHARED),
        ([workers_that_send_by_time], whole_elements_story),
        ([a_driver_that_sends_by_time], whole_elements_story),
        ([all_timers_in_one_round], ALARMS),
        ([all_timers_in_one_round], ROW_OF_TIMERS),
        ([state_of_the_batch_before], SIDE_INPUT),
        ([one_token_for_all, caches_that_stay], STATE),
        ([side_inputs_for_ever], SIDE_INPUT),
        ([a_switch_that_stays], BESIDE),
        ([tasks_for_all_roots], ROOTS),
        ([any_thread_for_a_worker], OWN_THREAD),
        ([any_thread_in_a_worker], OWN_THREAD_BEHIND_GRPC),
        ([one_token_for_all, caches_that_stay], BATCHES_BEHIND_GRPC),
        ([side_inputs_for_ever], BATCHES_BEHIND_GRPC),
    ],
)
def test_without_it_a_story_fails(
    mutations: list[Callable[[Patch], None]],
    story: Callable[[Path], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    story(tmp_path / "whole")
    for mutate in mutations:
        mutate(monkeypatch)

    with pytest.raises(BaseException):  # noqa: B017, PT011 (an assertion, a refusal that is missing, an error of Beam's)
        story(tmp_path / "mutated")


def test_a_commit_that_begins_too_early_commits_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second net, for runners whose order is not ours: Beam's own loop calls the commit before a branch has run."""
    beams_own_order(monkeypatch)
    with number_stream() as stream:
        with pytest.raises(IncompleteBatch, match="reports of sink"):
            graphs.test_a_branch_that_is_ready_late_is_in_the_commit_of_its_batch(stream, graphs.regrouped)

        assert stream.published("first") == stream.published("second") == []
