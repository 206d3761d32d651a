"""How a worker process is tied to the run that started it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # prctl(2)


def hold_on_to(parent: int) -> None:
    """This process ends when its parent does, whatever it is doing: also while it imports torch and hears nothing.

    Linux does it itself (prctl(2), PR_SET_PDEATHSIG). Elsewhere a worker ends when it finds its input closed.

    Args:
        parent: the process that started this one; where it is gone by now, this process ends at once.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the call
        os._exit(0)
