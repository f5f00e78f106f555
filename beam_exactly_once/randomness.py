"""Randomness. Nothing else in this library draws any.

No decision of the protocol rests on chance: it makes names that nobody else makes, and spreads load.
"""

from __future__ import annotations

import random
import secrets

Random = random.Random


class _OfTheMachine(random.SystemRandom):
    """Has no state: what holds it may be pickled."""

    def __reduce__(self) -> str:
        return "RANDOM"


RANDOM: Random = _OfTheMachine()
"""The default of arguments that take a source of randomness. Forked children do not repeat each other's."""


def new_token(byte_count: int = 8) -> str:
    """A text that no other execution has: ``byte_count`` random bytes in hexadecimal."""
    return secrets.token_hex(byte_count)
