"""The old script's command line: each of its flags, as it was spelled there, reaches fastconv's own."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import pytest

from fastconv import cli
from fastconv.cli import convert_command
from fastconv.compat import llama_convert
from fastconv.request import ConvertRequest


def parsed(argv: Sequence[str]) -> argparse.Namespace:
    """What `fastconv convert` makes of the translated arguments."""
    command, *rest = llama_convert.translate(argv)
    assert command == "convert"
    parser = argparse.ArgumentParser()
    convert_command.add_options(parser)
    return parser.parse_args(rest)


def request(argv: Sequence[str]) -> ConvertRequest:
    return convert_command.request_from(parsed(argv))


def test_a_model_alone() -> None:
    assert request(["models/7B"]) == ConvertRequest(source="models/7B", to="ggjt")


@pytest.mark.parametrize(
    ("flags", "field", "value"),
    [
        (["--outtype", "f32"], "outtypes", ("f32",)),
        (["--outtype", "f16"], "outtypes", ("f16",)),
        (["--outtype", "q4_1"], "outtypes", ("q4_1",)),
        (["--outtype=q4_0"], "outtypes", ("q4_0",)),
        (["--outfile", "out.bin"], "outfile", "out.bin"),
        (["--vocab-dir", "tokenizers"], "vocab_dir", "tokenizers"),
        (["--vocabtype", "spm"], "vocab_kind", "spm"),
        (["--vocabtype", "bpe"], "vocab_kind", "bpe"),
        (["--lora_path", "lora/adapter_model.bin"], "adapters", (("lora/adapter_model.bin", 1.0),)),
        (["--concurrency", "3"], "threads", 3),
        (["--vocab-only"], "vocab_only", True),
        (["--overwrite"], "overwrite", True),
    ],
)
@pytest.mark.parametrize("model_first", [True, False])
def test_every_flag(flags, field, value, model_first) -> None:
    argv = ["models/7B", *flags] if model_first else [*flags, "models/7B"]
    found = request(argv)
    assert getattr(found, field) == value
    assert (found.source, found.to) == ("models/7B", "ggjt")


@pytest.mark.parametrize(("flag", "name"), [("--dump", "dump"), ("--dump-single", "dump_single")])
def test_dumps(flag: str, name: str) -> None:
    assert getattr(parsed([flag, "models/7B"]), name) is True


@pytest.mark.parametrize(
    "argv", [[], ["--outtype", "q2_k", "model"], ["--vocabtype", "wpm", "model"], ["--nope", "model"]]
)
def test_wrong_usage_exits_with_2_and_the_usage(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        llama_convert.main(argv)
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("usage: llama_convert [-h] [--dump] [--dump-single] [--vocab-only]")


def test_main_hands_over_and_returns_the_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(cli, "main", lambda argv: seen.append(argv) or 7)
    monkeypatch.setattr("sys.argv", ["llama_convert", "models/7B", "--outtype", "q4_0"])
    assert llama_convert.main() == 7
    assert seen == [["convert", "models/7B", "--to", "ggjt", "--outtype", "q4_0"]]
