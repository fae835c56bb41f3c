"""ClickHouse, here or on a server: reaching it, and asking it questions."""
