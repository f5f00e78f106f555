"""Pathway, by its documentation: a table of a JSON topic, written as JSON lines, since Parquet and Delta need a licence key.

python pathway_rows.py BOOTSTRAP_SERVERS TOPIC RECORDS GROUP
"""

from __future__ import annotations

import sys
from pathlib import Path

import pathway as pw


class Row(pw.Schema):
    id: int
    customer: int
    paid: bool
    note: str


bootstrap_servers, topic, _, group = sys.argv[1:5]
Path("output").mkdir()
settings = {"bootstrap.servers": bootstrap_servers, "group.id": group, "auto.offset.reset": "earliest"}
rows = pw.io.kafka.read(settings, topic=topic, schema=Row, format="json", mode="static")
pw.io.jsonlines.write(rows, "output/rows.jsonl")
pw.run(monitoring_level=pw.MonitoringLevel.NONE)
