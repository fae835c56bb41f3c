"""Commands for those who run Esper: logs, topics, ClickHouse, dead letters, this machine."""
