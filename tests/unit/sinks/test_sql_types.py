"""Which values a column of a database takes, as it is known without one; ``tests/services/sinks/test_real_sql.py`` asks them."""

from __future__ import annotations

import json
import struct
import uuid
from dataclasses import dataclass
from datetime import datetime, time, timezone
from decimal import Decimal
from enum import Enum
from typing import Any, cast

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql

from beam_exactly_once.errors import UnfitRow
from beam_exactly_once.sinks.sql.character_sets import of_mysql, of_postgresql
from beam_exactly_once.sinks.sql.table import Column, SqlTable
from beam_exactly_once.sinks.sql.types import Characters, column_type
from beam_exactly_once.sinks.sql.types.json import MariadbJson

LATE = datetime(2024, 2, 29, 23, 59, 59, 999600)
DAYTIMES = postgresql.DOMAIN("daytimes", postgresql.ARRAY(postgresql.TIME(precision=1)))


@dataclass
class Hidden:
    _id: Any


class Kind(Enum):
    ONE = 1
    NAN = float("nan")


def nested(depth: int) -> Any:
    return [] if depth == 1 else [nested(depth - 1)]


FITTING: list[tuple[str, Any, Any]] = [
    ("mysql", mysql.JSON(), nested(100)),
    ("mysql", MariadbJson(), {"[": nested(30)}),
    ("mysql", MariadbJson(), '{"a": "[[\\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[", "b": 1e400}'),
    ("postgresql", postgresql.JSONB(), {"a": "\\u0000"}),
    ("postgresql", postgresql.JSONB(), {"\\": Decimal("0.10")}),
    ("postgresql", postgresql.INET(), "10.0.0.1/8"),
    ("postgresql", postgresql.MACADDR(), "08002B:010203"),
    ("postgresql", sa.Numeric(2, 5), "0.000990"),
    ("postgresql", sa.Numeric(5, -2), "9999900.0"),
    ("postgresql", sa.Numeric(100, 2), "0.00"),
    ("postgresql", sa.REAL(), float("-inf")),
    ("mysql", mysql.MEDIUMINT(), -(2**23)),
    ("mysql", mysql.FLOAT(precision=5, scale=2), -999.99),
    ("mysql", mysql.FLOAT(precision=5, scale=2), struct.unpack("<f", struct.pack("<f", 1.23))[0]),
    ("mysql", mysql.FLOAT(precision=9, scale=2), 1234567.875),
    ("mysql", mysql.FLOAT(), -1e-40),
    ("mysql", mysql.FLOAT(), 0),
    ("mysql", mysql.DOUBLE(precision=10, scale=2), 1.23),
    ("mysql", mysql.DOUBLE(precision=10, scale=2), Decimal("-99999999.99")),
    ("mysql", mysql.DOUBLE(precision=10, scale=0), 7),
    ("mysql", mysql.DOUBLE(), 1e-300),
    ("mysql", mysql.SET("a", "b"), ""),
    ("sqlite", sa.REAL(), 1e300),
    ("mysql", mysql.DATETIME(), datetime(2024, 2, 29, 23, 59, 59)),
    ("mysql", mysql.DATETIME(fsp=3), datetime(2024, 2, 29, 23, 59, 59, 999000)),
    ("postgresql", postgresql.TIME(timezone=True), "01:02:03+05:00"),
    ("postgresql", postgresql.TIME(timezone=True, precision=3), time(1, 2, 3, 4000, tzinfo=timezone.utc)),
    ("mysql", mysql.TIME(fsp=6), time(23, 59, 59, 999999)),
    ("postgresql", postgresql.TIMESTAMP(timezone=True), "9999-12-31T23:59:59-00:00"),
    ("postgresql", postgresql.TIMESTAMP(), LATE),
    ("sqlite", sa.DateTime(), LATE),
    ("postgresql", sa.Date(), datetime(2024, 2, 29)),
    ("postgresql", postgresql.JSONB(), {"a": None, "b": 1.5}),
    ("postgresql", sa.Numeric(5, -2), "1234500"),
    ("postgresql", sa.Numeric(5, -2), 0),
    ("postgresql", sa.Numeric(2, 5), Decimal("0.00099")),
    ("postgresql", sa.Numeric(100, 50), "1." + "0" * 49 + "1"),
    ("sqlite", sa.Numeric(30, 10), Decimal("12345.5")),
    ("postgresql", sa.REAL(), 2**24),
    ("postgresql", sa.REAL(), Decimal("0.1")),
    ("postgresql", sa.Double(), Decimal("0.1")),
    ("sqlite", sa.Numeric(30, 10), 2**63 - 1),
    ("sqlite", sa.Numeric(), "0.1"),
    ("postgresql", sa.CHAR(3), " a"),
    ("postgresql", postgresql.JSONB(), {"a": Hidden(1)}),
    ("mysql", sa.BINARY(3), b"a\0b"),
    ("postgresql", postgresql.ARRAY(postgresql.TIMESTAMP(precision=0)), [LATE.replace(microsecond=0), None]),
    ("postgresql", postgresql.ARRAY(postgresql.TIMESTAMP(timezone=True)), []),
    ("postgresql", postgresql.ARRAY(DAYTIMES), [["23:59:59.6"], None, []]),
    ("postgresql", postgresql.ARRAY(postgresql.DOMAIN("d", sa.Integer())), [None]),
]
MISFITTING: list[tuple[str, Any, Any]] = [
    ("postgresql", postgresql.JSONB(), {"a": "\\\0"}),
    ("postgresql", postgresql.JSONB(), {"a": Decimal("NaN")}),
    ("postgresql", postgresql.INET(), "10.0.0.1/33"),
    ("postgresql", postgresql.CIDR(), "10.0.0.1/8"),
    ("postgresql", postgresql.MACADDR(), "08:00:2b-01-02-03"),
    ("postgresql", sa.Numeric(), "1e131072"),
    ("postgresql", sa.Numeric(2, 5), "0.00100"),
    ("postgresql", sa.Numeric(2, 5), "0.000001"),
    ("postgresql", sa.Numeric(5, -2), "150"),
    ("postgresql", sa.Numeric(5, -2), "1e7"),
    ("postgresql", sa.Numeric(100, 2), Decimal("0.001")),
    ("postgresql", sa.Numeric(100, 2), "1e98"),
    ("postgresql", sa.REAL(), 1e39),
    ("postgresql", sa.REAL(), -1e-60),
    ("mysql", mysql.MEDIUMINT(), 2**23),
    ("mysql", mysql.MEDIUMINT(unsigned=True), -1),
    ("mysql", mysql.FLOAT(), 3.4028235e38),
    ("mysql", mysql.FLOAT(precision=5, scale=2), -999.996),
    ("mysql", mysql.FLOAT(precision=5, scale=2), -999.994),
    ("mysql", mysql.FLOAT(precision=10, scale=2), 1.239),
    ("mysql", mysql.FLOAT(precision=10, scale=2), 1e-30),
    ("mysql", mysql.FLOAT(), 1e-60),
    ("mysql", mysql.FLOAT(unsigned=True), Decimal("1e-60")),
    ("mysql", mysql.DOUBLE(precision=10, scale=2), 1.239),
    ("mysql", mysql.DOUBLE(precision=10, scale=2), Decimal("1.239")),
    ("mysql", mysql.DOUBLE(precision=10, scale=2), 1e-300),
    ("mysql", mysql.DOUBLE(precision=10, scale=0), 1.5),
    ("mysql", mysql.DOUBLE(precision=10, scale=2), 1e8),
    ("mysql", mysql.DECIMAL(5, 2, unsigned=True), Decimal("-0.01")),
    ("mysql", mysql.SET("a", "b"), "a,c"),
    ("mysql", mysql.DATETIME(), LATE),
    ("mysql", mysql.DATETIME(fsp=3), LATE),
    ("mysql", mysql.TIMESTAMP(), LATE),
    ("mysql", mysql.TIME(), time(23, 59, 59, 999999)),
    ("postgresql", postgresql.TIMESTAMP(precision=0), LATE),
    ("postgresql", postgresql.TIMESTAMP(timezone=True, precision=3), LATE.replace(tzinfo=timezone.utc)),
    ("postgresql", postgresql.TIME(precision=0), "23:59:59.6"),
    ("postgresql", postgresql.TIME(timezone=True), "01:02:03"),
    ("postgresql", postgresql.TIME(timezone=True), "01:02:03+16:00"),
    ("postgresql", postgresql.TIME(timezone=True, precision=3), time(1, 2, 3, 4, tzinfo=timezone.utc)),
    ("postgresql", postgresql.TIME(), "01:02:03+05:00"),
    ("postgresql", postgresql.TIMESTAMP(timezone=True), "9999-12-31T23:59:59-05:00"),
    ("postgresql", postgresql.TIMESTAMP(), "0001-01-01T00:00:00+05:00"),
    ("mysql", mysql.DATETIME(fsp=6), "9999-12-31T23:59:59-05:00"),
    ("sqlite", sa.DateTime(), "9999-12-31T23:59:59-05:00"),
    ("postgresql", sa.Date(), LATE),
    ("postgresql", postgresql.JSONB(), {"a": [float("nan")]}),
    ("mysql", mysql.JSON(), {"a": 1e400}),
    ("postgresql", sa.Numeric(5, -2), "1234501"),
    ("postgresql", sa.Numeric(5, -2), "12345678900"),
    ("postgresql", sa.Numeric(2, 5), Decimal("0.001")),
    ("postgresql", sa.Numeric(2, 5), Decimal("0.000991")),
    ("postgresql", sa.Numeric(100, 50), "0." + "0" * 50 + "1"),
    ("postgresql", sa.Numeric(30, 10), Decimal("1e-49")),
    ("sqlite", sa.Numeric(30, 10), Decimal("12345678901234567.5")),
    ("sqlite", sa.Numeric(30, 10), 2**63 + 1),
    ("sqlite", sa.Numeric(), "0.12345678901234567890"),
    ("postgresql", sa.REAL(), 2**24 + 1),
    ("mysql", mysql.FLOAT(), 2**24 + 1),
    ("postgresql", sa.Double(), Decimal("0.12345678901234567890")),
    ("postgresql", sa.CHAR(3), "a "),
    ("mysql", mysql.CHAR(3), "a "),
    ("mysql", sa.BINARY(3), b"a"),
    ("postgresql", postgresql.ARRAY(postgresql.TIMESTAMP(precision=0)), [None, LATE]),
    ("postgresql", postgresql.ARRAY(postgresql.TIME(precision=0)), ["23:59:59", "23:59:59.6"]),
    ("postgresql", postgresql.ARRAY(postgresql.TIME(timezone=True, precision=0)), ["23:59:59.6+00:00"]),
    ("postgresql", postgresql.ARRAY(postgresql.TIMESTAMP(timezone=True)), ["9999-12-31T23:59:59-05:00"]),
    ("postgresql", postgresql.ARRAY(DAYTIMES), [["23:59:59.6"], ["23:59:59.67"]]),
    ("postgresql", postgresql.DOMAIN("l", postgresql.ARRAY(postgresql.TIMESTAMP(precision=3))), [LATE]),
    ("postgresql", postgresql.ARRAY(postgresql.DOMAIN("d", sa.Integer(), not_null=True)), [1, None]),
    ("postgresql", postgresql.ARRAY(sa.Numeric(5, 2)), [Decimal("1.239")]),
    ("postgresql", postgresql.ARRAY(sa.REAL()), [1e-60]),
    ("postgresql", postgresql.ARRAY(sa.Date()), [LATE]),
    ("postgresql", postgresql.JSONB(), {"a": Kind.NAN}),
    ("postgresql", sa.JSON(), {"a": Hidden(float("inf"))}),
    ("mysql", mysql.JSON(), {"a": {Kind.ONE: 1}}),
    ("mysql", mysql.JSON(), nested(101)),
    ("mysql", MariadbJson(), nested(32)),
    ("mysql", MariadbJson(), json.dumps({"a": nested(31)})),
    ("mysql", MariadbJson(), "hello"),
    ("mysql", MariadbJson(), ""),
    ("mysql", MariadbJson(), "NaN"),
    ("mysql", MariadbJson(), '["\\ud800"]'),
    ("mysql", MariadbJson(), float("nan")),
]


def staged(dialect: str, declared: Any, value: Any, characters: Characters | None = None) -> Any:
    known = column_type(declared, dialect, characters)
    assert known is not None
    table = SqlTable("orders", (Column("c", repr(declared), known, False, False),), True)
    return table.block_of_rows([{"c": value}]).column("c").to_pylist()[0]


@pytest.mark.parametrize(("dialect", "declared", "value"), FITTING)
def test_what_fits(dialect: str, declared: Any, value: Any) -> None:
    assert staged(dialect, declared, value) is not None


@pytest.mark.parametrize("declared", [sa.JSON(), postgresql.JSONB()], ids=repr)
def test_all_fields_of_a_dataclass_are_in_json(declared: Any) -> None:
    value = {"a": [Hidden(Decimal("0.10")), Hidden(Hidden(Kind.ONE))]}
    assert staged("postgresql", declared, value) == '{"a":[{"_id":0.10},{"_id":{"_id":1}}]}'


@pytest.mark.parametrize(("dialect", "declared", "value"), MISFITTING)
def test_what_does_not_fit(dialect: str, declared: Any, value: Any) -> None:
    with pytest.raises(UnfitRow, match="column 'c' is"):
        staged(dialect, declared, value)


class OfMysql:
    """Stands for a server whose koi8r has one letter besides those of ASCII."""

    def scalar(self, statement: Any, parameters: dict[str, str]) -> str:
        assert "USING koi8r)" in str(statement)
        return "".join(one if one.isascii() or one == "\u0416" else "?" for one in parameters["all"])


@pytest.mark.parametrize(
    ("declared", "value", "also"),
    [
        (postgresql.INET(), "10.0.0.1", "10.0.0.1/32"),
        (postgresql.INET(), "2001:db8::1", "2001:DB8:0::1"),
        (postgresql.CIDR(), "10.0.0.0/8", "10.0.0.0/8"),
        (postgresql.MACADDR(), "08:00:2b:01:02:03", "0800.2B01.0203"),
        (postgresql.UUID(as_uuid=False), str(uuid.UUID(int=10)), str(uuid.UUID(int=10)).upper()),
    ],
    ids=repr,
)
def test_what_is_one_value_to_the_database_is_one_key_here(declared: Any, value: str, also: str) -> None:
    assert staged("postgresql", declared, value) == staged("postgresql", declared, also)


@pytest.mark.parametrize("declared", [sa.String(), postgresql.DOMAIN("names", sa.String())], ids=repr)
def test_types_that_cut_are_not_known(declared: Any) -> None:
    """NAME and "char" of PostgreSQL, as SQLAlchemy finds them."""
    assert column_type(declared, "postgresql") is None


@pytest.mark.parametrize(
    ("charset", "fitting", "misfitting"),
    [
        ("utf8mb4", "\U0001f600", None),
        ("utf8mb3", "\uffff", "\U0001f600"),
        ("koi8r", "\u0416\0a", "\xfc"),
        ("koi8r", "a", "\U0001f600"),
    ],
)
def test_what_a_character_set_of_mysql_has(charset: str, fitting: str, misfitting: str | None) -> None:
    characters = of_mysql(cast("sa.Connection", OfMysql()), charset)
    assert staged("mysql", sa.String(20), fitting, characters) == fitting
    if misfitting is not None:
        with pytest.raises(UnfitRow, match=f"characters that {charset} does not have"):
            staged("mysql", sa.String(20), f"a{misfitting}", characters)


@pytest.mark.parametrize(
    ("encoding", "fitting", "misfitting"),
    [
        ("UTF8", "\U0001f600", None),
        ("SQL_ASCII", "\U0001f600", None),
        ("LATIN2", "\u0159", "\u0416"),
        ("WIN1253", "\u03a9", "\u0159"),
        ("KOI8R", "\u0416", "\xfc"),
        ("EUC_JP", "\u3042", "\u0e01"),
        ("EUC_TW", "\u0416", None),  # Python does not know it: the database's to judge
    ],
)
@pytest.mark.parametrize("declared", [sa.VARCHAR(20), postgresql.JSONB(), postgresql.ARRAY(sa.VARCHAR())], ids=repr)
def test_what_an_encoding_of_postgresql_has(declared: Any, encoding: str, fitting: str, misfitting: str | None) -> None:
    """Also within a list and within JSON."""
    characters = of_postgresql(encoding)
    shape = (lambda text: [text]) if not isinstance(declared, sa.String) else str
    assert fitting in str(staged("postgresql", declared, shape(fitting), characters))
    if misfitting is not None:
        with pytest.raises(UnfitRow, match=f"characters that {encoding} does not have"):
            staged("postgresql", declared, shape(f"a{misfitting}"), characters)
