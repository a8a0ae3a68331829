"""JSON texts: what they may not hold although json.loads takes it."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastconv.checkpoint import json_file
from fastconv.checkpoint.json_file import MAX_JSON_DEPTH, parse_json
from fastconv.cli import main
from tests.models import write_hf

CONFUSING = ["[" * 70, "{" * 70, '"', "\\", '\\"[', "\\\\", "]", "x"]


def nested(depth: int, value: Any) -> Any:
    for level in range(depth):
        value = [value] if level % 3 else {'"[\\': value}
    return value


@settings(deadline=None)
@given(st.recursive(st.sampled_from(CONFUSING), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_what_is_not_deep_is_read_whatever_its_strings_hold(value: Any) -> None:
    for piece, wide in itertools.product((1, 7, 1 << 20), (value, [[value]] * (2 * MAX_JSON_DEPTH))):
        with mock.patch.object(json_file, "_PIECE", piece):
            assert parse_json(json.dumps(wide)) == wide
            assert parse_json(json.dumps(wide, ensure_ascii=False)) == wide


@pytest.mark.parametrize("value", [1, "[[", '"', "\\"])
def test_depth(value: Any) -> None:
    assert parse_json(json.dumps(nested(MAX_JSON_DEPTH, value))) == nested(MAX_JSON_DEPTH, value)
    for depth in (2 * MAX_JSON_DEPTH + 1, 500, 900):
        for text in (json.dumps(nested(depth, value)), "[" * depth + json.dumps(value) + "]" * depth):
            with pytest.raises(ValueError, match="is nested deeper than 64 levels"):
                parse_json(text)


def test_a_deep_configuration_is_one_line_for_every_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_hf(tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps(config | {"architectures": nested(900, 1)}))
    for command in (["convert"], ["convert", "--to", "hf"], ["convert", "--dump"], ["inspect", "--json"], ["inspect"]):
        assert main([*command, str(tmp_path / "m")]) == 1
        error = capsys.readouterr().err
        assert "config.json: is not valid JSON (is nested deeper than 64 levels)" in error
        assert error.count("\n") == 1
