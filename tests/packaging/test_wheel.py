"""The wheel as a user gets it: built from the source tree, installed where nothing else is, used."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "FASTCONV"))}

QUANTIZE = """
import numpy, fastconv
x = numpy.linspace(-1, 1, 512, dtype=numpy.float32).reshape(2, 256)
blocks = fastconv.quantize(x, "q8_0", threads=2)
assert abs(fastconv.dequantize(blocks, "q8_0") - x).max() < 1 / 127
print(blocks.dtype, blocks.shape)
"""


def run(*command: object, cwd: Path) -> str:
    """Standard output of a command that must succeed."""
    done = subprocess.run([*map(str, command)], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", folder, ROOT, cwd=folder)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """The bin folder of an environment with the wheel and what it asks for, nothing else."""
    folder = wheel.parent / "environment"
    run(sys.executable, "-m", "venv", folder, cwd=wheel.parent)
    run(folder / "bin" / "python", "-m", "pip", "install", wheel, cwd=wheel.parent)
    return folder / "bin"


@pytest.mark.slow
def test_wheel_holds_the_package_and_one_extension(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert [name for name in names if name.endswith(".so")] == [name for name in names if "_native.cpython" in name]
    assert sum(name.endswith(".so") for name in names) == 1
    assert {"fastconv/py.typed", "fastconv/_native.pyi", "fastconv/__init__.py"} <= set(names)
    assert {"fastconv/cli/verify_page.html", "fastconv/cli/verify_page.js"} <= set(names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"fastconv"}


@pytest.mark.slow
def test_installed_wheel_works(installed: Path, tmp_path: Path) -> None:
    assert run(installed / "fastconv", "--version", cwd=tmp_path).split()[0] == "fastconv"
    assert "convert" in run(installed / "python", "-m", "fastconv", "--help", cwd=tmp_path)
    assert "--outtype" in run(installed / "llama_convert", "--help", cwd=tmp_path)
    assert run(installed / "python", "-c", QUANTIZE, cwd=tmp_path).split() == ["uint8", "(2,", "272)"]


@pytest.mark.slow
def test_installation_brings_no_framework(installed: Path, tmp_path: Path) -> None:
    packages = run(installed / "python", "-m", "pip", "list", "--format=freeze", cwd=tmp_path).lower()
    assert not {"torch", "transformers", "tensorflow", "jax"} & {line.split("==")[0] for line in packages.splitlines()}


@pytest.mark.slow
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="baseline x86-64 only")
def test_extension_asks_for_no_more_than_baseline(installed: Path, tmp_path: Path) -> None:
    """Loading the module and its smallest path run without AVX2: what FASTCONV_ISA=baseline selects."""
    code = "from fastconv import _native; print(_native.isa())"
    done = subprocess.run(
        [installed / "python", "-c", code],
        env={**ENVIRONMENT, "FASTCONV_ISA": "baseline"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "baseline", done.stderr


@pytest.mark.slow
def test_source_distribution_builds(tmp_path: Path) -> None:
    """pip builds a wheel from the sdist alone: it holds all that a build needs."""
    python = tmp_path / "environment" / "bin" / "python"
    run(sys.executable, "-m", "venv", tmp_path / "environment", cwd=tmp_path)
    run(python, "-m", "pip", "install", "build", cwd=tmp_path)
    run(python, "-m", "build", "--outdir", tmp_path / "dist", ROOT, cwd=tmp_path)
    assert {path.suffix for path in (tmp_path / "dist").iterdir()} == {".gz", ".whl"}
