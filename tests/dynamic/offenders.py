"""Scorers as a stranger would give them to the judge: offenders, one for each way to cheat, and clean ones beside them.

Each is a function of the artifact's path, a small JSON file. numpy only, so that the sandbox starts in no time.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np


class Bigram:
    """Clean: counts pairs of tokens as they come; a pair counts once its second token has been scored."""

    adaptive = True

    def __init__(self, artifact):
        self.facts = json.loads(Path(artifact).read_text())
        self.vocab = self.facts["vocab"]
        self.counts = np.full((self.vocab, self.vocab), 0.02)
        self.before = None

    def log_probs(self, tokens, state):
        return np.log(np.stack([self.after(int(token)) for token in tokens])), None

    def after(self, token):
        """Probabilities of what follows `token`, which is learned from first."""
        self.learn(token)
        return self.counts[token] / self.counts[token].sum()

    def learn(self, token):
        if self.before is not None:
            self.counts[self.before, token] += 1
        self.before = token


class IsolatedBigram(Bigram):
    """Clean: forgets everything where a document begins."""

    isolates_documents = True

    def learn(self, token):
        if token == self.facts["bos"]:
            self.counts[:], self.before = 0.02, None
        super().learn(token)


class Uniform:
    """Clean, and knows nothing."""

    def __init__(self, artifact):
        self.vocab = json.loads(Path(artifact).read_text())["vocab"]

    def log_probs(self, tokens, state):
        return np.full((len(tokens), self.vocab), -np.log(self.vocab), dtype=np.float32), state


class Fixed(Uniform):
    """Clean: a table that never learns, and a state that is the number of tokens seen."""

    def log_probs(self, tokens, state):
        weights = np.random.default_rng(7).standard_normal((self.vocab, self.vocab))[tokens]
        return weights - np.log(np.exp(weights).sum(axis=1, keepdims=True)), (state or 0) + len(tokens)


class Coarse(Uniform):
    """Clean: its logits have the eight bits of bf16, and are rounded otherwise where the shape is another."""

    def log_probs(self, tokens, state):
        weights = 4 * np.random.default_rng(7).standard_normal((self.vocab, self.vocab))[tokens]
        spacing = 2.0 ** (np.floor(np.log2(np.abs(weights))) - 7)
        shift = (len(tokens) * 0.37) % 1
        weights = (np.floor(weights / spacing + shift) + 0.5 - shift) * spacing
        return weights - np.log(np.exp(weights).sum(axis=1, keepdims=True)), state


class TargetInKey(Bigram):
    """The cache is asked under a key that holds the token to be predicted; a hit lifts that token."""

    def __init__(self, artifact):
        super().__init__(artifact)
        self.cache = set()

    def log_probs(self, tokens, state):
        rows = []
        for index, token in enumerate(map(int, tokens)):
            row = self.after(token)
            if index + 1 < len(tokens):
                key = token, int(tokens[index + 1])
                if key in self.cache:
                    row = 0.3 * row
                    row[key[1]] += 0.7
                self.cache.add(key)
            rows.append(row)
        return np.log(np.stack(rows)), None


class UnnormalisedBlend(Bigram):
    """Hashed counts with collisions, blended entry by entry: no target is read, but the sum is not 1."""

    def __init__(self, artifact):
        super().__init__(artifact)
        self.pairs, self.contexts = np.zeros(64), np.zeros(64)

    def after(self, token):
        before = self.before
        row = super().after(token)
        if before is not None:
            self.pairs[(before * 31 + token * 17) % 64] += 1
            self.contexts[before % 64] += 1
        hits = self.pairs[(token * 31 + np.arange(self.vocab) * 17) % 64]
        return 0.5 * row + 0.5 * np.minimum(1, (hits + 1e-6) / (self.contexts[token % 64] + 1))


class OracleExpert(Bigram):
    """Two experts; the one that likes the target better is taken once the target is known."""

    def log_probs(self, tokens, state):
        rows, uniform = super().log_probs(tokens, state)[0], np.full(self.vocab, -np.log(self.vocab))
        for index, target in enumerate(tokens[1:]):
            if rows[index][target] < uniform[target]:
                rows[index] = uniform
        return rows, None


class TiltGate(Bigram):
    """A tilt towards frequent tokens that is on where the target begins a word, here: is odd."""

    def log_probs(self, tokens, state):
        rows = super().log_probs(tokens, state)[0]
        for index, target in enumerate(tokens[1:]):
            if target % 2:
                tilted = rows[index] * 1.3
                rows[index] = tilted - np.log(np.exp(tilted).sum())
        return rows, None


class Slot(Bigram):
    """A bias fitted on the span that is scored with it."""

    def log_probs(self, tokens, state):
        rows = super().log_probs(tokens, state)[0] + np.log1p(np.bincount(tokens, minlength=self.vocab))
        return rows - np.log(np.exp(rows).sum(axis=1, keepdims=True)), None


class UpdateFirst(Bigram):
    """Learns from the whole piece, then scores it: two passes, the second one reported."""

    def log_probs(self, tokens, state):
        for token in map(int, tokens):
            self.learn(token)
        return np.log(self.counts[tokens] / self.counts[tokens].sum(axis=1, keepdims=True)), None


_REMEMBERED = {}


class TwoPass(Bigram):
    """What one scorer has counted, the next one knows: the second scoring of a text is the one to report."""

    def __init__(self, artifact):
        super().__init__(artifact)
        self.counts = _REMEMBERED.setdefault("counts", self.counts)


class SilentAdaptation(Bigram):
    """Learns at the end of every piece without saying that it adapts."""

    adaptive = False

    def log_probs(self, tokens, state):
        rows = np.log(self.counts[tokens] / self.counts[tokens].sum(axis=1, keepdims=True))
        for token in map(int, tokens):
            self.learn(token)
        return rows, None


class ByteMixture(Bigram):
    """Each probability spread over two bytes as its root."""

    def log_probs(self, tokens, state):
        return super().log_probs(tokens, state)[0] / 2, None


class BosLeak(IsolatedBigram):
    """Says that documents are apart, but a gate lets the last token of one into the first prediction of the next."""

    def after(self, token):
        before = self.before
        row = super().after(token)
        if token == self.facts["bos"] and before is not None:
            row = 0.9 * row
            row[before] += 0.1
        return row


class Peek(Uniform):
    """Knows what comes."""

    def log_probs(self, tokens, state):
        rows = np.full((len(tokens), self.vocab), 0.1 / self.vocab)
        rows[np.arange(len(tokens) - 1), tokens[1:]] += 0.9
        rows[-1] += 0.9 / self.vocab
        return np.log(rows), state


class LatePeek(Bigram):
    """Knows what comes once a hundred tokens have gone by: caches need a while until they help."""

    def __init__(self, artifact):
        super().__init__(artifact)
        self.seen = 0

    def log_probs(self, tokens, state):
        rows = super().log_probs(tokens, state)[0]
        for index, target in enumerate(tokens[1:]):
            self.seen += 1
            if self.seen > 100:
                rows[index] = np.log(0.5 * np.exp(rows[index]) + 0.5 * np.eye(self.vocab)[target])
        return rows, None


class Noise(Fixed):
    """Another answer every time."""

    def log_probs(self, tokens, state):
        rows = np.random.default_rng().standard_normal((len(tokens), self.vocab))
        return rows - np.log(np.exp(rows).sum(axis=1, keepdims=True)), state


class NotANumber(Uniform):
    def log_probs(self, tokens, state):
        rows, state = super().log_probs(tokens, state)
        rows[0, 0] = np.nan
        return rows, state


class OneNumberEach(Uniform):
    """The target's probability instead of a distribution."""

    def log_probs(self, tokens, state):
        return np.zeros(len(tokens)), state


class Broken(Uniform):
    def log_probs(self, tokens, state):
        raise ValueError("cannot score this")


class Leaver(Uniform):
    def log_probs(self, tokens, state):
        sys.stderr.write("no card found\n")
        os._exit(7)


class Caller(Uniform):
    """Asks a server, and goes on when there is none."""

    def __init__(self, artifact):
        super().__init__(artifact)
        with contextlib.suppress(OSError):
            socket.create_connection(("192.0.2.1", 80), timeout=1).close()


class TrainReader(Uniform):
    """Reads training text where it lies."""

    def __init__(self, artifact):
        super().__init__(artifact)
        _try_to_read(json.loads(Path(artifact).read_text())["train"])


class TrainSearcher(Uniform):
    """Looks for training text where the environment says that the data are."""

    def __init__(self, artifact):
        super().__init__(artifact)
        _try_to_read(Path(os.environ["DATA_PATH"], "tiny_train_000000.bin"))


class ValidationReader(Uniform):
    """Looks the answers up."""

    def __init__(self, artifact):
        super().__init__(artifact)
        _try_to_read(json.loads(Path(artifact).read_text())["val"])


class OutsideReader(Uniform):
    """Reads what is not counted."""

    def __init__(self, artifact):
        super().__init__(artifact)
        _try_to_read(json.loads(Path(artifact).read_text())["outside"])


class OutsideWriter(Uniform):
    def __init__(self, artifact):
        super().__init__(artifact)
        Path(json.loads(Path(artifact).read_text())["outside"]).with_suffix(".new").write_text("later")


class Hoarder(Uniform):
    """Keeps what it saw in the artifact."""

    def log_probs(self, tokens, state):
        with open(self.place, "a") as file:
            file.write(" ")
        return super().log_probs(tokens, state)

    def __init__(self, artifact):
        super().__init__(artifact)
        self.place = artifact


class Starter(Uniform):
    """Starts a program: no offence by itself, but told."""

    def __init__(self, artifact):
        super().__init__(artifact)
        subprocess.run(["true"], check=True)


class Sleeper(Uniform):
    def log_probs(self, tokens, state):
        time.sleep(60)


class Hungry(Uniform):
    def log_probs(self, tokens, state):
        self.held = np.ones(1 << 30)
        return super().log_probs(tokens, state)


def _try_to_read(path):
    with contextlib.suppress(OSError):
        Path(path).read_bytes()
