# SPDX-License-Identifier: Apache-2.0
# Read this lesson as a page or notebook: `python lessons/build.py 11` writes both to lessons/built/.

# %% [markdown]
# # 11. Sampling and the KV cache
#
# **Question.** A model gives a probability to every possible next token. How does this become text, how is it
# made fast, and what can a model as small as ours do, and what not?
#
# **Prediction.** Let a small model always take its *most probable* next token, with no randomness at all, for
# a hundred tokens. Will the text be the best one that the model can write? Write down what you expect to see
# in it.

# %%
import sys
from pathlib import Path

place = Path(globals().get("__file__", "lesson.py")).resolve()         # a notebook has no __file__
sys.path.insert(0, str(next(folder for folder in place.parents if (folder / "model.py").is_file())))

import itertools
import re
import time

import torch

from lessons.tools import FAST, draw_shapes, finish, save_figure, table
from lessons.trained import trained_run
import matplotlib.pyplot as plt

import params
from corpus.builtin import builtin_documents
from corpus.exercises import EXERCISES, SORTS
from model import KVCache
from sample import Draw, SampleSettings, filtered, generate
from sampling.answers import load_model_of

# %% [markdown]
# ## A model to look at
#
# This lesson uses the newest run under `runs/`, so *your* model if you have trained one (`python train.py
# --size tiny` takes some minutes). If there is none, it trains a tiny one for half a minute on the built-in
# exercises in arithmetic: short questions, each with its answer. The text below describes this small model;
# yours will write other samples.

# %%
torch.manual_seed(11)                                       # the seed of everything random in this lesson
run = trained_run()
source = load_model_of(run)
model, words = source.model, source.tokenizer
own = run.parent.name != "lessons"                          # a run of the reader
print(f"{params.count(model.config)['total']:,} parameters, a vocabulary of {words.vocab_size:,}")

prompt = "Question: What is 3 + 4? Answer: 3 + 4 ="
ids = words.encode(prompt, document=True)
with torch.inference_mode():
    logits = model(torch.tensor([ids]))[0, -1]              # (V,) what may follow the last token
probability = torch.softmax(logits, dim=0)
best = torch.topk(probability, 8)
print(f"after {prompt!r}:")
pairs = zip(best.values.tolist(), best.indices.tolist())
table(("token", "probability"), [(repr(words.decode([token])), f"{share:.4f}") for share, token in pairs])

# %% [markdown]
# ## The cache
#
# To make text, append the new token and run the model again. The simple way runs the complete text through
# the model for every new token. But attention is causal: the keys and values of earlier positions depend on
# nothing that comes later (lesson 06), so they can be kept. This is the **KV cache**, `model.py:KVCache`.
# With it the model computes only one position for a new token, and attention reads the keys and values of the
# others from memory.
#
# The cache must not change any result. We run a text through the model at once, and then in pieces with a
# cache: twenty tokens first, and the others one by one.

# %%
text = ("Question: Ruby has 9 pears and gives 4 to Max. How many pears are left? Answer: 9 - 4 = 5 pears. "
        "Question: Which is larger, 9 or 14? Answer: 14.")
long_ids = torch.tensor([words.encode(text, document=True)])
length = long_ids.shape[1]
with torch.inference_mode():
    at_once = model(long_ids)
    cache = KVCache(model.config, batch=1, length=length)
    pieces = [model(long_ids[:, :20], cache)]
    for position in range(20, length):
        pieces.append(model(long_ids[:, position:position + 1], cache))
difference = float((torch.cat(pieces, dim=1) - at_once).abs().max())
largest = float(at_once.abs().max())
print(f"{length} tokens; largest difference of any logit: {difference:.1e}; largest logit: {largest:.1f}")

held = cache.keys.numel() * 4 + cache.values.numel() * 4
computed = params.kv_cache_bytes(model.config, length, bytes_each=4)
print(f"the cache holds {held:,} bytes; the formula of lesson 06 says {computed:,.0f}")
assert difference < 1e-3 and held == computed
draw_shapes("11_shapes", {
    "newest token": (0, 0), "embedding": (1, 0), "L blocks": (2.1, 0), "output matrix": (3.5, 0),
    "temperature,\ntop-k, top-p": (4.9, 0), "draw": (4.9, 1), "KV cache": (2.1, 1),
    "next token": (3.7, 1)}, [
    ("newest token", "embedding", "(B, 1)"), ("embedding", "L blocks", "(B, 1, D)"),
    ("L blocks", "output matrix", "(B, 1, D)"), ("output matrix", "temperature,\ntop-k, top-p", "(B, V)"),
    ("temperature,\ntop-k, top-p", "draw", "(B, V)"), ("draw", "next token", "(B, 1)"),
    ("KV cache", "L blocks", "keys and values,\n(L, B, K, T, F) each")])

# %% [markdown]
# Equal up to rounding. The drawing shows one step of writing. What does the cache save? The next cell
# measures the time for *one* more token after texts of several lengths, with the cache and by running the
# complete text again.

# %%
def shortest_time(action, repeats):
    """Seconds of the shortest of several measurements: other programs only make a measurement longer."""
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        action()
        taken.append(time.perf_counter() - began)
    return min(taken)


lengths = [16, 64, 256] if FAST else [16, 32, 64, 128, 256, 480]
with_cache, without = [], []
for length in lengths:
    tokens = torch.randint(0, words.vocab_size, (1, length))
    cache = KVCache(model.config, batch=1, length=length + 1)

    def next_with_cache():
        """One position; the cache is put back to where it was."""
        cache.length = length
        model(tokens[:, -1:], cache)

    def next_without():
        """The whole text again."""
        model(tokens)

    with torch.inference_mode():
        model(tokens, cache)
        with_cache.append(1 / shortest_time(next_with_cache, 3 if FAST else 8))
        without.append(1 / shortest_time(next_without, 2 if FAST else 4))
table(("tokens before", "tokens/s with cache", "tokens/s without"),
      [(n, f"{fast:,.0f}", f"{slow:,.0f}") for n, fast, slow in zip(lengths, with_cache, without)])

figure, axes = plt.subplots(figsize=(6.5, 3.2), layout="constrained")
axes.loglog(lengths, with_cache, marker="o", label="with cache")
axes.loglog(lengths, without, marker="o", label="without")
axes.set(xlabel="tokens before", ylabel="tokens per second", title="one more token, on this machine")
axes.legend()
save_figure(figure, "11_cache_speed")

# %% [markdown]
# With the cache the speed hardly depends on the length; without it, the speed falls as the text grows. The
# speeds are those of *your* machine. The lesson only checks that after the longest text the cache is faster,
# by more than a factor of 2.
#
# ## Choosing a token
#
# The model gives a distribution over the vocabulary. Three settings change it before a token is drawn, all in
# `sample.py:filtered`:
#
# - **Temperature** divides the logits. Below one the probable becomes more probable; at zero only the best
#   token is left, which is called **greedy** decoding; above one all tokens come closer together.
# - **Top-k** keeps the k most probable tokens (Fan et al. 2018).
# - **Top-p** keeps the fewest tokens whose probabilities sum to at least p (Holtzman et al. 2020, section
#   3.1). Where the model is sure these are few, where it is not they are many; that is its advantage over a
#   fixed k.

# %%
assert with_cache[-1] > without[-1] * (1 if FAST else 2)

none_seen = torch.zeros(len(logits), dtype=torch.bool)


def reshaped(**settings):
    """The distribution that is drawn from under these settings; everything else is switched off.

    Min-p (see the glossary) is off at 0, the repetition penalty (explained below) at 1.
    """
    plain = dict(temperature=1.0, top_p=1.0, top_k=0, min_p=0.0, repetition_penalty=1.0)
    return torch.softmax(filtered(logits, none_seen, SampleSettings(**{**plain, **settings})), dim=0)


cases = {
    "as the model says": {}, "temperature 0.5": {"temperature": 0.5}, "temperature 2": {"temperature": 2.0},
    "top-k 5": {"top_k": 5}, "top-p 0.9": {"top_p": 0.9},
}
figure, axes = plt.subplots(1, len(cases), figsize=(11, 2.8), sharey=True, layout="constrained")
rows = []
for panel, (name, settings) in zip(axes, cases.items()):
    distribution = reshaped(**settings)
    kept = distribution[distribution > 0]
    entropy = float(-(kept * kept.log()).sum())
    rows.append((name, len(kept), f"{float(distribution.max()):.3f}", f"{entropy:.2f}"))
    panel.bar(range(20), torch.sort(distribution, descending=True).values[:20])
    panel.set(title=name, xlabel="rank")
axes[0].set(ylabel="probability")
save_figure(figure, "11_distributions")
table(("setting", "tokens left", "most probable", "entropy in nats"), rows)

# %% [markdown]
# **Entropy** measures how undecided a distribution is, in nats: zero if one token has all the probability,
# and the logarithm of the number of tokens if all are equally probable. A low temperature makes it smaller, a
# high one larger. Top-k and top-p make it smaller because they remove the thousands of tokens that are each
# improbable, but together often are not.
#
# The next cell writes top-p as a loop and compares. Then it draws two thousand tokens and counts, to see that
# the draws follow the distribution.

# %%
entropies = {row[0]: float(row[3]) for row in rows}
assert entropies["temperature 0.5"] <= entropies["as the model says"] <= entropies["temperature 2"]
assert entropies["top-p 0.9"] <= entropies["as the model says"]
assert [row[1] for row in rows if row[0] == "top-k 5"] == [5]


def naive_top_p(distribution, mass):
    """Keep the most probable tokens until their sum reaches `mass`; give them all of the probability."""
    kept = torch.zeros_like(distribution)
    total = 0.0
    for token in torch.sort(distribution, descending=True, stable=True).indices.tolist():
        if total >= mass:
            break
        kept[token] = distribution[token]
        total += float(distribution[token])
    return kept / kept.sum()


by_hand = naive_top_p(probability, 0.9)
print(
    "top-p by hand and in sample.py differ by at most",
    f"{float((by_hand - reshaped(top_p=0.9)).abs().max()):.1e}",
)
assert torch.allclose(by_hand, reshaped(top_p=0.9), atol=1e-5)

draws = 300 if FAST else 2000
counts = torch.zeros(len(logits))
drawing = SampleSettings(
    temperature=1.0, top_p=0.9, top_k=0, min_p=0.0, repetition_penalty=1.0, max_new_tokens=draws
)
row = Draw(model, ids, drawing, seed=11)
for _ in range(draws):
    counts[row.choose(logits)] += 1
gap = float((counts / draws - by_hand).abs().max())
print(f"largest gap between a token's share of {draws} draws and its probability: {gap:.3f}")
assert gap < (0.15 if FAST else 0.05)

# %% [markdown]
# ## What the model can and cannot do
#
# The model cards of this family say about their own models: without a repetition penalty they repeat
# themselves, they leave their topic, they cannot calculate. We measure all three. But we begin with what a
# model learns first: the **form** of its text.
#
# `corpus/exercises.py:EXERCISES` lists the kinds of question. For each kind we take twelve questions that are
# in no training text, let the model answer greedily, and count two things: answers of the right *form* (a
# number where the right answer has a number, a word where it has a word), and right answers.

# %%
UNSEEN = 2 * 10**8                                          # no preparation uses documents from here on
each = 2 if FAST else 12
asked = {question: [] for question, _, _ in EXERCISES}      # of each kind: (question, right answer)
for number in itertools.count(UNSEEN):
    exercise = str(next(builtin_documents("math", number))).split(" Question:")[0]
    question, _, answer = exercise.partition(" Answer:")
    kind = next(kind for kind in EXERCISES if re.fullmatch(
        "Question: " + re.sub(r"\\{.*?\\}", "\\\\w+", re.escape(kind[0])), question))[0]
    if len(asked[kind]) < each:
        asked[kind].append((question + " Answer:", answer.strip()))
    if all(len(found) == each for found in asked.values()):
        break


def texts_after(prompts, new_tokens, **settings):
    """One continuation for each prompt, as text; prompt number n is drawn with seed n."""
    texts = []
    for number, prompt in enumerate(prompts):
        start = [words.eos_id, *words.encode(prompt, document=True)]        # a document begins here
        new = generate(model, start, new_tokens, seed=number, stop_id=words.eos_id, **settings)
        texts.append(words.decode(new, skip_special=True))
    return texts


def form_of(answer):
    """The answer with every number replaced by 0 and every word by w: "3 + 4 = 7 nuts." is "0 + 0 = 0 w."."""
    return re.sub("[A-Za-z]+", "w", re.sub("[0-9]+", "0", answer))


rows = []
in_form, right = [], {}
for kind, pairs in asked.items():
    answers = [text.split(" Question:")[0].split("Question:")[0].strip()
               for text in texts_after([question for question, _ in pairs], 24, temperature=0)]
    forms = [form_of(answer) == form_of(good) for answer, (_, good) in zip(answers, pairs)]
    right[kind] = sum(answer == good for answer, (_, good) in zip(answers, pairs))
    in_form += forms
    rows.append((re.sub("=[-0-9A-Z]+", "", kind)[:44], sum(forms), right[kind], answers[0], pairs[0][1]))
table(("question", "right form", "right", "one answer", "should be"), rows)
print(f"of {len(in_form)} answers {sum(in_form)} have the right form, {sum(right.values())} are right")

# %% [markdown]
# The small model has learned the form almost completely: it answers a sum with a sum, colours with colours,
# "even or odd" with one of the two. Most answers are wrong. The model does not yet use the numbers of the
# question; it answers with numbers that are *frequent* in such answers. About half of the right answers are
# to one question, "even or odd". There guessing is right in half of the cases, so such a row alone does not
# show that the model can do it. Lesson 12 says how many right answers would.
#
# **Loops.** We let the model write a hundred tokens in three ways, and count which share of all sequences
# of four tokens has occurred before in the same text.

# %%
if not own and not FAST:
    assert sum(in_form) > 0.9 * len(in_form) and 0 < sum(right.values()) < len(in_form) / 4
    even_or_odd = next(number for kind, number in right.items() if "even or odd" in kind)
    assert 1 / 3 < even_or_odd / sum(right.values()) < 2 / 3

starts = ["Question:", "Question: What is", "Question: Which is larger,", "Question: Mia has",
          "Question: Copy:", "Question: Write"][: 3 if FAST else 6]
new_tokens = 60 if FAST else 100


def repeated_share(text):
    """The share of sequences of four tokens that occurred in the text before."""
    tokens = words.encode(text, document=True)
    fours = [tuple(tokens[i:i + 4]) for i in range(len(tokens) - 3)]
    return 1 - len(set(fours)) / max(1, len(fours))


ways = {
    "greedy": {"temperature": 0},
    "greedy, repetition penalty 1.15": {"temperature": 0, "repetition_penalty": 1.15},
    "temperature 0.8": {"temperature": 0.8},
}
repeated = {}
for name, settings in ways.items():
    texts = texts_after(starts, new_tokens, **settings)
    repeated[name] = sum(repeated_share(text) for text in texts) / len(texts)
    print(f"{name}:\n    {starts[0]}{texts[0][:150]}")
table(("how", "repeated sequences of four"),
      [(name, f"{100 * share:.0f}%") for name, share in repeated.items()])

# %% [markdown]
# Greedy text runs into a loop: what was written once becomes more probable, so it is written again. The
# **repetition penalty** (Keskar et al. 2019, section 4.1) makes used tokens less probable; drawing by chance
# breaks loops as well. The cards of this family recommend a penalty. It has a price: it also makes every
# name, thing and number less probable that *should* come again. A model of the built-in tales must repeat its
# hero's name, so for such a model `sample.py` recommends no penalty.
#
# **Topic.** A problem names a thing. Does the text that follows name the same thing, or another one? There
# are eight things in the exercises, so a model that names any of them by chance is right once in eight times.

# %%
if not own and not FAST:                                    # a model of fifteen steps repeats one token
    assert repeated["greedy"] > repeated["temperature 0.8"]
    assert repeated["greedy"] > repeated["greedy, repetition penalty 1.15"]

things = SORTS["GOODS"].values
problems = [f"Question: Ruby has {2 + number % 3} {thing} and gets {1 + number % 4} more. How many"
            for number in range(1 if FAST else 2) for thing in things]
named = [thing for _ in range(1 if FAST else 2) for thing in things]
followed = texts_after(problems, 10, temperature=0.5)
first_named = []
for answer in followed:
    found = [(answer.index(other), other) for other in things if other in answer]
    first_named.append(min(found)[1] if found else "none")
kept = sum(first == thing for first, thing in zip(first_named, named))
none = first_named.count("none")
for problem, answer in list(zip(problems, followed))[:3]:
    print(f"{problem} | {answer[:70]}")
print(f"the first thing in the continuation: the same {kept}, another {len(named) - kept - none}, "
      f"none {none}, of {len(named)}")

# %% [markdown]
# Again the form is right: after "How many" the model names a thing. But it mostly guesses which one. To keep
# a topic, attention must find the word about twenty tokens before and copy it. Models learn such copying
# suddenly, after more training than this half minute (Olsson et al. 2022 call the parts that do it induction
# heads); lesson 13 shows when. Train with `python train.py --size tiny`, run this lesson again, and compare
# the numbers.
#
# ## Back to the question
#
# To write text, the model is run again and again, and each time one token is chosen; the cache makes each run
# cheap without changing its result. The most probable token at each step does *not* give the best text: it
# gives a loop. Many people predict dull but correct text. Greedy decoding is good where one short answer is
# wanted and the model is good. For longer text a small model needs a random draw.

# %%
assert len(things) == 8
if not own and not FAST:
    assert none <= len(named) / 4 and kept < len(named) / 2
results = {
    "cache_difference": difference,
    "cache_speedup_at_longest": with_cache[-1] / without[-1],
    "in_form": sum(in_form) / len(in_form),
    "right_answers": sum(right.values()) / len(in_form),
    "repeated_greedy": repeated["greedy"],
    "repeated_with_penalty": repeated["greedy, repetition penalty 1.15"],
    "thing_kept": kept / len(named),
}
finish("11_sampling", results)

# %% [markdown]
# ## Exercises
#
# 1. Write top-p in `lessons/exercises/top_p.py` and run `pytest lessons/exercises/test_top_p.py`.
# 2. Look at one choice after the other: `python sample.py "Question: What is" --explore page.html` writes a
#    page with each token's probability and its alternatives. Find a place where the model was undecided, and
#    one where it was sure and wrong.
# 3. Find the penalty at which your model neither loops nor loses the form: plot `repeated_share` and the
#    share of answers in the right form against `repetition_penalty` from one to two.
