"""slot.img as a RAUC bundle in verity format, signed. RAUC 1.8, "Reference": manifest, bundle formats.

The squashfs around it is not compressed either: what travels is compressed as a whole, or is the difference to what
the router has. RAUC rolls a new salt for its own tree each time, so two bundles of one slot.img differ in that.
"""

import mmap
import tempfile
from pathlib import Path

from firmware.image import programs
from firmware.image.signing import Signing

#: mksquashfs's: a file lies there in pieces of this size, one behind the other, without those that are all zeros.
_PIECE_BYTES = 128 * 1024


def compatible(hardware: str) -> str:
    """RAUC's word for "runs on this": in the manifest and in the router's system.conf."""
    return f"kyoten-{hardware}"


def manifest(hardware: str, version: str, slot: str) -> str:
    """manifest.raucm. Pure."""
    return (
        f"[update]\ncompatible={compatible(hardware)}\nversion={version}\n\n"
        f"[bundle]\nformat=verity\n\n"
        f"[image.rootfs]\nfilename={slot}\n"
    )


def make(slot: Path, bundle: Path, *, hardware: str, version: str, signing: Signing, epoch: int) -> None:
    """Make and check the bundle. Raises ImageError."""
    bundle.unlink(missing_ok=True)
    options = f"-noI -noD -noF -noX -no-exports -all-time {epoch} -mkfs-time {epoch}"
    with tempfile.TemporaryDirectory(prefix=".bundle-", dir=bundle.parent) as name:
        content = Path(name)
        # A second name of the same file: 200 MB are not copied.
        (content / "slot.img").hardlink_to(slot)
        (content / "manifest.raucm").write_text(manifest(hardware, version, "slot.img"))
        programs.run(
            [
                "rauc", f"--key={signing.key}", f"--cert={signing.certificate}", f"--keyring={signing.authority}",
                f"--mksquashfs-args={options}", "bundle", content, bundle,
            ]
        )  # fmt: skip
    programs.run(["rauc", f"--keyring={signing.authority}", "info", bundle])


def holds(bundle: Path, slot: Path) -> bool:
    """Whether a bundle has this slot image's pieces in it, in order and not compressed, as `make` packs them.

    Zeros are not looked at: what the image is as a whole, its papers say. Raises OSError.
    """
    if not bundle.stat().st_size:
        return False  # nothing that could be mapped
    with (
        bundle.open("rb") as packed,
        slot.open("rb") as image,
        mmap.mmap(packed.fileno(), 0, access=mmap.ACCESS_READ) as found,
    ):
        place: int | None = None
        while piece := image.read(_PIECE_BYTES):
            if not piece.strip(b"\0"):
                continue
            if place is None or found[place : place + len(piece)] != piece:
                # The first one; and the last one, if it is no whole piece: it lies among others of its kind.
                if place is not None and len(piece) == _PIECE_BYTES:
                    return False
                place = found.find(piece)
                if place < 0:
                    return False
            place += len(piece)
        return place is not None
