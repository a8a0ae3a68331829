"""config.json -> Hyperparameters, every value checked for type and range. Knows no tensors."""

from __future__ import annotations

from typing import Any

from fastconv.architecture.hparams import Hyperparameters, RopeScaling
from fastconv.errors import ArchitectureError

_MAX_SIZE = 1 << 31
_F32_MIN, _F32_MAX = 2.0**-126, (2 - 2.0**-23) * 2.0**127


def class_names(config: dict[str, Any], file: str) -> list[str]:
    """The classes of transformers that config.json names. Raises ArchitectureError where they are no list of names."""
    found = config.get("architectures") or []
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise ArchitectureError("architectures is not a list of names", file=file, found=repr(found))
    return found


def hf_hyperparameters(config: dict[str, Any], defaults: dict[str, Any]) -> Hyperparameters:
    """config: config.json as read. defaults: what the model class assumes for keys that are absent or null.

    Raises ArchitectureError for a value of the wrong type or out of range and for an unknown kind of rope scaling.
    """

    def value(key: str) -> Any:
        found = config.get(key)
        return defaults.get(key) if found is None else found

    def size(key: str, default: int | None = None) -> int:
        found = value(key)
        found = default if found is None else found
        if type(found) is not int or not 0 < found < _MAX_SIZE:
            raise _bad(key, found, f"a positive integer below {_MAX_SIZE}")
        return found

    def real(key: str, found: Any) -> float:
        if not _is_number(found) or found < _F32_MIN:
            raise _bad(key, found, "a positive number")
        return float(found)

    def flag(key: str) -> bool:
        found = value(key)
        if found is not None and type(found) is not bool:
            raise _bad(key, found, "true or false")
        return bool(found)

    n_embd, n_head = size("hidden_size"), size("num_attention_heads")
    n_head_kv = size("num_key_value_heads", n_head)
    if n_head % n_head_kv:
        raise _bad("num_key_value_heads", n_head_kv, f"a divisor of num_attention_heads ({n_head})")
    if value("head_dim") is None and n_embd % n_head:
        raise _bad("hidden_size", n_embd, f"a multiple of num_attention_heads ({n_head})")
    head_dim = size("head_dim", n_embd // n_head)
    if head_dim % 2:
        raise _bad("head_dim", head_dim, "an even number")
    rope = _rope(config)
    return Hyperparameters(
        n_vocab=size("vocab_size"),
        n_ctx=size("max_position_embeddings"),
        n_embd=n_embd,
        n_ff=size("intermediate_size"),
        n_layer=size("num_hidden_layers"),
        n_head=n_head,
        n_head_kv=n_head_kv,
        head_dim=head_dim,
        norm_eps=real("rms_norm_eps", value("rms_norm_eps")),
        rope_base=real("rope_theta", rope.pop("rope_theta", 10000.0)),
        rope_scaling=_rope_scaling(rope),
        tied_embeddings=flag("tie_word_embeddings"),
        attention_bias=flag("attention_bias"),
        mlp_bias=flag("mlp_bias"),
        n_mult=config.get("multiple_of"),
    )


def _rope(config: dict[str, Any]) -> dict[str, Any]:
    """Rope settings of both spellings: rope_parameters (transformers 5), or rope_theta beside rope_scaling."""
    found = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(found, dict):
        raise _bad("rope_scaling", found, "an object")
    rope = dict(found)
    for key in ("rope_theta", "original_max_position_embeddings"):
        if rope.get(key) is None:
            rope.pop(key, None)
            if config.get(key) is not None:
                rope[key] = config[key]
    return rope


def _rope_scaling(rope: dict[str, Any]) -> RopeScaling | None:
    kind = rope.pop("rope_type", None) or rope.pop("type", None) or "default"
    rope.pop("type", None)
    # "dynamic" bends positions only beyond the trained context; GGUF has no word for it and llama.cpp writes nothing.
    if kind in ("default", "dynamic"):
        return None
    if kind not in ("linear", "yarn", "llama3", "longrope", "su"):
        raise _bad("rope_scaling.rope_type", kind, "default, linear, dynamic, yarn, llama3 or longrope")
    rope = {key: found for key, found in rope.items() if found is not None}
    for key, found in rope.items():
        if key == "original_max_position_embeddings":
            if not _is_number(found) or not 1 <= found < _MAX_SIZE or found != int(found):
                raise _bad(f"rope_scaling.{key}", found, "a positive integer")
            rope[key] = int(found)
        elif key in ("short_factor", "long_factor"):
            if not isinstance(found, list) or not all(map(_is_number, found)):
                raise _bad(f"rope_scaling.{key}", found, "a list of numbers")
        elif ("factor" in key or "beta" in key or "mscale" in key) and not _is_number(found):
            raise _bad(f"rope_scaling.{key}", found, "a number")
    if kind in ("linear", "yarn", "llama3") and rope.get("factor", 0) < _F32_MIN:
        raise _bad("rope_scaling.factor", rope.get("factor"), f"a positive number, which {kind} scaling needs")
    if kind == "llama3":
        low, high = rope.get("low_freq_factor", 1.0), rope.get("high_freq_factor", 4.0)
        if not 0 < low < high:
            raise _bad("rope_scaling.high_freq_factor", high, f"more than low_freq_factor ({low}), and that above 0")
    return RopeScaling("longrope" if kind == "su" else kind, rope)


def _is_number(found: Any) -> bool:
    """Whether it is a number that a float32 holds."""
    return type(found) in (int, float) and abs(found) <= _F32_MAX  # false for NaN


def _bad(key: str, found: Any, expected: str) -> ArchitectureError:
    return ArchitectureError(f"{key} is not usable", file="config.json", found=repr(found), expected=expected)
