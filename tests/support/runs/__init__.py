"""Runs to test with: small trainings, and histories made by hand."""
