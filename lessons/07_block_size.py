# SPDX-License-Identifier: Apache-2.0
# Read this lesson as a page or notebook: `python lessons/build.py 07` writes both to lessons/built/.

# %% [markdown]
# # 7. Block, initialization and size
#
# **Question.** Lessons 04 to 06 made the parts: norm, MLP, rotary positions, attention. How are they put
# together so that a deep stack of them can be trained, and what does the stack cost in parameters, memory and
# arithmetic?
#
# **Prediction.** Every block *adds* its result to the same running vector. Compare the vector after the first
# block with the vector after the last of two dozen blocks. Does it grow like the number of blocks, two dozen
# times; like its square root, about five times; or by a factor between the two? Write down a number, and why.

# %%
import sys
from pathlib import Path

place = Path(globals().get("__file__", "lesson.py")).resolve()         # a notebook has no __file__
sys.path.insert(0, str(next(folder for folder in place.parents if (folder / "model.py").is_file())))

import dataclasses
import math
import textwrap

import torch

from lessons.tools import FAST, draw_shapes, finish, save_figure, table
import matplotlib.pyplot as plt

import params
from audit.all import audit
from training.settings import TrainSettings
from model import SIZES, Llama, attention_written_out, init_weights, next_token_loss

# %% [markdown]
# ## One block, by hand
#
# The vector that runs through the model, one per position, is called the **residual stream**. A **block**
# is what the earlier lessons called a layer; both words are in use. It reads the stream twice and adds to
# it twice (He et al. 2016 for the idea of adding; Xiong et al. 2020 for the norm *before* each part):
#
# ```text
# x = x + attention(norm(x))
# x = x + mlp(norm(x))
# ```
#
# Nothing else changes the stream: no norm, no scale. So the embedding of a token can pass through all
# blocks unchanged, and a gradient can pass back the same way. (This is why the untrained model of lesson 01
# guessed the token that it had just read: the token's embedding was still a part of the vector, and `tiny`
# uses the embedding as its output matrix, too. Such matrices are called **tied**.) The next cell computes
# the two lines by hand, with the parts of a real block, and compares with `model.py:Block.forward`.

# %%
torch.manual_seed(7)                                        # the seed of everything random in this lesson
small = Llama(SIZES["tiny"], attend=attention_written_out)
block = small.model.layers[0]
cos, sin = small.model.cos[:16], small.model.sin[:16]
x = torch.randn(1, 16, 128)

by_hand = x + block.self_attn(block.input_layernorm(x), cos, sin)
by_hand = by_hand + block.mlp(block.post_attention_layernorm(by_hand))
with torch.no_grad():
    print("largest difference:", float((by_hand - block(x, cos, sin)).abs().max()))
assert torch.equal(by_hand, block(x, cos, sin))
draw_shapes("07_shapes", {
    "stream": (0, 1), "norm": (1, 0), "attention": (2, 0), "+": (3, 1), "norm ": (4, 0), "MLP": (5, 0),
    "+ ": (6, 1), "next block": (7.2, 1)}, [
    ("stream", "+", "(B, T, D), unchanged"), ("stream", "norm", "(B, T, D)"),
    ("norm", "attention", "(B, T, D)"), ("attention", "+", "(B, T, D)"),
    ("+", "+ ", "(B, T, D), unchanged"), ("+", "norm ", "(B, T, D)"),
    ("norm ", "MLP", "(B, T, D)"), ("MLP", "+ ", "(B, T, D)"), ("+ ", "next block", "(B, T, D)")])

# %% [markdown]
# The two are equal, bit for bit. A block is nothing more than this.
#
# ## How large does the stream become?
#
# Before training, every matrix is filled with random numbers: a normal distribution with mean zero and
# standard deviation 0.02, as the published models state it. Each block then adds two nearly independent
# random vectors. The size of a sum of independent vectors does not grow like their number but like its square
# root, because variances add, not lengths:
#
# ```text
# variance after L blocks  =  variance of the embedding + 2 L · variance of one addition
# ```
#
# `GPT-2`, an earlier published model (Radford et al. 2019, section 2.3), therefore starts the matrices
# *that add to the stream* smaller, by `1/√(2L)`: the 2L additions together then have the variance of one.
# There are two such matrices per block, `o_proj` at the end of attention and `down_proj` at the end of the
# MLP; `model.py:residual_output` marks them where they are made and `model.py:init_weights` scales what is
# marked. We measure the size as **RMS**, the root of the mean of the squares.

# %%
assert abs(float(small.model.embed_tokens.weight.detach().std()) - 0.02) < 0.0005

shape = dataclasses.replace(SIZES["tiny"], hidden_size=256, intermediate_size=768, num_attention_heads=8,
                            num_key_value_heads=4, num_hidden_layers=8 if FAST else 24)
depth = shape.num_hidden_layers
ids = torch.randint(0, shape.vocab_size, (2, 64))


def stream_size(model):
    """RMS of the residual stream after the embedding and after each block, from hooks on the real modules."""
    sizes = []

    def note_size(module, inputs, output):
        sizes.append(float(output.detach().pow(2).mean().sqrt()))

    hooks = [
        module.register_forward_hook(note_size) for module in (model.model.embed_tokens, *model.model.layers)
    ]
    with torch.no_grad():
        model(ids)
    for hook in hooks:
        hook.remove()
    return sizes


sizes = {}
for name, scaled in (("scaled", True), ("not scaled", False)):
    torch.manual_seed(7)
    model = Llama(shape)
    init_weights(model, scale_residual=scaled)
    sizes[name] = stream_size(model)
table(("after block", *sizes),
      [(n, *(f"{column[n]:.3f}" for column in sizes.values())) for n in range(0, depth + 1, 4)])

# %% [markdown]
# Without scaling, the stream after the last of 24 blocks is about 11 times as large as after the first block,
# and 24 times as large as the embedding; with scaling it is about 3 times as large as after the first block.
# The size does not grow by the same factor in each block: after a quarter of the blocks the unscaled stream
# already has about half of its final size, as a square root would.
#
# What is bad about a large stream? What a late block of the unscaled model adds is small compared with the
# stream, since the stream holds what all earlier blocks added. So the early blocks decide most of the result,
# and late blocks little. The figure also shows how the final size depends on the number of blocks.

# %%
# from the first block's result to the last block's
growth = {name: column[-1] / column[1] for name, column in sizes.items()}
from_embedding = sizes["not scaled"][-1] / sizes["not scaled"][0]
print({name: round(factor, 1) for name, factor in growth.items()}, "in", depth, "blocks")
print("not scaled, from the embedding:", round(from_embedding, 1))
assert sizes["scaled"][0] == sizes["not scaled"][0] and abs(sizes["scaled"][0] - 0.02) < 0.001
half_way = sizes["not scaled"][depth // 4] / sizes["not scaled"][-1]
if not FAST:
    assert depth == 24 and abs(growth["not scaled"] - 11) < 1 and abs(growth["scaled"] - 3) < 0.5
    assert abs(from_embedding - 24) < 2
    assert 0.35 < half_way < 0.6

finals = {"scaled": [], "not scaled": []}
depths = [2, 4, 8] if FAST else [2, 4, 8, 16, 32]
for blocks in depths:
    for name in finals:
        torch.manual_seed(7)
        model = Llama(dataclasses.replace(shape, num_hidden_layers=blocks))
        init_weights(model, scale_residual=name == "scaled")
        finals[name].append(stream_size(model)[-1])

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
for name in sizes:
    left.plot(sizes[name], label=name)
    right.plot(depths, finals[name], marker="o", label=name)
left.set(xlabel="after block", ylabel="RMS of the stream", title=f"one model of {depth} blocks")
right.set(xlabel="blocks in the model", ylabel="RMS after the last block", title="models of different depth")
right.set_xscale("log", base=2)
left.legend()
save_figure(figure, "07_stream_by_depth")
table(
    ("blocks", *finals),
    [(n, *(f"{column[i]:.3f}" for column in finals.values())) for i, n in enumerate(depths)],
)

# %% [markdown]
# From 2 blocks to 32 the size after the last block grows by about half in the scaled model, and hardly from 8
# on; in the unscaled model it becomes seven times as large and keeps growing. This is the purpose of the
# factor: at the start of training, models of every depth look much alike.
#
# The published models differ here. Stentor3 and Portimbria scale; the card of Stentor2 says that it does not,
# and the table `model.py:UNSCALED` says which sizes of this project do not. The Stentor2
# models have only ten or twelve blocks, so their stream grows less. `30m-v1` has twenty-one blocks; its card
# says nothing about scaling, and we chose not to scale it.
#
# ## A famous bug, and how it hides
#
# llama2.c, a well-known small Llama, calls the three matrices of the MLP `w1` (gate), `w2` (down) and `w3`
# (up). It chose the matrices to scale by the *end of their name*, and it looked for `w3.weight`: the up
# projection, which does not add to the stream, instead of `w2`, which does. The line was copied into other
# projects.
#
# Guess before you run the next cell: how much larger is the stream with the bug? We make the wrong model from
# the right one: `down_proj` gets its full size again, and `up_proj` is scaled instead.

# %%
assert depths[0] == 2 and depths[-1] == (8 if FAST else 32)
assert 1.3 < finals["scaled"][-1] / finals["scaled"][0] < 1.6
assert finals["scaled"][-1] / finals["scaled"][depths.index(8)] < 1.15
assert (2.5 if FAST else 6) < finals["not scaled"][-1] / finals["not scaled"][0] < 8

factor = 1 / math.sqrt(2 * depth)
torch.manual_seed(7)
right_model = Llama(shape)
torch.manual_seed(7)
wrong_model = Llama(shape)
with torch.no_grad():
    for layer in wrong_model.model.layers:
        layer.mlp.down_proj.weight.div_(factor)
        layer.mlp.up_proj.weight.mul_(factor)

rows = []
for part in ("self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"):
    matrices = [model.get_submodule(f"model.layers.0.{part}").weight for model in (right_model, wrong_model)]
    deviations = [float(matrix.detach().std()) for matrix in matrices]
    rows.append((part, *(f"{deviation:.4f}" for deviation in deviations)))
table(("matrix", "std, right", "std, with the bug"), rows)
right_sizes, wrong_sizes = stream_size(right_model), stream_size(wrong_model)
print(f"stream after the last block: right {right_sizes[-1]:.6f}, with the bug {wrong_sizes[-1]:.6f}")

# %% [markdown]
# The table of standard deviations shows the bug at once. The stream does not show it at all: both are equal
# to at least four digits. Look at the formula of the MLP to see why:
#
# ```text
# down( silu(gate(x)) · up(x) )
# ```
#
# `up` enters as a plain factor, so a constant in `up` is the same as a constant in `down`. At the start the
# two models compute the *same function*. So no output, no first loss and no plot of the stream shows a
# difference. What differs is how they learn. The next cell compares the size of each matrix's gradient with
# the size of the matrix itself.

# %%
assert max(abs(a / b - 1) for a, b in zip(right_sizes, wrong_sizes)) < 1e-4
assert rows[2][1] != rows[2][2] and rows[3][1] != rows[3][2] and rows[0][1] == rows[0][2]

relative = {}
losses = {}
for name, model in (("right", right_model), ("bug", wrong_model)):
    loss = next_token_loss(model(ids), ids)
    loss.backward()
    losses[name] = float(loss.detach())
    for part in ("up_proj", "down_proj"):
        matrices = [layer.mlp.get_submodule(part).weight for layer in model.model.layers]
        ratios = [matrix.grad.norm() / matrix.detach().norm() for matrix in matrices]
        relative[name, part] = float(torch.stack(ratios).mean())
print("loss: right", losses["right"], " bug", losses["bug"])
table(
    ("matrix", "|gradient| / |weight|, right", "with the bug"),
    [
        (part, f"{relative['right', part]:.4f}", f"{relative['bug', part]:.4f}")
        for part in ("up_proj", "down_proj")
    ],
)

# %% [markdown]
# The two matrices have changed roles. In the right model `down_proj` starts small and has a large gradient
# relative to its size; in the wrong one it is `up_proj`. Training works in both cases, which is why nobody
# saw the bug for so long. There are two things to learn from it. First, test directly what you intended
# ("these matrices start smaller"): `tests/test_model.py` reads the standard deviation of every tensor.
# Second, choose a matrix by what it *is*, here by a mark that is set where the matrix is made, not by how its
# name ends.
#
# ## What the stack costs
#
# **Parameters** are the numbers that training changes. With D the width of the stream, H query heads and K
# key/value heads of width F, M the width of the MLP, V the vocabulary and L blocks:
#
# ```text
# embedding   V · D            (twice, if the output head is a matrix of its own: "untied")
# attention   L · (2 · D · H·F  +  2 · D · K·F)
# MLP         L · 3 · D · M
# norms       L · 2 · D  +  D
# ```
#
# (In the line of attention, the first term is `q_proj` and `o_proj`, the second `k_proj` and `v_proj`.)
# `params.py:count` computes this for any shape. The next cell compares it with the number of elements that
# the model really holds, for every size of the family. (The models are built on torch's device "meta",
# where a tensor has a shape but no memory.)

# %%
assert relative["right", "down_proj"] > 3 * relative["bug", "down_proj"]
assert relative["bug", "up_proj"] > 3 * relative["right", "up_proj"]
assert abs(losses["right"] - losses["bug"]) < 1e-4

rows = []
for name, config in SIZES.items():
    with torch.device("meta"):
        held = sum(parameter.numel() for parameter in Llama(config).parameters())
    counted = params.count(config)["total"]
    assert held == counted
    share = params.embedding_share(config)
    megabytes = params.BYTES["FP32"] * counted / 1e6
    cache = params.kv_cache_bytes(config, config.max_position_embeddings) / 2**20
    work = params.flops(config, config.max_position_embeddings)["training"]
    rows.append(
        (name, f"{counted:,}", f"{share:.1f}%", f"{megabytes:.1f}", f"{cache:.1f}", f"{work / 1e6:,.0f}")
    )
table(("size", "parameters", "vocabulary", "MB in FP32", "KV cache, MiB", "training MFLOP/token"), rows)

# %% [markdown]
# Formula and model agree for every size. Look at three things in this table.
#
# - **The vocabulary is expensive.** In `12m-v1`, 52.2% of all parameters are the embedding: more than all
#   blocks have together. `20m` has a vocabulary of 4,096 tokens only, and although it needs two matrices of
#   this size, their share is 12.9%. With 32,768 tokens it would be 54.2%: that is why the family changed its
#   tokenizer (lesson 02 shows what a smaller vocabulary costs).
# - **The cache is extra.** The weights are in memory once, the KV cache once for each text: 12.0 MiB for
#   `20m` at its full context, two bytes a number. With keys and values for each of its ten query heads it
#   would be five times that (lesson 06).
# - **Arithmetic** is counted in **FLOPs**, floating-point operations; a multiply-add counts as two. Each
#   parameter of a matrix product takes part in one multiply-add per token, so a forward pass costs `2N`,
#   and training three times that, `6N`: the backward pass makes two products for each one of the forward
#   pass, one for the gradient of the input and one for that of the weights. To this comes attention, whose
#   cost grows with the length T of the context: scores and weighted mean take `4 · F · T` per head and
#   token, and training again three times that (Chowdhery et al. 2022, appendix B). By convention N counts
#   all parameters. That is a little too much where the input embedding is a separate matrix: it is looked
#   up, not multiplied.
#
# ```text
# training FLOPs per token  =  6 N + 12 · L · H · F · T
# ```

# %%
shares = {name: round(params.embedding_share(config), 1) for name, config in SIZES.items()}
assert shares["12m-v1"] == 52.2 and shares["20m"] == 12.9 and SIZES["20m"].vocab_size == 4096
large_vocabulary = dataclasses.replace(SIZES["20m"], vocab_size=32768)
assert large_vocabulary.vocab_size == 32768 and round(params.embedding_share(large_vocabulary), 1) == 54.2
assert params.kv_cache_bytes(SIZES["20m"], 4096) / 2**20 == 12.0

rows = []
for length in (128, 1024, 4096):
    work = params.flops(SIZES["20m"], length)
    rows.append((length, f"{work['training'] / 1e6:.0f}", f"{100 * work['attention share']:.0f}%"))
table(("context", "training MFLOP/token of 20m", "of which attention"), rows)

figure, axes = plt.subplots(figsize=(8, 3.8), layout="constrained")
left_end = [0.0] * len(SIZES)
for part in ("embedding", "lm_head", "attention", "mlp"):
    widths = [100 * params.count(config)[part] / params.count(config)["total"] for config in SIZES.values()]
    axes.barh(list(SIZES), widths, left=left_end, label=part)
    left_end = [start + width for start, width in zip(left_end, widths)]
axes.set(xlabel="percent of the parameters", title="where the parameters are")
axes.invert_yaxis()
axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
save_figure(figure, "07_where_parameters_are")

# %% [markdown]
# At T = 128, the default of `train.py`, the products inside attention are 5% of the work and `6N` is a good
# estimate. At 4096, the longest context of `20m`, they are 61%: for a small model with a long context the
# rule "six times the parameters" misses more than half.
#
# ## What the audit of the cards teaches
#
# A **model card** is the page that describes a published model. The three cards of the family hold more than
# a thousand statements that can be read as data: sizes, memory, steps, hours, scores. `python params.py
# --audit` computes each from the others. A number counts as wrong ("inconsistent") only if *no* value that
# rounds to it can be right. A statement that follows from nothing else on the card is called "not checkable".

# %%
short, long = params.flops(SIZES["20m"], 128), params.flops(SIZES["20m"], 4096)
assert TrainSettings.seq_len == 128 and round(100 * short["attention share"]) == 5
assert round(100 * long["attention share"]) == 61
assert SIZES["20m"].max_position_embeddings == 4096

findings = audit()
verdicts = {}
for finding in findings:
    verdicts[finding.verdict] = verdicts.get(finding.verdict, 0) + 1
table(("verdict", "statements"), [(verdict, count) for verdict, count in verdicts.items()])

shown = (
    "12m-v1.architecture.num_hidden_layers",
    "20m.architecture.num_attention_heads.stentor3-family-table",
    "20m.architecture.num_attention_heads.stentor3-gqa-explanation",
    "20m.memory.vram_table_4096_ctx.kv-cache-fp16-bf16",
    "20m.lora.stated_all",
    "30m.throughput.end_step.budget",
)
found = {finding.id: finding for finding in findings}
for name in shown:
    print(f"\n{name}\n    stated {found[name].stated}, computed {found[name].computed}")
    print("    " + textwrap.shorten(found[name].formula, 105, placeholder=" ..."))

# %% [markdown]
# Two out of three statements are consistent, and 75 cannot be right. The errors are of a few *kinds*, and
# each kind teaches a habit:
#
# - **A table row from another draft.** `12m-v1` is said to have 9 layers; only 12 give its stated total of
#   12.0 million and its share of 52.2%. Two numbers that depend on the same field check each other. State
#   both.
# - **Two stories in one card.** `20m` has 5 heads in one table, 8 in an explanation and 10 in its
#   specification. Only one of them times the head width of 32 is the width of the model. Keep a number in one
#   place and print it from there.
# - **Two units in one column.** The KV cache is given as 6 where 12.0 MiB (12.6 MB) follows from the shape;
#   the weights beside it are in other units. Write the unit, and the formula once.
# - **Numbers copied with the text.** The example of an adapter (a few extra weights that are trained while
#   the model stays fixed) on the 20m card prints 49.4 million parameters: those of the 50m model.
# - **A product that nobody computed.** The 30m card says that its run ended at step 30,300 because its tokens
#   were used up; but 30,300 steps of 8,192 tokens are 248 million tokens, and it had 800 million.
#
# None of this says that the models are bad, or that anyone lied. It says that numbers typed by hand become
# wrong. That is why this course asserts every number of its prose, and why `publishing/card.py` writes a card
# from the run's own files.

# %%
by_id = {name: str(found[name].stated) for name in shown}
assert (
    verdicts["inconsistent"] == 75
    and 0.6 < verdicts["consistent"] / len(findings) < 0.7
    and len(findings) > 1000
)
assert int(by_id[shown[0]]) == 9 and SIZES["12m-v1"].num_hidden_layers == 12
assert round(params.count(SIZES["12m-v1"])["total"] / 1e6, 1) == 12.0 and shares["12m-v1"] == 52.2
assert int(by_id[shown[1]]) == 5 and int(by_id[shown[2]]) == 8 and SIZES["20m"].num_attention_heads == 10
assert SIZES["20m"].head_dim == 32 and 10 * 32 == SIZES["20m"].hidden_size
assert int(by_id[shown[3]]) == 6 and round(params.kv_cache_bytes(SIZES["20m"], 4096) / 1e6, 1) == 12.6
assert "49.4" in by_id[shown[4]] and round(params.count(SIZES["50m"])["total"] / 1e6, 1) == 49.4
assert (
    int(by_id[shown[5]]) == 30300 and round(30_300 * 8_192 / 1e6) == 248 and params.FAMILY["30m"] == 800 * 1e6
)
print("every number above is in these asserts")

# %% [markdown]
# ## Back to the question
#
# The parts are put together by addition: each block reads the stream through a norm and adds two results to
# it. With n independent additions of the same size the stream grows like the square root of n. After the
# first block there are two additions, after the last one 48, so 24 times as many: the root is a factor of
# about 5. We measured 11: more than the root, less than the number. The additions do not all have the same
# size (the first exercise shows it), and they are not independent: later blocks read what earlier ones
# wrote. Scaling the additions by `1/√(2L)` makes the result nearly the same at each depth.
#
# The cost follows from the shape by a formula short enough to compute by hand.

# %%
if not FAST:
    assert depth == 24 and 2 * depth == 48 and abs(math.sqrt(2 * depth / 2) - 5) < 0.2
    assert math.sqrt(depth) < growth["not scaled"] < depth and round(growth["not scaled"]) == 11
results = {
    "growth_scaled": growth["scaled"],
    "growth_not_scaled": growth["not scaled"],
    "bug_stream_ratio": wrong_sizes[-1] / right_sizes[-1],
    "parameters_20m": params.count(SIZES["20m"])["total"],
    "inconsistent_statements": verdicts["inconsistent"],
}
finish("07_block_size", results)

# %% [markdown]
# ## Exercises
#
# 1. The stream of the *scaled* model still grows, by a factor of about three. Which of the two additions of a
#    block is responsible? Hook `self_attn` and `mlp` in place of the blocks, and look at the first and the
#    last block.
# 2. Design a model of at most ten million parameters with a vocabulary of `8064`. Begin with `python
#    params.py --vocab-size 8064 --hidden-size 256 --num-hidden-layers 8 --num-attention-heads 8`, which is
#    too large. What would you do with the parameters that tying the output head to the embedding
#    (`--tie-word-embeddings`) saves?
# 3. Take one statement that the audit calls inconsistent, `python params.py --audit` prints them all, and
#    find by hand which single change would make it right. Then find one that the audit calls not checkable,
#    and say what the card would have to add so that it could be checked.
