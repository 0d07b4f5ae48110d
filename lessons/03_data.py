# SPDX-License-Identifier: Apache-2.0
# Read this lesson as a page or notebook: `python lessons/build.py 03` writes both to lessons/built/.

# %% [markdown]
# # 3. Data: packing, mixing, a curriculum
#
# **Question.** Documents have all lengths, and there are several kinds of them. How does a training step get
# its rows of equal length, and who decides what is in them?
#
# **Prediction.** A thousand blocks of text lie in a bag. For every row one block is drawn at random and then
# put back. After a thousand draws, which share of the blocks has the model seen at least once? Write down a
# percentage.

# %%
import sys
from pathlib import Path

place = Path(globals().get("__file__", "lesson.py")).resolve()         # a notebook has no __file__
sys.path.insert(0, str(next(folder for folder in place.parents if (folder / "model.py").is_file())))

import itertools
import math
import random

import numpy as np
import torch

from lessons.tools import FAST, corpus, draw_shapes, finish, save_figure, table
import matplotlib.pyplot as plt

import data
import tokenizer
from corpus.builtin import builtin_documents
from model import SIZES, Llama
from train import document_mask

seed = 3
torch.manual_seed(seed)
words = tokenizer.load()

# %% [markdown]
# ## From documents to one stream
#
# A text from the web is full of odd spaces, several kinds of line ends, and characters that look alike.
# `data.py:clean_text` makes them uniform. For prose and mathematics all white space becomes single spaces;
# for programs the lines stay, since a program means something else without them.

# %%
messy = "  The  result\u00a0is:\r\n\r\n   ½ of  ｘ.  \n"
program = "def half(x):  \r\n    return x / 2\r\n\r\n"
print("before:", repr(messy))
print("prose: ", repr(data.clean_text(messy)))
print("code:  ", repr(data.clean_text(program, preserve_linebreaks=True)))
assert data.clean_text("  The  result\u00a0is:\r\n") == "The result is:"
assert data.clean_text(program, preserve_linebreaks=True) == "def half(x):\n    return x / 2"

# %% [markdown]
# Every document is then encoded (lesson 02) and ended with the separator, and all documents of one kind are
# written one after the other: one long stream of ids on disk. A few documents (five in a hundred; in this
# lesson, which uses a small corpus, twenty) are kept apart for **validation**: the model never trains on
# them, so the loss on them shows what it really learned.
#
# ## Packing
#
# A step needs rows of equal length T. One way is to give every document its own row and to fill the rest of
# the row with **padding**, ids that mean nothing. The other way cuts the stream into blocks of T ids,
# wherever documents end: this is **packing**. How much does padding waste? We take exercises from the
# built-in corpus and rows of `256` tokens.

# %%
T = 256
sheets = [text for text in itertools.islice(builtin_documents("math"), 400)]
lengths = [len(words.encode(data.clean_text(text), document=True)) + 1 for text in sheets]
rows_padded = sum(math.ceil(length / T) for length in lengths)
rows_packed = math.ceil(sum(lengths) / T)
waste = 1 - sum(lengths) / (rows_padded * T)
waste_packed = 1 - sum(lengths) / (rows_packed * T)
table(["how", "rows of 256", "wasted"], [
    ["one row a document", rows_padded, f"{100 * waste:.1f}%"],
    ["packed", rows_packed, f"{100 * waste_packed:.1f}%"]])
print(f"documents have {min(lengths)} to {max(lengths)} tokens")

# %% [markdown]
# With padding, three quarters of the work is done on tokens that mean nothing. Packing wastes almost nothing.
# Its price: a row may hold the end of one document and the beginning of another that has nothing to do with
# it. Below is such a row, from the real `data.py:Corpus.batch`. Each [ | ] is a separator.

# %%
assert abs(waste - 0.75) < 0.02 and waste_packed < 0.01     # measured: 0.747 and 0.009
folder = corpus("web", "code", "math", tokens=150_000)
run = data.Corpus(folder, seq_len=128, batch_size=8, total_steps=240, seed=seed)
batch = run.batch(0)                                                      # (B, T)
print(batch.shape, batch.dtype)
row = int((batch == run.eos_id).sum(axis=1).argmax())
parts = np.split(batch[row], np.flatnonzero(batch[row] == run.eos_id))
print(f"row {row}:", " [ | ] ".join(words.decode(part, skip_special=True)[:150] for part in parts))

# %% [markdown]
# A row may begin and end anywhere, even in the middle of a word. The separator tells the model that something
# new begins. One can also forbid attention (lesson 06: positions read from earlier ones) to read across it,
# with a **mask**, a table that says which position may read which. The published models of this family use no
# such mask, and neither does this project unless you ask (`python train.py --document-mask`). How much does
# it matter? `train.py:document_mask` makes the mask. With it we count: of all pairs of a position and an
# earlier one that it may read, which share crosses into a *foreign* document?

# %%
ids = torch.from_numpy(batch)                                             # (B, T)
mask = document_mask(ids, run.eos_id)                       # (B, 1, T, T), true where reading is allowed
without = torch.ones(128, 128, dtype=torch.bool).tril()     # (T, T), all positions up to its own
foreign = 1 - float(mask.sum() / (without.sum() * len(batch)))
print(f"{100 * foreign:.1f}% of the pairs cross a border between documents")
model = Llama(SIZES["tiny"])
with torch.no_grad():
    difference = (model(ids, mask=mask) - model(ids)).abs().amax(dim=2)   # (B, T)
ends = (ids == run.eos_id).long()                                         # (B, T)
first_document = ends.cumsum(1) - ends == 0                 # (B, T), a separator belongs to what it ends
inside, anywhere = float(difference[first_document].max()), float(difference.max())
print(f"largest change of a logit by the mask: in first documents {inside:.1e}, anywhere {anywhere:.2f}")
assert 0 < foreign < 0.5 and not (mask[:, 0] & ~without).any()
assert inside < 1e-3 and anywhere > 100 * inside
draw_shapes("03_shapes", {
    "documents": (0, 0), "one stream for each kind": (1.8, 0), "blocks": (3.8, 0),
    "the mixture picks a kind,\na permutation a block": (3.8, 1), "batch": (1.8, 1), "model": (0, 1)}, [
    ("documents", "one stream for each kind", "encode"), ("one stream for each kind", "blocks", "N ids"),
    ("blocks", "the mixture picks a kind,\na permutation a block", "(N / T, T)"),
    ("the mixture picks a kind,\na permutation a block", "batch", "B blocks"), ("batch", "model", "(B, T)")])

# %% [markdown]
# A large part of the pairs crosses a border, and the logits behind a border change. In the first document
# of a row the mask changes nothing, as expected: there is nothing before it. The drawing shows the complete
# way from documents to a batch. What picks the blocks is the subject of the next two sections.
#
# ## Every block once
#
# Now the prediction. One draw misses a given block with probability `1 − 1/n`, so all n draws miss it with
# probability `(1 − 1/n)ⁿ`, about `1/e`. We try it, and compare with what this project does: `data.py:permute`
# shuffles the blocks for each pass over the data (an **epoch**), so that each block comes exactly once before
# any comes again.

# %%
n = 1000
draw = random.Random(seed)
seen = [len({draw.randrange(n) for _ in range(n)}) / n for _ in range(20)]
with_replacement = sum(seen) / len(seen)
shuffled = [data.permute(index, n, "lesson 03") for index in range(n)]
print(
    f"drawn and put back: {100 * with_replacement:.1f}% seen (1 - 1/e = {100 * (1 - 1 / math.e):.1f}%)"
)
print(f"permuted: {100 * len(set(shuffled)) / n:.0f}% seen; the order begins {shuffled[:6]}")
assert sorted(shuffled) == list(range(n))

# %% [markdown]
# 63% against 100%. More than a third of the text would not be read, and other parts would be read twice or
# more.
#
# `permute` is *computed*, not stored: a small cipher turns the number of a place into the number of a
# block, and never two places into the same block (Luby and Rackoff 1988). So nothing has to be remembered.
# The batch of step 42 is known before training starts; a run that was stopped continues with exactly the
# batches that it would have seen; and each of several devices computes its own rows. We check all three.
# (`rank` is the number of a device, `world` is how many there are.)

# %%
assert n == 1000 and abs(with_replacement - 0.63) < 0.01 and len(set(shuffled)) / n == 1.00
again = data.Corpus(folder, seq_len=128, batch_size=8, total_steps=240, seed=seed)
assert (again.batch(42) == run.batch(42)).all()             # any step, at any time, so also after a stop
halves = [run.batch(42, rank=rank, world=2) for rank in range(2)]         # what two devices would read
assert (np.concatenate(halves) == run.batch(42)).all()
other = data.Corpus(folder, seq_len=128, batch_size=8, total_steps=240, seed=seed + 1)
assert not (other.batch(42) == run.batch(42)).all()
assert len(run) > 42
print("batch 42 is the same from a second loader and in two halves; with another seed it is another batch")

# %% [markdown]
# ## The mixture
#
# The published Stentor3 models (`20m` and `50m`) read prose from the web, programs, and mathematics, in
# shares of `75`, `15` and `10` percent. After 85% of the training the shares of programs and mathematics
# rise: the model reads its best material last. Such a plan is a **curriculum**, and its last part is the
# **anneal**. Their model card, the page that describes them (lesson 07), gives the shares of the beginning.
# For the shares at the end this project had to assume something: half prose (`data.py:END`).
#
# `data.py:Mixture` decides for each block of the run from which source it comes. It does not draw by chance:
# it keeps the number of blocks of every source as close to its planned share as it can. We count what a run
# really reads.

# %%
assert [data.START[kind] for kind in ("web", "code", "math")] == [0.75, 0.15, 0.10]
assert round(1 - data.ANNEAL, 2) == 0.85 and data.END["web"] == 0.5
blocks = 240 * 8
source_of = [run.mixture.block(block)[0] for block in range(blocks)]
window = 80
plan = np.array([run.mixture.weights(block) for block in range(blocks)])  # (blocks, sources)
given = np.eye(3)[source_of]  # (blocks, sources), a one where taken
rows = []
for first in range(0, blocks, 3 * window):
    asked, taken = plan[first:first + window].mean(axis=0), given[first:first + window].sum(axis=0)
    rows.append([first // 8, *(f"{100 * share:.1f}% / {count:.0f}" for share, count in zip(asked, taken))])
table(["from step", *(f"{name}: asked / blocks of 80" for name in run.names)], rows)
ahead = np.vstack([np.zeros(3), np.cumsum(given - plan, axis=0)])  # how far each source is ahead of its plan
worst = float(np.abs(ahead[window:] - ahead[:-window]).max())
print(f"largest deviation in any window: {worst:.2f} blocks")

# %% [markdown]
# In every window of 80 blocks the mixture is within 1.2 blocks of its plan. If the sources were drawn by
# chance, the number of blocks of prose would have a standard deviation of √(80 · 0.75 · 0.25) = 3.9. The
# picture shows the plan and how often the run goes through each source.

# %%
assert worst < 1.2 and window == 80                         # measured: 1.15, the same with every seed
prose = data.START["web"]
assert round(math.sqrt(window * prose * (1 - prose)), 1) == 3.9 and (prose, 1 - prose) == (0.75, 0.25)
steps = list(range(0, 241, 5))
shares = np.array([list(run.weights(step).values()) for step in steps])   # (steps, sources)
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4))
left.stackplot(steps, shares.T, labels=run.names, alpha=0.8)
left.axvline(0.85 * 240, color="black", linestyle=":")
left.set(xlabel="step", ylabel="share of the batch", title="the plan: constant, then the anneal")
left.legend(loc="lower left")
for name in run.names:
    right.plot(steps, [run.epochs(step)[name] for step in steps], label=name)
right.axhline(1, color="grey", linestyle=":")
right.set(xlabel="step", ylabel="times read", title="how often each source was read")
right.legend()
save_figure(figure, "03_mixture")
print(data.mixture_table(run))

# %% [markdown]
# The sources here have about the same size, and most blocks are tales. So the run comes to the end of the
# tales first. Then the tales begin again in another order, and the shares stay as planned. A text that is
# read many times teaches little that is new, so small sources limit how long training is useful.
#
# ## What counting alone can learn
#
# How good is a model that has learned only how *frequent* each token is? A token of frequency p costs it
# −ln p, and a share p of all tokens costs that. So its loss is the **entropy** of the frequencies, `H = −Σ
# p ln p`. (The first token of a row is never guessed, so it is not counted.)
# `data.py:Corpus.unigram_entropy` computes it for the batches of a run. We take the exercises, as in lesson
# 01.

# %%
math_folder = corpus("math")
exercises = data.Corpus(math_folder, seq_len=128, batch_size=8, total_steps=40 if FAST else 400, seed=seed)
entropy = exercises.unigram_entropy()
counts = np.zeros(4096)
for step in range(len(exercises)):
    ids, found = np.unique(exercises.batch(step)[:, 1:], return_counts=True)
    counts[ids] += found
shares = counts[counts > 0] / counts.sum()
by_hand = -sum(share * math.log(share) for share in shares)
print(
    f"unigram entropy {entropy:.3f} nats (by hand {by_hand:.3f}); knowing nothing: ln 4096 = "
    f"{math.log(4096):.3f}"
)
print(f"{len(shares)} of 4096 ids occur at all")
assert abs(entropy - by_hand) < 1e-9

# %% [markdown]
# To know only the frequencies brings the loss from 8.3 to about 3.9 nats. Most of this is to know which
# tokens occur at all: only 107 of the 4,096 do, and ln 107 is 4.7. This was a large part of what the model of
# lesson 01 learned. Everything below it has to come from the *context*, the tokens before. That is the work
# of the model, and the next lessons show its parts.
#
# ## Back to the question
#
# Cleaned and encoded documents follow each other in one stream for each kind; a row is a block of this
# stream. Which block it is follows from the number of the step alone: the mixture picks the source, and a
# permutation picks the block. The prediction: after a thousand draws from the bag the model has seen 63%. It
# is better to read every block once.

# %%
assert round(math.log(4096), 1) == 8.3 and abs(entropy - 3.9) < 0.1         # measured: 3.88 in 400 steps
assert len(counts) == 4_096 and (FAST or len(shares) == 107) and round(math.log(107), 1) == 4.7
assert abs(with_replacement - 0.63) < 0.01
results = {
    "wasted_by_padding": waste,
    "seen_with_replacement": with_replacement,
    "worst_deviation_blocks": worst,
    "unigram_entropy_math": entropy,
    "looks_into_foreign_documents": float(foreign),
}
finish("03_data", results)

# %% [markdown]
# ## Exercises
#
# 1. Write the packing of documents into blocks in `lessons/exercises/packing.py` and run `pytest
#    lessons/exercises/test_packing.py`.
# 2. At which step does the run of this lesson read a block of prose for the second time? Find it with
#    `run.mixture.block(n)`, which gives the source of block `n` of the run and how many blocks that source
#    gave before. Check with `run.locate(n)`, which gives the source and which of its blocks this is.
# 3. Draw the source of each block by chance (`random.choices`) instead, and plot how far each of the two ways
#    is from the plan.
