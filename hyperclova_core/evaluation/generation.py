"""Going on with texts: temperature, top-k, top-p, in batches of prompts of any length, with keys and values kept.

Each prompt draws from a generator of its own, seeded by (seed, its text): what it becomes does not depend on its neighbours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from hyperclova_core.foundation.errors import ConfigError
from hyperclova_core.tokens.special_tokens import EOD_ID
from hyperclova_core.tokens.tokenizer.tokenizer import Tokenizer
from hyperclova_core.training.model.gpt import Block, WholeModel
from hyperclova_core.training.model.tensor_parallel import project

STOPPED, MARK, FULL, LENGTH = "stop text", "end of document", "context is full", "max tokens"
BATCH = 32


@dataclass(frozen=True)
class Sampling:
    """How to draw.

    Args:
        temperature: 0 takes the likeliest; top_k: of so many likeliest, 0 of all; top_p: of the fewest that have so much probability.
        stops: texts that end a continuation; they are not part of it.
    """

    max_tokens: int = 64
    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    stops: tuple[str, ...] = ()


@dataclass(frozen=True)
class Continuation:
    """A prompt, what the model wrote, how many tokens that is, and why it ended."""

    prompt: str
    text: str
    tokens: int
    reason: str


class Cache:
    """Keys and values of what was read: two tensors a block, of shape (batch, heads, places, head width)."""

    def __init__(self, blocks: int) -> None:
        self.keys: list[torch.Tensor | None] = [None] * blocks
        self.values: list[torch.Tensor | None] = [None] * blocks

    def add(self, block: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Append; all of the block's keys and values."""
        old_key, old_value = self.keys[block], self.values[block]
        if old_key is not None and old_value is not None:
            key, value = torch.cat([old_key, key], 2), torch.cat([old_value, value], 2)
        self.keys[block], self.values[block] = key, value
        return key, value

    def keep(self, rows: torch.Tensor) -> None:
        """Leave only some rows of the batch."""
        self.keys = [None if key is None else key[rows] for key in self.keys]
        self.values = [None if value is None else value[rows] for value in self.values]


@torch.no_grad()
def read_on(model: WholeModel, ids: torch.Tensor, padding: torch.Tensor, before: int, cache: Cache) -> torch.Tensor:
    """Logits of the last place after reading ids (batch, tokens) behind `before` places that the cache holds.

    Args:
        padding: places at the left of each row that are no text, of shape (batch,).
    """
    places = before + torch.arange(ids.size(1))
    own = (places[None, :] - padding[:, None]).clamp(min=0)
    everything = torch.arange(before + ids.size(1))
    mask = (everything[None, None, :] <= places[None, :, None]) & (everything[None, None, :] >= padding[:, None, None])
    # a row of padding sees itself, or its softmax would be over nothing
    mask = mask | (everything[None, None, :] == places[None, :, None])
    x = model.embedding(ids) + model.positions.weight[own]
    for number, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        query, key, value = (
            part.view(*ids.shape, block.heads, block.head_width).transpose(1, 2)
            for part in block.qkv(block.ln1(x)).chunk(3, -1)
        )
        key, value = cache.add(number, key, value)
        attended = F.scaled_dot_product_attention(query, key, value, mask[:, None])
        x = x + block.proj(attended.transpose(1, 2).reshape(*ids.shape, -1))
        x = x + block.out(F.gelu(block.fc(block.ln2(x)), approximate="tanh"))
    return project(model.embedding, model.norm(x[:, -1]))


def choose(logits: torch.Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """Draw an id from logits (vocabulary,)."""
    if sampling.temperature == 0:
        return int(logits.argmax())
    probabilities, ids = torch.softmax(logits.double() / sampling.temperature, -1).sort(descending=True, stable=True)
    if sampling.top_k:
        probabilities, ids = probabilities[: sampling.top_k], ids[: sampling.top_k]
    if sampling.top_p < 1:
        before = probabilities.cumsum(0) - probabilities
        kept = max(1, int((before < sampling.top_p * probabilities.sum()).sum()))
        probabilities, ids = probabilities[:kept], ids[:kept]
    # one number a token, whatever the rest of the batch does
    point = torch.rand((), generator=generator, dtype=torch.float64) * probabilities.sum()
    return int(ids[min(int(torch.searchsorted(probabilities.cumsum(0), point, right=True)), len(ids) - 1)])


def generate_ids(
    model: WholeModel,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    seeds: Sequence[int],
    vocabulary: int,
    ended: Callable[[int, list[int]], bool] | None = None,
) -> list[tuple[list[int], str]]:
    """Go on with rows of ids; what was written, and why it ended.

    Args:
        vocabulary: ids from there on are padding and never drawn.
        ended: called with (row, ids so far) after each token; true ends the row.
    """
    longest = max(len(prompt) for prompt in prompts)
    padding = torch.tensor([longest - len(prompt) for prompt in prompts])
    ids = torch.tensor([[EOD_ID] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
    written: list[list[int]] = [[] for _ in prompts]
    reasons = [LENGTH] * len(prompts)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    rows, cache, before = list(range(len(prompts))), Cache(len(model.blocks)), 0
    for _ in range(sampling.max_tokens):
        logits = read_on(model, ids, padding, before, cache)[:, :vocabulary]
        before += ids.size(1)
        following, going = [], []
        for place, row in enumerate(rows):
            token = choose(logits[place], sampling, generators[row])
            if token == EOD_ID:
                reasons[row] = MARK
                continue
            written[row].append(token)
            if ended is not None and ended(row, written[row]):
                reasons[row] = STOPPED
            elif len(prompts[row]) + len(written[row]) >= model.sequence_length:
                reasons[row] = FULL
            else:
                following.append(token)
                going.append(place)
        if not going:
            break
        if len(going) < len(rows):
            kept = torch.tensor(going)
            cache.keep(kept)
            padding, rows = padding[kept], [rows[place] for place in going]
        ids = torch.tensor(following)[:, None]
    return list(zip(written, reasons, strict=True))


def generate_texts(
    model: WholeModel, tokenizer: Tokenizer, prompts: Sequence[str], sampling: Sampling
) -> list[Continuation]:
    """Go on with texts, each of which begins a document.

    Raises:
        ConfigError: a prompt does not leave room in the model's context.
    """
    rows = [[EOD_ID, *tokenizer.encode(prompt)] for prompt in prompts]
    for prompt, row in zip(prompts, rows, strict=True):
        if len(row) >= model.sequence_length:
            raise ConfigError(
                "A prompt is too long",
                where=f"{prompt[:30]!r}…",
                why=f"{len(row)} tokens with the mark before it, the model reads {model.sequence_length}",
                remedy="shorten it",
            )
    found: list[Continuation | None] = [None] * len(prompts)
    # rows of like length together: what is padded is computed for nothing
    order = sorted(range(len(prompts)), key=lambda index: len(rows[index]))
    for start in range(0, len(order), BATCH):
        part = order[start : start + BATCH]
        seeds = [_seed(sampling.seed, prompts[index]) for index in part]

        def ended(row: int, ids: list[int]) -> bool:
            return bool(sampling.stops) and any(stop in tokenizer.decode(ids) for stop in sampling.stops)

        made = generate_ids(model, [rows[index] for index in part], sampling, seeds, tokenizer.vocabulary_size, ended)
        for index, (ids, reason) in zip(part, made, strict=True):
            text = tokenizer.decode(ids)
            for stop in sampling.stops:
                text = text.partition(stop)[0]
            found[index] = Continuation(prompts[index], text, len(ids), reason)
    return [item for item in found if item is not None]


def _seed(seed: int, prompt: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}/{prompt}".encode(), digest_size=7).digest(), "big")
