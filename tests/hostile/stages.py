"""Stages that do what a hostile document makes a real one do."""

from __future__ import annotations

import os
import signal
import time

import pyarrow as pa

from hyperclova_core.foundation.config import Config
from hyperclova_core.foundation.stages.kinds import StageBatch, StageContext, document_stage


class HostileConfig(Config):
    log: str | None = None
    """A file to which a line is written for each document that is begun."""


@document_stage("hostile", version="1")
def hostile(documents: pa.RecordBatch, config: HostileConfig, context: StageContext) -> StageBatch:
    """Keep every document whose text does not say what is to happen."""
    texts = documents.column("text").to_pylist()
    for text in texts:
        if config.log:
            with open(config.log, "a") as stream:
                stream.write(text[:20] + "\n")
        obey(text)
    if sum("이웃" in text for text in texts) > 1:  # slow together alone
        spin()
    return StageBatch(documents, documents.slice(0, 0), [], [])


def obey(text: str) -> None:
    if text.startswith("spin"):
        spin()
    if text.startswith("fill"):
        held = []
        while True:
            held.append(bytearray(1 << 30))
    if text.startswith("abort"):
        os.kill(os.getpid(), signal.SIGSEGV)
    if text.startswith("killed"):
        os.kill(os.getpid(), signal.SIGKILL)
    if text.startswith("leave"):
        os._exit(3)
    if text.startswith("raise"):
        raise ValueError(text)
    if text.startswith("sleep"):
        time.sleep(float(text.split()[1]))


def spin() -> None:
    while True:
        pass


@document_stage("expanding", version="1")
def expanding(documents: pa.RecordBatch, config: HostileConfig, context: StageContext) -> StageBatch:
    """Documents that become a hundred megabytes each where they say so."""
    texts = [text * 5_000_000 if text.startswith("grow") else text for text in documents.column("text").to_pylist()]
    column = pa.array(texts, pa.string())
    columns = [column if name == "text" else documents.column(name) for name in documents.schema.names]
    return StageBatch(pa.RecordBatch.from_arrays(columns, schema=documents.schema), documents.slice(0, 0), [], [])
