"""The command: exit codes, table, JSON, page; checksums and provenance, written and read back."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import gguf
import pytest
from safetensors import safe_open

from fastconv import convert, inspect
from fastconv.cli import verify_page, verify_report
from fastconv.cli.main import main
from fastconv.errors import UsageError
from fastconv.request import ConvertRequest
from fastconv.verification.findings import TensorCheck, Verification
from fastconv.verification.verify import verify
from tests.verification.gguf_parts import GgufParts, Part


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
        "same",
        "blocks",
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
    """Tags, checked to be nested, and text; handlers of events are refused."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.text = ""
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.policy = ""
        self.script = ""
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        values = {name: value or "" for name, value in attrs}
        assert not any(name.startswith("on") for name in values)
        self.links += [values[name] for name in ("src", "href") if name in values]
        self.ids |= {values["id"]} if "id" in values else set()
        if "http-equiv" in values:
            self.policy = values["content"]
        if tag not in ("meta", "br", "wbr"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["script"]:
            self.script += data
        else:
            self.text += data

    def assert_alone(self) -> None:
        """Nothing is loaded, links lead into the page, and its own script is the only one that may run."""
        assert {link[1:] for link in self.links} <= self.ids
        assert all(link.startswith("#") for link in self.links)
        assert self.seen.count("script") == 1
        digest = base64.b64encode(hashlib.sha256(self.script.encode()).digest()).decode()
        assert self.policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def test_page(model: Path, damaged: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "report.html"
    page.write_text("<!DOCTYPE html> an older report")
    options = ["--against", str(model), "--lora", str(adapter), "--html", str(page), "--quiet"]
    assert main(["verify", str(damaged), *options]) == 1
    outline = Outline(page.read_text("utf-8"))
    outline.assert_alone()
    assert outline.seen.count("svg") == 3
    assert outline.seen.count("circle") == 16 + 4  # tensors that have an error, and those that adapters change
    assert outline.seen.count("rect") >= 21
    assert {f"t{index}" for index in range(21)} == outline.ids
    assert "damaged <&>.gguf" in outline.text
    assert "The file is not what it should be: 5 tensors of 21 off." in outline.text
    assert "4 tensors: the adapters' change is not in it" in outline.text
    assert "blk.0-1.attn_q.weight, blk.0-1.attn_v.weight" in outline.text
    for path in (damaged, model / "config.json", adapter / "adapter_config.json"):
        before = path.read_bytes()
        assert main(["verify", str(damaged), "--against", str(model), "--html", str(path)]) == 1
        assert f"{path}: exists and is no report; write to another file" in capsys.readouterr().err
        assert path.read_bytes() == before
    (tmp_path / "link").symlink_to("/dev/null")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe"):
        assert main(["verify", str(damaged), "--html", str(tmp_path / name)]) == 1
        assert "exists and is no report" in capsys.readouterr().err


NAMES = (
    *("<script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "$script ${title}", "blk.99999.x", "c" * 64),
    *("esc\x1b[31m", "turned\u202egnp.exe", "two\nlines: fine"),
)


def test_names_of_strangers(
    model: Path, converted: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They neither run in the page, nor colour, nor forge lines."""
    file = GgufParts.read(converted("q8_0"))
    file.parts += [Part(name, (4,), 0, bytearray(16)) for name in NAMES]
    path, page = file.write(tmp_path / "named.gguf"), tmp_path / "report.html"
    assert main(["verify", str(path), "--against", str(model), "--html", str(page)]) == 1
    said = [capsys.readouterr().out]
    assert main(["inspect", str(path)]) == 0
    said.append(capsys.readouterr().out)
    outline = Outline(page.read_text("utf-8"))
    outline.assert_alone()
    assert "img" not in outline.seen
    for text in (*said, outline.text):
        assert all(line.isprintable() for line in text.split("\n"))
        for name in NAMES[:5]:
            assert name in text
        for name in ("esc\\x1b[31m", "turned\\u202egnp.exe"):
            assert name in text
    assert all("two\\nlines: fine" in text for text in said)


@pytest.mark.parametrize("n_layer", [1, 100])
def test_page_of_any_size(n_layer: int, tmp_path: Path) -> None:
    """Ten tensors or hundreds, none of them with an error or all: the plots keep to the page's width."""
    checks = [
        TensorCheck(f"model.layers.{layer}.mlp.experts.{expert}.up_proj.weight", "q4_0", (4, 32), "close", snr_db=20.0)
        for layer in range(n_layer)
        for expert in range(4)
    ]
    for found in (checks, [replace(check, snr_db=math.inf) for check in checks]):
        result = Verification("x.gguf", "gguf", "source", (), len(found), (), tuple(found), None, (), 0, 1.0)
        text = verify_page.page(result)
        Outline(text).assert_alone()
        assert text.count('<rect class="cell"') + text.count('<rect class="none"') >= n_layer
        assert all(int(width) <= 1120 for width in re.findall(r'<svg width="(\d+)"', text))
    assert "worst of 4" in text


def test_narrow_terminal(model: Path, converted: Callable[..., Path]) -> None:
    result = verify(converted("q4_0"), against=model)
    result = replace(
        result, tensors=tuple(replace(check, name=f"model.layers.{check.name}") for check in result.tensors)
    )
    lines = verify_report.as_text(result, width=60).splitlines()
    assert all(len(line) <= 60 for line in lines[:-1])
    assert lines[0].split() == ["tensor", "type", "RMSE", "SNR", "dB", "verdict"]
    assert verify_report.as_text(result, width=30).splitlines()[0].split()[-1] == "verdict"
    assert len(verify_report.as_text(result).splitlines()[1]) > 80


def test_equal_problems_are_one() -> None:
    def off(name: str, reason: str) -> TensorCheck:
        return TensorCheck(name, "q4_0", (1,), "off", reason)

    found = [off(f"blk.{n}.attn_q.weight", f"RMSE 0.{n}1 is beyond 0.1") for n in (0, 1, 2, 5)]
    found += [off("output.weight", "RMSE 1e-05 is beyond 0.1"), off("output_norm.weight", "is another")]
    several, one = map(verify_report.problem_line, verify_report.problems(found))
    assert several == (
        "5 tensors: RMSE 0.01 is beyond 0.1 (figures of the first): blk.0-2,5.attn_q.weight, output.weight"
    )
    assert one == "tensor output_norm.weight: is another"
    many = [off(f"{name}.weight", "is another") for name in "abcdefghijklmnop"]
    assert verify_report.problem_line(verify_report.problems(many)[0]).endswith("l.weight, and 4 more")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere.gguf"], 1, "does not exist"),
        ([], 2, "arguments are required"),
        (["x.gguf", "--html", ""], 2, "--html is an empty name"),
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
    assert verify(tmp_path / "out").checksum == "ok"
    tokenizer = tmp_path / "out" / "tokenizer.model"
    data = tokenizer.read_bytes()
    tokenizer.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    found = verify(tmp_path / "out")
    assert found.checksum == "off"
    assert any(f"the SHA-256 of {tokenizer} is not the one beside it" in str(finding) for finding in found.findings)
    tokenizer.unlink()
    assert any(f"{tokenizer} is missing" in str(finding) for finding in verify(tmp_path / "out").findings)


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
    # How it is written is no part of what is written.
    convert(
        model, tmp_path / "same.gguf", outtype="q4_0", lora=[(adapter, 0.5)], n_ctx=128, provenance=True,
        sync=False, threads=1, checksum=True, max_memory="20M",
    )  # fmt: skip
    assert (tmp_path / "same.gguf").read_bytes() == path.read_bytes()
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
