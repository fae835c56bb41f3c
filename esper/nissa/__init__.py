"""Nissa: what can be asked about runs. ClickHouse's tables and the sink that fills them, the report, Prometheus'
metrics."""
