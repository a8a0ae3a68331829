from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.crash.harness import Server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("crash").resolve())
    yield running
    running.close()
