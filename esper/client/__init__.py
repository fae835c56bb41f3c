"""Runs as a program reads them: ``esper.connect``, and what the reading commands are made of."""
