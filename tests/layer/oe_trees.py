# SPDX-License-Identifier: MIT
"""Build folders over ready trees of OpenEmbedded, configured by the project's own kas files.

OE_TREES names a folder with one folder per release (wrynose, scarthgap) that
holds the repositories of kas/base.yml under their kas names, at any commit:

    OE_TREES/wrynose/{bitbake,openembedded-core,meta-openembedded,…}

kas composes the configuration; what kas would clone is taken from there.
"""

import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
MACHINES = ("qemuarm64", "imx8qm-mek")
RELEASES = ("wrynose", "scarthgap")
# Composing needs no repository, and a test must not fetch any.
NO_CHECKOUT = ("repo_setup_loop", "finish_setup_repos", "repos_checkout")


def compose(files, work_dir):
    """Return the configuration that `kas dump` makes of a list of kas files.

    :param files: paths relative to the repository's root.
    :param work_dir: a scratch folder for kas.
    :raises subprocess.CalledProcessError: kas refused them.
    """
    skips = [word for step in NO_CHECKOUT for word in ("--skip", step)]
    command = [sys.executable, "-m", "kas", "dump", *skips, ":".join(files)]
    env = {**os.environ, "KAS_WORK_DIR": str(work_dir)}
    done = subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True, text=True)
    return yaml.safe_load(done.stdout)


def kas_files(machine, release):
    """Return the kas files of a machine and a release."""
    files = [f"kas/{machine}.yml"]
    return files if release == "wrynose" else [*files, f"kas/{release}.yml"]


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
        layers = " \\\n    ".join(self._layers(config))
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

    def _layers(self, config):
        for name, repo in config["repos"].items():
            repo = repo or {}
            top = self.trees / self.release / name if "url" in repo else self.layer.parent
            for layer, state in (repo.get("layers") or {"": None}).items():
                if state != "disabled":
                    yield str(top / layer) if layer else str(top)

    def run(self, command, log):
        """Run a shell command in the initialised build folder.

        :param log: the file that gets its output while it runs; it may run for an hour.
        :returns: the completed process with all output in its stdout.
        """
        oe_core = self.trees / self.release / "openembedded-core"
        bitbake = self.trees / self.release / "bitbake"
        script = (
            f"cd {shlex.quote(str(oe_core))} && . ./oe-init-build-env "
            f"{shlex.quote(str(self.path))} {shlex.quote(str(bitbake))} >/dev/null && {command}"
        )
        with log.open("w") as output:
            done = subprocess.run(["bash", "-c", script], stdout=output, stderr=subprocess.STDOUT, check=False)
        done.stdout = log.read_text()
        return done


def main():
    """Run the heavy checks (`make oe-check`); returns pytest's exit status."""
    if not Path(os.environ.get("OE_TREES", "")).is_dir() or not os.environ.get("OE_TREES"):
        print("oe-check: set OE_TREES to the folder with the trees, see docs/testing.md")
        return 2
    names = ("test_layer_kernel_recipe.py", "test_layer_oe.py")
    tests = [str(Path(__file__).with_name(name)) for name in names]
    return subprocess.call([sys.executable, "-m", "pytest", "-v", *tests, *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
