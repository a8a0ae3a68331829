"""The mixtures of types behind names such as q4_k_m: which type each tensor of a model gets, as tables.

Source: llama.cpp b11434, src/llama-quant.cpp (tensor_get_category, llama_tensor_get_type_impl). Knows names in GGUF's
spelling. What overrides a mixture, and which types stand in where rows do not fit, is recipe.py's.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import NamedTuple

from fastconv.plan.file_types import FileType
from fastconv.record import record
from fastconv.types import TYPES


@record(eq=True)
class ModelFacts:
    """What of a model the recipes look at. architecture: general.architecture. n_head_kv 0: no attention."""

    architecture: str
    n_layer: int
    n_head: int
    n_head_kv: int
    n_expert: int = 0

    @property
    def n_gqa(self) -> int:
        """Query heads that share a key/value head, rounded down."""
        return self.n_head // self.n_head_kv if self.n_head_kv else 0

    @property
    def is_falcon(self) -> bool:
        return self.architecture == "falcon"

    @property
    def is_70b(self) -> bool:
        """Whether llama.cpp calls the model's size 70B, which it does by the number of layers."""
        if self.architecture in ("llama", "llama-embed"):
            return self.n_layer == 80 and self.n_head != self.n_head_kv and self.n_expert != 8
        return self.n_layer == {"qwen2": 80, "deci": 80, "olmo": 80, "jais2": 68}.get(self.architecture)


class Role(enum.Enum):
    """What a tensor does, as far as the recipes care."""

    EMBEDDING = enum.auto()
    OUTPUT = enum.auto()
    ATTENTION_Q = enum.auto()
    ATTENTION_K = enum.auto()
    ATTENTION_V = enum.auto()
    ATTENTION_OUTPUT = enum.auto()
    FFN_UP = enum.auto()
    FFN_GATE = enum.auto()
    FFN_DOWN = enum.auto()
    OTHER = enum.auto()


# Parts of names, the first that is found counts. Joint projections that hold the values count as values.
_ROLES = (
    ("attn_qkv.weight", Role.ATTENTION_V),
    ("attn_kv_b.weight", Role.ATTENTION_V),
    ("attn_v.weight", Role.ATTENTION_V),
    ("attn_k.weight", Role.ATTENTION_K),
    ("attn_q.weight", Role.ATTENTION_Q),
    ("attn_output.weight", Role.ATTENTION_OUTPUT),
    ("ffn_up", Role.FFN_UP),
    ("ffn_gate", Role.FFN_GATE),
    ("ffn_down", Role.FFN_DOWN),
)
EMBEDDINGS = ("token_embd.weight", "per_layer_token_embd.weight")
OUTPUT = "output.weight"


def role_of(name: str) -> Role:
    """What the tensor of this name does."""
    if name == OUTPUT:
        return Role.OUTPUT
    if name in EMBEDDINGS:
        return Role.EMBEDDING
    return next((role for part, role in _ROLES if part in name), Role.OTHER)


class Place(NamedTuple):
    """Where a tensor stands. i, n: its number among those of its role, and their number (of layers, in the FFN)."""

    i: int
    n: int
    model: ModelFacts
    with_importance: bool


_When = Callable[[Place], bool]


def _always(_: Place) -> bool:
    return True


def _among_first(count: int) -> _When:
    return lambda place: place.i < count


def _in_first(part: int) -> _When:
    return lambda place: place.i < place.n // part


def _uses_more_bits(place: Place) -> bool:
    """The first and last eighth of the layers and every third between."""
    i, n = place.i, place.n
    return i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2


def _between_eighths(place: Place) -> bool:
    return place.n // 8 <= place.i < 7 * place.n // 8


def _groups_of_4(place: Place) -> bool:
    return place.model.n_gqa >= 4


def _groups_or_experts(place: Place) -> bool:
    return place.model.n_gqa >= 4 or place.model.n_expert >= 4


def _8_experts(place: Place) -> bool:
    return place.model.n_expert == 8


def _falcon(place: Place) -> bool:
    return place.model.is_falcon


def _importance(place: Place) -> bool:
    return place.with_importance


def _both(*conditions: _When) -> _When:
    return lambda place: all(condition(place) for condition in conditions)


def _either(*conditions: _When) -> _When:
    return lambda place: any(condition(place) for condition in conditions)


def _not(condition: _When) -> _When:
    return lambda place: not condition(place)


_Rules = tuple[tuple[_When, str], ...]


def _to(type_name: str) -> _Rules:
    return ((_always, type_name),)


# File type -> the first rule that holds; where none does, the file type's own type.
_Table = Mapping[str, _Rules]

UNDER_3_BITS = ("iq2_xxs", "iq2_xs", "iq2_s", "iq2_m", "iq1_s", "iq1_m")

_EMBEDDING: _Table = {
    **dict.fromkeys(("iq2_xxs", "iq2_xs", "iq1_s", "iq1_m"), _to("q2_k")),
    **dict.fromkeys(("iq2_s", "iq2_m", "iq3_xxs"), _to("iq3_s")),
    **dict.fromkeys(("tq1_0", "tq2_0"), _to("q4_k")),
}

_ATTENTION_Q: _Table = {"iq3_xs": _to("iq3_xxs"), "iq3_xxs": _to("iq2_s")}

_ATTENTION_K: _Table = {
    **dict.fromkeys(UNDER_3_BITS, ((_8_experts, "q4_k"),)),
    "iq3_xs": _to("iq3_xxs"),
    "iq3_xxs": _to("iq2_s"),
}

_ATTENTION_V: _Table = {
    **dict.fromkeys(("iq2_xxs", "iq2_xs", "iq1_s", "iq1_m"), ((_groups_or_experts, "q4_k"), (_always, "q2_k"))),
    **dict.fromkeys(("iq2_s", "iq2_m"), ((_groups_or_experts, "q4_k"), (_always, "iq3_s"))),
    "q2_k": ((_groups_of_4, "q4_k"), (_always, "q3_k")),
    "q2_k_s": ((_groups_of_4, "q4_k"),),
    "iq3_xxs": ((_groups_of_4, "q4_k"), (_not(_importance), "iq3_s")),
    "iq3_xs": ((_groups_of_4, "q4_k"),),
    "iq3_s": ((_groups_of_4, "q4_k"),),
    "iq3_m": _to("q4_k"),
    "q3_k_m": ((_among_first(2), "q5_k"), (_always, "q4_k")),
    "q3_k_l": _to("q5_k"),
    "iq4_nl": ((_groups_of_4, "q5_k"),),
    "iq4_xs": ((_groups_of_4, "q5_k"),),
    "q4_k_s": ((_among_first(4), "q5_k"),),
    "q4_k_m": ((_uses_more_bits, "q6_k"),),
    "q5_k_m": ((_uses_more_bits, "q6_k"),),
}

_FFN_DOWN: _Table = {
    **dict.fromkeys(("iq2_xxs", "iq2_xs", "iq1_s", "iq1_m"), ((_in_first(8), "q2_k"),)),
    **dict.fromkeys(("iq2_s", "iq2_m"), ((_in_first(8), "iq3_s"),)),
    "q2_k": _to("q3_k"),
    "q2_k_s": ((_in_first(8), "q4_k"),),
    "iq3_xxs": ((_importance, "iq3_xxs"), (_in_first(8), "q4_k"), (_always, "q3_k")),
    "iq3_m": ((_either(_in_first(8), _both(_8_experts, _uses_more_bits)), "q4_k"),),
    "q3_k_m": ((_in_first(16), "q5_k"), (_either(_not(_falcon), _uses_more_bits), "q4_k")),
    "q3_k_l": ((_falcon, "q4_k"), (_always, "q5_k")),
    "q4_k_s": ((_both(_not(_falcon), _in_first(8)), "q5_k"),),
    "q4_k_m": (
        (_both(_falcon, _in_first(16)), "q6_k"),
        (_both(_falcon, _uses_more_bits), "q5_k"),
        (_both(_not(_falcon), _uses_more_bits), "q6_k"),
    ),
    "q5_k_m": ((_uses_more_bits, "q6_k"),),
    "iq4_nl": ((_both(_in_first(8), _not(_importance)), "q5_k"),),
    "iq4_xs": ((_both(_in_first(8), _not(_importance)), "q5_k"),),
    "q4_0": ((_both(_in_first(8), _importance), "q4_1"),),
    "q5_0": ((_both(_in_first(8), _importance), "q5_1"),),
}

_FFN_UP_AND_GATE: _Table = {"iq3_xs": ((_between_eighths, "iq3_xxs"),)}

_ATTENTION_OUTPUT: _Table = {
    **dict.fromkeys(("iq2_xxs", "iq2_xs"), ((_8_experts, "q5_k"),)),
    **dict.fromkeys(("iq1_s", "iq1_m"), ((_8_experts, "q5_k"), (_always, "iq2_xxs"))),
    **dict.fromkeys(("iq2_s", "iq2_m"), ((_8_experts, "q5_k"), (_always, "iq3_s"))),
    **dict.fromkeys(
        ("q3_k_s", "q4_k_s", "q4_k_m", "iq3_xs", "iq3_s", "iq4_nl", "iq4_xs"),
        ((_both(_not(_falcon), _8_experts), "q5_k"),),
    ),
    "q2_k": ((_falcon, "q2_k"), (_8_experts, "q5_k"), (_always, "q3_k")),
    "iq3_xxs": ((_falcon, "iq3_xxs"), (_8_experts, "q5_k"), (_always, "iq3_s")),
    "q3_k_m": ((_falcon, "q3_k"), (_8_experts, "q5_k"), (_always, "q4_k")),
    "iq3_m": ((_falcon, "iq3_s"), (_8_experts, "q5_k"), (_always, "q4_k")),
    "q3_k_l": ((_falcon, "q4_k"), (_8_experts, "q3_k"), (_always, "q5_k")),
}

_TABLES: dict[Role, _Table] = {
    Role.EMBEDDING: _EMBEDDING,
    Role.ATTENTION_Q: _ATTENTION_Q,
    Role.ATTENTION_K: _ATTENTION_K,
    Role.ATTENTION_V: _ATTENTION_V,
    Role.ATTENTION_OUTPUT: _ATTENTION_OUTPUT,
    Role.FFN_UP: _FFN_UP_AND_GATE,
    Role.FFN_GATE: _FFN_UP_AND_GATE,
    Role.FFN_DOWN: _FFN_DOWN,
}

# File types whose output is q5_k; that of the others is q6_k.
_Q5_K_OUTPUT = ("iq3_xxs", *UNDER_3_BITS)


def mixture_type(file_type: FileType, role: Role, place: Place) -> str:
    """The type that the file type's mixture gives a tensor of this role, the output and what serves as one excepted."""
    rules = _TABLES.get(role, {}).get(file_type.name, ())
    chosen = next((chosen for when, chosen in rules if when(place)), file_type.type)
    if file_type.name in UNDER_3_BITS:
        return chosen
    if role is Role.ATTENTION_V and place.model.is_70b and chosen in ("q3_k", "q4_k"):
        chosen = "q5_k"  # eight heads share it, so it is small
    if role in (Role.ATTENTION_V, Role.ATTENTION_K) and _8_experts(place):
        chosen = "q8_0"
    return chosen


def output_type(file_type: FileType, model: ModelFacts, n_cols: int) -> str:
    """The type of the output, or of the embeddings that serve as one. n_cols: of its rows."""
    if model.is_falcon or n_cols % TYPES[file_type.type].block_size or file_type.type == "q8_0":
        return "q8_0"
    return "q5_k" if file_type.name in _Q5_K_OUTPUT else "q6_k"
