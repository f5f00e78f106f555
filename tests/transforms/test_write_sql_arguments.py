"""What ``WriteToSql`` takes, and refuses where the pipeline is written; no database is asked."""

from __future__ import annotations

import pickle
import sys
from typing import Any

import pytest

from beam_exactly_once import ExactlyOnceStream, ReadFromKafka, WriteToSql, secret_from_env
from beam_exactly_once.errors import ConfigurationError

CANARY = "canary-7f3a9c"
URL = "sqlite:////tmp/orders.db"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"table": ""}, "name of a table"),
        ({"table": "a.b.c"}, "name of a table"),
        ({"table": 'sales."orders'}, "name of a table"),
        ({"mode": "replace"}, "mode='replace' is not known; use 'append' or 'upsert'"),
        ({"mode": "upsert"}, "key_columns="),
        ({"key_columns": ["id"]}, 'for mode="upsert"'),
        ({"newest_by": "id"}, 'for mode="upsert"'),
        ({"mode": "upsert", "key_columns": ["id"], "columns": ["name"]}, "'id'"),
        ({"mode": "upsert", "key_columns": "id"}, r"key_columns='id' must be a list of columns: key_columns=\['id'\]"),
        ({"columns": ["id", "id"]}, "names one of its columns twice"),
        ({"mode": "upsert", "key_columns": ["id"], "newest_by": ["at"]}, "name of one column"),
        ({"direct": "yes"}, "direct='yes' must be True or False"),
        ({"name": "a/b"}, "name='a/b' cannot name"),
        ({"receipts_table": "a.b.c"}, "receipts_table='a.b.c' of WriteToSql must be the name of a table"),
        ({"shards": 0}, "from 1 to 64"),
        ({"url": "orders.db"}, "not an SQLAlchemy URL"),
        ({"url": "oracle://host/x"}, "does not know the database 'oracle'"),
        ({"url": "sqlite://"}, "needs a file"),
        ({"url": f"postgresql://me:{CANARY}@host/orders"}, "has a password or another secret in it"),
        *(
            ({"url": f"{scheme}://host/orders?{key}={CANARY}"}, "has a password or another secret in it")
            for scheme, key in [
                ("postgresql", "password"),
                ("postgresql", "sslpassword"),
                ("postgresql", "scram_client_key"),
                ("postgresql", "oauth_client_secret"),
                ("mysql", "passwd"),
                ("mysql", "PassWord"),
                ("mariadb", "ssl_key_password"),
            ]
        ),
        ({"url": f"postgresql://me:{CANARY}@host:port/orders"}, "not an SQLAlchemy URL"),
    ],
)
def test_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as refused:
        WriteToSql(**{"url": URL, "table": "orders", **options})
    assert CANARY not in str(refused.value)


def test_a_url_that_is_a_secret_is_not_in_the_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORDERS_URL", f"postgresql://me:{CANARY}@localhost/orders")
    stream = ExactlyOnceStream("memory://sql-secret/checkpoint")
    _ = stream | ReadFromKafka("localhost:9092", ["orders"]) | WriteToSql(secret_from_env("ORDERS_URL"), "orders")
    sink = stream.stream_graph.sinks["sql"]
    travels = pickle.dumps(sink.publisher)
    assert b"ORDERS_URL" in travels
    assert CANARY.encode() not in travels
    assert sink.definition == {"kind": "sql", "table": "orders"}


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = [name for name in sys.modules if name.partition(".")[0] == "sqlalchemy" or ".sql.database" in name]
    for module in loaded:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'beam_exactly_once\[sql\]'"):
        WriteToSql(URL, "orders")
