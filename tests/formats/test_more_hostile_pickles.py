"""Names that scanners of pickles warn of, in each form a pickle can call by: refused by name, nothing imported or run.

Source of the names: the lists of picklescan and fickling, and the standard library's own doors to a shell or a file.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import fastconv.checkpoint.torch_zip  # noqa: F401  # so that it is there before
from fastconv.checkpoint import open_checkpoint
from fastconv.errors import CheckpointError
from tests.formats.format_builders import PickleBuilder, torch_zip_bytes

WORDS = """
    os.popen os.execv os.execl os.spawnv os.posix_spawn os.remove os.unlink os.rename os.putenv os.fork posix.popen
    posix.execve nt.startfile subprocess.run subprocess.call subprocess.getoutput subprocess.check_call
    builtins.globals builtins.setattr builtins.delattr builtins.vars builtins.map builtins.filter builtins.apply
    builtins.breakpoint builtins.input __builtin__.execfile __builtin__.file __builtin__.getattr operator.itemgetter
    functools.reduce itertools.starmap codecs.open codecs.decode importlib.reload importlib._bootstrap._load
    imp.load_source pkgutil.resolve_name shutil.rmtree shutil.move shutil.copy pathlib.Path tempfile.mktemp
    socket.create_connection socket.socket urllib.request.urlopen urllib.request.urlretrieve
    http.client.HTTPConnection requests.get ftplib.FTP smtplib.SMTP asyncio.run asyncio.create_subprocess_shell
    multiprocessing.Process threading.Thread signal.signal marshal.loads pickle.load dill.loads cloudpickle.loads
    shelve.open sqlite3.connect zipfile.ZipFile tarfile.open code.interact code.InteractiveInterpreter cProfile.run
    profile.run trace.Trace doctest.debug_script bdb.Bdb ctypes.cdll.LoadLibrary ctypes.memmove _ctypes.dlopen
    cffi.FFI mmap.mmap resource.setrlimit gc.get_objects torch.serialization.load torch.jit.load
    torch._dynamo.guards.GuardBuilder.get torch.storage._load_from_bytes torch.package.PackageImporter
    torch.distributed.init_process_group torch._inductor.codecache.compile_file torch._utils._rebuild_sparse_tensor
    torch._utils._rebuild_device_tensor_from_numpy torch.fx.graph_module.reduce numpy.load numpy.fromfile numpy.memmap
    numpy.f2py.crackfortran.getlincoef joblib.load pandas.eval transformers.AutoModel.from_pretrained
    IPython.utils.process.system lib2to3.pgen2.pgen.ParserGenerator.make_label
"""
NAMES = WORDS.split()


def split(name: str) -> tuple[str, str]:
    module, _, attribute = name.rpartition(".")
    return module, attribute


def by_reduce(module: str, name: str) -> bytes:
    return PickleBuilder().global_(module, name).op(b"(").text("touch executed").op(b"tR.").code


def by_stack_global(module: str, name: str) -> bytes:
    raw = b"".join(b"\x8c" + bytes([len(word)]) + word.encode() for word in (module, name))
    return b"\x80\x04" + raw + b"\x93\x8c\x01x\x85R."


def by_inst(module: str, name: str) -> bytes:
    return b"\x80\x02(X\x01\0\0\0xi" + module.encode() + b"\n" + name.encode() + b"\n."


@pytest.mark.parametrize("form", [by_reduce, by_stack_global, by_inst])
@pytest.mark.parametrize("name", NAMES)
def test_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, form: object) -> None:
    assert callable(form)
    monkeypatch.chdir(tmp_path)
    Path("model.pt").write_bytes(torch_zip_bytes(form(*split(name))))
    modules = set(sys.modules)
    with pytest.raises(CheckpointError) as raised:
        open_checkpoint("model.pt")
    assert f"pickle names {name}"[:200] in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]
    assert set(sys.modules) == modules
