"""JSON texts as objects, and nothing that JSON leaves open: no key twice, no NaN, no half characters. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import orjson

from beam_exactly_once.errors import UnfitRow

_COLON, _QUOTE, _SPACE = b':" '


def documents_of(texts: Sequence[bytes | None]) -> list[dict[str, Any]]:
    """One object a text.

    Whole numbers beyond 64 bits are floating numbers, as orjson reads them.

    Raises:
        UnfitRow: a text is none, or no JSON in UTF-8, or no object, or an object in it has a key twice.
    """
    try:
        documents = list(map(orjson.loads, texts))  # type: ignore[arg-type] # None is no text to it
    except orjson.JSONDecodeError:
        documents = list(map(_document, texts))
    if set(map(type, documents)) - {dict}:
        raise UnfitRow("its value is JSON, but no object: {…}")
    if documents and _may_have_keys_twice(texts, documents):  # type: ignore[arg-type] # a None was refused
        for text in texts:
            json.loads(text, object_pairs_hook=_once)  # type: ignore[arg-type]
    return documents


def readable_documents(texts: Sequence[bytes | None]) -> list[dict[str, Any]]:
    """The objects of all texts that are such."""
    documents = []
    for text in texts:
        try:
            documents += documents_of([text])
        except UnfitRow:
            continue
    return documents


def with_all_digits(text: bytes) -> Any:
    """A document of :func:`documents_of`, with decimals for floating numbers, and whole numbers of any length."""
    return json.loads(text, parse_float=Decimal)


def _document(text: bytes | None) -> Any:
    if text is None:
        raise UnfitRow("it has no value: a tombstone")
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise UnfitRow(f"its value is no JSON: {error.msg} at character {error.pos}") from None


def _may_have_keys_twice(texts: Sequence[bytes], documents: Sequence[Any]) -> bool:
    """False if as many pairs are in the documents as the texts can say: one for each colon behind a quote."""
    letters = np.frombuffer(b"".join(texts), np.uint8)
    before = letters[np.flatnonzero(letters == _COLON) - 1]
    if (before <= _SPACE).any():
        return True
    said = np.count_nonzero(before == _QUOTE)
    return bool(said != sum(map(len, documents)) and said != sum(map(_pairs, documents)))


def _pairs(value: Any) -> int:
    if type(value) is dict:
        return len(value) + sum(map(_pairs, value.values()))
    return sum(map(_pairs, value)) if type(value) is list else 0


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise UnfitRow("its value is JSON in which an object has a key twice")
    return found
