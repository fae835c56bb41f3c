"""Measurements of a training on their way out: none of them changes it."""
