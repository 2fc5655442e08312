"""A tree as a squashfs, the same every time. Not compressed: GRUB reads the kernel out of it, booting costs no
unpacking, and what travels is compressed as a whole or as a difference."""

from pathlib import Path

from firmware.image import programs


def make(root: Path, image: Path, *, epoch: int, excluded: tuple[str, ...] = ()) -> None:
    """Pack the tree. mksquashfs sorts names and counts inodes by itself; times are ours. Raises ImageError."""
    image.unlink(missing_ok=True)
    programs.run(
        [
            "mksquashfs", root, image, "-noappend", "-no-progress", "-quiet", "-no-xattrs", "-no-exports",
            # The method is named in the superblock though nothing is compressed; GRUB knows gzip.
            "-comp", "gzip", "-noI", "-noD", "-noF", "-noX",
            "-all-time", str(epoch), "-mkfs-time", str(epoch),
            *(("-wildcards", "-e", *excluded) if excluded else ()),
        ]
    )  # fmt: skip
