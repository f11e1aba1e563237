# SPDX-License-Identifier: MIT
"""Build folders over ready trees of OpenEmbedded (see testbed/oetrees.py).

bitbake refuses root. So root has it run in `make layer-build`'s Debian root, as that one's ordinary user; anybody
else has it on the machine as it is.
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from testbed import oetrees  # noqa: E402
from testbed.errors import TestbedError  # noqa: E402
from testbed.layerbuild import buildroot, folder, sysroot  # noqa: E402
from testbed.oetrees import MACHINES, NEXT, RELEASES, compose, kas_files  # noqa: E402,F401

CHECKED = tuple(os.environ.get("OE_RELEASES", "").split()) or RELEASES
"""Of which releases the tests with OE_TREES are: RELEASES, unless others are named."""


def debian_root():
    """The root that bitbake runs in, made if it isn't cached; None: not root, so on this machine as it is."""
    if os.geteuid():
        return None
    _debs, versions = sysroot.build()
    return buildroot.build(versions)


@dataclass(frozen=True)
class BuildFolder:
    """An initialised build folder; `run` executes a command in it.

    :ivar trees: a release's trees (oetrees.Trees).
    :ivar config: what kas composes for the release and a machine.
    :ivar root: what debian_root() gave.
    """

    trees: oetrees.Trees
    path: Path
    config: oetrees.Config
    root: Path | None

    def repository(self, name):
        """A repository's folder as bitbake sees it; None is this one."""
        if self.root:
            return folder.inside(name)
        return self.trees.folder / name if name else ROOT

    def layers(self, own=True):
        """The configuration's layers as bitbake sees them, with those of this repository or without."""
        return [self.repository(name) / layer for name, layer in oetrees.layers(self.config) if name or own]

    def prepare(self, extra=""):
        """Write conf/ from the configuration and extra local.conf lines."""
        self.write_layers(*self.layers())
        headers = self.config.get("local_conf_header", {}).values()
        self._write(
            "local.conf",
            f'MACHINE = "{self.config["machine"]}"\nDISTRO = "{self.config["distro"]}"\n'
            + "\n".join(headers)
            + 'BB_NO_NETWORK = "1"\nINHERIT:remove = "uninative"\n'
            + 'CONNECTIVITY_CHECK_URIS = ""\n'
            + extra,
        )

    def write_layers(self, *layers):
        """Write bblayers.conf for layers' folders as bitbake sees them."""
        lines = " \\\n    ".join(map(str, layers))
        self._write("bblayers.conf", f'BBPATH = "${{TOPDIR}}"\nBBFILES ?= ""\nBBLAYERS = "\\\n    {lines} \\\n"\n')

    def _write(self, name, text):
        file = self.path / "conf" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        for path in (self.path, file.parent, file) if self.root else ():
            os.chown(path, buildroot.USER, buildroot.USER)

    def run(self, command, log):
        """Run a shell command in the initialised build folder.

        :param log: the file that gets its output while it runs; it may run for an hour.
        :returns: the completed process with all output in its stdout.
        """
        with log.open("w") as output:
            done = subprocess.run(self.command(command), stdout=output, stderr=subprocess.STDOUT, check=False)
        done.stdout = log.read_text()
        return done

    def command(self, script):
        """The command line that runs a shell command in the initialised build folder."""
        build = buildroot.WORK / "build" if self.root else self.path
        script = f"{oetrees.enter(self.repository(oetrees.CORE), self.repository('bitbake'), build)} && {script}"
        if not self.root:
            return ["bash", "-c", script]
        mounts = buildroot.Mounts(folder.repositories(self.trees, self.config), self.path)
        return buildroot.command(self.root, mounts, script)


def main():
    """Run the heavy checks (`make oe-check`); returns pytest's exit status."""
    try:
        oetrees.check(os.environ.get("OE_TREES", ""), CHECKED)
        debian_root()
    except TestbedError as error:
        print(f"oe-check: {error}")
        return 2
    # What a release's recipes are parsed to is kept there.
    os.environ.setdefault("OE_BUILD", str(ROOT / "build/oe-check"))
    names = ("test_layer_kernel_recipe.py", "test_layer_oe.py")
    tests = [str(Path(__file__).with_name(name)) for name in names]
    return subprocess.call([sys.executable, "-m", "pytest", "-v", *tests, *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
