"""Patterns and tensor names against PEFT's own functions."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from peft.utils.other import get_pattern_key

from fastconv.adapter.config import LoraConfig, pattern_key
from fastconv.adapter.names import Part, parse_name

WORDS = ["model", "layers", "0", "1", "10", "self_attn", "q_proj", "k_proj", "mlp", "up_proj", "lm_head"]
MODULES = st.lists(st.sampled_from(WORDS), min_size=1, max_size=5).map(".".join)
FRAGMENTS = [*WORDS, ".", r"\.", ".*", "^", "$", "|", "(0|1)", "[qk]_proj", r"\d+", "q_pro", "proj", "?"]


def compiles(pattern: str) -> bool:
    try:
        re.compile(rf"(.*\.)?({pattern})$")
    except re.error:
        return False
    return True


PATTERNS = st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=5).map("".join).filter(compiles)


@given(st.lists(PATTERNS | MODULES, max_size=4), MODULES)
def test_pattern_key_is_pefts(patterns: list[str], module: str) -> None:
    assert pattern_key(patterns, module) == get_pattern_key(patterns, module)


@pytest.mark.parametrize(
    ("pattern", "module", "matches"),
    [
        ("q_proj", "model.layers.0.self_attn.q_proj", True),
        ("q_proj", "model.layers.0.self_attn.my_q_proj", False),
        ("proj", "model.layers.0.self_attn.q_proj", False),
        (r"layers\.1\..*", "model.layers.10.mlp.up_proj", False),
        ("^model.layers.1.*", "model.layers.10.mlp.up_proj", True),
        ("^layers.1.mlp.up_proj", "model.layers.1.mlp.up_proj", False),
        ("layers.0.self_attn", "model.layers.0.self_attn.q_proj", False),
        ("lm_head", "lm_head", True),
    ],
)
def test_a_pattern_matches_a_suffix_after_a_dot(pattern: str, module: str, matches: bool) -> None:
    config = LoraConfig("", 8, 16, False, False, False, {pattern: 2}, {pattern: 3})
    assert config.rank_of(module) == (2 if matches else 8)
    assert config.scale_of(module) == (1.5 if matches else 2.0)


def test_rslora_divides_by_the_root_of_the_patterns_rank() -> None:
    config = LoraConfig("", 8, 16, True, False, False, {"q_proj": 2}, {})
    assert config.scale_of("q_proj") == 16 / math.sqrt(2)
    assert config.scale_of("k_proj") == 16 / math.sqrt(8)


def test_the_first_pattern_wins() -> None:
    config = LoraConfig("", 8, 16, False, False, False, {".*_proj": 2, "q_proj": 4}, {})
    assert config.rank_of("model.layers.0.self_attn.q_proj") == 2


@given(MODULES, st.sampled_from(["default", "my-adapter", "adapter_1"]))
def test_names_are_those_that_peft_writes_and_loads(module: str, adapter: str) -> None:
    """PEFT drops the adapter's name when it saves; state dicts of a model in memory keep it."""
    prefix = "base_model.model."
    for part, parameter, stored in (
        (Part.A, "weight", f"lora_A.{adapter}.weight"),
        (Part.B, "weight", f"lora_B.{adapter}.weight"),
        (Part.B_BIAS, "bias", f"lora_B.{adapter}.bias"),
        (Part.EMBEDDING_A, "weight", f"lora_embedding_A.{adapter}"),
        (Part.EMBEDDING_B, "weight", f"lora_embedding_B.{adapter}"),
        (Part.MAGNITUDE, "weight", f"lora_magnitude_vector.{adapter}.weight"),
        (Part.MODULES_TO_SAVE, "bias", f"modules_to_save.{adapter}.bias"),
    ):
        for name in (stored, stored.replace(f".{adapter}", "")):
            for start in ("", prefix, f"module.{prefix}"):
                parsed = parse_name(f"{start}{module}.{name}")
                assert parsed is not None
                assert (parsed.module, parsed.part, parsed.parameter) == (module, part, parameter)


@given(
    st.text(alphabet="abl_AB.", max_size=30) | st.lists(st.sampled_from([*WORDS, "lora_A", "weight", ""])).map(".".join)
)
@example(".weight")
@example("..lora_A.weight")
def test_any_text_is_a_name_or_none(name: str) -> None:
    parsed = parse_name(name)
    assert parsed is None or (parsed.module and parsed.parameter in ("weight", "bias"))
