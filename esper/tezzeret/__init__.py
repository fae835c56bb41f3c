"""Tezzeret: compiles blueprints into kernels, and examines them before they are born."""

from __future__ import annotations

from esper.tezzeret.birth import compile_kernel
from esper.tezzeret.builder import build
from esper.tezzeret.kernel import load_kernel
from esper.tezzeret.module import Kernel

__all__ = ["Kernel", "build", "compile_kernel", "load_kernel"]
