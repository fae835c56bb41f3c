"""The sink: everything on the log goes to ClickHouse, each record once."""
