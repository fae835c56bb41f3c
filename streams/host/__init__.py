"""Faust, made to keep our promises, and the application that runs the agents."""
