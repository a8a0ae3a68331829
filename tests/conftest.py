"""What every test starts from."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

# A shell starts what runs in the background without Ctrl-C, and programs that tests interrupt would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def wide_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of write_wide(), for tests that leave it as it is."""
    from tests.e2e.conftest import write_wide

    return write_wide(tmp_path_factory.mktemp("wide") / "model")
