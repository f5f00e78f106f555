"""One section as a file of this machine: uncompressed, so that it can be mapped and used where it lies. Pure.

The file ends with a trailer, which is written last: how long the rest is, its checksum, and which section it is.
"""

from __future__ import annotations

import io
import struct
from typing import Any, BinaryIO

import pyarrow as pa
import xxhash
from pyarrow import ipc

from beam_exactly_once.state.run import Run
from beam_exactly_once.state.section import batch_of, run_in
from beam_exactly_once.state.state_list import Section

ENCODING = 1
"""Files of another encoding have other names."""

_TRAILER = struct.Struct("<Q16s16s8s")
_MAGIC = b"BEO-ST%02d" % ENCODING


def file_name(ref: Section) -> str:
    """The file of a section, wherever the section lies."""
    return f"{ref.digest}-{ENCODING}.arrow"


def write_file(file: BinaryIO, ref: Section, run: Run) -> None:
    """Write the whole file."""
    batch = batch_of(run)
    digesting = _Digesting(file)
    with ipc.new_file(pa.PythonFile(digesting, "w"), batch.schema) as writer:
        writer.write_batch(batch)
    file.write(_TRAILER.pack(digesting.size_bytes, digesting.digest(), bytes.fromhex(ref.digest), _MAGIC))


def run_of_file(content: pa.Buffer, ref: Section, *, whole: bool) -> Run:
    """The run in a file, without a copy.

    Args:
        content: the file.
        ref: the section that it should be.
        whole: look at every byte; else at both ends alone, since the rest may not be in memory yet.

    Raises:
        ValueError: it is damaged, or another one.
    """
    if content.size < _TRAILER.size:
        raise ValueError("it is cut")
    body = content.slice(0, content.size - _TRAILER.size)
    size_bytes, digest, section, magic = _TRAILER.unpack(content.slice(body.size).to_pybytes())
    if (size_bytes, section, magic) != (body.size, bytes.fromhex(ref.digest), _MAGIC):
        raise ValueError("its end is another one's")
    if whole and digest != xxhash.xxh3_128_digest(body):
        raise ValueError("its checksum is wrong")
    try:
        batch = ipc.open_file(pa.BufferReader(body)).get_batch(0)
        batch.validate()
    except (pa.ArrowException, OSError, IndexError) as error:
        raise ValueError(str(error)) from None
    run = run_in(batch)
    if len(run) != ref.rows or (len(run) and run.hashes[0] > run.hashes[-1]):
        raise ValueError("its rows are others")
    return run


class _Digesting(io.RawIOBase):
    """Hands on what is written, and digests it."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self.size_bytes = 0
        self._file = file
        self._state = xxhash.xxh3_128()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._state.update(data)
        self._file.write(data)
        self.size_bytes += len(data)
        return len(data)

    def tell(self) -> int:
        return self.size_bytes

    def digest(self) -> bytes:
        return self._state.digest()
