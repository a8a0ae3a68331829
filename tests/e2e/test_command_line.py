"""What the command prints, plans and returns."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from fastconv.cli import main
from fastconv.request import byte_size
from tests import models
from tests.e2e.conftest import write_adapter

SHAPE = models.LlamaShape()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    models.write_hf(tmp_path / "model", SHAPE)
    return tmp_path / "model"


def printed(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main([str(argument) for argument in arguments]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def test_one_summary_line(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(capsys, "convert", model, "--outtype", "Q4_0")
    target = model / "ggml-model-q4_0.gguf"
    assert out.count("\n") == 1
    assert out.startswith(f"{target}: ")
    for part in (" kB -> ", " s, ", "GB/s", "peak memory"):
        assert part in out


def test_the_summary_tells_what_was_applied(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    factors = write_adapter(model / "a", SHAPE, rank=4, alpha=8)
    out = printed(
        capsys, "convert", model, "--lora", model / "a", "--lora", f"{model / 'a'}:0", "-o", model / "out.gguf"
    )
    n = 2 * len(factors)
    assert f"{n}/{n} adapter tensors, scale 2\n" in out
    assert f"{len(factors)} tensors changed, |dW|/|W| " in out
    assert "warning: " in out.replace("\n", " ")  # the second adapter, at scale 0, changes nothing


@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_an_adapter_of_zeros_is_called_out(model: Path, capsys: pytest.CaptureFixture[str], zero: float) -> None:
    factors = write_adapter(model / "a", SHAPE)
    stored = {}
    for name, (a, b) in factors.items():
        module = "base_model.model." + name.removesuffix(".weight")
        stored[module + ".lora_A.weight"], stored[module + ".lora_B.weight"] = a, np.full_like(b, zero)
    models.write_safetensors(model / "a" / "adapter_model.safetensors", stored, "F32")
    assert "warning: changes nothing: every B is zero" in printed(capsys, "convert", model, "--lora", model / "a")


def test_json_summary(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_adapter(model / "a", SHAPE)
    out = json.loads(printed(capsys, "convert", model, "--json", "--lora", model / "a", "--outtype", "q8_0,f16"))
    assert [output["type"] for output in out["outputs"]] == ["q8_0", "f16"]
    for output in out["outputs"]:
        assert output["bytes"] == Path(output["path"]).stat().st_size
    assert out["adapters"][0]["tensors"] == out["adapters"][0]["tensors_applied"] == 28
    assert out["tensors"] == len(SHAPE.tensor_shapes())
    assert len(out["delta_ratios"]) == 14
    assert out["seconds"] > 0
    assert out["peak_memory_bytes"] > 10e6


def test_dry_run_is_exact_and_writes_nothing(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(model.iterdir())
    plan: dict[str, Any] = json.loads(
        printed(capsys, "convert", model, "--dry-run", "--json", "--outtype", "q4_0,q6_k")
    )
    text = printed(capsys, "convert", model, "--dry-run", "--outtype", "q4_0,q6_k")
    assert sorted(model.iterdir()) == before
    printed(capsys, "convert", model, "--outtype", "q4_0,q6_k", "--quiet")
    assert len(plan["outputs"]) == 2
    for output in plan["outputs"]:
        path = Path(output["path"])
        assert path.stat().st_size == output["bytes"]
        assert f"{output['bytes']} bytes" in text
        real = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
        assert [tensor["name"] for tensor in output["tensors"]] == list(real)
        for tensor in output["tensors"]:
            found = real[tensor["name"]]
            assert tensor["offset"] == found.data_offset
            assert tensor["bytes"] == found.n_bytes
            assert tensor["type"] == found.tensor_type.name.lower()
            assert tensor["name"] in text
            assert tensor["source"] in text


def test_quiet_says_nothing(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "convert", model, "--quiet") == ""


def test_outfile_takes_its_type_from_the_name_pattern(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed(capsys, "convert", model, "--output", model / "m-{type}.gguf", "--outtype", "q5_0", "--quiet")
    assert (model / "m-q5_0.gguf").exists()


def test_overwrite(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = model / "out.gguf"
    target.write_text("old")
    assert main(["convert", str(model), "-o", str(target)]) == 1
    assert target.read_text() == "old"
    capsys.readouterr()
    printed(capsys, "convert", model, "-o", target, "--overwrite", "--quiet")
    assert target.read_bytes()[:4] == b"GGUF"


def test_vocab_only(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed(capsys, "convert", model, "--vocab-only", "--quiet")
    reader = gguf.GGUFReader(model / "ggml-vocab.gguf")
    assert len(reader.tensors) == 0
    assert len(reader.fields["tokenizer.ggml.tokens"].data) == SHAPE.n_vocab


def test_dump_shows_the_model_and_dump_single_the_file(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("--dump", "--dump-single"):
        source = model if flag == "--dump" else model / "model.safetensors"
        out = printed(capsys, "convert", source, flag)
        for name in SHAPE.tensor_shapes():
            assert name in out
    assert sorted(file.suffix for file in model.iterdir()) == [".json", ".model", ".safetensors"]


def test_dump_as_json(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("--dump", "--dump-single"):
        out = json.loads(printed(capsys, "convert", model, flag, "--json"))
        assert out["hyperparameters"]["n_layer"] == SHAPE.n_layer
        assert {tensor["name"]: tuple(tensor["shape"]) for tensor in out["tensors"]} == SHAPE.tensor_shapes()


def strict_json(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_json_has_no_infinity(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = models.random_tensors(SHAPE)
    tensors["model.layers.0.self_attn.q_proj.weight"][:] = 0
    models.write_hf(tmp_path / "model", SHAPE, tensors=tensors)
    write_adapter(tmp_path / "a", SHAPE)
    out = strict_json(printed(capsys, "convert", tmp_path / "model", "--lora", tmp_path / "a", "--json"))
    assert out["delta_ratios"]["blk.0.attn_q.weight"] is None
    assert out["delta_ratios"]["blk.1.attn_q.weight"] > 0


def test_json_of_metadata_that_is_not_finite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    writer = gguf.GGUFWriter(tmp_path / "odd.gguf", "llama")
    writer.add_float32("llama.rope.freq_base", float("nan"))
    writer.add_array("some.values", [1.0, float("inf")])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    out = strict_json(printed(capsys, "inspect", tmp_path / "odd.gguf", "--json"))
    assert out["hyperparameters"]["rope.freq_base"] is None
    assert out["metadata"]["some.values"] == [1.0, None]


@pytest.mark.parametrize(
    "name", ["mod\u00e8le: a b\u2192\U0001f600", b"not utf-8 \xff".decode(errors="surrogateescape")]
)
def test_names_that_the_terminal_cannot_show(model: Path, run_cli: Callable[..., Any], name: str) -> None:
    target = model / f"{name}.gguf"
    done = run_cli("convert", model, "-o", target, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\" in done.stdout
    assert target.exists()


@pytest.mark.parametrize("json_too", [False, True])
def test_inspect(model: Path, capsys: pytest.CaptureFixture[str], json_too: bool) -> None:
    write_adapter(model / "a", SHAPE)
    printed(capsys, "convert", model, "--outtype", "q4_0", "-o", model / "out.gguf", "--quiet")
    inspected: dict[Path, Callable[[], str]] = {}
    for path, word in (
        (model, "LlamaForCausalLM" if not json_too else "model.norm.weight"),
        (model / "a", "lora_A"),
        (model / "out.gguf", "blk.0.attn_q.weight"),
    ):
        inspected[path] = lambda path=path: printed(capsys, "inspect", path, *(["--json"] if json_too else []))
        out = inspected[path]()
        if json_too:
            found = json.loads(out)
            assert {tensor["name"] for tensor in found["tensors"]}
            assert all(tensor["bytes"] > 0 for tensor in found["tensors"])
        assert word in out or word == "LlamaForCausalLM"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "the following arguments are required: COMMAND; see fastconv --help"),
        (["convert"], "the following arguments are required: SOURCE; see fastconv convert --help"),
        (["convert", "x", "--to", "png"], "argument --to: invalid choice: 'png' (choose from "),
        (["convert", "x", "--concurrency", "two"], "argument --concurrency: invalid int value: 'two'; see fastconv "),
        (
            ["convert", "x", "--frobnicate\x1b[2J\n"],
            "unrecognized arguments: --frobnicate\\x1b[2J; see",
        ),
        (["inspect"], "the following arguments are required: PATH; see fastconv inspect --help"),
        (["explode"], "argument COMMAND: invalid choice: 'explode' (choose from "),
        (["convert", "x", "--max-memory", "much"], "--max-memory is no size: found much"),
        (["convert", "x", "--max-memory", "9999999T"], "--max-memory is out of range: found 9999999000000000000"),
        (["convert", "x", "--max-memory", "0"], "--max-memory is out of range: found 0, expected 1 to "),
        (["convert", "x", "--max-memory", "9" * 400 + "T"], "--max-memory is no size"),
        (["convert", "x", "--to", "hf", "--shard-size", "9" * 30], "--shard-size is out of range"),
        (["convert", "x", "--to", "hf", "--shard-size", "some"], "--shard-size is no size"),
        (["convert", "x", "--max-memory", ""], "--max-memory is no size: found '', expected a number"),
        (["convert", "x", "--max-memory", "\u0663M"], "--max-memory is no size"),
        (["convert", "x", "--max-memory", "9" * 29], f"--max-memory is out of range: found {'9' * 29}, expected 1 to "),
        (["convert", "x", "--max-memory", "0.0001K"], "--max-memory is out of range: found 0, expected 1 to "),
        (["convert", "x", "--shard-size", "1MB"], "--shard-size is for folders of --to hf: found --to gguf"),
        (
            ["convert", "x", "--to", "hf", "-o", "x.safetensors", "--shard-size", "1MB"],
            "--shard-size is for folders of --to hf: found --to hf --outfile x.safetensors",
        ),
        (["convert", "x", "--litgpt-layout", "interleaved"], "--litgpt-layout is for --to litgpt: found --to gguf"),
        (["convert", "x", "--lora-alpha", "16"], "--lora-alpha is about an adapter; give it with --lora"),
        (["convert", "x", "--lora-qkv", "q,v"], "--lora-qkv is about an adapter; give it with --lora"),
        (
            ["verify", "x", "--concurrency", "9" * 20],
            f"--concurrency is out of range: found {'9' * 20}, expected 1 to ",
        ),
    ],
)
def test_wrong_usage_is_2_and_one_line(arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"fastconv: error: {line}")
    assert error.count("\n") == 1
    assert len(error) < 1200


@pytest.mark.parametrize("stream", [1, 2])
def test_a_stream_that_is_closed(model: Path, stream: int) -> None:
    """Nobody reads what is said; the work is done all the same."""
    program = "[sys.executable, '-m', 'fastconv', *sys.argv[1:]]"
    launch = f"import os, sys; os.close({stream}); os.execv(sys.executable, {program})"
    for arguments in (["verify", model, "--against", model], ["convert", model, "-o", model / "o.gguf", "--overwrite"]):
        done = subprocess.run([sys.executable, "-c", launch, *map(str, arguments)], capture_output=True, text=True)
        assert done.returncode == 0, done
        assert done.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    "arguments", [["--version"], ["convert", "--help"], ["inspect", "{model}", "--json"], ["convert", "{model}"]]
)
def test_a_full_standard_output_is_one_line(model: Path, arguments: list[str], unbuffered: str) -> None:
    """Whether the system refuses the text at once or when the process ends."""
    command = [sys.executable, "-m", "fastconv", *(argument.format(model=model) for argument in arguments)]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": unbuffered}
        )
    line = "fastconv: error: standard output: cannot be written (No space left on device)"
    written = "; what was asked for is written all the same" if arguments == ["convert", "{model}"] else ""
    assert (done.returncode, done.stderr) == (1, f"{line}{written}\n")
    assert len(list(model.glob("*.gguf"))) == bool(written)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize(("arguments", "code"), [(["--bogus"], 2), (["inspect", "missing"], 1)])
def test_a_full_standard_error_leaves_the_exit_code(arguments: list[str], code: int) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "fastconv", *arguments], stdout=subprocess.PIPE, stderr=full)
    assert (done.returncode, done.stdout) == (code, b"")


def test_a_reader_that_went_away_is_told_nothing(model: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "fastconv", "inspect", str(model)]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def test_no_folder_is_replaced_by_a_checksum(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (model / "out.gguf.sha256").mkdir()
    (model / "out.gguf.sha256" / "kept").touch()
    assert main(["convert", str(model), "-o", str(model / "out.gguf"), "--checksum", "--overwrite"]) == 1
    line = f"fastconv: error: {model / 'out.gguf.sha256'}: is no regular file; move it away, or leave --checksum out\n"
    assert capsys.readouterr().err == line
    assert (model / "out.gguf.sha256" / "kept").exists()
    assert not [path for path in model.iterdir() if path.name.startswith((".", "out.gguf")) and path.is_file()]


def test_a_folder_whose_name_is_no_text(tmp_path: Path) -> None:
    """What it is called is written as text all the same, as terminals show it."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/My\xffModel"))
    models.write_hf(folder, SHAPE)
    assert main(["convert", str(folder), "-o", str(tmp_path / "out.gguf"), "--quiet"]) == 0
    name = gguf.GGUFReader(tmp_path / "out.gguf").fields["general.name"].contents()
    assert name == "My\ufffdModel"


def test_a_file_of_the_tokenizer_stands_for_its_folder(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model)
    for number, given in enumerate((".", "tokenizer.model", str(model / "tokenizer.model"))):
        assert main(["convert", ".", "--vocab-dir", given, "-o", f"{number}.gguf", "--quiet"]) == 0
    assert Path("0.gguf").read_bytes() == Path("1.gguf").read_bytes() == Path("2.gguf").read_bytes()
    assert main(["convert", ".", "--vocab-dir", "tokenizer.model", "-o", "config.json", "--overwrite"]) == 1


def test_two_outputs_of_one_name(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """auto of a quantized file is called as it says of itself."""
    assert main(["convert", str(model), "--outtype", "q8_0", "-o", str(model / "source.gguf"), "--quiet"]) == 0
    before = sorted(model.iterdir())
    arguments = ["convert", str(model / "source.gguf"), "--outtype", "auto,q8_0", "-o", str(model / "{type}.gguf")]
    for more in ([], ["--overwrite"], ["--dry-run"]):
        assert main([*arguments, *more]) == 2
        found = f"{model / 'q8_0.gguf'} for auto, q8_0"
        line = f"fastconv: error: two outputs would have one name: found {found}; ask for one of them\n"
        assert capsys.readouterr().err == line
    assert sorted(model.iterdir()) == before


@pytest.mark.parametrize(
    ("size", "n_bytes"),
    [
        ("1.5K", 1500),
        ("1500", 1500),
        ("1.5 kb", 1500),
        ("1.5KiB", 1536),
        ("0.25Ti", 1 << 38),
        ("1152921504606846975", (1 << 60) - 1),  # float64 would round it
        ("1.9", 1),
    ],
)
def test_sizes(size: str, n_bytes: int) -> None:
    assert byte_size(size, "--max-memory") == n_bytes


@pytest.mark.parametrize("closed", [(2,), (0, 2), (0, 1, 2)])
def test_no_file_gets_the_number_of_a_closed_stream(tmp_path: Path, closed: tuple[int, ...]) -> None:
    """Or libraries would print into it."""
    program = (
        f"import os, sys; [os.close(n) for n in {closed}]\n"
        "from fastconv.cli.main import hold_standard_descriptors\n"
        "hold_standard_descriptors()\n"
        "os.write(2, b'lost'); os.write(1, b'lost')\n"
        "opened = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)\n"
        "raise SystemExit(opened <= 2)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "opened")]
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert (tmp_path / "opened").read_bytes() == b""


@pytest.mark.memory
@pytest.mark.parametrize("megabytes", [24, 60])
@pytest.mark.parametrize("arguments", [["convert", "MODEL"], ["--version"]])
def test_a_limit_of_data_is_told_rather_than_met(model: Path, megabytes: int, arguments: list[str]) -> None:
    """OpenBLAS, which NumPy brings, would ask for memory for ever."""
    limit = (
        f"import os, resource, sys; resource.setrlimit(resource.RLIMIT_DATA, ({megabytes << 20}, {megabytes << 20}))"
    )
    launch = f"{limit}; os.execv(sys.executable, [sys.executable, '-m', 'fastconv', *sys.argv[1:]])"
    command = [sys.executable, "-c", launch, *(str(model) if part == "MODEL" else part for part in arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("fastconv: error: the limit of memory (ulimit -v or -d) is too low: found ")
    assert done.stderr.count("\n") == 1


def test_interrupted_before_it_began(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", interrupt)
    assert main(["convert"]) == 130
    assert capsys.readouterr().err == "fastconv: interrupted, no unfinished file is left\n"
