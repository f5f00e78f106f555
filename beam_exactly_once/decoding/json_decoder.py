"""``JsonDecoder``: records whose values are JSON to rows, or whole chunks of them to typed columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from beam_exactly_once.arguments import names
from beam_exactly_once.decoding.documents import documents_of, readable_documents
from beam_exactly_once.decoding.json_columns import columns_of_documents
from beam_exactly_once.errors import ConfigurationError, UnfitRow
from beam_exactly_once.logs import RECORD_SCHEMA, Record
from beam_exactly_once.rows.absent_columns import AbsentColumns
from beam_exactly_once.rows.columns import check_schema
from beam_exactly_once.rows.python_values import python_values


class JsonDecoder:
    """A decoder of JSON objects in UTF-8, for ``ReadFromKafka`` and ``DecodeRecords``::

        orders = pa.schema([("id", pa.int64()), ("amount", pa.decimal128(12, 2)), ("at", pa.timestamp("us", "UTC"))])
        stream | ReadFromKafka(…, decoder=JsonDecoder(orders), as_arrow=True) | WriteToFiles("s3://lake/orders")

    With ``as_arrow=True`` it makes a ``pa.RecordBatch`` of each batch of records, several times faster than rows; else a dict
    of each record, with the same values in it. Every sink takes both.

    Guarantee: a value is in its column exactly as the text has it, or its record is refused. Nothing becomes null that is not
    null or missing, nothing is rounded but by floating numbers, and nothing is a number, a date or a boolean that another
    kind of value only looks like. A key twice in an object, NaN, infinities and half a character are refused, too.

    Args:
        schema: columns and types. Keys that it does not name are left out. A missing key is null, and refused if its column is
            not nullable; one that no record of a batch has, while they have others, is taken for misspelt, unless its field
            has the metadata ``may_be_absent``. None: rows with all that is there, as JSON has it.
        record_columns: of the record itself, such as ``["key", "offset"]``, added behind those of the value.

    Raises:
        ConfigurationError: an argument is not possible.

    Raises (while running):
        UnfitRow: a record is not such, also one without a value.
        ConfigurationError: ``as_arrow=True`` without a schema.
    """

    def __init__(self, schema: pa.Schema | None = None, *, record_columns: Sequence[str] = ()) -> None:
        self._record_columns = names("record_columns", record_columns)
        unknown = [name for name in self._record_columns if name not in Record._fields]
        if unknown:
            raise ConfigurationError(
                f"record_columns= of JsonDecoder names {unknown[0]!r}, which no record has: {', '.join(Record._fields)}."
            )
        if schema is not None:
            check_schema(schema)
            twice = [name for name in self._record_columns if name in schema.names]
            if twice:
                raise ConfigurationError(
                    f"record_columns= of JsonDecoder and its schema both have the column {twice[0]!r}. Leave one of them out."
                )
        self._schema: pa.Schema | None = schema
        self._absent = AbsentColumns(schema)

    @property
    def schema(self) -> pa.Schema | None:
        """Of the batches that it makes; None without a schema."""
        if self._schema is None:
            return None
        return pa.schema([*self._schema, *(RECORD_SCHEMA.field(name) for name in self._record_columns)])

    def __call__(self, record: Any) -> Any:
        """A row of a record, or a batch of rows of a batch of records."""
        return self._batch_of(record) if isinstance(record, pa.RecordBatch) else self._row_of(record)

    def _row_of(self, record: Record) -> dict[str, Any]:
        (document,) = documents_of([record.value])
        row = document if self._schema is None else self._typed(record, document, self._schema)
        twice = [name for name in self._record_columns if name in row]
        if twice:
            raise UnfitRow(f"its value has the key {twice[0]!r}, which record_columns= of JsonDecoder would add")
        row.update((name, getattr(record, name)) for name in self._record_columns)
        return row

    def _typed(self, record: Record, document: dict[str, Any], schema: pa.Schema) -> dict[str, Any]:
        """The columns of a schema that a record has: what it has not stays missing, so that a sink can see that it is."""
        assert record.value is not None  # it was decoded
        arrays = columns_of_documents([record.value], [document], schema)
        named = zip(schema.names, arrays, strict=True)
        return {name: python_values(array, name)[0] for name, array in named if name in document}

    def _batch_of(self, records: pa.RecordBatch) -> pa.RecordBatch:
        if self._schema is None:
            raise ConfigurationError(
                'as_arrow=True needs the columns that JsonDecoder makes: JsonDecoder(pyarrow.schema([("name", '
                "pyarrow.string()), …]))."
            )
        texts = _column(records, "value").cast(pa.binary()).to_pylist()
        arrays = self._arrays(texts, self._schema) if texts else [pa.array([], field.type) for field in self._schema]
        arrays = [*arrays, *(_column(records, name) for name in self._record_columns)]
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)

    def _arrays(self, texts: list[bytes | None], schema: pa.Schema) -> list[pa.Array]:
        try:
            documents = documents_of(texts)
        except UnfitRow:
            # What the others have is known before the batch is decoded in parts.
            self._absent.look(readable_documents(texts))
            raise
        self._absent.look(documents)
        try:
            self._absent.refuse()
        except UnfitRow:
            self._absent = AbsentColumns(schema)
            raise
        return columns_of_documents(texts, documents, schema)  # type: ignore[arg-type] # a text that is None was refused


def _column(records: pa.RecordBatch, name: str) -> pa.Array:
    try:
        return records.column(name)
    except KeyError:
        raise ConfigurationError(
            f"JsonDecoder got an Arrow batch without exactly one column {name!r}; it decodes batches of records, as "
            f"ReadFromKafka(as_arrow=True) gives them. Those have {', '.join(Record._fields)}."
        ) from None
