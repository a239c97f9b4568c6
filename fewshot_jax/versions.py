"""Versions and devices, for records, results and ``fewshot-jax env``."""

import functools
import platform
from importlib import metadata

_PACKAGES = ("fewshot-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers", "tokenizers", "numpy")


@functools.cache
def _versions() -> tuple[tuple[str, str], ...]:
    found = []
    for package in _PACKAGES:
        try:
            found.append((package, metadata.version(package)))
        except metadata.PackageNotFoundError:
            found.append((package, "not installed"))
    return tuple(found)


def versions() -> dict[str, str]:
    """Versions of the packages that decide a result, of Python, and the devices in use."""
    import jax

    devices = jax.devices()
    return {
        **dict(_versions()),
        "python": platform.python_version(),
        "device": f"{len(devices)} x {devices[0].device_kind}",
    }
