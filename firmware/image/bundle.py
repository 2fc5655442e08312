"""slot.img as a RAUC bundle in verity format, signed. RAUC 1.8, "Reference": manifest, bundle formats.

The squashfs around it is not compressed either: what travels is compressed as a whole, or is the difference to what
the router has. RAUC rolls a new salt for its own tree each time, so two bundles of one slot.img differ in that.
"""

import tempfile
from pathlib import Path

from firmware.image import programs
from firmware.image.signing import Signing


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
