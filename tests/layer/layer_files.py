# SPDX-License-Identifier: MIT
"""Looking into the layer's files without bitbake."""

import re

from oe_trees import ROOT

LAYER = ROOT / "meta-xen-dmabuf"


def layer_files(*suffixes):
    """Return the layer's own files with one of the suffixes, sorted."""
    lib = LAYER / "lib"
    return sorted(path for suffix in suffixes for path in LAYER.rglob(f"*{suffix}") if lib not in path.parents)


def assignment(text, variable):
    """Return the value of a variable's first assignment in a recipe, or None."""
    match = re.search(rf'^{re.escape(variable)}\s*[?:+.]*=\+?\s*"((?:[^"\\]|\\.|\\\n)*)"', text, re.M)
    return match[1].replace("\\\n", " ") if match else None
