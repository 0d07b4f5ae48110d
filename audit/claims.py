# SPDX-License-Identifier: Apache-2.0
"""The audit of data, vocabularies, settings, related work, and of what one card says of another."""
from __future__ import annotations

import math
from typing import Any

from audit.cards import OWN_CARD, Audit, Card
from params import SIZE_OF, count

S2, S3, P = OWN_CARD
# Sizes in the published config.json of each model.
VOCABULARIES = {
    "Llama 2": 32000,
    "Llama 3": 128256,
    "Mistral 7B v0.1": 32000,
    "Mistral 7B v0.3": 32768,
    "GPT-2": 50257,
}


def data(cards: Audit) -> None:
    """Shares of the mixture in tokens.

    The anneal raises code and lowers web, so the shares at the start are bounds for the run.
    """
    for card in cards.own[1:]:
        tokens = card.tokens
        ratios = {row["source"]: row["ratio_percent"] / 100 for row in card.rows("data.sources")}
        total = f"{tokens / 1e9:g}B"
        card.note(
            "data.sources", math.isclose(sum(ratios.values()), 1), 100 * sum(ratios.values()),
            "the ratios add up",
        )
        web = (0.85 * ratios["web"] * tokens, ratios["web"] * tokens)
        code = (ratios["code"] * tokens, (0.85 * ratios["code"] + 0.15) * tokens)
        card.check("data.web_tokens", web, f"at most 75% of {total}, less what the anneal takes")
        words = f"at least 15% of {total}, and more by what the anneal adds"
        if card.model == S3:
            card.check("data.code_tokens", code, words)
            card.check("data.curriculum_anneal_fraction", 0.15, "\"the final 15% of the token budget\"")
        else:
            card.note("data.code_tokens", code[0] < 1e9, code[0], words)
            card.note(
                "behaviour.code_reason", True, "15%, 4.5B",
                "the table of sources: 15% code, 75% of 6B web",
            )


def vocabulary(cards: Audit) -> None:
    """Sizes of vocabularies, occurrences per token type, and what other models' vocabularies are."""
    stentor2, stentor3, _ = cards.own
    for card in cards.own:
        card.check("tokenizer.vocab_size", card.shape.vocab_size, "rows of the embedding", exact=True)
    stentor2.check("tokenizer.base_tokens", 8064 - 62 - 2, "8,064 - 62 of padding - EOS and BOS", exact=True)
    stentor2.check(
        "tokenizer.padding_tokens", 8064 - 8000 - 2, "8,000 with EOS and BOS, up to a multiple of 128",
        exact=True,
    )
    stentor2.note("tokenizer.pad_to_multiple", 8064 % 128 == 0, 8064 // 128, "8,064 / 128 is an integer")
    stentor3.check("tokenizer.occurrences_per_type_4k", 8.5e9 / 4096, "8.5B / 4,096")
    stentor3.check("tokenizer.occurrences_per_type_32k", [8.5e9 / 32000, 8.5e9 / 32768],
                   "8.5B / 32,000; for the 32,768 of the family's own tokenizer it is 259,399")
    stentor3.check("tokenizer.signal_ratio", [32000 / 4096, 32768 / 4096], "32,000 / 4,096 or 32,768 / 4,096")
    stentor3.check(
        "tokenizer.tokens_needed_for_same_coverage_at_32k", [8.5e9 * 32000 / 4096, 8.5e9 * 32768 / 4096],
        "8.5B * 32,000 / 4,096 = 66.4B, with 32,768 68.0B; 67.2B is the rounded 2.1 million * 32,000",
    )
    wrong = (
        (S3, "speculative.vocabulary_claim",
         "GPT-2 has 50,257 tokens (50K in this card's own table of related work), Llama 3 128,256"),
        (P, "tokenizer.llama3_vocab_claim", "Llama 3 has 128,256 tokens"),
        (P, "tokenizer.compatible_with", "Mistral 7B v0.1 has 32,000 tokens; 32,768 belong to v0.3"),
        (P, "speculative.shared_vocabulary_claim",
         "no Llama has 32,768 tokens; the card's own example, Llama-3.2-1B, has 128,256"),
        (S2, "speculative.caveat",
         "the card's own example target, Llama-3.2-1B, has 128,256 tokens, not 32,000"),
    )
    known = ", ".join(f"{name} {size:,}" for name, size in VOCABULARIES.items())
    for model, path, words in wrong:
        cards[model].note(path, False, words, f"published sizes: {known}")


def contradictions(cards: Audit) -> None:
    """Subjects on which two cards contradict each other."""
    _, stentor3, portimbria = cards.own
    other = stentor3.value("speculative.cross_vocabulary")
    portimbria.note(
        "speculative.mismatch_claim", False, other,
        "the Stentor3-20M card says the opposite of the same function",
    )
    stated = cards["Stentor2-12M"].statements("architecture.gqa_history")
    cards["Stentor2-12M"].note(
        "architecture.gqa_history", False, stated[0][1]["note"],
        "one card against another: \"minor\" here", index=1,
    )


def settings(cards: Audit) -> None:
    """Example calls and samples against the ranges that the same card recommends."""
    examples = (
        "generation.example", "generation.pipeline_example", "generation.inference_guide_example",
        "inference.gpu_fp16_defaults",
    )
    for card in cards.own:
        context = card.shape.max_position_embeddings
        for key in ("temperature", "top_p", "repetition_penalty", "max_new_tokens"):
            low, high = card.value(f"generation.{key}")
            words = f"recommended {key}: {low} to {high}"
            limit = context if key == "max_new_tokens" else math.inf
            card.note(
                f"generation.{key}", low < high <= limit, [low, high],
                "a range; new tokens within the context",
            )
            for path in examples:
                for _, statement in card.statements(path):
                    value = statement["value"].get(key, low)
                    card.note(path, low <= value <= high, [low, high], words, part=key, stated={key: value})
            for _, statement in card.statements(f"samples.{key}"):
                card.note(f"samples.{key}", low <= statement["value"] <= high, [low, high], words)
        low, _ = card.value("generation.repetition_penalty")
        card.check("generation.repetition_penalty_minimum", low, "where the recommended range begins")
    stentor2, stentor3, _ = cards.own
    stentor3.check("behaviour.loops", 1.15, "generation.repetition_penalty_minimum")
    ceiling = stentor2.value("generation.safety_ceiling_max_new_tokens")
    stentor2.note("generation.safety_ceiling_max_new_tokens", ceiling < 1024, 1024, "below the context")


def samples(cards: Audit) -> None:
    """How many samples there are, and what the prose counts in one of them."""
    for card in cards.own:
        number = card.value("samples.count")
        classes = sum(card.value("samples.classes").values())
        card.check("samples.count", classes, "sum of the classes", exact=True)
        card.note("samples.classes", classes == number, classes, "as many as samples.count")
        for key in ("prompts", "max_tokens"):
            for _, statement in card.statements(f"samples.{key}"):
                found = len(statement["value"])
                card.note(f"samples.{key}", found == number, found, "as many as samples.count")
    stentor3 = cards[S3]
    repeats = stentor3.value("behaviour.sample_9_repeats")
    words = "sample 9, the answer to this prompt, has the phrase 12 times: a dozen, not more"
    stentor3.note("behaviour.loop_count_claim", repeats > 12, repeats, words)


# ----------------------------------------------------------------------------------------------- related work

def related(cards: Audit) -> None:
    """The rows of our family in the tables of related work; other models' rows cannot be computed."""
    path = "related.models"
    models = {model: model for model in SIZE_OF} | {
        "Stentor-30M (v1)": "Stentor-30M v1",
        "Stentor-12M (v1)": "Stentor-12M v1",
    }
    for card in cards.own:
        for row in card.rows(path):
            if row["model"] in models:
                related_row(card, cards[models[row["model"]]], row)
    words = (
        "at some 4 bytes a token; the peer table says ~40B tokens, and how many passes it was is not stated"
    )
    cards[P].note(path, None, "40 GB are about 10B tokens", words, part="GPT-2 tokens", stated="40GB WebText")


def related_row(card: Card, about: Card, row: dict[str, Any]) -> None:
    """One row about a model of the family."""
    shape = about.shape
    expected: dict[str, tuple[Any, float | list[float]]] = {
        "params": (row["params_M"], count(shape)["total"] / 1e6)
    }
    if "vocab" in row:
        # 32K of 1,000 or of 1,024
        expected["vocab"] = (row["vocab"], [float(shape.vocab_size), shape.vocab_size / 1.024])
        expected["context"] = (row["context"], shape.max_position_embeddings)
    if row.get("tokens") or row.get("training_data"):
        expected["tokens"] = (row.get("tokens") or row["training_data"].split()[-1], about.tokens)
    if row.get("best_perplexity"):
        expected["perplexity"] = (row["best_perplexity"], about.value("results.best_perplexity"))
    if row.get("blimp_percent"):
        expected["blimp"] = (row["blimp_percent"], about.value("blimp.overall_accuracy_percent"))
    for name, (stated, computed) in expected.items():
        card.check(
            "related.models", computed, "as the model's own statements have it", part=f"{about.size} {name}",
            stated=stated,
        )


PARTS = (data, vocabulary, contradictions, settings, samples, related)
