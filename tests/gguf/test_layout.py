"""GGUF layouts: what the gguf package reads from them, the llama3 factors, and model cards that make no sense."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest

from fastconv import convert, errors
from fastconv.architecture.hparams import Hyperparameters, RopeScaling
from fastconv.architecture.rope import rope_factors
from tests.models import LlamaShape, write_hf


def test_gguf_package_reads_every_tensor_at_an_aligned_offset(tmp_path: Path) -> None:
    shape = LlamaShape(n_layer=11, n_embd=96, n_ff=224, n_head=3, n_head_kv=3)
    write_hf(tmp_path / "model", shape)
    convert(tmp_path / "model", tmp_path / "{type}.gguf", outtype=["f16", "q5_0"])
    names = {}
    for outtype in ("f16", "q5_0"):
        path = tmp_path / f"{outtype}.gguf"
        reader = gguf.GGUFReader(path)
        names[outtype] = [tensor.name for tensor in reader.tensors]
        assert {tensor.name: tuple(map(int, tensor.shape[::-1])) for tensor in reader.tensors} == {
            gguf_name(name, shape.n_layer): dims for name, dims in shape.tensor_shapes().items()
        }
        ends = [tensor.data_offset + tensor.n_bytes for tensor in reader.tensors]
        starts = [int(tensor.data_offset) for tensor in reader.tensors]
        assert all(start % 32 == 0 for start in starts)
        assert starts[1:] == [-(-int(end) // 32) * 32 for end in ends[:-1]]
        assert path.stat().st_size == -(-int(ends[-1]) // 32) * 32
    # The converter keeps the checkpoint's order (layer 10 before layer 2), the quantizer sorts by layer.
    layers = {outtype: [int(n.split(".")[1]) for n in found if n.startswith("blk")] for outtype, found in names.items()}
    assert layers["q5_0"] == sorted(layers["q5_0"])
    assert layers["f16"].index(10) < layers["f16"].index(2)
    assert names["q5_0"][:3] == ["output.weight", "output_norm.weight", "token_embd.weight"]


def gguf_name(name: str, n_layer: int) -> str:
    return str(gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, n_layer).get_name(name, (".weight", ".bias")))


@pytest.mark.parametrize(
    ("head_dim", "base", "factor"), [(64, 500000.0, 32.0), (128, 500000.0, 8.0), (128, 500000.0, 16.0)]
)
def test_llama3_factors_equal_torchs(head_dim: int, base: float, factor: float) -> None:
    torch = pytest.importorskip("torch")
    parameters = {
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    found = rope_factors(hyperparameters(head_dim, base, RopeScaling("llama3", parameters)))

    # Source: Grattafiori et al. 2024 as coded in transformers, modeling_rope_utils.py.
    frequencies = 1.0 / (base ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim))
    expected = []
    for frequency in frequencies:
        wavelength = 2 * np.pi / frequency
        smooth = (8192 / wavelength - 1.0) / (4.0 - 1.0)
        blended = 1 / ((1 - smooth) / factor + smooth)
        expected.append(1.0 if wavelength < 8192 / 4 else factor if wavelength > 8192 else float(blended))
    assert found is not None
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.array(expected, dtype=np.float32))


def test_other_models_have_no_factors() -> None:
    assert rope_factors(hyperparameters(64, 10000.0, None)) is None
    assert rope_factors(hyperparameters(64, 10000.0, RopeScaling("linear", {"factor": 2.0}))) is None


def hyperparameters(head_dim: int, base: float, scaling: RopeScaling | None) -> Hyperparameters:
    return Hyperparameters(
        n_vocab=320, n_ctx=256, n_embd=4 * head_dim, n_ff=512, n_layer=2, n_head=4, n_head_kv=4, head_dim=head_dim,
        norm_eps=1e-5, rope_base=base, rope_scaling=scaling,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("README.md", "---\nlicense: [\n---\n", "model card that is not YAML"),
        ("README.md", b"---\nlicense: \xff\n---\n", "model card that is not YAML"),
        ("README.md", "---\nlicense: 3\n---\n", "value of the wrong type"),
        ("README.md", "---\ntags: [a, 1]\n---\n", "value of the wrong type"),
        ("README.md", "---\nlicense: [1, 2]\n---\n", "value of the wrong type"),
        ("generation_config.json", '{"top_k": "many"}', "value of the wrong type"),
        ("generation_config.json", '{"top_k": 1e99}', "value of the wrong type"),
        ("generation_config.json", "[]", "wrong JSON value"),
        ("README.md", "x" * (5 << 20), "README.md: is too large for a model card"),
        ("README.md", "---\na: 1\n---x\n" + "b: 1\n" * 40_000, "README.md: has too long a head"),
        ("config.json", json.dumps(LlamaShape().config() | {"_name_or_path": 1.5}), "config.json holds a value of the"),
    ],
)
def test_model_card_that_makes_no_sense(file: str, content: str | bytes, message: str, tmp_path: Path) -> None:
    write_hf(tmp_path / "model")
    (tmp_path / "model" / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(errors.CheckpointError, match=message):
        convert(tmp_path / "model", tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize("choice", [{"name": 7, "template": "a"}, {"name": "default", "template": 7}])
def test_chat_templates_that_are_no_text(tmp_path: Path, choice: dict[str, object]) -> None:
    write_hf(tmp_path / "model")
    (tmp_path / "model" / "tokenizer_config.json").write_text(json.dumps({"chat_template": [choice]}))
    with pytest.raises(errors.VocabularyError, match="a chat template's name or text is no text: found"):
        convert(tmp_path / "model", tmp_path / "out.gguf")


def test_a_config_that_only_some_can_read(tmp_path: Path) -> None:
    write_hf(tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    config.write_bytes(b"\xef\xbb\xbf" + config.read_bytes())
    with pytest.raises(errors.CheckpointError, match=r"config.json: is not plain JSON .*without a byte-order mark"):
        convert(tmp_path / "model", tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


def test_what_the_card_says_in_no_known_format_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_hf(tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text("---\ndatasets: [[x/y]]\nbase_model: [[z]]\n---\n")
    notes = convert(tmp_path / "model", tmp_path / "out.gguf").notes
    for entry in ("dataset entry '['x/y']' not in a known format", "base model entry '['z']' not in a known format"):
        assert any(note.endswith(f"README.md: {entry}: not written") for note in notes), notes
    assert capfd.readouterr() == ("", "")


def test_broken_generation_config_is_no_obstacle(tmp_path: Path) -> None:
    write_hf(tmp_path / "model")
    (tmp_path / "model" / "generation_config.json").write_text("{")
    convert(tmp_path / "model", tmp_path / "out.gguf")
    assert not any("sampling" in key for key in gguf.GGUFReader(tmp_path / "out.gguf").fields)


@pytest.mark.slow
def test_live_converter_writes_the_same(tmp_path: Path) -> None:
    """llama-cpp-python's source distribution carries the converter of its time, a little older than b11434."""
    download = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:"]
    done = subprocess.run([*download, "-d", str(tmp_path), "llama-cpp-python==0.3.36"], capture_output=True, text=True)
    archives = list(tmp_path.glob("llama_cpp_python-*.tar.gz"))
    if not archives:
        pytest.skip(f"cannot be downloaded: {done.stderr.strip()[-200:]}")
    subprocess.run(["tar", "-xzf", str(archives[0]), "-C", str(tmp_path)], check=True)
    (script,) = tmp_path.glob("llama_cpp_python-*/vendor/llama.cpp/convert_hf_to_gguf.py")
    write_hf(tmp_path / "model", LlamaShape(n_vocab=330))
    theirs, ours = tmp_path / "theirs.gguf", tmp_path / "ours.gguf"
    arguments = [tmp_path / "model", "--outfile", theirs, "--outtype", "bf16"]
    subprocess.run([sys.executable, script, *arguments], check=True, capture_output=True)
    convert(tmp_path / "model", ours, outtype="bf16")
    assert ours.read_bytes() == theirs.read_bytes()


def test_command_line_leaves_mistral_common_alone(tmp_path: Path) -> None:
    """gguf imports it where it is installed, which takes longer than a conversion."""
    pytest.importorskip("mistral_common")
    write_hf(tmp_path / "model")
    arguments = ["convert", str(tmp_path / "model"), "-o", str(tmp_path / "out.gguf"), "--quiet"]
    code = (
        "import sys, fastconv.cli\n"
        f"code = fastconv.cli.main({arguments!r})\n"
        "print(code, 'gguf' in sys.modules, any(name.startswith('mistral_common') for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-3:] == ["0", "True", "False"], done.stderr
