"""Nissa: watching a run. Anomalies are pure functions of its folded state."""
