# SPDX-License-Identifier: Apache-2.0
"""A script of the project, or pytest, in the process of the tests: a new one imports torch for seconds."""
from __future__ import annotations

import io
import runpy
import sys
from pathlib import Path
from subprocess import CompletedProcess
from types import ModuleType

import pytest

from common import ROOT


def run_script(name: str, *words: str | Path, folder: Path | None = None,
               stdin: bytes = b"") -> CompletedProcess:
    """`python NAME WORDS` in `folder`, with `stdin` as a pipe: its exit code and what it wrote."""
    streams = {stream: io.TextIOWrapper(io.BytesIO(content), encoding="utf-8", write_through=True)
               for stream, content in (("stdin", stdin), ("stdout", b""), ("stderr", b""))}
    arguments = [str(ROOT / name), *map(str, words)]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder or ROOT)
        patch.setattr(sys, "argv", arguments)
        for stream, here in streams.items():
            patch.setattr(sys, stream, here)
        try:
            runpy.run_path(arguments[0], run_name="__main__")
            code = 0
        except SystemExit as end:
            code = end.code or 0
    written = [streams[stream].buffer.getvalue().decode() for stream in ("stdout", "stderr")]
    return CompletedProcess(arguments, code, *written)


def run_pytest(*words: str) -> tuple[int, str]:
    """`pytest WORDS` in the project's folder: its exit code and what it printed."""
    printed, modules = io.StringIO(), dict(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(sys, "stdout", printed)
        patch.setattr(sys, "stderr", printed)
        patch.setattr(sys, "path", list(sys.path))
        code = pytest.main(["-p", "no:cacheprovider", *words])
    for name, module in list(sys.modules.items()):
        if name not in modules and not is_library(module):
            del sys.modules[name]                                 # graders have a conftest of their own
            room, _, file = name.rpartition(".")
            if room in modules:                           # else `from room import file` finds it again
                vars(modules[room]).pop(file, None)
    sys.modules.update(modules)
    return int(code), printed.getvalue()


def is_library(module: ModuleType) -> bool:
    """Whether a module belongs to Python or to an installed package; torch cannot be imported twice."""
    file = getattr(module, "__file__", None)
    return file is None or "site-packages" in Path(file).parts or file.startswith(sys.base_prefix)
