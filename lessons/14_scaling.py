# SPDX-License-Identifier: Apache-2.0
# Read this lesson as a page or notebook: `python lessons/build.py 14` writes both to lessons/built/.

# %% [markdown]
# # 14. Scaling in ten minutes
#
# **Question.** Nobody trains a large model without having trained small ones. A line through their losses
# says what the large one will reach, before anybody pays for it. How good is such a prediction? Elsewhere
# nobody knows where the line must end. Here we know: the text was written by programs, so there is a bound
# that no model can go below.
#
# **Prediction.** Five models of ten thousand to a hundred thousand parameters are trained on the same
# tokens. From their losses we predict two larger ones. Write down three things. By what factor does the
# distance to the bound fall when a model gets ten times as many parameters? Somebody who does not know the
# bound draws the line through the losses themselves: is the prediction for a much larger model too high or
# too low? And of tales, programs and exercises, for which will there be no straight line?

# %%
import sys
from pathlib import Path

place = Path(globals().get("__file__", "lesson.py")).resolve()         # a notebook has no __file__
sys.path.insert(0, str(next(folder for folder in place.parents if (folder / "model.py").is_file())))

import math

from lessons.tools import FAST, LONG, STORED, corpus, draw_shapes, finish, keep, save_figure, table
import matplotlib.pyplot as plt
import torch

import params
from common import read_json
from data import BUILTIN_KINDS, Corpus
from lessons.scaling import (
    LENGTH, ROWS, T95, Task, fit_power_law, interval, predicted, scatter, shape, size_of, straightest_floor,
    train_all,
)

# %% [markdown]
# ## Loss, bound, and what is between them
#
# A loss has two parts. One is the bound: the text is partly chance, and no model can predict chance. The
# other is what the model has not learned, the loss **above** the bound. Only this part can fall, so only
# this part can follow a law that goes to zero. Kaplan et al. (2020) found that a power of the size
# describes the loss over many orders of magnitude. Hoffmann et al. (2022) wrote
#
# ```text
# loss = floor + a * parameters^(-alpha) + b * tokens^(-beta)
# ```
#
# and had to fit the floor together with the rest. We can put in the bound, which we know. If the tokens are
# many enough for the last term to vanish, log(loss - floor) is then a straight line in log(parameters). The
# drawing shows which numbers this lesson computes.
#
# All models read the usual mixture of tales, programs and exercises, with a vocabulary of 512 tokens, since
# the embedding of a larger one would have more parameters than the rest of the model. Parameters are
# counted without the embedding (Kaplan et al. 2020). `lessons/scaling.py:train_and_measure` trains a model
# for 1,200 steps of 1,024 tokens and measures it on complete validation documents. Our loss is the mean
# over the three kinds of text, each with the same weight.
#
# You train two models now, of 10,488 and 29,000 parameters, with seed 44. It takes less than a minute.

# %%
FITTED = [(24, 2), (32, 2), (40, 2), (48, 3), (64, 3)]                 # width, layers
CHECK, LARGEST = (96, 4), (144, 5)
size = {one: size_of(shape(*one)) for one in (*FITTED, CHECK, LARGEST)}
steps = 12 if FAST else 1200
folder = str(corpus("web", "code", "math", tokens=60_000 if FAST else 1_000_000, vocab="builtin-512"))


def task(one, seed=42, steps=steps, watched=False):
    """A model to train: its width and layers, seed and steps."""
    return Task(folder, *one, steps, seed, 3_000 if FAST else 30_000, watched)


def average(kinds):
    """The mean over the kinds of text."""
    return sum(kinds.values()) / len(kinds)


draw_shapes("14_shapes", {
    "small models": (0, 0), "loss": (1.4, 0), "the corpus": (0, 1), "bound": (1.4, 1),
    "loss - bound": (2.8, 0.5), "a, alpha": (4.6, 0.5), "prediction\nand interval": (6.1, 0.5),
    "larger model": (2.8, 1.6), "its loss": (4.6, 1.6), "check": (6.1, 1.6)}, [
    ("small models", "loss", "(n,)"), ("the corpus", "bound", "()"), ("loss", "loss - bound", "(n,)"),
    ("bound", "loss - bound", "()"), ("loss - bound", "a, alpha", "straight line"),
    ("a, alpha", "prediction\nand interval", "(2,)"), ("larger model", "its loss", ""),
    ("its loss", "check", "()"), ("prediction\nand interval", "check", "()")])

mine = [rows[-1] for rows in train_all([task((24, 2), 44), task((40, 2), 44)]).values()]
table(("parameters", "text", "loss", "bound", "above", "±"),
      [(f"{row.size:,}", name, f"{row.loss[kind]:.3f}", f"{row.loss[kind] - row.above[kind]:.3f}",
        f"{row.above[kind]:.3f}", f"{row.error[kind]:.3f}")
       for row in mine for kind, name in BUILTIN_KINDS.items()])
for row in mine:
    print(f"{row.size:,} parameters, mean of the kinds: {average(row.above):.3f} above the bound")

assert LENGTH * ROWS == 1024 and shape(24, 2).vocab_size == 512 and (FAST or steps == 1200)
assert [row.size for row in mine] == [10_488, 29_000] and {row.seed for row in mine} == {44}

# %% [markdown]
# ## The line
#
# Seven models were trained like yours, the six smaller ones with two seeds. Together this takes about ten
# minutes, so their losses are stored in `lessons/stored/14_scaling.json`; the command in its first line
# trains them again. Five are fitted: `lessons/scaling.py:fit_power_law` takes the logarithms and finds the
# straight line with the least squares. Two are kept back for the check, of 332,640 and 934,704 parameters.
#
# A prediction without an interval can never be wrong. Ours is the usual 95% interval of a straight line
# (`lessons/scaling.py:interval`). It takes the scatter of the five points around their line as the standard
# deviation of a new point, widens it with the distance from the middle of the fitted sizes, and multiplies
# by 3.18: Student's t for five points of which two were used up by the line. The cell also invents
# experiments in which the law is exactly true, to see how often a new point is inside. Before you run this:
# the model of 332,640 parameters is three times as large as the largest fitted one. Will it be on the line,
# above or below?

# %%
BUDGETS, PROFILE = (1.5e11, 6e11), [(24, 2), (40, 2), (48, 3), (64, 3)]


def steps_for(one, flops):
    """How many steps a model can be trained for with so many FLOPs."""
    return round(flops / (params.flops(shape(*one), LENGTH)["training"] * LENGTH * ROWS))


full = [task(one, watched=True) for one in (LARGEST, CHECK, *FITTED)]
full += [task(one, 43) for one in (CHECK, *FITTED)]
shorter = [task(one, steps=steps // 2) for one in (CHECK, *FITTED)]
equal = {flops: [task(one, steps=steps_for(one, flops)) for one in PROFILE] for flops in BUDGETS}
if LONG:
    runs = train_all([*full, *shorter, *equal[BUDGETS[0]], *equal[BUDGETS[1]]])
    keep("14_scaling", {
        "models": [runs[one][-1]._asdict() for one in sorted(full, key=lambda one: (one.width, one.seed))],
        "half": [{"size": runs[one][-1].size, "above": average(runs[one][-1].above)}
                 for one in sorted(shorter)],
        "equal compute": [{"flops": flops, "size": runs[one][-1].size, "above": average(runs[one][-1].above)}
                          for flops, chosen in equal.items() for one in chosen],
        "in training": [{"size": row.size, "flops": row.flops, "above": average(row.above)}
                        for one in full if one.watched for row in runs[one][:-1]],
    })
stored = read_json(STORED / "14_scaling.json")["results"]
models = stored["models"]
bound = average(models[0]["loss"]) - average(models[0]["above"])


def mean_above(kind=None):
    """Size -> mean over the seeds of the loss above the bound, of one kind or of all."""
    found = {}
    for row in models:
        found.setdefault(row["size"], []).append(row["above"][kind] if kind else average(row["above"]))
    return {one: sum(values) / len(values) for one, values in found.items()}


def smallest(count, above):
    """Sizes (n,) and losses (n,) of the `count` smallest models, as the fit wants them."""
    chosen = sorted(above)[:count]
    return (torch.tensor(chosen, dtype=torch.float64),
            torch.tensor([bound + above[one] for one in chosen], dtype=torch.float64))


above = mean_above()
measured = {one: bound + above[number] for one, number in size.items()}
five, six = smallest(5, above), smallest(6, above)                         # (5,), (5,) and (6,), (6,)
law = fit_power_law(*five, bound)                                          # (2,)
seeds = {number: [average(row["above"]) for row in models if row["size"] == number] for number in above}
table(("parameters", "above, seed 42", "seed 43", "mean", "line"),
      [(f"{number:,}", *(f"{value:.3f}" for value in values), *["-"] * (2 - len(values)),
        f"{above[number]:.3f}", f"{predicted(law, number, 0.0):.3f}") for number, values in seeds.items()])
pairs = [math.log(values[0] / values[1]) for values in seeds.values() if len(values) == 2]
chance = math.sqrt(sum(pair**2 for pair in pairs) / len(pairs)) / 2        # of a mean of two
print(f"above = {float(law[0]):.0f} * parameters^(-{float(law[1]):.2f}); "
      f"scatter {100 * scatter(*five, bound):.1f}%, of which chance {100 * chance:.1f}%")
low, high = interval(*five, bound, size[CHECK])
print(f"{size[CHECK]:,}: predicted {predicted(law, size[CHECK], bound):.3f} "
      f"({low:.3f} to {high:.3f}), measured {measured[CHECK]:.3f}")

trials, inside = 300 if FAST else 1000, 0
torch.manual_seed(14)
for _ in range(trials):                                                    # experiments with a true line
    noise = (0.1 * torch.randn(6, dtype=torch.float64)).exp()              # (6,)
    invented = bound + predicted(law, 1.0, 0.0) * six[0] ** -law[1] * noise  # (6,)
    found = interval(six[0][:5], invented[:5], bound, size[CHECK])
    inside += found[0] < float(invented[5]) < found[1]
print(f"invented experiments in which the sixth point is inside its interval: {100 * inside / trials:.0f}%")
assert size[CHECK] == 332_640 and size[LARGEST] == 934_704 and abs(size[CHECK] / size[64, 3] - 3) < 0.1
assert len(five[0]) == 5 and T95[len(five[0]) - 2] == 3.18 and abs(inside / trials - 0.95) < 0.04

figure, axes = plt.subplots(figsize=(6.4, 4))
grid = [10 ** (3.9 + number / 10) for number in range(23)]
band = [interval(*five, bound, number) for number in grid]
axes.fill_between(grid, *zip(*[(low - bound, high - bound) for low, high in band]), color="0.9")
axes.loglog(grid, [predicted(law, number, 0.0) for number in grid], color="black", linewidth=1)
seven = list(above.items())                                                # (size, above), smallest first
for name, marker, chosen in (("fitted", "ok", seven[:5]), ("not fitted", "Xb", seven[5:]),
                             ("yours", "*r", [(row.size, average(row.above)) for row in mine])):
    axes.plot(*zip(*chosen), marker, label=name)
axes.set(xlabel="parameters without embedding", ylabel="loss - bound, nats", title="grey: 95% of new models")
axes.legend()
save_figure(figure, "14_line")

# %% [markdown]
# Ten times as many parameters divide the distance to the bound by 10^0.55 = 3.5. The points scatter by 9%
# around the line; chance between seeds explains only 3.5%. So the rest is not chance: the line is not
# exactly a line. The interval is wide enough for that: it was made from the scatter, not from the seeds.
#
# The model of 332,640 parameters was predicted to reach 0.349, at most 0.431. It reached 0.412: inside, but
# not by much. Your two models, with a seed that nobody fitted, are inside the grey band as well. The
# largest model is above the band. We come back to it.
#
# ## The floor forgotten
#
# Now forget the bound. Then there are two ways. The first is to draw the line through the losses
# themselves, which is the same fit with floor 0. The second is to try many floors and take the one that
# makes the line straightest (`lessons/scaling.py:straightest_floor`). Before you run this: which of the
# three lines will fit the five points best? And what will each predict for ten million parameters?

# %%
assert round(float(law[1]), 2) == 0.55 and round(10 ** float(law[1]), 1) == 3.5
assert round(100 * scatter(*five, bound)) == 9 and round(100 * chance, 1) == 3.5
assert round(predicted(law, 332_640, bound), 3) == 0.349 and round(high, 3) == 0.431
assert round(measured[CHECK], 3) == 0.412 and low < measured[CHECK] < high
assert all(interval(*five, bound, row.size)[0] < bound + average(row.above)
           < interval(*five, bound, row.size)[1] for row in mine) or FAST
assert measured[LARGEST] > interval(*five, bound, size[LARGEST])[1]

floors = {"the bound": bound, "0": 0.0, "the straightest": straightest_floor(*five)}
laws = {name: fit_power_law(*five, floor) for name, floor in floors.items()}


def loss_text(law, floor, one):
    """A prediction as the tables print it."""
    return f"{predicted(law, size[one], floor):.3f}"


table(("floor", "nats", "alpha", "scatter", f"{size[CHECK]:,}", f"{size[LARGEST]:,}", "10,000,000"),
      [(name, f"{floor:.3f}", f"{float(laws[name][1]):.2f}", f"{100 * scatter(*five, floor):.1f}%",
        *(f"{predicted(laws[name], number, floor):.3f}" for number in (size[CHECK], size[LARGEST], 10**7)))
       for name, floor in floors.items()])
alone = {(count, seed): straightest_floor(*smallest(count, {
    row["size"]: average(row["above"]) for row in models if row["seed"] == seed}))
         for count in (5, 6) for seed in (42, 43)}
print(f"measured: {measured[CHECK]:.3f} and {measured[LARGEST]:.3f}; bound: {bound:.3f}")
crossing = float((laws["0"][0] / bound) ** (1 / laws["0"][1]))
print(f"the line with floor 0 reaches the bound at {crossing:,.0f} parameters")
low_0, high_0 = interval(*five, 0.0, size[LARGEST])
print(f"its interval for {size[LARGEST]:,}: {low_0:.3f} to {high_0:.3f}")

figure, panels = plt.subplots(1, 2, figsize=(9, 3.8))
grid = [10 ** (3.9 + number / 10) for number in range(32)]
for name, floor in floors.items():
    panels[0].loglog(grid, [predicted(laws[name], number, floor) for number in grid], label=f"floor: {name}")
for name, marker, chosen in (("fitted", "ok", seven[:5]), ("not fitted", "Xb", seven[5:])):
    panels[0].plot(*zip(*[(number, bound + value) for number, value in chosen]), marker, label=name)
panels[0].axhline(bound, linestyle=":", color="black")
panels[0].set(xlabel="parameters without embedding", ylabel="loss, nats", title="dotted: bound")
panels[0].legend(fontsize=7)
for (sizes, losses), color in ((five, "tab:blue"), (six, "tab:orange")):
    tried = [float(losses.min()) * part / 100 for part in range(100)]
    panels[1].plot(tried, [100 * scatter(sizes, losses, floor) for floor in tried], color=color,
                   label=f"{len(sizes)} models, up to {int(sizes.max()):,}")
panels[1].axvline(bound, linestyle=":", color="black")
panels[1].set(xlabel="floor, nats (dotted: bound)", ylabel="scatter, %", ylim=(0, 25), title="how straight?")
panels[1].legend(fontsize=7)
save_figure(figure, "14_floor")

# %% [markdown]
# Among the five fitted points nobody could tell the floors apart. The scatter is 8.5% with floor 0, 9.4%
# with the bound and 8.1% with the straightest: the wrong line is a little *straighter* than the one with
# the bound. But with floor 0 the law says that 934,704 parameters reach 0.202 nats, and the bound is 0.221.
# No model can do that. Even the upper end of its interval, 0.355, is below what was measured. This line
# runs through the bound at 730,000 parameters as if it were not there, and promises 0.084 nats for ten
# million. That is what a forgotten floor does: all looks well where one has measured, and the error grows
# with every step beyond.
#
# With the bound as floor nothing impossible is predicted. But look at the right panel. With five models the
# curve is flat, so the search for a floor finds anything: from seed 42 alone 0, from seed 43 alone 0.432,
# which is above a loss that was measured and so impossible too.
# With the sixth model there is a clear minimum, and it is *not* at the bound.
#
# ## Too few tokens
#
# Why does the bound promise too much? Each model read only 1,200 steps of text. A model of any size must
# learn from these, and what they do not teach stays above the bound, however many parameters there are.
# This is the third term of Hoffmann et al. (2022), and for equal tokens it is a constant: the line ends at
# the bound *plus* this constant. If this is right, two things follow. The straightest floor of six models,
# now well determined, should predict the seventh. And for the large models more tokens should help more
# than more parameters. We trained six models with half the tokens to see it. Write down your prediction:
# from 10,488 and from 111,040 parameters, what divides the distance by more, three times the parameters or
# twice the tokens?

# %%
straight = {name: round(100 * scatter(*five, floor), 1) for name, floor in floors.items()}
assert straight == {"0": 8.5, "the bound": 9.4, "the straightest": 8.1}
assert round(predicted(laws["0"], 934_704, 0.0), 3) == 0.202 and round(bound, 3) == 0.221
assert round(high_0, 3) == 0.355 and high_0 < measured[LARGEST]
assert round(crossing, -4) == 730_000 and round(predicted(laws["0"], 10**7, 0.0), 3) == 0.084
assert predicted(laws["the bound"], 10**7, bound) > bound
assert alone[5, 42] == 0 and round(alone[5, 43], 3) == 0.432

assert {row["tokens"] for row in models} == {1200 * LENGTH * ROWS}
assert size[24, 2] == 10_488 and size[64, 3] == 111_040

fitted_floor = straightest_floor(*six)
fitted_law = fit_power_law(*six, fitted_floor)                             # (2,)
low_six, high_six = interval(*six, fitted_floor, size[LARGEST])
print(f"six models: floor {fitted_floor:.3f}, {fitted_floor - bound:.3f} above the bound, "
      f"scatter {100 * scatter(*six, fitted_floor):.1f}% (with the bound {100 * scatter(*six, bound):.1f}%)")
print(f"{size[LARGEST]:,}: predicted {loss_text(fitted_law, fitted_floor, LARGEST)} "
      f"({low_six:.3f} to {high_six:.3f}), measured {measured[LARGEST]:.3f}")

half = {row["size"]: row["above"] for row in stored["half"]}
gains = {one: (above[size[one]] / above[size[larger]], half[size[one]] / seeds[size[one]][0])
         for one, larger in (((24, 2), (40, 2)), ((64, 3), CHECK))}
table(("parameters", "distance", "divided by, with 3 times the parameters", "with twice the tokens"),
      [(f"{size[one]:,}", f"{above[size[one]]:.3f}", f"{larger:.1f}", f"{longer:.1f}")
       for one, (larger, longer) in gains.items()])

# %% [markdown]
# Six models predict 0.391 for the seventh, and 0.388 was measured. (The interval takes the fitted floor as
# exactly known. It is too narrow, and the measured loss is just at its edge.) Their floor is 0.377, and
# each seed alone gives 0.374. Whoever does not know the bound would call it the entropy of the text. We
# know that the entropy is 0.221: the other 0.156 nats are not the text's. Most of them are probably missing
# training; only runs with more tokens could show it. A fitted floor is the floor of an experiment, with its
# tokens and its schedule, not that of the language.
#
# The second table agrees. A model of 10,488 parameters is short of parameters: three times as many divide
# its distance by 2.1, twice the tokens by 1.5. At 111,040 it is the other way round: 1.3 and 1.9. There the
# line in the parameters ends, not because the law is wrong, but because something else has run short. Two
# things do not fit so well. The formula adds the same nats for missing tokens at every size, but half the
# tokens cost a small model more nats than a large one. And with half the tokens the straightest floor of six
# models is 0. Perhaps all of them are still too far above their own floor for the fit to find it.
#
# ## Equal compute
#
# Equal tokens are not a fair race, since a large model spends more on each token. So a second race: each
# model gets the same FLOPs, and its steps follow from its size. The rate of each run falls to zero at its
# own end: a run that is measured in the middle of a longer schedule looks worse than it could be (Hoffmann
# et al. 2022). Before you run this: will the best size for four times the FLOPs be the same, twice as large
# or four times as large?

# %%
assert round(predicted(fitted_law, size[LARGEST], fitted_floor), 3) == 0.391
assert round(measured[LARGEST], 3) == 0.388 and low_six < measured[LARGEST] < high_six
assert round(fitted_floor, 3) == 0.377 and {round(alone[6, seed], 3) for seed in (42, 43)} == {0.374}
assert round(bound, 3) == 0.221 and round(fitted_floor - bound, 3) == 0.156
assert [round(gain, 1) for gain in gains[24, 2]] == [2.1, 1.5] and min(size.values()) == 10_488
assert [round(gain, 1) for gain in gains[64, 3]] == [1.3, 1.9] and max(size[one] for one in FITTED) == 111_040
assert straightest_floor(*smallest(6, half)) == 0
assert scatter(*six, fitted_floor) < scatter(*six, bound) / 2

curves = {}
for row in stored["in training"]:
    curves.setdefault(row["size"], []).append((row["flops"], row["above"]))
profile = {flops: {row["size"]: row["above"] for row in stored["equal compute"] if row["flops"] == flops}
           for flops in BUDGETS}
best = {flops: min(found, key=found.get) for flops, found in profile.items()}
table(("FLOPs", *(f"{number:,}" for number in profile[BUDGETS[0]]), "best"),
      [(f"{flops:.1e}", *(f"{value:.2f}" for value in found.values()), f"{best[flops]:,}")
       for flops, found in profile.items()])
powers = {"Kaplan et al. 2020": 0.73, "Hoffmann et al. 2022": 0.5}
growth = {name: (BUDGETS[1] / BUDGETS[0]) ** power for name, power in powers.items()}
for name, factor in growth.items():
    print(f"best size for four times the FLOPs, {name}: times {factor:.1f}")
table(("parameters", *(f"steps for {flops:.1e}" for flops in BUDGETS)),
      [(f"{size[one]:,}", *(steps_for(one, flops) for flops in BUDGETS)) for one in PROFILE])

figure, panels = plt.subplots(1, 2, figsize=(9, 3.8))
for number, curve in sorted(curves.items()):
    panels[0].loglog(*zip(*curve), marker=".", label=f"{number:,}")
panels[0].set(xlabel="FLOPs of training", ylabel="loss - bound", title="one line: one model in training")
panels[0].legend(fontsize=7)
for flops, found in profile.items():
    panels[1].loglog(*zip(*found.items()), marker="o", label=f"{flops:.1e} FLOPs")
panels[1].set(xlabel="parameters without embedding", ylabel="loss - bound", title="one line: equal compute")
panels[1].legend(fontsize=7)
save_figure(figure, "14_compute")

# %% [markdown]
# At equal tokens the larger model was always the better one. At equal compute it is not. With 1.5e11 FLOPs
# the model of 111,040 parameters gets 101 steps, 5 of them warmup, and is the worst of the four; the
# smallest is the best. With four times the FLOPs the smallest is only third, and the best one is 2.8 times
# as large. Kaplan et al. (2020) found that the best size grows with the power 0.73 of the FLOPs, which
# gives 2.8; Hoffmann et al. (2022) found about the square root, which gives 2.0. Our number decides
# nothing: four sizes are a coarse grid, and with the smaller budget the best size may be below our
# smallest. And the smallest model reads the tales one and a half times in the longer race, because the
# corpus is not longer.
#
# In the left panel a larger model begins further to the right, since each token costs it more, and ends
# lower. The lower edge of all lines together is what a budget can buy.
#
# ## Where the line is no line
#
# Our loss is a mean over three kinds of text. The next table has the slope between neighbouring sizes for
# each kind. On a true power law all numbers of a column are the same. The second table shows the loss of a
# name in a tale, at its first mention and when it comes again (lesson 13).

# %%
longest = [steps_for(one, BUDGETS[0]) for one in PROFILE][-1]
few = profile[1.5e11]
assert BUDGETS[1] == 4 * BUDGETS[0] and longest == 101 and longest // 20 == 5
assert max(few, key=few.get) == size[PROFILE[-1]] == 111_040 and best[1.5e11] == size[24, 2]
assert sorted(profile[6e11].values()).index(profile[6e11][size[24, 2]]) == 2
assert round(best[6e11] / best[1.5e11], 1) == 2.8 and powers["Kaplan et al. 2020"] == 0.73
assert [round(factor, 1) for factor in growth.values()] == [2.8, 2.0]
assert all(larger < smaller for smaller, larger in zip(list(above.values()), list(above.values())[1:]))
assert sorted(curves) == sorted(curves, key=lambda number: curves[number][0][0])
assert sorted(curves) == sorted(curves, key=lambda number: -curves[number][-1][1])
drawn = Corpus(folder, LENGTH, ROWS, steps).mixture.counts(steps * ROWS)   # rows of each kind
read_twice = Corpus(folder, LENGTH, ROWS, steps_for((24, 2), BUDGETS[1]))
assert FAST or 1.4 < read_twice.mixture.counts(read_twice.steps * ROWS)[0] / read_twice.blocks[0] < 1.6

kinds = {kind: mean_above(kind) for kind in BUILTIN_KINDS}
seen = sorted(above)
table(("from", "to", *(f"alpha, {name}" for name in BUILTIN_KINDS.values())),
      [(f"{small:,}", f"{large:,}", *(f"{math.log(one[small] / one[large]) / math.log(large / small):.2f}"
                                      for one in kinds.values())) for small, large in zip(seen, seen[1:])])
names = {part: {number: sum(row[part] for row in models if row["size"] == number) / len(seeds[number])
                for number in seen} for part in ("first", "later")}
table(("parameters", "a name, first", "a name, again"),
      [(f"{number:,}", f"{names['first'][number]:.2f}", f"{names['later'][number]:.2f}") for number in seen])

figure, axes = plt.subplots(figsize=(6.4, 3.8))
for kind, name in BUILTIN_KINDS.items():
    axes.loglog(seen, [kinds[kind][number] for number in seen], marker="o", label=f"{name}, above the bound")
axes.plot(seen, [names["later"][number] for number in seen], marker="s", linestyle=":", color="black",
          label="a name that comes again")
axes.set(xlabel="parameters without embedding", ylabel="nats")
axes.legend(fontsize=7)
save_figure(figure, "14_kinds")

# %% [markdown]
# No column is constant. There are three different reasons.
#
# - **Copying is a jump.** Up to 29,000 parameters a name costs about the same whether it is new or not:
#   2.14 and 2.07 nats. At 111,040 the one that comes again costs 1.07, about half of a new one, at 934,704
#   only 0.23. A line through the three smallest models knows nothing about this.
# - **Some things need text and not parameters.** On exercises the slope falls to 0.12 and then to 0.03.
#   Exercises are only 11% of the mixture. So little text limits models of every size here.
# - **One run is not a measurement.** On programs the two seeds of the model of 62,544 parameters are 0.446
#   and 0.327 above the bound. With only one of them the line would be another.
#
# A mean over all kinds hides much of this. That is why such laws look so smooth, and also why they do not
# say what a model will be able to *do*.
#
# ## Back to the question
#
# For ten times the parameters the distance to the bound fell by a factor of 3.5, as long as parameters were
# what was missing. The line through the losses promised too much, and for large models more than is
# possible. The line above the bound stayed possible. For three times the largest fitted size the measured
# loss was inside its interval; for eight times it promised too much, because the tokens had run out. No
# kind of text gave one straight line.
#
# What surprised us: we expected the fitted floor to find the bound. From five models it found 0 or 0.432,
# depending on the seed; from six 0.377, and 41% of that is not entropy. With real text such a number
# is often read as the entropy of language. Here we could look.

# %%
assert [round(names[part][29_000], 2) for part in ("first", "later")] == [2.14, 2.07]
assert round(names["later"][111_040], 2) == 1.07 and round(names["later"][934_704], 2) == 0.23
assert 0.45 < names["later"][111_040] / names["first"][111_040] < 0.6
slopes = [math.log(kinds["math"][small] / kinds["math"][large]) / math.log(large / small)
          for small, large in zip(seen[-3:], seen[-2:])]
assert [round(slope, 2) for slope in slopes] == [0.12, 0.03]
assert FAST or round(drawn[2] / sum(drawn), 2) == 0.11
assert [round(row["above"]["code"], 3) for row in models if row["size"] == 62_544] == [0.446, 0.327]
assert round(10 ** float(law[1]), 1) == 3.5 and predicted(laws["0"], size[LARGEST], 0.0) < bound
assert alone[5, 42] == 0 and round(alone[5, 43], 3) == 0.432 and round(fitted_floor, 3) == 0.377
assert round((fitted_floor - bound) / fitted_floor, 2) == 0.41

results = {
    "alpha": float(law[1]),
    "predicted_332640": predicted(law, size[CHECK], bound),
    "measured_332640": measured[CHECK],
    "predicted_934704_floor_bound": predicted(law, size[LARGEST], bound),
    "predicted_934704_floor_0": predicted(laws["0"], size[LARGEST], 0.0),
    "predicted_934704_floor_fitted": predicted(fitted_law, size[LARGEST], fitted_floor),
    "measured_934704": measured[LARGEST],
    "your_10488_above": average(mine[0].above),
    "your_29000_above": average(mine[1].above),
}
finish("14_scaling", results)

# %% [markdown]
# ## Exercises
#
# 1. Write the fit in `lessons/exercises/power_law.py` and run `pytest lessons/exercises/test_power_law.py`.
# 2. From the five fitted models, predict the loss of one with the shape `(80, 3)`, with its interval, and
#    write it down. Then train it with `train_all([task((80, 3))])`. Is it inside?
# 3. `stored["in training"]` holds the models before their rate falls. Fit `above` against `flops` for each
#    size, once with the first four points and once with the last four. Is the slope the same? And why must
#    these points not be compared with those of the table?
