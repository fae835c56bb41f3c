"""ClickHouse without a server: one process at a time opens the database's files, and answers questions of the
others."""
