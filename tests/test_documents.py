# SPDX-License-Identifier: Apache-2.0
"""Reading documents: formats, folders, rows without text, limits, and what a preparation says of them."""
import gzip
import itertools
import json
import sys
from pathlib import Path

import pytest

import common
import data
import tokenizer
from common import UserError
from corpus import documents
from corpus.builtin import builtin_documents
from corpus.command import own_corpus_folder, prepare_files
from corpus.documents import documents_of, files_of, kind_of, path_source, rows_of
from corpus.prepare import FIRST, MadeOtherwise, prepare

TEXTS = [str(text) for text in itertools.islice(builtin_documents("math"), 120)]


def rows(texts: list, column: str = "text") -> bytes:
    lines = [json.dumps({"id": number, column: text}) + "\n" for number, text in enumerate(texts)]
    return "".join(lines).encode()


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix.lower() == ".gz" else content)
    return path


BOM = b"\xef\xbb\xbf"
TABLE = b'id,text\r\n1,"one, ""two""\nthree"\r\n2,four\r\n'


@pytest.mark.parametrize("name, content, texts", [
    ("a.JSONL", rows(["x", "y"], "content"), ["x", "y"]),
    ("a.jsonl.GZ", BOM + rows(["x"]), ["x"]),
    ("a.json", b' [ {"text": "x\\ny"}, {"text": null} , "z", 3]\n', ["x\ny", None, "z", None]),
    ("a.json", b"[]", []),
    ("a.json.gz", rows(["x", "y"]), ["x", "y"]),
    ("a.Csv", BOM + TABLE, ['one, "two"\nthree', "four"]),
    ("a.tsv", b"content\tid\nx y\t1\n", ["x y"]),
    ("a.txt.gz", b"x\n", ["x\n"]),
    ("README", BOM + b"x\n", ["x\n"]),
    ("a.PY", b"x\n\n\ny\n", ["x\n\n\ny\n"]),
    ("a.jsonl", b'{"text": ["x"]}\n{"text": 1}\n{"text": null}\n{"id": 2}\n{"text": ""}\n',
     [None] * 4 + [""]),
])
def test_every_format(tmp_path, name, content, texts):
    path = write(tmp_path / name, content)
    assert list(documents_of(path)) == texts
    assert list(path_source("text", path).documents(1)) == texts[1:]


def test_a_json_list_has_a_largest_size(tmp_path, monkeypatch):
    items = [{"text": "a" * (number * 37 % 5000), "n": number} for number in range(200)]
    path = write(tmp_path / "a.json", b"\n " + json.dumps(items, indent=1).encode())
    assert list(rows_of(path)) == items
    monkeypatch.setattr(documents, "LARGEST_LIST", 1000)
    with pytest.raises(UserError, match=r"a.json: a JSON list of more than 1,000 .*\.jsonl"):
        list(rows_of(path))


@pytest.mark.parametrize("name, content, message", [
    ("a.json", b'[{"text": "x"}', "not a valid JSON list .*char 14"),
    ("a.json", b'[{"text": "x"},', "not a valid JSON list"),
    ("a.json", b'[{"text": "x"}] x', "not a valid JSON list .Extra data"),
    ("a.json", b'{"a":\n1}', "neither a JSON list nor one JSON object a line"),
    ("a.json", b'[{"body": "x"}]', "no column text or content; found body"),
    ("a.csv", b"id,text\n1,a,b\n", "line 2 has more fields than the header"),
    ("a.csv", b'id,text\n1,"a\n', "line 1: unexpected end of data"),
    ("a.csv", b"id;text\n1;a\n", "no column text or content; found id;text"),
    ("a.txt", "d\u00e9j\u00e0".encode("latin-1"), "iconv -f LATIN1"),
    ("a.txt.gz", b"\xff\xfe" + "d\u00e9j\u00e0".encode("utf-16-le"), "iconv -f UTF-16"),
    ("a.pdf", b"%PDF-1.4", "not a known format"),
    ("a.html", b"<p>x", "not a known format"),
    ("a.txt", b"\x89PNG\0\0", "binary"),
])
def test_what_is_not_text_is_refused_by_name(tmp_path, name, content, message):
    path = write(tmp_path / name, content)
    with pytest.raises(UserError, match=message) as caught:
        list(path_source("text", path).documents(0))
    assert str(caught.value).startswith(str(path))


def test_one_document_has_a_largest_size(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "LARGEST_DOCUMENT", 1000)
    long = "x" * 1001
    for name, content in (("a.jsonl", rows([long])), ("a.json", json.dumps([{"text": long}]).encode()),
                          ("a.csv", f"text\n{long}\n".encode()), ("a.py", long.encode()),
                          ("b.csv", f"text,n\n{'a,' * 600}\n".encode()),
                          ("b.jsonl.gz", rows([long]))):
        with pytest.raises(UserError, match="1,000 characters|field limit"):
            list(documents_of(write(tmp_path / name, content)))
    text = write(tmp_path / "a.txt", long.encode() * 100)  # a text is cut
    assert "".join(documents_of(text)) == long * 100


def test_a_folder_skips_what_is_not_text_and_says_so(tmp_path, capsys):
    folder = tmp_path / "repo"
    for name, content in ((".git/index", b"\0"), ("__pycache__/a.pyc", b"\0"), (".env", b"x"),
                          ("logo.png", b"\0"), ("blob.txt", b"\0\1"), ("package.json", b'{"a": 1}'),
                          ("t.csv", b"a,b\n1,2\n"),
                          (".ipynb_checkpoints/a.py", b"x = 1\n"), ("a.py", b"x = 1\n"),
                          ("env/pyvenv.cfg", b"home = /usr\n"), ("env/library.py", b"y = 2\n"),
                          ("sub/b.C", b"int y;\n")):
        write(folder / name, content)
    write(tmp_path / "elsewhere" / "c.py", b"z = 3\n")
    (folder / "sub" / "link").symlink_to(tmp_path / "elsewhere")
    (folder / "sub" / "again").symlink_to(folder / "a.py")
    (folder / "sub" / "up").symlink_to(folder)
    (folder / "sub" / "gone").symlink_to(tmp_path / "nothing")
    files, skipped = files_of(folder)
    assert [str(file.relative_to(folder)) for file in files] == ["a.py", "sub/b.C", "sub/link/c.py"]
    assert kind_of(folder) == "code"
    counts = {reason: len(names) for reason, names in skipped.items()}
    assert counts == {"hidden": 3, "cache": 2, "not a known format": 1, "binary": 1, "broken link": 1,
                      "without documents in a column text or content": 2,
                      "already read through another name": 2}
    prepare([path_source("code", folder)], tmp_path / "out", workers=1)
    said = capsys.readouterr().err
    assert "3 files read; skipped: 3 hidden (.env, .git, .ipynb_checkpoints)" in said and "logo.png" in said


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has file names that are not UTF-8")
def test_runs_and_corpora_of_this_program_are_no_text(tmp_path, monkeypatch):
    """A corpus inside the folder that it is made of does not change that folder."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.txt", b"some words\n\n" * 2000)
    write(tmp_path / "runs/tiny/run.json", b"{}")
    write(tmp_path / "runs/tiny/log.jsonl", b"{}\n")
    write(tmp_path / "runs/tiny/samples.jsonl", b'{"step": 1, "text": "made by a model"}\n')
    write(tmp_path / "runs/notes/run.json", b"{}")  # not a run of this program
    write(tmp_path / "runs/notes/b.txt", b"a note")
    for _ in range(2):
        files, skipped = documents.files_of(".")
        assert files == [Path("a.txt"), Path("runs/notes/b.txt")]
        prepare([path_source("text", ".")], "corpora/mine")
    assert skipped["corpus or run of this program"] == ["corpora/mine", "runs/tiny"]


def test_a_source_of_too_little_text_is_named_with_its_file(tmp_path):
    path = write(tmp_path / "empty.txt", b"")
    with pytest.raises(UserError, match=r"^text \(.*empty.txt\): 0 different documents"):
        prepare([path_source("text", path)], tmp_path / "out")


def test_a_name_that_is_not_utf8_is_refused_at_the_start(tmp_path):
    path = tmp_path / "caf\udce9.txt"
    path.write_text("one\n\ntwo\n")
    with pytest.raises(UserError, match="not UTF-8; rename it"):
        path_source("text", path)
    with pytest.raises(UserError, match="not UTF-8; rename it"):
        prepare([], path)


def test_rows_without_text_are_counted_and_refused_above_a_tenth(tmp_path, capsys):
    few = [None if number % 20 == 0 else text for number, text in enumerate(TEXTS)]
    path = write(tmp_path / "few.jsonl", rows(few))
    out = prepare([path_source("math", path)], tmp_path / "few", workers=1)
    assert data.read_manifest(out)["sources"]["math"]["without_text"] == 6
    assert "math: 6 of 120 rows have no text and were left out" in capsys.readouterr().err
    many = [[text] if number % 2 else text for number, text in enumerate(TEXTS)]
    path = write(tmp_path / "many.jsonl", rows(many))
    with pytest.raises(UserError, match="60 of 120 rows have no text"):
        prepare([path_source("math", path)], tmp_path / "many", workers=1)
    assert not (tmp_path / "many" / "manifest.json").exists()


def test_all_of_a_file_decides(tmp_path):
    """A word changed after the first megabyte is another text; empty rows first are no reason to refuse."""
    path = write(tmp_path / "a.txt", b"word " * 400_000)
    before = path_source("text", path).identity
    content = bytearray(path.read_bytes())
    content[1_500_000:1_500_004] = b"WORD"
    assert path_source("text", write(path, bytes(content))).identity != before
    source = path_source("math", write(tmp_path / "b.jsonl", rows([""] * FIRST + TEXTS[:1] * FIRST + TEXTS)))
    manifest = data.read_manifest(prepare([source], tmp_path / "out", workers=1))
    assert manifest["sources"]["math"]["empty"] == FIRST
    assert manifest["sources"]["math"]["validation"]["documents"] > 0


def test_lost_text_counts_all_of_the_file_and_is_said(tmp_path, capsys):
    texts = TEXTS + ["\u041f\u0440\u0438\u0432\u0435\u0442 " * 400 + str(number) for number in range(20)]
    prepare([path_source("math", write(tmp_path / "a.jsonl", rows(texts)))], tmp_path / "out", workers=1)
    said = capsys.readouterr().err
    assert "characters" in said and "have no token in this vocabulary and are dropped" in said
    t = tokenizer.load()
    assert [tokenizer.lost_characters(t, text) for text in ("plain\r\n", "caf\u00e9", "\ud800")] == [0, 0, 0]
    assert tokenizer.lost_characters(t, "caf\u00e9 \u041f\u0440\u0438") == 3
    assert tokenizer.lost_text(t, ["plain text"]) is None
    assert tokenizer.lost_text(t, ["\u041f\u0440 x"]) == (
        "2 of 4 characters (50%) have no token in this vocabulary and are dropped")


# --------------------------------------------------------------------------------- a source that changes

def test_a_mended_source_starts_anew_with_the_same_command(tmp_path, capsys):
    path = write(tmp_path / "a.jsonl", rows(TEXTS) + b"{broken\n")
    with pytest.raises(UserError, match="line 121"):
        prepare([path_source("math", path)], tmp_path / "out", workers=1)
    assert (tmp_path / "out" / "prepare.json").exists()
    write(path, rows(TEXTS[20:]))
    out = prepare([path_source("math", path)], tmp_path / "out", workers=1)
    assert "starts over" in capsys.readouterr().err
    fresh = prepare([path_source("math", path)], tmp_path / "fresh", workers=1)
    assert data.Corpus(out, 32, 2, 4).fingerprint == data.Corpus(fresh, 32, 2, 4).fingerprint
    with pytest.raises(MadeOtherwise, match="another setting of sources"):
        prepare([path_source("math", write(path, rows(TEXTS)))], out)


def test_a_damaged_record_of_progress_is_one_line(tmp_path):
    path = write(tmp_path / "a.jsonl", rows(TEXTS) + b"{broken\n")
    with pytest.raises(UserError, match="line 121"):
        prepare([path_source("math", path)], tmp_path / "out", workers=1)
    record = tmp_path / "out" / "prepare.json"
    good = json.loads(record.read_text(encoding="utf-8"))
    math = good["sources"]["math"]
    shard = {"file": "math.train.00000.bin", "tokens": 9, "sha256": "0" * 64}
    for wrong in ({**math, "read": "many"}, {**math, "read": -1}, {**math, "train": None}, 7, {},
                  {**math, "train": {**math["train"], "shards": [{"tokens": 1}]}},
                  {**math, "train": {**math["train"], "tokens": 1.5}},
                  {**math, "train": {**math["train"], "tokens": 8, "shards": [shard]}},
                  {**math, "train": {**math["train"], "shards": 3}}, {**math, "validation_below": "x"}):
        record.write_text(json.dumps({**good, "sources": {"math": wrong}}))
        with pytest.raises(UserError, match="damaged .*; remove .* and start again"):
            prepare([path_source("math", path)], tmp_path / "out", workers=1)
    for wrong in ([], {"recipe": 3, "sources": {}}, {**good, "sources": []},
                  {**good, "sources": {"web": math}}):
        record.write_text(json.dumps(wrong))
        with pytest.raises(UserError):
            prepare([path_source("math", path)], tmp_path / "out", workers=1)


def test_files_of_one_name_have_two_corpora(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = [own_corpus_folder(name) for name in ("my.txt", "x/my.txt", "builtin.txt")]
    assert len({*folders, Path("corpora/builtin"), Path("corpora/my")}) == 5
    assert own_corpus_folder(tmp_path / "my.txt") == folders[0]


# ------------------------------------------------------------------------------------------- lines are kept

def test_own_text_keeps_its_lines(tmp_path):
    lines = [f"ROMEO {number}:\n  But, soft!  what light\n{text}" for number, text in enumerate(TEXTS)]
    verse = "\n\n".join(lines)
    (tmp_path / "play.txt").write_text(verse * 2)
    own = prepare_files([tmp_path / "play.txt"], tmp_path / "own")
    web = prepare([path_source("web", tmp_path / "play.txt")], tmp_path / "web", workers=1)
    decoded = {}
    for folder in (own, web):
        name = data.read_manifest(folder)["lines"].popitem()[0]
        coder = tokenizer.load(folder / "tokenizer")
        decoded[name] = coder.decode(data.Corpus(folder, 64, 1, 4).documents(name, 1)[0].tolist())
    assert "\n  But, soft!  what light\n" in decoded["text"]
    assert "\n" not in decoded["web"] and " But, soft! what light " in decoded["web"]
    raw = "A line \n  and  another\n"
    how = f"cleaned like text in {own}: line breaks are kept"
    assert data.clean_as(own, raw) == ("A line\n  and  another", how)
    assert data.clean_as(web, raw)[0] == "A line and another"


# -------------------------------------------------------------------------------------------- the terminal

def test_control_characters_reach_no_terminal(monkeypatch):
    text = "a\x1b[31m\x9b\x07\n\tb"
    assert common.escaped(text) == "a\\x1b[31m\\x9b\\x07\n\tb"
    assert common.for_terminal(text) == text  # the output of a test is a pipe
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert common.for_terminal(text) == common.escaped(text)
