# SPDX-License-Identifier: Apache-2.0
# Read this lesson as a page or notebook: `python lessons/build.py 08` writes both to lessons/built/.

# %% [markdown]
# # 8. One training step
#
# **Question.** What exactly happens to the weights in one training step, and how can we know that each part
# of it is right?
#
# **Prediction.** AdamW is the **optimizer** of nearly every language model, the rule that turns gradients
# into new weights. It makes its very first update. One weight has a gradient of one, another weight a
# gradient a thousand times smaller. How many times as far as the second does the first weight move? Write
# down a number.

# %%
import sys
from pathlib import Path

place = Path(globals().get("__file__", "lesson.py")).resolve()         # a notebook has no __file__
sys.path.insert(0, str(next(folder for folder in place.parents if (folder / "model.py").is_file())))

import math

import numpy
import torch

from lessons.tools import FAST, OUT, corpus, draw_shapes, finish, save_figure, table
import matplotlib.pyplot as plt

from data import Corpus
from training.job import open_job
from model import SIZES, Llama, next_token_loss
from train import AdamW, TrainSettings, clip_gradients, learning_rate, training_step

# %% [markdown]
# ## The five lines
#
# Training repeats one thing: look at some text, see how wrong the predictions are, and move every weight a
# little in the direction that makes them less wrong. In this project a step is five calls, made by
# `train.py:train` in this order, the last two inside `train.py:update`:
#
# ```text
# ids  = corpus.batch(step)                        which tokens            (lesson 03)
# lr   = learning_rate(settings, step)              how far to go in this step
# loss, _ = training_step(model, ids, ...)         forward, loss, backward
# norm = clip_gradients(parameters, 1.0)           gradients that are too long are shortened
# optimizer.step(step + 1, lr)                     move the weights
# ```
#
# The **gradient** of a weight is the slope of the loss: by how much the loss would rise if the weight grew a
# little. `backward` computes it for all weights at once, by the chain rule, from the last operation back to
# the first. We take the five one by one, on a batch of 32 rows of 64 tokens.

# %%
torch.manual_seed(8)                                        # the seed of everything random in this lesson
folder = corpus("math")
asked = dict(size="tiny", data=str(folder), out=str(OUT / "08_run"), device="cpu", precision="fp32",
             steps=100, seq_len=64, batch_size=32, learning_rate=3e-3)
job = open_job(asked)  # settings, data and device, as the command line opens them
model = Llama(SIZES["tiny"])
ids = job.corpus.batch(0)
print("batch:", ids.shape, ids.dtype)
assert ids.shape == (32, 64)
draw_shapes("08_shapes", {
    "batch": (0, 0), "forward": (1, 0), "loss": (2, 0), "backward": (3, 0), "clip": (4.2, 0),
    "AdamW: m, v": (4.2, 1), "weights": (1, 1), "learning rate": (4.2, 2)}, [
    ("batch", "forward", "(B, T)"), ("forward", "loss", "(B, T, V)"), ("loss", "backward", "one number"),
    ("backward", "clip", "a gradient for\neach weight"), ("clip", "AdamW: m, v", "shapes of the weights"),
    ("AdamW: m, v", "weights", "new weights, for the next step"),
    ("weights", "forward", "shapes of the weights"), ("learning rate", "AdamW: m, v", "one number")])

# %% [markdown]
# ## Forward and backward, all at once or in pieces
#
# A batch may be too large for the memory of the device. Then it is cut into **micro-batches**. The step runs
# forward and backward for each of them, adds up the gradients, and updates the weights once at the end. This
# is called gradient **accumulation**. `train.py:training_step` does it; `job.micro_batch` is the number of
# rows in a micro-batch. Do four pieces of 8 rows give the gradient of all 32?

# %%
def gradient_of(rows_at_once):
    """Loss and gradients of the batch, `rows_at_once` at a time."""
    model.zero_grad(set_to_none=True)
    job.micro_batch = rows_at_once
    loss, _ = training_step(model, ids, job)
    return float(loss), [parameter.grad.clone() for parameter in model.parameters()]


def relative_difference(some, others):
    """Length of the difference of two lists of tensors, over the length of the first."""
    difference = math.sqrt(sum(float((a - b).pow(2).sum()) for a, b in zip(some, others)))
    return difference / math.sqrt(sum(float(a.pow(2).sum()) for a in some))


whole_loss, whole = gradient_of(32)
pieces_loss, pieces = gradient_of(8)
print(f"loss at once {whole_loss:.7f}, in four pieces {pieces_loss:.7f}")
print(f"relative difference of the gradients {relative_difference(whole, pieces):.1e}")

naive = [torch.zeros_like(gradient) for gradient in whole]  # without the division by the number of pieces
for piece in numpy.split(ids, 4):
    model.zero_grad(set_to_none=True)
    next_token_loss(model(torch.from_numpy(piece)), torch.from_numpy(piece)).backward()
    for total, parameter in zip(naive, model.parameters()):
        total += parameter.grad
times = float(naive[0].norm() / whole[0].norm())
print(f"without the division the gradient is {times:.3f} times as long")
assert len(ids) / 8 == 4 and len(ids) == 32

# %% [markdown]
# They are equal up to rounding: the order of the additions differs, and in floating point that changes the
# last digits.
#
# Two things are needed for this. First, the loss of each piece is a *mean*, so the sum of four means must be
# divided by 4. Without the division the gradient is 4 times too long. Second, all pieces have the same number
# of tokens, because packed rows are always full (lesson 03). Where rows are padded to different lengths, the
# mean of the pieces' means is not the mean over all tokens: a short piece counts as much as a long one. The
# next cell measures how large the difference can be.

# %%
assert abs(whole_loss - pieces_loss) < 1e-5 and relative_difference(whole, pieces) < 1e-5
assert abs(times - 4) < 1e-3

logits = model(torch.from_numpy(ids[:1])).detach()          # (1, T, V), as if from a model that has learned:
# each right token's logit is raised by 3
logits.scatter_add_(2, torch.from_numpy(ids[:1, 1:, None]), torch.full((1, 63, 1), 3.0))
long_piece = next_token_loss(logits, torch.from_numpy(ids[:1]))             # 63 good predictions
short_ids = torch.from_numpy(ids[1:2, :8])
short_piece = next_token_loss(model(short_ids).detach(), short_ids)         # 7 bad ones
mean_of_means = float(long_piece + short_piece) / 2
mean_over_tokens = float(63 * long_piece + 7 * short_piece) / 70
print(f"mean of the two means {mean_of_means:.3f}, mean over all tokens {mean_over_tokens:.3f}")
assert mean_of_means > mean_over_tokens + 0.5

# %% [markdown]
# ## Clipping
#
# All gradients together are one long vector. Its length is the **gradient norm**, the root of the sum of all
# squares. A rare batch can make it many times longer than usual, and one such step can undo many good ones.
# So if the norm is larger than 1, all gradients are multiplied by the same factor so that it becomes 1; the
# direction stays the same (Pascanu et al. 2013, algorithm 1). `train.py:clip_gradients` returns the norm
# before clipping; the log calls it `grad_norm`.

# %%
loss, before = gradient_of(32)
norm = clip_gradients(list(model.parameters()), 1.0)
after = math.sqrt(sum(float(parameter.grad.pow(2).sum()) for parameter in model.parameters()))
print(f"norm before {float(norm):.3f}, after {after:.4f}")
assert float(norm) > 1 and abs(after - 1) < 1e-4

# %% [markdown]
# ## AdamW, by hand
#
# Plain gradient descent moves a weight by rate times gradient. Adam (Kingma and Ba 2015) also uses the
# *earlier* gradients of each weight. It keeps two running means, the **moments**: m of the gradient, v of its
# square. Both start at zero, so at first they are too small; dividing by `1 - b^t` corrects this. The W
# (Loshchilov and Hutter 2019, algorithm 2) stands for **weight decay**: every step also makes the weight
# itself a little smaller.
#
# ```text
# m = b1 · m + (1 - b1) · g                      g: the gradient, t: the number of the step, from 1
# v = b2 · v + (1 - b2) · g²
# w = w - lr · decay · w - lr · (m / (1 - b1^t)) / (√(v / (1 - b2^t)) + ε)
# ```
#
# The next cell writes these three lines as a function. It gives the function, our optimizer
# (`train.py:AdamW.step`) and torch's the same twenty gradients, and compares all three.

# %%
def naive_adamw(weight, gradients, rate, decay, b1=0.9, b2=0.95, epsilon=1e-8):
    """The weight after one update for each of the gradients."""
    m = torch.zeros_like(weight)
    v = torch.zeros_like(weight)
    for t, g in enumerate(gradients, 1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        weight = (
            weight - rate * decay * weight - rate * (m / (1 - b1**t)) / ((v / (1 - b2**t)).sqrt() + epsilon)
        )
    return weight


ours = torch.nn.Sequential(torch.nn.Linear(16, 16, bias=False))
theirs = torch.nn.Sequential(torch.nn.Linear(16, 16, bias=False))
theirs.load_state_dict(ours.state_dict())
start = ours[0].weight.detach().clone()
gradients = [torch.randn(16, 16) for _ in range(20)]

our_optimizer = AdamW(ours, 0.01)
their_optimizer = torch.optim.AdamW(
    theirs.parameters(), lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.01
)
for t, gradient in enumerate(gradients, 1):
    ours[0].weight.grad = gradient.clone()
    theirs[0].weight.grad = gradient.clone()
    our_optimizer.step(t, 1e-3)
    their_optimizer.step()
by_hand = naive_adamw(start, gradients, 1e-3, 0.01)
print("ours equals torch's, bit for bit:", torch.equal(ours[0].weight, theirs[0].weight))
print(f"by hand and ours differ by at most {float((by_hand - ours[0].weight.detach()).abs().max()):.1e}")
assert torch.equal(ours[0].weight, theirs[0].weight)
assert torch.allclose(by_hand, ours[0].weight, rtol=0, atol=1e-6)

# %% [markdown]
# Now to the prediction. We give a weight the gradient 1 and another the gradient 0.001, and look at the first
# update.

# %%
pair = torch.nn.Sequential(torch.nn.Linear(2, 1, bias=False))
pair[0].weight.data.fill_(0.5)
pair[0].weight.grad = torch.tensor([[1.0, 0.001]])
assert pair[0].weight.grad[0, 0] == 1 and abs(float(pair[0].weight.grad[0, 1]) - 0.001) < 1e-9
AdamW(pair, weight_decay=0.0).step(1, 0.01)
moves = (0.5 - pair[0].weight.detach())[0]
print("moves:", [round(float(move), 6) for move in moves])

# %% [markdown]
# Both move by 0.01, which is the learning rate itself. At the first step the corrected means are `g` and
# `g²`, so the quotient is `g / |g|`: the sign of the gradient, whatever its size. Later the quotient is
# usually between minus one and one. That is why **the learning rate of Adam is a distance**: about how far
# a weight moves in one step. With a rate of 0.001, a weight of the usual size 0.02 moves by a twentieth of
# itself. For the same reason, multiplying the loss by a constant changes almost nothing in Adam, and the
# forgotten division above may not be noticed: only clipping depends on the length of the gradient.
#
# Decay is applied only to the matrices of torch's `nn.Linear`, as in the published models: not to norms,
# and not to an embedding that is also the output matrix.

# %%
assert all(abs(float(move) - 0.01) < 1e-5 for move in moves)
usual_size = float(model.model.embed_tokens.weight.detach().std())
assert abs(usual_size - 0.02) < 0.001 and abs(0.001 / usual_size - 1 / 20) < 0.003

optimizer = AdamW(model, weight_decay=0.01)
decayed = sum(p.numel() for p, decay in zip(optimizer.params, optimizer.decays) if decay)
total = sum(p.numel() for p in optimizer.params)
print(f"decayed: {decayed:,} of {total:,} parameters")
assert [
    name for name, decay in zip(optimizer.names, optimizer.decays) if not decay and "norm" not in name
] == ["model.embed_tokens.weight"]

# %% [markdown]
# ## How far in which step
#
# The rate begins at zero, so the very first step moves nothing, and rises in a straight line, the
# **warmup**: the first gradients of random weights say little, and v is a mean of only a few of them. Then
# the rate falls, so that the last steps make only small corrections. There are two usual ways. The
# published models use half a **cosine** (Loshchilov and Hutter 2017). **WSD** (warmup, stable, decay; Hu et
# al. 2024) stays at the peak and falls only at the end, so the length of the run need not be fixed at the
# start. Hu et al. let the rate fall exponentially; here it falls in a straight line, one of the forms that
# Haegele et al. (2024) compare. Both schedules are in `train.py:learning_rate`.

# %%
figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
curves = {}
for schedule in ("cosine", "wsd"):
    plan = TrainSettings(steps=1000, warmup_steps=50, stable_steps=800, learning_rate=8e-4, schedule=schedule)
    curves[schedule] = [learning_rate(plan, step) for step in range(1000)]
    axes.plot(curves[schedule], label=schedule)
axes.set(xlabel="step", ylabel="learning rate", title="two schedules with the same warmup")
axes.legend()
save_figure(figure, "08_schedules")
rows = [(step, *(f"{curve[step]:.6f}" for curve in curves.values())) for step in (0, 50, 525, 850, 999)]
table(("step", *curves), rows)

# %% [markdown]
# At step 525, half way between warmup and end, the cosine is at half of its peak, 0.0004, and WSD still at
# the peak, 0.0008. The sum of the rates over all steps is 500 times the peak for the cosine and 900 times for
# WSD. So a peak that is good for one may be too high or too low for the other.
#
# ## A test that finds most bugs: overfit one batch
#
# Before a long run, train on *one* small batch, again and again. A million parameters can learn 128 tokens by
# heart, so the loss must fall to nearly zero. If it does not, something between data and update is wrong, and
# more data will not help.

# %%
assert curves["cosine"][0] == curves["wsd"][0] == 0
assert abs(curves["cosine"][525] - 0.0004) < 1e-9 and abs(curves["wsd"][525] - 0.0008) < 1e-12
assert round(sum(curves["cosine"]) / 8e-4) == 500 and round(sum(curves["wsd"]) / 8e-4) == 900

torch.manual_seed(8)
model = Llama(SIZES["tiny"])
optimizer = AdamW(model, weight_decay=0.0)
batch = job.corpus.batch(0)[:4, :32]
job.micro_batch = 4
assert batch.size == 128
overfit = []
for step in range(25 if FAST else 60):
    overfit.append(float(training_step(model, batch, job)[0]))
    clip_gradients(optimizer.params, 1.0)
    optimizer.step(step + 1, 3e-3)
    model.zero_grad(set_to_none=True)
print("loss:", [round(loss, 3) for loss in overfit[::10]], "... last", round(overfit[-1], 4))

figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
axes.plot(overfit)
axes.set(xlabel="step", ylabel="loss (nats per token)", title="one batch, again and again")
save_figure(figure, "08_overfit")

# %% [markdown]
# The first loss is near 8.32, the logarithm of the 4096 tokens among which an untrained model chooses (lesson
# 01). After sixty steps the loss is below 0.1: the batch is known by heart.
#
# Two warnings. A model that can see the answers, for instance because the mask is wrong, passes this test
# too. (Lesson 06 tests the mask.) And a loss near zero on one batch says nothing about other text.
#
# ## Which loss to write down
#
# With accumulation a step has several micro-batches. Some programs log the loss of the *last* one only. Ours
# logs the mean over all. We compare the two with fixed weights, so that all variation is noise: 8
# micro-batches per step, the same for both.

# %%
assert abs(overfit[0] - 8.32) < 0.1 and round(math.log(4096), 2) == 8.32
if not FAST:
    assert overfit[-1] < 0.1
assert overfit[-1] < overfit[0] / 2

stream = Corpus(folder, 32, 16, total_steps=1000)
logged = {"mean of all": [], "last only": []}
for step in range(12 if FAST else 60):
    with torch.no_grad():
        losses = []
        for piece in numpy.split(stream.batch(step), 8):
            losses.append(float(next_token_loss(model(torch.from_numpy(piece)), torch.from_numpy(piece))))
    assert len(losses) == 8
    logged["mean of all"].append(sum(losses) / len(losses))
    logged["last only"].append(losses[-1])
noise = {name: float(numpy.std(values)) for name, values in logged.items()}
ratio = noise["last only"] / noise["mean of all"]
print({name: round(value, 3) for name, value in noise.items()}, "ratio", round(ratio, 2))

figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
for name in ("last only", "mean of all"):
    axes.plot(logged[name], label=name)
axes.set(xlabel="step", ylabel="loss", title="the same steps, logged in two ways (the weights do not change)")
axes.legend()
save_figure(figure, "08_logged_loss")

# %% [markdown]
# The standard deviation of a mean of eight independent numbers is smaller by a factor of √8, which is 2.83.
# The measured ratio is between 1.5 and 4.5 (from sixty steps it is itself a rough estimate). A log of the
# last piece only throws away most of the information.
#
# ## Back to the question
#
# A step is five lines, and each has a test that does not need a trained model: the pieces give the gradient
# of the complete batch; the clipped length is one; the update equals the published algorithm, by hand and in
# torch; the schedule is a formula; one batch can be learned by heart. And the prediction: in the first update
# the first weight moves as far as the second, although its gradient is a thousand times larger. If you wrote
# "a thousand", you thought of plain gradient descent.

# %%
assert len(losses) == 8 and round(math.sqrt(len(losses)), 2) == 2.83
if not FAST:
    assert 1.5 < ratio < 4.5
results = {
    "accumulation_difference": relative_difference(whole, pieces),
    "first_move_over_rate": float(moves[1]) / 0.01,
    "clipped_norm": after,
    "overfit_last_loss": overfit[-1],
    "noise_ratio": ratio,
}
finish("08_training_step", results)

# %% [markdown]
# ## Exercises
#
# 1. Write AdamW's step in `lessons/exercises/adamw.py` and the schedule in `lessons/exercises/schedule.py`;
#    run `pytest lessons/exercises/test_adamw.py lessons/exercises/test_schedule.py`.
# 2. Repeat the overfitting with a learning rate ten times larger, then ten times smaller. Which of the two
#    failures would you recognize in a log, and by which column?
# 3. Multiply the loss by a hundred before `backward`, without clipping and with it. Which of the two runs
#    changes, and why?
