"""What a verification of a hand-made stream finds."""

from __future__ import annotations

from functools import partial

from beam_exactly_once.checkpoint.findings import Check
from beam_exactly_once.checkpoint.verification import verify_checkpoint
from beam_exactly_once.object_store import open_object_store
from beam_exactly_once.sinks.files.verification import file_sinks, verify_output
from support.hand_made_stream import HandMadeStream


def checks_of(stream: HandMadeStream) -> list[Check]:
    verification = verify_checkpoint(stream.checkpoint.store)
    checks = list(verification.checks)
    if verification.contents is not None:
        for sink, output in file_sinks(verification.contents.sinks).items():
            checks += verify_output(verification.contents, sink, partial(open_object_store, output))
    return checks


def faults_of(stream: HandMadeStream) -> list[tuple[str, str]]:
    """(check, object) of every fault. Each message must name a way out."""
    checks = checks_of(stream)
    for check in checks:
        for fault in check.faults:
            assert fault.message.rstrip().endswith("."), fault.message
            assert len(fault.message.split(". ")) >= 2 or ":" in fault.message, f"no way out: {fault.message}"
    return [(check.name, fault.where) for check in checks for fault in check.faults]


def notes_of(stream: HandMadeStream) -> list[str]:
    return [note for check in checks_of(stream) for note in check.notes]
