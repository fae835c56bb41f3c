"""Loads grown models that Hugging Face's transformers saved with ``save_pretrained``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from esper.tezzeret.saved import build


def from_pretrained(model_class: Any, path: str | Path, **config_changes: Any) -> Any:
    """The grown model that ``save_pretrained`` wrote to the folder ``path``, in evaluation mode as is usual there.

    ``model_class`` is a class of transformers such as ``LlamaForCausalLM`` or ``AutoModelForCausalLM``; its own
    ``from_pretrained`` would leave the seeds out. ``config_changes`` are attributes of the configuration. Raises
    ModelMismatch where the weights are not of that class, UsageError where there are none.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(path, **config_changes)
    make = getattr(model_class, "from_config", None) or model_class._from_config
    dtype = getattr(config, "dtype", None) or torch.get_default_dtype()
    model = make(config, dtype=dtype)
    build(path, model)
    model.tie_weights()
    return model.eval()
