"""The agents, one for each topic that is read."""
