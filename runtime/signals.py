"""SIGTERM as a request: the step is finished and a checkpoint written before the process goes."""

import signal
from types import FrameType


class TerminationRequest:
    """True once SIGTERM came. torchrun and batch schedulers send it before they kill."""

    # The exit code of a run that stopped on request and can be resumed (BSD's EX_TEMPFAIL).
    EXIT_CODE = 75

    def __init__(self) -> None:
        self._asked = False
        signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, signum: int, frame: FrameType | None) -> None:
        self._asked = True

    def __bool__(self) -> bool:
        return self._asked
