"""The rows: what is in the topic, and whether files hold exactly that."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.json
import pyarrow.parquet as pq
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

PARTITIONS = 12
CUSTOMERS = 9973
NOTE = "." * 100
_COLUMNS = ["id", "customer", "paid", "note"]
_AT_ONCE = 10_000
_TIMEOUT_S = 120.0


class WrongRows(Exception):
    """A way did not write what it read."""


def value_of(number: int) -> bytes:
    """The value of one record: JSON of about 150 bytes."""
    paid = "false" if number % 3 else "true"
    return f'{{"id":{number},"customer":{number % CUSTOMERS},"paid":{paid},"note":"{NOTE}"}}'.encode()


def fill(bootstrap_servers: str, topic: str, records: int) -> None:
    """A new topic with the rows 0 to ``records`` - 1, spread over its partitions.

    Raises:
        RuntimeError: the broker does not take them.
    """
    admin = AdminClient({"bootstrap.servers": bootstrap_servers})
    admin.create_topics([NewTopic(topic, PARTITIONS, 1)])[topic].result(_TIMEOUT_S)
    refused: list[str] = []
    producer = Producer(
        {
            "bootstrap.servers": bootstrap_servers,
            "compression.type": "lz4",
            "linger.ms": 50,
            "enable.idempotence": True,
            "on_delivery": lambda error, _: refused.append(str(error)) if error else None,
        }
    )
    for first in range(0, records, _AT_ONCE):
        numbers = range(first, min(first + _AT_ONCE, records))
        for number in numbers:
            producer.produce(topic, value_of(number), b"%d" % number, first // _AT_ONCE % PARTITIONS)
        if producer.flush(_TIMEOUT_S) or refused:
            raise RuntimeError(f"the broker does not take the records: {refused[:1]}")


def count_repeated(output: Path, records: int) -> int:
    """How many rows the files of a folder hold besides every record once.

    Raises:
        WrongRows: a record is missing, or a row has other values than its record.
    """
    tables = [_read(file).select(_COLUMNS) for file in _files(output)]
    if not tables:
        raise WrongRows(f"{output} has no files.")
    schema = pa.schema([("id", pa.int64()), ("customer", pa.int64()), ("paid", pa.bool_()), ("note", pa.string())])
    rows = pa.concat_tables([table.cast(schema) for table in tables])
    ids = rows["id"].to_numpy()
    found = np.unique(ids)
    if len(found) != records or not np.array_equal(found, np.arange(records)):
        raise WrongRows(f"{output} has {len(found)} ids of {records}.")
    as_sent = np.array_equal(rows["customer"].to_numpy(), ids % CUSTOMERS)
    as_sent = as_sent and np.array_equal(rows["paid"].to_numpy(), ids % 3 == 0)
    if not as_sent or rows["note"].unique().to_pylist() != [NOTE]:
        raise WrongRows(f"{output} has rows that are not what was sent.")
    return len(ids) - records


def _files(output: Path) -> list[Path]:
    """Those that a reader of the folder takes: neither hidden ones nor those of Spark's or this library's own."""
    files = [file for file in output.rglob("*") if file.suffix in (".parquet", ".jsonl")]
    return [file for file in files if not any(part[0] in "._" for part in file.relative_to(output).parts)]


def _read(file: Path) -> pa.Table:
    if file.suffix == ".jsonl":
        return pyarrow.json.read_json(file)
    return pq.ParquetFile(file).read()
