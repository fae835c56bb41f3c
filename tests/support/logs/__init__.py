"""Logs to test with: copies, forgeries, damage, faults."""
