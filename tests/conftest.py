from __future__ import annotations

from tests.adapters import log_url_factory

__all__ = ["log_url_factory"]
