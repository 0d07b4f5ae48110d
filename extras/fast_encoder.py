# SPDX-License-Identifier: Apache-2.0
"""The TokenMonster encoder with numpy: all positions of a block at once, equal to the loop of
`tokenizer.TokenMonster.steps`.

The state of that loop is (start, virtual) alone. So the step from every state can be computed without knowing
which states the text visits, all in one numpy expression; at last a short Python loop hops from state to
state and collects the ids. Most of what is computed is never visited, and it is still ten times as fast as
computing only what is visited in Python.

    1. the longest record at every position, by walking one trie for all positions in step
    2. at every position, how good its longest record is as a second token
    3. at every position, the six branches; which token is emitted, and the state that follows
    4. the same for the few states after a delete token
    5. the hops

Blocks keep the memory bounded: what a state needs to see of the text ends 2 x 40 + 1 bytes after it.

A model folder carries what stands between the `fast` lines in `tokenmonster_hf.py`, after the core of
`tokenizer.py`.
"""
from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from tokenizer import BEGINS_LETTER, BEGINS_OTHER, BEGINS_SPACE, TokenMonster, normalize_pieces

# --- fast: begin
# Number of the alternative and whether a delete token follows, by the rank that `_block` keeps in the low
# three bits of a score: 5 for branch 1, then 4 and 3 for 2 and 3; 2, 1, 0 for 1b, 2b, 3b.
_NUMBER = np.array([2, 1, 0, 2, 1, 0])
_DELETING = np.array([1, 1, 1, 0, 0, 0])


class FastEncoder:
    """The records of a vocabulary as numpy tables, and the encoder that uses them.

    A last, empty record stands for "none". The score of a pair falls into three shares: of the first token;
    of the second token, in three variants by how the first one ends (with a letter, with DEL, or else); and
    of the byte after both.
    """

    def __init__(self, monster: TokenMonster):
        vocab, prefixes = monster.vocab, monster.prefixes
        none = len(vocab.records)
        rows = [(flag, words, len(token), id, none if alt1 is None else alt1, none if alt2 is None else alt2)
                for token, flag, words, alt1, alt2, id, _ in vocab.records]
        rows.append((0, 0, 1, -1 if vocab.unk is None else vocab.unk, none, none))
        flag, words, length, self.id, alt1, alt2 = np.ascontiguousarray(np.array(rows).T)
        bits = [flag >> bit & 1 for bit in range(8)]
        ends_letter, starts_letter, starts_space, ends_del, starts_del, whole_word, _, uniform = bits
        self.longest_token = monster.width
        self.delete = -1 if vocab.delete is None else vocab.delete
        self.none, self.never, self.length = none, -(1 << 20), length
        self.whole_word = whole_word > 0
        # may be the second token of a b branch
        self.inside = (starts_letter > 0) & (words == 0) & (vocab.delete is not None)
        # at 3 * record + number of the alternative
        self.options = np.stack([np.arange(none + 1), alt1, alt2], axis=1).ravel()
        self.ending = ends_letter + 2 * ends_del
        # by `virtual`
        self.first = [length - v + uniform + np.maximum(0, words - v - 1) + 100 * (words - v) for v in (0, 1)]
        plain = self.first[0] + starts_space
        # by `ending` of the first token
        self.second = [plain, plain - 103 * starts_letter, plain - 100 * starts_del]
        plain = self.first[0] - 2  # its space is not covered, and -1
        self.second_b = [plain, plain - 103, plain - 100 * starts_del]
        for table in self.first + self.second + self.second_b:
            table[none] = self.never
        self.following = np.array(
            [{BEGINS_LETTER: 1, BEGINS_SPACE: 2, BEGINS_OTHER: 3}.get(value, 0) for value in vocab.begin]
        )
        self.after = np.array([0, 0, 101, 100, 0, -3, 101, 100])  # by `following`, + 4 after a letter
        self.after_letter = 4 * ends_letter
        self._plant(prefixes)

    def _plant(self, prefixes: dict[bytes, int]) -> None:
        """The trie of all beginnings of tokens: node + letter -> next node, where a node is the place of its
        row in the table.

        Row 0 is the dead end, row 1 the root. A beginning has a later row than its own beginnings. Letters
        number the bytes that occur.
        """
        used = sorted({prefix[-1] for prefix in prefixes})
        self.row = len(used) + 1
        self.letter_of = np.zeros(256, dtype=np.int64)
        self.letter_of[used] = np.arange(1, self.row)
        node = {prefix: number * self.row for number, prefix in enumerate([b"", *prefixes], 1)}
        self.root, self.space = node[b""], node.get(b" ", 0)
        self.trie = np.zeros((len(node) + 1) * self.row, dtype=np.int64)
        parents = np.array([node[prefix[:-1]] for prefix in prefixes])
        self.trie[parents + self.letter_of[[prefix[-1] for prefix in prefixes]]] = list(node.values())[1:]
        best = {b"": self.none}
        for prefix, number in prefixes.items():
            best[prefix] = number if number >= 0 else best[prefix[:-1]]
        self.best = np.array([self.none, *best.values()])  # the longest record on the way to a node

    def longest(self, letters: np.ndarray, place: np.ndarray, node: int) -> np.ndarray:
        """Number of the longest record at each of `place`, walking from `node` for all of them in step."""
        deepest = np.full(len(place), node)
        nodes, here, result = deepest, np.arange(len(place)), deepest.copy()
        while len(here):
            nodes = self.trie[nodes + letters[place]]
            deepest = np.maximum(deepest, nodes)  # a dead end is 0
            place = place + 1
            alive = nodes > 0
            if 2 * np.count_nonzero(alive) <= len(alive):  # now it pays to leave the others behind
                result[here] = deepest
                nodes, deepest, here, place = nodes[alive], deepest[alive], here[alive], place[alive]
        return self.best[result // self.row]

    def _block(
        self, data: bytes, size: int, virtual: int, last: bool
    ) -> tuple[np.ndarray, np.ndarray, int, int]:
        """Encode the first `size` bytes of `data`. The rest of it is for the look-ahead; the `last` block has
        none.

        Returns ids, where each starts, and the state (start, virtual) from which the next block goes on.
        """
        count = size + self.longest_token + 1  # places where a second token may begin
        data = np.frombuffer(data.ljust(count + self.longest_token + 1, b"\0"), dtype=np.uint8)
        end = size if last else len(data)
        letters, following = self.letter_of[data], self.following[data]
        letters[end:] = 0  # no token goes past the end
        # The second token at every place: as it stands (0), and with a space before it that is not in the
        # text (1).
        place = np.arange(count)
        second = np.full((2, count), self.none)
        second[0] = self.longest(letters, place, self.root)
        inside = np.flatnonzero(self.inside[second[0]] & (following[place + self.length[second[0]]] == 1))
        found = self.longest(letters, inside, self.space)
        longer = self.length[found] > self.length[second[0, inside]] + 1
        second[1, inside[longer]] = found[longer]
        # Where it ends, and its share of the score together with that of the byte after it; three variants,
        # one after the other.
        stop = place + self.length[second] - [[0], [1]]
        after = self.after[self.after_letter[second] + following[stop]]
        variants = (self.second, self.second_b)
        shares = [np.concatenate([table[second[b]] + after[b] for table in variants[b]]) for b in (0, 1)]
        # by state, numbered 2 * start + virtual
        ids, deletes, follow = np.zeros((3, 2 * size), dtype=np.int64)

        def turn(start: np.ndarray, record: np.ndarray, virtual: int) -> None:
            """One turn of the loop at each of `start`, with these candidates: what is emitted, and which
            state follows.
            """
            whole = start + self.length[record] - virtual
            best = np.full(len(start), 8 * self.never)
            for number in range(3):
                first = self.options[3 * record + number]
                middle = start + self.length[first] - virtual
                variant = count * self.ending[first] + middle
                for b in (0, 1):
                    score = self.first[virtual][first] + shares[b][variant]
                    if number:
                        reach = stop[b][middle]
                        score -= 100 * (reach < whole) + 10000 * (reach == whole)
                    best = np.maximum(best, 8 * score + 5 - number - 3 * b)
            settled = (
                (whole >= end) | self.whole_word[record] & (following[whole] == 2) | (best < 4 * self.never)
            )
            best[settled] = 5
            number, deleting = _NUMBER[best & 7], _DELETING[best & 7]
            first = self.options[3 * record + number]
            state = 2 * start + virtual
            ids[state] = self.id[first]
            deletes[state] = deleting
            follow[state] = 2 * (start + self.length[first] - virtual) + deleting

        turn(place[:size], second[0, :size], 0)
        known = np.zeros(2 * size, dtype=bool)
        wanted = np.append(follow[::2], virtual)
        # states after a delete token
        while len(wanted := np.unique(wanted[(wanted % 2 == 1) & (wanted < 2 * size)])):
            wanted = wanted[~known[wanted]]
            known[wanted] = True
            turn(wanted // 2, second[1, wanted // 2], 1)
            wanted = follow[wanted]
        path, state, next_state = [], virtual, follow.tolist()
        while state < 2 * size:
            path.append(state)
            state = next_state[state]
        path = np.array(path)
        ids = np.stack([ids[path], np.where(deletes[path], self.delete, -1)], axis=1).ravel()
        return ids[ids >= 0], np.repeat(path // 2, 2)[ids >= 0], state // 2, state % 2

    def encode_normalized(
        self, pieces: Iterable[bytes], size: int = 1 << 15
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Arrays (ids, starts) of the pieces of a text's D, `size` positions at a time; a token starts at
        this byte of D.

        A token covers D up to the next one's start; a delete token that was put in covers nothing and has the
        start of the token before it.
        """
        held, done, virtual = b"", 0, 0
        need = size + 2 * self.longest_token + 2
        for piece in pieces:
            held += piece
            while len(held) >= need:
                ids, starts, used, virtual = self._block(held[:need], size, virtual, last=False)
                yield ids, starts + done
                held, done = held[used:], done + used
        if held:
            ids, starts, _, _ = self._block(held, len(held), virtual, last=True)
            yield ids, starts + done

    def encode_blocks(
        self, text: str | bytes, document: bool = False, size: int = 1 << 15
    ) -> Iterator[np.ndarray]:
        """The ids of a text of any length in int64 arrays; memory does not grow with the text."""
        for ids, _ in self.encode_normalized(normalize_pieces(text, document), size):
            yield ids

    def encode(self, text: str | bytes, document: bool = False) -> list[int]:
        """The ids of a text."""
        return [id for ids in self.encode_blocks(text, document) for id in ids.tolist()]
# --- fast: end
