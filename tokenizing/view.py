# SPDX-License-Identifier: Apache-2.0
"""The command line of `tokenizer.py`: coloured tokens, and every turn of the encoder.

`python tokenizer.py encode --explain` prints the lines of `explain`; lesson 02 calls it too.
"""
from __future__ import annotations

import io
import json
import re
import shutil
import sys
from pathlib import Path

from common import Flow, Parser, UserError, colour, for_terminal, tell
from corpus.documents import LARGEST_DOCUMENT, read_text
from tokenizer import (
    BEGINS_SPACE, DEFAULT, WHOLE_WORD, Tokenizer, TokenMonster, find, load, lost_text, normalize,
)
from tokenizing import trainer
from tokenizing.reference import load_reference

MODES = ("unfiltered", "clean", "balanced", "consistent", "strict", "custom")
LONGEST_EXPLAINED = 1 << 16                 # bytes; the explanation is about a hundred times as long
COLOURS = ("30;48;5;117", "30;48;5;156", "30;48;5;222", "30;48;5;217", "30;48;5;183", "30;48;5;253")
SIGNS = {0x7F: "⌫", 0x20: "·", 0x0A: "⏎", 0x0D: "␍", 0x09: "⇥"}

SAMPLE = (
    "The harbour was quiet before the ferry came. A boy on the quay had counted 17 gulls, two dogs and "
    "one very old\n"
    "bicycle, and he didn't expect that anything else would happen. \"You're early,\" said the harbour "
    "master, who never looked up\n"
    "from his newspaper. Because the tide was low, the ropes hung slack; the boats leaned on each other"
    " like people at a long concert.\n"
    "\n"
    "By half past nine there were forty-one passengers, most of them going to the island for the day. "
    "Somebody's radio was playing a\n"
    "song from 1968. The captain walked the length of the deck, checked the lines, and wrote a few "
    "words in a small blue book.\n"
)

EXAMPLES = """  python tokenizer.py encode "Because the cat sat"
  python tokenizer.py encode --explain "1999" --vocab my.vocab
  python tokenizer.py encode --json < letter.txt | python tokenizer.py decode
  python tokenizer.py decode 98 2887
  python tokenizer.py info runs/20m/best
  python tokenizer.py train corpus/*.txt --vocab-size 4096 --out my.vocab"""


LEGEND = """\
⌫ drops the next byte, · space, ⏎ line feed, ⇥ tab,
[·] a space that is not in the text (after a delete token)
number, token    the place in D and the longest token there, the candidate
1, 2, 3          the candidate or a shorter token, + one that could follow
1b, 2b, 3b       the same with a delete token between the two
last number      the score of the pair; the highest wins
"""


def visible(token: bytes) -> str:
    """A token's bytes, all visible: ⌫ for DEL, · for a space, ⏎ for LF, \\xNN for what is not text.

    >>> visible(b"\\x7f cat\\n")
    '⌫·cat⏎'
    """
    shown = []
    for character in token.decode("utf-8", "surrogateescape"):
        code = ord(character)
        if 0xDC80 <= code <= 0xDCFF:
            shown.append(f"\\x{code - 0xDC00:02x}")
        elif code in SIGNS:
            shown.append(SIGNS[code])
        else:
            shown.append(character if character.isprintable() else f"\\u{code:04x}")
    return "".join(shown)


def names_of(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    """The name of each id: its token (of the plain record), or the name of a special id."""
    special = {tokenizer.bos_id: "<bos>", tokenizer.eos_id: "<eos>"}
    records = tokenizer.vocab.records if isinstance(tokenizer, TokenMonster) else []
    plain = {record.id: record.token for record in records if record.score != -1}
    return [special.get(id) or visible(plain.get(id) or tokenizer.token_bytes([id])) for id in ids]


def token_lines(tokenizer: Tokenizer, ids: list[int], width: int) -> list[str]:
    """Tokens in coloured cells with their ids beneath, in lines of at most `width` characters."""
    lines, tokens, numbers, used = [], "", "", 0
    for number, (id, name) in enumerate(zip(ids, names_of(tokenizer, ids))):
        size = max(len(name), len(str(id)))
        if used and used + size + 1 > width:
            lines += [tokens, numbers]
            tokens, numbers, used = "", "", 0
        tokens += colour(name.ljust(size), COLOURS[number % len(COLOURS)]) + "|"
        numbers += colour(str(id).ljust(size), "2") + " "
        used += size + 1
    return lines + [tokens, numbers] if used else lines


def explain(tokenizer: TokenMonster, text: str | bytes) -> list[str]:
    """The encoder's loop on a text, line by line; LEGEND explains the lines.

    Each turn has a line with its candidate, and one for each pair tried, with its score. Only the first token
    of the winning pair is emitted; the second is the candidate of the next turn.
    """
    if not isinstance(tokenizer, TokenMonster):
        raise UserError("--explain shows the steps of a TokenMonster vocabulary; this is a BPE")
    records = tokenizer.vocab.records
    data = normalize(text)
    lines = [f"D = {visible(data)}   ({len(data)} bytes)"]

    def shown(number: int, virtual: int) -> str:
        token = visible(records[number].token)
        return f"[{token[:1]}]{token[1:]}" if virtual else token

    for turn in tokenizer.turns(data):
        if turn.record is None:
            byte = visible(data[turn.start:turn.start + 1])
            result = "emits UNK" if turn.ids else "the byte is lost"
            lines.append(f"{turn.start:4}  no token begins with {byte}: {result}")
            continue
        emitted = " ".join(map(str, turn.ids))
        head = f"{turn.start:4}  {shown(turn.record, turn.virtual)}"
        if turn.winner is None:
            stop = turn.start + len(records[turn.record].token) - turn.virtual
            why = "no token can follow"
            if stop == len(data):
                why = "the text ends here"
            elif records[turn.record].flag & WHOLE_WORD and tokenizer.vocab.begin[data[stop]] == BEGINS_SPACE:
                why = "a complete word before a space"
            lines.append(f"{head}   {why}: emits {emitted}")
            continue
        lines.append(head)
        for branch in turn.branches:
            pair = f"{shown(branch.first, turn.virtual)} + {shown(branch.second, branch.name.endswith('b'))}"
            won = colour(f"   <- best, emits {emitted}", "1;32") if branch is turn.winner else ""
            lines.append(f"        {branch.name:3} {pair:32} {branch.score:7}{won}")
    return lines


def explain_json(tokenizer: TokenMonster, text: str | bytes) -> dict:
    """The turns of `explain` as a JSON object."""
    records, steps = tokenizer.vocab.records, []
    for turn in tokenizer.turns(normalize(text)):
        branches = [{"name": branch.name, "first": visible(records[branch.first].token),
                     "second": visible(records[branch.second].token), "score": branch.score}
                    for branch in turn.branches]
        steps.append({
            "start": turn.start,
            "virtual_space": bool(turn.virtual),
            "candidate": None if turn.record is None else visible(records[turn.record].token),
            "branches": branches,
            "winner": turn.winner and turn.winner.name,
            "ids": turn.ids,
        })
    return {"normalized": visible(normalize(text)), "steps": steps}


def facts(tokenizer: Tokenizer, path: Path, sample: str) -> dict:
    """The facts that `info` prints."""
    ids = tokenizer.encode(sample, document=True)
    found = {"vocabulary": str(path), "kind": "BPE", "embedding_rows": tokenizer.vocab_size}
    if isinstance(tokenizer, TokenMonster):
        vocab = tokenizer.vocab
        longest = max((record.token for record in vocab.records if record.score != -1), key=len)
        found |= {
            "kind": "TokenMonster, capcode 1 (nocapcode), UTF-8, NFD",
            "tokens": vocab.size,
            "records": len(vocab.records),
            "duplicates": sum(record.score == -1 for record in vocab.records),
            "single_bytes": sum(len(record.token) == 1 for record in vocab.records),
            "longest_token": visible(longest),
            "longest_token_bytes": len(longest),
            "training_mode": MODES[vocab.mode],
            "delete_id": vocab.delete,
            "unk_id": vocab.unk,
        }
    return found | {
        "eos_id": tokenizer.eos_id, "bos_id": tokenizer.bos_id, "pad_id": tokenizer.pad_id,
        "fingerprint": tokenizer.fingerprint, "sample_characters": len(sample), "sample_tokens": len(ids),
        "characters_per_token": round(len(sample) / max(1, len(ids)), 3),
    }


def read_input() -> str:
    """All of stdin. Raises UserError if it is closed, or has more than LARGEST_DOCUMENT characters."""
    if sys.stdin is None:
        raise UserError("stdin is closed; give the text or the ids as an argument")
    text = sys.stdin.read(LARGEST_DOCUMENT + 1)
    if len(text) > LARGEST_DOCUMENT:
        raise UserError(f"stdin has more than {LARGEST_DOCUMENT:,} characters; for a longer text use: "
                        "python data.py prepare")
    return text


def parse_ids(words: list[str]) -> list[int]:
    """Ids from the command line or stdin: numbers, a JSON list, or what `encode --json` prints."""
    text = " ".join(words) if words else read_input()
    try:
        value = json.loads(text) if text.lstrip().startswith(("[", "{")) else re.findall(r"[^\s,]+", text)
        ids = value["ids"] if isinstance(value, dict) else value
        if any(type(id) not in (int, str) for id in ids):
            raise TypeError("an id is an integer")
        return [int(id) for id in ids]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(f"not token ids ({error}); give numbers, a JSON list or the output of "
                        "encode --json") from None


def build_parser() -> Parser:
    """The command line."""
    parser = Parser("Look at a vocabulary, turn text into tokens and back, or train a vocabulary.", EXAMPLES)
    commands = parser.add_subparsers(dest="command", metavar="{info,encode,decode,train}", required=True)
    which = f"vocabulary file, model folder or name (default: {DEFAULT})"
    info = commands.add_parser(
        "info", help="describe a vocabulary",
        description="Print size, longest token, mode, special ids, characters per token.")
    info.add_argument("vocab", nargs="?", help=which)
    info.add_argument("--vocab", dest="named", default=DEFAULT, help="the same, as a flag")
    info.add_argument("--sample", metavar="FILE",
                      help="text for the characters per token (default: two paragraphs of prose)")
    encode = commands.add_parser(
        "encode", help="text into tokens",
        description="Show the tokens of a text with their ids. Without TEXT, read stdin.")
    encode.add_argument("text", nargs="?", metavar="TEXT")
    encode.add_argument("--explain", action="store_true",
                        help="show each turn: the branches tried, their scores, which one won")
    encode.add_argument("--document", action="store_true", help="map CRLF and CR to LF first, as in training")
    decode = commands.add_parser(
        "decode", help="ids into text", description="Print the text of token ids. Without IDS, read stdin.")
    decode.add_argument("ids", nargs="*", metavar="IDS")
    decode.add_argument("--skip-special", action="store_true", help="leave the special ids out")
    commands.add_parser("train", help="make a vocabulary from text (see its own --help)", add_help=False)
    for command in (encode, decode):
        command.add_argument("--vocab", default=DEFAULT, help=which)
        command.add_argument("--engine", default="stentor", choices=["stentor", "tokenmonster"],
                             help="the encoder; tokenmonster is the reference package (default: stentor)")
    for command in (info, encode, decode):
        command.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def show_tokens(tokenizer: Tokenizer, text: bytes, explained: bool, as_json: bool) -> None:
    """`encode`: print the tokens of a text, or every turn of the encoder; warn of lost characters."""
    lost = lost_text(tokenizer, [text.decode("utf-8", "replace")])
    if lost:
        tell(f"warning: {lost}")
    if explained and len(text) > LONGEST_EXPLAINED:
        raise UserError(f"--explain is for texts of at most {LONGEST_EXPLAINED:,} bytes; this one has "
                        f"{len(text):,}")
    if explained:
        lines = [LEGEND, *explain(tokenizer, text)]
        print(json.dumps(explain_json(tokenizer, text)) if as_json else "\n".join(lines))
        return
    ids = tokenizer.encode(text)
    if as_json:
        print(json.dumps({"ids": ids, "tokens": names_of(tokenizer, ids)}))
        return
    lines = token_lines(tokenizer, ids, shutil.get_terminal_size().columns)
    print("\n".join([*lines, f"{len(ids)} tokens, {len(text)} bytes"]))


def main(argv: list[str] | None = None) -> int | None:
    """The command line of `tokenizer.py`."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["train"]:
        return trainer.main(argv[1:])
    args = build_parser().parse_args(argv)
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):  # pass CR and bytes that are not UTF-8 unchanged
            stream.reconfigure(encoding="utf-8", errors="surrogateescape", newline="")
    if args.command == "info":
        sample = SAMPLE if args.sample is None else read_text(Path(args.sample))
        vocab = args.vocab or args.named
        found = facts(load(vocab), find(vocab), sample)
        shown = found | {"fingerprint": f"{found['fingerprint'][:12]}... (--json prints all of it)"}
        lines = [f"{name.replace('_', ' '):22} {'none' if value is None else value}"
                 for name, value in shown.items()]
        print(json.dumps(found) if args.json else for_terminal("\n".join(lines)))
        return
    tokenizer = load(args.vocab) if args.engine == "stentor" else load_reference(args.vocab)
    if args.command == "decode":
        text = tokenizer.decode(parse_ids(args.ids), skip_special=args.skip_special)
        line_end = "\n" if args.json or sys.stdout and sys.stdout.isatty() else ""
        print(json.dumps({"text": text}) if args.json else Flow().add(text, last=True), end=line_end)
        return
    text = (read_input() if args.text is None else args.text).encode("utf-8", "surrogateescape")
    if args.document:
        text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    show_tokens(tokenizer, text, args.explain, args.json)
