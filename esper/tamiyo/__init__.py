"""Tamiyo: the run's state as a fold over its events, and the policies that decide where to grow."""
