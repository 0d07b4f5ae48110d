# SPDX-License-Identifier: Apache-2.0
# Read this lesson as a page or notebook: `python lessons/build.py 04` writes both to lessons/built/.

# %% [markdown]
# # 4. RMSNorm and SwiGLU
#
# **Question.** Two of the parts of a layer treat every position by itself: the norm and the MLP. What does
# each compute, and why is it there?
#
# **Prediction.** RMSNorm divides a vector by its own typical size. Suppose a vector comes in that is a
# thousand times larger than before. How does the result change? And if it is a thousand times *smaller*?
# Write down both.
#
# In lesson 01 you saw each token id become a vector of D numbers. All vectors of a batch together have the
# shape `(B, T, D)`. This lesson asks what the two parts do with one such vector.

# %%
import sys
from pathlib import Path

place = Path(globals().get("__file__", "lesson.py")).resolve()         # a notebook has no __file__
sys.path.insert(0, str(next(folder for folder in place.parents if (folder / "model.py").is_file())))

import math

import torch
import torch.nn.functional as F

from lessons.tools import FAST, draw_shapes, finish, save_figure, table
import matplotlib.pyplot as plt

from model import MLP, SIZES, RMSNorm

torch.manual_seed(4)                                        # the seed of everything random in this lesson

# %% [markdown]
# ## The size of a vector
#
# The **root mean square** of a vector x of width D is its typical size: square each entry, take the mean,
# take the root. RMSNorm divides by it, so that what comes out always has size one. Then each feature (each of
# the D entries) is multiplied by its own weight, which is learned and starts at one (Zhang and Sennrich 2019,
# eq. 4):
#
# ```text
# rms(x) = √( (x₁² + x₂² + … + x_D²) / D )
# y      = x / √( rms(x)² + ε ) · w
# ```
#
# The small number ε (`rms_norm_eps`, here `1e-5`) keeps the division safe when x is all zeros. It is added to
# the mean square, *inside* the root. We write the formula in the simplest way and compare it with the real
# `model.py:RMSNorm.forward` and with torch's own.

# %%
D = 128
norm = RMSNorm(D, eps=1e-5)
norm.weight.data.uniform_(0.5, 1.5)                                       # as if it had been trained
x = torch.randn(2, 5, D) * 3                                              # (B, T, D)


def naive_rms_norm(vector, weight, eps):
    """One vector at a time, one number at a time."""
    numbers = vector.tolist()
    mean_square = sum(number * number for number in numbers) / len(numbers)
    size = math.sqrt(mean_square + eps)
    return torch.tensor([number / size * factor for number, factor in zip(numbers, weight.tolist())])


y = norm(x).detach()                                                      # (B, T, D)
mine = naive_rms_norm(x[1, 3], norm.weight, 1e-5)
torch_own = F.rms_norm(x, (D,), norm.weight, eps=1e-5).detach()
table(["compared with RMSNorm", "largest difference"], [
    ["naive_rms_norm", f"{float((mine - y[1, 3]).abs().max()):.1e}"],
    ["torch's rms_norm", f"{float((torch_own - y).abs().max()):.1e}"]])
assert torch.allclose(mine, y[1, 3], atol=1e-5)
assert torch.allclose(torch_own, y, atol=1e-5)

# %% [markdown]
# Equal up to rounding. Now the prediction: the same vector, made larger and smaller. We measure the size of
# what comes out of a fresh norm (all weights one), for typical sizes of the input from a millionth to a
# million.

# %%
fresh = RMSNorm(D, eps=1e-5)
direction = torch.randn(D)
direction = direction / direction.pow(2).mean().sqrt()                    # (D,), size one
sizes = [10.0 ** exponent for exponent in range(-6, 7)]
outputs = [float(fresh(direction * size).pow(2).mean().sqrt().detach()) for size in sizes]
table(["size of x", "size of y"], [[f"{size:g}", f"{output:.4f}"] for size, output in zip(sizes, outputs)])
figure, axes = plt.subplots()
axes.loglog(sizes, outputs, "o-")
axes.axvline(math.sqrt(1e-5), color="grey", linestyle=":", label="√ε")
axes.set(
    xlabel="size of x",
    ylabel="size of RMSNorm(x)",
    title="Size does not pass through, until ε is larger than x",
)
axes.legend()
save_figure(figure, "04_rms_size")

# %% [markdown]
# A thousand times larger: nothing changes, y still has size one. Only the *direction* of a vector passes
# through the norm. A thousand times smaller: the size drops to 0.30, because the mean square of x is now
# `1e-6`, smaller than ε. Below √ε = 0.0032 the norm no longer divides by the size of x but by √ε.
#
# Why is it there? Each layer *adds* something to the vector of each position (lesson 07), so vectors grow
# from layer to layer. Without a norm, each part of each layer would get inputs of another size. With a norm
# before it, each part gets inputs of the same size, whatever was added before.
#
# ## How its gradient looks
#
# Training changes each weight in the direction opposite to its **gradient**, the slope of the loss when that
# weight changes. Torch computes gradients by itself; here we derive one by hand, to see what it says. With `r
# = 1/√(mean(x²)+ε)` and `g` the slope of the loss with respect to y, the chain rule gives
#
# ```text
# ∂loss/∂x = r · ( g·w  −  x · r² · mean(g·w·x) )
# ```
#
# All products here are entry by entry. (To derive it, differentiate each entry of y by each entry of x. The
# first term comes from the factor x, the second from r, which depends on all entries.) The second term
# removes the part of the slope that points along x itself: making x longer does not change y, so the loss
# does not depend on it. We check the formula against torch, and that the gradient is orthogonal to x, up to
# the tiny effect of ε.

# %%
assert f"{outputs[9]:.4f}" == "1.0000" and f"{outputs[6]:.4f}" == "1.0000"
assert round(outputs[3], 2) == 0.30
assert round(math.sqrt(fresh.eps), 4) == 0.0032
x = torch.randn(1, 1, D, requires_grad=True)                              # (B, T, D)
g = torch.randn(1, 1, D)                                                  # (B, T, D)
norm(x).backward(g)                                         # g: the slope with respect to y
with torch.no_grad():
    r = torch.rsqrt(x.pow(2).mean() + 1e-5)
    by_formula = r * (g * norm.weight - x * r**2 * (g * norm.weight * x).mean())
    error = float((by_formula - x.grad).abs().max())
    along_x = float((x.grad * x).sum() / (x.grad.norm() * x.norm()))
print(f"formula against torch: {error:.1e};  cosine between gradient and x: {along_x:.1e}")
assert error < 1e-5
assert abs(along_x) < 1e-4

# %% [markdown]
# ## Why the mean is taken in FP32
#
# The ordinary numbers of torch are **FP32**: thirty-two bits each, with twenty-four bits of precision.
# Large models compute most products in **bfloat16** (BF16): half as many bits, with only eight bits of
# precision, about two to three decimal digits. Lesson 09 is about both. The norm is an exception:
# `model.py:RMSNorm.forward` turns its input into FP32 before squaring, and the result back into BF16. What
# would happen otherwise? We compute the norm of the same BF16 vectors in three ways and compare with the
# exact result (computed in sixty-four bits, `.double()`).

# %%
vectors = torch.randn(200 if FAST else 2000, D).bfloat16()                # (N, D)
exact = vectors.double() / torch.sqrt(vectors.double().pow(2).mean(-1, keepdim=True) + 1e-5)
low = vectors * torch.rsqrt(vectors.pow(2).mean(-1, keepdim=True) + 1e-5)
fp32 = fresh(vectors.float())
rows = []
for name, result in (("all in BF16", low), ("RMSNorm on BF16", fresh(vectors)), ("RMSNorm in FP32", fp32)):
    relative = ((result.double() - exact).abs() / exact.abs().clamp_min(1e-9)).mean()
    rows.append([name, f"{float(relative.detach()):.1e}"])
table(["how", "mean relative error"], rows)
error_low, error_mixed, error_fp32 = [float(row[1]) for row in rows]

# %% [markdown]
# All in BF16 is the worst: the size itself is rounded, so all entries of a vector come out too large, or all
# too small. With the mean in FP32 only one rounding remains, the one at the end, back to BF16: an error of
# less than 0.002 on average. All in FP32, the error is more than 1,000 times smaller. The published models of
# this family keep *all* their norms in FP32, which is cheap: norms are a tiny part of the work.
#
# ## The MLP: a gate and a content
#
# The second part is the MLP ("multi-layer perceptron": two matrix products with a nonlinear function between
# them). Without that function, two matrices in a row would do no more than one matrix can. Llama's form is
# called **SwiGLU** (Shazeer 2020, eq. 6):
#
# ```text
# gate = x · W_gate        (D → M)         silu(z) = z · sigmoid(z) = z / (1 + e⁻ᶻ)
# up   = x · W_up          (D → M)
# y    = ( silu(gate) ⊙ up ) · W_down      (M → D)          ⊙: entry by entry
# ```
#
# Here x · W is a matrix product, and M is the width inside the MLP. Read it as M small detectors. Each
# reads the vector twice: `up` says *what* it would contribute, `gate` says *how much* of it may pass. The
# gate is near zero when its input is negative, and close to z when it is positive. Below is the curve,
# beside ReLU, an older choice, which is exactly zero for all negative numbers and so has no slope there to
# learn from.

# %%
assert error_mixed < error_low
assert error_mixed < 0.002 and error_mixed > 1000 * error_fp32
z = torch.linspace(-6, 6, 241)
figure, axes = plt.subplots()
axes.plot(z, F.silu(z), label="silu(z) = z · sigmoid(z)")
axes.plot(z, F.relu(z), "--", label="relu(z) = max(0, z)")
axes.set(xlabel="z", ylabel="how much passes", title="The gate of SwiGLU")
axes.legend()
save_figure(figure, "04_silu")
lowest = int(F.silu(z).argmin())
dip = float(F.silu(z)[lowest])
print(f"silu is lowest at z = {float(z[lowest]):.2f}: {dip:.3f};  silu(-6) = {float(F.silu(z)[0]):.3f}")
draw_shapes("04_shapes", {
    "x": (0, 0.5), "RMSNorm": (1, 0.5), "· W_gate": (2, 0), "silu": (3, 0), "· W_up": (2, 1), "⊙": (4, 0.5),
    "· W_down": (5, 0.5), "y": (6, 0.5)}, [
    ("x", "RMSNorm", "(B, T, D)"), ("RMSNorm", "· W_gate", "(B, T, D)"), ("RMSNorm", "· W_up", "(B, T, D)"),
    ("· W_gate", "silu", "(B, T, M)"), ("silu", "⊙", "(B, T, M)"), ("· W_up", "⊙", "(B, T, M)"),
    ("⊙", "· W_down", "(B, T, M)"), ("· W_down", "y", "(B, T, D)")])

# %% [markdown]
# The curve is lowest near z = -1.3, with -0.278, and comes back to almost zero: -0.015 at z = -6. The drawing
# shows the complete way of a batch through norm and MLP. Now we compare the real `model.py:MLP.forward` with
# the formula, written with products and sums only.

# %%
assert round(dip, 3) == -0.278 and round(float(z[lowest]), 1) == -1.3
assert round(float(F.silu(z)[0]), 3) == -0.015 and z[0] == -6
config = SIZES["tiny"]
mlp = MLP(config)
x = torch.randn(2, 5, config.hidden_size)                                 # (B, T, D)


def naive_swiglu(x, w_gate, w_up, w_down):
    """SwiGLU of one vector; the matrices have one row for each output, as torch stores them."""
    gate = torch.stack([(row * x).sum() for row in w_gate])               # (M,)
    up = torch.stack([(row * x).sum() for row in w_up])                   # (M,)
    passed = gate / (1 + torch.exp(-gate)) * up                           # (M,)
    return torch.stack([(row * passed).sum() for row in w_down])          # (D,)


with torch.no_grad():
    y = mlp(x)                                                            # (B, T, D)
    mine = naive_swiglu(x[1, 3], mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight)
print(f"shape {tuple(y.shape)}, largest difference {float((mine - y[1, 3]).abs().max()):.1e}")
assert torch.allclose(mine, y[1, 3], atol=1e-5)

# %% [markdown]
# Equal up to rounding. Note what neither part does: read another position. We change one position of the
# input and see which positions of the result change.

# %%
with torch.no_grad():
    changed = x.clone()
    changed[0, 2] += 1.0
    moved = (norm(mlp(changed)) - norm(mlp(x))).abs().amax(dim=2)          # (B, T)
print((moved > 0).int().tolist())
assert (moved > 0).sum() == 1 and moved[0, 2] > 0

# %% [markdown]
# Only that one changes. Everything that a position learns from other positions must come through attention
# (lesson 06).
#
# ## What it costs
#
# The MLP has three matrices of D times M numbers, `3 · D · M` in all. An older MLP has two, `2 · D · M'`;
# with `M' = 1.5 M` both cost the same. So at the same cost a SwiGLU model has a smaller M. Where are the
# parameters of a layer? (Lesson 07 explains the column of attention.)

# %%
rows, shares = [], {}
for name, size in SIZES.items():
    D, M = size.hidden_size, size.intermediate_size
    mlp_part = 3 * D * M
    attention_part = 2 * D * size.head_dim * (size.num_attention_heads + size.num_key_value_heads)
    norm_part = 2 * D
    shares[name] = mlp_part / (mlp_part + attention_part + norm_part)
    rows.append(
        [name, f"{mlp_part:,}", f"{attention_part:,}", f"{norm_part:,}", f"{100 * shares[name]:.1f}%"]
    )
table(["size", "MLP", "attention", "norms", "share of the MLP"], rows)
assert (
    sum(parameter.numel() for parameter in mlp.parameters())
    == 3 * config.hidden_size * config.intermediate_size
)

# %% [markdown]
# In the `20m` model 83.3% of the parameters of a layer are in the MLP. The norms have almost none.
#
# ## Back to the question
#
# RMSNorm removes the size of a vector and keeps its direction, so that every part of every layer gets inputs
# of size one. That was the prediction: a thousand times larger changes nothing. A thousand times smaller
# would change nothing either without ε; with it the size falls to 0.30. The MLP is the nonlinear part: its
# gates decide, for each position separately, how much of each of M contributions passes. Most parameters of a
# layer are there.

# %%
assert round(100 * shares["20m"], 1) == 83.3
assert round(outputs[3], 2) == 0.30
results = {"rms_formula_error": error, "bf16_error_all": error_low, "bf16_error_real": error_mixed,
           "size_after_1e-3": outputs[3], "mlp_share_20m": shares["20m"]}
finish("04_norm_mlp", results)

# %% [markdown]
# ## Exercises
#
# 1. Write `rms_norm` in `lessons/exercises/rms_norm.py` and run `pytest lessons/exercises/test_rms_norm.py`.
#    Then put ε outside the root and see what the grader says.
# 2. Write `swiglu` in `lessons/exercises/swiglu.py` and run `pytest lessons/exercises/test_swiglu.py`.
# 3. Replace the gate by a constant (`silu(gate)` by `1`). Show with a small experiment that the MLP is then
#    linear: `mlp(a + b)` equals `mlp(a) + mlp(b)`. Does this hold for the real one?
