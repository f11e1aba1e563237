# SPDX-License-Identifier: MIT
"""What recipes say about files must be true, without bitbake."""

import configparser
import hashlib
import importlib.metadata
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from layer_files import LAYER, assignment, layer_files
from oe_trees import CHECKED, ROOT

COMMON_MIT = "0835ade698e0bcf8506ecda2f7b4f302"

RECIPES = layer_files(".bb")


def search_path(recipe, text):
    """The folders that a recipe's file:// names are looked up in."""
    name = recipe.stem.split("_")[0]
    extra = re.findall(r'FILESEXTRAPATHS:prepend := "\$\{THISDIR\}/([\w-]+):', text)
    return [recipe.parent / folder for folder in (*extra, name, "files")]


@pytest.mark.parametrize("recipe", layer_files(".bb", ".inc"), ids=lambda path: path.name)
def test_every_file_in_src_uri_exists(recipe):
    text = recipe.read_text()
    names = re.findall(r"file://([\w.-]+)", re.sub(r"(?m)^LIC_FILES_CHKSUM (?:.*\\\n)*.*$", "", text))
    folders = search_path(recipe, text)
    missing = [name for name in names if not any((f / name).is_file() for f in folders)]
    assert not missing, f"{recipe.name}: not in {[str(f.relative_to(LAYER)) for f in folders]}"


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_source_folder_exists(recipe):
    source = assignment(recipe.read_text(), "XEN_DMABUF_SOURCE")
    assert source is None or (ROOT / source).is_dir()


def test_kernel_fragments_exist():
    include = LAYER / "recipes-kernel/linux/linux-xen-dmabuf.inc"
    for name in assignment(include.read_text(), "XEN_DMABUF_FRAGMENTS").split():
        assert (include.parent / "xen-dmabuf" / name).is_file()


def recipe_of(name):
    return next(path for path in RECIPES if path.name.startswith(f"{name}_"))


def test_hostile_package_has_what_its_program_imports():
    text = assignment(recipe_of("xen-dmabuf-backend").read_text(), "FILES:${PN}-hostile")
    tests = ROOT / "backend/tests"
    packed = {path for item in text.split() for path in tests.glob(Path(item).name)}
    assert tests / "on_xen.py" in packed
    own = {path.stem for path in tests.glob("*.py")}
    imported = {name for path in packed for name in re.findall(r"(?m)^(?:from|import) (\w+)", path.read_text())}
    assert imported & own <= {path.stem for path in packed}


def test_backend_recipe_has_the_package_version():
    project = tomllib.loads((ROOT / "backend/pyproject.toml").read_text())["project"]
    assert recipe_of("xen-dmabuf-backend").stem == f"xen-dmabuf-backend_{project['version']}"


def test_pattern_recipe_has_the_program_version():
    meson = (ROOT / "clients/pattern/meson.build").read_text()
    version = re.search(r"version: '([\d.]+)'", meson)[1]
    assert recipe_of("xen-dmabuf-pattern").stem == f"xen-dmabuf-pattern_{version}"


def test_domu_weston_package_depends_on_its_client():
    """domu.ini starts a program of weston-examples."""
    ini = (LAYER / "recipes-graphics/weston-init/xen-dmabuf/domu.ini").read_text()
    assert "path=/usr/bin/weston-simple-shm" in ini
    text = recipe_of("xen-dmabuf-weston").read_text()
    assert "weston-examples" in assignment(text, "RDEPENDS:${PN}-domu")


def ini_on_imx8(tmp_path, side="dom0"):
    """The settings that the recipe makes of dom0.ini or kiosk.ini for NXP's BSP, by its own commands."""
    text = recipe_of("xen-dmabuf-weston").read_text()
    script = re.search(r"(?ms)^do_install:append:mx8-nxp-bsp\(\) \{\n(.*?)^\}", text)[1]
    for name in ("dom0", "kiosk"):
        ini = tmp_path / f"xen-dmabuf/{name}/weston/weston.ini"
        ini.parent.mkdir(parents=True)
        ini.write_bytes((LAYER / f"recipes-graphics/weston-init/xen-dmabuf/{name}.ini").read_bytes())
    subprocess.run(["sh", "-ec", script.replace("${D}${sysconfdir}", str(tmp_path))], check=True)
    return settings((tmp_path / f"xen-dmabuf/{side}/weston/weston.ini").read_text())


def settings(text):
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(text)  # refuses a section or a key that is there twice: Weston reads the first
    return {name: dict(parser[name]) for name in parser.sections()}


@pytest.mark.parametrize("side", ["dom0", "kiosk"])
def test_dom0s_weston_has_our_settings_and_the_bsps_on_imx8(tmp_path, side):
    own = settings((LAYER / f"recipes-graphics/weston-init/xen-dmabuf/{side}.ini").read_text())
    found = ini_on_imx8(tmp_path, side)
    assert found["core"].pop("repaint-window") == "16"
    assert found.pop("libinput") == {"touchscreen_calibrator": "true"}
    assert found == own


@pytest.mark.parametrize("release", CHECKED)
def test_nothing_else_that_the_bsp_sets_is_lost(release, trees, tmp_path):
    found = ini_on_imx8(tmp_path)
    folder = trees / release / "meta-freescale/recipes-graphics/wayland"
    bsp = settings((folder / "weston-init/imx-nxp-bsp/weston.ini").read_text())
    bsp.pop("screen-share")  # of use with its RDP module only, which isn't loaded by default
    append = (folder / "weston-init.bbappend").read_text()
    if re.search(r'(?m)^PACKAGECONFIG_REPAINT_WINDOW:mx8-nxp-bsp \?= "repaint-window"$', append):
        bsp["core"] |= dict([re.search(r"/a (repaint-window)=(\d+)", append).groups()])
    lost = {name: keys for name, keys in bsp.items() if not keys.items() <= found.get(name, {}).items()}
    assert not lost


def test_guest_configuration_names_what_the_image_installs():
    cfg = (LAYER / "recipes-extended/xen-dmabuf-guest/files/domu.cfg").read_text()
    image = (LAYER / "recipes-core/images/xen-dmabuf-image-dom0.bb").read_text()
    default = assignment((LAYER / "conf/include/xen_dmabuf.inc").read_text(), "XEN_DMABUF_GUEST_DISK")
    for name in re.findall(r"/var/lib/xen/images/([\w.-]+)", cfg):
        assert f"$images/{name}" in image or default == f"${{localstatedir}}/lib/xen/images/{name}"


def function(name, recipe, values):
    """A shell function of a recipe, its variables in place."""
    script = re.search(rf"(?ms)^{name}\(\) \{{\n(.*?)^\}}", recipe.read_text())[1]
    for variable, value in values.items():
        script = script.replace(f"${{{variable}}}", str(value))
    assert "${" not in script, script
    return script


@pytest.mark.parametrize(
    ("disk", "wanted"),
    [
        ("/var/lib/xen/images/domu.ext4", "file:/var/lib/xen/images/domu.ext4"),
        ("/data/guests/domu.ext4", "file:/data/guests/domu.ext4"),
        ("/dev/disk/by-partlabel/domu", "phy:/dev/disk/by-partlabel/domu"),
    ],
)
def test_guests_disk_is_where_the_integrator_says(tmp_path, disk, wanted):
    """xl looks there, its service waits for the mount, and the image has the file there unless it is a partition."""
    units, root, deployed = tmp_path / "d/units", tmp_path / "root", tmp_path / "deploy"
    recipe = recipe_of("xen-dmabuf-guest")
    values = {"XEN_DMABUF_GUEST_DISK": disk, "S": recipe.parent / "files", "D": f"{tmp_path}/d", "sysconfdir": "/etc"}
    folders = {"systemd_system_unitdir": "/units", "systemd_unitdir": "/systemd"}
    subprocess.run(["sh", "-euc", function("do_install", recipe, {**values, **folders})], check=True)
    cfg = (tmp_path / "d/etc/xen/domu.cfg").read_text()
    assert f"disk = ['{wanted},xvda,rw']" in cfg
    drop_in = settings((units / "xendomains.service.d/xen-dmabuf.conf").read_text())
    assert drop_in["Unit"]["requiresmountsfor"] == disk

    deployed.mkdir()
    for name in ("guest.ext4", "Image"):
        (deployed / name).write_text(name)
    values = {
        "XEN_DMABUF_GUEST_DISK": disk,
        "DEPLOY_DIR_IMAGE": deployed,
        "XEN_DMABUF_GUEST_IMAGE": "guest",
        "IMAGE_MACHINE_SUFFIX": "",
        "IMAGE_NAME_SUFFIX": "",
        "KERNEL_IMAGETYPE": "Image",
        "IMAGE_ROOTFS": root,
        "localstatedir": "/var",
    }
    image = LAYER / "recipes-core/images/xen-dmabuf-image-dom0.bb"
    subprocess.run(["sh", "-euc", function("install_guest", image, values)], check=True)
    files = {f"/{path.relative_to(root)}" for path in root.rglob("*") if path.is_file()}
    assert files == {"/var/lib/xen/images/domu-kernel", *([] if disk.startswith("/dev/") else [disk])}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_own_recipes_use_the_common_licence(recipe):
    checksum = assignment(recipe.read_text(), "LIC_FILES_CHKSUM") or ""
    if "COMMON_LICENSE_DIR" in checksum:
        assert f"file://${{COMMON_LICENSE_DIR}}/MIT;md5={COMMON_MIT}" in checksum.split()


@pytest.mark.parametrize("release", CHECKED)
def test_common_licence_checksum_is_the_releases(release, trees):
    licence = trees / release / "openembedded-core/meta/files/common-licenses/MIT"
    assert hashlib.md5(licence.read_bytes()).hexdigest() == COMMON_MIT


@pytest.mark.parametrize("release", CHECKED)
def test_qemuarm64_has_no_llvmpipe(release, trees):
    """docs/integrate.md says so: only other processors' Mesa and the native one have LLVM."""
    folder = trees / release / "openembedded-core/meta/recipes-graphics/mesa"
    text = "".join(path.read_text() for path in sorted(folder.glob("mesa*")) if path.suffix in (".bb", ".inc"))
    given = re.findall(r'(?m)^PACKAGECONFIG(:append\S*)? \??= "((?:[^"\\]|\\\n)*)"', text)
    assert "" in dict(given)
    llvm = {override for override, features in given if "gallium-llvm" in features.split()}
    assert llvm <= {f":append:{override}" for override in ("x86", "x86-64", "i686", "class-native")}


def test_pywayland_licence_checksum_is_the_packages():
    try:
        distribution = importlib.metadata.distribution("pywayland")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("pywayland is not installed")
    licence = next(path for path in distribution.files if Path(path).name == "LICENSE")
    digest = hashlib.md5(licence.read_binary()).hexdigest()
    assert f"md5={digest}" in recipe_of("python3-pywayland").read_text()


def test_pywaylands_licence_names_that_of_the_protocols():
    """The generated modules have the text of the protocol files' licence in their heads."""
    protocols = Path(pytest.importorskip("pywayland").__file__).with_name("protocol")
    assert any("Permission is hereby granted, free of charge" in path.read_text() for path in protocols.rglob("*.py"))
    assert "MIT" in assignment(recipe_of("python3-pywayland").read_text(), "LICENSE").split()


@pytest.mark.parametrize(("release", "word"), [("scarthgap", "&"), ("wrynose", "&"), ("blacksail", "AND")])
def test_pywaylands_licence_is_an_expression_that_a_release_takes(release, word):
    licence = assignment(recipe_of("python3-pywayland").read_text(), "LICENSE")
    expression = re.search(r"\$\{@(.*?)\}", licence)

    class Bb:
        """bitbake's function as it is documented."""

        class utils:
            @staticmethod
            def contains_any(_variable, values, true, false, _d):
                return true if release in values.split() else false

    seen = licence.replace(expression[0], eval(expression[1], {"bb": Bb, "d": None}))
    assert seen == f"Apache-2.0 {word} MIT"


def test_a_package_of_text_is_for_all_machines():
    """What is compiled nowhere and overridden by no machine is built once."""
    for recipe in RECIPES:
        text = recipe.read_text()
        inherited = " ".join(re.findall(r"(?m)^inherit (.*)$", text)).split()
        compiles = "do_compile[noexec]" not in text or "PACKAGE_ARCH" in text
        assert compiles or "allarch" in inherited, recipe.name


def test_layer_finds_what_lies_beside_it():
    """testimage looks in <layer>/lib/oeqa only, so lib is a relative link."""
    link = LAYER / "lib"
    assert link.is_symlink() and Path(link.readlink()) == Path("../lib")


@pytest.mark.parametrize("append", layer_files(".bbappend"), ids=lambda path: path.relative_to(LAYER).name)
def test_bbappends_are_one_gated_line(append):
    lines = append.read_text().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("require ${@bb.utils.contains('DISTRO_FEATURES', 'xen-dmabuf', '")
    assert lines[0].endswith("', '', d)}")
