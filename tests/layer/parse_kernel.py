# SPDX-License-Identifier: MIT
"""Parse a made-up kernel recipe with bitbake and print variables of it: bitbake's lib, layer, work folder, names.

The work folder holds kernel.bb. bitbake can parse only one configuration in a process, so this is a program.
"""

import json
import sys

bitbake, layer, work, *names = sys.argv[1:]
sys.path.insert(0, bitbake)

# pylint: disable=wrong-import-position
import bb  # noqa: E402
import bb.codeparser  # noqa: E402
import bb.data  # noqa: E402
import bb.event  # noqa: E402
import bb.parse  # noqa: E402
import bb.siggen  # noqa: E402
import bb.utils  # noqa: E402


def parse():
    d = bb.data.init()
    d.setVar("TOPDIR", work)
    d.setVar("BBPATH", layer)
    d.setVar("LAYERDIR", layer)
    d.setVar("BB_SIGNATURE_HANDLER", "noop")
    bb.parse.init_parser(d)
    bb.parse.handle(f"{layer}/conf/layer.conf", d, 1, True)
    bb.parse.handle(f"{work}/kernel.conf", d, 1, True)
    return bb.parse.handle(f"{work}/kernel.bb", d)[""]


recipe = parse()
print(json.dumps({name: recipe.getVar(name) for name in names}))
