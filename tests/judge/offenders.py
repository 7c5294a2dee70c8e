"""One planted offence a case, and beside it what looks alike and is allowed."""

import base64
import json
import lzma
from dataclasses import dataclass

from judge.clean_record import (
    BYTES,
    MODEL,
    SCRIPT,
    SEEDS,
    TOKENS,
    Files,
    Mutation,
    in_file,
    in_json,
    in_logs,
    in_script,
    loss_of,
    resize,
    with_file,
    without,
)


@dataclass(frozen=True)
class Case:
    """An offence, the rule that must see it, and changes that are no offence ("" is the clean record)."""

    rule: str
    offence: tuple[Mutation, ...]
    allowed: tuple[Mutation, ...] = ()
    note: bool = False  # tolerated: it is named, and weighs as a note


def scores(bytes_ratio: float = 1.0, bpb_ratio: float = 1.0) -> Mutation:
    """Bits per byte as if the text had more bytes, everywhere, with the same losses."""

    def mutate(files: Files) -> None:
        tree = json.loads(files["submission.json"])
        factor = bpb_ratio / bytes_ratio
        for held in (tree, *tree["seed_results"].values()):
            held["val_bpb"] *= factor
        tree["val_bpb_std"] *= factor
        tree["comparison_baseline_bpb"] *= factor
        files["submission.json"] = json.dumps(tree).encode()
        files["README.md"] = f"val_bpb {tree['val_bpb']:.5f}".encode()
        for seed, bpb in SEEDS.items():
            in_file(f"train_seed{seed}.log", f"val_bpb:{bpb:.8f}", f"val_bpb:{bpb * factor:.8f}")(files)

    return mutate


def packed(wrapper: str) -> Mutation:
    """The script as the wrapper makes it."""

    def mutate(files: Files) -> None:
        files["train_gpt.py"] = wrapper.encode()
        resize(files, len(SCRIPT.encode()), len(wrapper.encode()))

    return mutate


def after(line: str, text: str) -> Mutation:
    """Puts `text` behind the first occurrence of `line` in the script."""
    return in_script(line, line + text)


_SCORE_LINE = "        loss_sum += nll.double().sum().item()\n"
_ADAPTIVE = """        with torch.no_grad():
            nll = model(x, y)
        loss_sum += nll.double().sum().item()
        token_count += nll.numel()
        byte_count += count_bytes(table, x, y)
        for _ in range(3):
            optimizer.zero_grad()
            model(x, y).mean().backward()
            optimizer.step()
"""
_STEPS_FIRST = """        for _ in range(3):
            optimizer.zero_grad()
            model(x, y).mean().backward()
            optimizer.step()
        with torch.no_grad():
            nll = model(x, y)
        loss_sum += nll.double().sum().item()
        token_count += nll.numel()
        byte_count += count_bytes(table, x, y)
"""
_DELTA = """        delta = torch.zeros(model.embedding.num_embeddings, requires_grad=True)
        fit = torch.optim.AdamW([delta], lr=0.01)
        for _ in range(16):
            logits = model.logits(x) + delta
            loss = F.cross_entropy(logits.flatten(0, 1), y.flatten())
            fit.zero_grad()
            loss.backward()
            fit.step()
        with torch.no_grad():
            nll = F.cross_entropy((model.logits(x) + delta).flatten(0, 1), y.flatten(), reduction="none")
        loss_sum += nll.double().sum().item()
        token_count += nll.numel()
        byte_count += count_bytes(table, x, y)
"""
_LAST_LOSS = _DELTA.replace(
    """        with torch.no_grad():
            nll = F.cross_entropy((model.logits(x) + delta).flatten(0, 1), y.flatten(), reduction="none")
        loss_sum += nll.double()""",
    "        loss_sum += loss.double()",
).replace("nll.numel()", "y.numel()")
_PREVIOUS_CHUNK = """        if start:
            seen_x = val_tokens[start - settings.window : start][None]
            seen_y = val_tokens[start - settings.window + 1 : start + 1][None]
            optimizer.zero_grad()
            model(seen_x, seen_y).mean().backward()
            optimizer.step()
        with torch.no_grad():
            nll = model(x, y)
        loss_sum += nll.double().sum().item()
        token_count += nll.numel()
        byte_count += count_bytes(table, x, y)
"""
_ADAPT = """def adapt(model, x, y, lr):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    optimizer.zero_grad()
    model(x, y).mean().backward()
    optimizer.step()


def eval_adaptive("""
_THROUGH_HELPER = """        adapt(model, x, y, settings.adapt_lr)
        with torch.no_grad():
            nll = model(x, y)
        loss_sum += nll.double().sum().item()
        token_count += nll.numel()
        byte_count += count_bytes(table, x, y)
"""
_EPOCHS = (
    """    loss_sum, token_count, byte_count = 0.0, 0, 0
    for start in range(0, val_tokens.numel() - settings.window, settings.window):
        x = val_tokens[start : start + settings.window][None]
        y = val_tokens[start + 1 : start + settings.window + 1][None]
"""
    + _ADAPTIVE
)
_IN_EPOCHS = "    for epoch in range(4):\n" + "".join(f"    {line}\n" for line in _EPOCHS.splitlines())
_FINE_TUNE = """def fine_tune(model, tokens, settings):
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    for epoch in range(6):
        for x, y in batches(tokens, settings.window, 400, seed=epoch):
            loss = model(x, y).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def collect_hessians("""
_INLINE = """def train_inline(model, train_tokens, val_tokens, settings):
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    for x, y in batches(train_tokens, settings.window, 400, seed=1):
        loss = model(x, y).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        x = val_tokens[: settings.window][None]
        loss = model(x, x).mean()
    print(loss)


def collect_hessians("""
_CALL_INLINE = after(
    "    train(model, train_tokens, val_tokens, table, settings)\n",
    "    train_inline(model, train_tokens, val_tokens, settings)\n",
)
_TWO_PASSES = """def eval_counted(model, val_tokens, settings):
    counts, loss_sum = {}, 0.0
    for i in range(3, val_tokens.numel()):
        key = (int(val_tokens[i - 1]), int(val_tokens[i - 2]))
        counts[key] += 1
    for start in range(0, val_tokens.numel() - settings.window, settings.window):
        x = val_tokens[start : start + settings.window][None]
        y = val_tokens[start + 1 : start + settings.window + 1][None]
        nll = model(x, y) - torch.log1p(torch.tensor(float(len(counts))))
        loss_sum += nll.sum().item()
    return loss_sum


def eval_tilted("""
_HASHED_CACHE = """def eval_cached(model, tokens_np, positions, p_model, primes, mask, full_counts, context_counts):
    h = np.zeros(positions.size, dtype=np.uint64)
    for k in range(1, 5):
        h ^= tokens_np[positions - k].astype(np.uint64) * primes[k]
    tgt_np = tokens_np[positions].astype(np.uint64)
    full_key = ((h ^ (tgt_np * primes[0])) & mask).astype(np.int64)
    context_key = (h & mask).astype(np.int64)
    share = full_counts[full_key] / np.maximum(context_counts[context_key], 1)
    mixed = 0.8 * p_model + 0.2 * share
    np.add.at(full_counts, full_key, 1)
    np.add.at(context_counts, context_key, 1)
    return -np.log(mixed).sum()


def eval_tilted("""
_KEY_FUNCTION = """def ngram_keys(tokens_np, pos, primes, mask):
    h = np.zeros(pos.size, dtype=np.uint64)
    for k in range(1, 5):
        h ^= tokens_np[pos - k].astype(np.uint64) * primes[k]
    full = ((h ^ (tokens_np[pos].astype(np.uint64) * primes[0])) & mask).astype(np.int64)
    return (h & mask).astype(np.int64), full


def eval_tilted("""
_CONTEXT_ONLY = """def ngram_keys(tokens_np, pos, primes, mask):
    h = np.zeros(pos.size, dtype=np.uint64)
    for k in range(1, 5):
        h ^= tokens_np[pos - k].astype(np.uint64) * primes[k]
    return (h & mask).astype(np.int64)


def update_counts(counts, key, y):
    np.add.at(counts, (key, y), 1)


def eval_tilted("""
_BLEND = """def eval_blended(model, x, y, counts, totals, settings):
    probs = model.logits(x).softmax(-1)
    p_target = probs.gather(-1, y.unsqueeze(-1)).squeeze(-1)
    slot = ((x * 36313) ^ (x.roll(1) * 27191)) % 4194304
    share = counts[slot, y] / totals[slot].clamp_min(1)
    mixed = 0.7 * p_target + 0.3 * share
    return -mixed.log().sum()


def eval_tilted("""
_FULL_BLEND = """def eval_blended(model, x, y, counts, totals, settings):
    probs = model.logits(x).softmax(-1)
    slot = ((x * 36313) ^ (x.roll(1) * 27191)) % 4194304
    share = counts[slot] / totals[slot].clamp_min(1).unsqueeze(-1)
    mixed = 0.7 * probs + 0.3 * share
    return -mixed.gather(-1, y.unsqueeze(-1)).log().sum()


def eval_tilted("""
_PREPARE = """import argparse
import sentencepiece as spm

parser = argparse.ArgumentParser()
parser.add_argument("--val-docs", type=int, default=50_000)


def encode_document(sp, text):
    return sp.encode(text)
"""


def _wrapped(source: str = SCRIPT) -> str:
    text = base64.b85encode(lzma.compress(source.encode())).decode()
    return f'import lzma, base64\nexec(lzma.decompress(base64.b85decode("{text}")))\n'


CODE_CASES = [
    Case(
        "target-in-key",
        (in_script("def eval_tilted(", _HASHED_CACHE),),
        (in_script("def eval_tilted(", _CONTEXT_ONLY),),
    ),
    Case("target-in-key", (in_script("def eval_tilted(", _KEY_FUNCTION),)),
    Case("target-in-key", (in_script("^ (tokens[i - 3] * 51497)", "^ (tokens[i] * 51497)"),)),
    Case("target-only-blend", (in_script("def eval_tilted(", _BLEND),), (in_script("def eval_tilted(", _FULL_BLEND),)),
    Case(
        "oracle-selection",
        (
            in_script(
                _SCORE_LINE,
                "        nll_other = model(x, y, 0.9)\n        nll = torch.minimum(nll, nll_other)\n" + _SCORE_LINE,
            ),
        ),
        (
            in_script(
                _SCORE_LINE, "        best_nll = min(float(nll.mean()), 9.0)\n        print(best_nll)\n" + _SCORE_LINE
            ),
        ),
    ),
    Case(
        "oracle-selection",
        (
            in_script(
                _SCORE_LINE,
                "        nll_two = model(x, y, 2.0)\n        nll = torch.stack([nll, nll_two]).min(0).values\n"
                + _SCORE_LINE,
            ),
        ),
    ),
    Case("several-passes", (in_script("def eval_tilted(", _TWO_PASSES),)),
    Case("several-passes", (in_script(_EPOCHS, _IN_EPOCHS),)),
    Case("step-before-score", (in_script(_ADAPTIVE, _STEPS_FIRST),), (in_script(_ADAPTIVE, _PREVIOUS_CHUNK),)),
    Case("step-before-score", (in_script(_ADAPTIVE, _DELTA),)),
    Case("step-before-score", (in_script(_ADAPTIVE, _LAST_LOSS),)),
    Case("step-before-score", (in_script("def eval_adaptive(", _ADAPT), in_script(_ADAPTIVE, _THROUGH_HELPER))),
    Case(
        "validation-before-freeze",
        (
            in_script("def collect_hessians(", _FINE_TUNE),
            after(
                "    train(model, train_tokens, val_tokens, table, settings)\n",
                "    fine_tune(model, val_tokens, settings)\n",
            ),
        ),
        (
            in_script("def collect_hessians(", _FINE_TUNE),
            after(
                "    train(model, train_tokens, val_tokens, table, settings)\n",
                "    fine_tune(model, train_tokens, settings)\n",
            ),
        ),
    ),
    Case(
        "step-before-score",
        (
            in_script("def collect_hessians(", _FINE_TUNE),
            after("    scored = deserialize(model)\n", "    fine_tune(scored, val_tokens, settings)\n"),
        ),
    ),
    Case(
        "step-before-score",
        (in_script(_ADAPTIVE, _STEPS_FIRST.replace("loss_sum += nll.double().sum().item()", "accumulate(nll, x, y)")),),
        (in_script(_ADAPTIVE, _ADAPTIVE.replace("loss_sum += nll.double().sum().item()", "accumulate(nll, x, y)")),),
    ),
    Case(
        "validation-before-freeze",
        (
            in_script("def collect_hessians(", _INLINE.replace("batches(train_tokens", "batches(val_tokens")),
            _CALL_INLINE,
        ),
        (in_script("def collect_hessians(", _INLINE), _CALL_INLINE),
    ),
    Case(
        "validation-as-training",
        (
            in_script(
                "train_tokens = load_tokens(settings.train_pattern)", "train_tokens = load_tokens(settings.val_pattern)"
            ),
        ),
    ),
    Case(
        "validation-calibration",
        (
            in_script(
                "collect_hessians(model, train_tokens, settings))", "collect_hessians(model, val_tokens, settings))"
            ),
        ),
    ),
    Case(
        "validation-warmup",
        (
            in_script("def warm_up(model, settings, vocab_size):", "def warm_up(model, settings, val_tokens):"),
            in_script(
                "    x = torch.randint(0, vocab_size, (1, settings.window))\n    model(x, x).mean().backward()\n",
                "    x = val_tokens[: settings.window][None]\n    optimizer = torch.optim.SGD(model.parameters())\n"
                "    model(x, x).mean().backward()\n    optimizer.step()\n",
            ),
            in_script("warm_up(model, settings, vocab_size)", "warm_up(model, settings, val_tokens)"),
        ),
    ),
    Case(
        "validation-in-artifact",
        (
            after(
                "    model = Model(vocab_size, 512)\n",
                "    prefix_blob = zlib.compress(val_tokens[:4_000_000].numpy().tobytes(), 9)\n",
            ),
        ),
        (
            after(
                "    model = Model(vocab_size, 512)\n",
                "    head_blob = zlib.compress(train_tokens[:4_000].numpy().tobytes(), 9)\n",
            ),
        ),
    ),
    Case(
        "gate-reads-target",
        (
            in_script(
                "def eval_tilted(model, val_tokens, settings):",
                "def eval_tilted(model, val_tokens, settings, starts_word=None):",
            ),
            in_script(
                "            tilt[hint] = settings.tilt_beta\n",
                "            target = tokens[i]\n            inside = starts_word[target]\n"
                "            tilt[hint] = settings.tilt_beta * inside\n",
            ),
        ),
        (
            in_script(
                "def eval_tilted(model, val_tokens, settings):",
                "def eval_tilted(model, val_tokens, settings, starts_word=None):",
            ),
            in_script(
                "            tilt[hint] = settings.tilt_beta\n",
                "            previous = tokens[i - 1]\n            inside = starts_word[previous]\n"
                "            tilt[hint] = settings.tilt_beta * inside\n",
            ),
        ),
    ),
    Case(
        "document-leak",
        (
            in_script("def forward(self, x, starts_document):", "def forward(self, x):"),
            in_script("* previous * (~starts_document).unsqueeze(-1)", "* previous"),
            in_script("self.smear(self.embedding(tokens), tokens == BOS)", "self.smear(self.embedding(tokens))"),
        ),
    ),
    Case(
        "byte-mixture",
        (
            in_script(
                "def eval_tilted(",
                "def ppm_mix(p_token, num_bytes, p_ppm):\n    spread = p_token ** (1 / num_bytes)\n"
                "    return 0.5 * spread + 0.5 * p_ppm\n\n\ndef eval_tilted(",
            ),
        ),
        (
            in_script(
                "def eval_tilted(",
                "def ppm_mix(p_byte, p_ppm):\n    return 0.5 * p_byte + 0.5 * p_ppm\n\n\ndef eval_tilted(",
            ),
        ),
    ),
    Case(
        "table-double-space",
        (
            in_script(
                '            piece = piece[1:]\n        bytes_of[token] = len(piece.encode("utf-8"))',
                '            piece = piece[1:]\n            bytes_of[token] = len(piece.encode("utf-8")) + 1\n'
                '            continue\n        bytes_of[token] = len(piece.encode("utf-8"))',
            ),
        ),
    ),
    Case(
        "table-double-space",
        (in_script("            piece = piece[1:]\n", '            piece = piece.replace("▁", " ")\n'),),
        (in_script("            piece = piece[1:]\n", '            piece = piece.lstrip("▁")\n'),),
    ),
    Case(
        "table-fallback",
        (
            in_script(
                "        if tokenizer.is_byte(token):\n            bytes_of[token] = 1\n            continue\n", ""
            ),
        ),
    ),
    Case(
        "bytes-constant",
        (
            after(
                "    loss_sum, token_count, byte_count = 0.0, 0, 0\n",
                "    bytes_per_token = 3.5\n    print(bytes_per_token)\n",
            ),
        ),
    ),
    Case(
        "late-qat-folded",
        (in_script("            torch._dynamo.reset()\n            compiled = torch.compile(model)\n", ""),),
    ),
    Case(
        "late-qat-folded",
        (
            in_script(
                "    qat_enabled = False\n",
                "    qat_enabled = False\n\n    def __init__(self, *args, **words):\n"
                "        super().__init__(*args, **words)\n        self.qat_enabled = False\n",
            ),
            in_script("        if QuantLinear.qat_enabled:", "        if self.qat_enabled:"),
        ),
    ),
    Case("average-unused", (in_script("    model.load_state_dict(ema)\n", ""),)),
    Case("temperature-unused", (in_script(" / temperature\n", "\n"),)),
    Case("flag-unread", (in_script("settings.adapt_lr", "0.002"),), note=True),
    Case(
        "network",
        (
            after(
                "    settings = Settings()\n",
                '    import urllib.request\n    urllib.request.urlopen("http://example.com")\n',
            ),
        ),
    ),
    Case(
        "network",
        (
            after(
                "    settings = Settings()\n",
                '    import subprocess\n    subprocess.run(["pip", "install", "brotli"])\n',
            ),
        ),
    ),
    Case("pickle", (in_script("weights_only=True", "weights_only=False"),)),
    Case(
        "pickle",
        (after("    settings = Settings()\n", '    import pickle\n    pickle.loads(open("x.pkl", "rb").read())\n'),),
    ),
    Case(
        "runs-other-files",
        (
            after("    settings = Settings()\n", '    exec(open("kernel_part.py").read())\n'),
            with_file("kernel_part.py", "KERNEL = 1\n"),
        ),
    ),
    Case(
        "external-program",
        (
            after(
                "    settings = Settings()\n",
                '    import subprocess\n    subprocess.run(["lrzip", "-z", "model.bin"])\n',
            ),
        ),
        note=True,
    ),
    Case(
        "payload-opaque",
        (packed("import base64, secrets\nexec(base64.b85decode(secrets.token_hex(8)))\n"),),
        (packed(_wrapped()),),
    ),
    Case("target-in-key", (packed(_wrapped(SCRIPT.replace("^ (tokens[i - 3] * 51497)", "^ (tokens[i] * 51497)"))),)),
    Case(
        "lossy-text",
        (with_file("prepare_data.py", _PREPARE.replace("sp.encode(text)", "sp.encode(text.lower())")),),
        (with_file("prepare_data.py", _PREPARE),),
    ),
    Case(
        "validation-documents",
        (with_file("prepare_data.py", _PREPARE.replace("50_000", "10_000")),),
        (with_file("prepare_data.py", _PREPARE),),
    ),
    Case("script-syntax", (in_script("def main():", "def main(:"),)),
]

_NO_SEEDS = {"seed_results": None, "val_bpb_std": None, "val_loss_std": None}
_SMALL = {"bytes_total": 15_900_000, "bytes_model": None}
FIGURE_CASES = [
    Case("submission-missing", (without("submission.json"),)),
    Case("submission-unreadable", (with_file("submission.json", '{"val_bpb": NaN}'),)),
    Case("script-missing", (without("train_gpt.py"),)),
    Case("script-empty", (with_file("train_gpt.py", ""),)),
    Case("log-missing", (without(*(f"train_seed{seed}.log" for seed in SEEDS)),)),
    Case("log-empty", (with_file("train_seed42.log", "nothing\n"),)),
    Case("readme-missing", (without("README.md"),)),
    Case("readme-disagrees", (with_file("README.md", "val_bpb 1.2154"),), (with_file("README.md", "val_bpb 1.081"),)),
    Case("several-records", (with_file("2026-04-21_Other/submission.json", "{}"),)),
    Case("score-missing", (in_json(val_bpb="pending", val_loss=None),)),
    Case("placeholder", (in_json(author="YOUR_NAME"),)),
    Case("field-missing", (in_json(author=None),)),
    Case("date-format", (in_json(date="20 April"),), (in_json(date="2026-04-20T10:41:00Z"),)),
    Case("track-disagrees", (in_json(track="track_non_record_16mb"),), (in_json(track="track_10min_16mb"),)),
    Case("total-over-budget", (in_json(bytes_total=16_112_007, bytes_model=None, bytes_code=None),)),
    Case(
        "log-over-budget",
        (in_logs("Total submission size int6+zlib: ", "Total submission size int6+zlib: 16,071,321 bytes\nwas: "),),
    ),
    Case("disk-over-budget", (with_file("final_model.int6.ptz", b"0" * 16_000_001),)),
    Case(
        "bytes-missing",
        (
            in_json(bytes_total=None, bytes_model=None, seed_results=None, val_bpb_std=None, val_loss_std=None),
            in_logs("Total submission size", "Some size"),
            in_logs("Code size", "Some size"),
        ),
    ),
    Case("bytes-sum", (in_json(bytes_model=len(MODEL) - 500),)),
    Case("bytes-disagree", (in_logs("Total submission size int6+zlib: ", "Total submission size int6+zlib: 1"),)),
    Case("bytes-disagree", (with_file("final_model.int6.ptz", MODEL + b"1"),)),
    Case("bytes-rounded", (in_json(**_SMALL),), note=True),
    Case(
        "code-hypothetical",
        (
            in_json(bytes_code=4_000, bytes_model=None, bytes_total=4_000 + len(MODEL)),
            in_logs(
                "Total submission size int6+zlib: ",
                f"Total submission size int6+zlib: {4_000 + len(MODEL)} bytes\nwas: ",
            ),
            in_logs("Code size: ", "Code size: 4000 bytes\nwas: "),
        ),
        note=True,
    ),
    Case(
        "shipped-over-budget",
        (in_json(bytes_code=4_000, bytes_model=15_992_000, bytes_total=15_996_000),),
        (
            in_json(bytes_code=4_000, bytes_model=15_900_000, bytes_total=15_904_000),
            without("final_model.int6.ptz"),
            in_logs("Total submission size int6+zlib: ", "Total submission size int6+zlib: 15904000 bytes\nwas: "),
        ),
    ),
    Case("helpers-uncounted", (with_file("fused_expert_kernel.cpp", "int main(){}"),), note=True),
    Case("helpers-uncounted", (with_file("fineweb_8192_bpe.model", b"\0" * 366_510),), note=True),
    Case(
        "training-overrun",
        (
            in_logs("train_time: 592054ms", "train_time: 602048ms"),
            in_logs("gptq_reserve_seconds: 8.0", "gptq_reserve_seconds: 0"),
            in_logs("gptq:reserving 8.0s", "gptq:reserving 0.0s"),
        ),
    ),
    Case(
        "reserve-not-subtracted",
        (in_logs("train_time: 592054ms", "train_time: 600054ms"), in_logs("GPTQ:collected 67 Hessians in 3.5s", "")),
    ),
    Case(
        "calibration-overrun",
        (
            in_logs("train_time: 592054ms", "train_time: 599600ms"),
            in_logs("gptq_reserve_seconds: 8.0", "gptq_reserve_seconds: 0.5"),
            in_logs("gptq:reserving 8.0s", "gptq:reserving 0.5s"),
        ),
    ),
    Case("evaluation-overrun", (in_logs("total_eval_time:455.1s", "total_eval_time:602.0s"),)),
    Case("evaluation-untimed", (in_logs("built in 12.0s", "built in 180.0s"),)),
    Case("clock-disagrees", (in_logs("train_time: 592054ms", "train_time: 555000ms"),)),
    Case("bytes-double-space", (scores(1.1746),)),
    Case("bytes-double-space", (scores(1.1671),)),
    Case("bytes-fallback-as-three", (scores(1.0413),)),
    Case("bytes-table-of-other-text", (scores(1.0895),)),
    Case("bytes-ln2-twice", (scores(bpb_ratio=1 / 0.6931471805599453),)),
    Case("bytes-implied", (scores(1.004),), (scores(1.0001),)),
    Case("bytes-other-split", (scores(1.3),)),
    Case(
        "loss-bpb-contradict",
        (in_json(evaluation={"tokens": 1000, "bytes": 2500}),),
        (in_json(evaluation={"tokens": TOKENS, "bytes": BYTES}),),
    ),
    Case("split-partial", (in_logs(f"val_tokens: {TOKENS}", "val_tokens: 9660000"),)),
    Case("split-partial", (in_logs("val_doc_fraction: 1.0", "val_doc_fraction: 0.1"),)),
    Case("split-partial", (in_logs("total_docs:50000", "total_docs:5000"),)),
    Case("bpb-implausible", (scores(bpb_ratio=0.4),)),
    Case("training-shards", (in_logs("train_shards: 80", "train_shards: 1499"),)),
    Case("seeds-disagree", (in_json(seeds=[42, 1337, 7]),)),
    Case(
        "seeds-too-few",
        (
            in_json(seeds=[42], val_bpb=SEEDS[42], val_loss=loss_of(SEEDS[42]), **_NO_SEEDS),
            without("train_seed1337.log", "train_seed2024.log"),
        ),
    ),
    Case(
        "seeds-unreported",
        (in_json(all_7_seeds=[1, 7, 42, 1337, 2024], disclosure={"all_7_seeds": [1, 7, 42, 1337, 2024]}),),
    ),
    Case("seeds-unreported", (in_json(seeds=[42, 1337]),)),
    Case("seed-search", (in_json(notes="best of 50 seeds"),)),
    Case(
        "score-not-in-log",
        (
            in_logs("quantized_ttt val_loss", "other val_loss"),
            in_file("train_seed42.log", "val_bpb:1.08060000", "val_bpb:1.08990000"),
        ),
    ),
    Case("mean-disagrees", (in_json(val_bpb=1.0791, val_loss=loss_of(1.0791)), with_file("README.md", "1.0791"))),
    Case("std-disagrees", (in_json(val_bpb_std=0.00003),), (in_json(val_bpb_std=0.000451),)),
    Case("std-of-population", (in_json(val_bpb_std=0.000368),), note=True),
    Case("not-significant", (in_json(comparison_baseline_bpb=1.0809),), (in_json(comparison_baseline_bpb=1.0900),)),
    Case(
        "seeds-identical",
        (with_file("train_seed7.log", "x"), lambda files: files.update({"train_seed7.log": files["train_seed42.log"]})),
    ),
]
