# SPDX-License-Identifier: Apache-2.0
"""Talk in turns: `sample.py --chat`. A chat template makes one prompt of all turns.

Our folders have the cards' template. The template of a foreign folder is a program in the Jinja language;
sampling/template.py renders it. If it cannot be used, the chat says why and uses the cards' template.
"""
from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from common import UserError, optional_json, tell, wrapped
from sample import SampleSettings
from sampling.answers import BASE_MODEL, LoadedModel, prompt_ids, valid_text
from sampling.template import render
from sampling.terminal import LONGEST_PROMPT, say, tell_lost_text
from vocab_files.bpe import BPE, FromModel
from vocab_files.tokenizer_files import CHAT_TEMPLATE

HELP = """\
Write a line and press Enter: the model continues the chat as the assistant.
  /new    forget the turns so far
  /help   show this text
  /quit   end the chat, like an empty line
The model reads all turns each time; when its context is full, it drops the
oldest. Length, temperature and seed are flags: python sample.py --help"""
LONGEST_TEMPLATE = 1 << 20                  # bytes
Turn = tuple[str, str]                      # (role, message); the roles are user and assistant


def cards_prompt(turns: list[Turn]) -> str:
    """The cards' template: each role between <| and |>, then its message; at the end the assistant's tag."""
    return "".join(f"<|{role}|>{content}" for role, content in turns) + "<|assistant|>"


@dataclass(frozen=True)
class ChatFormat:
    """How turns become a prompt: a folder's own template, or the cards' (`template` None).

    `note` is the reason why a folder's template is not used; `stop` is the text that ends an answer.
    """

    template: str | None = None
    names: tuple[tuple[str, str], ...] = ()               # of special tokens, for templates
    note: str | None = None

    @property
    def stop(self) -> str | None:
        """The cards' tags are text, so a new tag ends an answer; other templates have stop tokens."""
        return "<|" if self.template is None else None

    def prompt(self, turns: list[Turn]) -> str:
        """The text that the model continues. Raises UserError where the folder's template fails."""
        if self.template is None:
            return cards_prompt(turns)
        messages = [{"role": role, "content": content} for role, content in turns]
        values = {"messages": messages, "add_generation_prompt": True, **dict(self.names)}
        return render(self.template, values)

    def ids(self, loaded: LoadedModel, prompt: str) -> list[int]:
        """The ids of a prompt; in a folder's own template the names of special tokens are those tokens."""
        if self.template is None:
            return prompt_ids(loaded.tokenizer, prompt)
        if isinstance(loaded.tokenizer, BPE):
            return loaded.tokenizer.library.encode_special(prompt)
        return loaded.tokenizer.encode(prompt, document=True)


def format_of(loaded: LoadedModel) -> ChatFormat:
    """The chat format of a model folder: its own template, unless it is the cards'."""
    try:
        source, names = template_of(loaded.folder)
        if source is None or source == CHAT_TEMPLATE:
            return ChatFormat()
        if isinstance(loaded.tokenizer, BPE) and isinstance(loaded.tokenizer.library, FromModel):
            raise UserError("it needs a tokenizer.json, and the folder has only a tokenizer.model")
        found = ChatFormat(source, tuple(names.items()))
        prompt = found.prompt([("user", "Hello")])
        found.ids(loaded, prompt)
        if "Hello" not in prompt:
            raise UserError("it leaves the message out")
        return found
    except UserError as error:
        return ChatFormat(note=f"the chat template of {loaded.folder} is not used: {error}")


def template_of(folder: Path) -> tuple[str | None, dict[str, str]]:
    """(template, names of special tokens) of a model folder.

    The template is in chat_template.jinja or in tokenizer_config.json; None if there is none.
    """
    file = folder / "tokenizer_config.json"
    config = optional_json(file)
    names = {}
    for key in ("bos_token", "eos_token", "pad_token", "unk_token"):
        token = config.get(key)
        name = token.get("content") if isinstance(token, dict) else token
        if isinstance(name, str):
            names[key] = name
    alone = folder / "chat_template.jinja"
    if alone.is_file():
        if alone.stat().st_size > LONGEST_TEMPLATE:
            raise UserError(f"{alone} has more than {LONGEST_TEMPLATE:,} bytes")
        return alone.read_text(encoding="utf-8", errors="replace"), names
    template = config.get("chat_template")
    if isinstance(template, list):                             # several, by name: the one for plain chats
        named = {one.get("name"): one.get("template") for one in template if isinstance(one, dict)}
        template = named.get("default", 0)
    if template is not None and not isinstance(template, str):
        raise UserError(f"{file}: chat_template is neither a text nor a list with a template named default")
    return template, names


def recent(loaded: LoadedModel, form: ChatFormat, turns: list[Turn], settings: SampleSettings) -> list[Turn]:
    """`turns` without the oldest ones, so that an answer of `max_new_tokens` fits into the context."""
    room = loaded.model.config.max_position_embeddings - settings.max_new_tokens
    while len(turns) > 1 and len(form.ids(loaded, form.prompt(turns))) > room:
        turns = turns[2:]
    return turns


def chat(loaded: LoadedModel, settings: SampleSettings, seed: int) -> None:
    """Talk in turns until an empty line or the end of input.

    A message that cannot be answered (too long, for instance) is one line on stderr; the chat continues.
    """
    form, turns = format_of(loaded), []
    if form.note:
        tell(f"note: {form.note}")
    print(wrapped(BASE_MODEL), "/help explains, an empty line ends the chat.", sep="\n")
    while said := read_line():
        if said in ("/quit", "/exit"):
            break
        if said == "/new":
            turns = []
        if said in ("/help", "/new"):
            print(HELP if said == "/help" else "The turns so far are forgotten.")
            continue
        try:
            tell_lost_text(loaded, said)
            asked = recent(loaded, form, [*turns, ("user", said)], settings)
            prompt = form.prompt(asked)
            draws = [(settings, seed + len(asked))]
            record = say(loaded, prompt, draws, show="", stop=form.stop, ids=form.ids(loaded, prompt))
            turns = [*asked, ("assistant", record["answers"][0]["text"])]
        except UserError as error:
            tell(f"not answered: {error}")
        print()
    print()


def read_line() -> str:
    """The user's next line; empty at the end of input. Raises UserError for a line without an end."""
    print("you> ", end="", flush=True)
    if sys.stdin is None:
        return ""
    line = sys.stdin.buffer.readline(LONGEST_PROMPT + 1)
    if len(line) > LONGEST_PROMPT:
        raise UserError(f"standard input: a line of more than {LONGEST_PROMPT >> 20} MiB, the limit for a "
                        "prompt")
    return valid_text(line.decode("utf-8", "replace")).strip()
