# SPDX-License-Identifier: MIT
"""Fuzz targets: what a frontend, a compositor, XenStore, a worker or a stored state may say, at random.

`make fuzz N=1000000 SEED=1 TARGET=requests`. A target's work is cut into sessions, each of which is made by
one seed alone, so a failure is repeated by the seed that its message names. An input is one packet, line,
page, event or node that the code is given. Time is virtual where there is any (base.Loop), so that 8 s of
waiting cost nothing and each run of a seed is the same.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sys

MODULE, MODULE_PATH = "xen_dmabuf.pump._pump", "XEN_DMABUF_FUZZ_MODULE"
"""What sanitized.py has other processes take in its place, and the variable that says so."""


def _load(path: str) -> None:
    """Before anybody imports the module."""
    loader = importlib.machinery.ExtensionFileLoader(MODULE, path)
    specification = importlib.util.spec_from_file_location(MODULE, path, loader=loader)
    assert specification
    sys.modules[MODULE] = module = importlib.util.module_from_spec(specification)
    loader.exec_module(module)


if MODULE_PATH in os.environ:
    _load(os.environ[MODULE_PATH])
