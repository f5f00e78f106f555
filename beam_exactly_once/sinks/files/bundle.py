"""The files that one execution of one bundle stages: one a folder, open in bounded number, with bounded memory."""

from __future__ import annotations

import logging

from beam_exactly_once.checkpoint import Attempt
from beam_exactly_once.checkpoint.records import Json
from beam_exactly_once.object_store import ObjectStore, StagingWriter
from beam_exactly_once.randomness import new_token
from beam_exactly_once.rows.block import Block, block_bytes, block_rows
from beam_exactly_once.sinks.files.block_file import BlockFile
from beam_exactly_once.sinks.files.layout import MAX_GATHERED_BYTES, FileLayout
from beam_exactly_once.sinks.files.manifest import part_name

BLOCK_OVERHEAD_BYTES = 2048
"""What a block of a few rows takes besides their bytes: many small ones must not pass for nothing."""

_log = logging.getLogger(__name__)


class BundleFiles:
    """Gathers blocks for each folder, and writes them when there are enough for one file, or for the memory."""

    def __init__(self, store: ObjectStore, layout: FileLayout, attempt: Attempt) -> None:
        self.attempt = attempt
        self._store = store
        self._layout = layout
        self._token = new_token()
        self._waiting: dict[str, _Waiting] = {}
        self._waiting_bytes = 0
        self._open: dict[str, _OpenFile] = {}  # the least recently written first
        self._opened = 0
        self._committables: list[Json] = []

    def write(self, folder: str, block: Block) -> None:
        """Take rows of one folder; ``""`` is the output itself."""
        waiting = self._waiting.setdefault(folder, _Waiting())
        waiting.add(block)
        self._waiting_bytes += block_bytes(block) + BLOCK_OVERHEAD_BYTES
        if waiting.rows >= self._layout.max_row_group_rows or waiting.bytes >= self._layout.max_gathered_bytes:
            self._write_out(folder)
        elif self._waiting_bytes >= MAX_GATHERED_BYTES:
            # All of them: blocks that were cut from one batch share its memory.
            self._write_out(*self._waiting)

    def close(self) -> list[Json]:
        """Close all files; returns what was staged, one committable a file."""
        self._write_out(*self._waiting)
        for folder in list(self._open):
            self._close_file(folder)
        return self._committables

    def abort(self) -> None:
        """Drop the open files. Files that were closed stay for the sweep. Never fails."""
        files, self._open, self._waiting = self._open, {}, {}
        for file in files.values():
            try:
                file.target.abort()
            except Exception:  # the sweep removes it later
                _log.warning("could not drop an unfinished file of %s", self._store.uri, exc_info=True)

    def _write_out(self, *folders: str) -> None:
        for folder in folders:
            blocks = self._waiting.pop(folder).blocks
            file = self._open_file(folder)
            file.rows_file.write(blocks)
            if file.target.tell() >= self._layout.max_file_bytes:
                self._close_file(folder)
        if not self._waiting:
            self._waiting_bytes = 0

    def _open_file(self, folder: str) -> _OpenFile:
        file = self._open.pop(folder, None)
        if file is None:
            if len(self._open) >= self._layout.max_open_files:
                self._close_file(next(iter(self._open)))
            final_key = part_name(self.attempt, self._token, self._opened, self._layout.extension, folder)
            target = self._store.stage(final_key)
            file = _OpenFile(target, self._layout.open_file(target))
            self._opened += 1
        self._open[folder] = file
        return file

    def _close_file(self, folder: str) -> None:
        file = self._open[folder]
        file.rows_file.close()
        file.target.close()
        staged = file.target.staged
        committable = {
            "final_key": staged.final_key,
            "rows": file.rows_file.rows,
            "size_bytes": staged.size_bytes,
            "staged": staged.to_json(),
            **file.rows_file.notes,
        }
        self._committables.append(committable)
        del self._open[folder]


class _Waiting:
    """Blocks of one folder that wait."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.rows = self.bytes = 0

    def add(self, block: Block) -> None:
        self.blocks.append(block)
        self.rows += block_rows(block)
        self.bytes += block_bytes(block)


class _OpenFile:
    def __init__(self, target: StagingWriter, rows_file: BlockFile) -> None:
        self.target = target
        self.rows_file = rows_file
