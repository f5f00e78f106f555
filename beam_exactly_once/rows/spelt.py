"""Numbers that texts spell: whether Arrow read them as they are, when it made numbers of a column of texts.

A text is not the number that it spells, so ``1.50`` may become 1.5. A column of ``float64`` has the number if, written with as
many digits, it is the same: 0.1, but not 9007199254740993. One of ``float32`` or ``float16`` rounds, as its name says, but no
whole numbers, and nothing to an infinity or to zero.
"""

from __future__ import annotations

from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc

_SURE_LETTERS = 15
"""Of a text with that many digits or fewer the nearest ``float64`` has the same."""
_LEAST_NORMAL = 2.2250738585072014e-308
"""What is nearer to zero has fewer digits."""
_NO_ZERO = r"^[+-]?[0.]*[1-9]"
_WHOLE = {pa.float32(): 2.0**24, pa.float16(): 2.0**11}
"""Below these all whole numbers are exact."""


def is_as_spelt(texts: pa.Array, numbers: pa.Array) -> bool:
    """Whether numbers are those that texts spell.

    Args:
        texts: strings or bytes.
        numbers: what Arrow made of them. Only integers, decimals and floating numbers may differ.
    """
    kind = numbers.type
    if not (pa.types.is_signed_integer(kind) or pa.types.is_decimal(kind) or pa.types.is_floating(kind)):
        return True
    texts = texts.cast(pa.large_string())
    if pa.types.is_signed_integer(kind):
        # Of hexadecimal digits Arrow reads the bits, so that 0xFF is -1 in 8 of them.
        is_negative = pc.less(numbers, 0)
        return not _any(is_negative) or not _any(pc.and_(is_negative, pc.starts_with(texts, "0")))
    if pa.types.is_decimal(kind):
        # Arrow moves the point of a decimal by any number of digits, but knows how only for as many as the type has.
        return _are_equal(texts, numbers)
    floats = numbers.cast(pa.float64())
    is_infinite = pc.is_inf(floats)
    if _any(is_infinite) and _any(pc.invert(pc.match_substring(texts.filter(is_infinite), "inf", ignore_case=True))):
        return False
    is_zero = pc.equal(floats, 0.0)
    if kind != pa.float64() and _any(is_zero) and _any(pc.match_substring_regex(texts.filter(is_zero), _NO_ZERO)):
        return False
    is_doubtful = _doubtful_doubles(texts, floats) if kind == pa.float64() else _doubtful_whole(texts, floats, kind)
    is_doubtful = pc.and_(is_doubtful, pc.is_finite(floats))
    return not _any(is_doubtful) or _are_as_spelt(texts.filter(is_doubtful), floats.filter(is_doubtful))


def _doubtful_doubles(texts: pa.Array, floats: pa.Array) -> pa.Array:
    """What has many digits, and what is next to zero, if Arrow itself spells it otherwise."""
    is_near = pc.and_(pc.less(pc.abs(floats), _LEAST_NORMAL), pc.not_equal(texts, "0"))
    is_doubtful = pc.or_(is_near, pc.greater(pc.binary_length(texts), _SURE_LETTERS))
    if _any(is_doubtful):
        is_doubtful = pc.and_(is_doubtful, pc.not_equal(texts, floats.cast(pa.large_string())))
    return is_doubtful


def _doubtful_whole(texts: pa.Array, floats: pa.Array, kind: pa.DataType) -> pa.Array:
    is_large = pc.greater_equal(pc.abs(floats), _WHOLE[kind])
    return pc.and_(is_large, pc.match_substring_regex(texts, r"^[+-]?[0-9]+$")) if _any(is_large) else is_large


def _any(mask: pa.Array) -> bool:
    return bool(pc.any(mask).as_py())


def _are_equal(texts: pa.Array, numbers: pa.Array) -> bool:
    pairs = zip(texts.to_pylist(), numbers.to_pylist(), strict=True)
    try:
        return all(number is None or Decimal(text) == number for text, number in pairs)
    except ArithmeticError:  # an exponent that Python has not
        return False


def _are_as_spelt(texts: pa.Array, floats: pa.Array) -> bool:
    try:
        return all(map(_is_as_spelt, texts.to_pylist(), floats.to_pylist()))
    except ArithmeticError:
        return False


def _is_as_spelt(text: str, number: float) -> bool:
    spelt = Decimal(text)
    if text.lstrip("+-").isdigit():
        return spelt == Decimal(number)
    digits = len(spelt.as_tuple().digits)
    return spelt in (Decimal(repr(number)), Decimal(f"{number:.{digits - 1}e}"))
