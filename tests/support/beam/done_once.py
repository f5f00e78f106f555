"""What Beam does anew for each small pipeline, done once: for tests, which start thousands of them. Importing this is enough."""

from __future__ import annotations

import copy
import inspect
import sys
import types
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.direct import transform_evaluator
from apache_beam.transforms import core, ptransform, userstate, util
from apache_beam.typehints import decorators

# These were more than half of the time of a small pipeline. Beam looks for IPython on the whole path: None says that it is not
# there.
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


def _specs_remembered(get_dofn_specs: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """It asks all methods of a DoFn for state and timers, many times: those of its class, unless it has methods of its own."""
    of_classes: weakref.WeakKeyDictionary[type, Any] = weakref.WeakKeyDictionary()

    def specs_of(dofn: Any) -> Any:
        cls = type(dofn)
        wraps_a_method = hasattr(cls, "_inspect_process") and cls is not core.CallableWrapperDoFn
        if wraps_a_method or any(isinstance(value, types.MethodType) for value in vars(dofn).values()):
            return get_dofn_specs(dofn)
        if cls not in of_classes:
            of_classes[cls] = get_dofn_specs(dofn)
        states, timers = of_classes[cls]
        return set(states), set(timers)

    return specs_of


for _module in (userstate, transform_evaluator):
    setattr(_module, "get_dofn_specs", _specs_remembered(_module.get_dofn_specs))  # noqa: B010 # as above


def _looked_at_once(uses_yield_and_return: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """It reads the source of each function that a step has: that of a lambda is the same wherever it is made."""
    known: dict[types.CodeType, bool] = {}

    def looked_at(function: Any) -> bool:
        code = getattr(function, "__code__", None)
        if code is None:
            return uses_yield_and_return(function)
        if code not in known:
            known[code] = uses_yield_and_return(function)
        return known[code]

    return looked_at


core._check_fn_use_yield_and_return = _looked_at_once(core._check_fn_use_yield_and_return)

# It writes down the stack at each hint of a type, for messages that no test reads.
decorators.IOTypeHints._make_origin = classmethod(lambda cls, bases, tb=True, msg=(): [])


def _parsed_once(parse: Callable[..., None]) -> Callable[..., None]:
    """And it makes a parser of command lines for each look at the options."""
    known: dict[tuple[type, tuple[str, ...]], Any] = {}

    def __init__(self: Any, flags: Sequence[str] | None = None, **kwargs: Any) -> None:
        if flags is None or isinstance(flags, str):
            return parse(self, flags, **kwargs)
        key = type(self), tuple(flags)
        if key not in known:
            parse(self, flags)
            known[key] = copy.deepcopy(self._visible_options)
        self._flags, self._visible_options = flags, copy.deepcopy(known[key])
        self._all_options = {**vars(self._visible_options), **kwargs}
        return None

    return __init__


PipelineOptions.__init__ = _parsed_once(PipelineOptions.__init__)
