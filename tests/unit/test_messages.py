"""What messages tell people to write: an argument that they name with ``=`` is one that something public takes."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import beam_exactly_once
from beam_exactly_once import errors, sinks

ROOT = Path(__file__).parents[2]
NAMED = re.compile(r"(?<![\w.{-])([a-z]+(?:_[a-z]+)*)=(?!=)")
OF_OTHERS = {
    "acks": "of Kafka's client",
    "compare": "of a dataclass's field",
    "nullable": "of pyarrow.field",
    "metadata": "of pyarrow.field",
    "eq": "of a dataclass",
    "fold": "of datetime",
    "init": "of a dataclass's field",
    "tzinfo": "of datetime",
}


SAYING = {
    "debug",
    "info",
    "warning",
    "error",
    "critical",
    "exception",
    "fault",
    "note",
    "UsageError",
    "BadParameter",
    "echo",
}
"""What is called with a text for people."""


def public_arguments() -> set[str]:
    public = [getattr(beam_exactly_once, name) for name in beam_exactly_once.__all__]
    public += [getattr(sinks, name) for name in sinks.__all__]
    found: set[str] = set()
    for one in public:
        if inspect.isroutine(one) or inspect.isclass(one):
            found |= inspect.signature(one).parameters.keys()
        if inspect.isclass(one):
            found |= {name for name in vars(one) if not name.startswith("_")} | set(getattr(one, "__annotations__", ()))
    return found


def messages() -> Iterator[tuple[Path, str]]:
    """All texts that are raised or logged, also those that functions and names with a text put into them."""
    trees = {
        file: ast.parse(file.read_text())
        for folder in ("beam_exactly_once", "transforms", "pipelines")
        for file in sorted((ROOT / folder).rglob("*.py"))
        if "testing" not in file.parts
    }
    functions: dict[str, list[tuple[Path, ast.AST]]] = {}
    """Those that give texts, by their names, wherever they are."""
    assigned: dict[tuple[Path | None, str], list[ast.expr]] = {}
    """By file and name; constants by their names, wherever they are."""
    left: list[tuple[Path, ast.AST]] = []
    for file, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.returns is not None and "str" in ast.unparse(node.returns):
                functions.setdefault(node.name, []).extend((file, one) for one in node.body if not is_docstring(one))
            elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign) and node.value is not None:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for name in (one.id for one in targets if isinstance(one, ast.Name)):
                    assigned.setdefault((None if name.isupper() else file, name), []).append(node.value)
            elif isinstance(node, ast.Raise) or (isinstance(node, ast.Call) and is_said_by(node.func)):
                left.append((file, node))
    seen: set[ast.AST] = set()
    while left:
        file, said = left.pop()
        for node in ast.walk(said) if said not in seen else ():
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield file, node.value
            name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
            left += functions.get(name, [])
            if isinstance(node, ast.Name):
                left += [(file, one) for one in assigned.get((None if name.isupper() else file, name), ())]
        seen.add(said)


def is_said_by(called: ast.expr) -> bool:
    """Whether what is called makes an error, or says what it gets."""
    name = called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""
    return name in SAYING or hasattr(errors, name)


def is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def test_each_argument_that_a_message_names_is_one_that_users_can_give() -> None:
    known = public_arguments()
    named = {(file, name) for file, text in messages() for name in NAMED.findall(text)}
    wrong = {f"{file.relative_to(ROOT)}: {name}=" for file, name in named if name not in known | OF_OTHERS.keys()}
    assert wrong == set()
    assert OF_OTHERS.keys() - {name for _, name in named} == set(), "no message names these any more"
    assert OF_OTHERS.keys() & known == set(), "users can give these"
    assert {"name", "on_data_loss", "without", "continue_from"} <= {name for _, name in named}
