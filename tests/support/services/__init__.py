"""Services to test against: brokers, ClickHouse, workers."""
