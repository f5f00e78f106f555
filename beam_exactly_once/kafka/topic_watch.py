"""Whether the topics that a bundle reads are those that were planned."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from beam_exactly_once.errors import DataLoss, IncompleteBatch
from beam_exactly_once.logs import Log
from beam_exactly_once.topics import OnDataLoss, changed_ids, changed_message, ids_of


class TopicWatch:
    """Asks for topic ids before a bundle's first read of a topic, and once again after its last read of all.

    An id never comes back. So a topic that has the planned id *after* it was read had it all the while, and every record
    was of the planned topic. The question before only finds out earlier, when nothing has been emitted yet. Both ask the
    brokers: nothing is remembered from one bundle to the next.

    What it rests on: a broker that serves a recreated topic no longer gives out the old id. While brokers still learn of
    a change, one after the other, an answer may be that much too old.
    """

    def __init__(self, on_data_loss: OnDataLoss) -> None:
        self._on_data_loss = on_data_loss
        self._expected: dict[str, str] = {}
        self._replaced: set[str] = set()

    def begin(self) -> None:
        """A bundle begins."""
        self._expected, self._replaced = {}, set()

    def look(self, log: Log, topic_ids: Mapping[str, str | None]) -> None:
        """Ask for topics before they are read, all that are new to the bundle at once.

        Args:
            log: the log.
            topic_ids: the planned id of each topic; one without is not watched.

        Raises:
            DataLoss: a topic is not the planned one any more, and may not be passed over.
            IncompleteBatch: the bundle holds ranges of two topics of one name.
        """
        planned = {topic: id_ for topic, id_ in topic_ids.items() if id_ is not None}
        for topic, id_ in planned.items():
            if self._expected.get(topic, id_) != id_:
                raise IncompleteBatch(
                    f"topic {topic} was planned with id {self._expected[topic]} and with id {id_} in one bundle. "
                    "Nothing is committed; start again."
                )
        new = planned.keys() - self._expected.keys()
        self._expected.update(planned)
        if new:
            self._replaced.update(self._changed(log, new))

    def is_replaced(self, topic: str) -> bool:
        """Whether the topic is not the planned one any more, and may be passed over."""
        return topic in self._replaced

    def end(self, log: Log) -> None:
        """A bundle ends: everything that it read was of the planned topics.

        Raises:
            DataLoss, IncompleteBatch: it was not, or perhaps not. The latter where a replay passes over the topic.
        """
        read = self._expected.keys() - self._replaced
        if read and self._changed(log, read) and self._on_data_loss == "skip":
            raise IncompleteBatch(
                f"{', '.join(sorted(read))}: deleted and recreated while it was read. Nothing of this batch is committed. "
                "Start again: what was planned of the old topic is then put on record as lost."
            )

    def _changed(self, log: Log, topics: Iterable[str]) -> list[str]:
        expected = {topic: self._expected[topic] for topic in topics}
        present = ids_of(log.describe(sorted(expected)))
        changed = changed_ids(expected, present)
        if changed and self._on_data_loss == "fail":
            raise DataLoss(changed_message(expected, present))
        return changed
