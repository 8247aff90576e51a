"""Where the hub's client keeps what it must not keep elsewhere."""

import os
from pathlib import Path


def keep_cache_in(scratch: Path) -> None:
    """Send the client's caches to `scratch`: a container's own folders are small and in memory.

    The client reads these variables when it is imported, so this comes first.
    """
    os.environ["HF_HUB_CACHE"] = str(scratch / "hub-cache")
    os.environ["HF_XET_CACHE"] = str(scratch / "xet-cache")
