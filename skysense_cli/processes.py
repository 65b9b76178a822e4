"""Processes that end when the one that started them does, however it ends."""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # of Linux, <sys/prctl.h>


def end_with(parent: int) -> None:
    """Let the system kill this process when `parent`, which started it, dies. Only Linux can; elsewhere nothing happens.

    To be called first of all by the process that was started: a parent that died before is found by its number.
    """
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
