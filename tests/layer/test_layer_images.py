# SPDX-License-Identifier: MIT
"""What `make layer-build` finds wrong in an image's root. The roots are made up; nothing is built here."""

import shutil
from types import SimpleNamespace

import pytest
from layer_files import LAYER

from testbed.debianroot import PRESETS, UNITS
from testbed.errors import TestbedError
from testbed.layerbuild import bitbake, images

EVERY = pytest.mark.parametrize("image", images.IMAGES, ids=lambda image: image.name)


def write(root, path, text=""):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def link(root, path, target):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).symlink_to(target)


def enable(root, want):
    """As systemctl does it: an absolute link to the unit, or to its template."""
    name = want.split("/")[1]
    name = name.split("@")[0] + "@.service" if "@" in name else name
    write(root, f"{UNITS}/{name}")
    link(root, f"{images.ENABLED}/{want}", f"/{UNITS}/{name}")


def make_guest(root):
    shutil.copy(LAYER / "recipes-extended/xen-dmabuf-guest/files/domu.cfg", root / "etc/xen/domu.cfg")
    link(root, "etc/xen/auto/domu.cfg", "../domu.cfg")
    write(root, "var/lib/xen/images/domu-kernel", "kernel")
    disk = bytearray(4096)
    disk[images.EXT4_MAGIC_AT : images.EXT4_MAGIC_AT + 2] = images.EXT4_MAGIC
    (root / "var/lib/xen/images/domu.ext4").write_bytes(disk)


def make_root(root, image):
    """A root in which nothing is wrong."""
    for want in image.enabled:
        enable(root, want)
    for file in image.files:
        write(root, file)
    link(root, f"{images.ENABLED}/default.target", f"/{UNITS}/graphical.target")
    write(root, f"{PRESETS}/98-weston-init.preset", "enable weston.service\n")
    write(root, f"{PRESETS}/99-default.preset", "disable *\n")
    write(root, "etc/passwd", "root:x:0:0:root:/root:/bin/sh\nweston:x:1000:1000::/home/weston:/bin/sh\n")
    write(root, "etc/group", "".join(f"{name}:x:1:\n" for name in image.groups))
    write(root, "etc/shadow", "root:*:15069::::::\n")
    write(root, "etc/timestamp", "20180309123456\n")
    if image.has_guest:
        (root / "etc/xen").mkdir()
        make_guest(root)
    return root


@pytest.fixture
def dom0(tmp_path):
    return make_root(tmp_path / "root", images.DOM0)


def only(root, image=images.DOM0):
    """The one thing that is wrong."""
    (found,) = images.problems(root, image)
    assert "\n" not in found
    return found


@EVERY
def test_nothing_is_wrong(image, tmp_path):
    assert images.problems(make_root(tmp_path / "root", image), image) == []


@EVERY
def test_every_unit_group_and_file_is_missed(image, tmp_path):
    root = make_root(tmp_path / "root", image)
    shutil.rmtree(root)
    root.mkdir()
    found = "\n".join(images.problems(root, image))
    for name in (*image.enabled, *image.groups, *image.files, "weston", "default.target", "etc/timestamp"):
        assert f'{name}"' in found or f"{name} is" in found


def test_a_unit_that_is_enabled_but_not_there(dom0):
    (dom0 / UNITS / "xen-dmabuf-backend.service").unlink()
    assert 'multi-user.target.wants/xen-dmabuf-backend.service" leads to no unit' in only(dom0)


def test_a_link_is_followed_in_the_root_not_in_this_machine(dom0, tmp_path):
    """/etc/passwd is a file of any machine."""
    want = dom0 / images.ENABLED / "multi-user.target.wants/xen-dmabuf-backend.service"
    want.unlink()
    want.symlink_to(tmp_path / "outside")
    (tmp_path / "outside").write_text("")
    assert "leads to no unit" in only(dom0)


def test_a_preset_that_was_not_applied(dom0):
    write(dom0, f"{PRESETS}/98-other.preset", "enable other.service\n")
    assert f'"{PRESETS}/98-other.preset" enables other.service, but nothing wants it' in only(dom0)


def test_another_default_target(dom0):
    (dom0 / images.ENABLED / "default.target").unlink()
    link(dom0, f"{images.ENABLED}/default.target", f"/{UNITS}/multi-user.target")
    assert "default.target is multi-user.target, not graphical.target" in only(dom0)


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("etc/shadow", "root has no locked password"),
        ("etc/timestamp", '"etc/timestamp" is missing'),
        ("etc/xen/auto/domu.cfg", "no guest is started at boot"),
        ("etc/xen/domu.cfg", "no guest is started at boot"),
        ("var/lib/xen/images/domu-kernel", "the guest's kernel of"),
    ],
)
def test_a_missing_file(dom0, file, said):
    (dom0 / file).unlink()
    assert said in only(dom0)


def test_an_empty_password(dom0):
    write(dom0, "etc/shadow", "root::15069::::::\n")
    assert "root has no locked password" in only(dom0)


def test_no_disk(dom0):
    (dom0 / "var/lib/xen/images/domu.ext4").unlink()
    gone, unlike = images.problems(dom0, images.DOM0)
    assert "the guest's disk of" in gone
    assert "is no ext4 file system: look at do_image_ext4 of xen-dmabuf-image-domu" in unlike


def test_a_disk_that_is_no_file_system(dom0):
    write(dom0, "var/lib/xen/images/domu.ext4", "x" * 4096)
    assert "is no ext4 file system" in only(dom0)


def test_packages_that_are_missing_or_not_wanted(tmp_path):
    manifest = tmp_path / "manifest"
    wanted = set(images.DOMU.packages) - {"weston-examples"} | {"openssh"}
    manifest.write_text("".join(f"{name} qemuarm64 1.0-r0\n" for name in sorted(wanted)))
    found = images.package_problems(images.packages(manifest), images.DOMU)
    assert found == ['package "weston-examples" is not installed', 'package "openssh" is installed']


def test_every_image_of_the_layer_is_made():
    made = {image.name for image in images.IMAGES}
    assert made == {file.stem for file in (LAYER / "recipes-core/images").glob("*.bb")}


def make_folder(tmp_path):
    """A build folder as bitbake leaves it."""
    tmp = tmp_path / "tmp"
    for image in images.IMAGES:
        make_root(tmp / f"work/qemuarm64-oe-linux/{image.name}/1.0/rootfs", image)
        lines = "".join(f"{name} qemuarm64 1.0-r0\n" for name in image.packages)
        write(tmp, f"deploy/images/qemuarm64/{image.name}-qemuarm64.rootfs.manifest", lines)
    return SimpleNamespace(name="wrynose qemuarm64", tmp=tmp, config={"machine": "qemuarm64"})


@pytest.mark.parametrize("warnings", [[], ["xen-dmabuf-image-dom0-1.0-r0 do_rootfs: Group x has never been defined"]])
def test_a_warning_is_not_clean(tmp_path, monkeypatch, warnings):
    asked = []
    done = bitbake.Outcome(370, 298, warnings, "all succeeded")
    monkeypatch.setattr(images.bitbake, "run", lambda _folder, words, _log: asked.append(words) or done)
    assert images.build(make_folder(tmp_path), tmp_path) is not bool(warnings)
    assert asked == [["-R", images.CONFIG, *(f"{image.name}:do_image_complete" for image in images.IMAGES)]]


def test_a_wrong_root_is_an_error_that_names_image_and_root(tmp_path, monkeypatch):
    monkeypatch.setattr(images.bitbake, "run", lambda *_: bitbake.Outcome())
    folder = make_folder(tmp_path)
    root = next(folder.tmp.glob("work/*/xen-dmabuf-image-dom0/1.0/rootfs"))
    (root / "usr/bin/xen-dmabuf-backend").unlink()
    with pytest.raises(
        TestbedError, match=r'xen-dmabuf-image-dom0: "usr/bin/xen-dmabuf-backend" is missing.*1\.0/rootfs"'
    ):
        images.build(folder, tmp_path)


def test_a_missing_package_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(images.bitbake, "run", lambda *_: bitbake.Outcome())
    folder = make_folder(tmp_path)
    write(folder.tmp, "deploy/images/qemuarm64/xen-dmabuf-image-domu-qemuarm64.rootfs.manifest", "openssh all 1.0-r0\n")
    with pytest.raises(TestbedError, match=r'xen-dmabuf-image-domu: package "packagegroup-xen-dmabuf-domu" is not'):
        images.build(folder, tmp_path)


def test_two_roots_are_an_error(tmp_path, monkeypatch):
    """One of them is of another version of the recipe."""
    monkeypatch.setattr(images.bitbake, "run", lambda *_: bitbake.Outcome())
    folder = make_folder(tmp_path)
    (folder.tmp / "work/qemuarm64-oe-linux/xen-dmabuf-image-domu/2.0/rootfs").mkdir(parents=True)
    with pytest.raises(TestbedError, match=r"has 2 of work/.*xen-dmabuf-image-domu.*make clean-cache"):
        images.build(folder, tmp_path)
