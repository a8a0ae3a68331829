"""Whether targets may be written and have room, asked before anything is written. Opens none of them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Mapping, Sequence

from fastconv.errors import OutputError
from fastconv.layout.leftovers import leftover_bytes
from fastconv.layout.output_file import exists_error


def check_targets(
    targets: Mapping[str, int], inputs: Sequence[str], *, overwrite: bool, folders: Collection[str] = ()
) -> None:
    """Before anything is written: every target is allowed, writable and has room.

    targets: path -> size in bytes. inputs: files being read, which no target may be. folders: those that hold targets
    and are made where they are missing. Raises OutputError.
    """
    for made in folders:
        if os.path.lexists(made) and not os.path.isdir(made):
            raise OutputError("is no folder", file=made, fix="give --outfile another name")
    needed: dict[int, tuple[str, int]] = {}
    swept: set[tuple[int, str, str | None]] = set()
    for path, size in targets.items():
        folder, file_name = os.path.split(os.path.abspath(path))
        name: str | None = file_name
        if os.path.dirname(path) in folders:
            name = None
            if not os.path.lexists(folder):
                folder, name = os.path.split(folder)
        _check_path(path, folder, inputs, overwrite=overwrite)
        device = os.stat(folder).st_dev
        needed[device] = (folder, needed.get(device, ("", 0))[1] + size)
        swept.add((device, folder, name))
    for device, (folder, size) in needed.items():
        free = shutil.disk_usage(folder).free
        free += sum(leftover_bytes(where, name) for on, where, name in swept if on == device)
        if free < size:
            raise OutputError(
                "not enough room", file=folder, found=f"{free} bytes free", expected=f"{size}", fix="free some space"
            )


def _check_path(path: str, folder: str, inputs: Sequence[str], *, overwrite: bool) -> None:
    """folder: that exists already when the run begins."""
    if os.path.isdir(path):
        raise OutputError("is a folder", file=path, fix="give --outfile a file name")
    if not os.path.isdir(folder):
        raise OutputError("the folder does not exist", file=folder, fix="make it first")
    if os.path.lexists(path):
        for source in inputs:
            if os.path.exists(path) and os.path.samefile(path, source):
                raise OutputError("is an input of this run", file=path, fix="write to another file")
        if not overwrite:
            raise exists_error(path)
        if os.path.exists(path) and not os.path.isfile(path):
            raise OutputError("is no regular file", file=path, fix="write to another file")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError("cannot be written (no permission for the folder)", file=path)
