# SPDX-License-Identifier: MIT
"""What only bitbake can say. Needs OE_TREES; takes hours on two cores.

    OE_TREES=… OE_BUILD=… python3 -m pytest tests/layer/test_layer_oe.py

Nothing is fetched or built: dry runs show that every dependency has a provider,
signatures that the layer leaves other recipes alone without the feature.
"""

import os
import re
import shlex
import sys
from pathlib import Path

import pytest
from layer_files import LAYER
from oe_trees import CHECKED, MACHINES, ROOT, BuildFolder, compose, debian_root, kas_files

from testbed.oetrees import CORE, Trees

IMAGES = ("xen-dmabuf-image-dom0", "xen-dmabuf-image-domu")
# Recipes of other layers that this one appends to or configures.
TOUCHED = ("linux-yocto", "weston", "weston-init", "xen", "xen-tools")


@pytest.fixture(scope="module")
def build(trees, tmp_path_factory):
    """Return a function that prepares a build folder for a release and a machine."""
    root = debian_root()
    top = Path(os.environ.get("OE_BUILD") or tmp_path_factory.mktemp("oe"))

    def prepare(release, machine, name=None, features=True, extra=""):
        if not (trees / release).is_dir():
            pytest.skip(f"OE_TREES has no {release}")
        path = top / (name or f"{release}-{machine}")
        path.mkdir(parents=True, exist_ok=True)
        config = compose(kas_files(machine, release), path)
        if not features:
            config["local_conf_header"] = {}
        folder = BuildFolder(Trees(trees / release, release), path, config, root)
        folder.prepare('ACCEPT_FSL_EULA = "1"\n' + extra)
        return folder

    return prepare


def run(folder, command):
    """Run a command in a build folder and keep its output there."""
    log = folder.path / f"{command.split()[0]}.log"
    done = folder.run(command, log)
    print("\n".join(done.stdout.splitlines()[-8:]), file=sys.stderr)
    return done, log


@pytest.mark.parametrize("release", CHECKED)
@pytest.mark.parametrize("machine", MACHINES)
def test_dry_run_of_both_images(machine, release, build):
    done, log = run(build(release, machine), f"bitbake -n {' '.join(IMAGES)}")
    assert done.returncode == 0, f"see {log}"
    assert "all succeeded" in done.stdout
    assert not re.findall(r"^(?:WARNING|ERROR).*xen.dmabuf.*", done.stdout, re.M)


def locked_signatures(folder):
    done, log = run(folder, f"bitbake -S lockedsigs {' '.join(TOUCHED)}")
    assert done.returncode == 0, f"see {log}"
    return (folder.path / "locked-sigs.inc").read_text()


# `xen` is skipped without its distribution feature, so everything but ours is on.
FEATURE_OFF = 'DISTRO_FEATURES:remove = "xen-dmabuf"\n'


@pytest.mark.parametrize("release", CHECKED)
def test_without_the_feature_no_signature_changes(release, build):
    with_layer = build(release, "qemuarm64", name=f"{release}-off", extra=FEATURE_OFF)
    signatures = locked_signatures(with_layer)
    with_layer.write_layers(*with_layer.layers(own=False))
    assert signatures == locked_signatures(with_layer)


@pytest.mark.parametrize("release", CHECKED)
def test_yocto_check_layer(release, build):
    folder = build(release, "qemuarm64", name=f"{release}-check", features=False)
    folder.write_layers(folder.repository(CORE) / "meta")
    openembedded = folder.repository("meta-openembedded")
    dependencies = [folder.repository("meta-virtualization")]
    dependencies += [openembedded / f"meta-{name}" for name in ("oe", "python", "networking", "filesystems")]
    words = [str(folder.repository(None) / LAYER.relative_to(ROOT)), "--no-auto-dependency", "--dependency"]
    done, log = run(folder, shlex.join(["yocto-check-layer", *words, *map(str, dependencies)]))
    assert done.returncode == 0, f"see {log}"
    assert re.search(r"xen-dmabuf.*PASS", done.stdout)
