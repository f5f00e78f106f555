"""An exception of a step: the last line says which step, at which records of which batch, and what to do; no value of a row."""

from __future__ import annotations

import json
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from beam_exactly_once import ExactlyOnceStream, ForEachBatch, ReadFromKafka, Record, WriteToFiles, read_batches
from beam_exactly_once.errors import StepFailed, UnfitRow
from beam_exactly_once.testing import MemoryKafka
from beam_exactly_once.transforms import commit_batch

pytestmark = pytest.mark.runs_on("DirectRunner")

SECRET = "4111-1111"
NUMBERS = pa.schema([("n", pa.int64())])
IN_THREADS = ["--direct_running_mode=multi_threading", "--direct_num_workers=2"]


class Failing(beam.DoFn):
    """Fails where it is told to."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.seen: list[bytes] = []

    def process(self, record: Record) -> Iterator[dict[str, int]]:
        assert record.value is not None
        self.seen.append(record.value)
        if self.where == "process":
            yield {"n": json.loads(record.value)}

    def finish_bundle(self) -> None:
        if self.where == "finish":
            for value in self.seen:
                json.loads(value)


def parse(record: Record) -> dict[str, Any]:
    assert record.value is not None
    return {"n": json.loads(record.value)}


def parse_whole(records: pa.RecordBatch) -> pa.RecordBatch:
    return pa.record_batch({"n": [json.loads(value) for value in records["value"].to_pylist()]}, NUMBERS)


def parse_group(group: tuple[int, Any]) -> dict[str, int]:
    return {"n": sum(json.loads(value) for value in group[1])}


def kafka() -> MemoryKafka:
    """One batch is committed; the next one has a record that is no JSON at orders-1, offset 3, and others before and behind."""
    cluster = MemoryKafka({"orders": 2})
    cluster.append(Record("orders", partition, value=b"1") for partition in (0, 1) for _ in range(3))
    cluster.append([Record("orders", 1, value=SECRET.encode()), Record("orders", 1, value=b"5")])
    return cluster


Build = Callable[[ExactlyOnceStream], Any]


def read(stream: ExactlyOnceStream, **options: Any) -> Any:
    return stream | ReadFromKafka("memory:9092", ["orders"], **options)


BUILDS: dict[str, tuple[Build, str, str]] = {
    "a function": (lambda s: read(s) | "Parse" >> beam.Map(parse), "Parse", " Read last: orders-1 at offset 3."),
    "a DoFn": (
        lambda s: read(s) | "Parse" >> beam.ParDo(Failing("process")),
        "Parse",
        " Read last: orders-1 at offset 3.",
    ),
    "the end of a bundle": (lambda s: read(s) | "Parse" >> beam.ParDo(Failing("finish")), "Parse", ""),
    "behind a shuffle": (
        lambda s: read(s) | beam.Map(lambda one: (1, one.value)) | beam.GroupByKey() | "Parse" >> beam.Map(parse_group),
        "Parse",
        "",
    ),
    "columns": (
        lambda s: read(s, as_arrow=True) | "Parse" >> beam.Map(parse_whole).with_output_types(pa.RecordBatch),
        "Parse",
        " Read last: orders-1[0, 5).",
    ),
}


def fails(build: Build, folder: Path, flags: list[str]) -> StepFailed:
    with (
        pytest.raises(StepFailed) as raised,
        kafka().serving(),
        ExactlyOnceStream(f"{folder}/checkpoint", options=PipelineOptions(flags)) as stream,
    ):
        _ = build(stream) | WriteToFiles(f"{folder}/output", schema=NUMBERS)
    return raised.value


@pytest.mark.parametrize("flags", [[], IN_THREADS], ids=["in this thread", "in threads"])
@pytest.mark.parametrize("build", BUILDS)
def test_the_error_names_batch_step_and_offsets_and_the_way_out(tmp_path: Path, build: str, flags: list[str]) -> None:
    built, step, read_last = BUILDS[build]
    error = fails(built, tmp_path, flags)
    before, found, behind = str(error).partition(" Batch 0 reads ")
    if flags:  # the other worker may be in the middle of a chunk
        before = before.replace("orders-0 at offset 2, ", "").replace("orders-0[0, 3), ", "")
    assert before + found + behind == (
        f"step {step!r} of batch 0 ended with JSONDecodeError.{read_last} Batch 0 reads orders-0[0, 3), orders-1[0, 5). "
        "Nothing of it is committed, and each start runs it again. Mend the step; or have records that it cannot take "
        'rejected, by DecodeRecords(…, on_error="reject"); or pass the batch: beam-exactly-once resolve '
        f"{tmp_path}/checkpoint --batch 0 --skip"
    )
    assert error.exit_code == 1


def test_the_cause_is_the_exception_of_the_step_with_the_steps_own_lines(tmp_path: Path) -> None:
    error = fails(BUILDS["a function"][0], tmp_path, [])
    assert isinstance(error.__cause__, json.JSONDecodeError)
    functions = [frame.name for frame in traceback.extract_tb(error.__cause__.__traceback__)]
    assert functions[0] == "parse"  # nothing of the runner, nor of what calls functions for it


@pytest.mark.parametrize("flags", [[], IN_THREADS], ids=["in this thread", "in threads"])
def test_a_row_that_does_not_fit_names_the_batch_as_well(tmp_path: Path, flags: list[str]) -> None:
    with (
        pytest.raises(UnfitRow) as raised,
        kafka().serving(),
        ExactlyOnceStream(f"{tmp_path}/checkpoint", options=PipelineOptions(flags)) as stream,
    ):
        _ = read(stream, decoder=parse) | WriteToFiles(f"{tmp_path}/output", schema=NUMBERS)
    message = str(raised.value)
    assert message.startswith("step 'decode_records' cannot decode record orders-1 at offset 3: ")
    assert message.endswith("orders-1 at offset 3. Batch 0 reads orders-0[0, 3), orders-1[0, 5).")
    assert SECRET not in message


@pytest.mark.parametrize("kind", ["function", "decoder"])
def test_what_is_printed_ends_with_that_line_and_is_short(tmp_path: Path, kind: str) -> None:
    """As a user sees it who runs a script; the exception is one whose text has the row in it."""
    script = tmp_path / "orders.py"
    script.write_text(
        "import apache_beam as beam\n"
        "from beam_exactly_once import ExactlyOnceStream, ReadFromKafka, Record, WriteToFiles\n"
        "from beam_exactly_once.testing import MemoryKafka\n"
        "def parse(record):\n"
        "    return {'n': int(record.value)}\n"
        "kafka = MemoryKafka({'orders': 1})\n"
        f"kafka.append([Record('orders', value=b'1'), Record('orders', value=b'{SECRET}')])\n"
        f"with kafka.serving(), ExactlyOnceStream('{tmp_path}/checkpoint') as stream:\n"
        "    records = stream | ReadFromKafka('memory:9092', ['orders'], decoder=DECODER)\n"
        "    records | STEP | WriteToFiles('OUTPUT', format='json')\n".replace("OUTPUT", f"{tmp_path}/output")
        .replace("DECODER", "parse" if kind == "decoder" else "None")
        .replace("STEP", "beam.Filter(bool)" if kind == "decoder" else "beam.Map(parse)")
    )
    ran = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    lines = ran.stderr.splitlines()
    printed = lines[[line.startswith("ERROR:beam_exactly_once") for line in lines].index(True) :]
    assert ran.returncode == 1
    assert "orders-0 at offset 1" in lines[-1]
    assert len(printed) < 40, ran.stderr
    assert [line for line in printed if SECRET in line] == [
        f"ValueError: invalid literal for int() with base 10: b'{SECRET}'"  # the exception itself, above
    ]


def test_a_function_that_gets_a_committed_batch_is_called_again_at_the_next_start(tmp_path: Path) -> None:
    def charge(rows: Any) -> None:
        raise KeyError(SECRET)

    def start() -> str:
        with (
            pytest.raises(StepFailed) as raised,
            cluster.serving(),
            ExactlyOnceStream(f"{tmp_path}/checkpoint") as stream,
        ):
            _ = read(stream) | beam.Map(lambda record: {"n": record.offset}) | ForEachBatch(charge, schema=NUMBERS)
        return str(raised.value)

    cluster = kafka()
    first, second = start(), start()
    assert first == second
    assert first == (
        "step 'CommitBatch/Publish' of batch 0 ended with KeyError. The batch is committed, and perhaps not all of it is "
        "published. Mend what failed there, or what it calls, and start again: every start publishes the newest batch before it "
        "reads on."
    )


@pytest.mark.parametrize("flags", [[], IN_THREADS], ids=["in this thread", "in threads"])
def test_a_commit_that_fails_behind_its_marker_does_not_say_that_nothing_is_committed(
    tmp_path: Path, flags: list[str]
) -> None:
    def start() -> None:
        options = PipelineOptions(flags)
        with cluster.serving(), ExactlyOnceStream(f"{tmp_path}/checkpoint", options=options) as stream:
            _ = (
                read(stream)
                | beam.Map(lambda record: {"n": record.offset})
                | WriteToFiles(f"{tmp_path}/output", schema=NUMBERS)
            )

    cluster = kafka()
    with mock.patch.object(commit_batch, "_to_publish", side_effect=MemoryError), pytest.raises(StepFailed) as raised:
        start()
    assert "ended with MemoryError. The batch is committed, and perhaps not all of it is published." in str(
        raised.value
    )
    assert list(read_batches(f"{tmp_path}/output")) == []
    start()
    assert [batch.rows_written for batch in read_batches(f"{tmp_path}/output")] == [8]
