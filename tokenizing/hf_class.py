# SPDX-License-Identifier: Apache-2.0
"""The Hugging Face tokenizer class that is copied into a model folder.

`vocab_files/tokenizer_files.py` reads this file as text: the core of `tokenizer.py` and the code between the
two `wrapper` lines are the folder's `tokenmonster_hf.py`. That file imports only the standard library, numpy
and transformers, because transformers checks all imports of such a file before it runs it, even those inside
functions.
"""
from __future__ import annotations

from tokenizer import SHORT, FastEncoder, TokenMonster, Vocab

# --- wrapper: begin
import os

from transformers import PreTrainedTokenizer


class TokenMonsterTokenizer(PreTrainedTokenizer):
    """A TokenMonster vocabulary as a transformers tokenizer (4.5x and 5.x).

    A token's string is its bytes read as Latin-1, so every id has its own string, even part of a character.
    Special tokens have names in this class only. As everywhere in transformers, such a name in a text is the
    special token; `split_special_tokens=True` makes it text. Tokens can be added with `add_tokens`.
    """

    vocab_files_names = {"vocab_file": "tokenmonster.vocab"}
    model_input_names = ["input_ids", "attention_mask"]

    def __init__(self, vocab_file: str | None = None, **kwargs):
        if vocab_file is None:
            raise ValueError("no vocab_file: the model folder must hold tokenmonster.vocab")
        with open(vocab_file, "rb") as file:
            vocab = Vocab.parse(file.read())
        self.engine = TokenMonster(vocab)
        self.fast = FastEncoder(self.engine)
        # A duplicate record is for matching and decoding; the string of an id comes from its plain record.
        plain = [record for record in vocab.records if record.score != -1]
        self.strings = {record.id: record.token.decode("latin-1") for record in plain}
        self.ids = {string: id for id, string in self.strings.items()}
        super().__init__(vocab_file=vocab_file, **kwargs)  # last, because it asks for get_vocab()

    @property
    def vocab_size(self) -> int:
        """Number of ids of the vocabulary file, without special tokens and rows that pad the embedding."""
        return self.engine.vocab.size

    def get_vocab(self) -> dict[str, int]:
        """String -> id. A special token's id is listed under its name only, so each id is counted once."""
        special = self._added_tokens_decoder
        ordinary = {string: id for string, id in self.ids.items() if id not in special}
        return {**ordinary, **self._added_tokens_encoder}

    def _tokenize(self, text: str, **kwargs) -> list[str]:
        # document=True, as in training: CR becomes LF, because the id of CR may be the document separator.
        encode = self.engine.encode_plain if len(text) < SHORT else self.fast.encode
        ids = encode(text, document=True)
        return [self.strings[id] for id in ids]

    def _convert_token_to_id(self, token: str) -> int | None:
        return self.ids.get(token)

    def _convert_id_to_token(self, index: int) -> str:
        return self.strings.get(index, "")  # rows that only pad the embedding have no string

    def _decode(self, token_ids: int | list[int], skip_special_tokens: bool = False, **kwargs) -> str:
        """The text of ids.

        All bytes between two special tokens are joined first: a token may delete a later token's space.
        """
        hidden = set(self.all_special_ids) if skip_special_tokens else set()
        parts, run = [], []
        for id in [token_ids] if isinstance(token_ids, int) else token_ids:
            if id in hidden:
                continue
            if id in self._added_tokens_decoder:
                parts += [self.engine.decode(run), self._added_tokens_decoder[id].content]
                run = []
            else:
                run.append(id)
        return "".join(parts) + self.engine.decode(run)

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return self._decode([id for id in self.convert_tokens_to_ids(tokens) if id is not None])

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str]:
        name = self.vocab_files_names["vocab_file"]
        path = os.path.join(save_directory, f"{filename_prefix}-{name}" if filename_prefix else name)
        with open(path, "wb") as file:
            file.write(self.engine.vocab.to_bytes())
        return (path,)
# --- wrapper: end
