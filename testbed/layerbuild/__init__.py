# SPDX-License-Identifier: MIT
"""``make layer-build``: real bitbake builds the layer's recipes, with Debian's compiler and libraries below them."""
