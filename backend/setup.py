# SPDX-License-Identifier: MIT
"""All else is in pyproject.toml: it has no word for a module that cffi builds.

XEN_DMABUF_PUMP in the environment: "none", it isn't built, and the package has no machine's code; "required",
it is, or the build fails; else it is built where there is a C compiler.
"""

import os

from setuptools import setup

setup(cffi_modules=[] if os.environ.get("XEN_DMABUF_PUMP") == "none" else ["pump_build.py:builder"])
