"""Every kind of bad input: exit code, one line with file, tensor, found, expected, and nothing left behind."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fastconv.cli import main
from tests import models
from tests.e2e.conftest import write_adapter

SHAPE = models.LlamaShape(n_layer=1, n_ff=192)
Q_PROJ = "model.layers.0.self_attn.q_proj.weight"


def rewrite(folder: Path, change: Callable[[dict[str, np.ndarray]], None], dtype: str = "BF16") -> None:
    """The model's tensors, changed, in its file."""
    tensors = models.random_tensors(SHAPE)
    change(tensors)
    models.write_safetensors(folder / "model.safetensors", tensors, dtype)


def reconfigure(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def edit_header(folder: Path, change: Callable[[dict[str, dict[str, object]]], None]) -> None:
    path = folder / "model.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


def cut(path: Path, n_bytes: int) -> None:
    path.write_bytes(path.read_bytes()[:-n_bytes])


def reshard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    models.write_hf(folder, SHAPE, shards=2)


def lose_shard(folder: Path) -> None:
    reshard(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


def escape_folder(folder: Path) -> None:
    reshard(folder)
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"][Q_PROJ] = "../../secret.safetensors"
    index.write_text(json.dumps(content))


def set_value(name: str, index: tuple[int, ...], value: float) -> Callable[[Path], None]:
    def change(tensors: dict[str, np.ndarray]) -> None:
        tensors[name][index] = value

    return lambda folder: rewrite(folder, change, "F32")


def set_dtype(header: dict[str, dict[str, object]]) -> None:
    header[Q_PROJ]["dtype"] = "F7"


def overlap(header: dict[str, dict[str, object]]) -> None:
    header["model.norm.weight"]["data_offsets"] = header[Q_PROJ]["data_offsets"]


def beyond(header: dict[str, dict[str, object]]) -> None:
    start, _ = header[Q_PROJ]["data_offsets"]  # type: ignore[misc]
    header[Q_PROJ]["data_offsets"] = [start, 1 << 40]


def add_adapter(folder: Path, change: Callable[[dict[str, object]], None] = lambda config: None) -> None:
    write_adapter(folder / "adapter", SHAPE)
    config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    change(config)
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps(config))


LORA = ("--lora", "{folder}/adapter")
CASES: dict[str, tuple[Callable[[Path], object], tuple[str, ...], int, tuple[str, ...]]] = {
    # name: (what to spoil, more arguments, exit code, parts of the line)
    "no such folder": (lambda f: f.rename(f.with_name("gone")), (), 1, ("model",)),
    "empty folder": (lambda f: [p.unlink() for p in f.iterdir()], (), 1, ("model",)),
    "missing shard": (lose_shard, (), 1, ("model-00002-of-00002.safetensors",)),
    "shard outside the folder": (escape_folder, (), 1, ("secret.safetensors",)),
    "truncated file": (lambda f: cut(f / "model.safetensors", 10), (), 1, ("model.safetensors", "found", "expected")),
    "truncated header": (
        lambda f: (f / "model.safetensors").write_bytes(b"\x10" + bytes(7) + b"{"),
        (),
        1,
        ("truncated",),
    ),
    "surplus bytes": (
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes() + b"x"),
        (),
        1,
        ("model.safetensors",),
    ),
    "overlapping tensors": (lambda f: edit_header(f, overlap), (), 1, ("model.norm.weight",)),
    "tensor beyond the file": (lambda f: edit_header(f, beyond), (), 1, (Q_PROJ,)),
    "unknown dtype": (lambda f: edit_header(f, set_dtype), (), 1, (Q_PROJ, "F7")),
    "missing tensor": (lambda f: rewrite(f, lambda t: t.pop(Q_PROJ)), (), 1, (Q_PROJ, "is missing")),
    "missing head": (
        lambda f: rewrite(f, lambda t: t.pop("lm_head.weight")),
        (),
        1,
        ("lm_head.weight", "tie_word_embeddings"),
    ),
    "surplus tensor": (
        lambda f: rewrite(f, lambda t: t.update({"model.layers.0.extra.weight": np.ones((2, 2), np.float32)})),
        (),
        1,
        ("model.layers.0.extra.weight",),
    ),
    "surplus layer": (lambda f: reconfigure(f, num_hidden_layers=2), (), 1, ("model.layers.1", "is missing")),
    "wrong shape": (
        lambda f: rewrite(f, lambda t: t.update({Q_PROJ: np.ones((64, 32), np.float32)})),
        (),
        1,
        (Q_PROJ, "found [64, 32]", "expected [64, 64]"),
    ),
    "unknown architecture": (
        lambda f: reconfigure(f, architectures=["BloomForCausalLM"]),
        (),
        1,
        ("config.json", "found BloomForCausalLM", "LlamaForCausalLM"),
    ),
    "no config": (lambda f: (f / "config.json").unlink(), (), 1, ("config.json", "missing")),
    "broken config": (lambda f: (f / "config.json").write_text("{"), (), 1, ("config.json",)),
    "heads that do not divide": (lambda f: reconfigure(f, num_attention_heads=5), (), 1, ("config.json", "expected")),
    "no tokenizer": (lambda f: (f / "tokenizer.model").unlink(), (), 1, ("tokenizer",)),
    "broken tokenizer": (lambda f: (f / "tokenizer.model").write_bytes(b"nonsense"), (), 1, ("tokenizer.model",)),
    "a number too long in the tokenizer's files": (
        lambda f: (f / "added_tokens.json").write_text('{"a": ' + "1" * 5000 + "}"),
        (),
        1,
        ("added_tokens.json", "is not valid JSON"),
    ),
    "a bottomless generation_config.json": (
        lambda f: (f / "generation_config.json").write_text("[" * 100_000),
        (),
        1,
        ("generation_config.json", "is not valid JSON"),
    ),
    "a chat template that is no text": (
        lambda f: (f / "tokenizer_config.json").write_text('{"chat_template": "\\ud800"}'),
        (),
        1,
        ("surrogates not allowed", "ud800"),
    ),
    "NaN": (set_value(Q_PROJ, (3, 5), np.nan), (), 1, (Q_PROJ, "nan", "row 3", "--nonfinite")),
    "infinity": (set_value(Q_PROJ, (0, 0), np.inf), (), 1, (Q_PROJ, "inf", "--nonfinite")),
    "beyond f16": (set_value(Q_PROJ, (1, 2), 70000.0), ("--outtype", "f16"), 1, (Q_PROJ, "70000", "f16")),
    "no such adapter": (lambda f: None, LORA, 1, ("adapter",)),
    "adapter of another kind": (
        lambda f: add_adapter(f, lambda c: c.update(peft_type="IA3")),
        LORA,
        1,
        ("adapter_config.json", "IA3"),
    ),
    "adapter of another model": (
        lambda f: [add_adapter(f), write_adapter(f / "adapter", models.LlamaShape(n_layer=2, n_ff=192))],
        LORA,
        1,
        ("layers.1",),
    ),
    "adapter of another size": (
        lambda f: [add_adapter(f), write_adapter(f / "adapter", models.LlamaShape(n_layer=1, n_ff=96))],
        LORA,
        1,
        ("lora_", "found", "expected"),
    ),
    "an adapter in the model's place": (
        lambda f: [
            add_adapter(f),
            (f / "adapter" / "adapter_model.safetensors").replace(f / "model.safetensors"),
            (f / "config.json").unlink(),
        ],
        (),
        1,
        ("config.json: is missing", "this is an adapter: give it with --lora"),
    ),
    "no target folder": (lambda f: None, ("--outfile", "{folder}/nowhere/out.gguf"), 1, ("nowhere", "does not exist")),
    "target is a folder": (lambda f: None, ("--outfile", "{folder}"), 1, ("is a folder",)),
    "target exists": (
        lambda f: (f / "old.gguf").write_text("old"),
        ("--outfile", "{folder}/old.gguf"),
        1,
        ("--overwrite",),
    ),
    "target is an input": (
        lambda f: None,
        ("--outfile", "{folder}/model.safetensors", "--overwrite"),
        1,
        ("model.safetensors", "is an input"),
    ),
    "unknown type": (lambda f: None, ("--outtype", "q9_9"), 2, ("q9_9", "q4_0")),
    "type that the version cannot hold": (lambda f: None, ("--to", "ggjt-v3", "--outtype", "bf16"), 1, ("bf16",)),
    "one file for several types": (
        lambda f: None,
        ("--outtype", "q4_0,q8_0", "--outfile", "{folder}/out.gguf"),
        2,
        ("{type}",),
    ),
    "no threads": (lambda f: None, ("--concurrency", "0"), 2, ("--concurrency",)),
    "too many threads": (lambda f: None, ("--concurrency", "1" + "0" * 30), 2, ("--concurrency", "expected 1 to")),
    "no context": (lambda f: None, ("--ctx", "0"), 2, ("--ctx",)),
    "too long a context": (lambda f: None, ("--ctx", "1" + "0" * 30), 2, ("--ctx", "expected 1 to")),
    "no types": (lambda f: None, ("--outtype", ","), 2, ("no output type",)),
    "a type twice": (lambda f: None, ("--outtype", "q4_0, Q4_0"), 2, ("given twice",)),
    "target without a name": (lambda f: None, ("--outfile", ""), 2, ("--outfile", "empty")),
    "adapter without a name": (lambda f: None, ("--lora", ""), 2, ("--lora", "empty")),
    "tokenizer folder without a name": (lambda f: None, ("--vocab-dir", ""), 2, ("--vocab-dir", "empty")),
    "standard output": (lambda f: None, ("--outfile", "-"), 2, ("standard output",)),
    "scale that is no number": (lambda f: add_adapter(f), ("--lora", "{folder}/adapter:x"), 2, ("--lora", "found x")),
    "scale that is not finite": (lambda f: add_adapter(f), ("--lora", "{folder}/adapter:nan"), 2, ("found nan",)),
    "target is the configuration": (
        lambda f: None,
        ("--outfile", "{folder}/config.json", "--overwrite"),
        1,
        ("config.json", "is an input"),
    ),
    "target is the tokenizer": (
        lambda f: None,
        ("--outfile", "{folder}/tokenizer.model", "--overwrite"),
        1,
        ("tokenizer.model", "is an input"),
    ),
    "target is the adapter": (
        lambda f: add_adapter(f),
        (*LORA, "--outfile", "{folder}/adapter/adapter_model.safetensors", "--overwrite"),
        1,
        ("adapter_model.safetensors", "is an input"),
    ),
    "target is the adapter's configuration": (
        lambda f: add_adapter(f),
        (*LORA, "--outfile", "{folder}/adapter/adapter_config.json", "--overwrite"),
        1,
        ("adapter_config.json", "is an input"),
    ),
    "target is a link to an input": (
        lambda f: (f / "link.gguf").symlink_to("model.safetensors"),
        ("--outfile", "{folder}/link.gguf", "--overwrite"),
        1,
        ("link.gguf", "is an input"),
    ),
    "target is a device": (
        lambda f: os.mkfifo(f / "pipe"),
        ("--outfile", "{folder}/pipe", "--overwrite"),
        1,
        ("pipe", "is no regular file"),
    ),
}


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("case", CASES)
def test_one_line_and_nothing_left(tmp_path: Path, capfd: pytest.CaptureFixture[str], case: str) -> None:
    spoil, arguments, code, parts = CASES[case]
    folder = tmp_path / "model"
    models.write_hf(folder, SHAPE)
    spoil(folder)
    before = snapshot(tmp_path)
    more = [argument.replace("{folder}", str(folder)) for argument in arguments]
    if "--outtype" not in more:
        more += ["--outtype", "q4_0"]
    assert main(["convert", str(folder), *more]) == code
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.startswith("fastconv: error: ")
    for part in parts:
        assert part in err
    assert snapshot(tmp_path) == before


HOSTILE = "model.\x1b[2J\r\nfastconv: all is well\u202e\x7f\x9b"


@pytest.mark.parametrize("name", [HOSTILE, "n" * 5000])
def test_names_cannot_speak_to_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str) -> None:
    folder = tmp_path / "model"
    models.write_hf(folder, SHAPE)
    rewrite(folder, lambda tensors: tensors.update({name: np.ones(2, np.float32)}))
    assert main(["convert", str(folder)]) == 1
    shown = capfd.readouterr().err
    assert main(["convert", str(folder), "--dump-single"]) == 0
    assert main(["inspect", str(folder)]) == 0
    assert main(["verify", str(folder)]) == 1
    out, err = capfd.readouterr()
    assert shown.count("\n") == 1
    assert err == ""
    for line in (shown + out).splitlines():
        assert line.isprintable()
        assert len(line) < 1000
        assert not line.startswith("fastconv: all")
    if name is HOSTILE:
        assert r"tensor model.\x1b[2J\r\nfastconv: all is well\u202e\x7f\x9b: " in shown


def test_a_folder_without_permission(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    if os.geteuid() == 0:
        pytest.skip("nothing is forbidden to root")
    models.write_hf(tmp_path / "model", SHAPE)
    target = tmp_path / "closed"
    target.mkdir(mode=0o500)
    assert main(["convert", str(tmp_path / "model"), "-o", str(target / "out.gguf")]) == 1
    assert "cannot be written" in capfd.readouterr().err


def test_a_tokenizer_without_permission(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    if os.geteuid() == 0:
        pytest.skip("nothing is forbidden to root")
    models.write_hf(tmp_path / "model", SHAPE)
    (tmp_path / "model" / "tokenizer.model").chmod(0)
    assert main(["convert", str(tmp_path / "model")]) == 1
    assert "tokenizer.model: cannot be read (Permission denied)" in capfd.readouterr().err


def test_no_room(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    models.write_hf(tmp_path / "model", SHAPE)
    usage = type(shutil.disk_usage(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 1000, 1000))
    before = snapshot(tmp_path)
    assert main(["convert", str(tmp_path / "model"), "-o", str(tmp_path / "out.gguf")]) == 1
    error = capfd.readouterr().err
    assert "not enough room" in error
    assert "found 1000 bytes free" in error
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("policy", ["keep", "clamp"])
def test_non_finite_values_on_request(tmp_path: Path, policy: str) -> None:
    from tests.e2e.conftest import gguf_tensors

    folder = tmp_path / "model"
    models.write_hf(folder, SHAPE)
    set_value("lm_head.weight", (3, 5), np.nan)(folder)
    target = tmp_path / "out.gguf"
    assert main(["convert", str(folder), "-o", str(target), "--outtype", "f32", "--nonfinite", policy, "--quiet"]) == 0
    values = np.frombuffer(gguf_tensors(target)["output.weight"][2], np.float32).reshape(SHAPE.n_vocab, SHAPE.n_embd)
    assert np.isnan(values[3, 5]) if policy == "keep" else values[3, 5] == 0


@pytest.mark.parametrize("share", [0.2, 0.999])
def test_a_write_that_fails(tmp_path: Path, run_cli, share: float) -> None:
    """The file may not grow: the system refuses what the preflight could not foresee."""
    import resource

    models.write_hf(tmp_path / "model", SHAPE)
    target = tmp_path / "out.gguf"
    assert main(["convert", str(tmp_path / "model"), "-o", str(target), "--outtype", "q4_0", "--quiet"]) == 0
    target.write_bytes(target.read_bytes() + b"old")
    before = snapshot(tmp_path)
    limit = int(target.stat().st_size * share)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        done = run_cli("convert", tmp_path / "model", "-o", target, "--outtype", "q4_0", "--overwrite")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert str(target) in done.stderr
    assert "cannot be written" in done.stderr
    assert snapshot(tmp_path) == before
