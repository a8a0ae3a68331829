"""config.json: defaults as transformers has them, and one line for every value that cannot be."""

from __future__ import annotations

from typing import Any

import pytest

from fastconv.architecture.llama import LLAMA
from fastconv.errors import ArchitectureError

SIZES = {
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
YARN = {"type": "yarn", "factor": 4.0}


def test_defaults_are_those_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    for name in ("Llama", "Mistral"):
        theirs = getattr(transformers, f"{name}Config")()
        ours = LLAMA.hyperparameters({"architectures": [f"{name}ForCausalLM"]})
        assert ours.n_vocab == theirs.vocab_size
        assert ours.n_embd == theirs.hidden_size
        assert ours.n_ff == theirs.intermediate_size
        assert ours.n_layer == theirs.num_hidden_layers
        assert ours.n_head == theirs.num_attention_heads
        assert ours.n_head_kv == theirs.num_key_value_heads
        assert ours.n_ctx == theirs.max_position_embeddings
        assert ours.norm_eps == theirs.rms_norm_eps
        assert ours.head_dim == (theirs.head_dim or theirs.hidden_size // theirs.num_attention_heads)
        assert ours.tied_embeddings == theirs.tie_word_embeddings


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hidden_size": "64"}, "hidden_size is not usable: found '64', expected a positive integer"),
        ({"hidden_size": 0}, "hidden_size is not usable"),
        ({"hidden_size": True}, "hidden_size is not usable"),
        ({"num_hidden_layers": -1}, "num_hidden_layers is not usable"),
        ({"vocab_size": 1 << 40}, "vocab_size is not usable"),
        ({"num_key_value_heads": 3}, "expected a divisor of num_attention_heads (4)"),
        ({"hidden_size": 66}, "expected a multiple of num_attention_heads (4)"),
        ({"head_dim": 7}, "expected an even number"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is not usable"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps is not usable"),
        ({"rope_theta": -1}, "rope_theta is not usable"),
        ({"tie_word_embeddings": "yes"}, "expected true or false"),
        ({"rope_scaling": [1]}, "rope_scaling is not usable"),
        ({"rope_scaling": {"type": "magic", "factor": 2.0}}, "found 'magic', expected default, linear"),
        ({"rope_scaling": {"type": "linear"}}, "which linear scaling needs"),
        ({"rope_theta": 1e-320}, "rope_theta is not usable"),
        ({"rope_scaling": {"type": "linear", "factor": "two"}}, "expected a number"),
        ({"rope_scaling": {"type": "linear", "factor": [2.0]}}, "expected a number"),
        ({"rope_scaling": {"type": "linear", "factor": float("inf")}}, "expected a number"),
        ({"rope_scaling": {"type": "linear", "factor": -2.0}}, "expected a positive number"),
        ({"rope_scaling": YARN | {"original_max_position_embeddings": -1}}, "expected a positive integer"),
        ({"rope_scaling": YARN | {"original_max_position_embeddings": 0.5}}, "expected a positive integer"),
        ({"rope_scaling": YARN | {"original_max_position_embeddings": 1 << 40}}, "expected a positive integer"),
        ({"rope_scaling": YARN | {"original_max_position_embeddings": [1]}}, "expected a positive integer"),
        ({"rope_scaling": YARN | {"attention_factor": []}}, "rope_scaling.attention_factor is not usable"),
        ({"rope_scaling": YARN | {"beta_fast": 10**400}}, "rope_scaling.beta_fast is not usable"),
        ({"rope_scaling": YARN | {"type": "llama3", "low_freq_factor": 4.0}}, "expected more than low_freq_factor"),
        ({"rope_scaling": YARN | {"type": "llama3", "low_freq_factor": 0}}, "expected more than low_freq_factor"),
        ({"rope_scaling": {"type": "longrope", "long_factor": 2.0}}, "expected a list of numbers"),
        ({"rope_scaling": {"type": "longrope", "long_factor": ["x"]}}, "expected a list of numbers"),
    ],
)
def test_values_that_cannot_be(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ArchitectureError) as caught:
        LLAMA.hyperparameters(SIZES | change)
    assert said in str(caught.value)


@pytest.mark.parametrize("spelling", ["rope_scaling", "rope_parameters"])
def test_rope_settings_in_both_spellings(spelling: str) -> None:
    settings = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}
    config: dict[str, Any] = {spelling: settings}
    if spelling == "rope_parameters":
        config[spelling] = settings | {"rope_theta": 500000.0}
    else:
        config["rope_theta"] = 500000.0
    hparams = LLAMA.hyperparameters(SIZES | config)
    assert hparams.rope_base == 500000.0
    assert hparams.rope_scaling is not None
    assert hparams.rope_scaling.kind == "llama3"
    assert hparams.rope_scaling.parameters["factor"] == 8.0


def test_settings_that_are_null_are_as_if_absent() -> None:
    settings = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": None, "high_freq_factor": None}
    hparams = LLAMA.hyperparameters(SIZES | {"architectures": None, "rope_scaling": settings})
    assert hparams.rope_scaling is not None
    assert hparams.rope_scaling.parameters == {"factor": 8.0}


def test_a_whole_number_may_be_written_as_a_real_one() -> None:
    hparams = LLAMA.hyperparameters(SIZES | {"rope_scaling": YARN | {"original_max_position_embeddings": 8192.0}})
    assert hparams.rope_scaling is not None
    assert hparams.rope_scaling.parameters["original_max_position_embeddings"] == 8192
