"""Few-shot sentiment on NSMC (Naver Sentiment Movie Corpus) by comparing how likely two continuations are.

A prompt is some reviews, each with ` (긍정)` or ` (부정)` behind it, then the review to judge; the likelier continuation is
the answer (as lm-evaluation-harness's task nsmc, HyperCLOVA's protocol with fewer shots).
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.errors import DataError
from hyperclova_core.tokens.special_tokens import EOD_ID
from hyperclova_core.tokens.tokenizer.tokenizer import Tokenizer
from hyperclova_core.training.model.gpt import WholeModel

ANSWERS = (" (부정)", " (긍정)")


@dataclass(frozen=True)
class Review:
    """One labelled review; label 0 is negative, 1 positive."""

    text: str
    label: int


@dataclass(frozen=True)
class Accuracy:
    """Mean accuracy over prompt sets, each on the same reviews, with Wilson's 95 % interval for that many reviews."""

    accuracy: float
    low: float
    high: float
    reviews: int
    shots: int
    by_set: tuple[float, ...]


def read_reviews(path: str) -> list[Review]:
    """Reviews of a TSV file with the columns id, document, label; those without text are left out (NSMC has some).

    Raises:
        DataError: the file is missing or is not NSMC's format.
    """
    if not storage.exists(path):
        raise DataError(
            "An evaluation file is missing",
            where=path,
            why="no such file",
            remedy="give a TSV file with the columns id, document, label",
        )
    reviews = []
    raw = Path(storage.localized(path)).read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        try:
            text = raw.decode("cp949")
        except UnicodeDecodeError:
            raise DataError(
                "An evaluation file is neither UTF-8 nor CP949",
                where=path,
                why=f"byte {error.start} is 0x{raw[error.start]:02x}",
                remedy="save it as UTF-8",
            ) from None
    with io.StringIO(text, newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        if not rows.fieldnames or not {"document", "label"} <= set(rows.fieldnames):
            raise DataError(
                "An evaluation file is not in NSMC's format",
                where=path,
                why=f"its first line is {rows.fieldnames}",
                remedy="the first line must be: id, document, label (tabs between)",
            )
        for number, row in enumerate(rows, start=2):
            if row["label"] not in ("0", "1"):
                raise DataError(
                    "A label is neither 0 nor 1",
                    where=f"{path}:{number}",
                    why=f"it is {row['label']!r}",
                    remedy="correct the line",
                )
            if (row["document"] or "").strip():
                reviews.append(Review(row["document"].strip(), int(row["label"])))
    return reviews


def evaluate(
    model: WholeModel,
    tokenizer: Tokenizer,
    shots: Sequence[Review],
    test: Sequence[Review],
    count: int,
    sets: int,
    seed: int,
) -> Accuracy:
    """Accuracy with `count` shots a prompt, as many as the context holds, balanced between labels and drawn by seed."""
    by_set = []
    used = 0
    for number in range(sets):
        prompt, used = _prompt(tokenizer, shots, test, count, model.sequence_length, seed + number)
        right = [_answer(model, tokenizer, prompt, review) == review.label for review in test]
        by_set.append(sum(right) / len(right))
    mean = sum(by_set) / len(by_set)
    low, high = wilson(mean, len(test))
    return Accuracy(
        round(mean, 4), round(low, 4), round(high, 4), len(test), used, tuple(round(value, 4) for value in by_set)
    )


def wilson(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval (1927)."""
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return max(0.0, middle - half), min(1.0, middle + half)


def _prompt(
    tokenizer: Tokenizer, shots: Sequence[Review], test: Sequence[Review], count: int, sequence_length: int, seed: int
) -> tuple[list[int], int]:
    generator = np.random.Generator(np.random.PCG64(seed))
    order = generator.permutation(len(shots))
    pools = {label: [int(index) for index in order if shots[int(index)].label == label] for label in (0, 1)}
    room = sequence_length - 1 - max(len(tokenizer.encode(review.text + ANSWERS[1])) for review in test)
    ids: list[int] = [EOD_ID]
    used = 0
    for turn in range(count):
        pool = pools[turn % 2]
        if not pool:
            break
        review = shots[pool.pop(0)]
        line = tokenizer.encode(review.text + ANSWERS[review.label] + "\n")
        if len(ids) + len(line) > room:
            continue
        ids += line
        used += 1
    return ids, used


@torch.no_grad()
def _answer(model: WholeModel, tokenizer: Tokenizer, prompt: list[int], review: Review) -> int:
    body = tokenizer.encode(review.text)
    scores = []
    for answer in ANSWERS:
        tail = tokenizer.encode(answer)
        ids = (prompt + body + tail)[-model.sequence_length :]
        logits = model(torch.tensor([ids[:-1]]))[0, -len(tail) :]
        scores.append(float(torch.log_softmax(logits.float(), -1)[torch.arange(len(tail)), torch.tensor(tail)].sum()))
    return int(scores[1] > scores[0])
