from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.adapter.peft_models import Llama, make_llama


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Llama]:
    """Models by the keywords of LlamaConfig, each built once."""
    made: dict[str, Llama] = {}

    def make(**keywords: Any) -> Llama:
        key = repr(sorted(keywords.items()))
        if key not in made:
            made[key] = make_llama(tmp_path_factory.mktemp("llama"), keywords)
        return made[key]

    return make
