"""Credentials of MinIO that may do no more than a policy says: from its STS, which needs no administrator's client."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, TypeAlias

import boto3

Policy: TypeAlias = dict[str, Any]
POLICIES = Path(__file__).parents[3] / "deploy" / "iam"
ROLE = "arn:aws:iam::000000000000:role/tests"  # MinIO looks at the policy alone


def policy_of(role: str) -> Policy:
    """As it is shipped, with its placeholders."""
    policy: Policy = json.loads((POLICIES / f"s3-{role}.json").read_text())
    return policy


def filled(policy: Policy, bucket: str, checkpoint_prefix: str = "checkpoint", output_prefix: str = "output") -> Policy:
    """The policy with its placeholders filled; one bucket holds both."""
    text = json.dumps(policy)
    for placeholder, value in {
        "CHECKPOINT_BUCKET": bucket,
        "OUTPUT_BUCKET": bucket,
        "CHECKPOINT_PREFIX": checkpoint_prefix,
        "OUTPUT_PREFIX": output_prefix,
    }.items():
        text = text.replace(placeholder, value)
    done: Policy = json.loads(text)
    return done


def restricted_to(policy: Policy) -> dict[str, str]:
    """Credentials, by the names that ``storage_options`` has for them."""
    sts = boto3.client("sts", endpoint_url=os.environ["S3_ENDPOINT_URL"])
    found = sts.assume_role(RoleArn=ROLE, RoleSessionName="tests", Policy=json.dumps(policy))["Credentials"]
    return {
        "aws_access_key_id": found["AccessKeyId"],
        "aws_secret_access_key": found["SecretAccessKey"],
        "aws_session_token": found["SessionToken"],
    }
