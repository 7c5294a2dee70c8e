"""The training clock: it runs while the model trains and stands still for validation, checks and set-up."""

import time

from runtime.machine import Machine


class TrainingClock:
    """Seconds of training, device work included; `pause` before anything that does not count, `start` after it."""

    def __init__(self, machine: Machine, elapsed: float = 0.0) -> None:
        self._machine = machine
        self._banked = elapsed
        self._since: float | None = None

    def start(self) -> None:
        self._machine.synchronize()
        self._since = time.perf_counter()

    def pause(self) -> None:
        self._machine.synchronize()
        self._banked = self.seconds()
        self._since = None

    def seconds(self) -> float:
        """Training seconds until now, a resumed run's earlier ones included."""
        running = time.perf_counter() - self._since if self._since is not None else 0.0
        return self._banked + running
