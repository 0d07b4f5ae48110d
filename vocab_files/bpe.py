# SPDX-License-Identifier: Apache-2.0
"""Byte-pair encodings behind the interface of `tokenizer.Tokenizer`.

Portimbria and the v1 models use one, Mistral's. The `tokenizers` library reads a `tokenizer.json`, the
`sentencepiece` library a `tokenizer.model`; both come with the extra `bpe`. A `tokenizer.json` whose tokens
are the 256 bytes needs no library. `tokenizer.load` returns a BPE for either file and for a model folder with
one of them.
"""
from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from common import UserError, atomic_write, optional_json, read_json
from vocab_files.tokenizer_files import configured_ids

LARGEST = 64 << 20  # bytes of a tokenizer file
EOS_NAMES = ("</s>", "<|endoftext|>", "<|end_of_text|>")
BOS_NAMES = ("<s>", "<|startoftext|>", "<|begin_of_text|>")


@functools.cache
def byte_alphabet() -> dict[str, int]:
    """The characters that mean bytes in a byte-level BPE (GPT-2).

    Printable Latin-1 means itself, U+0100 and up the other 68 bytes.
    """
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    shifted = {chr(0x100 + number): byte for number, byte in enumerate(others)}
    return {chr(byte): byte for byte in plain} | shifted


class FromJson:
    """A `tokenizer.json` through the `tokenizers` library."""

    def __init__(self, path: Path):
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise UserError(f"{path}: reading a BPE needs the tokenizers library: "
                            'pip install ".[bpe]"') from None
        try:
            self.inner = Tokenizer.from_str(path.read_text(encoding="utf-8"))
        except Exception as error:  # noqa: BLE001 (the library raises bare Exceptions)
            raise UserError(f"{path}: the tokenizers library cannot read it ({error})") from None
        self.inner.encode_special_tokens = True  # the name of a special token in a text is text
        self.size = max(self.inner.get_vocab(with_added_tokens=True).values()) + 1
        self.id_of, self.piece = self.inner.token_to_id, self.inner.id_to_token
        self.byte_level = "ByteLevel" in json.dumps(read_json(path, LARGEST).get("decoder"))

    def encode(self, text: str) -> list[int]:
        return self.inner.encode(text, add_special_tokens=False).ids

    def decode(self, ids: list[int]) -> str:
        return self.inner.decode(ids, skip_special_tokens=False)

    def encode_special(self, text: str) -> list[int]:
        """As `encode`, but the name of a special token in the text is that token."""
        return self.with_special.encode(text, add_special_tokens=False).ids

    @functools.cached_property
    def with_special(self) -> Any:
        """The same tokenizer as the library makes it: special names in a text are special tokens."""
        return type(self.inner).from_str(self.inner.to_str())

    def prefix(self) -> list[int]:
        """The special tokens that the file's post-processor adds before a text."""
        encoded = self.inner.encode("a")
        return encoded.ids[:encoded.special_tokens_mask.index(0)] if 0 in encoded.special_tokens_mask else []


class FromBytes:
    """A `tokenizer.json` whose token b is the byte b, as lessons/yours/one_file.py writes it. No library."""

    pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    file = {"version": "1.0", "added_tokens": [], "decoder": {"type": "ByteFallback"},
            "model": {"type": "BPE", "byte_fallback": True, "vocab": dict(zip(pieces, range(256))),
                      "merges": []}}
    byte_level, size = False, 256

    @classmethod
    def reads(cls, path: Path) -> bool:
        """Whether the file is exactly this tokenizer."""
        try:
            return json.loads(path.read_bytes()) == cls.file
        except ValueError:
            return False

    def id_of(self, piece: str) -> int | None:
        return self.pieces.index(piece) if piece in self.pieces else None

    def piece(self, id: int) -> str:
        return self.pieces[id]

    def encode(self, text: str) -> list[int]:
        return list(text.encode("utf-8"))

    encode_special = encode  # no token has a name

    def decode(self, ids: list[int]) -> str:
        return bytes(ids).decode("utf-8", "replace")


class FromModel:
    """A SentencePiece `tokenizer.model` through the `sentencepiece` library."""

    byte_level = False

    def __init__(self, path: Path):
        try:
            from sentencepiece import SentencePieceProcessor
        except ImportError:
            raise UserError(f"{path}: reading this file needs the sentencepiece library: "
                            'pip install ".[bpe]"') from None
        self.inner = SentencePieceProcessor()
        try:
            self.inner.LoadFromSerializedProto(path.read_bytes())
        except (RuntimeError, TypeError) as error:
            raise UserError(f"{path}: not a SentencePiece model ({error})") from None
        self.size = self.inner.get_piece_size()
        self.piece, self.encode, self.decode = self.inner.id_to_piece, self.inner.encode, self.inner.decode

    def id_of(self, piece: str) -> int | None:
        id = self.inner.piece_to_id(piece)
        return id if self.inner.id_to_piece(id) == piece else None


class BPE:
    """The tokenizer of a `tokenizer.json` or `tokenizer.model`, with the interface of `tokenizer.Tokenizer`.

    The special ids are those that the folder states (tokenizer_config.json, config.json), else the tokens
    of the usual names.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if self.path.stat().st_size > LARGEST:
            raise UserError(f"{path}: {self.path.stat().st_size} bytes; such a file has at most {LARGEST}")
        if self.path.suffix == ".json":
            self.library = FromBytes() if FromBytes.reads(self.path) else FromJson(self.path)
        else:
            self.library = FromModel(self.path)
        stated = configured_ids(self.path.parent)
        self.eos_id = stated.get("eos_id", self._special("eos", EOS_NAMES))
        self.bos_id = stated.get("bos_id", self._special("bos", BOS_NAMES))
        self.pad_id = stated.get("pad_id", self.eos_id)
        self.stop_ids = {self.eos_id, *stated.get("stop_ids", ())}
        self.vocab_size = stated.get("vocab_size", self.library.size)
        if self.eos_id is None:
            raise UserError(f"{path}: no end-of-text token; state eos_token_id in config.json beside it")
        ids = [*self.stop_ids, self.pad_id, self.bos_id or 0]
        if self.vocab_size < self.library.size or not all(0 <= id < self.vocab_size for id in ids):
            raise UserError(f"{path}: {self.library.size} tokens, which do not fit the folder's "
                            f"configuration {stated}")

    def _special(self, kind: str, names: tuple[str, ...]) -> int | None:
        """Id of the token that tokenizer_config.json names, else of the first known of `names`."""
        stated = optional_json(self.path.parent / "tokenizer_config.json").get(f"{kind}_token")
        stated = stated.get("content") if isinstance(stated, dict) else stated
        found = [self.library.id_of(name) for name in (stated, *names) if isinstance(name, str)]
        return next((id for id in found if id is not None), None)

    @functools.cached_property
    def prefix_ids(self) -> list[int]:
        """The ids that the folder's own tokenizer adds before a text, as in transformers: often [bos_id].

        A tokenizer.json has them in its post-processor, a tokenizer.model has "add_bos_token": true beside
        it. "add_bos_token": false turns both off; `save_pretrained` writes it, because our training adds
        nothing before a text.
        """
        stated = optional_json(self.path.parent / "tokenizer_config.json").get("add_bos_token")
        if stated is False:
            return []
        if isinstance(self.library, FromJson):
            return self.library.prefix()
        return [self.bos_id] if stated and self.bos_id is not None else []

    @functools.cached_property
    def fingerprint(self) -> str:
        """sha256 of the tokenizer file and the special ids."""
        special = json.dumps({"bos": self.bos_id, "eos": self.eos_id, "pad": self.pad_id})
        return hashlib.sha256(self.path.read_bytes() + special.encode()).hexdigest()

    def encode(self, text: str | bytes, document: bool = False) -> list[int]:
        """The ids of a text, without special ones.

        Bytes that are not UTF-8 become U+FFFD. `document=True` maps CRLF and CR to LF.
        """
        data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
        text = data.decode("utf-8", "replace")
        return self.library.encode(text.replace("\r\n", "\n").replace("\r", "\n") if document else text)

    def encode_many(self, texts: Sequence[str], document: bool = False) -> list[list[int]]:
        """The ids of each text."""
        return [self.encode(text, document) for text in texts]

    def decode(self, ids: Iterable[int], skip_special: bool = False) -> str:
        """The text of ids; ids past the vocabulary give nothing."""
        hidden = {*self.stop_ids, self.bos_id, self.pad_id} if skip_special else set()
        shown = [int(id) for id in ids if 0 <= id < self.library.size and id not in hidden]
        return self.library.decode(shown)

    def token_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of ids, with the space that SentencePiece puts at the beginning of a text."""
        return b"".join(self._bytes_of(int(id)) for id in ids)

    def _bytes_of(self, id: int) -> bytes:
        piece = self.library.piece(id) if 0 <= id < self.library.size else None
        if piece is None:
            return b""
        if self.library.byte_level:
            alphabet = byte_alphabet()
            known = set(piece) <= set(alphabet)
            return bytes(alphabet[character] for character in piece) if known else piece.encode()
        if re.fullmatch(r"<0x[0-9A-Fa-f]{2}>", piece):
            return bytes.fromhex(piece[3:5])
        return piece.replace("\u2581", " ").encode()

    def stream(self) -> Stream:
        """A decoder for ids that come one by one."""
        return Stream(self)

    def save_pretrained(self, folder: str | Path) -> None:
        """Copy the tokenizer's files into a model folder; write a tokenizer_config.json if there is none.

        "add_bos_token" becomes false there, because our training adds nothing before a text.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        names = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json")
        for name in sorted({self.path.name, *names}):
            if (self.path.parent / name).is_file():
                atomic_write(folder / name, (self.path.parent / name).read_bytes())
        target = folder / "tokenizer_config.json"
        if target.is_file():
            config = read_json(target)
        else:
            names = {f"{kind}_token": id if id is None else self.library.piece(id)
                     for kind, id in (("bos", self.bos_id), ("eos", self.eos_id), ("pad", self.pad_id))}
            config = {"tokenizer_class": "PreTrainedTokenizerFast", **names}
            config["clean_up_tokenization_spaces"] = False
        atomic_write(target, json.dumps(config | {"add_bos_token": False}, indent=2) + "\n")


class Stream:
    """Decodes ids one by one; the joined parts are the text, and no character is broken."""

    def __init__(self, tokenizer: BPE):
        self.tokenizer, self.ids, self.given = tokenizer, [], 0

    def feed(self, ids: Iterable[int]) -> str:
        """The text that these ids complete; an incomplete character at the end (U+FFFD) is held back."""
        self.ids += ids
        text = self.tokenizer.decode(self.ids).rstrip("\ufffd")
        new = text[self.given:]
        self.given = max(self.given, len(text))
        return new
