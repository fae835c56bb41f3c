"""What ClickHouse holds: its tables, and each event as their rows."""
