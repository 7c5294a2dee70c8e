"""Text from a model, one token at a time, the state carried along."""

import torch
from sentencepiece import SentencePieceProcessor
from torch import Tensor, nn


@torch.inference_mode()
def sample_text(
    model: nn.Module,  # has logits(tokens [B, T], state) -> (logits [B, T, V], state)
    tokenizer: SentencePieceProcessor,
    prompt: str,
    *,
    num_tokens: int = 100,
    temperature: float = 0.8,
    top_k: int | None = 50,  # None: the whole vocabulary
    seed: int = 0,
) -> str:
    """`prompt` and its continuation by `num_tokens` tokens; stops before a new document begins."""
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    ids = [tokenizer.bos_id(), *tokenizer.encode(prompt)]
    fresh, state = torch.tensor([ids], device=device), None
    for _ in range(num_tokens):
        logits, state = model.logits(fresh, state)
        token = draw(logits[0, -1].float().cpu(), temperature, top_k, generator)
        if token == tokenizer.bos_id():
            break
        ids.append(token)
        fresh = torch.tensor([[token]], device=device)
    return tokenizer.decode(ids[1:])


def draw(
    logits: Tensor,  # [V]
    temperature: float,  # 0: the likeliest token
    top_k: int | None,
    generator: torch.Generator,
) -> int:
    """One token id from softmax(logits / temperature) over the `top_k` likeliest."""
    if temperature == 0:
        return int(logits.argmax())
    values, ids = logits.topk(min(top_k or logits.numel(), logits.numel()))
    choice = torch.multinomial(torch.softmax(values / temperature, dim=0), 1, generator=generator)
    return int(ids[choice])
