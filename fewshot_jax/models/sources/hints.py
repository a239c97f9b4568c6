"""What a user who gave a name that means nothing may have meant."""

import difflib
import re
from pathlib import Path
from urllib.parse import urlsplit

from fewshot_jax.models.sources.package import closest_package

_BARE = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)


def meant(name: str) -> str:
    """Return words in parentheses on what a name may have meant, to go into a message; "" where nothing is close."""
    if not name:
        return " (the name is empty)"
    url = urlsplit(name)
    if url.scheme in ("http", "https"):
        return f" (a model of the hub is given without its server: '{'/'.join(url.path.strip('/').split('/')[:2])}')"
    found = "default" if difflib.get_close_matches(name, ["default"], cutoff=0.75) else closest_package(name)
    if found is not None:
        return f" (did you mean '{found}'?)"
    if _BARE.fullmatch(name) and not Path(name).suffix:
        return " (a model of the hub has its organisation before it, such as google-bert/bert-base-uncased)"
    return ""
