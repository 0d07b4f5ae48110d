# SPDX-License-Identifier: Apache-2.0
"""Count a model's parameters, memory and FLOPs from its shape; check the numbers of a model card.

Every function takes a ModelConfig and returns plain numbers or a `Table`; nothing is trained or downloaded.
The letters of the formulas are those of model.py (B batch, T positions, D hidden_size, H query heads, K
key/value heads, F width of one head, M width of the MLP, V vocabulary), and L layers, N parameters. Costs on
named hardware are in audit/cost.py, the audit of the cards is in audit/all.py.
"""
from __future__ import annotations

import argparse
import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import ROOT, Parser, UserError, count_of, find_run, positive, read_json, run
from model import SIZES, ModelConfig

# The seven models of the cards: the name of each there, and how many tokens it was trained on.
CARD_OF = {
    "12m-v1": "Stentor-12M v1", "30m-v1": "Stentor-30M v1", "12m": "Stentor2-12M", "30m": "Stentor2-30M",
    "20m": "Stentor3-20M", "50m": "Stentor3-50M", "150m": "Portimbria-150M",
}
SIZE_OF = {card: size for size, card in CARD_OF.items()}
FAMILY = {
    "12m-v1": 200e6, "30m-v1": 600e6, "12m": 480e6, "30m": 800e6, "20m": 8.5e9, "50m": 8.3e9, "150m": 6e9,
}
BYTES = {"FP32": 4.0, "FP16/BF16": 2.0, "INT8": 1.0, "INT4": 0.5}        # per value


@dataclass
class Table:
    """A printed table: named columns with a format each, rows of raw values, notes below."""

    title: str
    columns: dict[str, str]                                       # name -> format: ",d", ".1f", "" for text
    rows: list[tuple] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def text(self) -> str:
        """Aligned for a terminal: numbers on the right, text on the left."""
        forms = list(self.columns.values())
        cells = [
            ["-" if value is None else format(value, form) for value, form in zip(row, forms)]
            for row in self.rows
        ]
        widths = [max(map(len, column)) for column in zip(self.columns, *cells)]
        sides = ["<" if form == "" else ">" for form in forms]
        lines = [self.title]
        for line in [list(self.columns), ["─" * width for width in widths], *cells]:
            aligned = [f"{cell:{side}{width}}" for cell, side, width in zip(line, sides, widths)]
            lines.append("  ".join(aligned).rstrip())
        return "\n".join(lines + self.notes) + "\n"

    def plain(self) -> dict[str, Any]:
        """The table for `--json`, with raw values."""
        return {
            "title": self.title, "rows": [dict(zip(self.columns, row)) for row in self.rows],
            "notes": self.notes,
        }


def read_cards() -> dict[str, dict]:
    """What the model cards state: model as the cards name it -> group -> key -> statements."""
    return read_json(ROOT / "cards" / "cards.json")["models"]


# ------------------------------------------------------------------------------------------------- parameters

def arithmetic(config: ModelConfig) -> dict[str, tuple[str, int]]:
    """The cards' arithmetic, line by line: name -> (formula with the model's numbers, value)."""
    c = config
    q_width = c.num_attention_heads * c.head_dim
    kv_width = c.num_key_value_heads * c.head_dim
    attention = 2 * c.hidden_size * q_width + 2 * c.hidden_size * kv_width
    mlp = 3 * c.hidden_size * c.intermediate_size
    per_layer = attention + mlp + 2 * c.hidden_size
    matrix = c.vocab_size * c.hidden_size
    head, head_formula = matrix, f"{c.vocab_size} * {c.hidden_size} (untied)"
    if c.tie_word_embeddings:
        head, head_formula = 0, "0, the embedding is used again (tied)"
    total = matrix + head + c.num_hidden_layers * per_layer + c.hidden_size
    return {
        "kv_dim": (f"{c.num_key_value_heads} key/value heads * {c.head_dim} head_dim", kv_width),
        "q_proj": (f"{c.hidden_size} * {q_width}", c.hidden_size * q_width),
        "k_proj": (f"{c.hidden_size} * {kv_width}", c.hidden_size * kv_width),
        "v_proj": (f"{c.hidden_size} * {kv_width}", c.hidden_size * kv_width),
        "o_proj": (f"{q_width} * {c.hidden_size}", c.hidden_size * q_width),
        "attention": ("q_proj + k_proj + v_proj + o_proj", attention),
        "mlp": (f"3 * {c.hidden_size} * {c.intermediate_size} (gate, up, down)", mlp),
        "norms": (f"2 * {c.hidden_size}", 2 * c.hidden_size),
        "per_layer": ("attention + mlp + norms", per_layer),
        "layers": (f"{c.num_hidden_layers} * per_layer", c.num_hidden_layers * per_layer),
        "embedding": (f"{c.vocab_size} * {c.hidden_size}", matrix),
        "lm_head": (head_formula, head),
        "final_norm": (f"{c.hidden_size}", c.hidden_size),
        "total": ("embedding + lm_head + layers + final_norm", total),
    }


def count(config: ModelConfig) -> dict[str, int]:
    """Parameters by component, which add up to "total". Raises UserError for an impossible shape.

    >>> count(SIZES["20m"])["total"], count(SIZES["150m"])["lm_head"]
    (20324160, 0)
    """
    line = {name: value for name, (_, value) in arithmetic(config.check()).items()}
    parts = {name: line[name] for name in ("embedding", "lm_head")}
    parts |= {name: config.num_hidden_layers * line[name] for name in ("attention", "mlp", "norms")}
    return parts | {name: line[name] for name in ("final_norm", "total")}


def embedding_share(config: ModelConfig) -> float:
    """Percent of the parameters that belong to the vocabulary: embedding, and output head if untied."""
    parts = count(config)
    return 100 * (parts["embedding"] + parts["lm_head"]) / parts["total"]


def breakdown(name: str, config: ModelConfig) -> list[Table]:
    """The cards' two tables of a model: components with percent, and the arithmetic line by line."""
    parts = count(config)
    labels = {
        "embedding": "embedding table (tied)" if config.tie_word_embeddings else "embedding table",
        "lm_head": "lm head (untied)",
        "layers": f"transformer layers x{config.num_hidden_layers}",
        "attention": "  attention (all layers)",
        "mlp": "  ffn (all layers)",
        "norms": "  layer norms (all layers)",
        "final_norm": "final rms norm",
        "total": "total",
    }
    values = {"layers": parts["attention"] + parts["mlp"] + parts["norms"], **parts}
    components = Table(f"{name}: parameters", {"component": "", "parameters": ",d", "percent": ".3f"})
    for part, label in labels.items():
        if values[part]:
            components.rows.append((label, values[part], 100 * values[part] / parts["total"]))
    others = parts["total"] - parts["embedding"] - parts["lm_head"]
    components.notes = [
        f"embedding share {embedding_share(config):.1f}%; without embedding and head {others:,}"
    ]
    lines = Table(f"{name}: arithmetic", {"name": "", "value": ",d", "formula": ""})
    lines.rows = [(label, value, "= " + formula) for label, (formula, value) in arithmetic(config).items()]
    return [components, lines]


def family(models: dict[str, ModelConfig]) -> Table:
    """One row for each model: shape, total, embedding share."""
    columns = ("V", "D", "M", "L", "H", "K", "F", "T", "total")
    table = Table("family", {"model": "", **dict.fromkeys(columns, ",d"), "V %": ".1f", "head": ""})
    for name, config in models.items():
        head = "tied" if config.tie_word_embeddings else "untied"
        shape = dataclasses.astuple(config)[:8]
        table.rows.append((name, *shape, count(config)["total"], embedding_share(config), head))
    table.notes = [
        "V vocabulary, D hidden_size, M intermediate_size (MLP), L layers, H query heads,",
        "K key/value heads, F width of a head, T positions;",
        "V %: percent of the parameters in the embedding and in an untied head.",
    ]
    return table


# ----------------------------------------------------------------------------------------------------- memory

def kv_cache_bytes(config: ModelConfig, length: int, batch: int = 1, bytes_each: float = 2.0) -> float:
    """Bytes of the KV cache: 2 (keys and values) * L * K * F * T * B * bytes of a value.

    Multi-head attention (MHA) has K = H; grouped-query attention saves memory with K < H.
    """
    values = config.num_hidden_layers * config.num_key_value_heads * config.head_dim * length * batch
    return 2 * values * bytes_each


def training_memory(
    config: ModelConfig, batch: int, length: int, autocast: bool = False, recompute: bool = False,
    accumulate: bool = False, loss_chunk: int | None = None,
) -> dict[str, float]:
    """Bytes in memory during one training step of this project's model, by part, and the "peak" of the step.

    Weights, gradients and AdamW's two moments take 4 bytes a parameter each, in every precision. For each
    token and layer, backward needs 4D + H + 2 values in FP32 (input and normalized input of two norms; row
    sums of softmax and norms). In the dtype of the matrix products it needs the inputs of the linears (2D;
    under autocast 5D, one cast copy for each of q, k, v, gate and up), q and the attention output (2HF), k
    and v (2KF), and gate, silu(gate), up and gate * up (4M). `recompute` keeps only the input of each layer,
    and computes one layer at a time again. At the loss there are four FP32 tensors (B, T, V): logits,
    log-probabilities, and a gradient of each. With `loss_chunk` there are three for that many positions (the
    logits are freed by then), and two gradients of the output matrix (so far, and of one chunk). `autocast`
    adds a 16-bit copy of the matrices. Attention is a fused kernel; with its scores in memory, each layer
    would need B*H*T*T values more.

    The peak is at the loss, or at the end of backward, when the gradients are complete. With `accumulate`,
    the gradients of earlier micro-batches are in memory from the start.
    """
    c = config
    parts = count(c)
    tokens = batch * length
    each = 2 if autocast else 4
    heads = (2 * c.num_attention_heads + 2 * c.num_key_value_heads) * c.head_dim
    products = (5 if autocast else 2) * c.hidden_size + heads + 4 * c.intermediate_size
    layer = tokens * (4 * (4 * c.hidden_size + c.num_attention_heads + 2) + each * products)
    final = tokens * (8 + each) * c.hidden_size
    stored = (4 * tokens * c.hidden_size if recompute else layer) * c.num_hidden_layers + final
    matrices = parts["attention"] + parts["mlp"] + c.vocab_size * c.hidden_size
    memory = {
        "weights": 4.0 * parts["total"],
        "gradients": 4.0 * parts["total"],
        "moments": 8.0 * parts["total"],
        "16-bit copies": 2.0 * matrices if autocast else 0.0,
        "activations": float(stored),
        "one layer rebuilt": float(layer) if recompute else 0.0,
        "logits": (12.0 if loss_chunk else 16.0) * batch * min(loss_chunk or length, length) * c.vocab_size,
    }
    at_loss = stored + max(memory["logits"], memory["one layer rebuilt"])
    if loss_chunk:
        at_loss += 8.0 * c.vocab_size * c.hidden_size
    if accumulate:
        at_loss += memory["gradients"]
    always = memory["weights"] + memory["moments"] + memory["16-bit copies"]
    return memory | {"peak": always + max(at_loss, memory["gradients"] + layer)}


def memory_tables(name: str, config: ModelConfig, length: int, batch: int) -> list[Table]:
    """Weights and KV cache in each precision, and one training step, in MB (10^6 bytes)."""
    total = count(config)["total"]
    kv_heads, heads = config.num_key_value_heads, config.num_attention_heads
    columns = ("weights", "KV cache", "sum", "KV cache with MHA")
    serving = Table(
        f"{name}: weights and KV cache, {batch} x {length:,} tokens, in MB (10^6 bytes)",
        {"precision": "", **dict.fromkeys(columns, ",.1f")},
    )
    for precision, each in BYTES.items():
        weights = total * each / 1e6
        cache = kv_cache_bytes(config, length, batch, each) / 1e6
        serving.rows.append((precision, weights, cache, weights + cache, cache * heads / kv_heads))
    saved = f"{100 - 100 * kv_heads / heads:.0f}% less cache than with MHA"
    serving.notes = [
        f"{kv_heads} key/value heads for {heads} query heads: "
        f"{saved if kv_heads < heads else 'this is MHA'}.",
        "Frameworks usually leave the cache in 16 bits when weights are INT8 or INT4,",
        "and quantize neither embedding nor norms.",
    ]
    training = Table(
        f"{name}: one training step of {batch} x {length:,} tokens, in MB (10^6 bytes)", {"part": ""}
    )
    settings = {}
    for products in ("FP32", "16-bit"):
        for recompute in (False, True):
            label = products + " recompute" * recompute
            settings[label] = training_memory(config, batch, length, products != "FP32", recompute)
            training.columns[label] = ",.1f"
    for part in settings["FP32"]:
        training.rows.append((part, *(memory[part] / 1e6 for memory in settings.values())))
    training.notes = [
        "The peak is at the loss or at the end of backward, so it is less than the sum of",
        "all rows. With gradient accumulation the gradients are there at the loss too.",
    ]
    training.notes += recorded(name, config)
    return [serving, training]


# Output of bench/tpu_compile.py: size, backend, attention, recompute, loss chunk, arguments + temporaries
# in GiB. In TorchTPU's one graph for 150m the compiler merged the recomputation with the first computation.
LIMIT = 15.75                                                     # GiB that a program may use on a v5e chip
RECORDED_ON = {"torch_xla": "2026-11-27", "torchtpu": "2026-11-28"}
RECORDED = [
    ("20m", "torch_xla", "sdpa", False, None, 12.13),
    ("20m", "torch_xla", "flash", False, None, 12.58),
    ("20m", "torchtpu", "flash", False, None, 7.53),
    ("50m", "torch_xla", "flash", False, None, 14.20),
    ("50m", "torchtpu", "flash", False, None, 10.48),
    ("150m", "torch_xla", "flash", True, 512, 5.82),
    ("150m", "torchtpu", "flash", False, 512, 14.79),
]


def recorded(size: str, config: ModelConfig) -> list[str]:
    """One line for each recorded program of a size: the compiler's figure, and `training_memory`'s."""
    lines = []
    for name, backend, attention, recompute, chunk, figure in RECORDED:
        if name == size:
            memory = training_memory(config, 8, 4096, autocast=True, recompute=recompute, loss_chunk=chunk)
            how = f"{backend}, {attention}, {'layers recomputed' if recompute else 'no recompute'}"
            how += f", loss chunks of {chunk}" if chunk else ", loss in one piece"
            lines += [
                "TPU v5e, 8 x 4,096 tokens/chip,",
                f"  {how}:",
                f"  its compiler {figure:.2f} GiB of {LIMIT} ({RECORDED_ON[backend]}), our formula's peak "
                f"{memory['peak'] / 2**30:.2f}",
            ]
    return lines


# ---------------------------------------------------------------------------------------------------- compute

def flops(config: ModelConfig, length: int) -> dict[str, float]:
    """FLOPs per token at context T = `length`, a multiply-add as two (Chowdhery et al. 2022, appendix B).

    Forward 2N + 4LHFT; training three times as many, 6N + 12LHFT, with N all parameters. The term in T counts
    attention's two products in full; a kernel that skips the masked half does 2LHFT and 6LHFT. "training
    matmul" leaves out an untied input embedding, which is a lookup.
    """
    parts = count(config)
    attention = 4.0 * config.num_hidden_layers * config.num_attention_heads * config.head_dim * length
    lookup = 0 if config.tie_word_embeddings else parts["embedding"]
    forward = 2.0 * parts["total"] + attention
    return {
        "forward": forward, "training": 3 * forward, "attention share": attention / forward,
        "training causal": 3 * (forward - attention / 2), "training matmul": 3 * (forward - 2 * lookup),
    }


# ----------------------------------------------------------------------------------------------- command line

EXAMPLES = """  python params.py --size 20m                   the breakdown of the card
  python params.py --all                        the seven models of the cards
  python params.py --size 150m --memory --context 4096 --batch 8
  python params.py --size 20m --flops --throughput 304k
  python params.py --size 50m --hidden-size 640 --num-hidden-layers 12
  python params.py runs/20m --flops --measure   a run, folder or config.json
  python params.py --audit                      the cards against arithmetic
  python params.py --audit runs/20m             a run's card against its files"""


def parser() -> Parser:
    """The flags; those of the architecture are the fields of ModelConfig."""
    p = Parser("Count parameters, memory, FLOPs and cost of a Llama, and audit the model cards.", EXAMPLES)
    p.add_argument(
        "folder", nargs="?", metavar="CONFIG_OR_FOLDER",
        help="a Llama config.json, a model folder or a run folder",
    )
    p.add_argument(
        "--size", type=str.lower, choices=list(SIZES), help="one of the built-in shapes (default: 20m)"
    )
    p.add_argument("--all", action="store_true", help="show the seven models of the cards")
    p.add_argument("--memory", action="store_true", help="show memory of weights, KV cache and training")
    p.add_argument(
        "--flops", action="store_true",
        help="show FLOPs, time, energy, tokens per parameter, other vocabularies",
    )
    p.add_argument(
        "--audit", nargs="?", const="cards", metavar="FOLDER",
        help="check the three cards, or a folder of our own",
    )
    p.add_argument("--full", action="store_true", help="print every finding of --audit")
    p.add_argument("--json", action="store_true", help="machine-readable output")
    p.add_argument(
        "--plot", metavar="FILE", help="write a figure (.png, .svg, .pdf) of where the parameters go"
    )
    p.add_argument("--batch", type=positive, metavar="B", help="sequences at once, for --memory (default: 1)")
    p.add_argument(
        "--context", type=positive, metavar="T",
        help="positions (default: the model's max_position_embeddings)",
    )
    p.add_argument(
        "--tokens", type=positive, metavar="N",
        help="tokens of the run (default: the card's, else 20 per parameter)",
    )
    p.add_argument(
        "--step-tokens", type=positive, metavar="N",
        help="tokens per step (default: 262,144; up to context 1,024: 8,192)",
    )
    p.add_argument(
        "--throughput", type=positive, metavar="RATE",
        help="tokens per second of the run, instead of --utilization",
    )
    p.add_argument(
        "--utilization", type=float, default=0.4, metavar="SHARE",
        help="share of the hardware's peak (default: 0.4)",
    )
    p.add_argument(
        "--measure", action="store_true", help="like --flops, and measure the speed of this machine"
    )
    shape = p.add_argument_group(
        "architecture", "the rest comes from --size or the file, head_dim from hidden_size / heads"
    )
    for item in dataclasses.fields(ModelConfig):
        kind = {"int": count_of, "float": float}.get(item.type)
        options = {"type": kind, "metavar": "N"} if kind else {"action": argparse.BooleanOptionalAction}
        shape.add_argument("--" + item.name.replace("_", "-"), default=argparse.SUPPRESS, **options)
    return p


def chosen(args: argparse.Namespace) -> dict[str, ModelConfig]:
    """Name -> configuration from the command line. Raises UserError with all problems of a shape."""
    changed = {
        item.name: getattr(args, item.name)
        for item in dataclasses.fields(ModelConfig)
        if hasattr(args, item.name)
    }
    if sum([bool(args.folder), bool(args.size), args.all]) > 1 or (args.all and changed):
        raise UserError(
            "give one of CONFIG_OR_FOLDER, --size and --all; architecture flags are for the first two"
        )
    if args.all:
        return {name: SIZES[name] for name in FAMILY}
    name = args.folder or args.size or "20m"
    if args.folder:
        config = ModelConfig.from_json(name if Path(name).is_file() else find_run(name) / "config.json")
    else:
        config = SIZES[name]
    found = []
    if changed:
        name = f"{name} with " + ", ".join(f"{key} {value}" for key, value in changed.items())
        config = dataclasses.replace(config, **changed)
        if (
            {"hidden_size", "num_attention_heads"} & set(changed)
            and "head_dim" not in changed
            and config.num_attention_heads > 0
        ):
            config = dataclasses.replace(config, head_dim=config.hidden_size // config.num_attention_heads)
            if config.hidden_size % config.num_attention_heads:
                found.append(f"hidden_size {config.hidden_size} is not a multiple of "
                             f"{config.num_attention_heads} heads: give --head-dim")
    found += config.problems()
    if found:
        raise UserError("impossible configuration: " + "; ".join(found))
    return {name: config}


def main() -> int:
    """The command line: tables of the chosen models, or the audit. Returns the exit code."""
    args = parser().parse_args()
    if not 0 < args.utilization <= 1:
        raise UserError(f"--utilization {args.utilization} must be above 0 and at most 1")
    if args.audit:
        from audit import all as every_card
        from publishing import card_audit
        folder = args.folder if args.audit == "cards" else args.audit
        if folder:
            return card_audit.main(folder, args.json, args.full)
        return every_card.main(args.json, args.full)
    if args.full:
        raise UserError("--full is for --audit; add --audit")
    models, beyond = chosen(args), args.memory or args.flops or args.measure
    unused = [
        name for name in ("batch", "context", "tokens", "step_tokens", "throughput") if getattr(args, name)
    ]
    if unused and not beyond:
        raise UserError(
            f"--{unused[0].replace('_', '-')} changes no parameter count; give it with --memory or --flops"
        )
    tables = [family(models)] if args.all and not beyond else []
    for name, config in models.items():
        length = args.context or config.max_position_embeddings
        if args.memory:
            tables += memory_tables(name, config, length, args.batch or 1)
        if args.flops or args.measure:
            from audit import cost
            tables += cost.tables(name, config, length, args)
        if not (args.all or beyond):
            tables += breakdown(name, config)
    if args.plot:
        from audit import plot
        plot.plot({name: count(config) for name, config in models.items()}, args.plot)
    if args.json:
        shapes = {
            name: {"config": dataclasses.asdict(c), "parameters": count(c)} for name, c in models.items()
        }
        print(json.dumps({"models": shapes, "tables": [table.plain() for table in tables]}, indent=1))
    else:
        print("\n".join(table.text() for table in tables), end="")
        if args.plot:
            print(f"\nwritten: {args.plot}, a figure of the parameters of {', '.join(models)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))
