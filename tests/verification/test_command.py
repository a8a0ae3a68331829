"""The command: exit codes, table, JSON, page; checksums and provenance, written and read back."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import gguf
import pytest
from safetensors import safe_open

from fastconv import convert, inspect
from fastconv.cli.main import main
from fastconv.errors import UsageError
from fastconv.request import ConvertRequest
from tests.verification.gguf_parts import GgufParts


@pytest.fixture
def damaged(converted: Callable[..., Path], tmp_path: Path) -> Path:
    file = GgufParts.read(converted("q8_0"))
    file.part("blk.1.ffn_down.weight").data[100] ^= 16
    return file.write(tmp_path / "damaged <&>.gguf")


def test_fine(model: Path, converted: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(converted("q4_0")), "--against", str(model)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == [
        "tensor",
        "type",
        "RMSE",
        "max",
        "error",
        "SNR",
        "dB",
        "cosine",
        "dW",
        "bytes",
        "verdict",
    ]
    assert len(lines) == 1 + 21 + 1
    assert all(line.endswith("exact") for line in lines[1:-1])
    assert ": fine: 21 tensors; 21 exact; " in lines[-1]


def test_off(model: Path, damaged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(damaged), "--against", str(model), "--quiet"]) == 1
    out = capsys.readouterr().out
    assert (
        "tensor blk.1.ffn_down.weight: 1 of 6144 blocks err beyond what their type does, the first in row 0, column 64"
        in out
    )
    assert "blk.0" not in out


def test_json(model: Path, damaged: Path, adapter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(damaged), "--against", str(model), "--lora", f"{adapter}:0.5", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["fine"]
    assert found["adapters"] == [str(adapter)]
    off = {check["name"] for check in found["compared"] if check["state"] == "off"}
    assert off == {"blk.1.ffn_down.weight", *(f"blk.{n}.attn_{part}.weight" for n in range(2) for part in "qv")}


class Outline(HTMLParser):
    """Tags, checked to be nested, and text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.text = ""
        self.links: list[str | None] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_page(model: Path, damaged: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "report.html"
    page.write_text("an older report")
    options = ["--against", str(model), "--lora", str(adapter), "--html", str(page), "--quiet"]
    assert main(["verify", str(damaged), *options]) == 1
    outline = Outline()
    outline.feed(page.read_text("utf-8"))
    assert not outline.open
    assert not outline.links
    assert "script" not in outline.seen
    assert outline.seen.count("svg") == 3
    assert outline.seen.count("circle") > 21
    assert outline.seen.count("tr") == 1 + 21
    assert "damaged <&>.gguf" in outline.text
    assert "not what it should be" in outline.text
    assert "tensor blk.0.attn_q.weight: the adapters' change is not in it" in outline.text
    assert main(["verify", str(damaged), "--html", str(damaged)]) == 1
    assert "is the file to check" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere.gguf"], 1, "does not exist"),
        ([], 2, "arguments are required"),
        (["x.gguf", "--lora", "y"], 2, "--lora is about the source; give --against"),
        (["x.gguf", "--imatrix", "y"], 2, "--imatrix is about the source"),
        (["x.gguf", "--concurrency", "0"], 2, "--concurrency is out of range"),
        (["x.gguf", "--html", "no/such/folder.html"], 1, "the folder does not exist"),
    ],
)
def test_usage(arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        found = main(["verify", *arguments])
    except SystemExit as leaving:
        found = leaving.code if isinstance(leaving.code, int) else -1
    assert found == code
    assert message in capsys.readouterr().err


def test_checksum(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.gguf"
    assert main(["convert", str(model), "-o", str(path), "--outtype", "q4_0", "--checksum"]) == 0
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert f"{digest}  {path}" in capsys.readouterr().out
    assert (tmp_path / "model.gguf.sha256").read_text() == f"{digest}  model.gguf\n"
    subprocess.run(["sha256sum", "--check", "--strict", "model.gguf.sha256"], cwd=tmp_path, check=True)
    assert main(["verify", str(path)]) == 0
    assert "SHA-256 ok" in capsys.readouterr().out
    data = bytearray(path.read_bytes())
    data[-40] ^= 1
    path.write_bytes(data)
    assert main(["verify", str(path)]) == 1
    assert "its SHA-256 is not the one beside it" in capsys.readouterr().out
    # Written anew without a sum, the older one is told of; with one, replaced.
    result = convert(model, path, outtype="f16", overwrite=True)
    assert any("is of an older file" in note for note in result.notes)
    result = convert(model, path, outtype="f16", overwrite=True, checksum=True)
    [output] = result.outputs
    assert output.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert main(["verify", str(path)]) == 0


def test_sums_of_other_programs(converted: Callable[..., Path], tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(converted("q4_0").read_bytes())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    for text, code in (
        (f"{digest.upper()} *a.gguf\n", 0),
        (f"{'0' * 64}  b.gguf\n{digest}  a.gguf\n", 0),
        (f"{'0' * 64}  a.gguf\n", 1),
        ("no sum", 1),
    ):
        (tmp_path / "a.gguf.sha256").write_text(text)
        assert main(["verify", str(path), "--quiet"]) == code, text


def test_checksums_of_a_folder(model: Path, tmp_path: Path) -> None:
    convert(model, tmp_path / "out", to="hf", shard_size="1MB", checksum=True)
    sums = sorted((tmp_path / "out").glob("*.sha256"))
    assert len(sums) == sum(1 for file in (tmp_path / "out").iterdir() if file.suffix != ".sha256")
    for file in sums:
        subprocess.run(["sha256sum", "--check", "--strict", "--quiet", file.name], cwd=tmp_path / "out", check=True)


def test_provenance_in_gguf(model: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.gguf"
    convert(model, path, outtype="q4_0", lora=[(adapter, 0.5)], n_ctx=128, provenance=True)
    assert main(["inspect", "--json", str(path)]) == 0
    metadata = json.loads(capsys.readouterr().out)["metadata"]
    assert metadata["fastconv.source"] == str(model)
    digest = hashlib.sha256((adapter / "adapter_model.safetensors").read_bytes()).hexdigest()
    assert json.loads(metadata["fastconv.adapters"]) == [{"path": str(adapter), "scale": 0.5, "sha256": digest}]
    assert json.loads(metadata["fastconv.options"]) == {"n_ctx": 128, "outtypes": ["q4_0"]}
    assert metadata["fastconv.version"]
    assert gguf.GGUFReader(path).fields["fastconv.source"].contents() == str(model)
    # Without the option nothing is added, and nothing else differs with it.
    convert(model, tmp_path / "plain.gguf", outtype="q4_0", lora=[(adapter, 0.5)], n_ctx=128)
    plain, told = GgufParts.read(tmp_path / "plain.gguf"), GgufParts.read(path)
    assert not any(key.startswith("fastconv.") for key in plain.keys)
    assert {key: raw for key, raw in told.keys.items() if not key.startswith("fastconv.")} == plain.keys
    assert told.parts == plain.parts
    # A file made of this one tells of its own making.
    convert(path, tmp_path / "again.gguf", outtype="q8_0", provenance=True)
    assert inspect(tmp_path / "again.gguf").metadata["fastconv.source"] == str(path)


def test_provenance_in_safetensors(model: Path, tmp_path: Path) -> None:
    convert(model, tmp_path / "out", to="hf", provenance=True)
    with safe_open(tmp_path / "out" / "model.safetensors", "np") as file:
        metadata = file.metadata()
    assert metadata["format"] == "pt"
    assert metadata["fastconv.source"] == str(model)
    assert inspect(tmp_path / "out").metadata["fastconv.adapters"] == "[]"


@pytest.mark.parametrize("options", [{"to": "ggjt"}, {"to": "litgpt"}, {"to": "hf", "weights_format": "bin"}])
def test_provenance_has_no_place(options: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="--provenance is for GGUF and safetensors"):
        ConvertRequest("source", provenance=True, **options)  # type: ignore[arg-type]
