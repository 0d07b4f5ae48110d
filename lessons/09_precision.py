# SPDX-License-Identifier: Apache-2.0
# Read this lesson as a page or notebook: `python lessons/build.py 09` writes both to lessons/built/.

# %% [markdown]
# # 9. Precision and devices
#
# **Question.** Half as many bits per number means half the memory and, with the right hardware, much more
# speed. Which numbers of a training run may be stored in half of the bits, and which may not? And does the
# same run give the same result on other devices?
#
# **Prediction.** A weight is stored in bfloat16, a number format of sixteen bits. Its value is one. Training
# adds a thousandth to it, a thousand times. What is its value afterwards? Write down a number.

# %%
import sys
from pathlib import Path

place = Path(globals().get("__file__", "lesson.py")).resolve()         # a notebook has no __file__
sys.path.insert(0, str(next(folder for folder in place.parents if (folder / "model.py").is_file())))

import copy
import dataclasses
import json
import subprocess
import time
from importlib.util import find_spec

import numpy
import torch

from lessons.tools import FAST, corpus, draw_shapes, finish, save_figure, table
import matplotlib.pyplot as plt

import precision
from data import Corpus
from devices.attention_cpu import attend_in_blocks
from model import SIZES, Llama, attention_written_out, next_token_loss, sdpa
from train import AdamW, TrainSettings, clip_gradients, learning_rate

# %% [markdown]
# ## Three kinds of number
#
# A floating-point number is a sign, an exponent and a fraction: `±1.fraction · 2^exponent`. The bits of the
# fraction decide how *finely* numbers are spaced, those of the exponent how large and how small they can be.
# **FP32** has 32 bits. **FP16** and **BF16** both have 16 and use them differently: FP16 has a longer
# fraction; BF16 ("brain float") has as many exponent bits as FP32.

# %%
assert torch.finfo(torch.float32).bits == 32
assert torch.finfo(torch.float16).bits == torch.finfo(torch.bfloat16).bits == 16

kinds = {"FP32": torch.float32, "BF16": torch.bfloat16, "FP16": torch.float16}
rows = []
for name, dtype in kinds.items():
    info = torch.finfo(dtype)
    rows.append((name, info.bits, f"{info.eps:.2g}", f"{info.max:.3g}", f"{info.smallest_normal:.2g}"))
table(("format", "bits", "spacing just above 1", "largest", "smallest normal"), rows)

figure, axes = plt.subplots(figsize=(7, 3.4), layout="constrained")
values = 10.0 ** numpy.arange(-9, 6, 0.02)
for name, dtype in kinds.items():
    info = torch.finfo(dtype)
    exponent = numpy.floor(numpy.log2(numpy.maximum(values, info.smallest_normal)))
    spacing = info.eps * 2.0**exponent
    axes.loglog(values[values < info.max], (spacing / values)[values < info.max], label=name)
axes.set(
    xlabel="size of the number",
    ylabel="spacing / number",
    title="how finely numbers are spaced",
    ylim=(1e-8, 10),
)
axes.legend()
save_figure(figure, "09_spacing")

# %% [markdown]
# Just above 1, the neighbours in BF16 are 0.0078 apart, 8 times further than in FP16 (0.00098), and 65,536
# times further than in FP32. In exchange BF16 has the range of FP32, while the largest
# number of FP16 is 65504, and below 0.00006, its *smallest normal* number, it loses precision.
#
# So the two fail in different ways. FP16 loses small numbers, such as gradients. BF16 loses small
# *differences*, such as updates of weights. First the prediction.

# %%
eps = {name: torch.finfo(dtype).eps for name, dtype in kinds.items()}      # the spacing just above 1
assert round(eps["BF16"], 4) == 0.0078 and round(eps["FP16"], 5) == 0.00098
assert float(torch.tensor(1.0).bfloat16() + eps["BF16"]) == 1 + eps["BF16"]
assert eps["BF16"] / eps["FP16"] == 8 and eps["BF16"] / eps["FP32"] == 65_536
assert torch.finfo(torch.float16).max == 65504
assert round(torch.finfo(torch.float16).smallest_normal, 5) == 0.00006

ends = {}
for name, dtype in kinds.items():
    for start in (1.0, 0.02):
        weight = torch.tensor(start, dtype=dtype)
        for _ in range(1000):
            weight += 0.001
        ends[name, start] = float(weight)
table(("format", "1 plus 0.001, a thousand times", "0.02 plus 0.001, a thousand times"),
      [(name, f"{ends[name, 1.0]:.4f}", f"{ends[name, 0.02]:.4f}") for name in kinds])

# %% [markdown]
# In BF16 the weight is still 1. Each sum, 1.001, lies between 1 and its neighbour 1.0078. It is nearer to 1
# and is rounded back to it. So every one of the thousand updates is lost. The other weight begins at 0.02,
# where numbers are spaced more finely. It grows until the spacing is too wide for 0.001; at 0.5 it stops.
#
# ## Master weights
#
# The rule that follows (Micikevicius et al. 2018, section 3.1): keep weights and moments in FP32 and add
# updates in FP32. These weights are the **master weights**. Only the matrix *products*, which are nearly all
# of the work, use copies with half of the bits. In PyTorch this is **autocast**: each matrix product casts
# copies of its inputs and leaves the weights as they are. Our experiment trains the same small model three
# times with the same batches:
#
# - `FP32`: everything in FP32;
# - `BF16 products`: autocast, master weights in FP32 (the recipe called `bf16` in `precision.py:PRECISIONS`);
# - `BF16 weights`: as FP32, but after each update the weights are rounded to BF16, as if they were stored so.

# %%
assert ends["BF16", 1.0] == 1 == float(torch.tensor(1.001).bfloat16()) and round(1 + eps["BF16"], 4) == 1.0078
assert ends["BF16", 0.02] == 0.5 == float(torch.tensor(0.5).bfloat16() + 0.001)
assert abs(ends["FP32", 1.0] - 2) < 1000 * eps["FP32"]      # 1,000 sums, each rounded by eps / 2 at most

draw_shapes("09_shapes", {
    "master weights": (0, 0), "cast": (1.5, 0), "products": (2.8, 0), "loss": (4, 0), "backward": (4, 1),
    "gradients": (2.8, 1), "AdamW: m, v": (1.5, 1), "w - update": (0, 1)}, [
    ("master weights", "cast", "FP32"), ("cast", "products", "BF16"), ("products", "loss", "BF16"),
    ("loss", "backward", "FP32"), ("backward", "gradients", "BF16"), ("gradients", "AdamW: m, v", "FP32"),
    ("AdamW: m, v", "w - update", "FP32"), ("w - update", "master weights", "FP32")])

torch.manual_seed(9)                                        # the seed of everything random in this lesson
folder = corpus("math")
shape = dataclasses.replace(SIZES["tiny"], num_hidden_layers=2)
steps = 12 if FAST else 80
plan = TrainSettings(
    steps=steps, warmup_steps=steps // 10, stable_steps=0, learning_rate=3e-4, schedule="cosine"
)
text = Corpus(folder, 32, 4, total_steps=steps)
first_model = Llama(shape)


def trained(recipe, round_weights):
    """Losses of a run, and the share of weights that each update left where they were."""
    model = precision.apply_precision(copy.deepcopy(first_model), recipe, "cpu")
    optimizer = AdamW(model, weight_decay=0.0)
    losses = []
    unmoved = []
    for step in range(steps):
        ids = torch.from_numpy(text.batch(step))
        loss = next_token_loss(model(ids), ids)
        loss.backward()
        clip_gradients(optimizer.params, 1.0)
        before = [parameter.detach().clone() for parameter in optimizer.params]
        optimizer.step(step + 1, learning_rate(plan, step))
        with torch.no_grad():
            for parameter in optimizer.params:
                if round_weights:
                    parameter.copy_(parameter.bfloat16().float())
                parameter.grad = None
        triples = zip(before, optimizer.params, optimizer.names)
        # without the embedding: the rows of tokens that are not in the batch do not move anyway
        pairs = [(old, new) for old, new, name in triples if "embed" not in name]
        same = sum(int((old == new).sum()) for old, new in pairs)
        unmoved.append(same / sum(new.numel() for _, new in pairs))
        losses.append(float(loss.detach()))
    return losses, unmoved


runs = {}
runs["FP32"] = trained("fp32", round_weights=False)
runs["BF16 products"] = trained("bf16", round_weights=False)
runs["BF16 weights"] = trained("fp32", round_weights=True)
late = slice(-steps // 6, None)
loss_at_end = {name: float(numpy.mean(losses[late])) for name, (losses, _) in runs.items()}
lost = {name: float(numpy.mean(unmoved[1:])) for name, (_, unmoved) in runs.items()}
table(("run", "loss at the end", "weights that a step did not move"),
      [(name, f"{loss_at_end[name]:.3f}", f"{100 * lost[name]:.1f}%") for name in runs])

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
for name, (losses, unmoved) in runs.items():
    left.plot(losses, label=name)
    right.plot([100 * share for share in unmoved[1:]], label=name)
left.set(xlabel="step", ylabel="loss")
right.set(xlabel="step", ylabel="% of weights not moved")
left.legend()
save_figure(figure, "09_master_weights")

# %% [markdown]
# With BF16 products the run ends at the same loss as the FP32 run. With BF16 weights, almost half of all
# weights do not move in a typical step, and the loss is higher. No error appears: the run is only worse than
# it could be. Near the end of the schedule the learning rate falls, so updates become smaller and more of
# them are lost; the right plot shows it.
#
# ## The recipes of the published models
#
# The published models keep more than the weights in FP32. Their recipes are in `precision.py:PRECISIONS`: all
# **norms** compute in FP32 (a mean of squares is a long sum of small numbers), and so do the **first and last
# layer** (or the first two, in the FP16 recipe). The softmax of attention needs no special care: the kernel
# computes it in FP32 inside. We apply the recipe `tpu-bf16` to `tiny` and use hooks on the real modules to
# see in which format each one computes.

# %%
# "Seen" is what 23 runs gave: seven seeds with AVX-512, AVX2 and neither, and two more with two threads.
assert abs(loss_at_end["BF16 products"] - loss_at_end["FP32"]) < 0.003      # seen: at most 0.0003
assert lost["BF16 weights"] > 0.25 and lost["FP32"] < 0.002          # in the short form: 0.34 and 0.0002
if not FAST:
    assert 0.45 < lost["BF16 weights"] < 0.5                # seen: 0.477 to 0.489
    assert loss_at_end["BF16 weights"] > loss_at_end["FP32"] + 0.04         # seen: 0.084 to 0.092 higher
    unmoved = runs["BF16 weights"][1]
    assert numpy.mean(unmoved[late]) > numpy.mean(unmoved[steps // 4:steps // 2])

model = precision.apply_precision(Llama(SIZES["tiny"]), "tpu-bf16", "cpu")
seen = {}


def watch(name):
    """A hook that remembers in which format the module called `name` computed."""
    def note_dtype(module, inputs, output):
        seen[name] = str(output.dtype).removeprefix("torch.")
    return note_dtype


for name, module in model.named_modules():
    if name.endswith(("q_proj", "down_proj")):
        module.register_forward_hook(watch(name))
with torch.no_grad():
    logits = model(torch.from_numpy(text.batch(0)))
for name, dtype in seen.items():
    print(f"{name:40} {dtype}")
stored = {str(parameter.dtype).removeprefix("torch.") for parameter in model.parameters()}
print(f"{'weights, all of them':40} {', '.join(stored)}")
assert [seen[f"model.layers.{i}.self_attn.q_proj"] for i in range(4)] == [
    "float32", "bfloat16", "bfloat16", "float32"]
assert stored == {"float32"}

# %% [markdown]
# The first and the last layer compute in FP32, the two between them in BF16, and the weights are FP32
# everywhere, so a saved file does not show which recipe trained it. The model cards state how many modules
# computed in FP32. `precision.py:lifted_counts` counts them in our models (*lifted*: raised to FP32 while
# the rest computes with half of the bits):

# %%
rows = []
counts = {}
for name, recipe in (("20m", "tpu-bf16"), ("150m", "tpu-bf16"), ("30m", "t4-fp16")):
    with torch.device("meta"):                              # shapes without memory
        large = Llama(SIZES[name])
    counts[name] = precision.lifted_counts(precision.apply_precision(large, recipe, "meta"))
    rows.append((name, recipe, *counts[name].values()))
table(("size", "recipe", *counts["20m"]), rows)

# %% [markdown]
# 25 norms in `20m`: two in each of twelve layers, and the last one. 41 in `150m`, 21 in `30m`; 2 layers each,
# no softmax. The cards state the same counts.
#
# ## Loss scaling: what FP16 needs and BF16 does not
#
# A small number becomes zero in FP16 where it does not in BF16: the gradient of a rarely used weight may be
# 0.00000001. The remedy (Micikevicius et al. 2018, section 3.2) is to multiply the *loss* by a large number
# before backward, which multiplies every gradient by it, and to divide before the update. If the scaled
# gradients overflow, the step is skipped and the scale halved; after many good steps it is doubled:
# `precision.py:next_scale`.

# %%
assert counts["20m"] == {"fp32_norms": 25, "fp32_layers": 2, "fp32_softmax": 0}
assert counts["150m"] == {"fp32_norms": 41, "fp32_layers": 2, "fp32_softmax": 0}
assert counts["30m"] == {"fp32_norms": 21, "fp32_layers": 2, "fp32_softmax": 0}

gradient = torch.tensor(0.00000001)
print("in FP16:", float(gradient.half()), "  in BF16:", float(gradient.bfloat16()))
scaled = (gradient * precision.FIRST_SCALE).half()
print(f"scaled by {precision.FIRST_SCALE:.0f}, in FP16, and divided again: "
      f"{float(scaled) / precision.FIRST_SCALE:.3g}")
scale, good = precision.next_scale(precision.FIRST_SCALE, good_steps=5, finite=False)
print(f"after an overflow: scale {scale:.0f}, good steps {good}")
assert gradient == 0.00000001 and float(scaled) > 0
assert float(gradient.half()) == 0 and float(gradient.bfloat16()) > 0
assert scale == precision.FIRST_SCALE / 2 and good == 0

# %% [markdown]
# ## Is the fused kernel faster?
#
# Attention can be computed by a fused kernel (lesson 06): one program that works on small blocks and never
# writes the T × T scores to memory. Where memory is the limit, as on a GPU or in long rows, this saves time.
# But is it always faster? We time three forms of the same function on this machine, for rows of `128`
# positions: torch's kernel, attention written out with matrix products, and
# `devices/attention_cpu.py:attend_in_blocks`, which writes it out for blocks of queries and skips keys that
# the mask hides.

# %%
config, T = SIZES["20m"], 128
forms = {"fused kernel": sdpa, "written out": attention_written_out, "in blocks": attend_in_blocks}


def shortest_times(form, inputs):
    """Milliseconds of forward and backward: the shortest of several, as disturbances only add time."""
    best = [float("inf")] * 2
    for _ in range(3 if FAST else 12):
        began = time.perf_counter()
        y = form(*inputs)                                                 # (B, H, T, F)
        middle = time.perf_counter()
        torch.autograd.grad(y, inputs, torch.ones_like(y))
        best = [min(best[0], middle - began), min(best[1], time.perf_counter() - middle)]
    return [f"{1000 * seconds:.2f}" for seconds in best]


def error_bound(q, k, v, dtype):
    """The largest error that rounding alone can make.

    Rounding a score s changes its weight by the share |s| eps; weight and result are rounded to the format
    too. The sums over F features and T keys are made in FP32, one rounding a term.
    """
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)                            # (B, H, T, F)
    score = float((q.abs() @ k.abs().transpose(2, 3)).max()) / q.shape[3] ** 0.5
    terms = torch.finfo(torch.float32).eps * (q.shape[3] * score + q.shape[2])
    return float(v.abs().max()) * (torch.finfo(dtype).eps * (1 + score) + terms)


rows, gaps = [], []
for dtype in (torch.float32, torch.bfloat16):
    heads = [config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads]
    inputs = [torch.randn(8, number, T, config.head_dim).to(dtype).requires_grad_() for number in heads]
    exact_inputs = [tensor.detach().double() for tensor in inputs]
    exact = attention_written_out(*exact_inputs)                                        # (B, H, T, F)
    for name, form in forms.items():
        gap = float((form(*inputs).detach() - exact).abs().max())
        gaps.append(gap / error_bound(*exact_inputs, dtype))
        rows.append((str(dtype).removeprefix("torch."), name, *shortest_times(form, inputs), f"{gap:.0e}"))
table(("format", "form", "forward, ms", "backward, ms", "largest error"), rows)

# %% [markdown]
# All forms compute the same up to rounding; the times are those of your machine, so the lesson states none.
# On the machine where this was written, the kernel is the slowest form in BF16, above all in the backward
# pass. A likely reason: the scores of such short rows fit into the processor's cache (its small, fast
# memory; not the KV cache), so storing them costs little, and the kernel saves little. But it pays for what
# it does not store: its backward pass computes the weights again, block by block. The other forms keep the
# weights and make a few large matrix products, for which the processor has fast code.
#
# So "fused" does not always mean faster. `devices/attention_cpu.py` chooses the form by format and length,
# and `python -m bench.attention` prints the table for lengths up to several thousand.

# %%
assert max(gaps) < 1                                        # the error, as a share of its bound

# %% [markdown]
# ## The same run on several devices
#
# **Data parallelism**: each of several devices holds a copy of the model, a *replica*, takes its own rows
# of the batch, and after backward the gradients are averaged over all replicas, so that all make the same
# update and stay equal. It is the gradient accumulation of lesson 08, with the pieces computed at the same
# time. The next cell does it by hand with two replicas: `data.py:Corpus.batch` gives each its rows (`rank`
# is the number of the replica, `world` is how many there are), and the average is written out.

# %%
def move(replica, optimizer, step):
    """Clip, move the weights, forget the gradients."""
    clip_gradients(optimizer.params, 1.0)
    optimizer.step(step + 1, 1e-3)
    replica.zero_grad(set_to_none=True)


torch.manual_seed(9)
single = Llama(shape)
replicas = [copy.deepcopy(single), copy.deepcopy(single)]
single_optimizer = AdamW(single, 0.01)
optimizers = [AdamW(replica, 0.01) for replica in replicas]
differences = []
for step in range(3 if FAST else 10):
    ids = torch.from_numpy(text.batch(step))
    loss = next_token_loss(single(ids), ids)
    loss.backward()
    move(single, single_optimizer, step)

    shares = []
    for rank, replica in enumerate(replicas):
        rows_of_rank = torch.from_numpy(text.batch(step, rank=rank, world=2))
        share = next_token_loss(replica(rows_of_rank), rows_of_rank)
        share.backward()
        shares.append(float(share.detach()))
    for parameters in zip(*(replica.parameters() for replica in replicas)):
        average = (parameters[0].grad + parameters[1].grad) / 2
        for parameter in parameters:
            parameter.grad = average.clone()
    for replica, optimizer in zip(replicas, optimizers):
        move(replica, optimizer, step)
    differences.append(abs(float(loss.detach()) - sum(shares) / 2))
equal = all(torch.equal(a, b) for a, b in zip(replicas[0].parameters(), replicas[1].parameters()))
print("loss of one device against the mean of two, largest difference:", f"{max(differences):.1e}")
print("the two replicas still hold the same weights, bit for bit:", equal)

# %% [markdown]
# The losses agree to the fifth digit after the point or better; the last bits differ, because the sums are
# computed in another order. In a real run `DistributedDataParallel` does the averaging, in processes that
# `torchrun` starts. The command is the same on CPUs and GPUs:
#
# ```text
# torchrun --nproc-per-node 2 train.py --size tiny
# ```
#
# The test `tests/test_ddp.py` starts two such processes and compares their log with that of one.
#
# ## Compiled devices want one shape
#
# A **TPU** is Google's processor for matrix products; several such chips make one machine. There are two
# ways to use one from PyTorch. The older is torch_xla, which gets no new releases but is installed on
# Kaggle, a site that lends such machines: one process drives all chips (`--device xla`). Its successor is
# TorchTPU: one process for each chip, as on several GPUs (`--device tpu`). We have run neither on a chip.
# This section is about the first.
#
# A TPU does not run operation by operation. PyTorch/XLA *records* the operations of a step as a graph,
# compiles the graph once, and keeps it. If the next step records the same graph, the compiled one is used
# again. If anything differs, above all a shape, a new graph is compiled, which may take minutes. Below is the
# number of graphs compiled until the end of each step, for a small model trained in three ways. Where
# torch_xla is installed the cell measures it now (`lessons/xla_graphs.py`); elsewhere it shows an earlier
# measurement, and says so.

# %%
assert max(differences) < 1e-5                  # seen: at most 2e-6; FP32 numbers near 8 are 1e-6 apart
assert equal and len(replicas) == 2

RECORDED = {
    "graphs": {
        "one length": [1, 1, 1, 1, 1, 1, 1, 1],
        "two lengths by turns": [1, 2, 2, 2, 2, 2, 2, 2],
        "a new length every step": [1, 2, 3, 4, 5, 6, 7, 8],
    },
    "torch": "2.9.0",
    "torch_xla": "2.9.0",
}
compiled = RECORDED
source = "RECORDED on 2026-11-25 with XLA's CPU device, not measured now"
if find_spec("torch_xla"):
    root = next(folder for folder in place.parents if (folder / "model.py").is_file())
    program = root / "lessons" / "xla_graphs.py"
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=True)
    compiled = json.loads(done.stdout.splitlines()[-1])
    source = "measured now"
print(f"{source}; torch {compiled['torch']}, torch_xla {compiled['torch_xla']}")
header = ("rows have", *(f"step {n}" for n in range(8)))
table(header, [(name, *counted) for name, counted in compiled["graphs"].items()])

# %% [markdown]
# With one shape there is 1 graph, although the learning rate changed in each of the 8 steps: a *number* that
# changes is an input of the graph, but another *shape* needs another graph. This is why `data.py` packs every
# row to the same length and drops a last partial batch, why `train.py:AdamW.step` puts the numbers of a step
# into one small tensor, and why a training log on a TPU shows how many graphs have been compiled: the count
# must stop growing.
#
# ## Back to the question
#
# Products may be computed in BF16 or FP16; weights, moments, sums of updates, norms and the loss stay in
# FP32. A weight of 1 in BF16, to which 0.001 is added a thousand times, is still 1. If you wrote "2", you
# computed without rounding; if you wrote "about 2", you expected rounding errors to be small. They were not
# small: *every* update was rounded away.
#
# And several devices give the same result as one, up to the order of additions, if each takes its own part of
# the same batch.

# %%
assert compiled["graphs"]["one length"][-1] == 1 and len(compiled["graphs"]["one length"]) == 8
assert compiled["graphs"]["a new length every step"][-1] == 8
assert ends["BF16", 1.0] == 1 and round(ends["FP32", 1.0]) == 2
assert 0.001 < eps["BF16"] / 2
results = {
    "bf16_weight_after_1000_updates": ends["BF16", 1.0],
    "weights_not_moved_bf16": lost["BF16 weights"],
    "loss_cost_of_bf16_weights": loss_at_end["BF16 weights"] - loss_at_end["FP32"],
    "loss_cost_of_bf16_products": loss_at_end["BF16 products"] - loss_at_end["FP32"],
    "two_replicas_difference": max(differences),
    "graphs_one_length": compiled["graphs"]["one length"][-1],
}
finish("09_precision", results)

# %% [markdown]
# ## Exercises
#
# 1. What is the smallest number that can be added to 1 in BF16 so that the sum is not 1? Predict it from the
#    spacing, then search for it by halving. Why is it not the spacing itself?
# 2. Round with a coin: when a weight is rounded to BF16, round it up with a probability that says how close
#    it is to the upper neighbour, else down ("stochastic rounding"). Use this in the third run in place of
#    `parameter.bfloat16().float()`. How much of the lost progress comes back?
# 3. Give the two replicas *different* seeds for their first weights and average the gradients as before. What
#    does the loss do? What in `train.py` prevents this from happening?
