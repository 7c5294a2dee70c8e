"""A recipe: everything that a run is, as one frozen value.

A recipe file holds one function of its own name that returns a Recipe; a variant is `dataclasses.replace` of another.
Nothing collects the recipes: `load_recipe` imports the one that is asked for.
"""

import hashlib
import importlib
import re
from dataclasses import dataclass, field
from pathlib import Path

from compress.coder import ZSTD22, Coder
from compress.kinds import GridKind
from data.coprime import CoprimeLoader
from data.documents import DocumentsConfig
from data.loader import SequentialLoader
from eval.sliding import EvalConfig
from eval.streaming import StreamConfig
from model.baka.model import BakaConfig
from model.gpt import GPTConfig
from model.pristine.model import PristineConfig
from model.stack import StackConfig
from optim.average import EMAConfig, SWAConfig
from optim.groups import OptimConfig
from optim.trainer import TrainConfig, Trainer
from quantize.plan import Rule
from recipes.by_rate import RateQuantizer
from recipes.override import overridden
from runtime.errors import UserError, nearest


@dataclass(frozen=True)
class DataConfig:
    """`folder` holds the shards; the environment's DATA_PATH and TOKENIZER_PATH say where it is on this machine.

    `loader` makes what orders the training tokens.
    """

    folder: str = "data/datasets/sotu_sp1024"
    loader: type[SequentialLoader] | type[CoprimeLoader] | DocumentsConfig = SequentialLoader


@dataclass(frozen=True)
class PackConfig:
    """What the weights become: a plan of grids, the share of small weights set to zero first (None: off), the bytes.

    `kinds` are storage kinds beyond the basic ones, which every reader knows; a tensor that several of them can store
    takes the smallest form. `quantizer` takes the place of the plan alone.
    """

    plan: tuple[Rule, ...]
    prune: float | None = None
    coder: Coder = ZSTD22
    kinds: tuple[GridKind, ...] = ()
    quantizer: RateQuantizer | None = None
    budget: int = 16_000_000  # bytes of code and model together


@dataclass(frozen=True)
class RecordConfig:
    """Whose record it is and on which track it stands."""

    title: str
    blurb: str
    track: str = "track_non_record_16mb"
    author: str = "Sixteen"
    github_id: str = "sixteen"


@dataclass(frozen=True)
class Recipe:
    """A whole run, tokens in and record out. `name` is the recipe file's; `trainer` runs the steps."""

    name: str
    model: GPTConfig | StackConfig | BakaConfig | PristineConfig
    pack: PackConfig
    record: RecordConfig
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    average: SWAConfig | EMAConfig | None = None
    eval: EvalConfig | StreamConfig = field(default_factory=EvalConfig)
    trainer: type[Trainer] = Trainer


def load_recipe(name: str, overrides: list[str] | tuple[str, ...] = ()) -> Recipe:
    """The recipe `recipes/<name>.py`, with `--path value` overrides applied.

    Raises UserError for an unknown recipe or path (naming the nearest) and for a value of the wrong type.
    """
    known = recipe_names()
    if name not in known:
        raise UserError(f"unknown recipe {name!r}; {nearest(name, known)}")
    module = importlib.import_module(f"recipes.{name}")
    return overridden(getattr(module, name)(), overrides)


def recipe_names() -> list[str]:
    """Every file of recipes/ that holds a function of its own name."""
    folder = Path(__file__).parent
    return sorted(
        path.stem
        for path in folder.glob("*.py")
        if re.search(rf"^def {path.stem}\(\) -> Recipe:", path.read_text(encoding="utf-8"), re.MULTILINE)
    )


def fingerprint(config: object) -> str:
    """Sixteen hexadecimal digits that change when any field of the frozen config does; modules do not matter."""
    spelled = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", repr(config))
    return hashlib.sha256(spelled.encode()).hexdigest()[:16]
