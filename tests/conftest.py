"""Set up jax for every test: CPU with eight simulated devices, strict broadcasting, programs that compile fast."""

import ctypes
import gc
import os
import signal
import sys
import tempfile
from pathlib import Path

# Before jax is imported: it reads these once, and the processes that tests start inherit them.
# Most of the suite's time is compilation of small programs, which LLVM's optimisations make slower and no test needs.
# (xla_cpu_use_fusion_emitters=false would save more, but then XLA computes a wrong loss and gradient in test_conv.)
_XLA_FLAGS = {"xla_force_host_platform_device_count": "8", "xla_backend_optimization_level": "0"}
_given = os.environ.get("XLA_FLAGS", "")
os.environ["XLA_FLAGS"] = " ".join(
    [_given, *(f"--{name}={value}" for name, value in _XLA_FLAGS.items() if name not in _given)]
).strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir()) / "fewshot_jax_tests_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")  # the suite compiles many small programs
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax  # noqa: E402
import jax.experimental  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")

MEMORY_LIMIT = 1.5e9  # bytes of a worker; a single test adds up to half a gigabyte to it


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Give a whole file to one worker, so that its fixtures are built and its programs compiled once."""
    from xdist.scheduler import LoadFileScheduling

    return LoadFileScheduling(config, log) if config.option.dist == "load" else None


def resident_memory():
    """Return the resident memory of this process in bytes, or None where there is no /proc."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def forget_programs():
    """Drop all compiled programs (1 to 2 MB each) and give their memory back to the system."""
    jax.clear_caches()
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)  # glibc keeps freed memory otherwise


@pytest.fixture(scope="module", autouse=True)
def free_programs():
    """Where the memory of the process cannot be read, forget a module's programs at its end."""
    yield
    if resident_memory() is None:
        forget_programs()


@pytest.fixture(autouse=True)
def bounded_memory():
    """Forget all programs after a test that leaves the process above the limit: the suite's would take gigabytes."""
    yield
    if (resident_memory() or 0) > MEMORY_LIMIT:
        forget_programs()


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
