# SPDX-License-Identifier: Apache-2.0
"""Tokenizing one text with many vocabularies, as fast as numpy can.

The trainer tokenizes its text hundreds of times, each time with another subset of the candidates. Two things
make that cheap:

- The longest candidate at each place of the text is looked up once. For a subset, the longest token at a
  place is the longest prefix of that candidate that is in the subset: one look-up in a table.
- The text is cut into thousands of lanes, and all lanes take their next token at the same time. Only places
  where a token begins are computed, a quarter of those of `FastEncoder`. The price: no token crosses a cut.
"""
from __future__ import annotations

from pathlib import Path

import numpy as np

from common import UserError, progress
from tokenizer import LONGEST_TOKEN, OPTION, FastEncoder, TokenMonster, Vocab
from tokenizing.candidates import candidates, letter_starts
from tokenizing.records import derive

MOST_CANDIDATES = 12  # for each token of the vocabulary
# The least share of the text that a candidate covers, as a part of an average token's share, 1/size. The
# weakest token of english-4096 has 0.3.
LEAST_SHARE = 0.1
LANES = 16384
SHORTEST_LANE = 100  # bytes


def write_tables(folder: Path, text: bytes, size: int, fixed: bytes) -> None:
    """Write what every round reads into `folder`: text, candidates, the longest candidate at each place.

    text.npy     uint8, with zeros after its end
    match.npy    int32: number of the longest candidate record at each place; the number of records for none
    space.npy    the same for a space followed by the text from here, where a letter begins (after a delete
                 token)
    parent.npy   int32: number of the longest record that is a proper prefix of this record
    """
    found = candidates(text, LEAST_SHARE / size * len(text))
    if len(found) < size - len(fixed):
        few = f"{len(text):,} bytes of text have {len(found):,} candidates, too few for {size:,} tokens"
        raise UserError(f"{few}: give more text or a smaller --vocab-size")
    largest = sorted(found, key=lambda piece: (-found[piece] * len(piece), piece))[:MOST_CANDIDATES * size]
    scores = {piece: found[piece] / len(text) for piece in largest}
    pool = derive(scores | {bytes([byte]): 0.0 for byte in fixed})
    monster = TokenMonster(pool)
    tables = FastEncoder(monster)
    data = np.frombuffer(text + bytes(2 * LONGEST_TOKEN + 2), dtype=np.uint8)
    letters = tables.letter_of[data]
    letters[len(text):] = 0
    match, space = np.full((2, len(data)), tables.none, dtype=np.int32)
    begins = np.flatnonzero(letter_starts(text))
    step = 1 << 20
    for start in progress(range(0, len(text), step), desc="looking up candidates"):
        places = np.arange(start, min(start + step, len(text)))
        match[places] = tables.longest(letters, places, tables.root)
        places = begins[(begins >= start) & (begins < start + step)]
        space[places] = tables.longest(letters, places, tables.space)
    parent = np.full(len(pool.records) + 1, tables.none, dtype=np.int32)
    for number, record in enumerate(pool.records):
        shorter = (monster.prefixes[record.token[:length]] for length in range(len(record.token) - 1, 0, -1))
        parent[number] = next((other for other in shorter if other >= 0), tables.none)
    for name, array in (("text", data), ("match", match), ("space", space), ("parent", parent)):
        np.save(folder / f"{name}.npy", array)
    (folder / "candidates.vocab").write_bytes(pool.to_bytes())


class Field:
    """The prepared text, and how a subset of the candidates tokenizes it."""

    def __init__(self, folder: Path):
        names = ("text", "match", "space", "parent")
        self.text, self.match, self.space, parent = [
            np.asarray(np.load(folder / f"{name}.npy", "r")) for name in names]
        records = Vocab.parse((folder / "candidates.vocab").read_bytes()).records
        self.tokens = [record.token for record in records if record.score != -1]
        self.numbers = {record.token: number for number, record in enumerate(records)}
        self.size = len(self.text) - 2 * LONGEST_TOKEN - 2
        text = self.text[:self.size]
        word_starts = (text[1:] == 0x20) & (text[:-1] != 0x20) & (text[:-1] != 0x7F)
        self.words = 1 + np.flatnonzero(word_starts)  # good places to cut
        # Records by length, because a prefix is in an earlier group.
        lengths = np.array([len(record.token) for record in records])
        groups = [np.flatnonzero(lengths == length) for length in range(2, LONGEST_TOKEN + 1)]
        self.levels = [(group, parent[group]) for group in groups]

    def lanes(self, share: float, rng: np.random.Generator) -> np.ndarray:
        """A random share of the text as lanes: int64 (lanes, 2), where each starts and ends."""
        length = max(SHORTEST_LANE, int(share * self.size / LANES))
        wanted = np.arange(length, self.size - length, length)
        cuts = wanted
        if len(self.words):
            cuts = self.words[np.minimum(np.searchsorted(self.words, wanted), len(self.words) - 1)]
        cuts = np.unique(np.concatenate([[0], cuts, [self.size]]))
        chosen = np.sort(rng.permutation(len(cuts) - 1)[:max(1, round(share * (len(cuts) - 1)))])
        return np.stack([cuts[:-1], cuts[1:]], axis=1)[chosen]

    def tokenize(self, chosen: np.ndarray, lanes: np.ndarray) -> tuple[np.ndarray, int]:
        """Tokenize the lanes with the candidates `chosen` (ascending numbers of `self.tokens`).

        Returns the bytes that each of them covered, int64 (chosen,), and the number of tokens plus one for
        each byte without a token.
        """
        vocab = derive(dict.fromkeys([self.tokens[number] for number in chosen], 0.0))
        tables = FastEncoder(TokenMonster(vocab))
        own = np.full(len(self.numbers) + 1, tables.none)  # candidate record -> record of this vocabulary
        own[[self.numbers[record.token] for record in vocab.records]] = np.arange(tables.none)
        for group, parent in self.levels:
            lost = own[group] == tables.none
            own[group[lost]] = own[parent[lost]]
        uses, deletes = walk(tables, own, self, lanes)
        covered = uses[0] * tables.length + uses[1] * (tables.length - 1)
        score = np.bincount(tables.id[:-1], weights=covered[:-1], minlength=len(chosen)).astype(np.int64)
        score[vocab.delete] += deletes
        return score, int(uses.sum()) + deletes


def walk(tables: FastEncoder, own: np.ndarray, field: Field, lanes: np.ndarray) -> tuple[np.ndarray, int]:
    """The encoder's loop (`TokenMonster.turns`) in all lanes at once: each turn emits a token in each lane.

    Returns how often each record was emitted, int64 (2, records + 1), in the second row those whose space
    is not in the text, and the number of delete tokens. The last record means a byte without a token.
    """
    text, match, space = field.text, field.match, field.space
    records = tables.none + 1
    shares = (tables.first, tables.second, tables.second_b)
    first_share, second_share, second_b_share = (np.concatenate(share) for share in shares)
    following = tables.following
    uses, deletes = np.zeros(2 * records, dtype=np.int64), 0
    place, stop = lanes[:, 0], lanes[:, 1]
    virtual = np.zeros(len(place), dtype=np.int64)
    while len(place):
        record = own[match[place]]
        after_delete = np.flatnonzero(virtual)
        record[after_delete] = own[space[place[after_delete]]]
        whole = place + tables.length[record] - virtual
        # No alternatives at a whole word before a space, the end of the text, a byte without a token.
        settled = tables.whole_word[record] & (following[text[whole]] == 2)
        settled |= (whole >= field.size) | (record == tables.none)
        open_ = np.flatnonzero(~settled)
        at, here, longest, away = place[open_], record[open_], whole[open_], virtual[open_]
        best = np.full(len(open_), 8 * tables.never)
        for number in range(3):
            first = tables.options[3 * here + number]
            middle = at + tables.length[first] - away
            second = own[match[middle]]
            reach = middle + tables.length[second]
            next_byte = following[text[reach]]
            first_score, ending = first_share[first + away * records], tables.ending[first] * records
            after = tables.after[tables.after_letter[second] + next_byte]
            score = first_score + second_share[ending + second] + after
            score -= (100 * (reach < longest) + 10000 * (reach == longest)) * (number > 0)
            best = np.maximum(best, 8 * score + 5 - number)
            # The b branch: the second token is the inside of a word, and with a space before it a longer
            # one would fit.
            inside = np.flatnonzero(tables.inside[second] & (next_byte == 1))
            second_b = own[space[middle[inside]]]
            gain = (second_b < tables.none) & (tables.length[second_b] > tables.length[second[inside]] + 1)
            inside, second_b = inside[gain], second_b[gain]
            reach = middle[inside] + tables.length[second_b] - 1
            after = tables.after[tables.after_letter[second_b] + following[text[reach]]]
            score = first_score[inside] + second_b_share[ending[inside] + second_b] + after
            score -= (100 * (reach < longest[inside]) + 10000 * (reach == longest[inside])) * (number > 0)
            best[inside] = np.maximum(best[inside], 8 * score + 2 - number)
        best[best < 4 * tables.never] = 5  # nothing can follow
        emitted, deleting = record, np.zeros(len(place), dtype=np.int64)
        emitted[open_] = tables.options[3 * here + OPTION[best & 7]]
        deleting[open_] = (best & 7) < 3
        uses += np.bincount(emitted + virtual * records, minlength=2 * records)
        deletes += int(deleting.sum())
        place = place + tables.length[emitted] - virtual
        going = place < stop
        place, stop, virtual = place[going], stop[going], deleting[going]
    return uses.reshape(2, records), deletes
