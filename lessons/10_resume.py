# SPDX-License-Identifier: Apache-2.0
# Read this lesson as a page or notebook: `python lessons/build.py 10` writes both to lessons/built/.

# %% [markdown]
# # 10. Checkpoint and exact resume
#
# **Question.** Training stops: a laptop is closed, a session ends, the power fails. What must be on the disk
# so that the run can continue as if nothing had happened, equal to the last bit?
#
# **Prediction.** A run of twenty steps is stopped after ten and continued. Suppose the *weights* were saved,
# but the optimizer's memory (the running means m and v of lesson 08) was lost and begins at zero again. Which
# is the first step whose loss differs from the uninterrupted run: the eleventh, the twelfth, or a later one?
# Write down the step and the reason.

# %%
import sys
from pathlib import Path

place = Path(globals().get("__file__", "lesson.py")).resolve()         # a notebook has no __file__
sys.path.insert(0, str(next(folder for folder in place.parents if (folder / "model.py").is_file())))

import contextlib
import io
import json
import shutil

import torch

from lessons.tools import OUT, corpus, draw_shapes, finish, save_figure, table
import matplotlib.pyplot as plt

from common import folder_problem
from data import Corpus
from model import SIZES, Llama, next_token_loss
from train import AdamW, TrainSettings, clip_gradients, learning_rate, train

# %% [markdown]
# ## Twenty, and ten plus ten
#
# A **checkpoint** is the state of a run on disk. We train twenty steps without a stop. Then we train ten,
# stop, and let a second call of `train.py:train` continue. `stop_after` ends a call early; the schedule of
# the learning rate is still that of twenty steps.

# %%
folder = corpus("math")
plan = dict(size="tiny", data=str(folder), device="cpu", precision="fp32", steps=20, seq_len=32, batch_size=4,
            learning_rate=3e-3, warmup_steps=2, schedule="cosine", seed=10, eval_steps=10, max_eval_samples=4,
            fused=False)                                    # AdamW as it is written out in train.py


def quietly(**settings):
    """train(**settings) without its report on the screen."""
    with contextlib.redirect_stdout(io.StringIO()):
        return train(**settings)


whole_folder, halved_folder = OUT / "10_whole", OUT / "10_halved"
for run in (whole_folder, halved_folder):
    shutil.rmtree(run, ignore_errors=True)

whole = quietly(**plan, out=str(whole_folder))
first_half = quietly(**plan, out=str(halved_folder), stop_after=10)
shutil.copytree(halved_folder / "last", OUT / "10_checkpoint", dirs_exist_ok=True)  # for experiments below
second_half = quietly(resume=str(halved_folder))

# %%
together = first_half.losses + second_half.losses
print("steps:", len(whole.losses), "=", len(first_half.losses), "+", len(second_half.losses))
print("the same losses, bit for bit:", whole.losses == together)
for name in ("model.safetensors", "optimizer.safetensors", "trainer_state.json"):
    same = (whole_folder / "last" / name).read_bytes() == (halved_folder / "last" / name).read_bytes()
    print(f"last/{name}: {'the same bytes' if same else 'DIFFERENT'}")
    assert same
assert whole.losses == together and len(whole.losses) == 20 and len(first_half.losses) == 10

# %% [markdown]
# They are not similar but equal: all 20 losses have the same bits, and the files at the end have the same
# bytes. What is in the folder that makes this possible?

# %%
assert len(together) == 20
rows = [(file.name, f"{file.stat().st_size:,}") for file in sorted((halved_folder / "last").iterdir())]
table(("file in last/", "bytes"), rows)
print("trainer_state.json:", json.loads((halved_folder / "last" / "trainer_state.json").read_text()))
sizes = {file.name: file.stat().st_size for file in (halved_folder / "last").iterdir()}
moments_over_weights = sizes["optimizer.safetensors"] / sizes["model.safetensors"]
draw_shapes("10_shapes", {
    "run, stopped": (0, 1), "model.safetensors": (2.2, 0), "optimizer.safetensors": (2.2, 1),
    "trainer_state.json": (2.2, 2), "resumed run": (4.6, 1), "Corpus.batch": (4.6, 2)}, [
    ("run, stopped", "model.safetensors", "weights, FP32"),
    ("run, stopped", "optimizer.safetensors", "m and v"),
    ("run, stopped", "trainer_state.json", "the step"), ("model.safetensors", "resumed run", "weights, FP32"),
    ("optimizer.safetensors", "resumed run", "m and v"), ("trainer_state.json", "Corpus.batch", "the step"),
    ("Corpus.batch", "resumed run", "(B, T)")])

# %% [markdown]
# There are the weights; the two moments of each weight, so the optimizer's file is 2.0 times as large; a few
# numbers, above all the *step*; the vocabulary, so that the model can be used without other files; and
# `SHA256SUMS`, which is explained below.
#
# Two things are *not* there: a position in the data, and the state of a random generator.
# `data.py:Corpus.batch` computes a batch from the step and the seed (lesson 03), so the step is the position.
# And nothing in our step is random.
#
# ## The loop, written out
#
# To see what each part is needed for, we want a loop from which parts can be removed. It is a few lines that
# call the real functions. First we check that it is the same loop: it must give the losses of `train` bit for
# bit.

# %%
assert round(moments_over_weights, 1) == 2.0
settings = TrainSettings(**plan)                            # complete where learning_rate() looks
text = Corpus(folder, 32, 4, total_steps=20, seed=10)


def naive_loop(model, optimizer, first, last, batch=text.batch, counted_from=0, rate_from=0):
    """Losses of steps `first` to `last` - 1. The last two arguments make mistakes: where update and rate
    count from.
    """
    losses = []
    for step in range(first, last):
        ids = torch.from_numpy(batch(step))
        loss = next_token_loss(model(ids), ids)
        loss.backward()
        clip_gradients(optimizer.params, 1.0)
        optimizer.step(step + 1 - counted_from, learning_rate(settings, step - rate_from))
        for parameter in optimizer.params:
            parameter.grad = None
        losses.append(float(loss.detach()))
    return losses


torch.manual_seed(10)                                       # the seed of the first weights, as above
model = Llama(SIZES["tiny"])
naive_losses = naive_loop(model, AdamW(model, 0.01), 0, 20)
print("the loop of this lesson equals train(), bit for bit:", naive_losses == whole.losses)
assert naive_losses == whole.losses

# %% [markdown]
# ## Taking parts away
#
# Each experiment begins from the checkpoint of step ten and forgets one thing:
#
# - **nothing**, as a control;
# - the **moments** m and v, which begin at zero (and the count of updates with them, as in a new optimizer);
# - only the **count** of updates, which the correction `1 - b^t` needs;
# - the step of the **schedule**, so that the learning rate starts from the beginning;
# - the **position** in the data, so that the first batches come again;
# - the **precision**: weights stored as BF16 to save space (lesson 09).

# %%
def from_checkpoint(moments=True, low_precision=False):
    """Model and optimizer as they were after step ten, less what is to be forgotten."""
    restored = Llama.from_pretrained(OUT / "10_checkpoint")
    optimizer = AdamW(restored, 0.01)
    if moments:
        optimizer.load(OUT / "10_checkpoint" / "optimizer.safetensors")
    if low_precision:
        with torch.no_grad():
            for parameter in restored.parameters():
                parameter.copy_(parameter.bfloat16().float())
    return restored, optimizer


def from_the_start(step):
    """The batch of a loader that has forgotten its position."""
    return text.batch(step - 10)


continued = {
    "nothing": naive_loop(*from_checkpoint(), 10, 20),
    "moments": naive_loop(*from_checkpoint(moments=False), 10, 20, counted_from=10),
    "count": naive_loop(*from_checkpoint(), 10, 20, counted_from=10),
    "schedule": naive_loop(*from_checkpoint(), 10, 20, rate_from=10),
    "position": naive_loop(*from_checkpoint(), 10, 20, batch=from_the_start),
    "precision": naive_loop(*from_checkpoint(low_precision=True), 10, 20),
}
first_different = {}
rows = []
for forgotten, losses in continued.items():
    gaps = [abs(loss - right) for loss, right in zip(losses, whole.losses[10:])]
    steps = [11 + n for n, gap in enumerate(gaps) if gap > 0]
    first_different[forgotten] = steps[0] if steps else None
    first_gap = gaps[steps[0] - 11] if steps else 0.0
    rows.append((forgotten, steps[0] if steps else "none", f"{first_gap:.1e}", f"{gaps[-1]:.1e}"))
table(("forgotten", "first different step", "difference there", "difference in the last step"), rows)

figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
axes.plot(range(1, 21), whole.losses, color="black", linewidth=3, alpha=0.3, label="uninterrupted")
for forgotten, losses in continued.items():
    if forgotten != "nothing":
        axes.plot(range(11, 21), losses, label=forgotten)
axes.set(xlabel="step", ylabel="loss", title="resumed after step 10, with one thing forgotten")
axes.legend()
save_figure(figure, "10_forgotten")

# %% [markdown]
# With nothing forgotten there is no difference. A lost position shows at once, in step 11: other text,
# another loss. Weights stored as BF16 show at once as well, with a small difference. Everything that concerns
# the *update* shows one step later, in step 12: the loss of step 11 comes from the restored weights, which
# are right, and only then the first wrong update is made.
#
# In practice such a mistake is hard to see. None of these runs fails, and all losses look normal. With the
# lost position the curve even looks *better* than the right one, because the model has seen this text before.
# Only the comparison with an uninterrupted run shows the mistake. This is why `pytest` makes that comparison
# for every change of this project.

# %%
assert first_different["nothing"] is None
assert sum(continued["position"]) < sum(whole.losses[10:])
assert first_different["position"] == 11 and first_different["precision"] == 11
assert first_different["moments"] == first_different["count"] == first_different["schedule"] == 12

# %% [markdown]
# ## And the random numbers?
#
# Many programs draw their batches with a random generator: they choose random positions in the text and train
# on the tokens there. For them the state of the generator is part of the checkpoint. To set the seed again
# does not restore it: the generator starts from the beginning and draws the first batches again. The next
# cell makes such a loader and resumes twice: with the saved state of the generator, and with the seed only.

# %%
stream = torch.from_numpy(text.batch(0)).flatten().repeat(2)
for step in range(1, 40):
    stream = torch.cat([stream, torch.from_numpy(text.batch(step % 20)).flatten()])


def batches_from(generator):
    """A loader that draws its rows: a new batch at each call, whatever step it is asked for."""
    def batch(step):
        starts = torch.randint(len(stream) - 32, (4,), generator=generator)
        return torch.stack([stream[start:start + 32] for start in starts]).numpy()
    return batch


generator = torch.Generator().manual_seed(10)
draw, drawn_batches = batches_from(generator), []


def noted(step):
    """The next drawn batch, kept so that it can be compared later."""
    drawn_batches.append(draw(step))
    return drawn_batches[-1]


torch.manual_seed(10)
model = Llama(SIZES["tiny"])
optimizer = AdamW(model, 0.01)
before = naive_loop(model, optimizer, 0, 10, batch=noted)
saved_weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
saved_moments = {name: tensor.clone() for name, tensor in optimizer.state().items()}
saved_generator = generator.get_state()
uninterrupted = naive_loop(model, optimizer, 10, 20, batch=noted)


def resumed_with(generator):
    """Continue from the saved state with this generator."""
    model.load_state_dict(saved_weights)
    optimizer = AdamW(model, 0.01)
    for kind, tensors in (("exp_avg", optimizer.exp_avg), ("exp_avg_sq", optimizer.exp_avg_sq)):
        for name, tensor in zip(optimizer.names, tensors):
            tensor.copy_(saved_moments[f"{kind}.{name}"])
    return naive_loop(model, optimizer, 10, 20, batch=batches_from(generator))


restored_generator, restored_copy = torch.Generator(), torch.Generator()
restored_generator.set_state(saved_generator)
restored_copy.set_state(saved_generator)
kept = resumed_with(restored_generator)
reseeded = resumed_with(torch.Generator().manual_seed(10))
first_ever = drawn_batches[0]                               # what step 1 of this run trained on
after_reseeding = batches_from(torch.Generator().manual_seed(10))(10)
after_restoring = batches_from(restored_copy)(10)
print("generator restored, equal to uninterrupted:", kept == uninterrupted)
print("generator reseeded, equal to uninterrupted:", reseeded == uninterrupted)
repeated = bool((after_reseeding == first_ever).all())
print("reseeded, its first batch is the first batch of the run again:", repeated)
print("restored, its first batch is that of step 11:", bool((after_restoring == drawn_batches[10]).all()))
assert kept == uninterrupted and reseeded[0] != uninterrupted[0]
assert repeated and (after_restoring == drawn_batches[10]).all()
assert (after_restoring != first_ever).any()

# %% [markdown]
# So there are two ways. Either a program saves the state of every generator in every process, and what its
# loaders have already prepared. Or a batch is a function of the step, and there is nothing to save. This
# project chose the second.
#
# ## Writing a checkpoint without losing the last one
#
# The moment of saving is the dangerous one: if the power fails while the only checkpoint is being
# overwritten, both are gone. `common.py:replace_folder` writes the new one beside the old, under the name
# `last.new`, with a checksum of each file; waits until the disk has it; and only then renames `last` to
# `last.old` and `last.new` to `last`. At every moment at least one of the three is complete. We damage one
# byte of the newest checkpoint and resume.

# %%
damaged_folder = OUT / "10_damaged"
shutil.rmtree(damaged_folder, ignore_errors=True)
quietly(**{**plan, "eval_steps": 5}, out=str(damaged_folder), stop_after=10)  # saves after steps 5 and 10
weights = damaged_folder / "last" / "model.safetensors"
content = bytearray(weights.read_bytes())
content[len(content) // 2] ^= 1                             # one bit of one number
weights.write_bytes(content)
problems = {name: folder_problem(damaged_folder / name) for name in ("last", "last.old")}
for name, problem in problems.items():
    print(f"{name}: {problem.split('lessons/')[-1] if problem else 'complete'}")
after_damage = quietly(resume=str(damaged_folder))
print("steps made after the resume:", len(after_damage.losses))
end = whole.losses[-len(after_damage.losses):]
print("equal to the end of the uninterrupted run:", after_damage.losses == end)

# %% [markdown]
# The wrong bit is found before any weight is used. The run continues from the checkpoint before, at step 5,
# makes 15 steps, and ends with the same losses as the uninterrupted run. Five steps were computed again; no
# wrong number was used.
#
# ## Back to the question
#
# The disk must hold the weights in full precision, both moments, and the step. Everything else must follow
# from these and from the settings, or be saved as well. If you predicted the twelfth step, you are right, and
# the reason is the order within a step: first the loss, then the update. So a right first loss after a resume
# proves nothing about the optimizer.

# %%
assert problems["last"] and problems["last.old"] is None
assert len(after_damage.losses) == 15 and after_damage.losses == whole.losses[5:]
results = {
    "resume_is_exact": whole.losses == together,
    **{f"first_different_without_{name}": step or 0 for name, step in first_different.items()},
    "steps_after_damage": len(after_damage.losses),
}
finish("10_resume", results)

# %% [markdown]
# ## Exercises
#
# 1. Forget *only v*, the mean of the squares, and keep m. Which step differs first, and is the damage larger
#    or smaller than when both are forgotten? Explain it with the formula of lesson 08.
# 2. Start a run with `python train.py --size tiny`, press Ctrl-C after some steps, and continue it with
#    `python train.py --resume`. Then do it again with a kill that cannot be caught (`kill -9`, or end the
#    process in the task manager). What is lost in each case?
# 3. The program refuses some changes at a resume (`python train.py --resume --learning-rate 1e-4`) and allows
#    others (`--stop-after`). Find the list in `training/resolve.py`, and explain three of its entries.
