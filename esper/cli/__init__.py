"""The command ``esper``: one small module for each group of commands, imported when it is asked for."""
