"""The operators with state that a checkpoint knows, beside those of the graph.

A name may have many *generations*: an operator that was dropped and comes again is another one, with nothing of the old one. The
newest marker says which generation lives. Where it names none, the newest that nobody dropped is meant.

An operator that was renamed is one more generation of its new name, with the list and the seed of the old one, which is dropped.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from beam_exactly_once.checkpoint import Checkpoint
from beam_exactly_once.checkpoint.layout import OPERATORS
from beam_exactly_once.checkpoint.location import OperatorRecord
from beam_exactly_once.checkpoint.records import Json
from beam_exactly_once.errors import PipelineChanged
from beam_exactly_once.randomness import new_token
from beam_exactly_once.state.definition import (
    OperatorDefinition,
    recorded_definition,
    refuse_changed,
    refuse_changed_state,
)
from beam_exactly_once.state.state_list import StateList
from beam_exactly_once.transforms.stateful.operators_of_batch import LiveOperator
from beam_exactly_once.transforms.stream_graph import OperatorSpec

AHEAD_MS = 300_000
"""Clocks of machines that a stream moves between may differ by so much without a word."""

_LOGGER = logging.getLogger(__name__)

Records = Mapping[int, OperatorRecord]
"""Of one operator, by generation."""


class KnownOperators:
    """What ``checkpoint`` knows of operators.

    Args:
        checkpoint: of the stream.
        operators: those of the graph.
        without: names of those that it no longer has on purpose.
    """

    def __init__(self, checkpoint: Checkpoint, operators: Mapping[str, OperatorSpec], without: Collection[str]) -> None:
        self._checkpoint = checkpoint
        self._operators = operators
        self._without = without
        self._renamed = {one.renamed_from: name for name, one in operators.items() if one.renamed_from is not None}
        """Names of today, by those of before."""
        self._recorded = checkpoint.operators()

    @property
    def have_state(self) -> bool:
        """Whether there is, or was, state to be swept."""
        return bool(self._operators or self._recorded)

    def refuse_changes(self) -> None:
        """As far as can be seen without a marker.

        Raises:
            PipelineChanged: the graph lost an operator, or has it otherwise.
        """
        alive = {name for name, records in self._recorded.items() if not records[max(records)].is_dropped}
        self._refuse_missing(alive, self._checkpoint.store.uri)
        for name, operator in self._operators.items():
            known = name if name in alive else operator.renamed_from
            if known in alive:
                records = self._recorded[known]
                self._refuse_changed(operator, records[max(records)])
        self._warn_of_unknown(alive)

    def _warn_of_unknown(self, alive: Collection[str]) -> None:
        """Of names that are said and not known, unless the stream begins: they may be slips."""
        to_drop = sorted(set(self._without) - self._recorded.keys())
        renamed = {old: name for old, name in self._renamed.items() if not {old, name} & set(alive)}
        if not (to_drop or renamed) or not (self._recorded or next(self._checkpoint.plan_ids(), None) is not None):
            return
        for name in to_drop:
            _LOGGER.warning(
                "without=: %s knows no operator %r, so there is nothing to drop", self._checkpoint.store.uri, name
            )
        for old, name in sorted(renamed.items()):
            _LOGGER.warning(
                "operator %r has renamed_from=%r: %s has neither, so it begins with nothing",
                *(name, old, self._checkpoint.store.uri),
            )

    def live(self, state: Mapping[str, StateList], at_ms: int) -> dict[str, LiveOperator]:
        """Where each operator of the graph goes on, behind a marker; records those that are new, and those that are dropped.

        What is dropped or renamed here is so with the next marker. Until then the old code finds all of it.

        Args:
            state: in the newest marker.
            at_ms: now.

        Raises:
            PipelineChanged: the marker has state of an operator that the graph lost, or has otherwise; or that of a renamed one
                under both names.
            CheckpointHole: the definition of an operator with state is gone.
        """
        if not (state or self._operators):
            return {}
        self._recorded = self._checkpoint.operators()
        generations = {name: one.generation for name, one in state.items()}
        self._refuse_missing(generations, self._checkpoint.store.uri)
        known = self.known_as(generations, self._checkpoint.store.uri)
        found = {}
        for name, operator in self._operators.items():
            old = known.get(name)
            if old is None:
                generation = _next_generation(self._recorded.get(name, {}))
            else:
                recorded_definition(self._checkpoint, self._recorded, old, generations[old])
                generation = (
                    generations[old] if old == name else self._renamed_generation(operator, generations[old], at_ms)
                )
                if operator.times is None:
                    _warn_of_time_ahead(name, state[old], at_ms)
            found[name] = LiveOperator(generation, self._recorded_seed(operator, generation))
        for name in sorted(generations.keys() - self._operators.keys()):
            self._checkpoint.create_dropped(name, generations[name], at_ms)
            if name in self._renamed:
                _LOGGER.info("operator %r goes on with what %r remembers", self._renamed[name], name)
            else:
                _LOGGER.warning("operator %r is dropped: the next batch no longer has what it remembers", name)
        return found

    def carry(self, elsewhere: Checkpoint, state: Mapping[str, Json]) -> dict[str, OperatorRecord]:
        """What another stream, whose state is to be carried along, has recorded of its operators. Writes nothing.

        Args:
            elsewhere: its checkpoint.
            state: in its marker.

        Returns:
            What is recorded, of those that the graph has.

        Raises:
            PipelineChanged: the graph lost an operator, or has it otherwise.
            CheckpointHole: a definition is gone.
        """
        self._refuse_missing(state, elsewhere.store.uri)
        recorded = elsewhere.operators()
        carried = {}
        for name, old in sorted(self.known_as(state, elsewhere.store.uri).items()):
            generation = StateList.from_json(state[old]).generation
            definition = recorded_definition(elsewhere, recorded, old, generation)
            self._refuse_changed(self._operators[name], recorded[old][generation])
            carried[name] = replace(recorded[old][generation], definition=replace(definition, name=name).to_json())
        return carried

    def record_carried(self, carried: Mapping[str, OperatorRecord]) -> None:
        """Record operators as another stream had them: with the seed by which their state is sorted.

        Raises:
            PipelineChanged: this checkpoint knows one already, otherwise.
        """
        for name, record in carried.items():
            assert record.definition is not None
            found = self._checkpoint.create_operator(name, 1, record.definition)
            if found != record.definition:
                raise PipelineChanged(
                    f"{self._checkpoint.store.uri} knows operator {name!r} already, from a start that did not continue from "
                    "another stream. Start with an empty checkpoint_location."
                )
            for state_type in record.state_types:
                self._checkpoint.create_state_type(name, 1, state_type)

    def known_as(self, known: Collection[str], where: str) -> dict[str, str]:
        """The names by which operators of the graph are known, by those of today.

        Args:
            known: the names that a marker has.
            where: what knows them.

        Raises:
            PipelineChanged: one is known by both names.
        """
        for old, name in self._renamed.items():
            if old in known and name in known:
                raise PipelineChanged(
                    f"operator {name!r} has renamed_from={old!r}, and {where} has state of both, which cannot be one. Leave "
                    f"renamed_from out, and give the other step its name={old!r} again; or, if what that remembers may go, say "
                    f"so: without=['{OPERATORS}{old}']."
                )
        found = {name: name for name in self._operators if name in known}
        return found | {name: old for old, name in self._renamed.items() if old in known}

    def _renamed_generation(self, operator: OperatorSpec, old_generation: int, at_ms: int) -> int:
        """Record a renamed operator as it was under its old name, if no failed start has; returns the generation."""
        assert operator.renamed_from is not None
        record = self._recorded[operator.renamed_from][old_generation]
        definition = {**(record.definition or {}), "name": operator.name}
        generation = _next_generation(self._recorded.get(operator.name, {}))
        while self._checkpoint.create_operator(operator.name, generation, definition) != definition:
            # A start that was to begin with nothing failed before its first batch.
            self._checkpoint.create_dropped(operator.name, generation, at_ms)
            generation += 1
        for state_type in record.state_types:
            self._checkpoint.create_state_type(operator.name, generation, state_type)
        self._recorded = self._checkpoint.operators()
        return generation

    def _recorded_seed(self, operator: OperatorSpec, generation: int) -> str:
        update = operator.update
        new = _definition(operator, _new_seed())
        definition = self._checkpoint.create_operator(operator.name, generation, new.to_json())
        stored = self._checkpoint.create_state_type(operator.name, generation, update.state_type.to_definition())
        recorded = self._recorded.get(operator.name, {}).get(generation, OperatorRecord())
        self._refuse_changed(operator, OperatorRecord(definition, [*recorded.state_types, stored]))
        return OperatorDefinition.from_json(definition).seed.hex()

    def _refuse_changed(self, operator: OperatorSpec, record: OperatorRecord) -> None:
        if record.definition is None:
            return
        update = operator.update
        stored = OperatorDefinition.from_json(record.definition)
        refuse_changed(stored, _definition(operator, stored.seed))
        refuse_changed_state(operator.name, record.state_types, update.state_type)

    def _refuse_missing(self, known: Iterable[str], where: str) -> None:
        gone = set(known) - set(self._without) - self._renamed.keys()
        way_out = f"and what it remembers may go, say so: without=['{OPERATORS}{{name}}']"
        refuse_missing(
            where, "an operator", gone, self._operators, way_out, "say renamed_from={name!r} of the step, or "
        )


def refuse_missing(
    where: str, role: str, known: Iterable[str], present: Collection[str], way_out: str, renamed: str = ""
) -> None:
    """
    Args:
        where: what knows them.
        role: what they are: ``"a sink"``.
        known: their names.
        present: those that the pipeline has.
        way_out: of who left one out on purpose; ``{name}`` in it is its name.
        renamed: of who renamed one, besides giving it its name again.

    Raises:
        PipelineChanged: the pipeline lacks one.
    """
    for name in sorted(set(known) - set(present)):
        raise PipelineChanged(
            f"{where} knows {role} {name!r} that this pipeline does not have (it has: "
            f"{', '.join(sorted(present)) or 'none'}). If it was renamed, {renamed.format(name=name)}give it "
            f"name={name!r} again. If it is gone on purpose, {way_out.format(name=name)}."
        )


def _next_generation(records: Records) -> int:
    """Of an operator of which the newest marker has no state: new, or new again behind one that was dropped."""
    newest = max(records, default=1)
    return newest + 1 if newest in records and records[newest].is_dropped else newest


def _definition(operator: OperatorSpec, seed: bytes) -> OperatorDefinition:
    update = operator.update
    return OperatorDefinition(
        operator.name, update.kind, update.state_type.kind, seed, operator.time_domain, operator.window
    )


def _warn_of_time_ahead(name: str, state: StateList, now_ms: int) -> None:
    ahead_ms = 0 if state.fired_ms is None else state.fired_ms - now_ms
    if ahead_ms > AHEAD_MS:
        _LOGGER.warning(
            "the time of operator %r is %d s ahead of this machine's clock: one of the two clocks was wrong. Until this one has "
            "come there, no timeout fires, and nothing that lives for some time is forgotten; nothing is lost. To go back, begin "
            "a new checkpoint location with continue_from= a batch before it",
            name,
            ahead_ms // 1000,
        )


def _new_seed() -> bytes:
    return bytes.fromhex(new_token() + new_token())
