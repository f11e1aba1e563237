# SPDX-License-Identifier: MIT
"""Build folders over ready trees of OpenEmbedded (see testbed/oetrees.py) on the machine as it is."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from testbed import oetrees  # noqa: E402
from testbed.errors import TestbedError  # noqa: E402
from testbed.oetrees import MACHINES, NEXT, RELEASES, compose, kas_files  # noqa: E402,F401

CHECKED = tuple(os.environ.get("OE_RELEASES", "").split()) or RELEASES
"""Of which releases the tests with OE_TREES are: RELEASES, unless others are named."""


@dataclass(frozen=True)
class BuildFolder:
    """An initialised build folder; `run` executes a command in it."""

    trees: Path
    release: str
    path: Path
    layer: Path

    def prepare(self, config, extra=""):
        """Write conf/ from a composed kas configuration and extra local.conf lines."""
        conf = self.path / "conf"
        conf.mkdir(parents=True, exist_ok=True)
        folders = [
            str((self.trees / self.release / name if name else self.layer.parent) / layer)
            for name, layer in oetrees.layers(config)
        ]
        layers = " \\\n    ".join(folders)
        (conf / "bblayers.conf").write_text(
            f'BBPATH = "${{TOPDIR}}"\nBBFILES ?= ""\nBBLAYERS = "\\\n    {layers} \\\n"\n'
        )
        headers = config.get("local_conf_header", {}).values()
        (conf / "local.conf").write_text(
            f'MACHINE = "{config["machine"]}"\nDISTRO = "{config["distro"]}"\n'
            + "\n".join(headers)
            + 'BB_NO_NETWORK = "1"\nINHERIT:remove = "uninative"\n'
            + 'CONNECTIVITY_CHECK_URIS = ""\n'
            + extra
        )

    def run(self, command, log):
        """Run a shell command in the initialised build folder.

        :param log: the file that gets its output while it runs; it may run for an hour.
        :returns: the completed process with all output in its stdout.
        """
        trees = self.trees / self.release
        script = f"{oetrees.enter(trees / oetrees.CORE, trees / 'bitbake', self.path)} && {command}"
        with log.open("w") as output:
            done = subprocess.run(["bash", "-c", script], stdout=output, stderr=subprocess.STDOUT, check=False)
        done.stdout = log.read_text()
        return done


def main():
    """Run the heavy checks (`make oe-check`); returns pytest's exit status."""
    try:
        oetrees.check(os.environ.get("OE_TREES", ""), CHECKED)
    except TestbedError as error:
        print(f"oe-check: {error}")
        return 2
    names = ("test_layer_kernel_recipe.py", "test_layer_oe.py")
    tests = [str(Path(__file__).with_name(name)) for name in names]
    return subprocess.call([sys.executable, "-m", "pytest", "-v", *tests, *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
