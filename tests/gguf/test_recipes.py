"""The type of every tensor, against what llama-quantize of llama.cpp b11434 chose (tests/golden/recipes/make.py)."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import gguf
import pytest

from fastconv.errors import PlanError, UsageError
from fastconv.plan.file_types import ALIASES, FILE_TYPES, file_type
from fastconv.plan.mixtures import ModelFacts
from fastconv.plan.recipe import Recipe, UnquantizedTensor, quantizer_order, recipe_for, tensor_types
from fastconv.request import ConvertRequest, split_tensor_type
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


def types_of(shapes: dict[str, tuple[int, ...]], outtype: str, **options: Any) -> dict[str, str]:
    tensors = [UnquantizedTensor(name, shape, "f16" if len(shape) > 1 else "f32") for name, shape in shapes.items()]
    return tensor_types(tensors, FILE_TYPES[outtype], ModelFacts("llama", 1, 4, 4), Recipe(**options))


def test_file_types_are_those_of_llama_quantize() -> None:
    """Its table (tools/quantize/quantize.cpp of b11434), but for types that no model of ours is published in."""
    theirs = """Q1_0 Q2_0 Q4_0 Q4_1 MXFP4_MOE Q5_0 Q5_1 IQ2_XXS IQ2_XS IQ2_S IQ2_M IQ1_S IQ1_M TQ1_0 TQ2_0 Q2_K Q2_K_S
    IQ3_XXS IQ3_S IQ3_M Q3_K IQ3_XS Q3_K_S Q3_K_M Q3_K_L IQ4_NL IQ4_XS Q4_K Q4_K_S Q4_K_M Q5_K Q5_K_S Q5_K_M Q6_K Q8_0
    F16 BF16 F32"""
    assert {*FILE_TYPES, *ALIASES} == {*theirs.lower().split()} - {"q1_0", "q2_0", "mxfp4_moe"}


@pytest.mark.parametrize(
    ("name", "found"),
    [("q4_k", "q4_k_m"), ("Q5_K", "q5_k_m"), ("q3_K", "q3_k_m"), ("Q4_K_M", "q4_k_m"), ("Iq4_Xs", "iq4_xs")],
)
def test_names_in_any_case_and_aliases(name: str, found: str) -> None:
    assert file_type(name) is FILE_TYPES[found]


def test_numbers_of_file_types_are_ggufs() -> None:
    for found in FILE_TYPES.values():
        assert gguf.LlamaFileType[found.gguf_name].name.removeprefix("MOSTLY_").removeprefix("ALL_").lower() in (
            found.name,
            found.type,
        )


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((2, 256), "q4_k"), ((1, 256), "f32"), ((256,), "f32"), ((1, 2, 256), "q4_k"), ((2, 1, 256), "q4_k"), ((), "f32")],
)
def test_leading_dimensions_of_1_do_not_count(shape: tuple[int, ...], expected: str) -> None:
    name = "blk.0.attn_q.weight"
    tensor = UnquantizedTensor(name, shape, "f32")
    types = tensor_types([tensor], FILE_TYPES["q4_k_m"], ModelFacts("llama", 1, 4, 4), Recipe())
    assert types == {name: expected}


@pytest.mark.parametrize(("rest", "block"), [(0, "iq2_xs"), (32, "iq4_nl"), (16, "f16")])
def test_what_stands_in_where_rows_do_not_fit(rest: int, block: str) -> None:
    shapes = {"blk.0.attn_q.weight": (2, 256 + rest), "output.weight": (2, 256)}
    assert types_of(shapes, "iq2_xs")["blk.0.attn_q.weight"] == block


@pytest.mark.parametrize(
    ("shapes", "options", "message"),
    [
        (
            {"token_embd.weight": (2, 96)},
            {"embedding_type": "q4_k"},
            "tensor token_embd.weight: q4_k cannot hold it: found rows of 96 elements, expected a multiple of 256",
        ),
        ({"output.weight": (2, 48)}, {"output_type": "q8_0"}, "output.weight: q8_0 cannot hold it"),
        (
            {"blk.0.attn_q.weight": (2, 256), "blk.0.attn_norm.weight": (256,)},
            {"patterns": ((re.compile("attn_norm"), "q8_0"),)},
            "--tensor-type matches no tensor that can be quantized: found attn_norm, expected a part of a name such as",
        ),
        (
            {"blk.0.attn_q.weight": (2, 256)},
            {"patterns": ((re.compile("attn_q"), "q8_0"), (re.compile(r"ffn_.*"), "q8_0"))},
            r"matches no tensor .*: found ffn_\.\*",
        ),
    ],
)
def test_what_cannot_be_planned(shapes: dict[str, tuple[int, ...]], options: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        types_of(shapes, "q4_k_m", **options)


def test_experts_without_a_layer() -> None:
    tensors = [UnquantizedTensor("ffn_down_exps.weight", (8, 2, 256), "f16")]
    with pytest.raises(PlanError, match=r"ffn_down_exps\.weight: has no layer that the recipe could go by"):
        tensor_types(tensors, FILE_TYPES["q4_k_m"], ModelFacts("llama", 2, 4, 4, 8), Recipe())


def recipe_of(outtypes: tuple[str, ...] = ("q4_k_m",), **options: Any) -> Recipe:
    request = ConvertRequest("model", outtypes=outtypes, **options)
    return recipe_for(request, None, [FILE_TYPES[name] for name in outtypes])


def test_patterns_do_not_heed_case() -> None:
    """llama-quantize lowers them; but a class such as \\S must stay what it is."""
    recipe = recipe_of(tensor_types=(("ATTN_V|\\S+OUTPUT$", "Q8_0"),))
    [(pattern, name)] = recipe.patterns
    assert name == "q8_0"
    assert pattern.search("blk.1.attn_v.weight")
    assert pattern.search("xoutput")
    assert not pattern.search("blk.1.attn_q.weight")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"tensor_types": (("attn_v", "q9_0"),)},
            "--tensor-type names no tensor type: found q9_0, expected one of f32",
        ),
        ({"tensor_types": (("attn_v", "q4_0_v1"),)}, "--tensor-type names no tensor type"),
        ({"tensor_types": (("attn_v", "i8"),)}, "--tensor-type names no tensor type"),
        ({"output_tensor_type": "q4_k_m"}, "--output-tensor-type names no tensor type: found q4_k_m"),
        ({"token_embedding_type": "f64"}, "--token-embedding-type names no tensor type"),
        ({"tensor_types": (("attn_(v", "q8_0"),)}, r"--tensor-type is no regular expression: found attn_\(v: missing"),
        ({"tensor_types": (("[[:digit:]]", "q8_0"),)}, "has a class such as"),
        ({"tensor_types": (("", "q8_0"),)}, "the pattern of --tensor-type is empty"),
        ({"outtypes": ("f16", "f32"), "tensor_types": (("x", "q8_0"),)}, "--tensor-type changes quantized types only"),
        ({"leave_output_tensor": True, "output_tensor_type": "q8_0"}, "contradict each other"),
        ({"to": "ggjt", "imatrix": "x"}, "--imatrix is for GGUF: found --to ggjt"),
        ({"to": "ggjt", "leave_output_tensor": True}, "--leave-output-tensor is for GGUF"),
        ({"vocab_only": True, "token_embedding_type": "q8_0"}, "--token-embedding-type means nothing"),
        ({"imatrix": ""}, "--imatrix is an empty name"),
    ],
)
def test_what_makes_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        recipe_of(**options)


@pytest.mark.parametrize("text", ["attn_v", "=q8_0", "attn_v=", ""])
def test_a_pattern_and_its_type(text: str) -> None:
    with pytest.raises(UsageError, match="--tensor-type is not PATTERN=TYPE"):
        split_tensor_type(text)
    assert split_tensor_type("a=b=c") == ("a", "b=c")
