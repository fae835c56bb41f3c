"""The embedded log: one SQLite file, for a single machine."""
