"""Exactly-once streams from Kafka for Apache Beam, without a JVM, a receiver or a consumer group.

This is the front door: every name of ``__all__`` is imported from here, and loads its module only then. Streams, sources and
sinks load Beam; secrets, addresses, state types and :func:`read_batches` do not. Three doors stand beside it:
:mod:`beam_exactly_once.errors` has what can be raised, :mod:`beam_exactly_once.sinks` the contract of a sink of your own,
:mod:`beam_exactly_once.testing` a kit to test streams and sinks. Everything else is private.
"""

from importlib import import_module as _import_module
from pathlib import Path as _Path
from typing import TYPE_CHECKING, Any

# In a checkout, two subpackages stand beside this folder, and links lead to them, for tools as for `python -m` in the root of a
# clone. Where Git made no links, as on Windows, they are found so. An installation has them here.
_here = _Path(__file__).parent
if not (_here / "transforms").is_dir() and (_here.parent / "transforms" / "stream_graph.py").is_file():
    __path__.append(str(_here.parent))

__all__ = [
    "RECORD_SCHEMA",
    "REJECTED_SCHEMA",
    "AggregateByWindow",
    "ArrowState",
    "AvailableNow",
    "BatchProgress",
    "BatchRows",
    "CheckpointAt",
    "CoderState",
    "Continuous",
    "DecodeRecords",
    "DeduplicateByKey",
    "EventTime",
    "ExactlyOnceStream",
    "ForEachBatch",
    "FromGroup",
    "GroupState",
    "JoinWithinInterval",
    "JsonDecoder",
    "JsonLinesListener",
    "JsonState",
    "MapGroupsWithState",
    "ProcessingTime",
    "ProgressListener",
    "PublishedBatch",
    "PublishedFile",
    "ReadAllFromKafka",
    "ReadFromKafka",
    "ReadFromWal",
    "Record",
    "ReduceByKeyAndWindow",
    "Rejected",
    "Secret",
    "StateCache",
    "StatefulCombinePerKey",
    "TopicPartition",
    "Trigger",
    "UpdateStateByKey",
    "WalWriter",
    "WindowResult",
    "WriteToDelta",
    "WriteToFiles",
    "WriteToKafka",
    "WriteToSql",
    "__version__",
    "read_batches",
    "read_properties",
    "secret_from_env",
    "secret_from_file",
    "with_event_date",
]

if TYPE_CHECKING:
    from beam_exactly_once.decoding.json_decoder import JsonDecoder
    from beam_exactly_once.kafka.settings import read_properties
    from beam_exactly_once.logs.records import RECORD_SCHEMA, Record, with_event_date
    from beam_exactly_once.offsets import TopicPartition
    from beam_exactly_once.pipelines.progress.listeners import BatchProgress, JsonLinesListener, ProgressListener
    from beam_exactly_once.pipelines.stream import ExactlyOnceStream
    from beam_exactly_once.pipelines.triggers import AvailableNow, Continuous, ProcessingTime, Trigger
    from beam_exactly_once.planning.continuing import CheckpointAt
    from beam_exactly_once.planning.event_time import EventTime
    from beam_exactly_once.planning.start import FromGroup
    from beam_exactly_once.rows.rejected import REJECTED_SCHEMA, Rejected
    from beam_exactly_once.secrets import Secret, secret_from_env, secret_from_file
    from beam_exactly_once.sinks.calling import BatchRows
    from beam_exactly_once.sinks.files.manifest import PublishedBatch, PublishedFile, read_batches
    from beam_exactly_once.state.groups.group_state import GroupState
    from beam_exactly_once.state.near.cache import StateCache
    from beam_exactly_once.state.types.arrow_state import ArrowState
    from beam_exactly_once.state.types.coder_state import CoderState
    from beam_exactly_once.state.types.json_state import JsonState
    from beam_exactly_once.state.windows.operator import WindowResult
    from beam_exactly_once.transforms.decode_records import DecodeRecords
    from beam_exactly_once.transforms.for_each_batch import ForEachBatch
    from beam_exactly_once.transforms.read_all_kafka import ReadAllFromKafka
    from beam_exactly_once.transforms.read_kafka import ReadFromKafka
    from beam_exactly_once.transforms.read_wal import ReadFromWal
    from beam_exactly_once.transforms.stateful.by_key import (
        DeduplicateByKey,
        StatefulCombinePerKey,
        UpdateStateByKey,
    )
    from beam_exactly_once.transforms.stateful.join import JoinWithinInterval
    from beam_exactly_once.transforms.stateful.map_groups import MapGroupsWithState
    from beam_exactly_once.transforms.stateful.reduced import ReduceByKeyAndWindow
    from beam_exactly_once.transforms.stateful.windowed import AggregateByWindow
    from beam_exactly_once.transforms.write_delta import WriteToDelta
    from beam_exactly_once.transforms.write_files import WriteToFiles
    from beam_exactly_once.transforms.write_kafka import WriteToKafka
    from beam_exactly_once.transforms.write_sql import WriteToSql
    from beam_exactly_once.wal.writer import WalWriter

    __version__: str
else:
    _NAMES = {
        "decoding.json_decoder": ("JsonDecoder",),
        "logs.records": ("RECORD_SCHEMA", "Record", "with_event_date"),
        "kafka.settings": ("read_properties",),
        "offsets": ("TopicPartition",),
        "pipelines.progress.listeners": ("BatchProgress", "JsonLinesListener", "ProgressListener"),
        "pipelines.stream": ("ExactlyOnceStream",),
        "pipelines.triggers": ("AvailableNow", "Continuous", "ProcessingTime", "Trigger"),
        "planning.continuing": ("CheckpointAt",),
        "planning.event_time": ("EventTime",),
        "planning.start": ("FromGroup",),
        "rows.rejected": ("REJECTED_SCHEMA", "Rejected"),
        "secrets": ("Secret", "secret_from_env", "secret_from_file"),
        "sinks.calling": ("BatchRows",),
        "sinks.files.manifest": ("PublishedBatch", "PublishedFile", "read_batches"),
        "state.groups.group_state": ("GroupState",),
        "state.types.arrow_state": ("ArrowState",),
        "state.types.coder_state": ("CoderState",),
        "state.types.json_state": ("JsonState",),
        "state.near.cache": ("StateCache",),
        "state.windows.operator": ("WindowResult",),
        "transforms.decode_records": ("DecodeRecords",),
        "transforms.for_each_batch": ("ForEachBatch",),
        "transforms.read_all_kafka": ("ReadAllFromKafka",),
        "transforms.read_kafka": ("ReadFromKafka",),
        "transforms.read_wal": ("ReadFromWal",),
        "transforms.stateful.by_key": ("DeduplicateByKey", "StatefulCombinePerKey", "UpdateStateByKey"),
        "transforms.stateful.join": ("JoinWithinInterval",),
        "transforms.stateful.map_groups": ("MapGroupsWithState",),
        "transforms.stateful.reduced": ("ReduceByKeyAndWindow",),
        "transforms.stateful.windowed": ("AggregateByWindow",),
        "transforms.write_delta": ("WriteToDelta",),
        "transforms.write_files": ("WriteToFiles",),
        "transforms.write_kafka": ("WriteToKafka",),
        "transforms.write_sql": ("WriteToSql",),
        "wal.writer": ("WalWriter",),
    }
    _HOME_OF = {name: module for module, names in _NAMES.items() for name in names}

    def __getattr__(name: str) -> Any:
        """Load a name of the door at its first use; a checker reads the imports above instead."""
        if name == "__version__":
            found = _import_module("importlib.metadata").version(__name__)
        elif name in _HOME_OF:
            found = getattr(_import_module(f"{__name__}.{_HOME_OF[name]}"), name)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
