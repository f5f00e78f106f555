"""The ways that are compared: which program, in which environment, at which versions, and what it promises.

Versions stand here and nowhere else. None of these packages is a dependency of this library.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

_ARROW = "pyarrow==25.0.0"
_ORJSON = "orjson==3.11.5"


@dataclass(frozen=True)
class Environment:
    """Where programs run.

    Attributes:
        requirements: as pip takes them; the first one's version is shown. None: Python and packages of this process.
        pythons: the lowest and the highest minor version of Python 3 that the peer has wheels for.
    """

    name: str
    requirements: tuple[str, ...]
    pythons: tuple[int, int] = (10, 13)

    @property
    def version(self) -> str:
        """Of the peer."""
        return self.requirements[0].partition("==")[2]


HERE = Environment("this library", ())
BYTEWAX = Environment("bytewax", ("bytewax[kafka]==0.21.1", _ARROW, _ORJSON), (8, 12))
QUIX = Environment("quixstreams", ("quixstreams==3.28.1", _ARROW), (11, 13))
PATHWAY = Environment("pathway", ("pathway==0.33.0",))
SPARK = Environment("pyspark", ("pyspark==4.2.0",))  # the newest whose Kafka connector Maven Central has; needs Java 17

Parser = Literal["json", "orjson"]


@dataclass(frozen=True)
class Way:
    """One line of the table.

    Attributes:
        title: as the table shows it.
        program: a file of programs/, without its suffix.
        guarantee: what the peer's documentation promises for what the program does.
        writes: the format of the files.
        parser: which parser of JSON the program is told to take, if it can be told.
    """

    title: str
    program: str
    environment: Environment
    guarantee: str
    writes: str = "Parquet, zstd"
    parser: Parser | None = None

    @property
    def name(self) -> str:
        """One word."""
        return f"{self.program}_{self.parser}" if self.parser else self.program


RAW = Way("a loop of confluent-kafka and Arrow", "raw", HERE, "none")
OURS = Way("this library, `JsonDecoder(schema)`", "ours_columns", HERE, "exactly once")
OUR_ROWS = Way("this library, `beam.Map`, json", "ours_rows", HERE, "exactly once", parser="json")
OUR_ROWS_ORJSON = Way("this library, `beam.Map`, orjson", "ours_rows", HERE, "exactly once", parser="orjson")
BYTEWAX_ROWS = Way("bytewax, `op.map`, json", "bytewax_rows", BYTEWAX, "none: recovery is off", parser="json")
BYTEWAX_ROWS_ORJSON = Way(
    "bytewax, `op.map`, orjson", "bytewax_rows", BYTEWAX, "none: recovery is off", parser="orjson"
)
QUIX_ROWS = Way("Quix Streams, `LocalFileSink`", "quix_rows", QUIX, "at least once", "Parquet, snappy")
PATHWAY_ROWS = Way("Pathway, `jsonlines.write`", "pathway_rows", PATHWAY, "none: persistence is off", "JSON lines")
SPARK_COLUMNS = Way("Spark, `AvailableNow`", "spark_columns", SPARK, "exactly once", "Parquet, snappy")

WAYS = (
    RAW,
    OURS,
    OUR_ROWS,
    OUR_ROWS_ORJSON,
    BYTEWAX_ROWS,
    BYTEWAX_ROWS_ORJSON,
    QUIX_ROWS,
    PATHWAY_ROWS,
    SPARK_COLUMNS,
)


Sink = Literal["files", "kafka"]


@dataclass(frozen=True)
class StreamWay:
    """One line of the table of latencies: a stream that goes on, until it is ended."""

    title: str
    program: str
    sink: Sink
    environment: Environment
    guarantee: str


STREAM_WAYS = (
    StreamWay("this library, `ProcessingTime(0)`", "ours_stream", "files", HERE, "exactly once"),
    StreamWay("Spark, `processingTime='0 seconds'`", "spark_stream", "files", SPARK, "exactly once"),
    StreamWay("this library, `ProcessingTime(0)`", "ours_stream", "kafka", HERE, "exactly once"),
    StreamWay("Spark, `processingTime='0 seconds'`", "spark_stream", "kafka", SPARK, "at least once"),
    StreamWay("Quix Streams, `commit_interval=1.0`", "quix_stream", "kafka", QUIX, "exactly once"),
)
