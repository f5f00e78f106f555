"""What ``deploy/receive`` gives to users keeps the rules of the receiver."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from beam_exactly_once import errors
from beam_exactly_once.cli.wal_receive import receive

FOLDER = Path(__file__).parents[1] / "deploy" / "receive"


def test_a_receiver_that_cannot_get_better_is_not_started_again() -> None:
    unit = (FOLDER / "receiver@.service").read_text()
    (codes,) = re.findall(r"^RestartPreventExitStatus=(.*)$", unit, re.MULTILINE)

    assert {int(code) for code in codes.split()} == {
        errors.EXIT_CONFIGURATION,
        errors.EXIT_FENCED,
        errors.EXIT_CHECKPOINT,
    }


def test_the_command_is_understood_once_systemd_has_read_it() -> None:
    unit = (FOLDER / "receiver@.service").read_text()
    (command,) = re.findall(r"^ExecStart=\S+ wal receive (.*)$", unit, re.MULTILINE)
    read = command.replace("$$", "$").replace("%i", "1").replace("%d", "/run/credentials")
    given = receive.make_context("receive", shlex.split(read)).params

    assert (given["location"], given["partition"], given["listen"]) == ("s3://logs/orders", 1, "127.0.0.1:8441")
    assert [(one.name, one.secret.name) for one in given["token"]] == [("shop", "/run/credentials/token")]


def test_the_proxy_sends_an_id_to_one_partition_and_nothing_again() -> None:
    conf = (FOLDER / "nginx.conf").read_text()
    upstreams = re.findall(r"upstream (\w+) \{\s+server (\S+) max_fails=0;", conf)

    assert "split_clients $route $partition" in conf
    assert "proxy_next_upstream off;" in conf
    assert upstreams == [("partition_0", "127.0.0.1:8440"), ("partition_1", "127.0.0.1:8441")]
    assert set(re.findall(r"^ +(?:50%|\*) +(\w+);", conf, re.MULTILINE)) == {name for name, _ in upstreams}
