"""bytewax, by its guide: KafkaSource, a map, and a sink of one's own, since it has none for Parquet.

    python bytewax_rows.py BOOTSTRAP_SERVERS TOPIC RECORDS GROUP {json,orjson}

Its recovery store is off, which is how it is fastest. The sink gathers rows, as a row group of Parquet wants them.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import bytewax.operators as op
import pyarrow as pa
import pyarrow.parquet as pq
from bytewax.connectors.kafka import KafkaSource
from bytewax.dataflow import Dataflow
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.testing import run_main

ROW_GROUP = 10_000
SCHEMA = pa.schema([("id", pa.int64()), ("customer", pa.int32()), ("paid", pa.bool_()), ("note", pa.string())])


class ParquetPartition(StatelessSinkPartition[Any]):
    def __init__(self) -> None:
        Path("output").mkdir()
        self._writer = pq.ParquetWriter("output/rows.parquet", SCHEMA, compression="zstd")
        self._rows: list[Any] = []

    def write_batch(self, items: list[Any]) -> None:
        self._rows += items
        if len(self._rows) >= ROW_GROUP:
            self._write()

    def close(self) -> None:
        self._write()
        self._writer.close()

    def _write(self) -> None:
        self._writer.write_table(pa.Table.from_pylist(self._rows, SCHEMA))
        self._rows = []


class ParquetSink(DynamicSink[Any]):
    def build(self, step_id: str, worker_index: int, worker_count: int) -> ParquetPartition:
        return ParquetPartition()


bootstrap_servers, topic, _, _, parser = sys.argv[1:6]
loads = importlib.import_module(parser).loads
flow = Dataflow("peers")
records = op.input("read", flow, KafkaSource([bootstrap_servers], [topic], tail=False))
rows = op.map("parse", records, lambda record: loads(record.value))
op.output("write", rows, ParquetSink())
run_main(flow)
