"""Few-shot scoring on a model that knows the answer, the waterfall's crossings, and honest intervals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hyperclova_core.evaluation.nsmc import ANSWERS, Review, evaluate, read_reviews, wilson
from hyperclova_core.evaluation.waterfall import Curve, crossings, describe, draw, smooth
from hyperclova_core.foundation.errors import DataError
from tests.conftest import ROOT
from tests.tokens.test_tokenizer import TOKENIZER


class Oracle(torch.nn.Module):
    """Gives high probability to the positive answer after a review with 좋 in it, to the negative one otherwise."""

    sequence_length = 96

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(1, ids.size(1), TOKENIZER.padded_vocabulary_size)
        text = TOKENIZER.decode(ids[0].tolist()).rsplit("\n", 1)[-1]
        body = text.split(" (")[0]
        wanted = TOKENIZER.encode(ANSWERS[int("좋" in body)])
        for place, token in enumerate(wanted):
            logits[0, ids.size(1) - len(wanted) + place, token] = 9.0
        return logits


def test_the_likelier_continuation_is_the_answer() -> None:
    shots = [Review("좋은 영화", 1), Review("나쁜 영화", 0)] * 3
    test = [Review("참 좋았다", 1), Review("지루했다", 0), Review("좋다고 하지만 별로", 0), Review("아쉽다", 1)]
    result = evaluate(Oracle(), TOKENIZER, shots, test, 4, 2, seed=0)  # type: ignore[arg-type]
    assert result.accuracy == 0.5
    assert result.by_set == (0.5, 0.5)
    assert result.shots == 4
    assert result.low < 0.5 < result.high


def test_prompts_hold_as_many_shots_as_the_context_allows() -> None:
    shots = [Review("아주 긴 감상평을 여기에 적어 봅니다 " * 3, number % 2) for number in range(8)]
    result = evaluate(Oracle(), TOKENIZER, shots, [Review("좋다", 1)], 8, 1, seed=0)  # type: ignore[arg-type]
    assert 0 <= result.shots < 8


def test_wilsons_interval() -> None:
    low, high = wilson(0.5, 60)
    assert (round(low, 3), round(high, 3)) == (0.377, 0.623)
    assert wilson(1.0, 10)[1] == 1.0


def test_files_in_nsmcs_format(tmp_path: Path) -> None:
    reviews = read_reviews(str(ROOT / "conf" / "demo" / "nsmc_test.tsv"))
    assert len(reviews) == 60
    assert sum(review.label for review in reviews) == 30
    shots = {review.text for review in read_reviews(str(ROOT / "conf" / "demo" / "nsmc_shots.tsv"))}
    assert not shots & {review.text for review in reviews}
    (tmp_path / "a.tsv").write_text('id\tdocument\tlabel\n1\t\t1\n2\t"따옴표\t0\n', encoding="utf-8")
    assert read_reviews(str(tmp_path / "a.tsv")) == [Review('"따옴표', 0)]
    (tmp_path / "b.tsv").write_text("id\tdocument\tlabel\n1\t글\t긍정\n", encoding="utf-8")
    with pytest.raises(DataError, match="neither 0 nor 1") as caught:
        read_reviews(str(tmp_path / "b.tsv"))
    assert caught.value.where.endswith("b.tsv:2")
    (tmp_path / "c.tsv").write_text("text,label\n", encoding="utf-8")
    with pytest.raises(DataError, match="not in NSMC's format"):
        read_reviews(str(tmp_path / "c.tsv"))


def curve(name: str, parameters: int, losses: list[float]) -> Curve:
    tokens = np.arange(1, len(losses) + 1) * 100.0
    return Curve(name, parameters, tokens, tokens * parameters, np.asarray(losses), tokens, np.asarray(losses))


def test_crossings_are_where_the_larger_comes_to_stay_below(tmp_path: Path) -> None:
    small, large = curve("s", 10, [5, 4, 3.5, 3.4]), curve("l", 100, [6, 4.5, 3.4, 2.5])
    never = curve("n", 1000, [7, 7, 7, 7])
    found = {(item["smaller"], item["larger"]): item["tokens"] for item in crossings([large, never, small])}
    assert found["s", "l"] == pytest.approx(200 + 100 * 0.5 / 0.6)
    assert found["s", "n"] is None
    assert "has not passed" in describe(crossings([small, never]))[0]
    draw([small, large, never], str(tmp_path / "figure.png"))
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert smooth(np.asarray([4.0, 4.0, 4.0])).tolist() == pytest.approx([4.0, 4.0, 4.0])
