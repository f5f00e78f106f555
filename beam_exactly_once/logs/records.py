"""Records as they come from Kafka: one at a time, or a chunk of columns.

A :class:`Chunk` keeps one list a column. Lists of ``bytes`` and ``int`` cost the garbage collector nothing, while
a list of retained tuples or client messages is walked again and again.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import accumulate, chain, pairwise, repeat
from operator import attrgetter, lt
from typing import NamedTuple, TypeAlias, cast

import pyarrow as pa
import pyarrow.compute as pc

Headers: TypeAlias = tuple[tuple[str, bytes | None], ...]


class Record(NamedTuple):
    """One record.

    ``timestamp_type`` is 1 for the producer's create time, 2 for the broker's log append time, 0 for none; then
    ``timestamp_ms`` means nothing.
    """

    topic: str = ""
    partition: int = 0
    offset: int = 0
    timestamp_ms: int = 0
    timestamp_type: int = 0
    key: bytes | None = None
    value: bytes | None = None
    headers: Headers = ()


HEADERS_TYPE = pa.list_(pa.struct([("key", pa.string()), ("value", pa.binary())]))
_NO_HEADERS = pa.array([], HEADERS_TYPE.value_type)

# The topic is plain text, not a dictionary: repeating it is the cheaper of the two to build, and files of several
# topics need no unified dictionary.
RECORD_SCHEMA: pa.Schema = pa.schema(
    [
        pa.field("topic", pa.string()),
        pa.field("partition", pa.int32()),
        pa.field("offset", pa.int64()),
        pa.field("timestamp_ms", pa.int64()),
        pa.field("timestamp_type", pa.int8()),
        pa.field("key", pa.binary()),
        pa.field("value", pa.binary()),
        pa.field("headers", HEADERS_TYPE),
    ]
)
"""The columns of :class:`Record`, in its order."""


EVENT_DATE = "event_date"
_DAY_MS = 86_400_000
_MAX_DAYS = 2**31 - 1
"""What a column of dates holds, in either direction."""


def with_event_date(batch: pa.RecordBatch) -> pa.RecordBatch:
    """A batch of :data:`RECORD_SCHEMA` with one more column, ``event_date``: the UTC date of ``timestamp_ms``.

    It is null for records without a timestamp. One beyond the year 9999, as of a producer that counts microseconds, has a date
    that is no folder's name: ``partition_by`` takes no such row.
    """
    timestamps_ms = batch.column("timestamp_ms")
    has_none = pc.or_(pc.equal(batch.column("timestamp_type"), 0), pc.equal(timestamps_ms, -1))
    days = pc.subtract(timestamps_ms, pc.if_else(pc.less(timestamps_ms, 0), _DAY_MS - 1, 0))
    days = pc.min_element_wise(pc.max_element_wise(pc.divide(days, _DAY_MS), -_MAX_DAYS), _MAX_DAYS)
    dates = pc.if_else(has_none, None, days).cast(pa.int32()).view(pa.date32())
    return pa.RecordBatch.from_arrays([*batch.columns, dates], names=[*batch.schema.names, EVENT_DATE])


# Beam reads them where the function is given to beam.Map, and knows no annotation that is text.
with_event_date.__annotations__ = {"batch": pa.RecordBatch, "return": pa.RecordBatch}


class Columns(NamedTuple):
    """The records of a chunk, one list a column; ``headers`` is None when no record has any."""

    offsets: list[int]
    timestamps_ms: list[int]
    timestamp_types: list[int]
    keys: list[bytes | None]
    values: list[bytes | None]
    headers: list[Headers] | None


class ColumnsOfArrow:
    """The same of a batch of :data:`RECORD_SCHEMA`: each list is made when somebody asks for it."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self._batch = batch

    @cached_property
    def offsets(self) -> list[int]:
        """See :class:`Columns`."""
        return _integers(self._batch.column("offset"))

    @cached_property
    def timestamps_ms(self) -> list[int]:
        """See :class:`Columns`."""
        return _integers(self._batch.column("timestamp_ms"))

    @cached_property
    def timestamp_types(self) -> list[int]:
        """See :class:`Columns`."""
        return _integers(self._batch.column("timestamp_type"))

    @cached_property
    def keys(self) -> list[bytes | None]:
        """See :class:`Columns`."""
        return _texts(self._batch.column("key"))

    @cached_property
    def values(self) -> list[bytes | None]:
        """See :class:`Columns`."""
        return _texts(self._batch.column("value"))

    @cached_property
    def headers(self) -> list[Headers] | None:
        """See :class:`Columns`."""
        column = self._batch.column("headers")
        pairs = column.flatten()
        if not len(pairs):
            return None
        all_pairs = tuple(zip(pairs.field("key").to_pylist(), pairs.field("value").to_pylist(), strict=True))
        ends = accumulate(column.value_lengths().to_pylist(), initial=0)
        return [all_pairs[start:end] for start, end in pairwise(ends)]


class Chunk:
    """The records of one partition with offsets in ``[start, stop)``; offsets may be missing inside.

    ``stop`` is the position after the chunk: every offset below it was seen or does not exist. A chunk may hold no
    record at all. It is immutable and can be pickled.
    """

    __slots__ = ("_batch", "_columns", "partition", "start", "stop", "topic")

    def __init__(self, topic: str, partition: int, start: int, stop: int, columns: Columns | pa.RecordBatch) -> None:
        """Take columns whose offsets rise strictly within ``[start, stop)``: lists, or a batch of :data:`RECORD_SCHEMA`.

        Raises:
            ValueError: the range is backwards, or an offset is outside it.
        """
        if not 0 <= start <= stop:
            raise ValueError(f"a chunk needs 0 <= start <= stop, got [{start}, {stop})")
        self._batch: pa.RecordBatch | None = columns if isinstance(columns, pa.RecordBatch) else None
        self._columns = ColumnsOfArrow(columns) if isinstance(columns, pa.RecordBatch) else columns
        offsets = self._columns.offsets
        if offsets and not start <= offsets[0] <= offsets[-1] < stop:
            raise ValueError(f"offsets {offsets[0]} to {offsets[-1]} are outside of the chunk [{start}, {stop})")
        self.topic = topic
        self.partition = partition
        self.start = start
        self.stop = stop

    @classmethod
    def from_records(cls, records: Sequence[Record], start: int, stop: int) -> Chunk:
        """A chunk of given records of one partition, in order of their offsets.

        Raises:
            ValueError: no record (then use :meth:`empty`), several partitions, or offsets that do not rise within
                ``[start, stop)``.
        """
        if not records:
            raise ValueError("records name the partition, so there must be one; use Chunk.empty for none")
        topic, partition = records[0].topic, records[0].partition
        if any((record.topic, record.partition) != (topic, partition) for record in records):
            raise ValueError("the records of a chunk must be of one partition")
        offsets = [record.offset for record in records]
        if not rises_strictly(offsets):
            raise ValueError("the records of a chunk must be in order of their offsets")
        has_headers = any(record.headers for record in records)
        columns = Columns(
            offsets,
            [record.timestamp_ms for record in records],
            [record.timestamp_type for record in records],
            [record.key for record in records],
            [record.value for record in records],
            list(map(attrgetter("headers"), records)) if has_headers else None,
        )
        return cls(topic, partition, start, stop, columns)

    @classmethod
    def empty(cls, topic: str, partition: int, start: int, stop: int) -> Chunk:
        """A chunk that says that ``[start, stop)`` holds no record."""
        return cls(topic, partition, start, stop, Columns([], [], [], [], [], None))

    def __len__(self) -> int:
        """Number of records."""
        return len(self._columns.offsets)

    def __bool__(self) -> bool:
        """True even without records: a chunk always moves the position on."""
        return True

    def __repr__(self) -> str:
        return f"Chunk({self.topic}-{self.partition}[{self.start}, {self.stop}), {len(self)} records)"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Chunk):
            return NotImplemented
        places = [(chunk.topic, chunk.partition, chunk.start, chunk.stop) for chunk in (self, other)]
        return places[0] == places[1] and list(self.records()) == list(other.records())

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[type[Chunk], tuple[str, int, int, int, Columns | pa.RecordBatch]]:
        held = self._columns if isinstance(self._columns, Columns) else self._batch
        return Chunk, (self.topic, self.partition, self.start, self.stop, held)

    @property
    def bytes(self) -> int:
        """Bytes of all keys and values."""
        if self._batch is not None:
            return _bytes_within(self._batch.column("key")) + _bytes_within(self._batch.column("value"))
        return bytes_of(self._columns.values) + bytes_of(self._columns.keys)

    @property
    def columns(self) -> Columns | ColumnsOfArrow:
        """The columns as lists; do not change them."""
        return self._columns

    def records(self, offsets: Iterable[int] | None = None) -> Iterator[Record]:
        """The records in order, built one by one as they are asked for.

        Args:
            offsets: those of the chunk, for a caller who wants to see how many were asked for.
        """
        columns = self._columns
        rows = zip(
            repeat(self.topic),
            repeat(self.partition),
            columns.offsets if offsets is None else offsets,
            columns.timestamps_ms,
            columns.timestamp_types,
            columns.keys,
            columns.values,
            repeat(()) if columns.headers is None else columns.headers,
            strict=False,
        )
        # A NamedTuple's own constructor is a Python function, three times as slow as the tuple's.
        return cast("Iterator[Record]", map(tuple.__new__, repeat(Record), rows))

    def to_arrow(self) -> pa.RecordBatch:
        """The records as columns of :data:`RECORD_SCHEMA`."""
        if self._batch is not None:
            return self._batch
        columns = self._columns
        return batch_of(
            self.topic,
            self.partition,
            _int64_array(columns.offsets),
            _int64_array(columns.timestamps_ms),
            _timestamp_types_array(columns.timestamp_types),
            pa.array(columns.keys, pa.binary()),
            pa.array(columns.values, pa.binary()),
            _headers_array(columns.headers, len(self)),
        )

    def cut(self, stop: int) -> Chunk:
        """This chunk without the records at or above ``stop``.

        Raises:
            ValueError: ``stop`` is below ``start``.
        """
        if stop >= self.stop:
            return self
        columns = self._columns
        count = bisect_left(columns.offsets, stop)
        if self._batch is not None:
            return Chunk(self.topic, self.partition, self.start, stop, self._batch.slice(0, count))
        kept = Columns(
            columns.offsets[:count],
            columns.timestamps_ms[:count],
            columns.timestamp_types[:count],
            columns.keys[:count],
            columns.values[:count],
            None if columns.headers is None else columns.headers[:count],
        )
        return Chunk(self.topic, self.partition, self.start, stop, kept)


def batch_of(
    topic: str,
    partition: int,
    offsets: pa.Array,
    timestamps_ms: pa.Array,
    timestamp_types: pa.Array,
    keys: pa.Array,
    values: pa.Array,
    headers: pa.Array,
) -> pa.RecordBatch:
    """A batch of :data:`RECORD_SCHEMA`: records of one partition."""
    size = len(offsets)
    arrays = [
        pa.repeat(pa.scalar(topic, pa.string()), size),
        pa.repeat(pa.scalar(partition, pa.int32()), size),
        offsets,
        timestamps_ms,
        timestamp_types,
        keys,
        values,
        headers,
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=RECORD_SCHEMA)


def rises_strictly(offsets: list[int]) -> bool:
    """Whether each offset is above the one before."""
    # Nearly every chunk is contiguous, and comparing two lists is one call.
    if not offsets or offsets == list(range(offsets[0], offsets[0] + len(offsets))):
        return True
    return all(map(lt, offsets, offsets[1:]))


def bytes_of(texts: list[bytes | None]) -> int:
    """Bytes of all of them together."""
    try:
        return sum(map(len, texts))  # type: ignore[arg-type] # nulls are rare, and looking for them costs as much again
    except TypeError:
        return sum(map(len, filter(None, texts)))


def _ends(column: pa.Array) -> memoryview:
    """Where the texts of a column begin, and where the last one ends."""
    return memoryview(column.buffers()[1]).cast("i")[column.offset : column.offset + len(column) + 1]


def _bytes_within(column: pa.Array) -> int:
    if not len(column):
        return 0
    ends = _ends(column)
    return int(ends[-1]) - int(ends[0])


def _integers(column: pa.Array) -> list[int]:
    return cast("list[int]", column.to_numpy().tolist())


def _texts(column: pa.Array) -> list[bytes | None]:
    # One copy of all, cut by the interpreter: a third of the time that pyarrow takes for its values.
    if column.null_count == len(column):
        return [None] * len(column)
    ends = _ends(column).tolist()
    data, first = column.buffers()[2], ends[0]
    whole = b"" if data is None else data.slice(first, ends[-1] - first).to_pybytes()
    if first:
        ends = [end - first for end in ends]
    texts: list[bytes | None] = [whole[start:end] for start, end in pairwise(ends)]
    if column.null_count:
        for row in pc.indices_nonzero(column.is_null()).to_pylist():
            texts[row] = None
    return texts


def _int64_array(numbers: list[int]) -> pa.Array:
    # The standard library reads a list of whole numbers in a third of the time that pyarrow takes.
    return pa.Array.from_buffers(pa.int64(), len(numbers), [None, pa.py_buffer(array("q", numbers))])


def _headers_array(headers: list[Headers] | None, size: int) -> pa.Array:
    if headers is None:
        zeros = pa.py_buffer(bytes((size + 1) * 4))  # the list's offsets, 32 bits each
        return pa.Array.from_buffers(HEADERS_TYPE, size, [None, zeros], children=[_NO_HEADERS])
    pairs = list(chain.from_iterable(headers))
    starts = list(accumulate(map(len, headers), initial=0))
    entries = pa.StructArray.from_arrays(
        [
            pa.array([name for name, _ in pairs], pa.string()),
            pa.array([value for _, value in pairs], pa.binary()),
        ],
        fields=list(HEADERS_TYPE.value_type),
    )
    return pa.ListArray.from_arrays(pa.array(starts, pa.int32()), entries, type=HEADERS_TYPE)


def _timestamp_types_array(types: list[int]) -> pa.Array:
    if types and types.count(types[0]) == len(types):  # a topic has one, unless its configuration changed
        return pa.repeat(pa.scalar(types[0], pa.int8()), len(types))
    return pa.array(types, pa.int8())


def check_range(position: int, stop: int, max_records: int) -> None:
    """
    Raises:
        ValueError: nobody can read ``max_records`` records of ``[position, stop)``.
    """
    if not 0 <= position < stop or max_records < 1:
        raise ValueError(f"need 0 <= position < stop and max_records >= 1, got {position}, {stop}, {max_records}")
