"""Tables of PostgreSQL, MySQL, MariaDB and SQLite: a shard's rows and its receipt in one transaction."""
