from __future__ import annotations

from pathlib import Path

import pytest

from fastconv import _native
from tests.engine.tensors import Disk


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


@pytest.fixture(params=_native.isas())
def isa(request: pytest.FixtureRequest) -> str:
    """Every instruction set that this build holds and this machine runs."""
    return str(request.param)
