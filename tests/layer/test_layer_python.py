# SPDX-License-Identifier: MIT
"""lib/xen_dmabuf_layer: what bitbake runs while parsing."""

import os
import sys

import pytest
from oe_trees import ROOT

sys.path.insert(0, str(ROOT / "lib"))
from xen_dmabuf_layer import kernelconfig, kernelseries, sanity, sources  # noqa: E402

GOOD = {
    "DISTRO_FEATURES": "xen-dmabuf xen virtualization systemd pam wayland opengl",
    "VIRTUAL-RUNTIME_init_manager": "systemd",
    "OVERRIDES": "linux:aarch64:qemuarm64",
    "MACHINE": "qemuarm64",
}


class Store(dict):
    """The one method of bitbake's data store that sanity uses."""

    def getVar(self, name):
        return self.get(name)


class TestSanity:
    def test_a_complete_configuration_has_no_problem(self):
        assert sanity.problems(Store(GOOD)) == []

    def test_without_the_feature_nothing_is_asked_for(self):
        assert sanity.problems(Store(DISTRO_FEATURES="x11")) == []

    @pytest.mark.parametrize("feature", sanity.NEEDED)
    def test_a_missing_feature_is_named_with_the_line_to_add(self, feature):
        rest = GOOD["DISTRO_FEATURES"].split()
        rest.remove(feature)
        (problem,) = sanity.problems(Store(GOOD, DISTRO_FEATURES=" ".join(rest)))
        assert f'DISTRO_FEATURES:append = " {feature}"' in problem

    def test_another_init_manager_is_named(self):
        (problem,) = sanity.problems(Store(GOOD, **{"VIRTUAL-RUNTIME_init_manager": "sysvinit"}))
        assert 'INIT_MANAGER = "systemd"' in problem

    @pytest.mark.parametrize(
        ("disk", "wrong"),
        [
            ("/data/domu.ext4", False),
            ("/dev/disk/by-partlabel/domu", False),
            ("domu.ext4", True),
            ("/a,xvda,rw','/etc/shadow", True),
            ("/a b", True),
            ("/a|b", True),
        ],
    )
    def test_a_guests_disk_that_is_no_path_is_refused(self, disk, wrong):
        problems = sanity.problems(Store(GOOD, XEN_DMABUF_GUEST_DISK=disk))
        assert len(problems) == wrong
        assert all("XEN_DMABUF_GUEST_DISK" in problem and "absolute path" in problem for problem in problems)

    @pytest.mark.parametrize(("answer", "count"), [(None, 1), ("0", 1), ("1", 0)])
    def test_the_eula_is_asked_for_where_the_gpu_needs_it(self, answer, count):
        store = Store(GOOD, OVERRIDES="mx8qm:imxviv", ACCEPT_FSL_EULA=answer)
        problems = sanity.problems(store)
        assert len(problems) == count
        assert all('ACCEPT_FSL_EULA = "1"' in problem for problem in problems)

    @pytest.mark.parametrize("display", [*sanity.IMX8QM_DISPLAYS, "vga", "", None, "LVDS"])
    def test_a_display_without_a_device_tree_is_refused_on_its_board_only(self, display):
        for board, wrong in (("imx8qm-mek", display not in ("lvds", "hdmi")), ("qemuarm64", False)):
            store = Store(GOOD, OVERRIDES=f"linux:{board}", XEN_DMABUF_IMX8QM_DISPLAY=display)
            problems = sanity.problems(store)
            assert len(problems) == wrong
            assert all("Set it to lvds or hdmi." in problem for problem in problems)

    @pytest.mark.parametrize("item", ["virtual/libgbm", "libgbm"])
    def test_a_machine_without_gbm_is_told_the_variable(self, item):
        problem = sanity.missing_provider(Store(GOOD), item)
        assert "PREFERRED_PROVIDER_virtual/libgbm" in problem and '"qemuarm64"' in problem

    def test_what_others_miss_is_not_commented(self):
        assert sanity.missing_provider(Store(GOOD), "virtual/egl") is None
        assert sanity.missing_provider(Store(DISTRO_FEATURES="x11"), "libgbm") is None


class TestUnpatchedKernel:
    KERNEL = {**GOOD, "PN": "linux-mine", "PREFERRED_PROVIDER_virtual/kernel": "linux-mine"}

    def test_is_told_the_append_to_write(self):
        problem = sanity.unpatched_kernel(Store(self.KERNEL))
        assert '"linux-mine_%.bbappend"' in problem
        assert "recipes-kernel/linux/linux-xen-dmabuf.inc" in problem

    @pytest.mark.parametrize(
        "difference",
        [
            {sanity.PATCHED_BY: "…"},
            {"PN": "linux-yocto"},
            {"DISTRO_FEATURES": "x11"},
        ],
    )
    def test_nothing_else_is_stopped(self, difference):
        assert sanity.unpatched_kernel(Store(self.KERNEL, **difference)) is None

    def test_the_file_to_require_makes_the_difference(self):
        include = ROOT / "meta-xen-dmabuf/recipes-kernel/linux/linux-xen-dmabuf.inc"
        assert f"python {sanity.PATCHED_BY}()" in include.read_text()


class TestTheKernel:
    def is_the_kernel(self, **values):
        kernel = {"PN": "linux-yocto", "PREFERRED_PROVIDER_virtual/kernel": "linux-yocto"}
        return sources.is_the_kernel(Store(kernel, PV="6.18.3+git", **values))

    def test_is_the_preferred_provider(self):
        assert self.is_the_kernel()
        assert not self.is_the_kernel(PN="linux-yocto-rt")

    @pytest.mark.parametrize(
        ("wanted", "answer"),
        [("6.18%", True), ("6.18.3+git", True), ("6.12%", False), ("6.18", False)],
    )
    def test_has_the_preferred_version(self, wanted, answer):
        """The message names PREFERRED_VERSION, so setting it has to help."""
        assert self.is_the_kernel(**{"PREFERRED_VERSION_linux-yocto": wanted}) is answer


class TestKernelSeries:
    @pytest.mark.parametrize(
        ("version", "series"),
        [
            ("6.12.47", "6.12"),
            ("6.18", "6.18"),
            ("7.2.0-rc1", "7.2"),
            ("", ""),
            (None, ""),
            ("x.y", ""),
        ],
    )
    def test_is_taken_from_the_version(self, version, series):
        assert kernelseries.line_of(version) == series

    @pytest.fixture
    def root(self, tmp_path):
        files = (
            "common/0001-a",
            "common/0002-b",
            "common/0004-d",
            "6.12/0003-c",
            "6.6/0002-b",
            "extra/common/0000-x",
            "extra/common/0005-y",
            "extra/6.6/0005-y",
            "guest/common/0006-z",
            "guest/6.6/0007-g",
        )
        for name in files:
            path = tmp_path / "kernel-patches" / f"{name}.patch"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            (path.parent / "README.md").touch()
        (tmp_path / "kernel-patches" / "empty").mkdir()
        return tmp_path

    @pytest.mark.parametrize(
        ("line", "files"),
        [
            ("6.6", ["common/0001-a", "6.6/0002-b", "common/0004-d"]),
            ("6.12", ["common/0001-a", "common/0002-b", "6.12/0003-c", "common/0004-d"]),
            ("5.15", []),
            ("common", []),
            ("extra", []),
            ("", []),
        ],
    )
    def test_a_line_has_its_own_patches_and_the_common_ones_by_name(self, root, line, files):
        top = root / "kernel-patches"
        assert kernelseries.patches(root, line) == [f"{top}/{name}.patch" for name in files]

    @pytest.mark.parametrize(("line", "folder"), [("6.6", "6.6"), ("6.12", "common")])
    def test_extra_patches_come_last(self, root, line, folder):
        found = kernelseries.patches(root, line, extra=True)
        extra = root / "kernel-patches/extra"
        last = [f"{extra}/common/0000-x.patch", f"{extra}/{folder}/0005-y.patch"]
        assert found == kernelseries.patches(root, line) + last

    @pytest.mark.parametrize(
        ("guest", "files"),
        [("6.6", ["common/0006-z", "6.6/0007-g"]), ("6.12", ["common/0006-z"]), ("", []), ("5.15", [])],
    )
    def test_the_guest_s_patches_come_last_and_of_their_own_line(self, root, guest, files):
        found = kernelseries.patches(root, "6.12", True, guest)
        last = [f"{root}/kernel-patches/guest/{name}.patch" for name in files]
        assert found == kernelseries.patches(root, "6.12", True) + last
        assert kernelseries.guest_patches(root, guest) == last

    @pytest.mark.parametrize(("line", "answer"), [("6.6", None), ("", None), ("5.15", "6.6, 6.12")])
    def test_a_line_without_guest_s_patches_is_named(self, root, line, answer):
        problem = kernelseries.guest_problem(root, line)
        assert answer in problem and f'"{line}"' in problem if answer else problem is None

    @pytest.mark.parametrize("guest", ["", "6.6", "6.12"])
    @pytest.mark.parametrize("extra", [False, True])
    @pytest.mark.parametrize("line", ["6.6", "6.12"])
    def test_bitbake_finds_each_patch_by_its_name(self, root, line, extra, guest):
        """It takes the first file of that name in the folders of FILESEXTRAPATHS."""
        folders = kernelseries.folders(root, line, extra, guest)
        for path in kernelseries.patches(root, line, extra, guest):
            names = [os.path.join(folder, os.path.basename(path)) for folder in folders]
            assert next(filter(os.path.exists, names)) == path

    def test_covered_lines_are_sorted_as_versions(self, root):
        assert kernelseries.lines(root) == ["6.6", "6.12"]

    def test_a_covered_kernel_has_no_problem(self, root):
        assert kernelseries.problem(root, "linux-yocto", "6.6.101", "6.6") is None

    def test_an_uncovered_kernel_is_told_what_is_covered(self, root):
        problem = kernelseries.problem(root, "linux-yocto", "5.15.1", "5.15")
        assert '"linux-yocto" is version "5.15.1" and asks for the patches of series "5.15"' in problem
        assert "6.6, 6.12" in problem and "PREFERRED_VERSION_linux-yocto" in problem

    @pytest.mark.parametrize(
        ("version", "series"),
        [("6.1.3", "6.6"), ("6.8.1", "6.6"), ("6.12.9", "6.12"), ("7.0.1", "6.12"), (None, "6.6")],
    )
    def test_an_uncovered_kernel_is_offered_the_nearest_series(self, root, version, series):
        assert kernelseries.nearest(root, version) == series

    def test_a_recipe_without_linux_version_has_its_own(self):
        assert sources.kernel_version(Store(PV="6.12.9")) == "6.12.9"
        assert sources.kernel_version(Store(PV="git", LINUX_VERSION="6.6.1")) == "6.6.1"

    def test_a_layer_copied_alone_says_so(self, tmp_path):
        problem = kernelseries.problem(tmp_path, "linux-yocto", "6.12.1", "6.12")
        assert "clone all of it" in problem


class TestRepositoryFiles:
    def test_leave_out_what_a_test_run_left_behind(self, tmp_path):
        for name in ("src/a.py", "src/__pycache__/a.pyc", ".cache/b", "x.egg-info/c", "build/d"):
            path = tmp_path / "backend" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        assert sources.repository_files(tmp_path, "backend") == ["backend/src/a.py"]

    def test_a_missing_folder_says_to_clone_everything(self, tmp_path):
        with pytest.raises(FileNotFoundError, match='"backend" is not beside.*clone all of it'):
            sources.repository_files(tmp_path, "backend")


class TestRuntimeCases:
    def test_are_the_modules_beside_the_layer(self, tmp_path):
        folder = tmp_path / "lib/oeqa/runtime/cases"
        folder.mkdir(parents=True)
        for name in ("xen_b.py", "xen_a.py", "__init__.py", "notes.md"):
            (folder / name).touch()
        assert sources.runtime_cases(tmp_path) == "xen_a xen_b"

    def test_are_none_where_the_folder_is_missing(self, tmp_path):
        assert sources.runtime_cases(tmp_path) == ""


class TestKernelConfig:
    CONFIG = 'CONFIG_A=y\nCONFIG_B=m\n# CONFIG_C is not set\nCONFIG_D="x"\n'

    @pytest.mark.parametrize(
        "fragment",
        [
            "CONFIG_A=y",
            "# CONFIG_C is not set",
            "# CONFIG_Z is not set",
            'CONFIG_D="x"',
            "# a word",
        ],
    )
    def test_what_is_there_is_met(self, fragment):
        assert kernelconfig.unmet(self.CONFIG, {"f.cfg": fragment}) == []

    @pytest.mark.parametrize(
        ("fragment", "line"),
        [
            ("CONFIG_B=y", "f.cfg: CONFIG_B is m, wanted y"),
            ("CONFIG_Z=y", "f.cfg: CONFIG_Z is n, wanted y"),
            ("# CONFIG_A is not set", "f.cfg: CONFIG_A is y, wanted n"),
        ],
    )
    def test_what_is_not_is_named(self, fragment, line):
        assert kernelconfig.unmet(self.CONFIG, {"f.cfg": fragment}) == [line]

    def test_the_layers_fragments_do_not_contradict_each_other(self):
        folder = ROOT / "meta-xen-dmabuf/recipes-kernel/linux/xen-dmabuf"
        merged = {}
        for path in folder.glob("*.cfg"):
            for symbol, value in kernelconfig.parse(path.read_text()).items():
                assert merged.setdefault(symbol, value) == value, f"{path.name}: {symbol}"
