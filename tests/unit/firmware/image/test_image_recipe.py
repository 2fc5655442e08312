"""The recipe: read strictly, all problems at once; the one in the repository can be read for every hardware."""

import pytest

from firmware.image import places, recipe
from firmware.image.errors import RecipeError

GOOD = """
suite = "bookworm"
packages = ["udev", "kmod"]
remove = ["usr/share/man", "etc/*-"]
python = ["cffi"]
modules = ["virtio_net"]
[hardware.box]
architecture = "amd64"
kernel = "linux-image-amd64"
packages = ["grub-common"]
modules = ["igb"]
[hardware.other]
architecture = "arm64"
kernel = "linux-image-arm64"
"""


def test_a_hardwares_own_packages_and_modules_join_the_common_ones() -> None:
    made = recipe.parse(GOOD, "box")
    assert made.packages == ("udev", "kmod", "grub-common", "linux-image-amd64")
    assert made.modules == ("virtio_net", "igb")
    assert recipe.parse(GOOD, "other").packages == ("udev", "kmod", "linux-image-arm64")


def test_the_recipe_of_this_repository_is_good_for_every_hardware_it_names() -> None:
    text = places.RECIPE.read_text()
    names = recipe.hardware_names(text)
    assert set(names) == {"generic-x86-64", "generic-arm64"}
    made = [recipe.parse(text, name) for name in names]
    assert {one.architecture for one in made} == {"amd64", "arm64"}
    assert recipe.suite(text) == made[0].suite
    pinned = recipe.constraints((places.ROOT / "constraints.txt").read_text())
    assert set(made[0].python) <= set(pinned)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD.replace('"kmod"', '"kmod; rm"'), ["not a package's name"]),
        (GOOD.replace('"kmod"', '"udev"'), ["twice"]),
        (GOOD.replace('"etc/*-"', '"../etc"'), ["without '..'"]),
        (GOOD.replace('"etc/*-"', '"/etc"'), ["paths from the root"]),
        (GOOD.replace('"amd64"', '"sparc"'), ["none of"]),
        (GOOD.replace("python =", "pyton ="), ["unknown key 'pyton'"]),
        (GOOD.replace('suite = "bookworm"', "") + "colour = 1\n", ["suite is missing"]),
        (GOOD.replace('["virtio_net"]', '"virtio_net"').replace('"kmod"', '""'), ["modules", "packages"]),
        ("suite = ", ["not TOML"]),
    ],
)
def test_what_is_wrong_is_told_all_at_once(text: str, words: list[str]) -> None:
    with pytest.raises(RecipeError) as raised:
        recipe.parse(text, "box")
    for word in words:
        assert word in str(raised.value)


def test_an_unknown_hardware_is_told_what_there_is() -> None:
    with pytest.raises(RecipeError, match="there are: box, other"):
        recipe.parse(GOOD, "toaster")


def test_constraints_are_exact_versions_under_pythons_normal_names() -> None:
    assert recipe.constraints("# why\nMarkup_Safe==3.0.1\na.b==1\n\n") == {"markup-safe": "3.0.1", "a-b": "1"}
    with pytest.raises(RecipeError, match="no exact version"):
        recipe.constraints("cffi>=2\n")


def test_list_files_have_comments() -> None:
    assert recipe.lines("# all\na.service  # why\n\n b.timer\n") == ("a.service", "b.timer")
