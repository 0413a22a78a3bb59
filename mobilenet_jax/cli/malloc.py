"""Sets glibc's memory allocation for programs that allocate large arrays again and again."""

import os
import platform
import signal
import sys

# `malloc` requests huge pages, and `free` returns no memory to the kernel.
TUNABLES = ":".join(
    f"glibc.malloc.{setting}" for setting in ("hugetlb=1", f"mmap_threshold={1 << 40}", f"trim_threshold={1 << 40}")
)
_MIN_GLIBC = (2, 35)  # before, huge pages are unknown, and the threshold is limited to 32 MB
_RESTARTED = "MOBILENET_JAX_RESTARTED"  # set in the new process; the dynamic linker may have removed the tunables


def configure_malloc() -> None:
    """Restarts the process with settings of glibc's `malloc`: huge pages, which the process keeps when it frees them.

    A training step allocates and frees hundreds of megabytes to gigabytes. By default, `malloc` requests them from the
    kernel and returns them in every step, in pages of 4 KB. A step with huge pages that are kept is faster on a CPU
    (`docs/performance.md`). The settings are read only when a process starts. The new process has no handler of
    SIGTERM yet, so the signal waits.
    """
    library, release = platform.libc_ver()
    if library != "glibc" or tuple(map(int, release.split(".")[:2])) < _MIN_GLIBC:
        return
    if "GLIBC_TUNABLES" not in os.environ and _RESTARTED not in os.environ:
        os.environ.update({"GLIBC_TUNABLES": TUNABLES, _RESTARTED: "1"})
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        os.execv(sys.executable, sys.orig_argv)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
