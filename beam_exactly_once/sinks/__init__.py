"""How a committed batch becomes visible, one room a kind of sink; and the door to a sink of one's own.

    from beam_exactly_once.sinks import Delivery, TransactionalSink, WriteTo

These three names are public, each loaded when it is used; the rooms behind them are private.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING, Any

__all__ = ["Delivery", "TransactionalSink", "WriteTo"]

if TYPE_CHECKING:
    from beam_exactly_once.sinks.transactional import Delivery, TransactionalSink
    from beam_exactly_once.transforms.write_to import WriteTo
else:

    def __getattr__(name: str) -> Any:
        """Load a name of the door at its first use: ``WriteTo`` alone needs Beam."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        home = "beam_exactly_once.transforms.write_to" if name == "WriteTo" else f"{__name__}.transactional"
        globals()[name] = found = getattr(_import_module(home), name)
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
