"""What Esper costs and what it keeps its word on: ``python -m benchmarks [NAME ...]``."""
