"""Checkpoints: the whole training's state as files, written beside the training."""
