# SPDX-License-Identifier: Apache-2.0
# Read this lesson as a page or notebook: `python lessons/build.py 02` writes both to lessons/built/.

# %% [markdown]
# # 2. Text to tokens
#
# **Question.** A model computes with numbers. Which numbers stand for a text, who decides that, and what does
# a good choice buy?
#
# **Prediction.** Below is a paragraph of plain English, 244 characters long. Our vocabulary has 4,096 tokens.
# Into how many tokens will the paragraph be cut? Write a number down before you run the cell.

# %%
import sys
from pathlib import Path

place = Path(globals().get("__file__", "lesson.py")).resolve()         # a notebook has no __file__
sys.path.insert(0, str(next(folder for folder in place.parents if (folder / "model.py").is_file())))

import itertools
import math
import re
import shutil
from collections import Counter

from lessons.tools import FAST, OUT, draw_shapes, finish, save_figure, table
import matplotlib.pyplot as plt

from corpus.builtin import builtin_documents
import tokenizer
from tokenizing.view import explain, visible
from tokenizing.trainer import train_vocab

TEXT = (
    "A tokenizer cuts a text into pieces. Each piece stands in a list, the vocabulary, and its place in that "
    "list is a number. The model never sees letters: it sees those numbers, one after another, and it learns "
    "which of them tends to follow which."
)
words = tokenizer.load()
assert len(TEXT) == 244 and words.vocab_size == 4096

# %% [markdown]
# ## Three ways to make numbers
#
# A computer stores text as **bytes**, numbers from 0 to 255. English letters take one byte each, other
# characters up to four (the encoding is called `UTF-8`). So bytes are numbers already, and could be given
# to the model as they are: a vocabulary of 256. But then a text is long, and a longer text is more work for
# the model (lesson 07 counts it). The other extreme is one number for each *word*. Then texts are short,
# but there are millions of words, and tomorrow someone will invent one more.
#
# A **tokenizer** is the compromise: a frequent word is one token, a rare word is put together from parts. We
# count all three ways. (A vocabulary of bytes needs no training: it is a list of all 256.)

# %%
byte_list = range(256)
assert (min(byte_list), max(byte_list), len(bytes(byte_list))) == (0, 255, 256)
ids = words.encode(TEXT)
table(["cut into", "size of the list", "pieces of this text"], [
    ["bytes", "256", len(TEXT.encode())],
    ["tokens of our vocabulary", f"{words.vocab_size}", len(ids)],
    ["words", "no limit", len(TEXT.split())]])
print("the first ids:", ids[:12])
print("as pieces:", " | ".join(visible(words.table[token]) for token in ids[:24]))
assert words.decode(ids) == TEXT

# %% [markdown]
# 73 tokens, so one token is 3.3 characters on average. And `tokenizer.py:TokenMonster.decode` gives the text
# back.
#
# Look at the pieces. A dot · is a space: words carry the space *before* them, so that "text" in the middle of
# a sentence is always the same token. The sign ⌫ is more surprising. It appears where a word or a part of a
# word has *no* space before it.
#
# ## The marker
#
# TokenMonster, the tokenizer of these models, first rewrites the text so that *every* word begins with a
# space. Where the text has none, it writes the marker ⌫ (the byte 127, "delete") and a space: "a space that
# is to be deleted". So in `cat`, ` cat` and `(cat` the word looks the same, `·cat`, and one piece can serve
# all three. (Our vocabulary has no `·cat` but `⌫·cat`. So the encoder writes ` cat` as a space, which is a
# piece of its own, and `⌫·cat`.) The rules are in `tokenizer.py:needs_marker`, the rewriting is in
# `tokenizer.py:normalize`. It also splits accents from letters (Unicode calls this form NFD), so that é
# shares the token of e. Look at the examples below: a letter after an apostrophe inside a word (`don't`)
# gets no marker; a number after a letter (`a1`) does.

# %%
assert len(ids) == 73 and round(len(TEXT) / len(ids), 1) == 3.3 and tokenizer.DEL == 127
for text in ("cat", "a cat", "(cat", "don't", "a1", "1 + 2 = 3", "café"):
    pieces = [visible(words.table[token]) for token in words.encode(text)]
    print(f"{text:10} becomes {visible(tokenizer.normalize(text)):14} and then {' | '.join(pieces)}")
assert tokenizer.normalize("(cat") == b"(\x7f cat"
assert tokenizer.normalize("a cat") == b"\x7f a cat"

# %% [markdown]
# Decoding is simple: join the bytes of all tokens, and drop each ⌫ together with the byte after it. We write
# this sentence as a program and compare. The drawing shows both directions.

# %%
def naive_decode(ids):
    """Join the bytes, drop each marker with what follows it, read the rest as UTF-8."""
    joined = b"".join(words.table[token] for token in ids)
    kept = bytearray()
    place = 0
    while place < len(joined):
        if joined[place] == tokenizer.DEL:
            place += 2
        else:
            kept.append(joined[place])
            place += 1
    return kept.decode("utf-8", "replace")


assert naive_decode(ids) == words.decode(ids) == TEXT
print("the same text back:", naive_decode(ids)[:36], "...")
draw_shapes("02_shapes", {
    "text": (0, 0), "normalized": (1.8, 0), "pieces": (3.8, 0), "ids": (3.8, 1), "joined bytes": (1.8, 1),
    "text again": (0, 1)}, [
    ("text", "normalized", f"{len(TEXT)} characters"),
    ("normalized", "pieces", f"{len(tokenizer.normalize(TEXT))} bytes with ⌫"),
    ("pieces", "ids", f"{len(ids)} pieces"), ("ids", "joined bytes", f"{len(ids)} ids"),
    ("joined bytes", "text again", "without ⌫ and its space")])

# %% [markdown]
# ## What the vocabulary lacks
#
# Can every text be encoded? Only if every single byte is a token too. Here it is not: the list has 4,096
# places, and none is used for a byte that its training text did not contain. Bytes without a token are lost,
# and `tokenizer.py:lost_characters` counts the characters that do not come back.

# %%
assert words.vocab_size == 4096 and len(words.single_bytes) < 256
foreign = {}
for text in ("naïve café", "Straße", "Привет", "日本"):
    foreign[text] = tokenizer.lost_characters(words, text)
    print(f"{text:11} comes back as {words.decode(words.encode(text)):11} lost characters: {foreign[text]}")
print(len(words.single_bytes), "of 256 bytes are tokens themselves")

# %% [markdown]
# The French words come back, the German one loses a letter, and Russian and Japanese are lost completely (�
# is the sign for bytes that are not text). This vocabulary is for English and for programs. So count what is
# lost before you use a vocabulary for another language: few tokens can also mean that much was dropped.
#
# ## Greedy, and one step further
#
# How are pieces chosen? The simple way is **greedy**: at each place take the longest token that fits, then
# continue after it. `tokenizer.py:TokenMonster.longest` finds that token. The problem: after a long token,
# the rest of the word may fit no good token.
#
# TokenMonster is **ungreedy**. It tries the longest token and two shorter ones, each together with the
# longest token that could follow, gives every pair a score, and takes the first token of the best pair. The
# score counts bytes, but above all *complete words*, a hundred points each. The loop is
# `tokenizer.py:TokenMonster.turns`, the scores `tokenizer.py:TokenMonster.weigh`. Let us watch it on one
# word.

# %%
assert foreign == {"naïve café": 0, "Straße": 1, "Привет": 6, "日本": 2}


def greedy_ids(text):
    """The longest token at each place."""
    normal = tokenizer.normalize(text)
    found, place = [], 0
    while place < len(normal):
        record = words.vocab.records[words.longest(normal, place, len(normal))]
        found.append(record.id)
        place += len(record.token)
    return found


print("\n".join(explain(words, "otherwise")))
rows = []
for text in ("otherwise", "understanding", "considerations", "it is everywhere"):
    both = [
        [visible(words.table[token]) for token in pieces] for pieces in (greedy_ids(text), words.encode(text))
    ]
    rows.append([text, " | ".join(both[0]), " | ".join(both[1])])
    assert naive_decode(greedy_ids(text)) == text
table(["text", "greedy", "ungreedy"], rows)

# %% [markdown]
# "otherwise" is in the vocabulary, as `·otherwise`. Greedy never finds it: at the beginning of a text the
# longest token that fits is `⌫·ot`, and then the word is broken, in 5 pieces. Ungreedy sees that the shorter
# ⌫ alone leads to a complete word: 2 pieces. Both ways decode to the same text.
#
# One word proves nothing. So we count in forty documents of each kind of our corpus: tales, programs and
# exercises in arithmetic, all written by a program. We count the tokens, and also the *unbroken* words: words
# of two or more letters that lie in one token.

# %%
assert len(greedy_ids("otherwise")) == 5 and len(words.encode("otherwise")) == 2


def count_unbroken(ids, pattern="[A-Za-z]{2,}"):
    """(words of two or more letters, those of them that lie in one token)."""
    stream = words.stream()                                 # decodes one token after the other
    borders = list(itertools.accumulate(len(stream.feed([token])) for token in ids))
    found = list(re.finditer(pattern, words.decode(ids)))
    return len(found), sum(not any(word.start() < place < word.end() for place in borders) for word in found)


documents = {kind: list(itertools.islice(builtin_documents(kind), 40)) for kind in ("web", "code", "math")}
counted = {}
for kind, texts in documents.items():
    for way, cut in (("greedy", greedy_ids), ("ungreedy", words.encode)):
        cuts = [cut(text) for text in texts]
        both = [count_unbroken(ids_of_text) for ids_of_text in cuts]
        counted[kind, way] = (
            sum(map(len, cuts)), sum(unbroken for _, unbroken in both), sum(found for found, _ in both)
        )
names = {"web": "tales", "code": "programs", "math": "exercises"}
table(["40 documents", "way", "tokens", "unbroken words", "of"],
      [[names[kind], way, *numbers] for (kind, way), numbers in counted.items()])
tales = documents["web"]
no_space = "(?<![ A-Za-z])[A-Za-z]{2,}"                     # a word with neither space nor letter before it
attached = {way: [sum(numbers) for numbers in zip(*(count_unbroken(cut(text), no_space) for text in tales))]
            for way, cut in (("greedy", greedy_ids), ("ungreedy", words.encode))}
print("words in tales without a space before them (all, unbroken):", attached)

# %% [markdown]
# What look-ahead buys depends on the text. Programs become 6% shorter, and nearly all of their words stay in
# one piece; tales gain less in length. The exercises gain almost nothing: the same number of tokens and 3
# more unbroken words. In the tales, words without a space before them (the first of a text, or after a
# quotation mark) gain most. For these the longest token is often `⌫` with the first letters of some other
# word: of 128 such words greedy leaves 65 unbroken, ungreedy 125. A word in one piece is always the same
# token, so the model has to learn its meaning only once.
#
# The plain loop is slow, as Python is. `tokenizer.py:Tokenizer.encode` uses it for short texts. For longer
# ones it uses a second version, which computes all places at once with numpy. The next cell checks that both
# give the same ids.

# %%
saved = {kind: 1 - counted[kind, "ungreedy"][0] / counted[kind, "greedy"][0] for kind in documents}
assert round(saved["code"], 2) == 0.06 and 0 < saved["web"] < saved["code"] and saved["math"] == 0
gained = {kind: counted[kind, "ungreedy"][1] - counted[kind, "greedy"][1] for kind in documents}
assert gained["web"] > 0 and gained["code"] > 0 and gained["math"] == 3
assert counted["code", "ungreedy"][1] > 0.98 * counted["code", "ungreedy"][2]         # measured: 638 of 643
assert attached == {"greedy": [128, 65], "ungreedy": [128, 125]}
assert all(words.fast.encode(text) == words.encode_plain(text) for text in [TEXT, *tales])
print(f"{len(tales) + 1} texts, the same ids from both encoders")

# %% [markdown]
# ## What a larger vocabulary buys
#
# A larger list has longer pieces, so a text takes fewer tokens, and the model does less work for it. But each
# token needs its own row of parameters in the model, and a rare token is seen too seldom to be learned. Which
# tokens should be in the list?
#
# The best known answer is **BPE**, byte-pair encoding (Sennrich et al. 2016, section 3.2): begin with single
# characters, join the pair of neighbours that occurs most often, and repeat. Beside its name and its
# docstring it takes ten lines.

# %%
def join_pairs(text, merges):
    """The pieces of a text after `merges` joins, each of the pair that is most frequent then."""
    pieces = list(text)
    for _ in range(merges):
        counts = Counter(zip(pieces, pieces[1:]))
        best = max(counts, key=counts.get)                  # the most frequent pair of neighbours
        joined = pieces[:1]
        for piece in pieces[1:]:
            fits = (joined[-1], piece) == best
            joined[-1:] = ["".join(best)] if fits else [joined[-1], piece]  # joins it, or adds it
        pieces = joined
    return pieces


sample = " ".join(tales[:5])
for merges in (0, 50, 200):
    pieces = join_pairs(sample, merges)
    print(f"{merges:3} joins: {len(pieces)} pieces:", " | ".join(pieces[:14]))
    assert "".join(pieces) == sample
assert len(join_pairs(sample, 200)) < len(join_pairs(sample, 50)) < len(sample)

# %% [markdown]
# The trainer of this project works in the other direction. `tokenizing/trainer.py:train_vocab` starts with
# all pieces that occur often and encodes the text with many random selections of them. In each round it
# throws out the pieces that helped least.
#
# We train small vocabularies on other tales of our corpus and cut the forty tales with each.

# %%
folder = OUT / "02_vocabularies"
shutil.rmtree(folder, ignore_errors=True)
folder.mkdir(parents=True)
lines = list(itertools.islice(builtin_documents("web"), 1000, 1060 if FAST else 1250))
(folder / "text.txt").write_text("\n".join(lines), encoding="utf-8")
total = sum(len(text.encode()) for text in tales)
curve = [(256, 1.0)]
for size in ((400,) if FAST else (400, 1000)):
    train_vocab([str(folder / "text.txt")], folder / f"{size}.vocab", size=size, seed=2)
    small = tokenizer.load(folder / f"{size}.vocab")
    curve.append((size, total / sum(len(small.encode(text)) for text in tales)))
curve.append((4096, total / sum(len(words.encode(text)) for text in tales)))
table(["vocabulary", "bytes per token"], [[size, f"{ratio:.2f}"] for size, ratio in curve])
figure, axes = plt.subplots()
axes.semilogx(*zip(*curve[:-1]), "o-", label="trained here, on tales only")
axes.semilogx(*zip(curve[-1]), "s", label="the built-in one, made for prose, code and exercises")
axes.set(xlabel="tokens in the vocabulary", ylabel="bytes per token", title="A larger list, a shorter text")
axes.legend()
save_figure(figure, "02_compression")

# %% [markdown]
# From 256 bytes to 400 tokens the text becomes less than half as long; after that each further token buys
# less. And look at the square: the built-in vocabulary with 4,096 tokens cuts the tales into pieces of 3.79
# bytes on average. The vocabulary of 1,000 tokens that was trained on tales only makes longer pieces with a
# quarter of the tokens. Most tokens of the built-in one are for other English prose and for programs. So
# whoever makes a vocabulary decides which texts become short.
#
# ## Why the loss of two tokenizers cannot be compared
#
# The loss of lesson 01 is a mean *per token*. With longer tokens each guess is harder (more is guessed at
# once) and there are fewer of them. Dividing by something that no tokenizer can change, the bytes of the
# text, makes the comparison fair: **bits per byte**.
#
# ```text
# bits per byte = loss · tokens / ( bytes · ln 2 )
# ```
#
# (A bit is the same measure of surprise with the logarithm of base 2; dividing nats by ln 2 gives bits.)
# Take models that know nothing: all tokens equally likely, so the loss is ln V.

# %%
assert curve[0] == (256, 1.0) and curve[1][0] == 400 and curve[1][1] > 2
assert curve[-1][0] == 4096 and round(curve[-1][1], 2) == 3.79
if not FAST:
    assert curve[-2][0] == 1000 and curve[-2][1] > curve[-1][1]
rows = []
for name, size, count in (("bytes", 256, len(TEXT)), ("our vocabulary", 4096, len(ids))):
    loss = math.log(size)
    rows.append([name, f"{loss:.2f}", count, f"{loss * count / (len(TEXT) * math.log(2)):.2f}"])
table(["tokenizer", "loss per token", "tokens", "bits per byte"], rows)

# %% [markdown]
# By loss per token the byte model looks better, 5.55 against 8.32. But it needs 8.00 bits for every byte and
# the other one 3.59, before either has learned anything. To know which pieces are frequent is knowledge, and
# the vocabulary contains it.
#
# ## The separator
#
# One more thing for the next lesson. A model reads many documents in a row and must know where one ends. One
# id is reserved for that, the **separator** (also called EOS, "end of sequence"). It is the token of the
# character CR (carriage return), which cleaned text never contains. Training encodes with `document=True`,
# which replaces every CR of a text by a line feed. So no text can contain a false end.

# %%
assert [float(row[1]) for row in rows] == [5.55, 8.32]
assert float(rows[0][3]) == 8.00 and float(rows[1][3]) == 3.59
print("the separator has id", words.eos_id, "and is", visible(words.table[words.eos_id]))
tricky = "One line.\r\nAnother line."
print("exact:      ", words.encode(tricky).count(words.eos_id), "separator in the ids")
print("as document:", words.encode(tricky, document=True).count(words.eos_id))
assert words.decode(words.encode(tricky)) == tricky
assert words.encode(tricky, document=True).count(words.eos_id) == 0

# %% [markdown]
# ## Back to the question
#
# A text becomes a row of ids: the places of its pieces in the vocabulary. The pieces were chosen by training
# on text, so that frequent things take few tokens; the encoder prefers cuts that keep words in one piece. The
# paragraph of the prediction became 73 tokens. Did you think of one per word? There are 46 words; the
# vocabulary is small, and "vocabulary" is not in it.

# %%
assert len(ids) == 73 and len(TEXT.split()) == 46 and len(words.encode(" vocabulary")) > 1
results = {"tokens_of_the_paragraph": len(ids), "bytes_per_token_400": curve[1][1],
           "bytes_per_token_4096": curve[-1][1], "bits_per_byte_knowing_nothing": float(rows[1][3])}
finish("02_tokens", results)

# %% [markdown]
# ## Exercises
#
# 1. Write the ungreedy step in `lessons/exercises/ungreedy.py` and run `pytest
#    lessons/exercises/test_ungreedy.py`.
# 2. Encode a paragraph in another language that you know, and one of Python code. How many characters are
#    lost (`tokenizer.lost_characters`)? How many bytes of what is left does a token stand for? Which tokens
#    does the vocabulary lack?
# 3. How many of the ids are used in the forty tales? `len(set(...))`. What does that say about a model that
#    is trained on nothing but these?
