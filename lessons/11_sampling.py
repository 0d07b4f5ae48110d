# SPDX-License-Identifier: Apache-2.0
# Read this lesson as a page or notebook: `python lessons/build.py 11` writes both to lessons/built/.

# %% [markdown]
# # 11. Sampling and the KV cache
#
# **Question.** A model gives a probability to every possible next token. How does text come out of that, how
# is it made fast, and what can a model as small as ours say, and what not?
#
# **Prediction.** Let a small model always take its *most probable* next token, with no randomness at all, for
# a hundred tokens. Will the text be the best one that the model can write? Write down what you expect to see
# in it.

# %%
import sys
from pathlib import Path

place = Path(globals().get("__file__", "lesson.py")).resolve()         # a notebook has no __file__
sys.path.insert(0, str(next(folder for folder in place.parents if (folder / "model.py").is_file())))

import random
import re
import time

import torch

from lessons.tools import FAST, finish, save_figure, table
from lessons.trained import trained_run
import matplotlib.pyplot as plt

import params
from model import KVCache
from sample import Draw, SampleSettings, filtered, generate
from sampling.answers import load_model_of

# %% [markdown]
# ## A model to look at
#
# This lesson looks at the newest run under `runs/`, so at *your* model if you have trained one (`python
# train.py --size tiny` takes some minutes). If there is none, it trains a tiny one for half a minute on the
# built-in exercises in arithmetic: short questions, each with a worked solution. What follows holds for both;
# the samples will differ.

# %%
torch.manual_seed(11)                                       # the seed of everything random in this lesson
run = trained_run()
source = load_model_of(run)
model, words = source.model, source.tokenizer
own = run.parent.name != "lessons"                          # a run of the reader
print(f"{params.count(model.config)['total']:,} parameters, a vocabulary of {words.vocab_size:,}")

prompt = "Question: What is 35 + 47? Working: 35 + 40 ="
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
# To make text, the new token is appended and the model is asked again. Done naively, the whole text runs
# through the model for every token. But attention is causal: the keys and values of earlier positions depend
# on nothing that comes later (lesson 06), so they can be kept. This is the **KV cache**, `model.py:KVCache`;
# with it a new token costs one position of work, and attention reads the rest from memory.
#
# It is an optimization, so it must change nothing. We run a text through the model at once, and then in
# pieces with a cache: twenty tokens first, and the others one by one.

# %%
text = ("Question: Omar has 65 marbles and gives 19 of them to Ben. How many marbles does Omar have now? "
        "Working: Omar has 65 - 19 = 46.")
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

# %% [markdown]
# Equal up to rounding. What does it save? The next cell measures the time for *one* more token after texts of
# several lengths, with the cache and by running the whole text again.

# %%
def shortest_time(action, repeats):
    """The shortest of several measurements: what disturbs a measurement only makes it longer."""
    taken = []
    for _ in range(repeats):
        begun = time.perf_counter()
        action()
        taken.append(time.perf_counter() - begun)
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
# With the cache the speed hardly depends on the length here; without, it falls as the text grows. These are
# seconds of *your* machine, so this lesson states only the order: at the longest text the cache is faster, by
# more than a factor of 2.
#
# ## Choosing a token
#
# The model's answer is a distribution. Three settings reshape it before a token is drawn, all in
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
    """The distribution that is drawn from under these settings; everything else is switched off."""
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
# and the logarithm of their number if all are equal. A low temperature lowers it, a high one raises it; top-k
# and top-p lower it by cutting the tail: the thousands of tokens that are each improbable, and together are
# not.
#
# The next cell writes top-p down in the plain way, as a loop, and compares. Then it draws two thousand tokens
# and counts, to see that the draw follows the distribution.

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
# Now the honest part. The published cards of the family say of their own models: they loop without a
# repetition penalty, they drift off their topic, they cannot calculate. We measure all three, and first what
# the model *can* do: the **form** of its text. Does the continuation of a question contain a word like
# "Working", "Solution", "Answer" or "Result"?

# %%
def texts_after(prompts, new_tokens, **settings):
    """One continuation for each prompt, as text; prompt number n is drawn with seed n."""
    texts = []
    for number, prompt in enumerate(prompts):
        new = generate(model, words.encode(prompt, document=True), new_tokens, seed=number, **settings)
        texts.append(words.decode(new, skip_special=True))
    return texts


draw = random.Random(11)
sums = [(draw.randint(11, 49), draw.randint(11, 49)) for _ in range(6 if FAST else 24)]
questions = [f"Question: What is {a} + {b}?" for a, b in sums]
answers = texts_after(questions, 40, temperature=0.8, top_p=0.9)
in_form = [any(word in answer for word in ("Working", "Solution", "Answer", "Result")) for answer in answers]
for question, answer in list(zip(questions, answers))[:4]:
    print(f"{question} | {answer[:90]}")
print(f"in the form of the exercises: {sum(in_form)} of {len(in_form)}")

# %% [markdown]
# The form is the first thing a model learns: which words follow which, where a number stands, that a question
# is followed by a working. And the content? If the right sum stands anywhere in the continuation, we count it
# as right, which is generous.

# %%
greedy = texts_after(questions, 40, temperature=0)
right = [str(a + b) in re.findall(r"\d+", answer) for (a, b), answer in zip(sums, greedy)]
for (a, b), answer in list(zip(sums, greedy))[:4]:
    print(f"{a} + {b} = {a + b} | {answer[:90]}")
print(f"the right sum stands in {sum(right)} of {len(right)} answers")

# %% [markdown]
# Arithmetic looks like knowledge and is a procedure: carry, align, add. A small model sees it as text, and
# completes it with *some* number of about the right length. (One reason: the tokenizer cuts numbers into
# pieces that have nothing to do with digits, as `python tokenizer.py encode "1234 + 35 = 1269"` shows.) More
# training on exercises improves the shape of the answers long before their truth.
#
# **Loops.** We let the model write a hundred tokens in three ways, and count which share of all runs of four
# tokens has occurred before in the same text.

# %%
if not own and not FAST:
    assert sum(in_form) > len(in_form) / 2 and sum(right) < len(right) / 4

starts = ["Question:", "Problem:", "Exercise: What is", "Omar has", "The", "Question: Which number"][
    : 3 if FAST else 6
]
new_tokens = 60 if FAST else 100


def repeated_share(text):
    """The share of runs of four tokens that stood in the text before."""
    tokens = words.encode(text, document=True)
    runs = [tuple(tokens[i:i + 4]) for i in range(len(tokens) - 3)]
    return 1 - len(set(runs)) / max(1, len(runs))


ways = {
    "greedy": {"temperature": 0},
    "greedy, repetition penalty 1.15": {"temperature": 0, "repetition_penalty": 1.15},
    "temperature 0.8, top-p 0.9, penalty 1.15": {
        "temperature": 0.8,
        "top_p": 0.9,
        "repetition_penalty": 1.15,
    },
}
repeated = {}
for name, settings in ways.items():
    texts = texts_after(starts, new_tokens, **settings)
    repeated[name] = sum(repeated_share(text) for text in texts) / len(texts)
    print(f"{name}:\n    {starts[0]}{texts[0][:150]}")
table(("how", "repeated runs of four"), [(name, f"{100 * share:.0f}%") for name, share in repeated.items()])

# %% [markdown]
# Greedy text runs into a loop: whatever was said once becomes more probable, is therefore said again, and so
# on. The **repetition penalty** (Keskar et al. 2019, section 4.1) makes tokens less likely that have been
# used; drawing breaks loops as well. The cards recommend both for this family. It is a patch: it also
# punishes the comma and every digit of a sum.
#
# **Drift.** A word problem names a person and a thing. Does the text that follows still speak of that thing,
# or of another one?

# %%
assert repeated["greedy"] > repeated["temperature 0.8, top-p 0.9, penalty 1.15"]
if not FAST:  # a model of fifteen steps repeats one token for ever
    assert repeated["greedy"] > repeated["greedy, repetition penalty 1.15"]

things = [
    "apples",
    "books",
    "cards",
    "coins",
    "cookies",
    "eggs",
    "marbles",
    "oranges",
    "pencils",
    "shells",
    "stamps",
]
problems, named = [], []
for number in range(4 if FAST else 16):
    thing = things[number % len(things)]
    problems.append(
        f"Question: Nora has {20 + number} {thing} and gives {5 + number} of them to Hugo. How many"
    )
    named.append(thing)
followed = texts_after(problems, 30, temperature=0.5)
first_named = []
for problem, thing, answer in zip(problems, named, followed):
    found = [(answer.index(other), other) for other in things if other in answer]
    first_named.append(min(found)[1] if found else "none")
kept = sum(first == thing for first, thing in zip(first_named, named))
other = sum(first not in (thing, "none") for first, thing in zip(first_named, named))
for problem, answer in list(zip(problems, followed))[:3]:
    print(f"{problem} | {answer[:70]}")
none = len(named) - kept - other
print(f"the first thing in the continuation: the same {kept}, another {other}, none {none}, of {len(named)}")

# %% [markdown]
# To keep a topic, attention must find the word some twenty tokens back and copy it. Models learn such copying
# suddenly, after much more training than the half minute that the model of this lesson had (Olsson et al.
# 2022 call the circuit an induction head). A model that you trained for longer may already do it: this is a
# measurement worth repeating on your own checkpoints.
#
# ## Back to the question
#
# Text comes out by asking again and again, and by choosing; the cache makes each question cheap without
# changing an answer. The most probable token at each step does *not* give the best text: it gives a loop. If
# you predicted dull but correct text, you are in good company. Greedy decoding is right where one answer is
# wanted and the model is strong; a small model needs a draw, a penalty, and a reader who knows what it cannot
# do.

# %%
results = {
    "cache_difference": difference,
    "cache_speedup_at_longest": with_cache[-1] / without[-1],
    "in_form": sum(in_form) / len(in_form),
    "right_sums": sum(right) / len(right),
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
#    share of answers in form against `repetition_penalty` from one to two.
