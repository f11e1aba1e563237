# SPDX-License-Identifier: MIT
"""What `make layer-build` refuses before it starts, and how it reads bitbake. Nothing is built here."""

import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from layer_files import LAYER
from oe_trees import MACHINES, NEXT, RELEASES, ROOT, BuildFolder, compose, kas_files

from testbed import cache, layerdemo, oetrees
from testbed.errors import TestbedError
from testbed.layerbuild import bitbake, buildroot, kernel, recipes, run, sysroot
from testbed.layerbuild.folder import HOST_LAYER, Folder, Inputs, repositories
from testbed.packages.standins import STAND_INS

EVERY = (*RELEASES, NEXT)
BITBAKE = {"wrynose": "2.18.0", "scarthgap": "2.8.1", "blacksail": "2.19.0"}
# The names that oe-core knows, and the one that the other layers have: in August 2026 none of them named blacksail.
KNOWN = {"wrynose": "wrynose", "scarthgap": "scarthgap", "blacksail": "wrynose blacksail"}
FITTING = {"wrynose": "wrynose", "scarthgap": "scarthgap", "blacksail": "wrynose"}


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    work = tmp_path_factory.mktemp("kas")
    return {r: compose(kas_files("imx8qm-mek", r), work) for r in EVERY}


def make_trees(top, release, config):
    """Make what the check looks at; returns the release's folder."""
    version = top / release / "bitbake/lib/bb/__init__.py"
    version.parent.mkdir(parents=True)
    version.write_text(f'__version__ = "{BITBAKE[release]}"\n')
    for name, folder in oetrees.layers(config):
        if name:
            conf = top / release / name / folder / "conf/layer.conf"
            conf.parent.mkdir(parents=True)
            conf.write_text(f'LAYERSERIES_COMPAT_{folder or name} = "walnascar {FITTING[release]}"\n')
    core = top / release / "openembedded-core/meta/conf/layer.conf"
    core.write_text(f'LAYERSERIES_CORENAMES = "{KNOWN[release]}"\nLAYERSERIES_COMPAT_core = "{release}"\n')
    return top / release


@pytest.fixture(params=EVERY)
def made(request, tmp_path, configs):
    """Whole trees of a release: (OE_TREES, release, kas's configuration)."""
    make_trees(tmp_path, request.param, configs[request.param])
    return tmp_path, request.param, configs[request.param]


def refusal(top, release, config):
    with pytest.raises(TestbedError) as refused:
        oetrees.trees_of(str(top), release).check(config)
    sentence = str(refused.value)
    assert "\n" not in sentence
    return sentence


def test_whole_trees_are_taken(made):
    top, release, config = made
    oetrees.trees_of(str(top), release).check(config)


def test_links_to_repositories_are_followed(made, tmp_path_factory):
    top, release, config = made
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "core"
    (top / release / "openembedded-core").rename(elsewhere)
    (top / release / "openembedded-core").symlink_to(elsewhere)
    trees = oetrees.trees_of(str(top), release)
    trees.check(config)
    assert trees.repositories(config)["openembedded-core"] == elsewhere


@pytest.mark.parametrize("value", ["", "/nowhere"])
def test_without_a_folder(value):
    with pytest.raises(TestbedError, match=r"OE_TREES is .*docs/testing\.md"):
        oetrees.trees_of(value, "wrynose")


def test_an_unknown_release(tmp_path):
    with pytest.raises(TestbedError, match="kirkstone.*choose from wrynose, scarthgap"):
        oetrees.trees_of(str(tmp_path), "kirkstone")


def test_without_the_release(tmp_path, configs):
    assert 'no folder "wrynose"' in refusal(tmp_path, "wrynose", configs["wrynose"])


@pytest.mark.parametrize(
    "missing", ["bitbake", "meta-virtualization", "meta-openembedded/meta-python", "meta-freescale"]
)
def test_an_incomplete_tree_is_named(made, missing):
    top, release, config = made
    (top / release / missing).rename(top / "away")
    sentence = refusal(top, release, config)
    assert f'/{release}/{missing}"' in sentence
    assert "docs/testing.md" in sentence


@pytest.mark.parametrize("release", RELEASES)
def test_bitbake_of_another_release(release, tmp_path, configs):
    top, config = tmp_path, configs[release]
    make_trees(top, release, config)
    (top / release / "bitbake/lib/bb/__init__.py").write_text('__version__ = "2.20.0"\n')
    wanted = config["repos"]["bitbake"]["branch"]
    assert f"is bitbake 2.20.0, but {release} needs {wanted}; check out its branch {wanted}" in refusal(
        top, release, config
    )


def test_any_bitbake_of_master_is_taken(tmp_path, configs):
    make_trees(tmp_path, NEXT, configs[NEXT])
    (tmp_path / NEXT / "bitbake/lib/bb/__init__.py").write_text('__version__ = "2.20.1"\n')
    oetrees.trees_of(str(tmp_path), NEXT).check(configs[NEXT])


def test_bitbake_2_80_is_not_2_8(tmp_path, configs):
    top = make_trees(tmp_path, "scarthgap", configs["scarthgap"])
    (top / "bitbake/lib/bb/__init__.py").write_text('__version__ = "2.80.0"\n')
    assert "2.80.0" in refusal(tmp_path, "scarthgap", configs["scarthgap"])


@pytest.mark.parametrize(
    ("layer", "names"),
    [
        ("openembedded-core/meta", 'LAYERSERIES_COMPAT_core = "kirkstone"'),
        ("meta-virtualization", 'LAYERSERIES_COMPAT_virtualization-layer = "kirkstone"'),
    ],
)
def test_a_layer_of_another_release(made, layer, names):
    top, release, _ = made
    (top / release / layer / "conf/layer.conf").write_text(f"{names}\n")
    branch = "master" if release == NEXT else release
    assert f'{layer}" is for kirkstone, not for {release}; check out its branch {branch}' in refusal(*made)


def test_oe_core_of_wrynose_is_not_the_next(tmp_path, configs):
    """The other layers' branches name wrynose, too: oe-core tells the two apart."""
    top = make_trees(tmp_path, NEXT, configs[NEXT])
    (top / "openembedded-core/meta/conf/layer.conf").write_text(
        'LAYERSERIES_CORENAMES = "wrynose"\nLAYERSERIES_COMPAT_core = "wrynose"\n'
    )
    assert 'openembedded-core/meta" is for wrynose, not for blacksail' in refusal(tmp_path, NEXT, configs[NEXT])


def test_oe_core_of_the_next_is_not_wrynose(tmp_path, configs):
    """It has wrynose among the names that it knows."""
    top = make_trees(tmp_path, "wrynose", configs["wrynose"])
    core = top / "openembedded-core/meta/conf/layer.conf"
    core.write_text('LAYERSERIES_CORENAMES = "wrynose blacksail"\nLAYERSERIES_COMPAT_core = "blacksail"\n')
    assert "is for blacksail, not for wrynose" in refusal(tmp_path, "wrynose", configs["wrynose"])


def test_refused_before_anything_is_built(tmp_path, monkeypatch):
    """Whatever would be built says so by failing."""
    monkeypatch.setattr(run.host, "require_root", lambda: None)
    monkeypatch.setattr(sysroot, "build", lambda: pytest.fail("it builds"))
    wanted = run.Wanted(str(tmp_path), ["scarthgap"], "", run.kernel.Until.NONE)
    with pytest.raises(TestbedError, match="OE_TREES has no folder"):
        run.run(wanted, tmp_path / "out")


def test_sources_that_are_no_folder(tmp_path, made, monkeypatch):
    top, release, _ = made
    monkeypatch.setattr(run.host, "require_root", lambda: None)
    monkeypatch.setattr(sysroot, "build", lambda: pytest.fail("it builds"))
    wanted = run.Wanted(str(top), [release], str(tmp_path / "nowhere"), run.kernel.Until.NONE)
    with pytest.raises(TestbedError, match="OE_SOURCES is .*no folder"):
        run.run(wanted, tmp_path / "out")


def test_every_recipe_is_built_but_images():
    """A recipe that nobody lists would be built by nobody."""
    built = {recipe.file for recipe in recipes.of_layer() + recipes.of_board()}
    images = set((LAYER / "recipes-core/images").glob("*.bb"))
    assert images
    assert built == set(LAYER.rglob("*.bb")) - images
    assert {"xen-dmabuf-boot"} == {recipe.name for recipe in recipes.of_board()}
    assert [recipe.name for recipe in recipes.of_board() if recipe.has_packages] == []
    assert all(recipe.has_packages for recipe in recipes.of_layer())


def words_of(variable, file):
    """The plain words that a recipe gives a variable; a regular expression names that."""
    text = file.read_text(encoding="utf-8")
    blocks = re.findall(rf'^(?:{variable}) \+?= "((?:[^"\\]|\\.|\\\n)*)"', text, re.M)
    return {word for block in blocks for word in block.split() if re.fullmatch(r"[a-z0-9][a-z0-9+.-]+", word)}


def outside(variable):
    """What the recipes depend on and none of them builds, nor one of oe-core's that is built."""
    built = tuple(recipe.name for recipe in (*recipes.of_layer(), *recipes.of_oe_core(ROOT)))
    found = {word for recipe in recipes.of_layer() for word in words_of(variable, recipe.file)}
    assert "python3-core" in found
    return {word for word in found if not word.startswith(built)}


def test_every_dependency_has_an_empty_package():
    """What an image takes from OpenEmbedded; bitbake refuses to begin without one of them."""
    recipe = HOST_LAYER / "recipes-debian/debian-sysroot/debian-sysroot_1.0.bb"
    assert outside(r"R(?:DEPENDS|RECOMMENDS):\S+") - words_of("DEBIAN_EMPTY", recipe) == set()


def test_every_dependency_has_a_stand_in_where_the_packages_are_booted():
    """All but those of the packaged tests, which no guest of the testbed has."""
    assert outside(r"RDEPENDS:(?!\S+-ptest)\S+") - set(STAND_INS) == set()


@pytest.mark.parametrize("updated", [False, True])
def test_a_repository_that_got_another_commit_is_fetched_again(tmp_path, updated):
    """bitbake would look for it in the network only."""
    git = "git", "-C", str(tmp_path / "copy")
    subprocess.run(["git", "init", "-q", str(tmp_path / "copy")], check=True)
    who = "-c", "user.name=a", "-c", "user.email=a@b"
    subprocess.run([*git, *who, "commit", "-q", "--allow-empty", "-m", "a"], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    link = tmp_path / "git.yoctoproject.org.linux-yocto.git"
    link.symlink_to("/nowhere/downloads/copy")
    kernel._forget(tmp_path, "linux-yocto.git", "f" * 40 if updated else commit)
    kernel._forget(tmp_path, "never-fetched.git", commit)
    assert link.is_symlink() == (tmp_path / "copy").exists() == (not updated)


@pytest.fixture
def build(tmp_path, made, monkeypatch):
    """run._build() of a release up to a kernel, with or without images, in folders that nobody prepares."""
    top, release, config = made
    inputs = Inputs(tmp_path, tmp_path, oetrees.Trees(top / release, release), None)
    monkeypatch.setattr(run, "_folder", lambda *_: Folder(inputs, tmp_path, config))
    monkeypatch.setattr(Folder, "prepare", lambda *_: None)
    return lambda until, images: run._build(
        inputs, run.Wanted(str(top), [release], "", until, images), tmp_path / "out"
    )


def test_the_kernel_has_a_build_folder_of_its_own(build, monkeypatch):
    """The images' configuration skips its recipe: oe-core would remove what was compiled, half an hour's work."""
    used = []
    monkeypatch.setattr(run, "_recipes", lambda build, *_: used.append(build.tmp) or True)
    monkeypatch.setattr(run.images, "build", lambda build, _: used.append(build.tmp) or True)
    monkeypatch.setattr(kernel.bitbake, "run", lambda build, *_: used.append(build.tmp) or bitbake.Outcome())
    build(kernel.Until.CHECKED, images=True)
    *others, last = used
    assert len(used) == 4 and last not in others


def test_westons_units_are_packaged_with_the_layers_recipes(build, made, monkeypatch):
    """Else nothing could be made of the packages, which depend on them."""
    top, release, _config = made
    asked = []
    monkeypatch.setattr(run, "_recipes", lambda _build, wanted, _output: asked.append(wanted) or True)
    build(kernel.Until.NONE, images=False)
    files = [recipe.file for recipe in asked[0] if recipe.name == "weston-init"]
    assert files == [top / release / "openembedded-core/meta/recipes-graphics/wayland/weston-init.bb"]


@pytest.mark.parametrize("name", ["layer-build", "layer-demo"])
def test_the_command_line_refuses_in_one_sentence(tmp_path, name):
    command = [sys.executable, "-m", "testbed", name, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    wanted = "OE_TREES has no folder" if os.geteuid() == 0 else "run it as root"
    assert done.stderr.startswith("testbed: ") and wanted in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.fixture
def installed(tmp_path):
    """(Build folder, what do_install of the kernel left there)."""
    build = Folder(None, tmp_path, {"machine": "qemuarm64"}, kernel.PURPOSE)
    image = build.tmp / "work/qemuarm64-oe-linux/linux-yocto/6.18/image"
    for file in ("boot/Image-6.18.1-yocto", "usr/lib/modules/6.18.1-yocto/modules.order"):
        (image / file).parent.mkdir(parents=True)
        (image / file).write_text(file)
    (image / "usr/lib/modules/6.18.1-yocto/build").symlink_to("/nowhere")
    return build, image


def test_a_compiled_kernel_is_laid_out_as_the_testbeds_own(installed, tmp_path, monkeypatch):
    build, _image = installed
    monkeypatch.setattr(Folder, "name", "wrynose qemuarm64")
    kernel._copy(build, tmp_path / "kernel")
    assert (tmp_path / "kernel/Image").read_text() == "boot/Image-6.18.1-yocto"
    modules = tmp_path / "kernel/modules/lib/modules/6.18.1-yocto"
    assert (modules / "modules.order").exists() and (modules / "modules.dep").exists()
    assert not (modules / "build").is_symlink()


def test_a_kernel_that_is_not_there_is_a_sentence(installed, tmp_path):
    build, image = installed
    (image / "boot/Image-6.18.1-yocto").unlink()
    with pytest.raises(TestbedError, match=r"has 0 of .*boot/Image-\*, not one; run"):
        kernel._copy(build, tmp_path / "kernel")


def play(folder, until=run.kernel.Until.NONE):
    return layerdemo.play("trees", "wrynose", "", until, folder / "out")


def test_a_second_demo_in_the_same_folder_is_refused(tmp_path, monkeypatch):
    """It would take away the packages that the first one makes its roots of."""
    monkeypatch.setenv(cache.ENVIRONMENT, str(tmp_path / "cache"))
    monkeypatch.setattr(layerdemo.run, "run", lambda *_: play(tmp_path))
    with pytest.raises(TestbedError, match=r'another "make layer-demo" works in ".*/out"; wait'):
        play(tmp_path)


def test_packages_that_were_not_built_are_no_demo(tmp_path, monkeypatch):
    """Whatever would be booted says so by failing."""
    monkeypatch.setenv(cache.ENVIRONMENT, str(tmp_path / "cache"))
    monkeypatch.setattr(layerdemo.run, "run", lambda wanted, output: 0)
    monkeypatch.setattr(layerdemo.demo, "run", lambda *_: pytest.fail("it boots"))
    with pytest.raises(TestbedError, match="no packages.*make layer-build"):
        play(tmp_path)


def test_another_libc_makes_another_root(monkeypatch):
    """A root whose compiler is older than the libraries that it links with must not be used."""
    made = []
    monkeypatch.setattr(buildroot.process, "run", lambda *_words, **_named: "amd64\n")
    monkeypatch.setattr(buildroot.cache, "stage", lambda name, inputs, _build: made.append(inputs) or ROOT)
    for version in ("2.41-12", "2.41-12", "2.41-13"):
        buildroot.build({"libc6": version})
    assert made[0] == made[1] != made[2]


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT RUN: mounts need root")
def test_bitbake_ends_with_whoever_holds_the_lock(tmp_path):
    """Else a second run would build in the same folder. This machine's root stands in for the build root."""
    root = tmp_path / "root"
    for name in ("usr", "proc", "dev", "tmp", "w", "etc"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "lib", "lib64", "sbin"):
        (root / name).symlink_to(f"usr/{name}")
    (tmp_path / "build").mkdir()
    mounts = buildroot.Mounts({"project": ROOT}, tmp_path / "build")
    mark = f"sleep 987{os.getpid()}"
    inner = buildroot.command(root, mounts, f"{mark}; true")
    whole = ["unshare", "--mount", "sh", "-c", f'mount --bind /usr {root}/usr && exec "$0" "$@"', *inner]
    holder = subprocess.Popen([sys.executable, "-c", f"import subprocess; subprocess.run({whole!r})"])
    try:
        assert poll(lambda: alive(mark))
    finally:
        holder.kill()
        holder.wait()
    assert poll(lambda: not alive(mark))


def alive(command):
    return any(
        command == file.read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        for file in Path("/proc").glob("[0-9]*/cmdline")
        if file.exists()
    )


def poll(condition):
    """Whether a condition comes true in 20 s."""
    end = time.monotonic() + 20
    while not condition() and time.monotonic() < end:
        threading.Event().wait(0.05)
    return condition()


def test_all_but_the_build_folder_is_read_only(tmp_path):
    mounts = buildroot.Mounts({"trees/bitbake": tmp_path / "b", "project": ROOT}, tmp_path / "work")
    script = buildroot.command(tmp_path, mounts, "true")[-1]
    for name in ("trees/bitbake", "project"):
        assert f"mount -o remount,bind,ro {tmp_path}/w/{name}\n" in script
    assert f"ro {tmp_path}/w/build" not in script


SUCCEEDED = "NOTE: Tasks Summary: Attempted 211 tasks of which 10 didn't need to be rerun and all succeeded.\n"


def test_the_outcome_has_tasks_and_warnings():
    done = bitbake.outcome(f"Parsing recipes...\nWARNING: a-1.0-r0 do_package_qa: QA Issue: [x]\n{SUCCEEDED}")
    assert (done.tasks, done.not_rerun) == (211, 10)
    assert done.warnings == ["a-1.0-r0 do_package_qa: QA Issue: [x]"]
    assert done.closing.endswith("all succeeded")


def test_a_warning_that_each_process_repeats_is_told_once():
    warnings = bitbake.outcome(f"WARNING: a: old\nWARNING: b: x\nWARNING: a: old\n{SUCCEEDED}").warnings
    assert warnings == ["a: old", "b: x"]


def test_an_end_without_a_summary_is_no_success():
    with pytest.raises(TestbedError, match="without its summary"):
        bitbake.outcome("NOTE: Tasks Summary: Attempted 3 tasks of which 0 didn't need to be rerun and 1 failed.\n")


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        (
            "ERROR: a-1.0-r0 do_fetch: Fetcher failure: Fetch command export PSEUDO_DISABLED=1; git -c x clone --bare "
            "https://git.example.com/a.git /w/a --progress failed with exit code 128, see logfile for output\n",
            "a-1.0-r0 do_fetch can't fetch https://git.example.com/a.git; is the network there?",
        ),
        (
            "ERROR: b-1.0-r0 do_fetch: Bitbake Fetcher Error: FetchError('Unable to fetch URL from any source.', "
            "'https://files.example.com/b.tar.gz')\n",
            "b-1.0-r0 do_fetch can't fetch https://files.example.com/b.tar.gz; is the network there?",
        ),
        (
            "ERROR: i-1.0-r0 do_rootfs: Unable to install packages. Command 'apt-get install' returned 100:\n"
            "The following packages have unmet dependencies:\n"
            " w-dom0 : Conflicts: w-domu but 1.0-r0 is to be installed\n",
            "i-1.0-r0 do_rootfs: w-dom0 : Conflicts: w-domu but 1.0-r0 is to be installed; mend RCONFLICTS",
        ),
        (
            "ERROR: i-1.0-r0 do_rootfs: Unable to install packages. Command 'apt-get install' returned 100:\n"
            "dpkg: error processing archive a.deb (--unpack):\n"
            " trying to overwrite '/etc/a', which is also in package b 1.0\n",
            "i-1.0-r0 do_rootfs: trying to overwrite '/etc/a', which is also in package b; mend RCONFLICTS",
        ),
        ("ERROR: a do_compile: x\nsh: write error: No space left on device\n", "free about"),
        ("ERROR: a do_compile: oe_runmake failed\nERROR: b\n", "a do_compile: oe_runmake failed"),
        ("", "it said nothing"),
    ],
)
def test_a_failure_is_one_sentence_with_the_remedy(said, remedy, tmp_path):
    sentence = bitbake.explained("wrynose qemuarm64", said, tmp_path / "log")
    assert sentence.startswith("wrynose qemuarm64: ")
    assert remedy in sentence
    assert "\n" not in sentence


def test_progress_names_task_and_recipe(monkeypatch):
    said = []
    monkeypatch.setattr(bitbake, "say", said.append)
    progress = bitbake.Progress("wrynose qemuarm64")
    for line in (
        "Parsing recipes...done.\n",
        "NOTE: Running task 57 of 211 (/w/project/m/r/xen-dmabuf-pattern_0.1.0.bb:do_compile)\n",
        "NOTE: Running task 58 of 211 (virtual:native:/w/p/pseudo-native_1.9.11.bb:do_install)\n",
        "NOTE: recipe xen-dmabuf-pattern-0.1.0-r0: task do_compile: Started\n",
    ):
        progress.see(line)
        progress.tell()
    assert said == [
        "wrynose qemuarm64: parses recipes",
        "wrynose qemuarm64: task 57 of 211, xen-dmabuf-pattern do_compile",
        "wrynose qemuarm64: task 58 of 211, pseudo-native do_install",
        "wrynose qemuarm64: task 58 of 211, pseudo-native do_install",
    ]


def test_progress_is_told_while_bitbake_is_silent(monkeypatch):
    """A kernel compiles for many minutes without a line."""
    told = threading.Event()
    monkeypatch.setattr(bitbake, "say", lambda _line: told.set())
    monkeypatch.setattr(bitbake, "PROGRESS_EVERY", 0.01)
    with bitbake.Progress("wrynose qemuarm64"):
        assert told.wait(10)


def test_the_build_folder_is_no_place_of_python_modules(tmp_path):
    """As oe-core's script does it, an empty PYTHONPATH would have it there."""
    (tmp_path / "core").mkdir()
    (tmp_path / "core/oe-init-build-env").write_text('PYTHONPATH=$2/lib:$PYTHONPATH; cd "$1"\n')
    (tmp_path / "bit bake").mkdir()
    script = f"{oetrees.enter(tmp_path / 'core', tmp_path / 'bit bake', tmp_path)} && pwd && echo $PYTHONPATH"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=True)
    library = f"{tmp_path}/bit bake/lib"
    assert done.stdout.splitlines() == [str(tmp_path), f"{library}:{library}"]


def test_a_release_is_checked_for_all_machines(tmp_path, configs):
    """`make oe-check` and `make layer-build` begin so; the board alone has a layer of its own."""
    for release in RELEASES:
        make_trees(tmp_path, release, configs[release])
    assert [trees.release for trees in oetrees.check(str(tmp_path), RELEASES)] == list(RELEASES)
    (tmp_path / "scarthgap/meta-freescale").rename(tmp_path / "away")
    with pytest.raises(TestbedError, match="scarthgap/meta-freescale"):
        oetrees.check(str(tmp_path), RELEASES)


@pytest.mark.parametrize(
    ("named", "checked"), [("", RELEASES), (NEXT, (NEXT,)), ("scarthgap blacksail", ("scarthgap", NEXT))]
)
def test_oe_check_is_for_the_named_releases(named, checked):
    program = "import oe_trees; print(*oe_trees.CHECKED)"
    environment = {**os.environ, "OE_RELEASES": named}
    folder = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    assert tuple(done.stdout.split()) == checked


@pytest.mark.parametrize("as_root", [True, False])
def test_oe_check_finds_its_layers_where_bitbake_runs(made, tmp_path, monkeypatch, as_root):
    """For root that is a Debian root, where only what is mounted is there."""
    top, release, config = made
    monkeypatch.setattr(os, "chown", lambda *_: None)
    build = BuildFolder(oetrees.trees_of(str(top), release), tmp_path / "build", config, tmp_path if as_root else None)
    build.prepare()
    words = (tmp_path / "build/conf/bblayers.conf").read_text().split('"')[-2].replace("\\", "").split()
    assert len(words) == len(list(oetrees.layers(config)))
    mounts = repositories(build.trees, config)
    for name, there in mounts.items():
        words = [word.replace(str(buildroot.WORK / name), str(there)) for word in words]
    assert all(Path(word).is_dir() for word in words), words
    command = build.command("true")
    assert (command[0] == "bash") != as_root
    assert not as_root or all(str(there) in command[-1] for there in [*mounts.values(), build.path])


def test_kas_knows_the_branch_of_bitbake(configs):
    """The check of bitbake's version takes it from there."""
    for release in RELEASES:
        assert BITBAKE[release].startswith(f"{configs[release]['repos']['bitbake']['branch']}.")
    assert MACHINES == oetrees.MACHINES
