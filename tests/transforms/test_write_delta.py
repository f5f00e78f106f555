"""``WriteToDelta`` before it runs: what it takes and refuses; and what its errors say."""

from __future__ import annotations

import sys
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest

from beam_exactly_once import WriteToDelta
from beam_exactly_once.errors import (
    BeamExactlyOnceError,
    ConfigurationError,
    OutputNotWritable,
    SinkUnavailable,
    UnsupportedPipeline,
)
from beam_exactly_once.sinks.delta.schema import delta_schema
from beam_exactly_once.sinks.delta.table import sorted_errors

NUMBERS = pa.schema([("number", pa.int64())])


@pytest.mark.parametrize(
    ("output", "arguments", "problem"),
    [
        ("", {}, "must be the URI of a table"),
        ("memory://lake/orders", {}, "cannot be a Delta table"),
        ("/lake/per%20cent", {}, "reads %20 in a name as a space"),
        ("/lake/back\\slash", {}, "so the log would be in another place"),
        ("gs://lake/orders", {"storage_options": {"user_project": "payer"}}, "takes no storage_options user_project"),
        ("/lake", {"add_columns": "yes"}, "add_columns='yes'"),
        ("/lake", {"compression": "zip"}, "compression='zip' is not known for parquet"),
        ("/lake", {"partition_by": ["country"]}, "no column 'country'"),
        ("/lake", {"partition_by": ["number"]}, "leaves nothing for the files"),
        ("/lake", {"schema": pa.schema([("big", pa.uint64())])}, "column 'big' is of type uint64"),
        ("/lake", {"schema": pa.schema([("t", pa.time64("us"))])}, "column 't' is of type time64"),
        ("/lake", {"schema": pa.schema([("a b", pa.int64())])}, "takes no column 'a b'"),
        ("/lake", {"schema": pa.schema([("a", pa.int64()), ("A", pa.int64())])}, "takes no column 'a'"),
        ("/lake", {"schema": {"number": int}}, "must be a pyarrow.Schema"),
    ],
)
def test_what_it_refuses(output: str, arguments: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        WriteToDelta(output, **{"schema": NUMBERS, **arguments})


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deltalake", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'beam_exactly_once\[delta\]'"):
        WriteToDelta("/lake")


def test_outside_of_a_stream() -> None:
    with pytest.raises(UnsupportedPipeline, match="WriteToDelta works only in an ExactlyOnceStream"):
        _ = beam.Pipeline() | beam.Create([{"number": 1}]) | WriteToDelta("/lake", schema=NUMBERS)


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        (pa.large_string(), pa.string()),
        (pa.dictionary(pa.int32(), pa.large_string()), pa.string()),
        (pa.binary(4), pa.binary()),
        (pa.date64(), pa.date32()),
        (pa.timestamp("ns"), pa.timestamp("us")),
        (pa.timestamp("ms", "Europe/Berlin"), pa.timestamp("us", "UTC")),
        (pa.large_list(pa.large_string()), pa.list_(pa.string())),
        (pa.map_(pa.string(), pa.date64()), pa.map_(pa.string(), pa.date32())),
        (pa.struct([("at", pa.timestamp("s"))]), pa.struct([("at", pa.timestamp("us"))])),
        (pa.decimal128(38, 10), pa.decimal128(38, 10)),
    ],
    ids=str,
)
def test_types_become_those_of_a_table(given: pa.DataType, taken: pa.DataType) -> None:
    assert delta_schema(pa.schema([("x", given)]), where="sink 'orders'").field("x").type == taken


@pytest.mark.parametrize(
    ("raised", "becomes"),
    [
        (
            OSError(
                "Generic S3 error \x1b[31m↳\x1b[0m error sending request for url (http://me:canary-51b2@store:9000/lake)"
            ),
            SinkUnavailable,
        ),
        (OSError("Generic S3 error: Client error with status 403 Forbidden: AccessDenied"), OutputNotWritable),
        (PermissionError("no"), OutputNotWritable),
    ],
    ids=["no answer", "no permission", "no permission on a disk"],
)
def test_errors_are_sorted_by_who_must_act(raised: Exception, becomes: type[BeamExactlyOnceError]) -> None:
    with pytest.raises(becomes, match="sink 'orders'") as found, sorted_errors("sink 'orders': Delta table s3://lake"):
        raise raised
    assert "canary-51b2" not in str(found.value)
    assert "\x1b" not in str(found.value)
    assert found.value.__cause__ is None
