"""The type of every tensor, against what llama-quantize of llama.cpp b11434 chose (tests/golden/recipes/make.py)."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pytest

from fastconv.plan.file_types import FILE_TYPES
from fastconv.plan.recipe import quantizer_order, tensor_types
from tests.gguf.recipe_cases import CASES, OPTIONS, RecipeCase

RECORDED = Path(__file__).parents[1] / "golden" / "recipes"


def names_by_kind(names: list[str]) -> dict[str, list[str]]:
    kinds: dict[str, list[str]] = {}
    for name in names:
        kinds.setdefault(re.sub(r"^blk\.\d+\.", "blk.*.", name), []).append(name)
    return kinds


def unpacked(text: str, count: int) -> list[str]:
    """The types that make.py packed as one text."""
    if " " not in text and "*" not in text:
        return [text] * count
    runs = (run.partition("*") for run in text.split())
    return [type_name for type_name, _, length in runs for _ in range(int(length or 1))]


def test_every_case_is_recorded() -> None:
    assert {path.stem for path in RECORDED.glob("*.json")} == {case.name for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_types_equal_llama_quantizes(case: RecipeCase) -> None:
    recorded = json.loads((RECORDED / f"{case.name}.json").read_text("utf-8"))
    tensors = case.tensors()
    names = names_by_kind(sorted((tensor.name for tensor in tensors), key=quantizer_order))
    for options in OPTIONS:
        if options.name not in recorded:
            continue
        found = recorded[options.name]
        assert found["kinds"] == list(names)
        for name, with_importance in itertools.product(FILE_TYPES, (False, True)):
            expected = found.get(f"{name}+imatrix", found[name]) if with_importance else found[name]
            recipe = options.as_recipe(with_importance=with_importance)
            types = tensor_types(tensors, FILE_TYPES[name], case.facts, recipe)
            by_kind = [[types[one] for one in alike] for alike in names.values()]
            assert by_kind == [
                unpacked(text, len(alike)) for text, alike in zip(expected, names.values(), strict=True)
            ], (options.name, name)


def test_options_are_recorded() -> None:
    recorded = [json.loads(path.read_text("utf-8")).keys() for path in RECORDED.glob("*.json")]
    assert {options.name for options in OPTIONS} <= set().union(*recorded)
