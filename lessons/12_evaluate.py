# SPDX-License-Identifier: Apache-2.0
# Read this lesson as a page or notebook: `python lessons/build.py 12` writes both to lessons/built/.

# %% [markdown]
# # 12. Evaluate and publish
#
# **Question.** How good is a model, in numbers that can be compared with other models and that somebody else
# can check? And what exactly is handed over when a model is published?
#
# **Prediction.** We ask your model which of two sums is right, `3 + 4 = 7` or `3 + 4 = 9`, for twenty such
# pairs, and it finds twelve of the twenty. Does it know something about sums? Write down yes or no, and how
# many right pairs of twenty would convince you.

# %%
import sys
from pathlib import Path

place = Path(globals().get("__file__", "lesson.py")).resolve()         # a notebook has no __file__
sys.path.insert(0, str(next(folder for folder in place.parents if (folder / "model.py").is_file())))

import importlib
import itertools
import json
import math
import os
import random
import zlib
from importlib.util import find_spec

import torch

from lessons.tools import FAST, HOME, OUT, draw_shapes, finish, save_figure, table
from lessons.trained import trained_run
import matplotlib.pyplot as plt

import evaluate
from corpus.builtin import KINDS, builtin_documents
from corpus.exercises import SORTS
from corpus.python_docs import python_documents
from judging.builtin import ways
from model import Llama
from sampling.answers import load_model_of

# %% [markdown]
# ## Perplexity, and bits per byte
#
# The **loss** is the mean of `-log p(next token)` over a text that the model was not trained on.
# **Perplexity** is its exponential: a perplexity of twenty means that the model is as undecided as if it had
# to choose among twenty equally probable tokens.
#
# Both are *per token*, and each vocabulary has other tokens: longer ones are harder to guess, and there are
# fewer of them. So the losses of two models with different vocabularies have different units. We therefore
# also divide by something that is the same for all models, the bytes of the text (lesson 02):
#
# ```text
# bits per byte  =  loss · tokens / (ln 2 · bytes)
# ```
#
# This is also the size to which the text could be compressed with the help of the model. So we can compare
# with `zlib`, a program that compresses files and knows no language; it learns only from the text itself. We
# measure three texts: exercises that were not in training, a page of Python's documentation, and a paragraph
# of a story.

# %%
torch.manual_seed(12)                                       # the seed of everything random in this lesson
run = trained_run()
source = load_model_of(run)
model, words = source.model, source.tokenizer
own = run.parent.name != "lessons"                          # a run of the reader

UNSEEN = 2 * 10**8                                          # no preparation uses documents from here on
exercises = " ".join(itertools.islice(builtin_documents("math", UNSEEN), 8 if FAST else 40))
documentation = next(text for name, text in python_documents("web") if name == "topics/assignment")[:3000]
english = (
    "The ship had been at anchor for three days when the wind turned at last. Nobody on board had slept "
    "well. The cook, who liked to talk, had said nothing since Sunday, and the captain walked up and down "
    "the deck with his hands behind his back, counting the steps. A boy sat on a coil of rope and watched "
    "the gulls. He had never been so far from home, and he did not yet know whether he liked it. When the "
    "anchor came up, black and dripping, everybody began to shout at once."
)
texts = {"exercises": exercises, "documentation": documentation, "story": english}
found = {}
rows = []
for name, text in texts.items():
    found[name] = evaluate.perplexity(model, words, text)
    size = len(text.encode())
    found[name]["zlib"] = 8 * len(zlib.compress(text.encode(), 9)) / size
    found[name]["bytes/token"] = size / found[name]["tokens"]
    columns = ("loss", "stderr", "ppl", "bits_per_byte", "zlib", "bytes/token")
    rows.append((name, *(f"{found[name][column]:,.2f}" for column in columns)))
table(("text", "loss", "±", "perplexity", "bits/byte", "zlib", "bytes/token"), rows)

example = found["exercises"]
by_hand = example["loss"] * example["tokens"] / (math.log(2) * example["bytes"])
print(f"bits per byte by hand {by_hand:.6f}, by evaluate.py {example['bits_per_byte']:.6f}")
assert abs(by_hand - example["bits_per_byte"]) < 1e-9
assert abs(math.exp(example["loss"]) / example["ppl"] - 1) < 1e-6
draw_shapes("12_shapes", {
    "text": (0, 0), "model": (1.2, 0), "log-softmax": (2.3, 0), "log p of the\nnext tokens": (3.6, 0),
    "loss": (5, 0), "perplexity": (5, 1), "bits per byte": (6.6, 0)}, [
    ("text", "model", "(1, T)"), ("model", "log-softmax", "(1, T, V)"),
    ("log-softmax", "log p of the\nnext tokens", "(1, T, V)"),
    ("log p of the\nnext tokens", "loss", "(T - 1,)"), ("loss", "perplexity", "exp"),
    ("loss", "bits per byte", "tokens, bytes")])

# %% [markdown]
# First compare the rows. The model predicts the kind of text best that it was trained on; for other text its
# loss is much higher. So a perplexity means nothing without the name of the text, and two are comparable only
# if text *and* vocabulary are the same.
#
# Then compare with zlib. On exercises the model needs far fewer bits than zlib, even after half a minute of
# training. On real English the small model, which has seen only exercises, needs more bits than zlib. It did
# not learn "language"; it learned what it was shown.
#
# The `±` is the standard error of the loss: about how far the loss would move with another text of the same
# kind. It is large where the text is short.
#
# ## How much is left to learn?
#
# A loss of one nat: is that good? For most texts nobody can say, because nobody knows how predictable the
# text is. Our built-in corpus is written by a program that draws its choices by chance, so the probability of
# each document is known exactly. We can compare three numbers for the same documents, all in nats per token:
#
# - the **unigram entropy**: the loss of a model that knows how frequent each token is, and nothing of
#   context;
# - the model's **loss**;
# - the **bound**: the mean of `-log p` of the documents under the program that wrote them. On average no
#   model can be better (Shannon 1948), since nobody can guess a fair draw.
#
# `judging/builtin.py:ways` measures them on complete documents. The model has gone a part of the way from
# the unigram entropy down to the bound; this **share of the way**, `(unigram - loss) / (unigram - bound)`,
# says how much of what can be learned it has learned.

# %%
if not own and not FAST:                                    # the model of this lesson
    assert example["bits_per_byte"] < example["zlib"]
    assert found["documentation"]["bits_per_byte"] > found["documentation"]["zlib"]
    assert found["story"]["bits_per_byte"] > found["story"]["zlib"]
assert words.vocab_size >= 4096

way = ways(model, words)
rows = [(KINDS[kind].name, *(f"{numbers[column]:.3f}" for column in ("unigram", "loss", "stderr", "bound")),
         f"{100 * numbers['share']:.0f}%") for kind, numbers in way.items()]
table(("documents", "unigram", "loss", "±", "bound", "share of the way"), rows)

# %% [markdown]
# Why is the loss of exercises so much higher in the first table? There the exercises were joined into one
# long text, and this model was trained on short rows only: at later positions it guesses worse (lesson 05,
# "Where it ends"). Here each document is read alone, from its beginning.
#
# On exercises the small model has gone more than 80% of the way. In lesson 11 most of its answers were wrong.
# Both are true: most of what can be predicted is the form of the text, and the answers are a small part of
# the tokens. On tales and programs, which it never saw, its loss is even higher than ln 4,096 = 8.32, the
# loss of a model that knows nothing: it gives high probability to wrong tokens, so its share is far below
# zero.
#
# The loss can come close to the bound. If it is lower than the bound by more than a few standard errors,
# something is wrong with the measurement: the documents were in training, or the units differ.
#
# ## Is it better than chance?
#
# **Minimal pairs** are pairs of sentences that differ in one thing, one being acceptable. The model is right
# if it gives the acceptable one the higher probability. BLiMP (Warstadt et al. 2020) has sixty-seven kinds of
# such pairs, a thousand each. Guessing gives one half: the **chance line**.
#
# For the small model of this lesson we write our own pairs, in the words of the exercises, of three kinds:
# the form of a verb, the order of words, and whether a sum is right (half of the wrong sums are two too
# large, half two too small, so that a model that only prefers small numbers gets one half right). The file
# has the format of BLiMP, so `evaluate.py:blimp` can read it.

# %%
assert round(math.log(4096), 2) == 8.32
assert way["math"]["loss"] > way["math"]["bound"] - 3 * way["math"]["stderr"]
if not own and not FAST:
    assert way["math"]["share"] > 0.8 and example["loss"] > way["math"]["loss"] + 0.4
    for kind in ("web", "code"):
        assert way[kind]["loss"] > 8.32 and way[kind]["share"] < 0

draw = random.Random(12)
sums = draw.sample([(a, b) for a in range(1, 6) for b in range(1, 6)], 20)
pairs = []
for number, (a, b) in enumerate(sums):
    thing, name = draw.choice(SORTS["GOODS"].values), draw.choice(SORTS["PERSON"].values)
    made = {
        "verb form": (f"How many {thing} does {name} have now?", f"How many {thing} do {name} has now?"),
        "word order": (f"What is {a} + {b}?", f"What {a} is + {b}?"),
        "right sum": (f"{a} + {b} = {a + b}.", f"{a} + {b} = {a + b + (2 if number % 2 else -2)}."),
    }
    for kind, (good, bad) in made.items():
        pairs.append({"sentence_good": good, "sentence_bad": bad, "UID": kind, "linguistics_term": kind})
OUT.mkdir(parents=True, exist_ok=True)
pairs_file = OUT / "12_pairs.jsonl"
pairs_file.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))

judged = evaluate.blimp(model, words, pairs_file)
rows = []
for kind, share in judged["paradigms"].items():
    low, high = judged["intervals"]["paradigms"][kind]
    verdict = "no" if low <= 0.5 <= high else "yes"
    rows.append((kind, f"{20 * share:g} of 20", f"{100 * low:.0f}% to {100 * high:.0f}%", verdict))
table(("kind", "right", "95% interval", "differs from chance"), rows)
assert judged["pairs"] == 60

# %% [markdown]
# The **95% interval** answers the prediction. If the twenty pairs are seen as a sample of all pairs of this
# kind, the interval is the range of true shares that fit with what was counted (Wilson 1927; the formula is
# in `evaluate.py:wilson_interval`). For 12 of 20 it goes from 39% to 78%. One half is inside, so nothing
# has been shown. 15 of 20 is the first count whose interval, 53% to 89%, does not contain one half. With
# the 67,000 pairs of BLiMP, half a percent above one half is enough; with twenty pairs, a fifth is not.
#
# Three things are *no* reason to believe a number: that you expected it, that it is above one half, that it
# is printed with two digits after the point.

# %%
assert [round(100 * end) for end in evaluate.wilson_interval(12 / 20, 20)] == [39, 78]
assert [round(100 * end) for end in evaluate.wilson_interval(15 / 20, 20)] == [53, 89]
# the share of a normal distribution within 1.96 deviations
assert abs(math.erf(1.96 / math.sqrt(2)) - 0.95) < 0.001
assert evaluate.wilson_interval(14 / 20, 20)[0] < 0.5 < evaluate.wilson_interval(15 / 20, 20)[0]
assert evaluate.wilson_interval(0.505, 67_000)[0] > 0.5 > evaluate.wilson_interval(14 / 20, 20)[0]
assert len(pairs) / len(judged["paradigms"]) == len(sums) == 20

figure, axes = plt.subplots(figsize=(7, 2.8), layout="constrained")
for height, (kind, share) in enumerate(judged["paradigms"].items()):
    low, high = judged["intervals"]["paradigms"][kind]
    axes.plot([100 * low, 100 * high], [height, height], color="tab:blue")
    axes.plot(100 * share, height, "o", color="tab:blue")
axes.axvline(50, linestyle=":", color="black")
axes.set_yticks(range(3), list(judged["paradigms"]))
axes.set(xlabel="% right, with the 95% interval; dotted: chance", xlim=(0, 102), ylim=(-0.5, 2.5))
save_figure(figure, "12_pairs")

# %% [markdown]
# And BLiMP itself? It is not part of this project; `python evaluate.py --blimp` downloads it once into
# `corpora/`. If it is there, the next cell judges the first few pairs of every kind; if not, it says so.

# %%
shared = Path(os.environ.get("STENTOR_SHARED") or HOME)
places = [HOME / "corpora" / "blimp.jsonl.gz", shared / "eval" / "blimp.jsonl.gz"]
here = [file for file in places if file.is_file()]
if here:
    real = evaluate.blimp(model, words, here[0], limit=1 if FAST else 6)
    low, high = real["intervals"]["overall"]
    print(
        f"BLiMP, {real['pairs']} pairs of {len(real['paradigms'])} kinds: {100 * real['overall']:.1f}% "
        "right, "
        f"95% interval {100 * low:.0f}% to {100 * high:.0f}%"
    )
    ordered = sorted(real["phenomena"].items(), key=lambda item: -item[1])
    table(
        ("phenomenon", "% right"),
        [(name, f"{100 * share:.0f}") for name, share in ordered[:3] + ordered[-3:]],
    )
else:
    print("BLiMP is not on this machine; python evaluate.py --blimp fetches it. The pairs above are our own.")

# %% [markdown]
# ## Multiple choice, and a bias
#
# Most benchmarks are questions with several answers. The model chooses the answer with the highest
# probability. But the probability of a text is a *product* over its tokens, and each factor is below one: a
# long answer has a small probability only because it is long. So two scores are usual: `acc` by the sum of
# logarithms, and `acc_norm` by that sum divided by the number of characters of the answer (Gao et al. 2021,
# the harness known as lm-eval).
#
# We make questions with a right answer that is short, a wrong one that is as short, and two wrong ones that
# are longer. Then we compare how long the chosen answers are.

# %%
items = []
for number, (a, b) in enumerate(sums):
    thing = draw.choice(SORTS["GOODS"].values)
    choices = [f"{a + b}", f"{a + b - 1}", f"{a + b + 1} {thing}", f"{a} + {b} = {a + b + 2}."]
    order = [(number + i) % 4 for i in range(4)]
    items.append({"task": "sums", "kind": "question", "context": f"What is {a} + {b}?",
                  "choices": [choices[i] for i in order], "label": order.index(0)})
items_file = OUT / "12_items.jsonl"
items_file.write_text("".join(json.dumps(item) + "\n" for item in items))
scores = evaluate.multiple_choice(model, words, items_file)
for name in ("acc", "acc_norm"):
    low, high = evaluate.wilson_interval(scores[name], scores["items"])
    print(f"{name}: {scores[name] * scores['items']:.0f} of {scores['items']}, 95% interval {100 * low:.0f}% "
          f"to {100 * high:.0f}%; chance {100 * scores['chance']:.0f}%")

chosen = {"acc": [], "acc_norm": []}
for item in items:
    question = f"Question: {item['context']}\nAnswer:"
    asked, _ = evaluate.choice_queries(words, question, [" " + choice for choice in item["choices"]])
    log_p = evaluate.choice_scores(asked, evaluate.score(model, [asked])[0])
    lengths = [len(choice) for choice in item["choices"]]
    per_character = [value / length for value, length in zip(log_p, lengths)]
    chosen["acc"].append(lengths[log_p.index(max(log_p))])
    chosen["acc_norm"].append(lengths[per_character.index(max(per_character))])
for name, lengths in chosen.items():
    print(f"{name}: the chosen answers have {sum(lengths) / len(lengths):.1f} characters on average")

# %% [markdown]
# By the sum (`acc`) the model chooses shorter answers than by the sum per character (`acc_norm`): the
# *rule* matters as much as what the model knows. So a published score must say which rule it used. Chance
# is 25% here. A score whose interval contains chance shows nothing. A score far *below* chance, as here by
# the sum per character, is no hidden knowledge either: the rule prefers long answers, and the right ones
# are short. All intervals here are Wilson's. An example shows why: for 0 of 24 right answers his goes from
# 0% to 14%. The usual "± standard error" would give ± zero, as if the result were certain.
#
# ## What is published
#
# A published model is a folder. This is the one that the run wrote, `best/`. (The command `python train.py`
# also writes `README.md` into it, the model card. The small model of this lesson has none.)

# %%
assert scores["chance"] == 0.25 and scores["items"] == len(items)
assert [round(100 * end) for end in evaluate.wilson_interval(0 / 24, 24)] == [0, 14]
if not own and not FAST:
    assert sum(chosen["acc"]) < sum(chosen["acc_norm"])
    assert evaluate.wilson_interval(scores["acc_norm"], len(items))[1] < 0.25

purpose = {
    "config.json": "the shape: fields of ModelConfig under Llama's names",
    "model.safetensors": "the weights, names and numbers only; cannot run code",
    "generation_config.json": "ids that end a text",
    "tokenmonster.vocab": "the vocabulary",
    "tokenmonster_hf.py": "our tokenizer for transformers",
    "tokenizer_config.json": "which class reads the vocabulary",
    "README.md": "the model card, written from the run's own files",
    "SHA256SUMS": "a checksum of each file",
}
files = sorted(source.folder.iterdir())
rows = [(file.name, f"{file.stat().st_size:,}", purpose.get(file.name, "")) for file in files]
table(("file", "bytes", "what for"), rows)
settings = json.loads((source.folder / "config.json").read_text())
for name in ("model_type", "hidden_size", "num_hidden_layers", "num_key_value_heads", "eos_token_id"):
    print(f"{name}: {settings[name]}")

# %% [markdown]
# The names of the weights are those of Llama, so nothing has to be converted: programs that know Llama can
# read the file. To check this, read the folder with code that is not ours. The next cell loads it twice, with
# `model.py:Llama.from_pretrained` and, where the library transformers is installed, with its own Llama, and
# compares all logits.

# %%
again = Llama.from_pretrained(source.folder)
ids = torch.tensor([words.encode(english[:200], document=True)])
with torch.no_grad():
    ours = again(ids)
    assert torch.equal(ours, model(ids))
    print("read again by our own code: equal, bit for bit")
    parity = -1.0                                           # not measured
    if find_spec("transformers") and not FAST:
        transformers = importlib.import_module("transformers")
        theirs = transformers.LlamaForCausalLM.from_pretrained(source.folder)(ids).logits
        parity = float((ours - theirs).abs().max())
        print(
            f"read by transformers {transformers.__version__}: largest difference of any logit {parity:.1e}"
        )
        assert parity < 1e-3
    else:
        print(
            "transformers was not asked: not installed, or the fast form; tests/test_parity.py compares "
            "in full"
        )

# %% [markdown]
# ## Back to the question
#
# A number about a model is useful if it names the text, the unit, the rule and the uncertainty, and if others
# can compute it again from what was published. 12 of 20 shows nothing: in twenty throws of a fair coin,
# twelve or more heads come up in one of four tries.
#
# This ends the main part of the course: you have followed a token from a text file to a published folder. Go
# back to lesson 01 and read its table of shapes again. You should be able to explain every row now.

# %%
at_least_12 = sum(math.comb(20, heads) for heads in range(12, 21)) / 2**20
print(f"twelve or more of twenty by chance: {at_least_12:.3f}")
assert abs(at_least_12 - 1 / 4) < 0.01 and evaluate.wilson_interval(12 / 20, 20)[0] < 0.5
results = {
    "bits_per_byte_exercises": example["bits_per_byte"],
    "bits_per_byte_documentation": found["documentation"]["bits_per_byte"],
    "share_of_the_way_exercises": way["math"]["share"],
    "zlib_exercises": example["zlib"],
    "right_sum_share": judged["paradigms"]["right sum"],
    "verb_form_share": judged["paradigms"]["verb form"],
    "acc": scores["acc"],
    "acc_norm": scores["acc_norm"],
    "transformers_difference": parity,
}
finish("12_evaluate", results)

# %% [markdown]
# ## Exercises
#
# 1. Write twenty pairs of a fourth kind about something your model should have learned, add them to the file,
#    and give the interval. Then write twenty for something that it cannot know.
# 2. Write the cross-entropy, on which all numbers of this lesson are based, in
#    `lessons/exercises/cross_entropy.py` and run `pytest lessons/exercises/test_cross_entropy.py`.
# 3. Train with `python train.py --size tiny --out runs/mine` and read `runs/mine/best/README.md`, the card
#    that it wrote, as a stranger would. `python params.py --audit runs/mine` checks its numbers against the
#    files. Change one digit of the card by hand and run it again.
