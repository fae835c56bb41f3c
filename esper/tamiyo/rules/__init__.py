"""The rules by which a run decides, each written once: a trainer, ``verify`` and tests carry out the same scripts."""
