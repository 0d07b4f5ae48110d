# SPDX-License-Identifier: Apache-2.0
"""The numbers of a run's files, for its model card; `params.py --audit RUN` computes them independently."""
from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any, NamedTuple

from common import UserError, read_json
from data import Corpus
from audit.shapes import lora_parameters
from publishing.gallery import Sample, shares
from model import ModelConfig, tensor_index
from params import count, embedding_share, kv_cache_bytes
from training.log import read_log


class Run(NamedTuple):
    """What a card is written from."""

    folder: Path
    info: dict[str, Any]                    # run.json
    config: ModelConfig                     # of best/
    steps: list[dict]                       # rows of log.jsonl with a training loss
    evals: list[dict]                       # rows with a validation loss
    manifest: dict | None                   # of the corpus; None if it is gone or has changed
    results: dict | None                    # evaluation.json


def read_run(folder: Path) -> Run:
    """Everything a card needs. Raises UserError for a folder without `best/`, or with an empty log."""
    info = read_json(folder / "run.json")
    config = ModelConfig.from_json(folder / "best" / "config.json")
    rows = list(read_log(folder / "log.jsonl"))
    steps = [row for row in rows if "loss" in row]
    evals = [row for row in rows if row.get("eval_loss") is not None]
    if not steps or not evals:
        raise UserError(f"{folder / 'log.jsonl'}: no training step or no evaluation in it; "
                        "a card needs one of each")
    results = folder / "evaluation.json"
    return Run(
        folder, info, config, steps, evals, read_manifest(info),
        read_json(results) if results.is_file() else None,
    )


def read_manifest(info: dict[str, Any]) -> dict | None:
    """The manifest of a run's corpus; None if the corpus is gone or has changed."""
    try:
        corpus = Corpus(info["data"], info["settings"]["seq_len"], 1, 1, verify=False)
    except UserError:
        return None
    return corpus.manifest if corpus.fingerprint == info["corpus"] else None


def duration(rows: list[dict]) -> float:
    """Seconds of all calls of a run. The clock in the log restarts at 0 with each call."""
    seconds = [row["seconds"] for row in rows]
    return sum(before for before, after in zip(seconds, seconds[1:] + [0.0]) if after < before)


def numbers(of: Run, samples: list[Sample]) -> dict[str, Any]:
    """The figures of the card, each from the run's files."""
    config, settings = of.config, of.info["settings"]
    best = next((row for row in reversed(of.evals) if row.get("note") == "best"), of.evals[0])
    losses = [row for row in of.steps if row["loss"] is not None]
    speeds = [row["tokens_per_second"] for row in of.steps if row.get("tokens_per_second")]
    found = {
        "parameters": count(config),
        "embedding_share_percent": round(embedding_share(config), 1),
        "weights_bytes": sum(4 * math.prod(shape) for _, shape in tensor_index(of.folder / "best").values()),
        "kv_cache_bytes_fp16": int(kv_cache_bytes(config, config.max_position_embeddings)),
        "lora_r16_parameters": lora_parameters(config, rank=16),
        "steps": of.steps[-1]["step"],
        "tokens_per_step": settings["seq_len"] * settings["batch_size"],
        "tokens": of.steps[-1]["tokens"],
        "tokens_per_parameter": round(of.steps[-1]["tokens"] / count(config)["total"], 3),
        "best_step": best["step"],
        "best_eval_loss": round(best["eval_loss"], 4),
        "best_eval_ppl": round(best["eval_ppl"], 2),
        "last_eval_loss": round(of.evals[-1]["eval_loss"], 4),
        "last_eval_ppl": round(of.evals[-1]["eval_ppl"], 2),
        "last_train_loss": round(losses[-1]["loss"], 4) if losses else None,
        "tokens_per_second": round(statistics.median(speeds), 1) if speeds else None,
        "seconds": round(duration(of.steps + of.evals[-1:]), 1),
        "gallery": shares(samples),
    }
    if of.results is not None:
        found["evaluation"] = of.results
    return found
