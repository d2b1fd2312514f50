"""Where what was measured is remembered for this user between runs, as far as that is possible.

Nothing here is needed: a container may have no home folder, a user may not be allowed to read or
write it, a file in it may be damaged. Work then goes on as if nothing had been remembered.
"""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_path

_NO_HOME = "this user has no home folder; set HOME or XDG_CACHE_HOME"


def cache_path(*names: str) -> Path | None:
    """Return a path in this user's cache, or None where no home folder can be told.

    >>> cache_path("profiles", "a.json").parts[-3:]
    ('wenable', 'profiles', 'a.json')
    """
    try:
        folder = user_cache_path("wenable")
    except (RuntimeError, KeyError, OSError):  # HOME is not set, and no user has this number
        return None
    # Older versions of platformdirs leave the ~ where they find no home.
    return folder.joinpath(*names) if folder.is_absolute() else None


def why_not_kept(path: Path | None) -> str:
    """Return why a file cannot be written at a path of the cache; "" where it can.

    Its folder is made where it is not there.
    """
    if path is None:
        return _NO_HOME
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return f"{path.parent} cannot be made ({error.strerror or error})"
    if not os.access(path.parent, os.W_OK | os.X_OK):
        return f"{path.parent} cannot be written into"
    return ""
