# SPDX-License-Identifier: Apache-2.0
# Read this lesson as a page or notebook: `python lessons/build.py 01` writes both to lessons/built/.

# %% [markdown]
# # 1. A map: one batch from text to loss
#
# **Question.** A language model is trained by making one number smaller, the loss. What happens between a
# piece of text and that number?
#
# **Prediction.** A model that was never trained knows nothing, so it gives all 4,096 possible next tokens
# about the same chance. The loss is minus the natural logarithm of the chance that the model gave to the
# token that really came next. What is the loss of such a model? (For comparison: betting on a fair die costs
# ln 6 = 1.79.) Write it down.
#
# This lesson goes the complete way once, quickly, with the real modules. Each later lesson looks at one
# part of it. The first cell of a lesson only finds the project's folder and imports what is needed. `FAST`
# in the code is true in the short form that the tests run (`LESSON_FAST=1`), else false.

# %%
import sys
from pathlib import Path

place = Path(globals().get("__file__", "lesson.py")).resolve()         # a notebook has no __file__
sys.path.insert(0, str(next(folder for folder in place.parents if (folder / "model.py").is_file())))

import math
import shutil

import torch

from lessons.tools import FAST, OUT, corpus, draw_shapes, finish, save_figure, table
import matplotlib.pyplot as plt

import data
import tokenizer
from model import SIZES, Llama, next_token_loss
from publishing.card import show_sample
from train import train

assert SIZES["tiny"].vocab_size == 4096 and round(math.log(6), 2) == 1.79

# %% [markdown]
# ## The map
#
# The boxes are the stations of this lesson. Beside each arrow is the shape of what goes along it. The letters
# are explained where they first appear.

# %%
layer = "attention, MLP\n(a layer, L times)"
draw_shapes("01_shapes", {
    "text": (0, 0), "ids": (1, 0), "batch": (2, 0), "embedding": (3, 0), layer: (3, 1), "norm": (3, 2),
    "output matrix": (2, 2), "softmax": (1, 2), "loss": (0, 2)}, [
    ("text", "ids", "characters"), ("ids", "batch", "a list"), ("batch", "embedding", "(B, T)"),
    ("embedding", layer, "(B, T, D)"), (layer, "norm", "(B, T, D)"), ("norm", "output matrix", "(B, T, D)"),
    ("output matrix", "softmax", "(B, T, V)"), ("softmax", "loss", "(B, T, V)")])

# %% [markdown]
# ## Station one: text becomes numbers
#
# A model computes with numbers, so text is cut into pieces and each piece is replaced by its number in a
# fixed list. The pieces are called **tokens**, the list is the **vocabulary**, the number is the token's
# **id**. Our vocabulary has 4,096 tokens: letters, parts of words, whole words, even short phrases.
# `tokenizer.py:load` reads it and `tokenizer.py:Tokenizer.encode` does the cutting.

# %%
words = tokenizer.load()
text = "The sum of 12 and 30 is 42."
ids = words.encode(text)
table(["id", "token"], [(token, repr(words.decode([token]))) for token in ids])
print(len(text), "characters,", len(ids), "tokens")
assert words.vocab_size == 4096
assert words.decode(ids) == text

# %% [markdown]
# Put together again, the tokens give the text back: nothing was lost. How the pieces are chosen is lesson
# 02, which also explains the first token, the one that prints as an empty text.
#
# ## Station two: documents become batches
#
# Training reads not one sentence but many texts. They are prepared once: each is cleaned, encoded and ended
# with a special token that separates documents; then all are written to disk, one after the other, as one
# long list of ids. A training step takes some rows of equal length out of this list. Such a table of ids is a
# **batch**. Its shape is written `(B, T)`: B rows of T positions. These letters mean the same in the whole
# project.
#
# Our corpus here is the built-in one, its mathematics part: exercises with solutions that a program wrote. It
# needs no download. `data.py:Corpus.batch` needs only the number of the step, so we may look at any batch of
# a training run before training. We take 4 rows of 64 tokens. In the text of a row, [ | ] is the separator.

# %%
folder = corpus("math")
B, T = 4, 64
batches = data.Corpus(folder, seq_len=T, batch_size=B, total_steps=100, seed=1)
batch = batches.batch(0)
print("shape:", batch.shape, " first ids:", batch[0, :8].tolist())
documents = words.decode(batch[0].tolist()).split("\r")      # the separator is the character CR (lesson 02)
print("row 0 as text:", " [ | ] ".join(documents))
print("the same again:", (batches.batch(0) == batch).all())
assert batch.shape == (4, 64)
assert (batches.batch(0) == batch).all()

# %% [markdown]
# ## Station three: the model
#
# The model is a chain of functions with adjustable numbers in them, its **parameters** or weights. Ours is
# built like **Llama** (Touvron et al. 2023), a published family of models. Such a stack of attention and
# MLP layers is called a **transformer**. We build the smallest of the family of this project, `tiny`, with
# L = 4 layers. Its weights are random now; the **seed** decides which random numbers, so that you see what
# is printed here.
#
# We let the batch run through and write down the shape of each result. A **hook** is a function that torch
# calls when a module has computed something. Ours only reads the shape.

# %%
torch.manual_seed(1)                                        # the seed of everything random in this lesson
model = Llama(SIZES["tiny"])
input_ids = torch.from_numpy(batch)                                       # (B, T)
seen = []


def note(name):
    """A hook that writes down the shape of what the module called `name` returns."""
    def write_shape(module, inputs, output):
        seen.append((name, type(module).__name__, tuple(output.shape)))
    return write_shape


ends = ("model.embed_tokens", "model.norm")
stations = {name: module for name, module in model.named_modules()
            if name in ends or name.startswith("model.layers.0") or name.count(".") == 2}
hooks = [module.register_forward_hook(note(name)) for name, module in stations.items()]
logits = model(input_ids)                                                 # (B, T, V)
for hook in hooks:
    hook.remove()
seen = [("input_ids", "", tuple(input_ids.shape)), *seen, ("logits", "", tuple(logits.shape))]
table(["module", "class", "shape of its result"], seen)
print(f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters")
assert len(model.model.layers) == 4

# %% [markdown]
# Read it from top to bottom. The **embedding** replaces each id by a row of D = 128 numbers, a vector. Then
# come the layers, all built alike: first attention, in which positions read from earlier ones (lesson 05,
# lesson 06), then the MLP, which computes at each position separately (lesson 04). Before each of the two
# is a norm (lesson 04). The input and the output of a layer have the same shape, so layers can be stacked.
# At the end each vector is turned into V = 4,096 numbers, one for each of the V tokens of the vocabulary:
# the **logits**. The higher a logit, the more the model expects that token next.
#
# (The table names a module when it has *finished*. That is why `self_attn` comes after its parts, and a layer
# after everything in it.)

# %%
assert logits.shape == (4, 64, 4096) and model.model.embed_tokens.weight.shape[1] == 128
probability = torch.softmax(logits[0, 10].detach(), dim=0)                # (V,)
best = probability.topk(3)
print("so far:", repr(words.decode(batch[0, :11].tolist())))
guesses = zip(best.indices.tolist(), best.values.tolist())
table(["guess", "probability"], [(repr(words.decode([token])), f"{chance:.6f}") for token, chance in guesses])
print(f"sum of all: {float(probability.sum()):.4f};  one in 4096: {1 / 4096:.6f}")

# %% [markdown]
# **Softmax** turns logits z into probabilities: `p_i = exp(z_i) / Σ_j exp(z_j)`. They are positive, and their
# sum is one. Even the best guess of the random model gets less than 1% of the probability. It knows nothing.
# (Its best guess is the token that it has just read. `tiny` uses one matrix both to turn ids into vectors and
# to turn vectors into logits, and a vector is most similar to its own row. Lesson 07 comes back to this.)
#
# ## Station four: the loss
#
# At position t the model has read tokens 0 to t and guesses token t + 1. We look up the probability that it
# gave to the token which really follows, and take minus its natural logarithm. A right guess with probability
# one costs nothing. A probability of one in 4,096 costs ln 4,096. The **loss** is the mean over all guesses
# (Shannon 1948 for the logarithm as a measure of surprise; its unit here is the **nat**). We do it by hand
# and compare with `model.py:next_token_loss`.

# %%
assert abs(float(probability.sum()) - 1) < 1e-5 and float(best.values[0]) < 0.01
assert int(best.indices[0]) == batch[0, 10] and model.config.vocab_size == 4096
log_p = torch.log_softmax(logits, dim=2)                                  # (B, T, V)
costs = [-float(log_p[row, t, input_ids[row, t + 1]].detach()) for row in range(B) for t in range(T - 1)]
by_hand = sum(costs) / len(costs)
first_loss = float(next_token_loss(logits, input_ids).detach())
print(f"by hand {by_hand:.4f}, next_token_loss {first_loss:.4f}, ln 4096 = {math.log(4096):.4f}")
assert abs(by_hand - first_loss) < 1e-4
assert len(costs) == B * (T - 1)

# %% [markdown]
# There are 63 guesses in each row of 64 tokens, since no token follows the last one in its row. The mean is
# close to ln 4,096 = 8.32. If the first loss of your own training run is far from ln V, something is wrong
# before training starts. So this is the first thing to check when you ask "is my loss normal?".
#
# ## Station five: learning
#
# Now the complete program, as the command line would run it, but short: 60 steps. (`fp32` means torch's
# ordinary numbers, lesson 09.) `train.py:train` first prints every setting and where it came from. Then it
# trains, measures the loss on documents that it never trains on (the validation loss), and saves the model.
# It also prints the **unigram entropy** ("counting tokens"): the best loss of a model that knows how
# frequent each token is and nothing else. A loss below it shows that the model uses the context, the tokens
# before. In the log the loss may jump up at a step where `norm` is large, and come back; lesson 08 says
# what is done about it. (The "entropy of the corpus" beside it is the best loss that any model can have;
# lesson 12 explains it.)

# %%
assert len(input_ids[0]) == 64 and len(costs) // B == 63
assert round(math.log(4096), 2) == 8.32 and abs(first_loss - 8.32) < 0.1
shutil.rmtree(OUT / "01_run", ignore_errors=True)
steps = 20 if FAST else 60
history = train(size="tiny", data=str(folder), out=str(OUT / "01_run"), steps=steps, seq_len=64, batch_size=8,
                learning_rate=3e-3, eval_steps=20, max_eval_samples=64, logging_steps=10, device="cpu",
                precision="fp32", seed=1)
print("sample:", show_sample(history.folder))
assert FAST or len(history.losses) == 60

# %% [markdown]
# The text at the end is what the model writes by itself. After so little training it makes no sense, but it
# has the words and numbers that are frequent in exercises. The curve shows the same.
#
# To compute the unigram entropy (lesson 03 has the formula), count many tokens: in a short text some ids of
# the vocabulary never occur, so its entropy comes out too low. We count 400,000 tokens of the training
# text, and a thousand for comparison.

# %%
counted = data.Corpus(folder, seq_len=64, batch_size=64, total_steps=100, seed=1)
unigram = counted.unigram_entropy()
few = data.Corpus(folder, seq_len=64, batch_size=16, total_steps=1, seed=1).unigram_entropy()
print(f"unigram entropy of {100 * 64 * 64:,} tokens: {unigram:.2f}; of {16 * 64:,} tokens only: {few:.2f}")
assert round(len(counted) * counted.batch(0).size, -5) == 400_000 and few < unigram - 0.01

figure, axes = plt.subplots(figsize=(6, 3.5))
axes.plot(range(1, steps + 1), history.losses, label="training, each step")
axes.plot([row["step"] for row in history.evals], [row["eval_loss"] for row in history.evals], "o-",
          label="validation")
axes.axhline(math.log(4096), color="grey", linestyle=":", label="ln V: knowing nothing")
axes.axhline(unigram, color="grey", linestyle="--", label="unigram: frequencies only")
axes.set(xlabel="step", ylabel="loss (nats per token)", title="From knowing nothing to a little")
axes.legend()
save_figure(figure, "01_losses")
last_loss = history.evals[-1]["eval_loss"]
print(f"first loss {history.losses[0]:.2f}, last validation loss {last_loss:.2f}, "
      f"perplexity {math.exp(last_loss):.1f}")
assert history.losses[0] > last_loss + 2

# %% [markdown]
# The loss has fallen by more than 2 nats. A number of nats says little to most people. `exp(loss)`, the
# **perplexity**, is easier to understand: the model is now as unsure as if it had to choose among that many
# equally likely tokens, no longer among 4,096.
#
# ## Back to the question
#
# Text becomes ids, ids become a batch `(B, T)`, the model turns it into logits `(B, T, V)`, and softmax turns
# these into probabilities. The loss is the mean of minus the logarithm of the probabilities of the tokens
# that really came. A model that knows nothing has a loss of ln V, here 8.32. That was the prediction.
#
# To follow the same way in the code, read these in order: `train.py:main`, `train.py:train`,
# `data.py:Corpus.batch`, `train.py:training_step`, `model.py:Llama.forward`, `model.py:next_token_losses`.
# Or set a breakpoint in the first and let a debugger step from line to line.

# %%
assert (
    history.losses[0] - last_loss > 2
    and SIZES["tiny"].vocab_size == 4096
    and abs(history.losses[0] - 8.32) < 0.1
)
results = {
    "first_loss": round(first_loss, 4),
    "last_loss": round(last_loss, 4),
    "unigram_entropy": round(unigram, 4),
    "tokens_in_sentence": len(ids),
}
assert SIZES["150m"].vocab_size == 32768                    # for an exercise
finish("01_map", results)

# %% [markdown]
# ## Exercises
#
# 1. Write `cross_entropy` in `lessons/exercises/cross_entropy.py` and run `pytest
#    lessons/exercises/test_cross_entropy.py`. (Put the formula of softmax into the logarithm: `-log p_i =
#    log Σ_j exp(z_j) - z_i`.)
# 2. What would the first loss be with a vocabulary of 32,768 tokens, like that of the size `150m`? And why
#    can the losses of two models with different vocabularies not be compared directly? (Lesson 12 returns to
#    this.)
# 3. Shuffle the ids of a row (`input_ids[:, torch.randperm(T)]`) and compute the loss of the random model
#    again, then of the trained one (`Llama.from_pretrained(history.folder / "best")`). Explain both results.
