"""A kernel's graph: layers with concrete sizes, as data."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field, PlainValidator, SerializeAsAny

from esper.errors import UsageError
from esper.urza.blueprint import KindName, operator_of
from esper.urza.fit import PARAMETER_LIMIT
from esper.urza.operators import Layer, Part
from esper.urza.sizes import Name

DTYPES = {str(dtype): dtype for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16)}


def _layer(value: Any) -> Layer:
    return value if isinstance(value, Layer) else operator_of(value).layer.model_validate(value)


class KernelGraph(Part):
    """A compiled blueprint without its tensors. Layers are in the order they are computed."""

    format: Literal[1] = 1
    kind: KindName
    dtype: str
    layers: tuple[Annotated[SerializeAsAny[Layer], PlainValidator(_layer)], ...] = Field(min_length=1, max_length=32)
    output: Name


def parameters_of(graph: KernelGraph) -> int:
    """How many parameters a kernel of this graph has; raises UsageError if there are too many."""
    count = sum(layer.parameters for layer in graph.layers)
    if count > PARAMETER_LIMIT:
        raise UsageError(f"it would have {count} parameters; {PARAMETER_LIMIT} are allowed")
    return count
