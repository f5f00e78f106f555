"""Addresses of networks, as PostgreSQL has them."""

from __future__ import annotations

import ipaddress
import re
from typing import Any

import pyarrow as pa
from sqlalchemy.dialects import postgresql

from beam_exactly_once.sinks.sql.types.column import ColumnType, Maker, Misfit, same

_ADDRESS = re.compile(r"[0-9a-fA-F:.]+(/[0-9]{1,3})?")
_MAC_ADDRESS = re.compile(
    r"[0-9a-f]{2}([:-])[0-9a-f]{2}(\1[0-9a-f]{2}){4}"
    r"|[0-9a-f]{4}([.-])[0-9a-f]{4}\3[0-9a-f]{4}"
    r"|[0-9a-f]{6}[:-]?[0-9a-f]{6}",
    re.IGNORECASE,
)


def _address(value: Any) -> str:
    """Of INET, with or without the number of its network's bits. One address has one text."""
    text = str(value)
    if not _ADDRESS.fullmatch(text):  # ipaddress knows netmasks and scopes, PostgreSQL does not
        raise Misfit("it is not an address")
    return str(ipaddress.ip_interface(text))


def _network(value: Any) -> str:
    """Of CIDR: no bits are set right of the network's."""
    return str(ipaddress.ip_network(_address(value)))


def _mac_address(value: Any) -> str:
    text = str(value)
    if not _MAC_ADDRESS.fullmatch(text):
        raise Misfit("it is not a MAC address")
    return re.sub("[:.-]", "", text).lower()


MAKERS: dict[type, Maker] = {
    postgresql.INET: same(ColumnType(pa.string(), frozenset(), _address)),
    postgresql.CIDR: same(ColumnType(pa.string(), frozenset(), _network)),
    postgresql.MACADDR: same(ColumnType(pa.string(), frozenset(), _mac_address)),
}
