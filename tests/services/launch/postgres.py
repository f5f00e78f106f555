"""PostgreSQL for tests, from Debian's package; a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import psycopg

from services.launch.debian import libraries, unpacked
from services.launch.server import OneServer, Server, free_ports

PASSWORD = "no-secret-at-all"
_UNPRIVILEGED = 65534  # nobody: PostgreSQL refuses to run as root


def postgres_root() -> Path:
    """The folder with the unpacked package; downloaded at first use."""
    return unpacked("postgresql")


class Postgres(OneServer):
    """One server on a free port, with its data in a temporary folder; a context manager.

    Args:
        url: attribute, for SQLAlchemy: the superuser ``beam`` of the database ``postgres``.
    """

    def __init__(self) -> None:
        root = postgres_root()
        self._server = Server("postgres")
        try:
            self._start(root)
        except BaseException:
            self._server.stop(keep_log=True)
            raise

    def _start(self, root: Path) -> None:
        folder = self._server.folder
        user = _UNPRIVILEGED if os.geteuid() == 0 else None
        if user is not None:  # who must be able to read the programs, wherever the cache is
            root = Path(shutil.copytree(root, folder / "root", symlinks=True))
            os.chown(folder, user, -1)
        (bin_folder,) = root.glob("usr/lib/postgresql/*/bin")
        environment = libraries(root)
        password = folder / "password"
        password.write_text(PASSWORD)
        data = folder / "data"
        initdb = [str(bin_folder / "initdb"), "--username=beam", f"--pwfile={password}", "--auth=scram-sha-256"]
        done = subprocess.run(
            [*initdb, "--encoding=UTF8", "--locale=C", "--no-sync", f"--pgdata={data}"],
            cwd=folder,
            env={**os.environ, **environment},
            user=user,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"initdb ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        (port,) = free_ports(1)
        self.url = f"postgresql+psycopg://beam:{PASSWORD}@127.0.0.1:{port}/postgres"
        command = [str(bin_folder / "postgres"), "-D", str(data), "-h", "127.0.0.1", "-p", str(port), "-k", str(folder)]
        self._server.start([*command, "-c", "max_connections=50"], environment, self._answers, user=user)

    @property
    def environment(self) -> dict[str, str]:
        """Variables that say where it is."""
        return {"POSTGRES_URL": self.url}

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url.replace("+psycopg", ""), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True
