from __future__ import annotations

from tests.gguf.conftest import digests_as_names

__all__ = ["digests_as_names"]
