"""Every name in a checkpoint location. Nothing else spells one.

Numbers are padded to 20 digits, so that the store's lexical order is their order.
"""

from __future__ import annotations

import re

from beam_exactly_once.errors import ConfigurationError, CorruptObject

METADATA = "metadata.json"
WRITERS = "writers/"
OFFSETS = "offsets/"
COMMITS = "commits/"
PUBLISHED = "published/"
SOURCES = "sources/"
SINKS = "sinks/"
SPILLED = "staging/committables/"
ROWS = "staging/rows/"
STATE = "state/"
OPERATORS = "operators/"
REJECTING = "rejecting/"
REJECTED = "rejected/"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_ROWS = re.compile(r"(\d{20})-[0-9a-zA-Z]+-[0-9a-f]{16}-\d{5,}\.arrow")
_STATE = re.compile(r"(\d{20})-[0-9a-zA-Z]+-[0-9a-f]{16}\.arrow")
_OPERATOR = re.compile(r"operators/([A-Za-z0-9._-]+)/(\d{5})/((?:definition|dropped|state_types/\d{3})\.json)")
_NUMBERED = re.compile(r"(\d{20})\.json")


def writer_key(writer_epoch: int) -> str:
    """Who claimed this epoch."""
    return f"{WRITERS}{writer_epoch:020d}.json"


def offsets_key(batch_id: int) -> str:
    """The planned offsets of a batch."""
    return f"{OFFSETS}{batch_id:020d}.json"


def commits_key(batch_id: int) -> str:
    """The commit marker of a batch."""
    return f"{COMMITS}{batch_id:020d}.json"


def published_key(batch_id: int) -> str:
    """A batch that is known to be published, written where a driver ends."""
    return f"{PUBLISHED}{batch_id:020d}.json"


def definition_key(prefix: str, name: str) -> str:
    """What the source or sink ``name`` is; ``prefix`` is :data:`SOURCES` or :data:`SINKS`."""
    return f"{prefix}{checked_name(name)}/definition.json"


def operator_key(name: str, generation: int) -> str:
    """What the operator ``name`` is; an operator that was dropped and comes again is another generation."""
    return f"{OPERATORS}{checked_name(name)}/{generation:05d}/definition.json"


def state_type_key(name: str, generation: int, version: int) -> str:
    """How version ``version`` of the code stores the states of an operator."""
    return f"{OPERATORS}{checked_name(name)}/{generation:05d}/state_types/{version:03d}.json"


def dropped_key(name: str, generation: int) -> str:
    """Says that a generation of an operator was dropped on purpose."""
    return f"{OPERATORS}{checked_name(name)}/{generation:05d}/dropped.json"


def operator_record(key: str) -> tuple[str, int, str] | None:
    """Name and generation of the operator that an object below :data:`OPERATORS` is of, and the rest of its key."""
    match = _OPERATOR.fullmatch(key)
    return None if match is None else (match[1], int(match[2]), match[3])


def spilled_key(batch_id: int, nonce: str) -> str:
    """A list of committables too long for its marker."""
    return f"{SPILLED}{batch_id:020d}-{nonce}.json"


def rows_prefix(sink: str) -> str:
    """Where the staged rows of ``sink`` are."""
    return f"{ROWS}{checked_name(sink)}/"


def rows_key(sink: str, batch_id: int, nonce: str, token: str, number: int) -> str:
    """Rows that one execution of a bundle staged: the attempt's nonce, the execution's token, a number."""
    return f"{rows_prefix(sink)}{batch_id:020d}-{nonce}-{token}-{number:05d}.arrow"


def rows_batch_id(key: str) -> int | None:
    """The batch that staged rows are of; None for a name that :func:`rows_key` did not make."""
    match = _ROWS.fullmatch(key.rpartition("/")[2])
    return None if match is None else int(match[1])


def state_prefix(operator: str) -> str:
    """Where the state of ``operator`` is."""
    return f"{STATE}{checked_name(operator)}/"


def state_key(operator: str, batch_id: int, nonce: str, token: str) -> str:
    """The state object of one execution of a bundle: the attempt's nonce, the execution's token."""
    return f"{state_prefix(operator)}{batch_id:020d}-{nonce}-{token}.arrow"


def state_batch_id(key: str) -> int | None:
    """The batch that a state object is of; None for a name that :func:`state_key` did not make."""
    match = _STATE.fullmatch(key.rpartition("/")[2])
    return None if match is None else int(match[1])


def rejecting_key(batch_id: int) -> str:
    """Says that the rows of a committed batch that a sink's system refuses are to be rejected."""
    return f"{REJECTING}{batch_id:020d}.json"


def rejected_key(sink: str, batch_id: int, shard: int, number: int) -> str:
    """Rows of a shard of a committed batch that were rejected, the first of them being 0."""
    return f"{REJECTED}{checked_name(sink)}/{batch_id:020d}-{shard:05d}-{number:05d}.json"


def number_in(key: str) -> int:
    """The number in the name of a numbered object.

    Raises:
        CorruptObject: the name is not one that this library writes.
    """
    match = _NUMBERED.fullmatch(key.rpartition("/")[2])
    if match is None:
        raise CorruptObject(
            f"{key} is not an object of a checkpoint. Nothing but this library may write below a checkpoint "
            "location: move the object away, then start again."
        )
    return int(match[1])


def checked_name(name: str, argument: str = "name") -> str:
    """``name``, if it is safe as a part of a key.

    Raises:
        ConfigurationError: it is not.
    """
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise ConfigurationError(
            f"{argument}={name!r} cannot name a source, sink or step: use 1 to 100 letters, digits, '.', '_' or '-', "
            "beginning with a letter or digit."
        )
    return name
