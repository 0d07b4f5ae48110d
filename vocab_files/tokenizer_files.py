# SPDX-License-Identifier: Apache-2.0
"""The tokenizer's files in a model folder, as transformers, lm-eval and vLLM expect them.

    tokenmonster_hf.py      the core of tokenizer.py and the class of tokenizing/hf_class.py, in one file
    tokenmonster.vocab      the vocabulary, byte for byte
    tokenizer_config.json   which class to load, the special tokens' names and ids, the chat template

`Tokenizer.save_pretrained` calls `write_tokenizer_files`; `tokenizer.load` reads the special ids back with
`configured_ids`. Writing a folder does not need transformers, only reading one with it.
"""
from __future__ import annotations

import json
import operator
from pathlib import Path
from typing import Any

from common import ROOT, UserError, atomic_write, optional_json

VOCAB_FILE = "tokenmonster.vocab"  # its name in a model folder
MODULE = "tokenmonster_hf"
EOS, BOS, PAD = "<|endoftext|>", "<|startoftext|>", "<|padding|>"

# The template of the Stentor2 line: each message's role between <| and |>, then its content; at the end the
# assistant's tag. The tags are text, not special tokens. The models were not trained on dialogue: the
# template is there for tools that require one.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

HEAD = '''# SPDX-License-Identifier: Apache-2.0
"""The TokenMonster tokenizer of this model folder, for transformers.

    AutoTokenizer.from_pretrained(FOLDER, trust_remote_code=True)

Made by stentor-from-scratch from its tokenizer.py and tokenizing/hf_class.py. It needs transformers and
numpy, no network and no server.
"""
from __future__ import annotations

'''


def between(path: Path, name: str) -> str:
    """The lines of a source file between `# --- NAME: begin` and `# --- NAME: end`."""
    text = path.read_text(encoding="utf-8")
    begin, end = f"# --- {name}: begin\n", f"# --- {name}: end\n"
    return text.split(begin)[1].split(end)[0]


def module_text() -> str:
    """The source of `tokenmonster_hf.py`."""
    core = between(ROOT / "tokenizer.py", "core")
    wrapper = between(ROOT / "tokenizing" / "hf_class.py", "wrapper")
    return "\n\n".join([HEAD + core, wrapper])


def tokenizer_config(eos_id: int, bos_id: int | None, pad_id: int, rows: int | None,
                     model_max_length: int | None) -> dict:
    """The content of `tokenizer_config.json`.

    `rows` is the number of rows of the embedding, or None if the vocabulary implies it. `auto_map` names a
    slow class and no fast one. The ids are in `added_tokens_decoder`; without it transformers would append
    the names after the last id, past the embedding.
    """
    names = {eos_id: EOS}
    if bos_id is not None:
        names.setdefault(bos_id, BOS)
    names.setdefault(pad_id, PAD)  # only where padding has an id of its own
    config = {
        "tokenizer_class": "TokenMonsterTokenizer",
        "auto_map": {"AutoTokenizer": [f"{MODULE}.TokenMonsterTokenizer", None]},
        "added_tokens_decoder": {
            str(id): {"content": name, "lstrip": False, "rstrip": False, "normalized": False,
                      "single_word": False, "special": True}            # matched exactly
            for id, name in sorted(names.items())
        },
        "bos_token": names.get(bos_id),
        "eos_token": names[eos_id],
        "pad_token": names[pad_id],
        "unk_token": None,
        "clean_up_tokenization_spaces": False,
        "padding_side": "left",
        "chat_template": CHAT_TEMPLATE,
    }
    if rows is not None:
        config["embedding_rows"] = rows
    if model_max_length is not None:
        config["model_max_length"] = model_max_length
    return config


def write_tokenizer_files(folder: str | Path, vocab: bytes, eos_id: int, bos_id: int | None, pad_id: int,
                          rows: int | None) -> None:
    """Write the three files into `folder`, which is made if needed; `vocab` is the content of a .vocab file.

    `model_max_length` is the `max_position_embeddings` of the folder's config.json, where there is one.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    model = optional_json(folder / "config.json")
    config = tokenizer_config(eos_id, bos_id, pad_id, rows, model.get("max_position_embeddings"))
    atomic_write(folder / f"{MODULE}.py", module_text())
    atomic_write(folder / VOCAB_FILE, vocab)
    atomic_write(folder / "tokenizer_config.json", json.dumps(config, indent=2) + "\n")


def configured_ids(folder: Path) -> dict[str, Any]:
    """The special ids that a folder states: tokenizer_config.json by name, overridden by config.json.

    End-of-text may be a list of ids, as in Llama 3's config.json and generation_config.json: "stop_ids" has
    all of them, "eos_id" is the one that tokenizer_config.json names, else the first. Raises UserError for an
    id that is negative or not an integer.
    """
    stated: dict[str, Any] = {}
    stops: set[int] = set()
    for name in ("tokenizer_config.json", "config.json", "generation_config.json"):
        config = optional_json(folder / name)
        kinds = ("eos",) if name == "generation_config.json" else ("eos", "bos", "pad")
        try:
            ids = {entry["content"]: int(id) for id, entry in config.get("added_tokens_decoder", {}).items()}
            for kind in kinds:
                token = config.get(f"{kind}_token")
                named = ids.get(token["content"] if isinstance(token, dict) else token)
                found = config.get(f"{kind}_token_id", named)
                several = isinstance(found, list) and kind == "eos"
                listed = [id for id in (found if several else [found]) if id is not None]
                if not all(type(id) is int and id >= 0 for id in listed):
                    raise UserError(f"{folder / name}: {kind}_token_id must be an integer that is not "
                                    f"negative{' or a list of them' * (kind == 'eos')}, found {found!r}")
                if kind == "eos" and name != "tokenizer_config.json":
                    stops.update(listed)
                kept = name == "generation_config.json" and "eos_id" in stated
                if listed and not kept and stated.get(f"{kind}_id") not in listed:
                    stated[f"{kind}_id"] = listed[0]
            rows = config.get("embedding_rows", config.get("vocab_size"))
            stated |= {} if rows is None else {"vocab_size": operator.index(rows)}
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise UserError(f"{folder / name}: cannot read the special tokens' ids ({error!r})") from None
    return stated | ({"stop_ids": stops} if stops else {})
