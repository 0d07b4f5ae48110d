# SPDX-License-Identifier: Apache-2.0
"""How people meet the tokenizer: finding a vocabulary, the second engine, the command line, BPE."""
import hashlib
import http.server
import io
import json
import os
import subprocess
import sys
import threading
import types
from pathlib import Path

import numpy as np
import pytest
import torch

import tokenizer as module
from common import ROOT, UserError
from in_process import run_script
from tokenizing import view as token_view
from tokenizing.reference import load_reference
from vocab_files import by_name as vocab_hub
from tokenizer import find, load

NAME = "english-4096-strict-nocapcode-v1"


@pytest.fixture
def bare(tmp_path, monkeypatch) -> Path:
    """A home without vocabularies, and no network."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    monkeypatch.delenv("STENTOR_VOCABS", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return home


@pytest.fixture(scope="module")
def content() -> bytes:
    return find("builtin-4096").read_bytes()


# --------------------------------------------------------------------------------------- finding a vocabulary

def test_by_path_by_name_and_by_default(bare, tmp_path, monkeypatch, content):
    mine = tmp_path / "mine.vocab"
    mine.write_bytes(content)
    assert find(mine) == find(str(mine)) == mine
    assert find() == find("builtin-4096") == ROOT / "vocabs" / "builtin-4096.vocab"
    monkeypatch.setenv("STENTOR_VOCABS", str(tmp_path))
    assert find("mine") == mine
    (bare / "_tokenmonster").mkdir()
    (bare / "_tokenmonster" / "theirs.vocab").write_bytes(content)
    assert find("theirs") == bare / "_tokenmonster" / "theirs.vocab"
    assert load("theirs").fingerprint == load(mine).fingerprint


@pytest.mark.parametrize("part", ["", "best", "last", "tokenizer"])
def test_a_run_and_a_corpus_hold_a_vocabulary(part, tmp_path):
    load("builtin").save_pretrained(tmp_path / part)
    assert load(tmp_path).fingerprint == load("builtin").fingerprint


def test_what_is_not_there_is_named(bare, tmp_path):
    for name, message in (
        ("nothing/here.vocab", "no such file"),
        ("gone.vocab", "no such file"),
        ("buildin-4096", "did you mean builtin-4096?"),
        ("qqqq", "known: builtin-4096"),
        (NAME, "the network is switched off"),
        (tmp_path, "no tokenizer in this folder"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            find(name)
        assert "\n" not in str(caught.value) and str(name) in str(caught.value)
    with pytest.raises(UserError, match="switched off"):
        find(NAME, network=False)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub on this machine: the folder it serves."""
    root = tmp_path / "hub"
    folder = root / "alasdairforsythe" / "tokenmonster" / "resolve" / "main" / "vocabs"
    folder.mkdir(parents=True)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(root))

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield folder
    server.shutdown()
    server.server_close()


def test_from_the_hub_with_its_checksum(bare, hub, monkeypatch, tmp_path, content):
    monkeypatch.setitem(vocab_hub.CHECKSUMS, NAME, hashlib.sha256(content).hexdigest())
    (hub / f"{NAME}.vocab").write_bytes(content)
    path = find(NAME)
    assert path == bare / "_tokenmonster" / f"{NAME}.vocab" and path.read_bytes() == content
    assert load(NAME).vocab_size == 4096
    (hub / f"{NAME}.vocab").unlink()
    assert find(NAME) == path  # now it is here
    path.unlink()
    with pytest.raises(UserError, match="cannot be downloaded from http://127.0.0.1.*404"):
        find(NAME)
    (hub / f"{NAME}.vocab").write_bytes(content)
    monkeypatch.setenv("STENTOR_VOCABS", str(tmp_path / "kept"))
    assert find(NAME) == tmp_path / "kept" / f"{NAME}.vocab"


def test_a_wrong_file_from_the_hub_is_not_kept(bare, hub, content):
    for wrong in (content, b"<html>not found</html>", bytes(5 << 20)):
        (hub / f"{NAME}.vocab").write_bytes(wrong)
        with pytest.raises(UserError, match="sha256 .* expected 8b4270afaa2280d9"):
            find(NAME)
    assert not (bare / "_tokenmonster").exists()


def test_checksums_are_those_of_the_real_files(shared):
    found = {
        path.stem: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (shared / "vocabs").glob("*.vocab")
    }
    assert found == vocab_hub.CHECKSUMS


def test_without_a_network_the_line_says_what_to_do(bare, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(UserError, match=f"cannot be downloaded.*put {NAME}.vocab into .*STENTOR_VOCABS"):
        find(NAME)


# ------------------------------------------------------------------------------------------ the second engine

class Answers:
    """Stands for a vocabulary of the tokenmonster package: answers with our own tokenizer, or wrongly."""

    def __init__(self, path: str, wrong: bool = False):
        self.ours, self.wrong, self.asked = load(path), wrong, 0

    def tokenize(self, data: bytes):
        import numpy as np
        self.asked += 1
        ids = self.ours.encode_plain(data)
        if self.wrong:
            ids[3] += 1
        return np.array(ids, dtype=np.uint16) if ids else None

    def decode(self, ids):
        return self.ours.decode(ids)


def install(home: Path, monkeypatch, load_function) -> None:
    program = home / "_tokenmonster" / ("tokenmonsterserver.exe" if os.name == "nt" else "tokenmonsterserver")
    program.parent.mkdir(exist_ok=True)
    program.write_text("stands for the program")
    package = types.ModuleType("tokenmonster")
    package.load_multiprocess_safe = load_function
    monkeypatch.setitem(sys.modules, "tokenmonster", package)


def test_second_engine_encodes_after_the_check(bare, monkeypatch):
    install(bare, monkeypatch, Answers)
    tokenizer = load_reference("builtin-4096")
    asked = tokenizer.reference.asked
    text = "Because the cat's 19\r\nhats \ud800"
    assert tokenizer.encode(text) == load("builtin-4096").encode(text)
    assert tokenizer.encode(text, document=True) == load("builtin-4096").encode(text, document=True)
    assert tokenizer.encode("") == [] and tokenizer.reference.asked == asked + 2
    assert tokenizer.fingerprint == load("builtin-4096").fingerprint


def test_second_engine_that_differs_or_fails_is_an_error(bare, monkeypatch):
    install(bare, monkeypatch, lambda path: Answers(path, wrong=True))
    with pytest.raises(UserError, match=r"differ on the probe text \(token 3:"):
        load_reference("builtin-4096")

    def breaks(path):
        raise BrokenPipeError("the program went away")
    install(bare, monkeypatch, breaks)
    with pytest.raises(UserError, match="does not work .*went away"):
        load_reference("builtin-4096")


def test_second_engine_that_is_not_there(bare, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenmonster", types.ModuleType("tokenmonster"))
    with pytest.raises(UserError, match="needs .*tokenmonsterserver"):
        load_reference("builtin-4096")
    monkeypatch.setitem(sys.modules, "tokenmonster", None)
    with pytest.raises(UserError, match=r'pip install "\.\[tokenmonster\]"'):
        load_reference("builtin-4096")


@pytest.mark.ci
def test_the_real_reference_agrees(shared):
    """With the package and its program on this machine (in ~/_tokenmonster): golden cases and a long text."""
    pytest.importorskip("tokenmonster", reason="the tokenmonster package is not installed")
    if not (Path.home() / "_tokenmonster" / "tokenmonsterserver").is_file():
        pytest.skip("the program ~/_tokenmonster/tokenmonsterserver is not on this machine")
    for path in (shared / "vocabs").glob("*.vocab"):
        reference, ours = load_reference(path), load(path)
        cases = [
            case["text"]
            for case in json.loads((shared / "golden" / "tokenmonster.json").read_text(encoding="utf-8"))
            if case["vocab"] == path.stem
        ]
        for text in [*cases, "\n".join(cases)]:
            assert reference.encode(text) == ours.encode(text)


# ------------------------------------------------------------------------------------------- the command line

def command(*args: str, stdin: bytes = b"", **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(ROOT / "tokenizer.py"), *args], input=stdin, capture_output=True,
        env={**os.environ, **env}, cwd=ROOT, timeout=120, check=False,
    )


def test_encode_and_decode_through_pipes():
    text = "Because the caf\u00e9 isn't far.\r\n\tx".encode() + b"\xff"
    encoded = command("encode", "--json", stdin=text)
    found = json.loads(encoded.stdout)
    assert found["ids"] == load().encode(text) and len(found["tokens"]) == len(found["ids"])
    decoded = command("decode", stdin=encoded.stdout)
    assert decoded.stdout.decode() == load().decode(found["ids"]) and decoded.returncode == 0
    assert json.loads(command("decode", "--json", *map(str, found["ids"])).stdout) == {
        "text": load().decode(found["ids"])
    }


def test_info_and_mistakes():
    printed = run_script("tokenizer.py", "info", "--json").stdout
    info = json.loads(printed)
    for named in (["--vocab", "builtin"], ["builtin"]):
        assert run_script("tokenizer.py", "info", *named, "--json").stdout == printed
    assert (
        info["tokens"] == 4096
        and info["longest_token_bytes"] <= 40
        and info["training_mode"] == "strict"
        and 2 < info["characters_per_token"] < 6
    )
    for args, message in (
        (("encode", "x", "--vocab", "nope.vocab"), "nope.vocab: no such file"),
        (("decode", "1", "two"), "not token ids"),
        (("encod", "x"), "invalid choice"),
        (("encode", "x", "--expain"), "did you mean --explain?"),
    ):
        failed = run_script("tokenizer.py", *args)
        assert failed.returncode == 2 and message in failed.stderr and failed.stderr.count("\n") == 1


def test_explain_shows_every_branch(capsys):
    tokenizer = load()
    text = "Because Zygotes\n1999 caf\u00e9"
    assert token_view.main(["encode", "--explain", text]) is None
    shown = capsys.readouterr().out
    steps = list(tokenizer.turns(module.normalize(text)))
    assert shown.count("<- best") == sum(step.winner is not None for step in steps) > 3
    assert sum(line.startswith("        ") for line in shown.splitlines()) == sum(
        len(step.branches) for step in steps
    )
    object_ = token_view.explain_json(tokenizer, text)
    assert [id for step in object_["steps"] for id in step["ids"]] == tokenizer.encode(text)
    assert [step["winner"] for step in object_["steps"]] == [
        step.winner and step.winner.name for step in steps
    ]


def test_tokens_in_lines_of_the_terminals_width(monkeypatch):
    tokenizer = load()
    ids = tokenizer.encode("Because the harbour was quiet before the ferry came.")
    lines = token_view.token_lines(tokenizer, ids, 40)
    assert all(len(line) <= 40 for line in lines) and len(lines) % 2 == 0
    assert [int(word) for line in lines[1::2] for word in line.split()] == ids
    assert "".join(cell.strip() for line in lines[::2] for cell in line.split("|")) == "".join(
        token_view.names_of(tokenizer, ids)
    )
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[" in token_view.token_lines(tokenizer, ids, 40)[0]
    assert token_view.visible(b"\x7f a\n\xff") == "\u232b\u00b7a\u23ce\\xff"


# -------------------------------------------------------------------------------------------------------- BPE

SENTENCES = [
    "the cat sat on the mat", "a cat is not a dog", "the dog and the cat",
    "caf\u00e9 na\u00efve \u4e16\u754c", "1999 2024 hats",
] * 20


def json_bpe(folder: Path, byte_level: bool) -> Path:
    library = pytest.importorskip("tokenizers", reason="the tokenizers library (extra bpe) is not installed")
    inner = library.Tokenizer(library.models.BPE(unk_token="<unk>", byte_fallback=not byte_level))
    special = ["<unk>", "<s>", "</s>"]
    if byte_level:
        inner.pre_tokenizer, inner.decoder = (
            library.pre_tokenizers.ByteLevel(add_prefix_space=False),
            library.decoders.ByteLevel(),
        )
        alphabet = library.pre_tokenizers.ByteLevel.alphabet()
    else:
        inner.normalizer = library.normalizers.Sequence(
            [library.normalizers.Prepend("\u2581"), library.normalizers.Replace(" ", "\u2581")]
        )
        steps = [
            library.decoders.Replace("\u2581", " "), library.decoders.ByteFallback(), library.decoders.Fuse(),
            library.decoders.Strip(" ", 1, 0),
        ]
        inner.decoder = library.decoders.Sequence(steps)
        alphabet, special = [], special + [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = library.trainers.BpeTrainer(
        vocab_size=len(special) + 300, special_tokens=special[:3], initial_alphabet=alphabet,
        show_progress=False,
    )
    inner.train_from_iterator(SENTENCES, trainer)
    data = json.loads(inner.to_str())
    for piece in special[3:]:
        data["model"]["vocab"].setdefault(piece, len(data["model"]["vocab"]))
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    return folder


def model_bpe(folder: Path) -> Path:
    library = pytest.importorskip(
        "sentencepiece", reason="the sentencepiece library (extra bpe) is not installed"
    )
    folder.mkdir(exist_ok=True)
    library.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES), model_prefix=str(folder / "tokenizer"), vocab_size=330,
        model_type="bpe", byte_fallback=True, minloglevel=2, hard_vocab_limit=False,
    )
    return folder


@pytest.fixture(scope="module", params=["byte level", "fallback", "sentencepiece"])
def bpe(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bpe") / "model"
    return load(
        model_bpe(folder)
        if request.param == "sentencepiece"
        else json_bpe(folder, request.param == "byte level")
    )


def test_bpe_has_the_same_interface(bpe, tmp_path):
    for text in ("the cat sat", "caf\u00e9 \u4e16\u754c 1999", "dog </s> <s> <unk>", "\U0001f600!"):
        ids = bpe.encode(text)
        assert bpe.decode(ids) == text and all(0 <= id < bpe.vocab_size for id in ids)
        assert not {bpe.eos_id, bpe.bos_id} & set(ids)  # the name of a special token in a text is text
        assert bpe.token_bytes(ids).decode().strip() == text
        assert bpe.encode(text.encode()) == ids
    ids = bpe.encode("the cat")
    assert bpe.decode([bpe.bos_id, *ids, bpe.eos_id], skip_special=True) == "the cat"
    assert bpe.decode([10**7, -1]) == "" and bpe.decode([]) == "" and bpe.encode("") == []
    assert bpe.encode("a\r\nb", document=True) == bpe.encode("a\nb")
    assert bpe.pad_id == bpe.eos_id and len(bpe.fingerprint) == 64
    bpe.save_pretrained(tmp_path / "copy")
    back = load(tmp_path / "copy")
    assert back.fingerprint == bpe.fingerprint and back.encode("the cat \u4e16") == bpe.encode(
        "the cat \u4e16"
    )
    assert not (tmp_path / "copy" / "tokenmonster_hf.py").exists()


def test_bpe_streams_whole_characters(bpe):
    text = "the caf\u00e9 \u4e16\u754c \U0001f600 dog"
    stream = bpe.stream()
    parts = [stream.feed([id]) for id in bpe.encode(text)]
    assert "".join(parts) == text
    cut = bpe.encode("\U0001f600")[:-1]
    stream = bpe.stream()
    assert "".join(stream.feed([id]) for id in cut) == bpe.decode(cut).rstrip("\ufffd")


def test_bpe_special_ids_from_the_folder(tmp_path):
    folder = json_bpe(tmp_path / "model", True)
    (folder / "config.json").write_text(
        json.dumps({"vocab_size": 32768, "eos_token_id": 5, "bos_token_id": 1, "pad_token_id": 6})
    )
    tokenizer = load(folder)
    assert (tokenizer.vocab_size, tokenizer.eos_id, tokenizer.bos_id, tokenizer.pad_id) == (32768, 5, 1, 6)
    (folder / "config.json").write_text(json.dumps({"vocab_size": 10}))
    with pytest.raises(UserError, match="do not fit"):
        load(folder)
    (folder / "config.json").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "<unk>"}}))
    assert load(folder).eos_id == 0


def test_bpe_files_that_are_none(tmp_path):
    for name in ("tokenizer.json", "tokenizer.model"):
        pytest.importorskip(
            "tokenizers" if name.endswith("json") else "sentencepiece",
            reason="the libraries of the extra bpe are not installed",
        )
        folder = tmp_path / name
        folder.mkdir()
        for wrong in (b"", b"{}", b"\x80\x04junk" * 20, b'{"model": {"type": "BPE"}}'):
            (folder / name).write_bytes(wrong)
            with pytest.raises(UserError, match=name):
                load(folder)


def test_bpe_without_its_library(tmp_path, monkeypatch):
    for name, library in (("tokenizer.json", "tokenizers"), ("tokenizer.model", "sentencepiece")):
        (tmp_path / name).write_text("{}")
        monkeypatch.setitem(sys.modules, library, None)
        with pytest.raises(UserError, match=rf'{library} library: pip install "\.\[bpe\]"'):
            load(tmp_path / name)


def test_a_download_leaves_one_file(bare, hub, monkeypatch, content):
    monkeypatch.setitem(vocab_hub.CHECKSUMS, NAME, hashlib.sha256(content).hexdigest())
    (hub / f"{NAME}.vocab").write_bytes(content)
    find(NAME)
    # no temporary file is left
    assert [file.name for file in (bare / "_tokenmonster").iterdir()] == [f"{NAME}.vocab"]


@pytest.mark.parametrize("config, expected", [
    ({"vocab_size": 4096, "eos_token_id": 2, "pad_token_id": 5}, (2, 5, 4096)),
    ({"vocab_size": 4224, "eos_token_id": 4096, "pad_token_id": 4096}, (4096, 4096, 4224)),
    ({"vocab_size": 4224, "eos_token_id": 2}, (2, 2, 4224)),
])
def test_special_ids_of_a_foreign_folder_survive_saving(tmp_path, config, expected):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "tokenmonster.vocab").write_bytes(find("builtin-4096").read_bytes())
    (tmp_path / "theirs" / "config.json").write_text(json.dumps(config))
    theirs = load(tmp_path / "theirs")
    theirs.save_pretrained(tmp_path / "ours")
    ours = load(tmp_path / "ours")
    for coder in (theirs, ours):
        assert (coder.eos_id, coder.pad_id, coder.vocab_size) == expected
    assert ours.fingerprint == theirs.fingerprint


def test_decode_takes_ids_of_any_kind():
    coder = load()
    ids = [coder.eos_id, *coder.encode("red")]
    assert (
        coder.decode(np.array(ids), skip_special=True)
        == coder.decode(torch.tensor(ids), skip_special=True)
        == "red"
    )


def test_encode_says_what_is_lost_and_has_a_bound(tmp_path, capsys, monkeypatch):
    assert token_view.main(["encode", "Привет"]) is None
    assert "6 of 6 characters (100%) have no token in this vocabulary" in capsys.readouterr().err
    token_view.main(["encode", "plain text"])
    assert capsys.readouterr().err == ""
    token_view.main(["encode", "--explain", "1999"])
    assert capsys.readouterr().out.startswith(token_view.LEGEND)
    with pytest.raises(UserError, match="--explain is for texts of at most 65,536 bytes; this one has 70"):
        token_view.main(["encode", "--explain", "x" * 70_000])
    monkeypatch.setattr(token_view, "LARGEST_DOCUMENT", 10)
    monkeypatch.setattr(sys, "stdin", io.StringIO("x" * 11))
    with pytest.raises(UserError, match="stdin has more than 10 characters"):
        token_view.main(["encode"])
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(UserError, match="latin.txt: not UTF-8 text"):
        token_view.main(["info", "--sample", str(tmp_path / "latin.txt")])
