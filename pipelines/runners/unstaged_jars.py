"""How a job server of Flink is started whose cluster has Beam's jars already, so that no batch sends them.

The cluster's operator makes such a job server, see ``deploy/flink``; it is known by the class loader in its jar.
"""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Sequence

LOADER = "UnstagedJars"
"""The class of ``deploy/flink``."""
_JVM_OPTIONS = (
    f"-Djava.system.class.loader={LOADER}",
    "-XX:TieredStopAtLevel=1",  # a better compiler costs more than it wins in the first batches
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",  # else it prints each graph, and all metrics of each batch
)

_LOGGER = logging.getLogger(__name__)


def without_staging(command: Sequence[str], *, is_local: bool) -> list[str]:
    """The command ``java … -jar JAR …`` of a job server, as that JAR needs it.

    One that is not made so stays as it is, and the log says what that costs on a cluster.
    """
    before, jar = list(command[: command.index("-jar")]), command[command.index("-jar") + 1]
    if has_loader(jar):
        return [*before[:1], *_JVM_OPTIONS, *before[1:], *command[len(before) :]]
    if is_local:
        return list(command)
    _LOGGER.warning(
        "each batch sends the jars of %s to Flink, which loads them anew: this takes seconds a batch. A cluster that has them "
        'already needs none of it: see "A fast batch" in deploy/README.md of beam_exactly_once.',
        jar,
    )
    return list(command)


def has_loader(jar: str) -> bool:
    """Whether this job server finds its jars itself, and names none of them to Beam."""
    try:
        with zipfile.ZipFile(jar) as opened:
            return f"{LOADER}.class" in opened.namelist()
    except (OSError, zipfile.BadZipFile):
        return False  # Java says what is wrong with it
