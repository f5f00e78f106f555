"""What holds for all tests."""

from __future__ import annotations

import gc
import inspect
import sys
import weakref
from collections.abc import Callable
from typing import Any

from apache_beam.transforms import core, ptransform, util
from apache_beam.typehints import decorators
from hypothesis import HealthCheck, settings

# A machine that is busy is not wrong.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

# Tests start thousands of small pipelines, and two things that Beam does anew for each were two fifths of their time. It looks
# for IPython on the whole path: None says that it is not there.
sys.modules.setdefault("IPython", None)


def _remembered(get_signature: Callable[[Any], inspect.Signature]) -> Callable[[Any], inspect.Signature]:
    """And it asks for the signature of each method of each DoFn; a signature belongs to the function below the method."""
    of_functions: weakref.WeakKeyDictionary[Any, inspect.Signature] = weakref.WeakKeyDictionary()
    of_methods: weakref.WeakKeyDictionary[Any, inspect.Signature] = weakref.WeakKeyDictionary()

    def signature_of(func: Any) -> inspect.Signature:
        if inspect.ismethod(func):
            known, key = of_methods, func.__func__
        elif inspect.isfunction(func):
            known, key = of_functions, func
        else:
            return get_signature(func)
        try:
            return known[key]
        except (KeyError, TypeError):
            signature = get_signature(func)
        if inspect.isfunction(key):
            known[key] = signature
        return signature

    return signature_of


for _module in (decorators, core, ptransform, util):
    setattr(_module, "get_signature", _remembered(_module.get_signature))  # noqa: B010 # the name is not the module's to assign


def pytest_collection_finish() -> None:
    """What is imported stays; a search for garbage that goes through it would be a tenth of each start of a stream."""
    gc.collect()
    gc.freeze()
