"""Gemma 3 that sees as well: Lit-GPT gets its part about language, as LitGPT's own conversion takes it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastconv import convert
from fastconv.errors import ArchitectureError
from tests.litgpt.conftest import TODAY, LitGPT
from tests.litgpt.families import FAMILIES
from tests.litgpt.test_families import assert_same_tensors

# As many heads as the class has: the released configurations do not state them.
FAMILY = dataclasses.replace(FAMILIES["gemma3"], heads=(8, 4, 8))
N_TEXT = 124
TOKENS = [[(7 * i + 3 * j) % 120 for i in range(20)] for j in range(2)]
SIGHT = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A folder of transformers, and the model's logits of the tokens of language."""
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(3)
    config = transformers.Gemma3Config(
        text_config=FAMILY.hf_config() | {"model_type": "gemma3_text"},
        vision_config=SIGHT | {"image_size": 8, "patch_size": 4},
        image_token_index=N_TEXT,
        mm_tokens_per_image=4,
    )
    model = transformers.Gemma3ForConditionalGeneration(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.08)
    folder = tmp_path_factory.mktemp("sees")
    model.save_pretrained(folder)
    with torch.no_grad():
        return folder, model(torch.tensor(TOKENS)).logits[..., :N_TEXT]


def copied(
    folder: Path,
    target: Path,
    *,
    rename: Callable[[str], str] = lambda name: name,
    leave_out: tuple[str, ...] = (),
    extra: dict[str, Any] | None = None,
) -> Path:
    """With other names of tensors, without some settings of its language part, with other settings of its own."""
    import safetensors.torch

    target.mkdir()
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    safetensors.torch.save_file({rename(name): t for name, t in tensors.items()}, target / "model.safetensors")
    config = json.loads((folder / "config.json").read_text()) | (extra or {})
    for key in leave_out:
        del config["text_config"][key]
    (target / "config.json").write_text(json.dumps(config))
    return target


def since_4_52(name: str) -> str:
    return f"model.{name.replace('language_model.model.', 'language_model.')}"


@pytest.mark.parametrize("names", ["hub", "transformers"])
@pytest.mark.parametrize("layout", ["split", "interleaved"])
def test_the_language_part(
    model: tuple[Path, Any], litgpt: dict[str, LitGPT], names: str, layout: str, tmp_path: Path
) -> None:
    import torch
    import transformers

    heads = ("num_attention_heads", "num_key_value_heads")
    rename = since_4_52 if names == "transformers" else str
    source = copied(model[0], tmp_path / "hf", rename=rename, leave_out=heads)
    convert(source, tmp_path / "lit", to="litgpt", litgpt_layout=layout)
    if layout == "split":
        own = shutil.copytree(source, tmp_path / "own")
        sizes = {"vocab_size": N_TEXT, "padded_vocab_size": N_TEXT}
        logits = tmp_path / "logits"
        litgpt[TODAY].run(
            [
                {"do": "from_hf", "config": FAMILY.lit_config() | sizes, "directory": str(own)},
                {"do": "logits", "directory": str(tmp_path / "lit"), "output": str(logits), "tokens": TOKENS},
            ]
        )
        expected = torch.load(own / "lit_model.pth", weights_only=False)
        assert_same_tensors(torch.load(tmp_path / "lit" / "lit_model.pth", weights_only=True), expected)
        torch.testing.assert_close(torch.load(logits), model[1], atol=2e-6, rtol=1e-5)
    for beside in ("config.json of the language part", "config.json of the whole"):
        if beside.endswith("whole"):
            shutil.copy(source / "config.json", tmp_path / "lit")
        convert(tmp_path / "lit", tmp_path / beside, to="hf")
        back = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / beside, dtype=torch.float32)
        assert type(back).__name__ == "Gemma3ForCausalLM"
        with torch.no_grad():
            torch.testing.assert_close(back(torch.tensor(TOKENS)).logits, model[1], atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rename": lambda name: name.replace("vision_tower", "ear")}, "is of neither language nor sight"),
        ({"rename": lambda name: name.replace("embed_tokens", "embed")}, "is missing or no matrix"),
        ({"extra": {"image_token_index": "x"}}, "image_token_index is not usable"),
        ({"extra": {"image_token_index": 0}}, "image_token_index is not usable"),
    ],
)
def test_refused(model: tuple[Path, Any], change: dict[str, Any], message: str, tmp_path: Path) -> None:
    source = copied(model[0], tmp_path / "hf", **change)
    with pytest.raises(ArchitectureError, match=message):
        convert(source, tmp_path / "lit", to="litgpt")


def test_to_hugging_face_it_stays_whole(model: tuple[Path, Any], tmp_path: Path) -> None:
    convert(model[0], tmp_path / "out", to="hf")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (model[0] / "model.safetensors").read_bytes()
