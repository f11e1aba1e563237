# SPDX-License-Identifier: MIT
"""All else is in pyproject.toml: it has no word for a module that cffi builds.

With XEN_DMABUF_PUMP=none in the environment it isn't built, and the package has no machine's code.
"""

import os

from setuptools import setup

setup(cffi_modules=[] if os.environ.get("XEN_DMABUF_PUMP") == "none" else ["pump_build.py:builder"])
