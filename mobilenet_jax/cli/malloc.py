"""Sets glibc's memory allocation for programs that allocate large arrays again and again."""

import os
import platform
import signal
import sys

# Huge pages; and no memory is returned to the kernel, whether by `munmap` or from the top of the heap.
SETTINGS = ":".join(
    f"glibc.malloc.{setting}" for setting in ("hugetlb=1", f"mmap_threshold={1 << 40}", f"trim_threshold={1 << 40}")
)


def configure_malloc() -> None:
    """Restarts the process with glibc's `malloc` requesting huge pages, and keeping them.

    A training step allocates and frees hundreds of megabytes. By default, `malloc` requests them from the kernel and
    returns them in every step, in pages of 4 KB. A step with huge pages that are kept is 1.2 to 1.5 times as fast on a
    CPU (`docs/performance.md`). The settings are read only when a process starts. The new process has no handler of
    SIGTERM yet, so the signal waits.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    if "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = SETTINGS
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        os.execv(sys.executable, sys.orig_argv)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
