"""Where the set-up keeps everything, how a folder is put there, and the set-up's own Python. Standard library only."""

import ctypes
import os
import sys
from pathlib import Path


def cache_root():
    explicit = os.environ.get("ATOM_CACHE")
    if explicit:
        return Path(explicit).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base).absolute() / "atom"


CACHE = cache_root()
VENV_PYTHON = CACHE / "venv" / "bin" / "python"


def exchange(fresh, place):
    """Puts the folder `fresh` at `place`; a reader sees the old folder or the new one, never neither."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.exists():
        os.rename(fresh, place)
        return
    libc = ctypes.CDLL(None, use_errno=True)
    swap = getattr(libc, "renameat2", None)
    at_fdcwd, rename_exchange = -100, 2
    if swap is None or swap(at_fdcwd, os.fsencode(fresh), at_fdcwd, os.fsencode(place), rename_exchange) != 0:
        # Not every file system can exchange: a short gap is the next best.
        old = fresh.with_name(fresh.name + ".old")
        os.rename(place, old)
        os.rename(fresh, place)


def own_python(step, *folders):
    """Runs the calling script again with the set-up's Python, which has the packages it imports, and returns there.

    STEP is the set-up that makes what the script needs: that Python, and FOLDERS of the cache with more packages.
    """
    for needed in [VENV_PYTHON, *(CACHE / folder for folder in folders)]:
        if not needed.exists():
            sys.exit(f"error: {needed} is missing; run: python3 models/setup.py {step}")
    if not os.path.samefile(sys.prefix, CACHE / "venv"):
        os.execv(VENV_PYTHON, [str(VENV_PYTHON), *sys.argv])
    sys.path.extend(str(CACHE / folder) for folder in folders)
