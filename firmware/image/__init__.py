"""Builds the router's image: from Debian packages and this checkout to a signed bundle and a bootable disk.

recipe     images/router/recipe.toml, read strictly; kernel_modules: which of the kernel's modules are kept
tree       the root tree: Debian's packages, the agent, our files; trimmed, the same every time
software   the agent and its Python packages, with byte code
initrd     the initial RAM disk, a plain cpio
squashfs, slot   the tree as slot.img: squashfs, slot block, dm-verity tree
bundle     slot.img as a RAUC bundle; disk: a whole disk as it leaves the factory
sbom, cves what is inside (SPDX), and which known vulnerabilities; advisories: of Python packages
build      all of it in order; places: where prepared things lie; programs: running others'

A build needs root, Debian and the packages of lab/debian-packages-image.txt. `python -m firmware.image` is the command.
"""
