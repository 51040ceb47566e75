"""Filter: scores of gibberish, repetition, abuse and advertising as signals, then the recipe's thresholds."""

from __future__ import annotations

import pyarrow as pa
from pydantic import Field

from hyperclova_core.foundation.config import Config
from hyperclova_core.foundation.datasets.document_schema import DOCUMENT_SCHEMA
from hyperclova_core.foundation.datasets.manifest import file_checksum
from hyperclova_core.foundation.stages.kinds import StageBatch, StageContext, document_stage
from hyperclova_core.korean import codepoints, text_signals
from hyperclova_core.korean.hangul import comparison_form, hangul_share

SCORE_DECIMALS = 5
"""Scores are rounded, so that the last bit of a logarithm on another machine changes no byte."""


class FilterConfig(Config):
    """Thresholds; a document is dropped for the first that it fails, in the order given here."""

    min_characters: int = Field(10, ge=0)
    max_characters: int = Field(1_000_000, ge=1)
    languages: tuple[str, ...] = Field(("ko",), description="languages kept; empty: all")
    min_hangul_share: float = Field(0.2, ge=0, le=1, description="of the letters, in documents said to be Korean")
    max_gibberish: float = Field(0.35, ge=0)
    max_repetition: float = Field(0.5, ge=0, le=1)
    max_abuse: float = Field(1.0, ge=0, description="words of abuse per hundred letters")
    max_advertising: float = Field(2.5, ge=0, description="advertising phrases per hundred letters")
    model: str | None = Field(
        None, description="folder of `hyperclova quality train`; its labels are dropped from `model_threshold` on"
    )
    model_threshold: float = Field(0.8, gt=0, le=1)
    model_drop: tuple[str, ...] = ("hate", "profanity", "gibberish", "ad")


def _resources(config: FilterConfig) -> dict[str, str]:
    from hyperclova_core.corpus.quality_model import WEIGHTS

    return {"model": file_checksum(f"{config.model}/{WEIGHTS}")} if config.model else {}


def _warm_up(config: FilterConfig) -> None:
    codepoints.prepare()
    _model_scores(["가"], config)


@document_stage("filter", version="2", resources=_resources, warm_up=_warm_up)
def filter_documents(documents: pa.RecordBatch, config: FilterConfig, context: StageContext) -> StageBatch:
    """Score every document, keep those within the thresholds; every drop has one reason."""
    texts: list[str] = documents.column("text").to_pylist()
    languages: list[str | None] = documents.column("language").to_pylist()
    model_scores = _model_scores(texts, config)
    signals, reasons, details = [], [], []
    for text, language, old, from_model in zip(
        texts, languages, documents.column("signals").to_pylist(), model_scores, strict=True
    ):
        scores = score(text)
        reason, detail = judge(text, language, scores, config)
        if not reason and from_model:
            reason, detail = _judge_model(from_model, config)
        signals.append(
            sorted({**dict(old), **scores, **{f"p_{label}": value for label, value in from_model.items()}}.items())
        )
        reasons.append(reason)
        details.append(detail)
    column = pa.array(signals, DOCUMENT_SCHEMA.field("signals").type)
    changed = pa.RecordBatch.from_arrays(
        [column if field.name == "signals" else documents.column(field.name) for field in DOCUMENT_SCHEMA],
        schema=DOCUMENT_SCHEMA,
    )
    drop = [bool(reason) for reason in reasons]
    return StageBatch(
        changed.filter(pa.array([not value for value in drop], pa.bool_())),
        changed.filter(pa.array(drop, pa.bool_())),
        [reason for reason in reasons if reason],
        [detail for detail, value in zip(details, drop, strict=True) if value],
    )


def score(text: str) -> dict[str, float]:
    """Every score of a text, rounded."""
    form = comparison_form(text)
    values = {
        "gibberish": text_signals.gibberish(text),
        "repetition": text_signals.repetition(form),
        "abuse": text_signals.abuse(form),
        "advertising": text_signals.advertising(text, form),
        "hangul_share": hangul_share(text),
    }
    values["quality_raw"] = text_signals.quality(
        text, values["gibberish"], values["repetition"], values["abuse"], values["advertising"]
    )
    return {name: round(value, SCORE_DECIMALS) for name, value in values.items()}


def judge(text: str, language: str | None, scores: dict[str, float], config: FilterConfig) -> tuple[str, str]:
    """(reason, detail) of the first threshold a text fails, or empty strings."""
    if len(text) < config.min_characters:
        return "too_short", f"{len(text)} characters"
    if len(text) > config.max_characters:
        return "too_long", f"{len(text)} characters"
    if scores["gibberish"] > config.max_gibberish:
        return "gibberish", f"gibberish {scores['gibberish']}"
    if config.languages and (language or "und") not in config.languages:
        return "other_language", f"language {language}"
    if language == "ko" and scores["hangul_share"] < config.min_hangul_share:
        return "little_hangul", f"hangul_share {scores['hangul_share']}"
    for name, reason in (("repetition", "repetitive"), ("abuse", "abuse"), ("advertising", "advertising")):
        if scores[name] > getattr(config, f"max_{name}"):
            return reason, f"{name} {scores[name]}"
    return "", ""


def _model_scores(texts: list[str], config: FilterConfig) -> list[dict[str, float]]:
    if not config.model:
        return [{} for _ in texts]
    from hyperclova_core.corpus.quality_model import QualityModel

    labels, scores = QualityModel.load(config.model).predict(texts)
    return [
        {label: round(float(value), SCORE_DECIMALS) for label, value in zip(labels, row, strict=True)} for row in scores
    ]


def _judge_model(scores: dict[str, float], config: FilterConfig) -> tuple[str, str]:
    for label in config.model_drop:
        if scores.get(label, 0.0) >= config.model_threshold:
            return f"model_{label}", f"p_{label} {scores[label]}"
    return "", ""
