"""What `from beam_exactly_once import …` gives: these names, each when it is used, and Beam only with what needs it."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import beam_exactly_once
from beam_exactly_once import sinks, testing

LOAD_BEAM = {
    "AggregateByWindow",
    "DecodeRecords",
    "DeduplicateByKey",
    "ExactlyOnceStream",
    "ForEachBatch",
    "JoinWithinInterval",
    "MapGroupsWithState",
    "ReadAllFromKafka",
    "ReadFromKafka",
    "ReadFromWal",
    "ReduceByKeyAndWindow",
    "StatefulCombinePerKey",
    "UpdateStateByKey",
    "WriteToDelta",
    "WriteToFiles",
    "WriteToKafka",
    "WriteToSql",
}
LOAD_NO_BEAM = {
    "RECORD_SCHEMA",
    "REJECTED_SCHEMA",
    "ArrowState",
    "AvailableNow",
    "BatchProgress",
    "BatchRows",
    "CheckpointAt",
    "CoderState",
    "Continuous",
    "EventTime",
    "FromGroup",
    "GroupState",
    "JsonLinesListener",
    "JsonDecoder",
    "JsonState",
    "Record",
    "ProcessingTime",
    "ProgressListener",
    "PublishedBatch",
    "PublishedFile",
    "Rejected",
    "Secret",
    "StateCache",
    "TopicPartition",
    "Trigger",
    "WalWriter",
    "WindowResult",
    "__version__",
    "read_batches",
    "read_properties",
    "secret_from_env",
    "secret_from_file",
    "with_event_date",
}


def modules_after(program: str, folder: Path) -> list[str]:
    """What a Python of its own has loaded of Beam and of this library after ``program``."""
    shown = (
        "import sys; print(*sorted(one for one in sys.modules if one.startswith(('apache_beam', 'beam_exactly_once'))))"
    )
    run = subprocess.run(
        [sys.executable, "-c", f"{program}; {shown}"], cwd=folder, capture_output=True, text=True, check=True
    )
    return run.stdout.split()


def test_the_names_are_these() -> None:
    assert set(beam_exactly_once.__all__) == LOAD_BEAM | LOAD_NO_BEAM


def test_the_names_of_the_test_kit_are_these() -> None:
    kit = {"STORIES", "MemoryKafka", "MemoryRun", "SinkUnderTest", "Story", "run_in_memory"}
    kit |= {"LogContract", "LogUnderTest", "ObjectStoreContract"}
    assert set(testing.__all__) == kit
    assert all(getattr(testing, name) is not None for name in kit)
    with pytest.raises(AttributeError, match="has no attribute 'Row'"):
        testing.Row  # noqa: B018


def test_the_names_of_the_sinks_are_these() -> None:
    assert sinks.__all__ == ["Delivery", "TransactionalSink", "WriteTo"]
    assert all(getattr(sinks, name) is not None and name in dir(sinks) for name in sinks.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'Publisher'"):
        sinks.Publisher  # noqa: B018


@pytest.mark.parametrize("name", beam_exactly_once.__all__)
def test_a_name_is_there_and_listed(name: str) -> None:
    assert getattr(beam_exactly_once, name) is not None
    assert name in dir(beam_exactly_once)


def test_a_name_that_is_not_there_is_an_ordinary_error() -> None:
    with pytest.raises(AttributeError, match="module 'beam_exactly_once' has no attribute 'WriteToFile'"):
        beam_exactly_once.WriteToFile  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'WriteToFile'"):
        exec("from beam_exactly_once import WriteToFile")


def test_the_door_alone_loads_nothing_behind_it(tmp_path: Path) -> None:
    assert modules_after("import beam_exactly_once", tmp_path) == ["beam_exactly_once"]


def test_what_needs_no_beam_loads_none(tmp_path: Path) -> None:
    loaded = modules_after(f"from beam_exactly_once import {', '.join(sorted(LOAD_NO_BEAM))}", tmp_path)
    assert [module for module in loaded if module.startswith("apache_beam")] == []


def test_the_door_of_the_sinks_loads_beam_with_write_to_alone(tmp_path: Path) -> None:
    assert modules_after("import beam_exactly_once.sinks", tmp_path) == ["beam_exactly_once", "beam_exactly_once.sinks"]
    contract = modules_after("from beam_exactly_once.sinks import Delivery, TransactionalSink", tmp_path)
    assert [module for module in contract if module.startswith("apache_beam")] == []
    assert "apache_beam" in modules_after("from beam_exactly_once.sinks import WriteTo", tmp_path)


def test_the_version_is_that_of_the_installation() -> None:
    assert beam_exactly_once.__version__ == metadata.version("beam_exactly_once")
