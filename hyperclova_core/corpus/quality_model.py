"""A small quality classifier: logistic regression over hashed character n-grams, saved as plain numbers (no pickle)."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.errors import DataError
from hyperclova_core.korean.hangul import nfc

WEIGHTS = "weights.npz"
FEATURES = 1 << 18
WIDTHS = (1, 2, 3, 4)
MAX_CHARACTERS = 4000


def features(texts: list[str]) -> csr_array:
    """Hashed character n-grams (CRC-32), signed-free counts damped to 1 + ln, rows of unit length; shape (texts, FEATURES)."""
    indices: list[npt.NDArray[np.int64]] = []
    values: list[npt.NDArray[np.float64]] = []
    starts = [0]
    for text in texts:
        line = " " + " ".join(nfc(text)[:MAX_CHARACTERS].lower().split()) + " "
        grams = [
            zlib.crc32(line[at : at + width].encode("utf-8", "replace")) % FEATURES
            for width in WIDTHS
            for at in range(len(line) - width + 1)
        ]
        found, counts = np.unique(np.asarray(grams, np.int64), return_counts=True)
        weights = 1.0 + np.log(counts)
        indices.append(found)
        values.append(weights / np.linalg.norm(weights))
        starts.append(starts[-1] + len(found))
    return csr_array(
        (np.concatenate(values), np.concatenate(indices), np.asarray(starts)), shape=(len(texts), FEATURES)
    )


@dataclass(frozen=True)
class QualityModel:
    """Labels, weights of shape (labels, FEATURES) and biases."""

    labels: tuple[str, ...]
    weights: npt.NDArray[np.float32]
    biases: npt.NDArray[np.float32]

    def predict(self, texts: list[str]) -> tuple[tuple[str, ...], npt.NDArray[np.float64]]:
        """(labels, probabilities of shape (texts, labels))."""
        if not texts:
            return self.labels, np.zeros((0, len(self.labels)))
        logits = features(texts) @ self.weights.T.astype(np.float64) + self.biases
        logits -= logits.max(axis=1, keepdims=True)
        odds = np.exp(logits)
        return self.labels, odds / odds.sum(axis=1, keepdims=True)

    def save(self, folder: str, report: dict[str, object]) -> None:
        """Write `weights.npz` and `model.json`."""
        storage.make_folder(folder)
        with storage.replacing(storage.join(folder, WEIGHTS)) as temporary, Path(temporary).open("wb") as file:
            np.savez_compressed(file, weights=self.weights, biases=self.biases)
        storage.write_json(storage.join(folder, "model.json"), {"labels": list(self.labels), "report": report})

    @staticmethod
    @lru_cache(maxsize=2)
    def load(folder: str) -> QualityModel:
        """A saved model.

        Raises:
            DataError: the folder holds none.
        """
        if not storage.exists(storage.join(folder, "model.json")):
            raise DataError(
                "No quality model here",
                where=folder,
                why="there is no model.json",
                remedy="train one: hyperclova quality train LABELLED.jsonl --output MODEL",
            )
        labels = tuple(json.loads(storage.read_bytes(storage.join(folder, "model.json")))["labels"])
        with np.load(storage.localized(storage.join(folder, WEIGHTS)), allow_pickle=False) as arrays:
            return QualityModel(labels, arrays["weights"], arrays["biases"])


def train_quality_model(texts: list[str], labels: list[str], seed: int) -> tuple[QualityModel, dict[str, object]]:
    """Fit on nine tenths, report precision and recall a label on the held-out tenth (by position, after a seeded shuffle).

    Raises:
        DataError: fewer than two labels, or fewer than ten examples.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import precision_recall_fscore_support

    if len(set(labels)) < 2 or len(texts) < 10:
        raise DataError(
            "Too little to learn from",
            why=f"{len(texts)} examples of {len(set(labels))} labels",
            remedy="give at least two labels and ten examples",
        )
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(texts))
    held = order[: len(order) // 10]
    rest = order[len(order) // 10 :]
    table = features(texts)
    wanted = np.asarray(labels)
    fitted = LogisticRegression(C=10.0, max_iter=300, class_weight="balanced").fit(table[rest], wanted[rest])
    weights, biases = fitted.coef_, fitted.intercept_
    if len(fitted.classes_) == 2:
        weights, biases = np.vstack([-weights / 2, weights / 2]), np.concatenate([-biases / 2, biases / 2])
    model = QualityModel(
        tuple(str(label) for label in fitted.classes_), weights.astype(np.float32), biases.astype(np.float32)
    )
    predicted = np.asarray(model.labels)[model.predict([texts[index] for index in held])[1].argmax(axis=1)]
    precision, recall, _, support = precision_recall_fscore_support(
        wanted[held], predicted, labels=list(model.labels), zero_division=0.0
    )
    report: dict[str, object] = {
        label: {"precision": round(float(p), 4), "recall": round(float(r), 4), "held_out": int(n)}
        for label, p, r, n in zip(model.labels, precision, recall, support, strict=True)
    }
    return model, report
