from __future__ import annotations

import pytest

from fastconv import _native


@pytest.fixture(params=_native.isas())
def isa(request: pytest.FixtureRequest) -> str:
    """Each instruction set that this machine can run."""
    return str(request.param)
