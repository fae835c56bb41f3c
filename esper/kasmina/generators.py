"""The global random generators of torch, NumPy and Python, as plain data."""

from __future__ import annotations

import ctypes
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

State = dict[str, Any]

_HEAD = object.__basicsize__  # the reference count and the type, which are no part of the state
_MT19937_BYTES = 625 * 4
_seen: tuple[bytes, State] = (b"", {})


def capture(device_types: Sequence[str] = ("cuda",)) -> State:
    """The states of torch's CPU generator, of every device's in ``device_types`` if it is initialised, and of the
    global generators of NumPy and Python: uint8 and int32 tensors, ints, floats and tuples. Treat as immutable."""
    state: State = {"torch": torch.get_rng_state(), "numpy": _capture_numpy(), "python": random.getstate()}
    for device in device_types:
        module = torch.get_device_module(device)
        if module.is_initialized():
            state[device] = module.get_rng_state_all()
    return state


def restore(state: Mapping[str, Any]) -> None:
    """Sets every generator that ``capture`` saved."""
    torch.set_rng_state(state["torch"])
    _restore_numpy(state["numpy"])
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    for device in state.keys() - {"torch", "numpy", "python"}:
        torch.get_device_module(device).set_rng_state_all(state[device])


def same(a: Any, b: Any) -> bool:
    """Whether two captured states, or parts of them, are equal."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, Mapping):
        return isinstance(b, Mapping) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


@contextmanager
def preserved() -> Iterator[None]:
    """Leaves the generators as they were, whatever the block draws."""
    state = capture()
    try:
        yield
    finally:
        restore(state)


def _capture_numpy() -> State:
    global _seen
    memory = _numpy_memory()
    if not memory or memory != _seen[0]:
        _seen = (memory, _plain(np.random.get_state(legacy=False)))
    return _seen[1]


def _restore_numpy(state: State) -> None:
    if state is _seen[1] and _seen[0] and _numpy_memory() == _seen[0]:
        return
    np.random.set_state(_numpy(state))


def _numpy_memory() -> bytes:
    """The bytes that hold NumPy's global generator; empty if it is not the usual one.

    Only compared, never written: NumPy takes 100 µs to hand its state out or to take it back, which a step with a
    seed in training does four times, mostly to find that nobody drew from it.
    """
    generator = np.random.mtrand._rand
    source = generator._bit_generator
    if type(source) is not np.random.MT19937 or source.ctypes is None:
        return b""
    cached_gaussian = ctypes.string_at(id(generator) + _HEAD, type(generator).__basicsize__ - _HEAD)
    return ctypes.string_at(source.ctypes.state_address, _MT19937_BYTES) + cached_gaussian


def _plain(state: Any) -> Any:
    if isinstance(state, Mapping):
        return {name: _plain(value) for name, value in state.items()}
    if isinstance(state, np.ndarray):
        return {"dtype": state.dtype.str, "bytes": torch.from_numpy(state.view(np.uint8))}
    return state


def _numpy(state: Any) -> Any:
    if not isinstance(state, Mapping):
        return state
    if state.keys() == {"dtype", "bytes"}:
        return state["bytes"].numpy().view(state["dtype"])
    return {name: _numpy(value) for name, value in state.items()}
