# SPDX-License-Identifier: Apache-2.0
# Read this lesson as a page or notebook: `python lessons/build.py 13` writes both to lessons/built/.

# %% [markdown]
# # 13. The moment of copying
#
# **Question.** The hero of a tale is named Clara. Ten sentences later the model writes a name again, and it
# must be Clara. Nothing but the text itself says so. When does a model learn to look back and copy, which
# part of it does this, and what is it worth?
#
# **Prediction.** This lesson trains a model with two layers of four heads on tales in which a name comes
# back many times. Write down three things. Will copying come evenly over the training, or within a short
# time? Of the eight heads, how many must be switched off before the model forgets who the tale is about?
# And if we train it again with another seed, will the same head do the work?

# %%
import sys
from pathlib import Path

place = Path(globals().get("__file__", "lesson.py")).resolve()         # a notebook has no __file__
sys.path.insert(0, str(next(folder for folder in place.parents if (folder / "model.py").is_file())))

import json
import math
import re

from lessons.tools import FAST, LONG, STORED, draw_shapes, finish, keep, save_figure, table
import matplotlib.pyplot as plt
import torch

import tokenizer
from common import read_json
from corpus import tales
from data import Corpus
from lessons.heads import expected_drawn, looks, losses_of, mean_outputs, mentions_of, open_with_maps, without
from lessons.trained import copying_run
from model import Llama
from training.learned import continuations, openings, shares, validation_documents

# %% [markdown]
# ## What copying can save
#
# The tales of the built-in corpus are written by a program (`corpus/tales.py`) that makes every choice with
# a known probability. Its rules are called the **grammar** of the tales. So we need not guess what copying
# is worth: we can count it. When a name is written *again*, a reader who looks back pays nothing for it.
# One who knows everything about tales but does not look back must guess: the hero has one of 6 names, all
# equally likely, and costs ln 6 = 1.79 nats; anybody else has one of 8, and costs ln 8 = 2.08 nats.
#
# `lessons/heads.py:expected_drawn` walks through the grammar and adds up how often a tale copies something,
# on average. It does not draw tales: where the grammar has a choice it takes the mean of the options, so
# the result is exact. We count the other things that are copied, too: what is lost and found, and he or
# she.

# %%
drawn = expected_drawn(tales.NODES)
hero = drawn["name", "h"]
others = sum(number for (sort, slot), number in drawn.items() if sort == "name" and slot != "h")
pronouns = sum(number for (sort, _), number in drawn.items() if sort in tales.PRONOUNS)
counted = {
    "the hero's name": (hero, len(tales.HEROES)),
    "another's name": (others, len(tales.OTHERS)),
    "a thing": (drawn["thing", ""], len(tales.SORTS["THING"].values)),
    "he or she": (pronouns, 2),
}
assert len(tales.HEROES) == 6 and len(tales.OTHERS) == 8
assert round(math.log(6), 2) == 1.79 and round(math.log(8), 2) == 2.08
saved = {what: number * math.log(values) for what, (number, values) in counted.items()}
table(("copied", "times a tale", "one of", "nats saved a tale"),
      [(what, f"{number:.2f}", values, f"{saved[what]:.1f}") for what, (number, values) in counted.items()])
names_again = hero + others
names_saved = saved["the hero's name"] + saved["another's name"]
print(f"names: {names_again:.2f} later mentions a tale, {names_saved:.1f} nats")

counts = []
for number in range(200 if FAST else 1000):
    named = re.findall(tales.ANY_NAME, tales.GRAMMAR.write(number).text)
    counts.append(len(named) - len(set(named)))
print(f"counted in {len(counts)} tales: {sum(counts) / len(counts):.2f}")

# %% [markdown]
# Names come back 11.06 times in a tale, and looking back for them saves 21.1 nats, more than all other
# copying in the table. A count in tales that were really drawn agrees with the exact number.
#
# ## The moment
#
# Now the training: 700 steps with a vocabulary of 512 tokens (`vocabs/builtin-512.vocab`), since the usual
# 4,096 would cost more than the rest of so small a model. The seed is that of all runs, 42. At each
# evaluation a run measures the loss of complete tales, the loss of a name where it comes for the *first*
# time and where it comes *again*, and how many of twelve sampled tales keep their names
# (`training/learned.py:mention_losses`). A tale keeps its names if every name in it was introduced before
# and is the right one in its place (`corpus/checker.py:check_tale`). A tale of fewer than sixty words, or
# with fewer than three mentions of the hero, is not judged.

# %%
assert round(names_again, 2) == 11.06 and round(names_saved, 1) == 21.1
assert names_saved > saved["a thing"] + saved["he or she"]
spread = float(torch.tensor(counts, dtype=torch.float32).std())
assert abs(sum(counts) / len(counts) - names_again) < 5 * spread / math.sqrt(len(counts))  # 5 standard errors

seeds = [42, 43, 44] if LONG else [42]
runs = {seed: copying_run(seed) for seed in seeds}
run = runs[42]
settings = read_json(run / "run.json")["settings"]
assert settings["seed"] == 42 and (FAST or settings["steps"] == 700)
assert Llama.from_pretrained(run / "best").config.vocab_size == 512 and tokenizer.load().vocab_size == 4096


def evaluations(folder):
    """The evaluation rows of a run's log."""
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [row for row in rows if "whole_loss" in row]


rows = evaluations(run)
last = rows[-1]
table(("step", "loss", "a name, first", "a name, again", "tales that keep names"),
      [(row["step"], f"{row['whole_loss']:.3f}", f"{row['name_first']:.2f}", f"{row['name_later']:.2f}",
        f"{row['kept']['name']} of {row['kept']['tales']}") for row in rows])

figure, axes = plt.subplots(figsize=(7, 3.8))
steps = [row["step"] for row in rows]
axes.plot(steps, [row["whole_loss"] for row in rows], color="black", marker=".", label="loss per token")
axes.plot(steps, [row["name_first"] for row in rows], color="tab:orange", marker=".", label="a name, first")
axes.plot(steps, [row["name_later"] for row in rows], color="tab:blue", marker=".", label="a name, again")
axes.axhline(last["entropy"], linestyle=":", color="black")
axes.axhline(math.log(6), linestyle=":", color="tab:orange")
axes.set(xlabel="step", ylabel="nats (dotted: bound, ln 6)", ylim=(0, None))
share = axes.twinx()
share.plot(steps, [row["kept"]["name"] / max(1, row["kept"]["tales"]) for row in rows],
           color="tab:green", marker=".", label="tales that keep names (right)")
share.set(ylim=(0, 1), ylabel="share of sampled tales")
figure.legend(loc="outside upper center", ncols=4, fontsize=7)
save_figure(figure, "13_moment")

# %% [markdown]
# Read the two name columns together. At the first evaluation a name costs nearly the same whether it is new
# or not: the model is still learning that these words exist. The first mention then comes down to about 2
# nats. It cannot go much lower, because nothing in the text says which animal will enter: the hero costs
# `ln 6`, anybody else about `ln 8`. (The few tales that are measured may come out a little lower.) The
# later mention continues to fall, below 0.5 nats at the end. The distance between the two is copying, and
# it opens within a few hundred steps.
#
# The loss per token hides this. A tale has about 250 tokens and 11 later mentions, so even perfect copying
# of names moves it by less than 0.1. "The loss is still falling a little" may mean that the model has just
# learned to look back. And the share of tales that keep *every* name rises later than the loss falls: a
# tale has many places where one wrong name spoils it.
#
# ## Which head?
#
# To write a name again, the model must fetch it from where it was written. Attention is the only part that
# moves anything between positions (lesson 06), so some head must look there. The drawing shows the way of a
# name through two layers: t is the position just before a later mention, where the name has to be predicted,
# and s is an earlier mention. We add up the weight that each head gives, at t, to earlier mentions of *that*
# name and, for comparison, to mentions of *other* names. `lessons/heads.py:looks` does it for each
# **snapshot**, a copy of the weights that the run kept at some step.

# %%
draw_shapes("13_shapes", {
    "s: earlier mention": (0, 0), "t: a name is due": (0, 1), "first layer": (1.3, 0),
    "first layer ": (1.3, 1),
    "a head of the\nsecond layer": (3, 0.5), "o_proj,\nadded at t": (4.2, 0.5), "output matrix": (5.4, 0.5),
    "the name again": (6.7, 0.5)}, [
    ("s: earlier mention", "first layer", "(D,)"), ("t: a name is due", "first layer ", "(D,)"),
    ("first layer", "a head of the\nsecond layer", "key, value: (F,)"),
    ("first layer ", "a head of the\nsecond layer", "query: (F,)"),
    ("a head of the\nsecond layer", "o_proj,\nadded at t", "(F,)"),
    ("o_proj,\nadded at t", "output matrix", "(D,)"), ("output matrix", "the name again", "(V,)")])
coder = tokenizer.load(run / "best")
validation = Corpus(settings["data"], 256, 1, split="validation")
documents = validation_documents(validation, coder, 2_000 if FAST else 8_000)["web"]
tokens_a_tale = sum(len(document.ids) - 1 for document in documents) / len(documents)
later = [row["name_later"] for row in rows]
first = [row["name_first"] for row in rows]
if not FAST:
    assert abs(first[0] - later[0]) < 0.7 and abs(sum(first[-3:]) / 3 - 2) < 0.4 and later[-1] < 0.5
    assert abs(tokens_a_tale / 250 - 1) < 0.1 and round(names_again) == 11
    assert names_saved / tokens_a_tale < 0.1

snapshots = sorted((run / "snapshots").iterdir(), key=lambda folder: int(folder.name))
seen = {int(folder.name): looks(folder, documents[:2 if FAST else 8], coder) for folder in snapshots}
end = seen[max(seen)]
layers, heads = end.same.shape
places = [(layer, head) for layer in range(layers) for head in range(heads)]
looker = divmod(int(end.same.argmax()), heads)
table(("head", "before: that name", "after: that name", "after: other names"),
      [(f"{layer}.{head}", f"{seen[1].same[layer, head]:.2f}", f"{end.same[layer, head]:.2f}",
        f"{end.other[layer, head]:.2f}") for layer, head in places])
print(f"head {looker[0]}.{looker[1]} looks most at the right name")

figure, panels = plt.subplots(1, 3, figsize=(10, 3.8), width_ratios=(1.1, 1, 1))
for layer, head in places:
    panels[0].plot(list(seen), [float(look.same[layer, head]) for look in seen.values()], marker=".",
                   color=f"C{head}" if layer else "silver", label=f"{layer}.{head}" if layer else None)
panels[0].set(xlabel="step", ylabel="weight on the right name", ylim=(0, 1), title="grey: first layer")
panels[0].legend(fontsize=7)

shown = documents[0]
mentions = mentions_of(shown, coder)
length = min(len(shown.ids) - 1, 60)
for panel, folder, title in ((panels[1], snapshots[0], "before"), (panels[2], snapshots[-1], "after")):
    opened, maps = open_with_maps(folder)
    with torch.no_grad():
        opened(torch.tensor([shown.ids[:length]]))
    panel.imshow(maps[looker[0]][looker[1]], cmap="viridis", vmin=0, vmax=0.6)
    panel.set(title=f"head {looker[0]}.{looker[1]}, {title}", xlabel="is read", ylabel="reads")
    starts = [mention.places[0] for mention in mentions if mention.places[0] < length]
    labels = [mention.name for mention in mentions[:len(starts)]]
    panel.set_xticks(starts, labels, fontsize=5, rotation=90)
    panel.set_yticks([start - 1 for start in starts], labels, fontsize=5)
save_figure(figure, "13_heads")

# %% [markdown]
# A head is named by its layer and its number, both from 0, so `1.3` is the last head of the second layer.
# Before training every head spreads its weight over all earlier positions. At the end at least one head of
# the second layer, whenever a name is due, gives a third of its weight or more to earlier mentions of the
# right name, and much less to other names: it knows *whose* turn it is. In the map "after" these are the
# bright marks in the rows that are labelled with a name. Each such row lies one token before the mention;
# each bright column is an earlier mention of the same name.
#
# ## Take it away
#
# Looking is not doing: lesson 06 warned against reading too much into a map. So we switch heads off, one at
# a time, in the finished model. A head that is off gives the same output everywhere, its mean
# (`lessons/heads.py:without`), so it can say nothing about the text. We look at the loss of all tokens, of
# names at their first mention, and of names that come again. At the end all heads of the second layer are
# off.
#
# Without a head of the second layer the model also continues twelve first sentences. How often does the
# hero's name come again? In the corpus it does so 6.60 times a tale. And how many tales keep all names? A
# text that hardly names the hero says nothing about this, so it is not judged.

# %%
if not FAST:
    assert looker[0] == 1 and float(end.same[looker]) > 1 / 3
    assert float(end.same[looker]) > 2 * float(end.other[looker]) and float(seen[1].same.max()) < 0.15
assert round(hero, 2) == 6.60 and round(counted["a thing"][0], 2) == 3.55
assert layers == 2 and heads == 4

prompts = openings(2 if FAST else 12, 3 * 10**8)
SECOND = tuple((1, head) for head in range(heads))


def label(chosen):
    """How the tables name some heads."""
    return {(): "none", SECOND: "1.0 to 1.3"}.get(chosen) or f"{chosen[0][0]}.{chosen[0][1]}"


def switch_off(folder):
    """What happens to this run without each head: losses, and, for the second layer, sampled tales."""
    model, found, texts = Llama.from_pretrained(folder / "best"), {}, {}
    means = mean_outputs(model, documents[:12])
    for chosen in [(), *((where,) for where in places), SECOND]:
        with without(model, list(chosen), means):
            found[label(chosen)] = losses_of(model, documents, coder)._asdict()
            if not chosen or chosen[0][0] == 1:
                texts[label(chosen)] = continuations(model, coder, prompts, most=40 if FAST else 300)
    for name, written in texts.items():
        heroes = [re.search(tales.ANY_NAME, prompt)[0] for prompt in prompts]
        again = [text.count(name) - 1 for text, name in zip(written, heroes)]
        judged = shares(written)
        found[name] |= {"hero": sum(again) / len(again), "kept": judged["name"], "judged": judged["tales"]}
    return found, texts


def head_needed(found):
    """The head of the second layer without which later mentions suffer most, first mentions apart."""
    names = [label((where,)) for where in SECOND]
    return max(names, key=lambda name: found[name]["later"] - found[name]["first"])


found, texts = switch_off(run)
table(("switched off", "all tokens", "a name, first", "a name, again", "hero again", "tales that keep names"),
      [(name, *(f"{row[column]:.2f}" for column in ("all", "first", "later")),
        f"{row['hero']:.1f}" if "hero" in row else "-",
        f"{row['kept']} of {row['judged']}" if "hero" in row else "-") for name, row in found.items()])
mover = head_needed(found)
for name in ("none", mover):
    print(f"\nswitched off: {name}. {texts[name][1][:330]}")

figure, axes = plt.subplots(figsize=(7, 3))
for shift, column, color in ((-0.2, "first", "tab:orange"), (0.2, "later", "tab:blue")):
    axes.bar([number + shift for number in range(len(places))],
             [found[label((where,))][column] - found["none"][column] for where in places], 0.4,
             color=color, label="again" if shift > 0 else "first")
axes.axhline(math.log(6), linestyle=":", color="black")
axes.set_xticks(range(len(places)), [label((where,)) for where in places])
axes.set(xlabel="head that is off", ylabel="rise of a name's loss, nats", title="dotted: ln 6")
axes.legend()
save_figure(figure, "13_without")

# %% [markdown]
# Compare the two name columns. Without a head of the *second* layer first mentions hardly change: the model
# still knows that a name is due. What may change is the later mention. Without all four heads a known name
# costs at least about as much as a new one, so the copying goes through these four. How much of it goes
# through *one* is the subject of the next section. Compare also the two texts: without the head that is
# needed most, the hero changes names.
#
# The heads of the *first* layer are another matter. Without one of them first mentions suffer too, and
# often everything: they put the pieces of words together, and the second layer reads what they made. A
# model of two layers has no spare part there. "The head that copies" is therefore a short name for a path
# through the model that ends in this head.
#
# ## Three seeds
#
# How much of this is chance? We ran the same training with three seeds, on one thread, and kept the results
# in `lessons/stored/13_copying.json`. The command in its first line makes it again, in a few minutes
# (`LONG` in the code is true then). Before you read the table: will the three models divide the work in the
# same way?

# %%
second = [label((where,)) for where in SECOND]
if not FAST:
    rise = {name: (row["first"] - found["none"]["first"], row["later"] - found["none"]["later"])
            for name, row in found.items()}
    assert all(abs(rise[name][0]) < 0.4 for name in second) and rise[mover][1] > 0.4
    assert found["1.0 to 1.3"]["later"] > found["1.0 to 1.3"]["first"] - 0.5
    assert max(rise[f"0.{head}"][0] for head in range(heads)) > 0.3


def one_seed(folder):
    """What the file keeps of one run."""
    looked = looks(folder / "best", documents[:8], coder)
    columns = ("step", "whole_loss", "name_first", "name_later")
    return {
        "evaluations": [{column: row[column] for column in columns} for row in evaluations(folder)],
        "weight": {label((where,)): float(looked.same[where]) for where in places},
        "followed": {label((where,)): float(looked.followed[where]) for where in places},
        "off": switch_off(folder)[0],
    }


MANY = 96


def many_tales(folder):
    """MANY tales without each head of the second layer: how many keep their names, of how many judged."""
    model, counted = Llama.from_pretrained(folder / "best"), {}
    means = mean_outputs(model, documents[:12])
    for chosen in [(), *((where,) for where in SECOND)]:
        with without(model, list(chosen), means):
            judged = shares(continuations(model, coder, openings(MANY, 3 * 10**8), most=300))
        counted[label(chosen)] = [judged["name"], judged["tales"]]
    return counted


if LONG:
    kept = {str(seed): one_seed(folder) for seed, folder in runs.items()}
    kept["42"]["many_tales"] = many_tales(run)
    keep("13_copying", kept)
three = read_json(STORED / "13_copying.json")["results"]
opened = {seed: next(row["step"] for row in one["evaluations"] if row["name_first"] - row["name_later"] > 1)
          for seed, one in three.items()}
movers = {seed: head_needed(one["off"]) for seed, one in three.items()}
lookers = {seed: max(one["weight"], key=one["weight"].get) for seed, one in three.items()}
table(("seed", "1 nat apart at step", "looks most", "needed most", "a name, first", "again", "without it",
       "without 1.0 to 1.3"),
      [(seed, opened[seed], lookers[seed], movers[seed],
        *(f"{one['off'][name][column]:.2f}" for name, column in (
            ("none", "first"), ("none", "later"), (movers[seed], "later"), ("1.0 to 1.3", "later"))))
       for seed, one in three.items()])
print()
table(("seed", *(f"rise without {name}" for name in second)),
      [(seed, *(f"{one['off'][name]['later'] - one['off']['none']['later']:.2f}" for name in second))
       for seed, one in three.items()])
print()
table(("seed", "tales that keep names", *(f"without {name}" for name in second)),
      [(seed, *(f"{one['off'][name]['kept']} of {one['off'][name]['judged']}" for name in ("none", *second)))
       for seed, one in three.items()])
many = three["42"]["many_tales"]
print("\nseed 42, more tales that keep names:",
      ", ".join(f"without {name}: {kept} of {judged}" for name, (kept, judged) in many.items()))

# %% [markdown]
# In all three the two losses are 1 nat apart from step 300 on. *When* a model learns to copy does not
# depend on the seed, or hardly. *Where* does:
#
# - Seed 42 has a specialist. Head `1.3` gives 66% of its weight to the right name, and without it a known
#   name costs 1.82 nats, as much as a new one. Head `1.0` looks there too, with half the weight, and is
#   missed by 0.57 nats. Without `1.1` or `1.2` the loss of a known name does not change at all.
# - Seed 43 has no specialist. All four heads look at the right name and each is missed; the largest rise
#   without one of them is 0.85 nats, about half of the distance between a new name and a known one. And the
#   head that looks *most* is not the one that is needed most.
# - In seed 44 three heads share the work.
#
# But "the other heads do nothing" would be false in all three. The loss is measured on tales of the corpus.
# When the model writes its own tales, every head is missed: without any one of the four fewer tales keep
# their names, also where the loss of a known name does not change, since a text that goes wrong for another
# reason soon names the wrong animal. (`0 of 0` means that no text could be judged.) A count of twelve tales
# is rough: chance alone moves it by three or four, so your own table may not show this. Here it falls for
# each of the four heads in each of the three seeds. And for seed 42 we counted in 96 tales: 64 of 93 keep
# their names with all heads, 32 of 90 without `1.1`, 26 of 71 without `1.2`.
#
# ## What it was worth
#
# The corpus says what copying names can save. What has your model saved? At a first mention it cannot copy,
# at a later one it can: the difference of the two losses, times the number of later mentions in a tale, is
# its gain. We also ask which share of the *fall* of the loss between the second evaluation and the last
# this explains.

# %%
assert [int(seed) for seed in three] == [42, 43, 44]
weights = {seed: one["weight"] for seed, one in three.items()}
missed = {seed: {name: one["off"][name]["later"] - one["off"]["none"]["later"] for name in second}
          for seed, one in three.items()}
apart = [row["name_first"] - row["name_later"]
         for one in three.values() for row in one["evaluations"] if row["step"] >= 300]
assert set(opened.values()) == {300} and min(apart) > 1 and round(weights["42"]["1.3"], 2) == 0.66
assert movers == {"42": "1.3", "43": "1.3", "44": "1.1"} and lookers["43"] != movers["43"]
assert round(three["42"]["off"]["1.3"]["later"], 2) == 1.82
assert abs(three["42"]["off"]["1.3"]["first"] - 1.82) < 0.1
assert 0.45 < weights["42"]["1.0"] / weights["42"]["1.3"] < 0.55 and round(missed["42"]["1.0"], 2) == 0.57
assert abs(missed["42"]["1.1"]) < 0.01 and abs(missed["42"]["1.2"]) < 0.01
assert min(weights["43"][name] for name in second) > 0.3 and min(missed["43"].values()) > 0.2
assert max(missed["43"], key=missed["43"].get) == "1.3" and round(missed["43"]["1.3"], 2) == 0.85
whole_43 = three["43"]["off"]["none"]
assert 0.45 < missed["43"]["1.3"] / (whole_43["first"] - whole_43["later"]) < 0.55
assert sorted(round(number, 1) for number in missed["44"].values()) == [0.0, 0.4, 0.4, 0.7]
assert many["none"] == [64, 93] and many["1.1"] == [32, 90] and many["1.2"] == [26, 71] and MANY == 96
assert all(one["off"][name]["kept"] < one["off"]["none"]["kept"] for one in three.values() for name in second)

gain = [(row["name_first"] - row["name_later"]) * names_again for row in rows]
fall = (rows[min(1, len(rows) - 1)]["whole_loss"] - last["whole_loss"]) * tokens_a_tale
fall_of_names = (rows[min(1, len(rows) - 1)]["name_later"] - last["name_later"]) * names_again
bound = last["entropy"] * tokens_a_tale
table(("nats a tale", ""), [
    ("bound: what no model can save", f"{bound:.1f}"),
    ("copying names can save", f"{names_saved:.1f}"),
    ("this model saves, at the first evaluation", f"{gain[0]:.1f}"),
    ("this model saves, at the end", f"{gain[-1]:.1f}"),
    ("fall of the loss since the second evaluation", f"{fall:.1f}"),
    ("of this, later mentions of names", f"{fall_of_names:.1f}"),
])
good = [row["kept"]["good_sentences"] / max(1, row["kept"]["sentences"]) for row in rows]
print(f"correct sentences in its tales: {', '.join(f'{100 * part:.0f}%' for part in good)}")
print(f"per token: {gain[-1] / tokens_a_tale:.3f} of {names_saved / tokens_a_tale:.3f} nats")

# %% [markdown]
# At the end the model takes more than 70% of what names can save. In the loss per token all of it is 0.08
# nats.
#
# What surprised us: we had seen the loss of another run, not shown here, fall a second time just when its
# tales began to keep names, and took the fall for the copying of names. Names are less than a third of it.
# In the same few hundred steps the model learns much else: the share of correct sentences in its tales,
# those that the grammar could write, rises, too. Two curves that bend together are a hint and not an
# account. Here the corpus lets us do the account.
#
# ## Is this an induction head?
#
# Olsson et al. (2022) found that models learn suddenly, early in training, to continue a repeated sequence:
# a head looks for an earlier occurrence of the *current token* and reads what followed it. They call it an
# induction head. (A head of an earlier layer must help: it first writes into each position which token came
# before it.) The measure is how much weight a position gives to what followed its token earlier
# (`lessons/heads.py:prefix_matching`, your exercise).

# %%
if not FAST:
    assert gain[-1] / names_saved > 0.7 and round(names_saved / tokens_a_tale, 2) == 0.08
    assert 0 < fall_of_names < fall / 3 and good[-1] > good[1] + 0.2

table(("head", "weight on what followed", "weight on the right name"),
      [(label(((layer, head),)), f"{end.followed[layer, head]:.2f}", f"{end.same[layer, head]:.2f}")
       for layer, head in places])

# %% [markdown]
# None of the eight is one: each gives less than 0.2 of its weight to what followed the current token. The
# reason is the task. Before a name comes a word like "said", or a full stop, and what followed that word
# last time is as likely the other animal. What helps is to look for a *name*, of the one whose turn it is.
# Wang et al. (2023) found such heads in the smallest `GPT-2` and called them name movers; there too several
# heads share the work, and some take over when others are removed. The larger point is the same in both
# papers: attention learns to fetch from the text what the weights cannot know.
#
# ## Back to the question
#
# Copying came within a few hundred steps, though the loss per token hardly shows it. It goes through the
# heads of the second layer, and nothing decides in advance how they divide the work: in one run a single
# head carries nearly all of it, in the next all four are needed. If you predicted one head, or four, you
# were right about one of the seeds.

# %%
assert FAST or float(end.followed.max()) < 0.2
results = {
    "names_again_a_tale": names_again,
    "names_saved_nats": names_saved,
    "name_first": last["name_first"],
    "name_later": last["name_later"],
    "looks_most": label((looker,)),
    "needed_most": mover,
    "weight_on_the_right_name": float(end.same[looker]),
    "later_without_it": found[mover]["later"],
    "gain_nats_a_tale": gain[-1],
}
finish("13_copying", results)

# %% [markdown]
# ## Exercises
#
# 1. Write the measure of Olsson et al. in `lessons/exercises/prefix_matching.py` and run `pytest
#    lessons/exercises/test_prefix_matching.py`.
# 2. Train `python train.py --size tiny` and look at its sixteen heads: call `looks` with a folder of
#    `runs/tiny/snapshots/`. At which step does copying come? Switch off the head that looks most, then the
#    best two. Does the first layer matter as much as it does here?
# 3. Things are copied too (the lost kite), 3.55 times in a tale. Change `mentions_of` so that it finds
#    things instead of names. Are they carried by the same heads? Predict before you look.
