"""Nissa: watching runs. ClickHouse's tables and the sink that fills them, questions, the report, metrics."""
