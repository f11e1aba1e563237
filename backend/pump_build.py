# SPDX-License-Identifier: MIT
"""Builds xen_dmabuf.pump._pump. setup.py names this file; by hand:

    python pump_build.py in-place         beside its sources, for this Python
    python pump_build.py module FOLDER    into a folder
    python pump_build.py c FILE           only the C of it, for another machine's compiler

With XEN_DMABUF_SANITIZE=1 it has the address and undefined-behaviour sanitizers in it. By hand, which is how
tests get it, a warning is an error; setuptools may have a compiler that nobody here has seen, whose new
warnings should end no image's build.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

from cffi import FFI

_HERE = Path(__file__).resolve().parent / "src/xen_dmabuf/pump"
_FLAGS = ["-std=gnu11", "-O2", "-Wall", "-Wextra"] + (["-Werror"] if __name__ == "__main__" else [])
_SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g"]

builder = FFI()
builder.cdef(
    (_HERE / "pump.h").read_text(encoding="utf-8")
    + """
extern "Python" void callback_done(void *callback);
typedef int (*port_function)(int evtchn, uint32_t port);
typedef int (*dispatcher_function)(const void *data, void *target, uint32_t opcode, const void *message,
                                   void *arguments);
"""
)
_sanitize = _SANITIZE if os.environ.get("XEN_DMABUF_SANITIZE") == "1" else []
builder.set_source(
    "xen_dmabuf.pump._pump",
    "#include <stdbool.h>\n#include <stddef.h>\n#include <stdint.h>\n"
    "static void callback_done(void *callback);\n"
    + "".join((_HERE / name).read_text(encoding="utf-8") for name in ("pump.h", "pump.c")),
    extra_compile_args=_FLAGS + _sanitize,
    extra_link_args=_sanitize,
    # without a compiler the package is Python's alone
    optional=__name__ != "__main__" and os.environ.get("XEN_DMABUF_PUMP") != "required",
)


def _module(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as work:
        built = Path(builder.compile(tmpdir=work))
        for old in folder.glob("_pump.*.so"):
            old.unlink()
        shutil.copy(built, folder)


def main(arguments: list[str]) -> None:
    if arguments == ["in-place"]:
        _module(_HERE)
    elif len(arguments) == 2 and arguments[0] == "module":
        _module(Path(arguments[1]))
    elif len(arguments) == 2 and arguments[0] == "c":
        builder.emit_c_code(arguments[1])
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
