"""Histories of streams that remember."""

from __future__ import annotations

from support.simulation.histories import Focus, Simulation
from support.simulation.stateful_driver import StatefulDriver, state_faults, watch_state
from support.simulation.store import SimulatedStore


class StatefulSimulation(Simulation):
    """One seed; see :class:`Simulation`."""

    def __init__(
        self,
        seed: int,
        driver_class: type[StatefulDriver] = StatefulDriver,
        store_class: type[SimulatedStore] = SimulatedStore,
        focus: Focus | None = None,
    ) -> None:
        super().__init__(seed, driver_class, store_class, focus)
        self.scene.weather.worker_kept = self.scene.random.choice((0.0, 0.0, 0.1))
        self._when_decided = watch_state(self.scene, self.ledger)

    def faults(self) -> list[str]:
        """Also of the state."""
        return super().faults() + self._when_decided + state_faults(self.scene, self.ledger.markers)
