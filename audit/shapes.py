# SPDX-License-Identifier: Apache-2.0
"""The audit of what follows from a shape: parameter counts, memory, adapters, initialization.

A model's reference shape is its specification's table, or its row of the family table. If that shape does
not give the stated total and embedding share, `corrections` looks for changes of one field that give both,
and the roundest of them becomes the reference.
"""
from __future__ import annotations

import dataclasses
import math

import torch

from audit.cards import OWN_CARD, Audit, Card, Interval, agree, interval
from model import SIZES, Llama, ModelConfig
from params import arithmetic, count, embedding_share, kv_cache_bytes, read_cards

FIELDS = {
    "vocab": "vocab_size",
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "num_hidden_layers": "num_hidden_layers",
    "num_attention_heads": "num_attention_heads",
    "num_key_value_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "context_length": "max_position_embeddings",
    "tie_word_embeddings": "tie_word_embeddings",
}
SPECIFICATION = {
    "Stentor2-30M": "core configuration",
    "Stentor3-20M": "model architecture",
    "Portimbria-150M": "core configuration",
}
SEARCHED = {  # field -> largest value that the search tries
    "num_hidden_layers": 200,
    "intermediate_size": 20_000,
    "hidden_size": 8_000,
    "vocab_size": 300_000,
    "head_dim": 512,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
}


# ----------------------------------------------------------------------------------------------- architecture

def stated_shape(card: Card, page: str, section: str) -> ModelConfig | None:
    """The shape in one table of the card `page`; None if fields are missing (tying may be in another one)."""
    values = {"tie_word_embeddings": card.value("architecture.tie_word_embeddings")}
    for key, field in FIELDS.items():
        for _, statement in card.statements(f"architecture.{key}", section):
            if statement["card"] == page:
                values[field] = statement["value"]
    return ModelConfig(**values) if len(values) == len(FIELDS) else None


def parameters_of(shape: ModelConfig) -> int:
    """The total, without the check that the shape is possible."""
    return arithmetic(shape)["total"][1]


def corrections(shape: ModelConfig, total: Interval, share: Interval) -> dict[str, list[int]]:
    """Field -> values that alone give `shape` the stated total and embedding share (percent).

    The total is linear in each field, which gives the first value to try; the next ones are tried in order.
    """
    found: dict[str, list[int]] = {}
    for field, largest in SEARCHED.items():
        one, two = (parameters_of(dataclasses.replace(shape, **{field: value})) for value in (1, 2))
        first = max(1, math.floor((total[0] - one) / (two - one)))
        for value in range(first, largest + 1):
            changed = dataclasses.replace(shape, **{field: value})
            size = parameters_of(changed)
            if size > total[1]:
                break
            if size >= total[0] and not changed.problems() and agree(share, embedding_share(changed)):
                found.setdefault(field, []).append(value)
    return found


def roundest(found: dict[str, list[int]]) -> tuple[str, int] | None:
    """The correction to prefer: a layer count, else the value that the largest power of two divides."""
    if "num_hidden_layers" in found:
        return "num_hidden_layers", found["num_hidden_layers"][0]
    pairs = [(field, value) for field, values in found.items() for value in values]
    return max(pairs, key=lambda pair: pair[1] & -pair[1], default=None)


def reference(card: Card) -> tuple[ModelConfig, dict | None, str]:
    """A model's reference shape, the correction that led to it (or None), and the search in words."""
    page = card.model if card.model in OWN_CARD else "Stentor3-20M"
    shape = stated_shape(card, page, SPECIFICATION.get(card.model, "family table"))
    low, high = interval(card.value("parameters.total", "family"))
    total = (low * 1e6, high * 1e6)
    share = interval(card.value("parameters.embedding_share_percent", "family"))
    if agree(total, parameters_of(shape)) and agree(share, embedding_share(shape)):
        return shape, None, ""
    found = corrections(shape, total, share)
    words = [
        f"{field} {values[0]}" + f" to {values[-1]}" * (len(values) > 1) for field, values in found.items()
    ]
    chosen = roundest(found)
    if chosen is None:
        return shape, None, "no change of one field gives the stated total and share"
    field, value = chosen
    correction = {"field": field, "stated": getattr(shape, field), "value": value}
    search = (f"changes of one field that give the stated total and share: {'; '.join(words)}; "
              f"the round one is {field} {value}")
    return dataclasses.replace(shape, **{field: value}), correction, search


def architecture(cards: Audit) -> None:
    """Every stated field against the reference shape, totals and shares against their own table."""
    for card in cards:
        shape, correction, search = reference(card)
        for key, field in FIELDS.items():
            for index, statement in card.statements(f"architecture.{key}"):
                value, right = statement["value"], getattr(shape, field)
                change = None if value == right else {"field": field, "stated": value, "value": right}
                words = "the model's specification, which gives the stated total"
                if correction and field == correction["field"]:
                    words = search
                elif change and statement["section"] == "family table":
                    words += ("; the family table's own row, 5 heads of 64 with 1 key/value head, "
                              "has the same widths and total")
                elif change and field == "num_attention_heads":
                    words += (f"; {value} heads of width {shape.head_dim} are {value * shape.head_dim}, "
                              f"not {shape.hidden_size}")
                card.note(f"architecture.{key}", value == right, right, words, index=index, correction=change)
        for path, computed in (
            ("parameters.total", parameters_of),
            ("parameters.embedding_share_percent", embedding_share),
        ):
            for index, statement in card.statements(path):
                beside = stated_shape(card, statement["card"], statement["section"]) or shape
                scale = 1e6 if statement.get("unit") == "million" else 1.0
                low, high = interval(statement["value"], exact=statement.get("unit") == "parameters")
                holds = agree((low * scale, high * scale), computed(beside))
                words = "count of the reference shape" if beside == shape else "count of the rows beside it"
                card.note(
                    path, holds, computed(beside) / scale, words if holds else f"{words}; {search}",
                    index=index, correction=None if holds else correction,
                )


def own_contradictions() -> list[str]:
    """Contradictions between our own tables and computations, one line each; normally empty."""
    wrong = []
    for card in Audit(read_cards()):
        size, (shape, _, _) = card.size, reference(card)
        ours = dataclasses.replace(card.shape, rope_theta=shape.rope_theta, rms_norm_eps=shape.rms_norm_eps)
        if shape != ours:
            wrong.append(f"{size}: model.SIZES has {ours}, the audit finds {shape}")
        stated = card.value("training.training_tokens")
        if not agree(interval(stated), card.tokens):
            wrong.append(f"{size}: params.FAMILY has {card.tokens:,.0f} tokens, the card {stated}")
    for size, shape in SIZES.items():
        for tied in (True, False):
            shape = dataclasses.replace(shape, tie_word_embeddings=tied)
            with torch.device("meta"):
                built = sum(parameter.numel() for parameter in Llama(shape).parameters())
            if built != count(shape)["total"]:
                wrong.append(
                    f"{size}: the formula gives {count(shape)['total']:,} parameters, the model has {built:,}"
                )
    return wrong


# ------------------------------------------------------------------------------------------------- parameters

# Names of the cards' lines and table rows -> names in params.arithmetic and params.count.
LINES = {
    "attention_per_layer": "attention",
    "mlp_per_layer": "mlp",
    "norm_per_layer": "norms",
    "layers_total": "layers",
}
ROWS = {
    "embedding table": "embedding",
    "lm head": "lm_head",
    "transformer layers": "layers",
    "attention": "attention",
    "ffn": "mlp",
    "layer norms": "norms",
    "final rms norm": "final_norm",
    "total": "total",
}


def parameters(cards: Audit) -> None:
    """The cards' breakdowns: line by line, component by component, and the shares quoted in prose."""
    for card in cards:
        line = arithmetic(card.shape)
        total, layers = line["total"][1], line["layers"][1]
        parts = {"layers": layers, **count(card.shape)}
        for key in [*line, *LINES]:
            formula, value = line[LINES.get(key, key)]
            if key != "total":
                card.check(f"parameters.{key}", value, formula, exact=True)
        card.check(
            "parameters.non_embedding", layers + line["final_norm"][1],
            "total without embedding and head",
        )
        for key in ("transformer_share_percent", "transformer_share"):
            card.check(f"parameters.{key}", 100 * layers / total, "layers / total")
        for row in card.rows("parameters.component_table"):
            name, stated, percent = row.values()
            value = parts[next(part for start, part in ROWS.items() if name.startswith(start))]
            path = "parameters.component_table"
            decimals = 0 if isinstance(percent, int) else None
            card.check(path, value, "count", part=name, stated=stated, exact=True)
            card.check(
                path, 100 * value / total, f"{value:,} / {total:,}", part=name + " percent",
                stated=percent, decimals=decimals,
            )
        for index, _ in card.statements("parameters.estimator_rule"):
            card.note(
                "parameters.estimator_rule", True, total, "the rule, evaluated for this shape",
                index=index,
            )
    small_vocabulary(cards["Stentor3-20M"])


def small_vocabulary(card: Card) -> None:
    """The Stentor3-20M card's argument for 4,096 tokens."""
    total = parameters_of(card.shape)
    card.check("parameters.one_matrix", 4096 * 320, "4096 * 320")
    card.check("parameters.one_matrix_share_percent", 100 * 4096 * 320 / total, f"4096 * 320 / {total:,}")
    card.check(
        "parameters.two_32k_matrices", [2.0 * 32768 * 320, 2.0 * 32000 * 320],
        "2 * 32768 * 320 = 21.0 million (32000: 20.5); 33 million belongs to hidden size 512, "
        "that of the 50M model",
    )
    card.check(
        "parameters.backbone", [float(total), 17702400.0],
        "all of the model; its layers alone are 17.7 million",
    )
    shares = {
        size: round(embedding_share(SIZES[size]), 1) for size in SIZES if SIZES[size].vocab_size == 32768
    }
    card.note(
        "parameters.typical_share_at_32k_percent", None, shares,
        "\"typical\" names no model; these are the family's at 32K",
    )


def ratios(cards: Audit) -> None:
    """Widths and heads against each other, and one model against another."""
    fractions = {"one-quarter": 1 / 4, "one-third": 1 / 3}
    for card in cards:
        shape = card.shape
        kv_heads, heads = shape.num_key_value_heads, shape.num_attention_heads
        width = f"{kv_heads} * {shape.head_dim}"
        card.check("architecture.kv_dim", kv_heads * shape.head_dim, width, exact=True)
        card.check("architecture.gqa_ratio", heads / kv_heads, "query heads / key/value heads")
        card.check(
            "architecture.intermediate_ratio", shape.intermediate_size / shape.hidden_size,
            "intermediate_size / hidden_size",
        )
        for path in ("architecture.kv_cache_reduction_percent", "memory.kv_cache_reduction_percent"):
            card.check(path, 100 - 100 * kv_heads / heads, f"1 - {kv_heads}/{heads}")
        for index, statement in card.statements("architecture.kv_cache_shrink_factor"):
            holds = math.isclose(fractions[statement["value"].split()[0]], kv_heads / heads)
            card.note(
                "architecture.kv_cache_shrink_factor", holds, f"{kv_heads}/{heads}",
                "key/value heads / query heads", index=index,
            )
    small, medium, large = (parameters_of(SIZES[size]) for size in ("20m", "50m", "150m"))
    preview = parameters_of(SIZES["12m"])
    cards["Stentor3-50M"].check(
        "architecture.relative_size_to_20M", medium / small, f"{medium:,} / {small:,}"
    )
    cards["Portimbria-150M"].check(
        "architecture.scale_vs_stentor2_12m", large / preview, f"{large:,} / {preview:,}"
    )
    cards["Portimbria-150M"].check("architecture.context_vs_stentor2_12m", 4096 / 1024, "4,096 / 1,024")


# ----------------------------------------------------------------------------------- memory, adapters, recipe

def readings(size: float) -> list[float]:
    """Bytes as MB (10^6) and as MiB (2^20): the cards write MB and do not say which they mean."""
    return [size / 1e6, size / 2**20]


def memory(cards: Audit) -> None:
    """The cards' memory tables and file sizes. A cell may be MB or MiB; a row's sum must use one unit."""
    for card in cards.own[1:]:
        shape = card.shape
        total, length, path = (
            parameters_of(shape), shape.max_position_embeddings, "memory.vram_table_4096_ctx",
        )
        product = f"{shape.num_key_value_heads} * {shape.head_dim} * {shape.num_hidden_layers}"
        for row, (each, cached) in zip(card.rows(path), ((4, 4), (2, 2), (1, 2), (0.5, 2))):
            weights, cache = total * each, kv_cache_bytes(shape, length, 1, cached)
            formulas = {
                "weights": (weights, f"{total:,} * {each} bytes"),
                "kv_cache": (cache, f"2 * {product} * {length} * {cached} bytes"),
                "total": (weights + cache, "weights + cache, both in one unit"),
            }
            if each < 2:
                words = "; the row repeats the FP16 cache, which bitsandbytes leaves as it is"
                formulas["kv_cache"] = (cache, formulas["kv_cache"][1] + words)
            for cell, (size, formula) in formulas.items():
                both = f"{size / 1e6:.1f} MB = {size / 2**20:.1f} MiB = {formula}"
                card.check(
                    path, readings(size), both, part=f"{cell} {row['precision']}",
                    stated=row[cell + "_MB"],
                )
        formula = (f"2 (K and V) * {shape.num_key_value_heads} (kv heads) * {shape.head_dim} (head dim) "
                   f"* {shape.num_hidden_layers} (layers)")
        holds = card.value("memory.kv_cache_formula").startswith(formula)
        card.note("memory.kv_cache_formula", holds, formula, "this shape's numbers")
        card.note(
            "memory.kv_cache_at_1024_vs_4096", True, 1024 / 4096,
            "the cache grows with the length: 1,024 / 4,096",
        )
    for card in cards.own:
        total = parameters_of(card.shape)
        sizes = ", ".join(f"{each} bytes {each * total / 1e6:.1f} MB" for each in (1, 2, 4))
        card.check("use_cases.fp16_size", readings(2.0 * total), f"{total:,} * 2 bytes; {sizes}")


def lora_parameters(shape: ModelConfig, rank: int) -> int:
    """Trainable parameters of LoRA on q, k, v, o (Hu et al. 2021, section 4.1).

    rank * (inputs + outputs) of each matrix.
    """
    q_width = shape.num_attention_heads * shape.head_dim
    kv_width = shape.num_key_value_heads * shape.head_dim
    return (
        shape.num_hidden_layers
        * rank
        * (2 * (shape.hidden_size + q_width) + 2 * (shape.hidden_size + kv_width))
    )


def adapters(cards: Audit) -> None:
    """The LoRA starters: trainable, all, percent."""
    causes = (
        f"on the 50M model it is {lora_parameters(SIZES['50m'], 16):,} of 49.4 million: its numbers",
        f"rank 32 gives {lora_parameters(SIZES['150m'], 32):,}",
    )
    for card, cause in zip(cards.own[1:], causes):
        total = parameters_of(card.shape)
        trained = lora_parameters(card.shape, card.value("lora.r"))
        card.check(
            "lora.stated_trainable", trained,
            f"rank 16 on q, k, v, o: 16 * (inputs + outputs) of each; {cause}",
        )
        card.check(
            "lora.stated_all", [float(total + trained), float(total)],
            f"{total:,} + {trained:,}, or without the adapter",
        )
        card.check(
            "lora.stated_percent", 100 * trained / (total + trained),
            f"{trained:,} / {total + trained:,}",
        )


def recipe(cards: Audit) -> None:
    """Initialization and precision recipe: what follows from the depth."""
    for card in cards.own:
        layers = card.shape.num_hidden_layers
        rule = f"0.02 / sqrt(2 * {layers})"
        card.check("initialization.residual_std", 0.02 / math.sqrt(2 * layers), rule)
        card.check("precision_recipe.fp32_norm_modules", 2 * layers + 1, f"2 * {layers} + 1", exact=True)
        card.check(
            "precision_recipe.fp32_critical_layers", 2,
            card.value("precision_recipe.critical_layer_choice"),
        )
        for index, statement in card.statements("initialization.residual_rule"):
            card.note(
                "initialization.residual_rule", statement["value"] == rule, rule,
                "2L residual outputs", index=index,
            )


PARTS = (architecture, parameters, ratios, memory, adapters, recipe)
