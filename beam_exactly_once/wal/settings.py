"""Where a write-ahead log is, as it travels in a graph."""

from __future__ import annotations

from dataclasses import dataclass

from beam_exactly_once.object_store.store_location import StoreLocation, is_near
from beam_exactly_once.wal.log import WalLog

NEAR_REST_S = 0.2
FAR_REST_S = 1.0


@dataclass(frozen=True)
class WalSettings:
    """A log's location; see :class:`~beam_exactly_once.logs.opening.LogSettings`.

    Args:
        place: its canonical location, and the options of its store.
    """

    place: StoreLocation

    @property
    def topic(self) -> str:
        """What the log is called in records, plans and errors: the last part of its location."""
        return self.place.uri.rstrip("/").rpartition("/")[2]

    @property
    def definition(self) -> dict[str, str]:
        """The log, by its location: the name of its topic is a part of that."""
        return {"kind": "wal", "location": self.place.uri}

    @property
    def isolation_level(self) -> None:
        """Nothing that is in the log is hidden."""

    @property
    def rest_s(self) -> float:
        """See :class:`LogSettings`. Behind a network each look is three requests that cost money."""
        return NEAR_REST_S if self._is_near else FAR_REST_S

    @property
    def _is_near(self) -> bool:
        return is_near(self.place.uri)

    def at_isolation_level(self, isolation_level: str | None) -> WalSettings:
        """The same: there are no levels."""
        return self

    def open(self) -> WalLog:
        """The log. Nothing is asked before it is used."""
        return WalLog(self.place.store, self.topic, reads_ahead=not self._is_near)
