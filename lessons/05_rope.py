# SPDX-License-Identifier: Apache-2.0
# Read this lesson as a page or notebook: `python lessons/build.py 05` writes both to lessons/built/.

# %% [markdown]
# # 5. Rotary positions
#
# **Question.** Attention (lesson 06) compares the vector of one position with the vector of another by a dot
# product, and a dot product does not depend on the places of its two vectors in the text. How does the model
# know that "dog bites man" is not "man bites dog"?
#
# **Prediction.** Take a query vector at position three and a key vector at position one, rotate each by an
# angle that belongs to its position, and take their dot product. Then move both a hundred positions further.
# What happens to the dot product: does it grow, shrink, change in some unpredictable way, or stay the same?
# Write down one, and why.

# %%
import sys
from pathlib import Path

place = Path(globals().get("__file__", "lesson.py")).resolve()         # a notebook has no __file__
sys.path.insert(0, str(next(folder for folder in place.parents if (folder / "model.py").is_file())))

import math

import torch

from lessons.tools import FAST, draw_shapes, finish, save_figure, table
import matplotlib.pyplot as plt

from model import SIZES, rotary_table, rotate

# %% [markdown]
# ## Two words first
#
# For every position, attention makes a **query**, a vector that says what this position is looking for, and a
# **key**, a vector that says what can be found there. The dot product of a query and a key says how well they
# fit; it is called the **score**. Lesson 06 explains the rest. Here we only ask where positions come in.
#
# ## One pair of numbers
#
# Take two features of a vector, `(a, b)`, as a point in the plane. To rotate it by an angle φ means
#
# ```text
# a' = a · cos φ - b · sin φ
# b' = b · cos φ + a · sin φ
# ```
#
# A rotation changes no length. And the dot product of two vectors depends on their lengths and on the angle
# *between* them. So if the query is rotated by `n · ω` and the key by `m · ω`, where n and m are their
# positions and ω (the Greek letter omega) is a fixed speed, the angle between them changes by `(n - m) · ω`:
# by the *distance* of the two positions, and by nothing else. This is **rotary position embedding**, RoPE (Su
# et al. 2021, section 3.2).
#
# The next cell does it for one pair, by hand.

# %%
torch.manual_seed(5)                                        # the seed of everything random in this lesson


def turned(point, angle):
    """A point (a, b), rotated."""
    a, b = point
    return (a * math.cos(angle) - b * math.sin(angle), b * math.cos(angle) + a * math.sin(angle))


query, key, speed = (0.6, 0.8), (1.0, -0.5), 0.3
rows = []
products = []
for n, m in ((3, 1), (103, 101), (1003, 1001), (3, 2)):
    q, k = turned(query, n * speed), turned(key, m * speed)
    products.append(q[0] * k[0] + q[1] * k[1])
    rows.append((n, m, n - m, f"{products[-1]:.6f}"))
table(("query at", "key at", "distance", "dot product"), rows)
assert (
    abs(products[0] - products[1]) < 1e-9
    and abs(products[0] - products[2]) < 1e-9
    and abs(products[0] - products[3]) > 0.1
)

# %% [markdown]
# With the distance 2 the product is the same all three times; with the distance 1 it is another.
#
# ## Many pairs, many speeds
#
# One angle is not enough: after a full turn the same values come again, so two positions that are a full turn
# apart would look the same. So the F features of a query or key form F/2 pairs, and each pair has its own
# speed. Pair j turns by `θ^(-2j/F)` per position: the first pair by one radian, the last very slowly. θ
# (theta) is `rope_theta` of the configuration, 10,000 as in the paper or 50,000 in the models with a long
# context. It is like a clock: the second hand separates times that are close together, the hour hand times
# that are far apart.

# %%
assert rows[0][2] == rows[1][2] == rows[2][2] == 2 and rows[3][2] == 1

config = SIZES["20m"]
speeds = {}
rows = []
for theta in (10_000.0, 50_000.0):
    cos, sin = rotary_table(2, config.head_dim, theta)
    # the angles of position 1: the speeds
    speeds[theta] = torch.atan2(sin[1], cos[1])[: config.head_dim // 2]
    slowest = 2 * math.pi / float(speeds[theta][-1])
    fastest = float(speeds[theta][0])
    rows.append((f"{theta:,.0f}", f"{fastest:.3f}", f"{2 * math.pi / fastest:.1f}", f"{slowest:,.0f}"))
table(
    ("theta", "fastest, radians per position", "positions per turn", "positions per turn of the slowest"),
    rows,
)
by_formula = torch.tensor([50_000.0 ** (-2 * j / 32) for j in range(16)])
assert torch.allclose(speeds[50_000.0], by_formula, rtol=1e-4)
assert SIZES["12m"].rope_theta == 10_000 and SIZES["20m"].rope_theta == 50_000 and config.head_dim == 32

figure, axes = plt.subplots(figsize=(7, 3))
positions = torch.arange(128)
for j in (0, 4, 8, 15):
    axes.plot(positions, torch.cos(positions * by_formula[j]), label=f"pair {j}")
axes.set(xlabel="position", ylabel="cosine of the angle", title="the hands of the clock")
axes.legend(loc="lower left")
save_figure(figure, "05_hands")

# %% [markdown]
# The fastest pair makes a full turn in 6.3 positions whatever theta is. The slowest needs about 35,000
# positions with the smaller theta and about 160,000 with the larger one: far more than the 4,096 positions
# of the context. So no two positions of a text look alike. And over a short distance the slow pairs hardly
# turn. So they can compare *what* two tokens are, almost without regard to their distance.
#
# ## The real functions
#
# `model.py:rotary_table` computes cosines and sines once for all positions; `model.py:rotate` applies them to
# queries and keys, and to nothing else. Now the prediction, with real vectors of all 32 features. We put one
# query vector and one key vector at every pair of positions and compute the matrix of all dot products.

# %%
turns = {theta: 2 * math.pi / float(speed[-1]) for theta, speed in speeds.items()}
assert abs(2 * math.pi / float(speeds[10_000.0][0]) - 6.3) < 0.05
assert abs(turns[10_000.0] - 35_000) < 1_000 and abs(turns[50_000.0] - 160_000) < 3_000
assert config.max_position_embeddings == 4_096 and config.head_dim == 32

length = 64 if FAST else 200
cos, sin = rotary_table(length, config.head_dim, config.rope_theta)
query, key = torch.randn(2, config.head_dim)
queries = rotate(query.expand(1, 1, length, -1), cos, sin)[0, 0]  # (T, F) the same vector at every position
keys = rotate(key.expand(1, 1, length, -1), cos, sin)[0, 0]               # (T, F)
score = queries @ keys.T                                                  # (T, T)
worst = 0.0
for distance in range(-length + 1, length):
    same_distance = score.diagonal(-distance)               # all pairs (n, m) with n - m = distance
    worst = max(worst, float(same_distance.max() - same_distance.min()))
print(f"the scores themselves go from {float(score.min()):.2f} to {float(score.max()):.2f}")
print(f"largest difference between two scores of the same distance: {worst:.1e}")
print(
    f"length of the query: {float(query.norm()):.6f}, rotated at least {float(queries.norm(dim=1).min()):.6f}"
)

draw_shapes("05_shapes", {
    "x": (0, 0.5), "· W_q": (1, 0), "· W_k": (1, 1), "rotate": (2.2, 0), "rotate ": (2.2, 1),
    "cos, sin": (2.2, 2), "q · k": (3.4, 0.5), "scores": (4.5, 0.5)}, [
    ("x", "· W_q", "(B, T, D)"), ("x", "· W_k", "(B, T, D)"), ("· W_q", "rotate", "(B, H, T, F)"),
    ("· W_k", "rotate ", "(B, K, T, F)"), ("cos, sin", "rotate ", "(T, F)"),
    ("rotate", "q · k", "(B, H, T, F)"), ("rotate ", "q · k", "(B, K, T, F)"),
    ("q · k", "scores", "(B, H, T, T)")])

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
left.imshow(score, cmap="viridis")
left.set(xlabel="position of the key", ylabel="position of the query", title="score")
right.plot([float(score[n, 0]) for n in range(length)], label="key at position 0")
right.plot([float(score[n, 20]) for n in range(20, length)], linestyle="--", label="key at position 20")
right.set(xlabel="distance", ylabel="score", title="the same curve")
right.legend()
save_figure(figure, "05_distance")

# %% [markdown]
# The matrix consists of stripes: up to rounding, all pairs with the same distance have the same score.
# Nothing was learned for this; it is geometry. (In the drawing, H is the number of query heads and K that of
# key heads; lesson 06 explains heads.)
#
# ## Two layouts, one function
#
# Which features form a pair? There are two layouts, and a program that reads a model with the wrong one
# computes nonsense. The paper pairs **neighbours**: the first and the second feature, the third and the
# fourth, and so on. The files in which Llama models are usually shared, those of the library
# `transformers`, pair the first **half** with the second: of thirty-two features the first with the
# seventeenth, the second with the eighteenth, and so on. This project does the same, so that other programs
# can read its files as a Llama.
#
# Neither layout is better. They are the same function of *differently ordered* features. Queries and keys
# come from matrices, so it is enough to reorder the rows of those matrices. We write the form with neighbours
# and compare.

# %%
assert worst < 1e-3 and abs(float(queries.norm(dim=1).max()) - float(query.norm())) < 1e-4


def naive_rotate_neighbours(x, theta):
    """Rotate the pairs (0, 1), (2, 3), ... of each position's features, one pair after the other."""
    y = torch.empty_like(x)
    for position in range(x.shape[2]):
        for pair in range(x.shape[3] // 2):
            angle = position * theta ** (-2 * pair / x.shape[3])
            a, b = x[..., position, 2 * pair], x[..., position, 2 * pair + 1]
            y[..., position, 2 * pair] = a * math.cos(angle) - b * math.sin(angle)
            y[..., position, 2 * pair + 1] = b * math.cos(angle) + a * math.sin(angle)
    return y


x = torch.randn(1, 2, 24, 32)                                             # (B, H, T, F)
cos, sin = rotary_table(24, 32, 10_000.0)
# first all even features, then all odd ones
order = torch.cat([torch.arange(0, 32, 2), torch.arange(1, 32, 2)])
print("half-split order of the features:", order.tolist())
neighbours = naive_rotate_neighbours(x, 10_000.0)
halves = rotate(x[..., order], cos, sin)
print(f"neighbours, reordered, against halves: {float((neighbours[..., order] - halves).abs().max()):.1e}")
wrong = rotate(x, cos, sin)
print(f"the same features in the wrong layout:  {float((neighbours - wrong).abs().max()):.1f}")
assert torch.allclose(neighbours[..., order], halves, atol=1e-4)
assert float((neighbours - wrong).abs().max()) > 1

# %% [markdown]
# With the right order the two are equal. In the wrong layout the largest difference is as large as the
# numbers themselves, yet the shapes fit and no error appears. A model that is loaded like this writes
# nonsense. Only a comparison of numbers with a trusted program shows the mistake: `tests/test_parity.py`
# compares with the library `transformers`, which has its own Llama.
#
# ## Where it ends
#
# The table is computed for `max_position_embeddings` positions, and the model refuses longer texts. Why not
# compute a longer table? The rotation would still work. But the model was never trained at such distances:
# the slow pairs would have angles that it has never seen. So a longer context needs other speeds *and* more
# training, not only a longer table.
#
# ## Back to the question
#
# The model knows order because queries and keys are rotated by their positions before they meet. The dot
# product *stays the same* when both move a hundred positions further: it depends only on n - m. If you
# wrote "it changes in some unpredictable way", you perhaps thought of a vector for each position that is
# *added*, as in the first transformer, the kind of model after which the library is named (Vaswani et al.
# 2017, section 3.5). Then the product depends on both places, as the last cell shows.

# %%
added = torch.randn(256, 32)                                # a vector for each position, to be added
product_near = float((query + added[3]) @ (key + added[1]))
product_far = float((query + added[103]) @ (key + added[101]))
print(f"with added positions: {product_near:.2f} at (3, 1), {product_far:.2f} at (103, 101)")
assert abs(product_near - product_far) > 0.1
results = {
    "same_distance_difference": worst,
    "layouts_difference": float((neighbours[..., order] - halves).abs().max()),
    "wrong_layout_difference": float((neighbours - wrong).abs().max()),
    "positions_per_slowest_turn_20m": turns[50_000.0],
}
finish("05_rope", results)

# %% [markdown]
# ## Exercises
#
# 1. Write the rotation in `lessons/exercises/rotary.py` and run `pytest lessons/exercises/test_rotary.py`.
# 2. Rotate the query by its position and the key by twice its position. Does the score still depend on the
#    distance only? Try two pairs of positions with the same distance before you answer.
# 3. Compute the table in BF16 (`.bfloat16()` on the angles, before cosine and sine) and measure the error of
#    a score at position ten, a hundred and a thousand. Why does it grow? (Lesson 09 has the reason.)
