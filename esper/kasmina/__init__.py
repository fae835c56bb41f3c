"""Kasmina: seeds in a host network. Sites, stages, isolation, blending, gates and health.

``stages``, ``alpha`` and ``verdict`` are plain arithmetic and import no torch; folds and policies use them.
"""
