# SPDX-License-Identifier: Apache-2.0
# Read this lesson as a page or notebook: `python lessons/build.py 06` writes both to lessons/built/.

# %% [markdown]
# # 6. Attention and grouped heads
#
# **Question.** To predict the next token a model must use the tokens before it, and must never see those
# after it. How does one position read from others, and how can we be certain that it cannot read from the
# future?
#
# **Prediction.** A model reads a text of forty tokens, then the same text with one token changed: number
# twenty, if the first is number zero. At how many of the forty positions will the model's answer be
# different? Write down a number.

# %%
import sys
from pathlib import Path

place = Path(globals().get("__file__", "lesson.py")).resolve()         # a notebook has no __file__
sys.path.insert(0, str(next(folder for folder in place.parents if (folder / "model.py").is_file())))

import dataclasses
import math

import torch

from lessons.tools import FAST, draw_shapes, finish, save_figure, table
from lessons.trained import trained_run
import matplotlib.pyplot as plt

import params
import tokenizer
from common import find_run
from model import SIZES, Attention, Llama, attention_written_out, sdpa

# %% [markdown]
# ## A question, a label, and a content
#
# In attention every position makes three vectors from its own vector: a **query** (what am I looking for?), a
# **key** (what do I have?) and a **value** (what do I pass on?). A position compares its query with the key
# of each position up to itself. The comparison is a dot product, divided by the root of the vectors' width F;
# softmax turns the results into weights that sum to one; and the position receives the weighted mean of the
# values (Vaswani et al. 2017, eq. 1):
#
# ```text
# weight(t, s) = softmax over s ≤ t of   q(t) · k(s) / √F
# y(t)         = Σ  weight(t, s) · v(s)
# ```
#
# The next cell writes this with loops, one position after the other, and compares with
# `model.py:attention_written_out`, which does it with matrices, and with `model.py:sdpa`, which calls
# torch's fused kernel (one program for all of attention, which never stores the table of scores). A layer
# has several such attentions side by side, its **heads**, each with its own queries, keys and values of
# width F. The axes are batch B, heads H, positions T and width F, as everywhere in this project.

# %%
torch.manual_seed(6)                                        # the seed of everything random in this lesson
B, H, T, F = 1, 4, 12, 32
q, k, v = torch.randn(3, B, H, T, F)


def naive_attention(q, k, v):
    """Attention of every head and position in turn; each reads positions 0 to t only."""
    y = torch.zeros_like(q)
    for head in range(q.shape[1]):
        for t in range(q.shape[2]):
            scores = torch.stack([q[0, head, t] @ k[0, head, s] for s in range(t + 1)]) / math.sqrt(
                q.shape[3]
            )
            weights = torch.exp(scores) / torch.exp(scores).sum()
            y[0, head, t] = sum(weights[s] * v[0, head, s] for s in range(t + 1))
    return y


by_loops = naive_attention(q, k, v)
differences = {
    "matrices": float((by_loops - attention_written_out(q, k, v)).abs().max()),
    "torch's kernel": float((by_loops - sdpa(q, k, v)).abs().max()),
}
print({name: f"{value:.1e}" for name, value in differences.items()})
assert torch.allclose(by_loops, attention_written_out(q, k, v), atol=1e-5)
assert torch.allclose(by_loops, sdpa(q, k, v), atol=1e-5)
draw_shapes("06_shapes", {
    "x": (0, 1), "q_proj, rotate": (1.1, 0), "k_proj, rotate": (1.1, 1), "v_proj": (1.1, 2),
    "q · k / √F,\nmask": (2.5, 0.5), "softmax": (3.7, 0.5), "weighted mean": (4.9, 1.5), "o_proj": (6.2, 1.5),
    "added to x": (7.2, 1.5)}, [
    ("x", "q_proj, rotate", "(B, T, D)"), ("x", "k_proj, rotate", "(B, T, D)"), ("x", "v_proj", "(B, T, D)"),
    ("q_proj, rotate", "q · k / √F,\nmask", "(B, H, T, F)"), ("softmax", "weighted mean", "(B, H, T, T)"),
    ("k_proj, rotate", "q · k / √F,\nmask", "(B, K, T, F)"), ("q · k / √F,\nmask", "softmax", "(B, H, T, T)"),
    ("v_proj", "weighted mean", "(B, K, T, F)"), ("weighted mean", "o_proj", "(B, T, H·F)"),
    ("o_proj", "added to x", "(B, T, D)")])

# %% [markdown]
# ## Why the root?
#
# A dot product of two random vectors of width F is a sum of F independent products, so its standard
# deviation is the root of F (lesson 07 uses the same fact). Without the division, wide heads would have
# scores so far apart that softmax gives all weight to one position. There the gradient of softmax is nearly
# zero (the slope of a weight p by its own score is `p · (1 - p)`), and nothing would be learned. We measure
# the standard deviation of the scores, and the largest of the weights that a position gives to sixty-four
# others.

# %%
rows = []
spread, largest = {}, {}
for width in (16, 64, 256):
    queries, keys = torch.randn(2, 200 if FAST else 2000, 64, width)
    scores = (queries[:, :1] @ keys.transpose(1, 2))[:, 0]                # (many, 64)
    spread[width] = float(scores.std())
    plain = float(torch.softmax(scores, dim=1).max(dim=1).values.mean())
    divided = float(torch.softmax(scores / math.sqrt(width), dim=1).max(dim=1).values.mean())
    largest[width] = (plain, divided)
    rows.append((width, f"{spread[width]:.1f}", f"{plain:.2f}", f"{divided:.2f}"))
table(("width F", "deviation of q·k", "largest weight, plain", "largest weight, divided by √F"), rows)

# %% [markdown]
# The standard deviation is 4, 8 and 16: the root of the width. Without the division the largest weight comes
# close to one as heads become wider; with it, the weight hardly depends on the width.
#
# ## No look at the future
#
# The condition `s ≤ t` is called the **causal mask**. A row of T tokens gives T - 1 predictions to learn from
# at once, and in none of them may the answer be visible. A mistake here is dangerous, because everything
# *looks* better: the loss falls very fast, and the model is useless.
#
# The test is simple. Change one token, and see where the model's answers change. We do it with the real
# model, and with the same model without a mask.

# %%
assert [round(deviation) for deviation in spread.values()] == [4, 8, 16] and list(spread) == [16, 64, 256]
assert (
    largest[256][0] > largest[16][0]
    and largest[256][0] > 0.8
    and abs(largest[256][1] - largest[16][1]) < 0.05
)

model = Llama(SIZES["tiny"])
ids = torch.randint(0, 4096, (1, 40))
changed = ids.clone()
changed[0, 20] = (ids[0, 20] + 1) % 4096
everything = torch.ones(40, 40, dtype=torch.bool)           # a mask that forbids nothing
with torch.no_grad():
    moved = (model(ids) - model(changed)).abs().amax(dim=2)[0]                                       # (T,)
    moved_open = (model(ids, mask=everything) - model(changed, mask=everything)).abs().amax(dim=2)[0]   # (T,)
for name, change in (("causal", moved), ("no mask", moved_open)):
    print(
        f"{name}: {int((change > 0).sum())} answers changed, the first is number {int(change.nonzero()[0])}"
    )

figure, axes = plt.subplots(figsize=(7, 3))
axes.semilogy(moved_open.clamp(min=1e-9), marker=".", label="no mask")
axes.semilogy(moved.clamp(min=1e-9), marker=".", label="causal")
axes.axvline(20, linestyle=":", color="black")
axes.set(
    xlabel="position", ylabel="largest change of a logit", title="token 20 was changed (1e-9: not at all)"
)
axes.legend()
save_figure(figure, "06_causality")

# %% [markdown]
# 20 answers change: those at position 20 and after it. Before it the difference is not small but exactly
# zero, to the last bit. Without the mask, all 40 change. `tests/test_model.py` checks the same for every
# size.
#
# ## What a position reads
#
# The function that computes attention is an argument of our model (`attend`). So we can pass our own
# function, which keeps the weights and returns what the real one returns. We use it on a model without
# training and on a trained one: your newest run under `runs/`, or, if there is none, a tiny one that is
# trained now for half a minute (lessons 11 and 12 use the same one).

# %%
assert int((moved > 0).sum()) == 20 and int(moved.nonzero()[0]) == 20 and float(moved[:20].max()) == 0
assert int((moved_open > 0).sum()) == 40

maps = []


def watching(q, k, v, mask=None):
    """The real attention; the weights of each call are kept."""
    group = q.shape[1] // k.shape[1]
    scores = q @ k.repeat_interleave(group, dim=1).transpose(2, 3) / math.sqrt(q.shape[3])
    causal = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool).tril()
    maps.append(torch.softmax(scores.masked_fill(~causal, -math.inf), dim=3)[0])  # (H, T, T)
    return attention_written_out(q, k, v, mask)


folder = find_run(trained_run())
words = tokenizer.load(folder)
ids = torch.tensor(
    [words.encode("Question: What is 12 + 30? Working: 12 + 30 = 42. Answer: 42", document=True)]
)
names = [words.decode([token]) for token in ids[0].tolist()]
with torch.no_grad():
    trained = Llama.from_pretrained(folder, attend=watching)
    trained(ids)
    trained_maps = torch.stack(maps)                                      # (L, H, T, T)
    maps.clear()
    torch.manual_seed(6)
    Llama(trained.config, attend=watching)(ids)
    random_maps = torch.stack(maps)                                       # (L, H, T, T)
sharpest = int(trained_maps[:, :, -1].amax(dim=2).argmax())
layer, head = divmod(sharpest, trained_maps.shape[1])

figure, panels = plt.subplots(1, 2, figsize=(9, 4.2))
titles = ("untrained", f"trained: layer {layer}, head {head}")
for panel, weights, title in zip(panels, (random_maps, trained_maps), titles):
    panel.imshow(weights[layer, head], cmap="viridis", vmin=0)
    panel.set(title=title, xlabel="is read", ylabel="reads")
panels[1].set_yticks(range(len(names)), [name.strip() for name in names], fontsize=6)
panels[1].set_xticks(range(len(names)), [name.strip() for name in names], fontsize=6, rotation=90)
save_figure(figure, "06_maps")
sums = trained_maps.sum(dim=3)
uniform = float((random_maps[0, :, -1] - 1 / len(names)).abs().max())
print(f"{len(names)} tokens; weights of a position sum to one: {float((sums - 1).abs().max()):.0e} off")
print(f"untrained, last position: no weight differs from 1/{len(names)} by more than {uniform:.3f}")
print(
    f"trained, sharpest head: the last position gives {float(trained_maps[layer, head, -1].max()):.2f} "
    "to one token"
)

# %% [markdown]
# The upper right half of both maps is empty: that is the mask. Without training all scores are nearly zero,
# so softmax spreads the weight evenly, and a position receives the mean of all values up to its own. After
# training some heads choose. Be careful with a single map: a large weight does not prove that the token
# matters for the answer.
#
# ## Sharing keys and values
#
# The results of a layer's heads are joined, and a last matrix, `o_proj` in the drawing above, mixes them
# into one vector of D numbers. While a model writes text, each new token reads the keys and values of all
# positions before it, so these are kept (the KV cache, lesson 11). **Grouped-query attention**, GQA, lets
# several query heads read the same keys and values (Ainslie et al. 2023, section 2.2): H query heads, K
# key/value heads, and query head h reads number h // (H/K).
#
# Two checks. First: if the second of two key/value heads is changed, the result may change only for the query
# heads of its group. Second: a model with as many key/value heads as query heads, in which pairs of keys and
# values are copies, must compute the same.

# %%
assert float((sums - 1).abs().max()) < 1e-4 and uniform < 0.1 and float(trained_maps.triu(1).max()) == 0

grouped = SIZES["tiny"]                                     # 4 query heads, 2 key/value heads
everyone = dataclasses.replace(grouped, num_key_value_heads=grouped.num_attention_heads)
q = torch.randn(1, 4, 10, 32)
k, v = torch.randn(2, 1, 2, 10, 32)
other = v.clone()
other[:, 1] += 1.0                                          # the second key/value head passes on other values
noticed = [bool((sdpa(q, k, v)[:, h] != sdpa(q, k, other)[:, h]).any()) for h in range(4)]
print("query heads whose result changes:", noticed)

torch.manual_seed(6)
few = Attention(grouped, 0, sdpa)
many = Attention(everyone, 0, sdpa)
with torch.no_grad():
    for name in ("q_proj", "o_proj"):
        many.get_submodule(name).weight.copy_(few.get_submodule(name).weight)
    for name in ("k_proj", "v_proj"):
        heads = few.get_submodule(name).weight.view(2, 32, 128)
        many.get_submodule(name).weight.copy_(heads.repeat_interleave(2, dim=0).reshape(128, 128))
    x = torch.randn(1, 10, 128)
    cos, sin = model.model.cos[:10], model.model.sin[:10]
    gap = float((few(x, cos, sin) - many(x, cos, sin)).abs().max())
print(f"grouped heads against copied heads: largest difference {gap:.1e}")
assert noticed == [False, False, True, True] and gap < 1e-5

# %% [markdown]
# So grouping is a *constraint*, not another formula: a model with 2 key/value heads is a model with 4 in
# which pairs are forced to be equal. What is gained? Fewer parameters, but above all a smaller cache: with
# L layers and K key/value heads of F features, keys and values of T positions are `2 · L · K · F · T`
# numbers. For `20m` at its full context (a MiB is `2**20` bytes):

# %%
assert grouped.num_key_value_heads == 2 and grouped.num_attention_heads == 4

cache = {}
rows = []
for kept in (1, 2, 5, 10):
    shape = dataclasses.replace(SIZES["20m"], num_key_value_heads=kept)
    cache[kept] = params.kv_cache_bytes(shape, 4096) / 2**20
    rows.append((kept, f"{cache[kept]:.1f}", f"{params.count(shape)['attention']:,}"))
table(("key/value heads", "cache in MiB, 16-bit numbers", "attention parameters"), rows)

# %% [markdown]
# The cache is proportional to the number of key/value heads: 60.0 MiB with all ten, 12.0 with the two that
# the model has, 6.0 with one. For comparison, the complete model in the same format has 38.8 MiB of weights.
# One key/value head for all query heads ("multi-query", Shazeer 2019) gives the smallest cache; two is the
# compromise of this model.
#
# ## Back to the question
#
# A position reads others by comparing its query with their keys and taking the weighted mean of their values;
# the mask leaves only positions up to its own, and the test with one changed token shows it. 20 of the 40
# answers changed. If you wrote 19, you perhaps did not count the changed position itself, because it
# *predicts* the next token; but its answer is computed from the token at that position. If you wrote 40, you
# thought of a model that reads in both directions.

# %%
assert cache[10] == 60.0 and cache[2] == 12.0 and cache[1] == 6.0
assert round(2 * params.count(SIZES["20m"])["total"] / 2**20, 1) == 38.8
assert int((moved > 0).sum()) == 20 and len(moved) == 40 and int((moved[21:] > 0).sum()) == 19
results = {
    "loops_against_matrices": differences["matrices"],
    "answers_changed": int((moved > 0).sum()),
    "answers_changed_mask_open": int((moved_open > 0).sum()),
    "grouped_against_copied": gap,
    "cache_mib_20m": cache[2],
}
finish("06_attention", results)

# %% [markdown]
# ## Exercises
#
# 1. Write attention with grouped heads in `lessons/exercises/attention.py` and run `pytest
#    lessons/exercises/test_attention.py`.
# 2. Replace the mask by one that lets each position see only itself and the eight before it, in a text of
#    eighty tokens. At how many positions does the answer change now, after one layer and after four? Predict
#    both numbers first.
# 3. Remove the rotation of lesson 05 (call `few` with `cos` of ones and `sin` of zeros) and exchange two
#    earlier positions of `x`. Does the result at the last position change? What does this say about attention
#    without positions?
