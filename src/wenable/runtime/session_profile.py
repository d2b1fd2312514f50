"""Which profile of the device a session goes by."""

from __future__ import annotations

import os
from pathlib import Path

from wenable.runtime.bundle import Bundle
from wenable.runtime.device_profile import DeviceProfile, kept_profile, no_profile
from wenable.runtime.engine import Engine


def profile_for(
    bundle: Bundle,
    engine: Engine,
    given: DeviceProfile | str | os.PathLike[str] | None = None,
    batch: int = 1,
) -> DeviceProfile:
    """Return the profile that was given, or the one kept for this user, or an empty one.

    - `batch`: the size of batch that modes are chosen for. A profile is of one example and tells nothing
      of others, so the one that is kept is left out there.

    Raises `ValueError` for a profile of something else, and one that was given beside batches.
    """
    if given is None:
        return (
            kept_profile(bundle.structure, engine)
            if batch == 1
            else no_profile(bundle.structure, engine)
        )
    if batch != 1:
        raise ValueError(
            f"`profile` is of one example at a time, `batch` (={batch}) of more: leave one of them out"
        )
    profile = given if isinstance(given, DeviceProfile) else DeviceProfile.read(Path(given))
    profile.check_fits(bundle.structure, engine)
    return profile
