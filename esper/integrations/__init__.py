"""Esper with other libraries, a module each; none of them is needed by the rest."""
