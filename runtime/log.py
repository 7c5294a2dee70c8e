"""One log, three places: the screen, train.log in the competition's grammar, and log.jsonl with the same facts typed.

On a terminal a live line (tqdm) shows the step; without one, or in a file, only plain lines appear.
"""

import json
import sys
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from runtime.files import unwritable


class RunLog:
    """Writes lines and facts of one run. Ranks other than the first pass `folder=None` and stay silent."""

    def __init__(self, folder: Path | None) -> None:
        self._text: TextIO | None = None
        self._facts: TextIO | None = None
        self._bar: tqdm | None = None
        if folder is None:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # Line-buffered appends: a killed run keeps every line it printed, a resumed one goes on below them.
            self._text = open(folder / "train.log", "a", buffering=1, encoding="utf-8")  # noqa: SIM115
            self._facts = open(folder / "log.jsonl", "a", buffering=1, encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            raise unwritable(folder, error) from error

    def line(self, text: str, /, **facts: Any) -> None:
        """Prints `text`, keeps it in train.log, and keeps `facts` (JSON-able) as one line of log.jsonl."""
        if self._text is None:
            return
        with tqdm.external_write_mode(file=sys.stdout):
            sys.stdout.write(text + "\n")
            sys.stdout.flush()
        try:
            self._text.write(text + "\n")
            if facts:
                self._facts.write(json.dumps(facts, sort_keys=True) + "\n")
        except OSError as error:
            raise unwritable(self._text.name, error) from error

    def progress(self, text: str, done: float, total: float | None) -> None:
        """Moves the live line to `done` of `total` and sets its caption; nothing without a terminal."""
        if self._text is None or not sys.stderr.isatty():
            return
        if self._bar is None:
            self._bar = tqdm(total=total, bar_format="{percentage:3.0f}%|{bar:20}| {desc}", leave=False)
        self._bar.n = min(done, total) if total else done
        self._bar.set_description_str(text)

    def end_progress(self) -> None:
        """Takes the live line off the screen."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def close(self) -> None:
        self.end_progress()
        for file in (self._text, self._facts):
            if file is not None:
                file.close()
