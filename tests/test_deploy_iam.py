"""What deploy/iam says and what it holds are one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

IAM = Path(__file__).parents[1] / "deploy" / "iam"
README = (IAM / "README.md").read_text()
FILES = sorted(IAM.glob("*.json"))


def granted(policy: dict[str, Any]) -> set[str]:
    if "includedPermissions" in policy:
        return set(policy["includedPermissions"])
    return {action for statement in policy["Statement"] for action in statement["Action"]}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_file_is_listed_and_every_permission_explained(file: Path) -> None:
    assert f"({file.name})" in README
    for action in granted(json.loads(file.read_text())):
        assert re.search(rf"^\| `{re.escape(action)}`", README, re.MULTILINE), action


@pytest.mark.parametrize("file", [file for file in FILES if file.name.startswith("s3-")], ids=lambda file: file.name)
def test_policies_name_nothing_but_their_places(file: Path) -> None:
    for statement in json.loads(file.read_text())["Statement"]:
        assert re.fullmatch(
            r"arn:aws:s3:::(CHECKPOINT_BUCKET(/CHECKPOINT_PREFIX/\*)?|OUTPUT_BUCKET(/OUTPUT_PREFIX/\*)?)",
            statement["Resource"],
        )


def test_driver_and_worker_in_one_process_need_no_more_than_the_drivers_policy() -> None:
    driver, worker = (json.loads((IAM / f"s3-{role}.json").read_text()) for role in ("driver", "worker"))
    for statement in worker["Statement"]:
        (same,) = [other for other in driver["Statement"] if other["Sid"] == statement["Sid"]]
        assert set(statement["Action"]) <= set(same["Action"])
        assert statement["Resource"] == same["Resource"]
