# SPDX-License-Identifier: MIT
"""The roots out of packages: what belongs together, what is refused, when a root is made anew. No machine is booted.

The packages are made here, in bitbake's form, and put into a folder that stands for the guests' Debian.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from testbed import cache, debianroot, product
from testbed.errors import TestbedError
from testbed.packages import debs, dependencies, install, standins
from testbed.packages import product as packaged
from testbed.product import DOM0, DOMU

OUTSIDE = ("libc6", "systemd")


def make(
    folder: Path, name: str, *, files: dict[str, str] | None = None, scripts: dict[str, str] | None = None, **fields
):
    """A package as bitbake writes it: its "./" is 0777."""
    tree = folder / f"{name}.tree"
    control = tree / "DEBIAN"
    control.mkdir(parents=True)
    values = {"Package": name, "Version": "1.0-r0", "Architecture": "arm64", "Maintainer": "nobody <n@example.org>"}
    values |= {key.replace("_", "-"): value for key, value in fields.items()} | {"Description": "a test's"}
    (control / "control").write_text("".join(f"{key}: {value}\n" for key, value in values.items()))
    for script, text in (scripts or {}).items():
        (control / script).write_text(f"#!/bin/sh\nset -e\n{text}\n")
        (control / script).chmod(0o755)
    for path, text in (files or {}).items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(text)
    tree.chmod(0o777)
    file = folder / f"{name}_{values['Version']}_{values['Architecture']}.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Znone", "-b", tree, file], check=True, capture_output=True)
    subprocess.run(["rm", "-r", tree], check=True)
    return file


def select(folder: Path, *wanted: str) -> dependencies.Selection:
    return dependencies.select(wanted, debs.of_folder(folder), OUTSIDE)


def names(selection: dependencies.Selection) -> list[str]:
    return [deb.name for deb in selection.debs]


def test_a_package_comes_after_what_it_depends_on(tmp_path):
    make(tmp_path, "group", Depends="program, configuration")
    make(tmp_path, "program", Depends="modules (>= 1.0), systemd")
    make(tmp_path, "modules", Depends="libc6 (>= 99)")
    make(tmp_path, "configuration")
    make(tmp_path, "nobody-wants-it", Depends="nothing-has-it")
    selection = select(tmp_path, "group")
    assert names(selection) == ["modules", "program", "configuration", "group"]
    assert selection.stand_ins == ["libc6", "systemd"]


def test_packages_that_depend_on_each_other(tmp_path):
    make(tmp_path, "a", Depends="b")
    make(tmp_path, "b", Depends="a")
    assert sorted(names(select(tmp_path, "a"))) == ["a", "b"]


@pytest.mark.parametrize(
    "depends", ["nothing-has-it", "libfoo (>= 2)", "libfoo (>= 1.0-r1)", "nothing | nothing-either"]
)
def test_an_unmet_dependency_is_named(tmp_path, depends):
    make(tmp_path, "program", Depends=f"systemd, {depends}")
    make(tmp_path, "libfoo")
    with pytest.raises(TestbedError) as refused:
        select(tmp_path, "program")
    assert f'"program" depends on "{depends}"' in str(refused.value) and "standins.py" in str(refused.value)


@pytest.mark.parametrize("depends", ["libfoo1", "libfoo1 (>= 1.0)", "nothing-has-it | libfoo1", "libfoo (= 1.0-r0)"])
def test_what_provides_a_name_fulfils_a_dependency_on_it(tmp_path, depends):
    make(tmp_path, "program", Depends=depends)
    make(tmp_path, "libfoo", Provides="libfoo1 (= 1.0)")
    assert names(select(tmp_path, "program")) == ["libfoo", "program"]


@pytest.mark.parametrize("wanted", [">= 1.0", "<< 1.0"])
def test_a_name_without_a_version_is_no_version(tmp_path, wanted):
    make(tmp_path, "program", Depends=f"libfoo1 ({wanted})")
    make(tmp_path, "libfoo", Provides="libfoo1")
    with pytest.raises(TestbedError, match="libfoo1"):
        select(tmp_path, "program")


def test_what_is_wanted_and_not_there(tmp_path):
    make(tmp_path, "program")
    with pytest.raises(TestbedError, match='the guests want "pattern".*make layer-build'):
        select(tmp_path, "pattern")


def test_a_conflict_names_both(tmp_path):
    make(tmp_path, "dom0", Conflicts="domu")
    make(tmp_path, "domu")
    assert names(select(tmp_path, "dom0")) == ["dom0"]
    with pytest.raises(TestbedError, match='"dom0" and "domu" are in conflict'):
        select(tmp_path, "dom0", "domu")


def test_a_folder_without_packages(tmp_path):
    with pytest.raises(TestbedError, match="no packages.*make layer-build"):
        debs.of_folder(tmp_path)
    with pytest.raises(TestbedError, match="no packages.*make layer-build"):
        debs.of_folder(tmp_path / "nowhere")


def test_a_package_in_two_versions(tmp_path):
    make(tmp_path, "program")
    make(tmp_path, "program", Version="2.0-r0")
    with pytest.raises(TestbedError, match="program twice: remove program_1.0-r0_arm64.deb or program_2.0-r0"):
        debs.of_folder(tmp_path)


def test_what_is_no_package(tmp_path):
    (tmp_path / "program.deb").write_bytes(b"!<arch>\n")
    with pytest.raises(TestbedError, match='program.deb" is no Debian package'):
        debs.of_folder(tmp_path)


def test_a_package_for_another_machine(tmp_path):
    make(tmp_path, "program", Architecture="armhf")
    with pytest.raises(TestbedError, match="is for armhf, the guests are arm64"):
        debs.of_folder(tmp_path)


def complete(folder: Path) -> None:
    """The least packages that a root is made of."""
    folder.mkdir(parents=True)
    for name in sorted({*packaged.WANTED[DOM0], *packaged.WANTED[DOMU], packaged.ASIDE}):
        make(folder, name, Depends="libc6", files={f"usr/share/{name}": name})


def key(folder: Path, side: str) -> Path:
    return cache.folder("root", packaged.Packages(folder).inputs(side))


def test_another_package_makes_another_root(tmp_path):
    """Only of the side that it is in, and whatever its version is."""
    folder = tmp_path / "debs"
    complete(folder)
    before = {side: key(folder, side) for side in (DOM0, DOMU)}
    assert before == {side: key(folder, side) for side in (DOM0, DOMU)}
    make(folder, "xen-dmabuf-pattern", Depends="libc6", files={"usr/share/xen-dmabuf-pattern": "mended"})
    after = {side: key(folder, side) for side in (DOM0, DOMU)}
    assert after[DOMU] != before[DOMU] and after[DOM0] == before[DOM0]
    make(folder, packaged.ASIDE, Depends="libc6", files={"usr/share/kiosk": "mended"})
    assert key(folder, DOM0) != before[DOM0] and key(folder, DOMU) == after[DOMU]


def test_the_variable_names_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv(product.ENVIRONMENT, str(tmp_path / "debs"))
    with pytest.raises(TestbedError, match="no packages"):
        product.chosen()
    complete(tmp_path / "debs")
    assert any(str(tmp_path / "debs") in line for line in product.chosen().origin)
    monkeypatch.setenv(product.ENVIRONMENT, "")
    assert "not packaged" in product.chosen().origin[0]


def test_packages_are_for_one_suite(tmp_path, monkeypatch):
    complete(tmp_path / "debs")
    monkeypatch.setenv("XEN_DMABUF_SUITE", "forky")
    with pytest.raises(TestbedError, match='XEN_DMABUF_SUITE="forky" goes with this repository'):
        packaged.Packages(tmp_path / "debs")


def test_a_stand_in_that_is_not_there(tmp_path):
    folder = tmp_path / "debs"
    complete(folder)
    by = standins.STAND_INS["libc6"]
    with pytest.raises(TestbedError, match=f'domu: "libc6" is depended on.*{by.by} with "/{by.file}"'):
        packaged.Packages(folder).install(DOMU, tmp_path)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A root whose systemctl writes down what it is called with."""
    folder = tmp_path / "root"
    (folder / "usr/bin").mkdir(parents=True)
    log = folder / "systemctl.log"
    monkeypatch.setattr(
        debianroot, "emulated", lambda _root, program: ["sh", "-c", f'echo {program} "$@" >> {log}', "sh"]
    )
    return folder


def put(root: Path, *files: Path) -> None:
    install.install(root, [debs.read(file) for file in files])


def test_scripts_are_run_outside_of_the_root(tmp_path, root):
    """All postinst after all files, as units of one package are another's to enable."""
    first = make(
        tmp_path,
        "first",
        files={"usr/bin/first": ""},
        scripts={
            "preinst": 'echo preinst $1 >> "$D/log"; test ! -e "$D/usr/bin/first"',
            "postinst": 'echo postinst $1 >> "$D/log"; test -e "$D/usr/bin/second"; systemctl --root="$D" enable a',
        },
    )
    put(root, first, make(tmp_path, "second", files={"usr/bin/second": ""}))
    assert (root / "log").read_text().splitlines() == ["preinst install", "postinst configure"]
    assert (root / "systemctl.log").read_text() == f"systemctl --root={root} enable a\n"


def test_units_of_presets_are_enabled(tmp_path, root):
    preset = {f"{debianroot.PRESETS}/98-program.preset": "enable a.service\nenable b.socket\n"}
    put(root, make(tmp_path, "program", files=preset))
    words = "--preset-mode=enable-only preset a.service b.socket"
    assert (root / "systemctl.log").read_text() == f"systemctl --root={root} {words}\n"


def test_a_script_that_fails_is_named(tmp_path, root):
    program = make(tmp_path, "program", scripts={"preinst": "echo no such group; exit 3"})
    with pytest.raises(TestbedError, match=r"(?s)preinst of program: .*status 3.*no such group"):
        put(root, program)


def test_a_file_is_not_written_over(tmp_path, root):
    """The testbed's own copy would be gone, or be what is run: either way nobody would see it."""
    (root / "etc").mkdir()
    (root / "etc/domu.cfg").symlink_to("nowhere")
    with pytest.raises(TestbedError, match='"guest" brings "/etc/domu.cfg"'):
        put(root, make(tmp_path, "guest", files={"etc/domu.cfg": ""}))


def test_folders_of_the_root_stay_as_they_are(tmp_path, root):
    """sshd takes no keys below a folder that everybody may write, and /lib is a link on Debian."""
    root.chmod(0o755)
    (root / "lib").symlink_to("usr/lib")
    (root / "usr/lib").mkdir()
    put(root, make(tmp_path, "program", files={"lib/a": "a"}))
    assert root.stat().st_mode & 0o777 == 0o755
    assert (root / "lib").is_symlink() and (root / "usr/lib/a").read_text() == "a"
