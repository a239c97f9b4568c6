"""Set up jax for every test: CPU with eight simulated devices, strict broadcasting, a compilation cache."""

import os
import signal
import tempfile
from pathlib import Path

# Before jax is imported: it reads these once.
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.experimental
import pytest

_CACHE = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(Path(tempfile.gettempdir()) / "fewshot_jax_tests_cache")
jax.config.update("jax_compilation_cache_dir", _CACHE)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # the suite compiles many small programs
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="module", autouse=True)
def free_programs():
    """Forget a module's compiled programs at its end: the whole suite's would take gigabytes."""
    yield
    jax.clear_caches()


@pytest.fixture
def default_interrupt():
    """Python's own handler of Ctrl-C, which is absent where the parent ignores SIGINT (``nohup ... &``)."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def enable_x64():
    """The context manager ``enable_x64(True)``; jax.enable_x64 is its newer name, older releases lack it."""
    return jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64


@pytest.fixture
def float64(enable_x64):
    """Run the test in double precision; arrays must be made inside it."""
    with enable_x64(True):
        yield
