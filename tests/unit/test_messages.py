"""What messages tell people to write: an argument that they name with ``=`` is one that something public takes."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import beam_exactly_once
from beam_exactly_once import sinks

ROOT = Path(__file__).parents[2]
NAMED = re.compile(r"(?<![\w.{-])([a-z]+(?:_[a-z]+)*)=(?!=)")
OF_OTHERS = {
    "acks": "of Kafka's client",
    "bytes": "of HTTP, in a header",
    "compare": "of a dataclass's field",
    "config": "of KafkaSettings, in its repr",
    "no_progress_timeout_s": "of KafkaSettings, in its repr",
    "nullable": "of pyarrow.field",
    "t": "the end of a tab in a pattern",
    "endpoint_url": "an option of a store",
    "metadata": "of pyarrow.field",
    "eq": "of a dataclass",
    "fold": "of datetime",
    "init": "of a dataclass's field",
    "key": "of an object store's multipart upload, in an example",
    "tzinfo": "of datetime",
    "upload_id": "of S3",
}


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


def texts(file: Path) -> Iterator[str]:
    """All texts but docstrings."""
    tree = ast.parse(file.read_text())
    documents = {
        node.value
        for parent in ast.walk(tree)
        if isinstance(parent, ast.Module | ast.ClassDef | ast.FunctionDef)
        for node in parent.body
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in documents:
            yield node.value


def test_each_argument_that_a_message_names_is_one_that_users_can_give() -> None:
    known = public_arguments() | OF_OTHERS.keys()
    wrong = {
        f"{file.relative_to(ROOT)}: {name}="
        for folder in ("beam_exactly_once", "transforms", "pipelines")
        for file in (ROOT / folder).rglob("*.py")
        if "testing" not in file.parts
        for text in texts(file)
        for name in NAMED.findall(text)
        if name not in known
    }
    assert wrong == set()
