"""Two older designs of a stream from Kafka, as small as they can be. There is no mistake in them: their plan is the mistake.

A *driver* starts a *receiver*. The receiver takes blocks of records from Kafka, keeps them as its design says, commits its
offsets to Kafka as a consumer group does, and hands the blocks over. When an interval is full, the driver writes its blocks. It
starts a receiver that was killed again. A driver that is killed takes its processes with it, as executors end with their driver.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Protocol, TypeAlias

from confluent_kafka import Consumer, KafkaException, TopicPartition

from beam_exactly_once.lab.moments import BOTH, DATA_ONLY, FETCHED, PROGRESS_ONLY, WAITING, WRITTEN, Design, Moment
from beam_exactly_once.randomness import new_token

BLOCK_RECORDS = 100
INTERVAL_BLOCKS = 3
PATIENCE_S = 30.0
"""How long Kafka may say nothing."""

OUTPUT = "output"
"""The folder in that of a run; its ``.txt`` files have the ids of records."""

_FORK = get_context("fork")
_DONE = b""
"""The message behind the last block: of an interval, or of all that a replica has."""

Block: TypeAlias = bytes
"""A line: a name that no other block has, then the ids of its records. A block that is received again has another name."""


@dataclass
class Run:
    """What all processes of one run know.

    Attributes:
        design: the first or the second of the old ones.
        folder: of the run.
        bootstrap_servers: of the broker.
        topic: partition 0 of it is read.
        records: how many are in it.
        kill: when; once in a run.
        seen: how often this process has reached that moment.
    """

    design: Design
    folder: Path
    bootstrap_servers: str
    topic: str
    records: int
    kill: Moment
    seen: int = 0

    @property
    def killed(self) -> Path:
        """Is there once something was killed."""
        return self.folder / "killed"

    def reached(self, moment: Moment) -> None:
        """SIGKILL this process, or the whole application, if this is the time."""
        if moment != self.kill:
            return
        self.seen += 1
        if self.seen == moment.occurrence and not self.killed.exists():
            self.killed.touch()
            os.kill(0 if moment.victim == "application" else os.getpid(), signal.SIGKILL)


class _Keeping(Protocol):
    """How a design keeps blocks until they are written."""

    def keep(self, block: Block, commit: Callable[[], None]) -> None:
        """In the receiver: keep the block, and commit its offsets."""

    def kept(self) -> Iterator[Block]:
        """In the driver: all blocks that are kept."""

    def note_written(self, name: str) -> None:
        """In the driver: the output has this block."""

    def noted(self) -> set[str]:
        """In the driver that starts: the blocks that the output has."""


class _Replicated:
    """No log: a copy in the memory of another process. The offsets are committed by a timer, which fires before it."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._replica = _start(_hold)[1]

    def keep(self, block: Block, commit: Callable[[], None]) -> None:
        commit()
        self._run.reached(PROGRESS_ONLY)
        self._replica.send_bytes(block)

    def kept(self) -> Iterator[Block]:
        self._replica.send_bytes(_DONE)
        while block := self._replica.recv_bytes():
            yield block

    def note_written(self, name: str) -> None:
        """Memory knows it."""

    def noted(self) -> set[str]:
        return set()


class _Logged:
    """A write-ahead log, and a file of the blocks that are written."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._log, self._written = run.folder / "log.txt", run.folder / "written.txt"

    def keep(self, block: Block, commit: Callable[[], None]) -> None:
        _append(self._log, block)
        self._run.reached(DATA_ONLY)
        commit()

    def kept(self) -> Iterator[Block]:
        yield from _lines(self._log)

    def note_written(self, name: str) -> None:
        _append(self._written, name.encode())

    def noted(self) -> set[str]:
        return {name.decode() for name in _lines(self._written)}


def drive(run: Run) -> None:
    """One life of the application; the first process of its group."""
    keeping: _Keeping = _Replicated(run) if run.design == "receiver" else _Logged(run)
    written = keeping.noted()

    def write(block: Block) -> None:
        name, _, ids = block.decode().partition(" ")
        if name not in written:
            _append(run.folder / OUTPUT / "blocks.txt", ids.encode())
            run.reached(WRITTEN)
            written.add(name)
            keeping.note_written(name)

    was_killed = True
    while was_killed:
        for block in keeping.kept():
            write(block)
        receiver, blocks = _start(_receive, run, keeping)
        for block in _intervals(run, blocks):
            write(block)
        receiver.join()
        if receiver.exitcode not in (0, -signal.SIGKILL):
            raise RuntimeError(f"the receiver ended with exit code {receiver.exitcode}")
        was_killed = receiver.exitcode != 0


def _intervals(run: Run, blocks: Connection) -> Iterator[Block]:
    """Blocks, once their interval is full or their receiver has ended."""
    waiting: list[Block] = []
    is_open = True
    while is_open:
        try:
            block = blocks.recv_bytes()
        except EOFError:
            is_open, block = False, _DONE
        if block != _DONE:
            waiting.append(block)
            continue
        if is_open:
            run.reached(WAITING)
        yield from waiting
        waiting.clear()
        if is_open:
            blocks.send_bytes(_DONE)


def _receive(driver: Connection, run: Run, keeping: _Keeping) -> None:
    """A receiver: goes on at its committed offset."""
    config = {"bootstrap.servers": run.bootstrap_servers, "group.id": run.folder.name, "enable.auto.commit": False}
    consumer = Consumer({**config, "fetch.wait.max.ms": 20})
    place = TopicPartition(run.topic, 0)
    (committed,) = consumer.committed([place], PATIENCE_S)
    next_offset = max(0, committed.offset)
    consumer.assign([TopicPartition(run.topic, 0, next_offset)])

    def commit() -> None:
        consumer.commit(offsets=[TopicPartition(run.topic, 0, next_offset)], asynchronous=False)

    blocks = 0
    while next_offset < run.records:
        ids = _fetch(consumer, min(BLOCK_RECORDS, run.records - next_offset))
        next_offset += len(ids)
        blocks += 1
        run.reached(FETCHED)
        block = b" ".join([new_token().encode(), *ids])
        keeping.keep(block, commit)
        run.reached(BOTH)
        driver.send_bytes(block)
        if blocks % INTERVAL_BLOCKS == 0:
            driver.send_bytes(_DONE)
            driver.recv_bytes()


def _fetch(consumer: Consumer, count: int) -> list[bytes]:
    """The next records, exactly so many."""
    ids: list[bytes] = []
    while len(ids) < count:
        messages = consumer.consume(count - len(ids), PATIENCE_S)
        if not messages:
            raise TimeoutError(f"Kafka gave no record in {PATIENCE_S:.0f} s")
        for message in messages:
            if message.error():
                raise KafkaException(message.error())
            ids.append(message.value() or b"")
    return ids


def _hold(others: Connection) -> None:
    """The replica: keeps blocks in memory, and gives them when it is asked."""
    blocks: list[Block] = []
    while True:
        block = others.recv_bytes()
        if block != _DONE:
            blocks.append(block)
            continue
        for one in blocks:
            others.send_bytes(one)
        others.send_bytes(_DONE)


def _start(work: Callable[..., None], *arguments: object) -> tuple[BaseProcess, Connection]:
    """A process, and this end of a pipe to it. It ends when nobody has this end."""
    ours, theirs = Pipe()

    def live() -> None:
        ours.close()
        try:
            work(theirs, *arguments)
        except (EOFError, BrokenPipeError):
            os._exit(1)  # those that it works for are gone

    process = _FORK.Process(target=live, daemon=True)
    process.start()
    theirs.close()
    return process, ours


def _append(path: Path, line: bytes) -> None:
    with path.open("ab") as file:
        file.write(line + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines() if path.exists() else []
