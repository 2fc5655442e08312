"""The recording of a whole update that power cuts are made of: one for each state of the checkout, made once.

``python -m lab.appliance.recording`` makes it and says where it is. What it needs of Debian's archive (image and
release) is made first, outside of a box: inside there is no way to it.
"""

import subprocess
import sys
from pathlib import Path

from firmware.image import build
from firmware.image.errors import ImageError
from lab import box
from lab.appliance import image, releases
from lab.network import LabError

#: Beside image and release: the directory, and the figures in it, which say that it is whole.
_NAME, FIGURES = "update", "figures.json"
#: Emulated, beside other work.
_LONGEST_S = 5400.0


def made(say: build.Say = lambda _text: None) -> Path:
    """A directory with what `update` has recorded. Takes a quarter of an hour where there is none yet.

    Raises LabError: the update did not come to its end. ImageError: image or release cannot be built.
    """
    image.factory_disk(say)
    releases.release(say=say)
    with image.state() as place:
        directory = place / _NAME
    if (directory / FIGURES).exists():
        return directory
    directory.mkdir(exist_ok=True)
    opened = [] if box.inside() else [str(Path(sys.executable).parent / "kyoten-lab"), "box", "--"]
    argv = [*opened, sys.executable, "-m", "lab.appliance.update", str(directory), "--record"]
    try:
        ended = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, timeout=_LONGEST_S)
    except subprocess.TimeoutExpired:
        raise LabError(f"the update took longer than {_LONGEST_S:.0f} s") from None
    if ended.returncode != 0:
        raise LabError(f"the update ended with {ended.returncode}")
    (directory / FIGURES).write_text(ended.stdout.splitlines()[-1])
    return directory


if __name__ == "__main__":
    try:
        found = made(lambda text: print(f"recording: {text}", file=sys.stderr))  # noqa: T201
    except (LabError, ImageError) as error:
        sys.exit(f"recording: {error}")
    sys.stdout.write(f"{found}\n")
