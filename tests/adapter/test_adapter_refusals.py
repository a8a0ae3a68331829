"""One malformed or unsupported adapter per rule: what is raised, and that it names file and tensor or field."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastconv.adapter import config as adapter_config
from fastconv.adapter.attach import attach_adapters
from fastconv.architecture.canonical import canonical_model
from fastconv.architecture.spec import CanonicalModel
from fastconv.checkpoint.open import open_checkpoint
from fastconv.errors import AdapterError, CheckpointError, FastconvError, UsageError
from tests.models import LlamaShape, write_hf, write_safetensors

Q = "base_model.model.model.layers.0.self_attn.q_proj"
EMBEDDING = "base_model.model.model.embed_tokens"
HEAD = "base_model.model.lm_head"
SHAPE = LlamaShape(n_vocab=320, n_embd=64)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> CanonicalModel:
    directory = tmp_path_factory.mktemp("model")
    write_hf(directory, SHAPE, tokenizer=False)
    return canonical_model(open_checkpoint(directory))


@pytest.fixture(scope="module")
def tied_model(tmp_path_factory: pytest.TempPathFactory) -> CanonicalModel:
    directory = tmp_path_factory.mktemp("tied")
    write_hf(directory, dataclasses.replace(SHAPE, tied=True), tokenizer=False)
    return canonical_model(open_checkpoint(directory))


def tensor(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def pair(module: str, n_out: int = 64, n_in: int = 64, rank: int = 4) -> dict[str, np.ndarray]:
    return {f"{module}.lora_A.weight": tensor(rank, n_in), f"{module}.lora_B.weight": tensor(n_out, rank)}


def write_adapter(directory: Path, tensors: dict[str, np.ndarray], **fields: Any) -> Path:
    directory.mkdir(exist_ok=True)
    write_safetensors(directory / "adapter_model.safetensors", tensors, "F32")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]} | fields
    (directory / "adapter_config.json").write_text(json.dumps(config))
    return directory


def test_the_adapter_these_cases_spoil_is_sound(model: CanonicalModel, tmp_path: Path) -> None:
    adapted = attach_adapters(model, [(write_adapter(tmp_path, pair(Q)), 1.0)])
    assert len(adapted.tensors["model.layers.0.self_attn.q_proj.weight"].deltas) == 1


# name -> (tensors, fields of adapter_config.json, the tensor named, what the message says)
TENSORS: dict[str, tuple[dict[str, np.ndarray], dict[str, Any], str, str]] = {
    "no such layer": (
        pair(Q.replace("layers.0", "layers.2")),
        {},
        Q.replace("layers.0", "layers.2") + ".lora_B.weight",
        "the model has no such tensor: expected a model.layers.2.self_attn.q_proj.weight in the model",
    ),
    "no such module": (pair("base_model.model.transformer.h.0.attn.c_attn"), {}, "c_attn", "the model has no such"),
    "a classifier": (pair(Q) | {"base_model.model.score.weight": tensor(2, 64)}, {}, "score.weight", "no such tensor"),
    "A without B": ({f"{Q}.lora_A.weight": tensor(4, 64)}, {}, f"{Q}.lora_A.weight", "has no lora_B beside it"),
    "B without A": ({f"{Q}.lora_B.weight": tensor(64, 4)}, {}, f"{Q}.lora_B.weight", "has no lora_A beside it"),
    "embedding A without B": (
        {f"{EMBEDDING}.lora_embedding_A": tensor(4, 320)}, {}, "lora_embedding_A", "has no lora_embedding_B beside it",
    ),
    "A of another width": (pair(Q, n_in=32), {}, f"{Q}.lora_A.weight", "found [4, 32], expected [4, 64]"),
    "B of another height": (pair(Q, n_out=32), {}, f"{Q}.lora_B.weight", "found [32, 4], expected [64, 4]"),
    "another rank": (pair(Q), {"r": 8}, f"{Q}.lora_A.weight", "found [4, 64], expected [8, 64]"),
    "a rank_pattern that disagrees": (
        pair(Q), {"rank_pattern": {"q_proj": 2}}, f"{Q}.lora_A.weight", "found [4, 64], expected [2, 64]",
    ),
    "factors swapped": (
        {f"{Q}.lora_A.weight": tensor(64, 4), f"{Q}.lora_B.weight": tensor(4, 64)}, {}, "lora_A", "found [64, 4]",
    ),
    "embedding factors swapped": (
        {f"{EMBEDDING}.lora_embedding_A": tensor(4, 64), f"{EMBEDDING}.lora_embedding_B": tensor(320, 4)},
        {},
        "lora_embedding_A",
        "found [4, 64], expected [4, 320]",
    ),
    "convolution": (
        {f"{Q}.lora_A.weight": tensor(4, 64, 1, 1), f"{Q}.lora_B.weight": tensor(64, 4, 1, 1)},
        {},
        "lora_A",
        "found [4, 64, 1, 1], expected [4, 64]; updates of convolutions are not supported",
    ),
    "partitioned": (
        {f"{Q}.lora_A.weight": tensor(0), f"{Q}.lora_B.weight": tensor(0)},
        {},
        "lora_A",
        "found [0], expected [4, 64]; the adapter was saved from a partitioned model without gathering it",
    ),
    "update of a vector": (
        pair("base_model.model.model.norm"), {}, "norm.lora_B.weight", "its target is not a matrix: found [64]",
    ),
    "twice": (
        pair(Q) | {f"{Q}.lora_A.default.weight": tensor(4, 64)},
        {},
        f"{Q}.lora_A.",
        f"appears twice: found also {Q}.lora_A.",
    ),
    "two adapters in a file": (
        pair(Q) | {f"{Q}.lora_A.other.weight": tensor(4, 64), f"{Q}.lora_B.other.weight": tensor(64, 4)},
        {},
        f"{Q}.lora_A.",
        "appears twice",
    ),
    "twice by another spelling": (
        pair(Q) | pair(Q.removeprefix("base_model.model.model.")),
        {},
        "layers.0.self_attn.q_proj.lora_B.weight",
        "is updated twice",
    ),
    "whole twice by another spelling": (
        {"model.norm.weight": tensor(64), "norm.weight": tensor(64)}, {}, "norm.weight", "is replaced twice",
    ),
    "both kinds of factors": (
        pair(EMBEDDING, 320) | {f"{EMBEDDING}.lora_embedding_A": tensor(4, 320)},
        {},
        "lora_embedding_A",
        "the module has both kinds of factors",
    ),
    "linear factors on the embedding": (
        pair(EMBEDDING, 320), {}, f"{EMBEDDING}.lora_A.weight", "the embedding has factors of its own kind",
    ),
    "embedding factors on a projection": (
        {f"{Q}.lora_embedding_A": tensor(4, 64), f"{Q}.lora_embedding_B": tensor(64, 4)},
        {},
        f"{Q}.lora_embedding_A",
        "the module is no embedding",
    ),
    "an unknown part": (pair(Q) | {f"{Q}.lora_E": tensor(4, 1)}, {}, f"{Q}.lora_E", "is not a tensor of a LoRA"),
    "a quantization state": (
        pair(Q) | {f"{Q}.weight.absmax": tensor(4)}, {}, f"{Q}.weight.absmax", "is not a tensor of a LoRA adapter",
    ),
    "rows of the embedding": (
        pair(Q) | {f"{EMBEDDING}.token_adapter.trainable_tokens_delta": tensor(2, 64)},
        {},
        "trainable_tokens_delta",
        "is not a tensor of a LoRA adapter",
    ),
    "no magnitude": (pair(Q), {"use_dora": True}, f"{Q}.lora_A.weight", "has no lora_magnitude_vector beside it"),
    "magnitude alone": ({f"{Q}.lora_magnitude_vector": tensor(64)}, {"use_dora": True}, "magnitude", "has no lora_A"),
    "magnitude unasked": (
        pair(Q) | {f"{Q}.lora_magnitude_vector": tensor(64)}, {}, "lora_magnitude_vector", "use_dora is not set",
    ),
    "magnitude of another size": (
        pair(Q) | {f"{Q}.lora_magnitude_vector": tensor(32)},
        {"use_dora": True},
        "lora_magnitude_vector",
        "found [32], expected [64]",
    ),
    "DoRA of the embedding": (
        {
            f"{EMBEDDING}.lora_embedding_A": tensor(4, 320),
            f"{EMBEDDING}.lora_embedding_B": tensor(64, 4),
            f"{EMBEDDING}.lora_magnitude_vector": tensor(64),
        },
        {"use_dora": True},
        f"{EMBEDDING}.lora_magnitude_vector",
        "DoRA on an embedding rescales its columns: not supported",
    ),
    "lora_bias without biases": (
        pair(Q) | {f"{Q}.lora_B.bias": tensor(64)},
        {"lora_bias": True},
        f"{Q}.lora_B.bias",
        "the model has no such tensor: expected a model.layers.0.self_attn.q_proj.bias in the model",
    ),
    "lora_bias unasked": (pair(Q) | {f"{Q}.lora_B.bias": tensor(64)}, {}, f"{Q}.lora_B.bias", "lora_bias is not set"),
    "no lora_bias": (pair(Q), {"lora_bias": True}, f"{Q}.lora_A.weight", "has no lora_B bias beside it"),
    "trained bias without one": (pair(Q) | {f"{Q}.bias": tensor(64)}, {"bias": "all"}, f"{Q}.bias", "no such tensor"),
    "whole tensor of another shape": (
        {f"{Q}.weight": tensor(64, 32)}, {}, f"{Q}.weight", "found [64, 32], expected [64, 64]",
    ),
    "copies that disagree": (
        {f"{HEAD}.weight": tensor(320, 64), f"{HEAD}.modules_to_save.weight": tensor(320, 64) + 1},
        {},
        f"{HEAD}.modules_to_save.weight",
        "disagrees with its copy",
    ),
    "only what training began with": (
        {f"{HEAD}.original_module.weight": tensor(320, 64)}, {}, "original_module", "what it ended with is missing",
    ),
    "trained and base": (
        {f"{HEAD}.weight": tensor(320, 64), f"{HEAD}.base_layer.weight": tensor(320, 64)}, {}, "base_layer", "twice",
    ),
    "embedding resized alone": (
        {f"{EMBEDDING}.weight": tensor(324, 64)},
        {},
        "lm_head.weight",
        "the vocabulary was resized for one tensor only: found 320 rows, expected 324",
    ),
    "embedding of no rows": ({f"{EMBEDDING}.weight": tensor(0, 64)}, {}, f"{EMBEDDING}.weight", "found [0, 64]"),
    "embedding of other columns": (
        {f"{EMBEDDING}.weight": tensor(320, 32), f"{HEAD}.weight": tensor(320, 32)}, {}, ".weight", "found [320, 32]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TENSORS)
def test_a_tensor_that_cannot_be_placed(case: str, model: CanonicalModel, tmp_path: Path) -> None:
    tensors, fields, named, message = TENSORS[case]
    adapter = write_adapter(tmp_path, tensors, **fields)
    with pytest.raises(AdapterError) as raised:
        attach_adapters(model, [(adapter, 1.0)])
    assert raised.value.file == str(adapter / "adapter_model.safetensors")
    assert raised.value.tensor is not None
    assert named in raised.value.tensor
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("dtype", ["I32", "U8", "BOOL", "F8_E8M0"])
def test_a_type_without_values(dtype: str, model: CanonicalModel, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path, pair(Q))
    size = 4 if dtype == "I32" else 1
    header = {
        f"{Q}.lora_A.weight": {"dtype": dtype, "shape": [4, 64], "data_offsets": [0, 256 * size]},
        f"{Q}.lora_B.weight": {"dtype": dtype, "shape": [64, 4], "data_offsets": [256 * size, 512 * size]},
    }
    text = json.dumps(header).encode()
    data = len(text).to_bytes(8, "little") + text + bytes(512 * size)
    (adapter / "adapter_model.safetensors").write_bytes(data)
    with pytest.raises(AdapterError, match=r"lora_A.weight: has a type that cannot be applied: found"):
        attach_adapters(model, [(adapter, 1.0)])


# field -> a value that asks for something else than a plain LoRA
UNSUPPORTED: dict[str, Any] = {
    "alora_invocation_tokens": [1, 2],
    "arrow_config": {"top_k": 2},
    "enable_lora": [True, False, True],
    "kasa_config": {"beta": 1.0},
    "layer_replication": [[0, 2], [1, 2]],
    "megatron_config": {"hidden_size": 64},
    "monteclora_config": {"num_samples": 4},
    "target_parameters": ["mlp.experts.gate_up_proj"],
    "trainable_token_indices": [0],
    "use_bdlora": {"nblocks": 2},
    "use_qalora": True,
    "velora_config": {"num_groups": 4},
    "a_field_of_tomorrow": 1,
    "another_of_tomorrow": {"on": True},
}


@pytest.mark.parametrize("field", UNSUPPORTED)
def test_a_field_that_changes_the_result(field: str, model: CanonicalModel, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path, pair(Q), **{field: UNSUPPORTED[field]})
    with pytest.raises(AdapterError, match=rf"adapter_config.json: {field} .* not supported: found {field} = "):
        attach_adapters(model, [(adapter, 1.0)])


@pytest.mark.parametrize("value", [None, False, {}, [], "", 0])
def test_a_field_that_is_off_is_no_obstacle(value: Any, model: CanonicalModel, tmp_path: Path) -> None:
    fields = dict.fromkeys(UNSUPPORTED, value)
    attach_adapters(model, [(write_adapter(tmp_path, pair(Q), **fields), 1.0)])


def test_every_field_of_peft_is_known() -> None:
    """A field that a later PEFT adds is refused where it is set: this says that one waits to be judged."""
    from peft import LoraConfig

    known = adapter_config._OBEYED | adapter_config._NEUTRAL | adapter_config._REFUSED.keys() | {"init_lora_weights"}
    assert {field.name for field in dataclasses.fields(LoraConfig)} <= known
    assert adapter_config._REFUSED.keys() <= UNSUPPORTED.keys()


# field, value, what the message says
MALFORMED: list[tuple[str, Any, str]] = [
    ("peft_type", "LOHA", "is not a LoRA adapter: found LOHA, expected peft_type LORA"),
    ("peft_type", "ADALORA", "is not a LoRA adapter"),
    ("peft_type", None, "is not a LoRA adapter"),
    ("r", 0, "r is malformed: found 0, expected a positive integer"),
    ("r", -4, "r is malformed"),
    ("r", 4.0, "r is malformed"),
    ("r", True, "r is malformed"),
    ("r", "4", "r is malformed"),
    ("r", None, "r is malformed"),
    ("r", 1 << 40, "r is malformed"),
    ("lora_alpha", "16", "lora_alpha is malformed: found '16', expected a number"),
    ("lora_alpha", None, "lora_alpha is malformed"),
    ("lora_alpha", math.nan, "lora_alpha is malformed"),
    ("lora_alpha", math.inf, "lora_alpha is malformed"),
    ("lora_alpha", 10**299, "lora_alpha is malformed"),
    ("use_rslora", "yes", "use_rslora is malformed: found 'yes', expected true or false"),
    ("use_dora", 1, "use_dora is malformed"),
    ("lora_bias", [], "lora_bias is malformed"),
    ("rank_pattern", ["q_proj"], "rank_pattern is malformed"),
    ("rank_pattern", {"q_proj": 0}, "rank_pattern is malformed"),
    ("rank_pattern", {"q_proj(": 4}, "rank_pattern holds a pattern that is no regular expression"),
    ("alpha_pattern", {"q_proj": "8"}, "alpha_pattern is malformed"),
    ("alpha_pattern", {"*": 8}, "alpha_pattern holds a pattern that is no regular expression"),
    ("init_lora_weights", "pissa", "whose weights its initialisation changed: found init_lora_weights = pissa"),
    ("init_lora_weights", "pissa_niter_16", "whose weights its initialisation changed"),
    ("init_lora_weights", "olora", "whose weights its initialisation changed"),
    ("init_lora_weights", "OLoRA", "whose weights its initialisation changed"),
    ("init_lora_weights", "corda", "whose weights its initialisation changed"),
    ("init_lora_weights", "lora_ga", "whose weights its initialisation changed"),
    ("init_lora_weights", "loftq", "that LoftQ quantized"),
    ("init_lora_weights", "of tomorrow", "unknown initialisation"),
    ("init_lora_weights", {"a": 1}, "unknown initialisation"),
]


@pytest.mark.parametrize(("field", "value", "message"), MALFORMED)
def test_a_malformed_field(field: str, value: Any, message: str, model: CanonicalModel, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path, pair(Q), **{field: value})
    with pytest.raises(AdapterError) as raised:
        attach_adapters(model, [(adapter, 1.0)])
    assert raised.value.file == str(adapter / "adapter_config.json")
    assert message in str(raised.value)


def _remove(name: str) -> Callable[[Path], Path]:
    def spoil(adapter: Path) -> Path:
        (adapter / name).unlink()
        return adapter

    return spoil


def _write(name: str, text: str) -> Callable[[Path], Path]:
    def spoil(adapter: Path) -> Path:
        (adapter / name).write_text(text)
        return adapter

    return spoil


FILES: dict[str, tuple[Callable[[Path], Path], type[FastconvError], str]] = {
    "no folder": (lambda adapter: adapter / "missing", AdapterError, "does not exist"),
    "no tensors file": (
        _remove("adapter_model.safetensors"),
        AdapterError,
        "holds no adapter: expected adapter_model.safetensors or adapter_model.bin",
    ),
    "no config": (_remove("adapter_config.json"), AdapterError, "adapter_config.json: is missing"),
    "config is no JSON": (_write("adapter_config.json", "{r: 8}"), CheckpointError, "is not valid JSON"),
    "config is a list": (_write("adapter_config.json", "[]"), CheckpointError, "is not a JSON object"),
    "tensors are no checkpoint": (_write("adapter_model.safetensors", "version https://git-lfs"), CheckpointError, ""),
}


@pytest.mark.parametrize("case", FILES)
def test_files(case: str, model: CanonicalModel, tmp_path: Path) -> None:
    spoil, error, message = FILES[case]
    adapter = spoil(write_adapter(tmp_path, pair(Q)))
    with pytest.raises(error) as raised:
        attach_adapters(model, [(adapter, 1.0)])
    assert message in str(raised.value)


def test_no_tensors(model: CanonicalModel, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"adapter_model.safetensors: holds no tensors"):
        attach_adapters(model, [(write_adapter(tmp_path, {}), 1.0)])


@pytest.mark.parametrize("factor", [math.nan, math.inf, -math.inf])
def test_a_factor_that_is_not_finite(factor: float, model: CanonicalModel, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the scale of an adapter is not finite"):
        attach_adapters(model, [(write_adapter(tmp_path, pair(Q)), factor)])


def test_a_scale_beyond_float32(model: CanonicalModel, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"q_proj.lora_B.weight: the scale is too large: found 4e"):
        attach_adapters(model, [(write_adapter(tmp_path, pair(Q)), 1e38 * 2)])


Several = list[tuple[dict[str, np.ndarray], dict[str, Any]]]
COMBINATIONS: dict[str, tuple[Several, str]] = {
    "replaced by two": (
        [({f"{HEAD}.weight": tensor(320, 64)}, {}), ({f"{HEAD}.weight": tensor(320, 64) + 1}, {})],
        "tensor base_model.model.lm_head.weight: is replaced whole by two adapters: found also by ",
    ),
    "bases that differ": (
        [
            (pair(HEAD, 320) | {f"{HEAD}.base_layer.weight": tensor(320, 64)}, {}),
            (pair(HEAD, 320) | {f"{HEAD}.base_layer.weight": tensor(320, 64) + 1}, {}),
        ],
        "is replaced whole by two adapters",
    ),
    "updated, then replaced": (
        [(pair(HEAD, 320), {}), ({f"{HEAD}.weight": tensor(320, 64)}, {})],
        "tensor base_model.model.lm_head.weight: would discard what an earlier adapter added",
    ),
    "updated, then resized": (
        [(pair(HEAD, 320), {}), ({f"{HEAD}.base_layer.weight": tensor(324, 64)}, {})],
        "found [324, 64], expected [320, 64]",
    ),
}


@pytest.mark.parametrize("case", COMBINATIONS)
def test_adapters_that_do_not_go_together(case: str, model: CanonicalModel, tmp_path: Path) -> None:
    several, message = COMBINATIONS[case]
    adapters = [
        (write_adapter(tmp_path / str(index), tensors, **fields), 1.0)
        for index, (tensors, fields) in enumerate(several)
    ]
    with pytest.raises(AdapterError) as raised:
        attach_adapters(model, adapters)
    assert raised.value.file == str(adapters[1][0] / "adapter_model.safetensors")
    assert message in str(raised.value)


def test_equal_bases_are_one(model: CanonicalModel, tmp_path: Path) -> None:
    tensors = pair(HEAD, 320) | {f"{HEAD}.base_layer.weight": tensor(320, 64)}
    adapters = [(write_adapter(tmp_path / name, tensors), 1.0) for name in "ab"]
    assert len(attach_adapters(model, adapters).tensors["lm_head.weight"].deltas) == 2


def test_a_tied_embedding_resized_alone(tied_model: CanonicalModel, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path, {f"{EMBEDDING}.weight": tensor(324, 64)})
    with pytest.raises(AdapterError, match=r"tensor lm_head.weight: the vocabulary was resized for one tensor only"):
        attach_adapters(tied_model, [(adapter, 1.0)])


def test_a_pipe_for_an_adapter(model: CanonicalModel, tmp_path: Path) -> None:
    import os

    adapter = write_adapter(tmp_path, pair(Q))
    shutil.move(adapter / "adapter_config.json", adapter / "config")
    os.mkfifo(adapter / "adapter_config.json")
    with pytest.raises(CheckpointError, match="is not a regular file"):
        attach_adapters(model, [(adapter, 1.0)])
