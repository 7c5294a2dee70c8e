"""Short windows first: a curriculum of sequence lengths, by tokens seen.

Every stage trains on the same stream of tokens in the same number a step, cut into shorter rows: a batch [B, T] becomes
[B T / w, w]. So the schedule of the learning rates, the loader, its position and a resumed run know nothing of stages.
"""

from dataclasses import dataclass

from torch import Tensor

from runtime.errors import UserError


@dataclass(frozen=True)
class CurriculumStage:
    """Rows of `window` tokens until the run has seen `tokens`."""

    window: int
    tokens: int


@dataclass(frozen=True)
class Curriculum:
    """Stages in order; after the last one, rows are as long as the training window."""

    stages: tuple[CurriculumStage, ...]

    def check(self, window: int) -> None:
        """Raises UserError unless every stage's window divides `window` and later stages end later."""
        for stage in self.stages:
            if stage.window < 1 or window % stage.window:
                fitting = [size for size in range(1, window + 1) if window % size == 0]
                raise UserError(
                    f"a stage's window must divide the training window = {window}, got {stage.window}; "
                    f"nearest {min(fitting, key=lambda size: abs(size - stage.window))}"
                )
        ends = [stage.tokens for stage in self.stages]
        if sorted(set(ends)) != ends:
            raise UserError(
                f"stages must end one after the other, got ends at {ends} tokens; nearest {sorted(set(ends))}"
            )

    def window_at(self, tokens: int, window: int) -> int:
        """Tokens a row once `tokens` have been seen, in a run whose training window is `window`.

        >>> curriculum = Curriculum((CurriculumStage(128, 1000), CurriculumStage(256, 3000)))
        >>> [curriculum.window_at(tokens, 512) for tokens in (0, 999, 1000, 2999, 3000)]
        [128, 128, 256, 256, 512]
        """
        return next((stage.window for stage in self.stages if tokens < stage.tokens), window)

    def rows(
        self,
        batch: Tensor,  # [B, T]
        tokens: int,
    ) -> Tensor:  # [B * T / w, w], the same tokens in the same order
        """The batch in rows of the present stage."""
        return batch.reshape(-1, self.window_at(tokens, batch.shape[1]))
