"""MariaDB for tests, from Debian's package; a process of its own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pymysql

from services.launch.debian import libraries, unpacked
from services.launch.server import OneServer, Server, free_ports

PASSWORD = "no-secret-at-all"
_SYSTEM_TABLES = ("mysql_system_tables.sql", "mysql_performance_tables.sql", "mysql_system_tables_data.sql")
_USER = f"""CREATE DATABASE IF NOT EXISTS beam;
CREATE OR REPLACE USER beam@'127.0.0.1' IDENTIFIED BY '{PASSWORD}';
GRANT ALL ON *.* TO beam@'127.0.0.1' WITH GRANT OPTION;
"""


def mariadb_root() -> Path:
    """The folder with the unpacked package; downloaded at first use."""
    return unpacked("mariadb-server-core")


class Mariadb(OneServer):
    """One server on a free port, with its data in a temporary folder; a context manager.

    Args:
        url: attribute, for SQLAlchemy: the user ``beam`` of the database ``beam``, who may do anything.
    """

    def __init__(self) -> None:
        root = mariadb_root()
        self._server = Server("mariadb")
        try:
            self._start(root)
        except BaseException:
            self._server.stop(keep_log=True)
            raise

    def _start(self, root: Path) -> None:
        folder, share = self._server.folder, root / "usr" / "share" / "mysql"
        (folder / "data").mkdir()
        options = ["--no-defaults", f"--datadir={folder / 'data'}", f"--lc-messages-dir={share}"]
        options += [f"--character-sets-dir={share / 'charsets'}", "--skip-ssl"]
        if os.geteuid() == 0:
            options.append("--user=root")
        server = str(root / "usr" / "sbin" / "mariadbd")
        environment = libraries(root)
        tables = "".join((share / name).read_text(encoding="utf-8") for name in _SYSTEM_TABLES)
        done = subprocess.run(
            [server, *options, "--bootstrap"],
            cwd=folder,
            env={**os.environ, **environment},
            input=f"CREATE DATABASE mysql;\nUSE mysql;\n{tables}",
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"mariadbd --bootstrap ended with {done.returncode}:\n{done.stderr[-4000:]}")
        (folder / "user.sql").write_text(_USER)
        (self._port,) = free_ports(1)
        self.url = f"mysql+pymysql://beam:{PASSWORD}@127.0.0.1:{self._port}/beam"
        options += ["--bind-address=127.0.0.1", f"--port={self._port}", f"--socket={folder / 'socket'}"]
        options += [f"--pid-file={folder / 'pid'}", f"--init-file={folder / 'user.sql'}", "--skip-name-resolve"]
        self._server.start([server, *options], environment, self._answers)

    @property
    def environment(self) -> dict[str, str]:
        """Variables that say where it is."""
        return {"MARIADB_URL": self.url}

    def _answers(self) -> bool:
        try:
            pymysql.connect(host="127.0.0.1", port=self._port, user="beam", password=PASSWORD, database="beam").close()
        except pymysql.MySQLError:
            return False
        return True
