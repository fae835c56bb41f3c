"""Esper's version, for whatever needs no more than that; the package's root shows it too."""

__version__ = "0.1.0"
