"""Ready-made pipeline: how often each word was in the values of Kafka records, over all batches, each record counted once.

    beam-exactly-once run word-count \\
        --bootstrap-servers localhost:9092 --topics lines --checkpoint-location s3://checkpoints/words \\
        --output-url '${env:WORDS_URL}' --output-table words

writes the table ``words`` with the columns ``word``, its primary key, and ``count``; each batch upserts the words that it had.
With ``--output-topic words`` instead, the counts go to a Kafka topic, which may be compacted: the key is the word, the value its
count in decimal digits. The topic is on the cluster of the source, unless ``--output-bootstrap-servers`` is given.

A value is text in UTF-8, and a word what stands between white space. Records without a value have no words.

``python -m beam_exactly_once.pipelines.word_count`` is the same. Every option of Beam is taken too. Exit codes: 0 done,
2 configuration, 3 fenced, 4 data loss, 5 checkpoint, 75 start the same command again, 1 anything else.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc

from beam_exactly_once.errors import ConfigurationError, UnfitRow
from beam_exactly_once.pipelines.kafka_to_kafka import on_cluster_of, refuse_own_input
from beam_exactly_once.pipelines.ready_made import Given, ReadyMade
from beam_exactly_once.pipelines.stream import ExactlyOnceStream
from beam_exactly_once.transforms.stateful.by_key import StatefulCombinePerKey
from beam_exactly_once.transforms.write_kafka import WriteToKafka
from beam_exactly_once.transforms.write_sql import WriteToSql


def _wire(stream: ExactlyOnceStream, given: Given) -> None:
    write = _sink(given)
    words = stream | given.read(as_arrow=True, decoder=words_of, on_error=given.on_error)
    counted, undecodable = (words, None) if given.on_error == "fail" else words
    counts = counted | StatefulCombinePerKey({"count": sum}, **given.step, key_columns=["word"], name="words")
    unfit = write(counts)
    if undecodable is not None:
        given.write_rejected(undecodable, unfit)


def _sink(given: Given) -> Callable[[beam.PCollection[pa.RecordBatch]], Any]:
    """What writes batches of words and their counts.

    Raises:
        ConfigurationError: the flags name no place, or two.
    """
    places = [name for name in ("url", "topic") if name in given.output]
    if len(places) != 1:
        raise ConfigurationError(
            "say where the counts go: either --output-url and --output-table, or --output-topic."
            + (" Both are given." if places else "")
        )
    if places == ["topic"]:
        output = on_cluster_of(given.source, given.output)
        refuse_strangers(WriteToKafka, output, "--output-topic")
        refuse_own_input(given.source, output)
        to_topic = WriteToKafka(**output, on_error=given.on_error)
        return lambda counts: counts | "Records" >> beam.Map(_records).with_output_types(pa.RecordBatch) | to_topic
    refuse_strangers(WriteToSql, given.output, "--output-url")
    if "table" not in given.output:
        raise ConfigurationError("--output-table must be given: which table of --output-url takes the counts?")
    to_table = WriteToSql(**given.output, mode="upsert", key_columns=["word"], on_error=given.on_error)
    return lambda counts: counts | to_table


def refuse_strangers(sink: type[Any], output: dict[str, Any], place: str) -> None:
    """
    Raises:
        ConfigurationError: an argument is one of the other sink.
    """
    strangers = sorted(output.keys() - inspect.signature(sink).parameters.keys())
    if strangers:
        raise ConfigurationError(
            f"--output-{strangers[0].replace('_', '-')} does not go with {place}. Leave one of them out."
        )


def words_of(records: pa.RecordBatch) -> pa.RecordBatch:
    """The different words in the values of records, and how often each is there.

    Raises:
        UnfitRow: a value is not text in UTF-8.
    """
    words = pc.list_flatten(pc.utf8_split_whitespace(_texts(records)))
    counted = words.filter(pc.greater(pc.binary_length(words), 0)).value_counts()
    return pa.RecordBatch.from_arrays(counted.flatten(), ["word", "count"])


def _texts(records: pa.RecordBatch) -> pa.Array:
    values = records.column("value")
    try:
        return values.cast(pa.string())
    except pa.ArrowInvalid:
        at = next(number for number in range(len(values)) if not _is_text(values.slice(number, 1)))
        (row,) = records.select(["topic", "partition", "offset"]).slice(at, 1).to_pylist()
        raise UnfitRow(
            f"the value of record {row['topic']}-{row['partition']} at offset {row['offset']} is not text in UTF-8; "
            "--rejected-location takes such records"
        ) from None


def _is_text(value: pa.Array) -> bool:
    try:
        value.cast(pa.string())
    except pa.ArrowInvalid:
        return False
    return True


def _records(counts: pa.RecordBatch) -> pa.RecordBatch:
    """The word as key, its count as text."""
    word, count = counts.columns
    return pa.record_batch({"key": word, "value": count.cast(pa.string())})


PIPELINE = ReadyMade(
    "word-count",
    "Counts of the words in the values of Kafka records, to a table or a Kafka topic, exactly once.",
    WriteToSql,
    _wire,
    sink_set=("mode", "key_columns", "newest_by", "columns", "direct", "partitioner", "order_by"),
    other_sink=WriteToKafka,
    step=StatefulCombinePerKey,
    step_set=("key_columns",),
)
main = PIPELINE.main

if __name__ == "__main__":
    sys.exit(main())
