# SPDX-License-Identifier: Apache-2.0
"""Preparation: sources, budgets, the same files from any number of workers, and after any number of kills."""
import gzip
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import numpy as np
import pytest

import common
import data
import tokenizer
from common import ROOT, UserError
from corpus import report as corpus_report
from corpus import documents as hub_sources
from corpus.builtin import builtin_documents
from corpus.command import FINEWEB_HQ, MIXES, parser, prepare_files, sources_of
from corpus.documents import HubDataset, path_source
from corpus.prepare import prepare

DAMAGED = bytearray(
    gzip.compress(
        "".join(json.dumps({"text": f"{n * n} is a square"}) + "\n" for n in range(999)).encode(), mtime=0
    )
)
DAMAGED[300:360] = bytes(60)  # neither cut nor another format: the compressed data make no sense from here on
MATH = [text for text in itertools.islice(builtin_documents("math"), 120)]


def write_rows(path: Path, texts: list[str], column: str = "text") -> Path:
    lines = "".join(json.dumps({column: text, "id": number}) + "\n" for number, text in enumerate(texts))
    path.write_bytes(gzip.compress(lines.encode()) if path.suffix == ".gz" else lines.encode())
    return path


@pytest.fixture
def math_file(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "math.jsonl", MATH)


def tokens_in(folder: Path, name: str, split: str) -> np.ndarray:
    shards = data.read_manifest(folder)["sources"][name][split]["shards"]
    return np.concatenate([np.fromfile(folder / shard["file"], dtype="<u2") for shard in shards])


def documents_in(folder: Path, name: str, split: str) -> list[str]:
    coder = tokenizer.load(folder / "tokenizer")
    tokens = tokens_in(folder, name, split)
    assert tokens[-1] == coder.eos_id  # every document is ended
    return [
        coder.decode(part[:-1].tolist())
        for part in np.split(tokens, np.flatnonzero(tokens == coder.eos_id) + 1)[:-1]
    ]


# ---------------------------------------------------------------------------------------------------- content

def test_every_document_is_there_once_in_order(tmp_path, math_file):
    out = prepare([path_source("math", math_file)], tmp_path / "out", validation_share=0.1, workers=1)
    cleaned = [data.clean_text(text) for text in MATH]
    kept = [text for text in cleaned if data.split_key(text) >= 0.1 * 2**64]
    assert documents_in(out, "math", "train") == kept
    assert documents_in(out, "math", "validation") == [text for text in cleaned if text not in kept]
    record = data.read_manifest(out)["sources"]["math"]
    assert record["train"]["characters"] == sum(map(len, kept)) and record["train"]["documents"] == len(kept)
    assert not (out / "prepare.json").exists()
    assert (
        tokenizer.load(out / "tokenizer").fingerprint == data.read_manifest(out)["tokenizer"]["fingerprint"]
    )


def test_code_keeps_lines_and_stentor2_does_not(tmp_path):
    rows = write_rows(
        tmp_path / "code.jsonl",
        ["def f():\r\n    return 1  \n", "x = 2\n\ny = 3"] * 20 + [f"z = {n}\nw = 1" for n in range(50)],
        "content",
    )
    lines = prepare([path_source("code", rows)], tmp_path / "a", workers=1)
    flat = prepare([path_source("code", rows)], tmp_path / "b", workers=1, one_mode=True)
    assert "def f():\n    return 1" in documents_in(lines, "code", "train") + documents_in(
        lines, "code", "validation"
    )
    assert "def f(): return 1" in documents_in(flat, "code", "train") + documents_in(
        flat, "code", "validation"
    )


def test_copies_never_leave_their_split(tmp_path):
    copies = (
        [text.upper() for text in MATH]
        + [text.replace("\n", "\r\n") for text in MATH]
        + ["\ufeff" + text for text in MATH]
    )
    out = prepare(
        [path_source("math", write_rows(tmp_path / "m.jsonl", MATH + copies))],
        tmp_path / "out",
        validation_share=0.2,
        workers=1,
    )
    train, validation = (
        {data.split_key(text) for text in documents_in(out, "math", split)} for split in data.SPLITS
    )
    assert not train & validation and len(validation) > 10


def test_workers_and_shard_size_change_nothing(tmp_path, math_file):
    folders = [
        prepare(
            [path_source("math", math_file)],
            tmp_path / f"{workers}-{size}",
            workers=workers,
            shard_tokens=size,
        )
        for workers, size in ((1, 10**6), (3, 10**6), (2, 700))
    ]
    for split in data.SPLITS:
        one, many, small = (tokens_in(folder, "math", split) for folder in folders)
        assert (one == many).all() and (one == small).all()
    shards = data.read_manifest(folders[2])["sources"]["math"]["train"]["shards"]
    assert {shard["tokens"] for shard in shards[:-1]} == {700} and len(shards) > 10
    fingerprints = [data.Corpus(folder, 64, 2, 4).fingerprint for folder in folders]
    assert fingerprints[0] == fingerprints[1]


def test_budgets(tmp_path, math_file):
    web = write_rows(
        tmp_path / "web.jsonl",
        [f"Story {n}. " + "Once upon a time there was a fox. " * 20 for n in range(400)],
    )
    sources = [path_source("web", web), path_source("math", math_file)]
    out = prepare(sources, tmp_path / "a", token_budget=8000, validation_share=0.2, workers=1)
    record = data.read_manifest(out)["sources"]
    # as much of each as a run of 8,000 tokens uses, and the rest of the last document
    for name in ("web", "math"):
        share = data.average_share(
            *(data.read_manifest(out)["mixture"][side][name] for side in ("start", "end"))
        )
        assert 0 <= record[name]["train"]["tokens"] - 8000 * share < 600
    out = prepare(
        [path_source("math", math_file)],
        tmp_path / "b",
        source_token_budget=3000,
        validation_share=0.2,
        workers=1,
    )
    assert 3000 <= data.read_manifest(out)["sources"]["math"]["train"]["tokens"] < 3600
    with pytest.raises(UserError, match="GB free; lower --tokens"):
        prepare([path_source("math", math_file)], tmp_path / "c", token_budget=10**16)


def test_small_sources_still_give_a_validation_document(tmp_path):
    for count in (2, 3, 30):
        rows = write_rows(tmp_path / f"{count}.jsonl", MATH[:count])
        out = prepare([path_source("math", rows)], tmp_path / str(count), workers=1, validation_share=0.001)
        record = data.read_manifest(out)["sources"]["math"]
        assert record["validation"]["documents"] == 1 and record["train"]["documents"] == count - 1
    with pytest.raises(UserError, match="1 different documents; at least two"):
        prepare(
            [path_source("math", write_rows(tmp_path / "same.jsonl", MATH[:1] * 9))],
            tmp_path / "same",
            workers=1,
        )


# ------------------------------------------------------------------------------------ stopping and continuing

# The program counts its file operations in the output folder (PEP 578), not those of its workers, and kills
# itself before number kill_at (0: never).
RUN = """
import os, signal, sys
from corpus import prepare as prepare_corpus
from corpus.documents import path_source
math, web, out, workers, kill_at = *sys.argv[1:4], int(sys.argv[4]), int(sys.argv[5])
operations, own_id = 0, os.getpid()

def count(event, arguments):
    global operations
    watched = event in ("open", "os.rename", "os.remove") and str(arguments[0]).startswith(out)
    if watched and os.getpid() == own_id:
        operations += 1
        if operations == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(count)
prepare_corpus.SAVE_SECONDS = 0.0
sources = [path_source("math", math), path_source("web", web)]
prepare_corpus.prepare(sources, out, shard_tokens=2000, workers=workers)
print(operations)
"""


def run_prepare(files, out, workers, kill_at=0) -> subprocess.CompletedProcess:
    """One call of RUN, repeated while the workers of a killed process still hold the folder's lock."""
    for _ in range(100):
        done = subprocess.run(
            [sys.executable, "-c", RUN, *map(str, [*files, out, workers, kill_at])],
            cwd=ROOT, capture_output=True, text=True,
        )
        if "another process" not in done.stderr:
            return done
        time.sleep(0.1)
    raise AssertionError(f"{out} stayed locked: {done.stderr}")


def killed_and_continued(tmp_path, files, workers, kills, seed) -> Path:
    """Kill a preparation `kills` times before a random file operation, then let it end."""
    undisturbed = run_prepare(files, tmp_path / f"counted-{workers}-{seed}", workers)
    operations = int(undisturbed.stdout.split()[-1])
    draw, out, hits = random.Random(seed), tmp_path / f"killed-{workers}-{seed}", 0
    for _ in range(20 * kills):
        if hits == kills:
            break
        done = run_prepare(files, out, workers, kill_at=draw.randint(1, operations))
        if done.returncode == -signal.SIGKILL:
            hits += 1
        else:  # it was complete before that operation: from the start again
            assert done.returncode == 0, done.stderr
            shutil.rmtree(out)
    assert hits == kills
    done = run_prepare(files, out, workers)
    assert done.returncode == 0, done.stderr
    return out


def same_files(one: Path, other: Path) -> None:
    names = [
        sorted(path.name for path in folder.iterdir() if path.is_file() and path.name != ".lock")
        for folder in (one, other)
    ]
    assert names[0] == names[1]
    for name in names[0]:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def kill_files(tmp_path: Path) -> list[Path]:
    return [
        write_rows(tmp_path / "math.jsonl", MATH),
        write_rows(tmp_path / "web.jsonl", [text.replace("1", "one ") for text in MATH]),
    ]


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.ci), 2])
def test_killed_preparations_lose_and_repeat_nothing(tmp_path, workers):
    files = kill_files(tmp_path)
    out = killed_and_continued(tmp_path, files, workers, kills=3, seed=workers)
    same_files(
        out,
        prepare(
            [path_source("math", files[0]), path_source("web", files[1])],
            tmp_path / "whole",
            shard_tokens=2000,
            workers=1,
        ),
    )


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_fifty_kills(tmp_path):
    files = kill_files(tmp_path)
    whole = prepare(
        [path_source("math", files[0]), path_source("web", files[1])],
        tmp_path / "whole",
        shard_tokens=2000,
        workers=1,
    )
    for seed in range(10):
        out = killed_and_continued(tmp_path, files, 1 + seed % 2, kills=5, seed=seed)
        same_files(out, whole)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory as Linux reports it")
def test_memory_is_flat(tmp_path):
    """Ten times the input, 30 MB of text more, in the same memory: each in a process of its own, the writer
    and the largest of two workers.
    """
    peaks = []
    for copies in (1, 10):
        target = str(tmp_path / str(copies))
        code = f"from bench.pipeline import prepare_copies; prepare_copies({copies}, {target!r})"
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        )
        peaks.append([int(number) for number in re.findall(r"(\d+) MiB", done.stdout)])
    assert len(peaks[0]) == 2 and max(more - less for less, more in zip(*peaks)) < 10, peaks


def test_prepared_twice_is_found_and_other_settings_are_refused(tmp_path, math_file):
    out = prepare([path_source("math", math_file)], tmp_path / "out", workers=1)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert prepare([path_source("math", math_file)], out, workers=2) == out
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.name != ".lock"} == {
        p: t for p, t in before.items() if p.name != ".lock"
    }
    with pytest.raises(UserError, match="another setting of shard_tokens"):
        prepare([path_source("math", math_file)], out, shard_tokens=10)
    content = math_file.read_text(encoding="utf-8")
    # the second is as long as before
    for changed in (
        content + json.dumps({"text": "one more"}) + "\n",
        content.replace("Answer", "answer", 1),
    ):
        assert changed != content
        math_file.write_text(changed)
        with pytest.raises(UserError, match="another setting of sources"):
            prepare([path_source("math", math_file)], out)


def test_unfinished_folder_is_no_corpus(tmp_path, math_file):
    bad = math_file.with_name("bad.jsonl")
    bad.write_text(math_file.read_text(encoding="utf-8") + "{broken\n")
    with pytest.raises(UserError, match="line 121 is not a JSON object"):
        prepare([path_source("math", bad)], tmp_path / "out", workers=1)
    with pytest.raises(UserError, match="not finished; run the same"):
        data.Corpus(tmp_path / "out", 64, 2, 4)
    assert json.loads((tmp_path / "out" / "prepare.json").read_bytes())["sources"]["math"]["read"] == 120


def test_two_at_once(tmp_path, math_file, capfd, monkeypatch):
    """The second waits for the first and finds the corpus; a folder that vanishes meanwhile is made again."""
    out = tmp_path / "out"
    out.mkdir()
    held, refused = common.lock_folder(out), threading.Event()

    def lock(folder: Path):
        try:
            return common.lock_folder(folder)
        except common.FolderBusy:
            refused.set()
            raise

    def release() -> None:
        refused.wait()
        shutil.rmtree(out)
        held.close()

    monkeypatch.setattr("corpus.prepare.lock_folder", lock)
    thread = threading.Thread(target=release, daemon=True)
    thread.start()
    assert prepare([path_source("math", math_file)], out, workers=1) == out
    thread.join()
    assert "waiting for another process" in capfd.readouterr().err
    assert data.read_manifest(out)["sources"]["math"]["done"]


def test_a_finished_corpus_that_cannot_be_written_is_found(tmp_path, math_file, monkeypatch):
    source = path_source("math", math_file)
    prepare([source], tmp_path / "c")
    monkeypatch.setattr("corpus.prepare.lock_folder", lambda folder: pytest.fail("a lock is a file"))
    assert prepare([source], tmp_path / "c") == tmp_path / "c"


def test_a_file_in_place_of_the_folder_is_named(tmp_path, math_file):
    (tmp_path / "c").write_text("mine")
    with pytest.raises(UserError, match="c: a file, not a folder"):
        prepare([path_source("math", math_file)], tmp_path / "c")
    assert (tmp_path / "c").read_text(encoding="utf-8") == "mine"


def test_a_failure_removes_only_what_it_made(tmp_path, math_file):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "one"}\n')
    with pytest.raises(UserError, match="different documents"):
        prepare([path_source("math", bad)], tmp_path / "new")
    assert not (tmp_path / "new").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="different documents"):
        prepare([path_source("math", bad)], tmp_path / "mine")
    assert (tmp_path / "mine" / "notes.txt").read_text(encoding="utf-8") == "mine"


# ---------------------------------------------------------------------------------------------------- sources

def test_file_kinds_give_the_same_documents(tmp_path):
    pyarrow = pytest.importorskip(
        "pyarrow", reason="parquet files are read with pyarrow (pip install .[hub])"
    )
    import pyarrow.parquet
    texts = ["one\ntwo", "", "  ", "d\u00e9j\u00e0 vu \U0001f600", "last"]
    write_rows(tmp_path / "a.jsonl", texts)
    write_rows(tmp_path / "a.jsonl.gz", texts, "content")
    pyarrow.parquet.write_table(
        pyarrow.table({"id": list(range(5)), "text": texts}), tmp_path / "a.parquet", row_group_size=2
    )
    for name in ("a.jsonl", "a.jsonl.gz", "a.parquet"):
        assert list(path_source("web", tmp_path / name).documents(0)) == texts
        assert list(path_source("web", tmp_path / name).documents(3)) == texts[3:]


def test_real_samples_agree(shared):
    pytest.importorskip("pyarrow", reason="parquet files are read with pyarrow (pip install .[hub])")
    folder = shared / "corpus"
    rows, table = (
        path_source("math", folder / name).documents(8000) for name in ("math.jsonl.gz", "math.parquet")
    )
    assert list(rows) == list(table)
    assert sum(1 for _ in path_source("code", folder / "heldout_code.jsonl.gz").documents(0)) == 56


def test_text_is_cut_at_blank_lines_and_nothing_is_lost(tmp_path):
    draw = random.Random(3)
    paragraphs = ["word " * draw.randrange(1, 400) + "\n" for _ in range(300)]
    text = "\n".join(paragraphs) + "\n" + "line\n" * 9000 + "x" * 100_000
    (tmp_path / "my.txt").write_text("\ufeff" + text, encoding="utf-8")
    documents = list(path_source("web", tmp_path / "my.txt").documents(0))
    assert "".join(documents) == text
    assert all(len(document) <= 5 * hub_sources.DOCUMENT_CHARACTERS for document in documents)
    assert all(document.endswith("\n\n") for document in documents[:30])
    (tmp_path / "short.txt").write_text("one short text")
    assert list(path_source("web", tmp_path / "short.txt").documents(0)) == ["one short text"]


def test_folders_are_read_in_the_order_of_names(tmp_path):
    for name in ("b.py", "a.py", "sub/c.py", ".hidden"):
        (tmp_path / "src" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "src" / name).write_text(f"name = {name!r}\n\n\n")
    assert list(path_source("code", tmp_path / "src").documents(0)) == [
        f"name = {name!r}\n\n\n" for name in ("a.py", "b.py", "sub/c.py")
    ]
    assert hub_sources.kind_of(tmp_path / "src") == "code"


def test_own_text_in_one_call(tmp_path):
    (tmp_path / "my.txt").write_text("\n\n".join(MATH), encoding="utf-8")
    out = prepare_files([tmp_path / "my.txt"], tmp_path / "corpus")
    corpus = data.Corpus(out, 64, 4, 10)
    assert corpus.names == ["text"] and corpus.batch(9).shape == (4, 64)
    assert data.Corpus(out, 64, 1, split="validation").num_blocks > 0


@pytest.mark.parametrize("name, content, message", [
    ("a.jsonl", b'{"body": "x"}\n', "no column text or content; found body"),
    ("a.jsonl", b"[1]\n", "line 1 is not a JSON object"),
    ("a.jsonl", b'{"text": "\xff"}\n', "not UTF-8"),
    ("a.jsonl.gz", gzip.compress(b'{"text": "abc"}\n' * 99, mtime=0)[:-9], "damaged gzip"),
    ("a.jsonl.gz", b"no gzip at all", "damaged gzip"), ("a.jsonl.gz", DAMAGED, "damaged gzip"),
    ("a.parquet", b"PAR1 but not really", "not a readable parquet file"),
        ("a.txt", b"\xff\xfe", "not UTF-8")])
def test_broken_files_are_named(tmp_path, name, content, message):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow", reason="parquet files are read with pyarrow (pip install .[hub])")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        prepare([path_source("web", tmp_path / name)], tmp_path / "out", workers=1)
    assert name in str(caught.value) and "\n" not in str(caught.value)
    progress = tmp_path / "out" / "prepare.json"  # nothing is left unless something was written of it
    assert progress.exists() == (tmp_path / "out").exists()


def test_sources_of_the_command_line(tmp_path):
    mix = MIXES["stentor3"]
    assert [source.name for source in sources_of(["builtin"], mix)] == ["web", "code", "math"]
    assert [source.name for source in sources_of(["builtin-math"], mix)] == ["math"]
    assert [source.identity for source in sources_of(["hub"], mix)] == [
        "epfml/FineWeb-HQ CC-MAIN-2024-51",
        "Cyrile/dataset-the-stack-v2-dedup-sub Python",
        "HuggingFaceTB/finemath finemath-4plus",
    ]
    assert (
        sources_of(["hub"], MIXES["portimbria"])[1].identity
        == "bigcode/starcoderdata python, bigcode/starcoderdata javascript, bigcode/starcoderdata typescript"
    )
    for wanted, message in (
        (["webb"], "expected builtin"),
        (["web=/no/such/place"], "no such file"),
        (["builtin", "builtin-math"], "given twice"),
    ):
        with pytest.raises(UserError, match=message):
            sources_of(wanted, mix)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no file with documents in this folder"):
        path_source("web", tmp_path / "empty")
    assert (
        MIXES["stentor3"].start == {"web": 0.75, "code": 0.15, "math": 0.10}
        and MIXES["stentor2"].one_mode
        and not mix.one_mode
    )


# -------------------------------------------------------------------------------------------------------- hub

@pytest.mark.ci
def test_hub_rows_come_by_turns(tmp_path, monkeypatch):
    """The real `datasets` library, streaming; only the address is local."""
    datasets = pytest.importorskip(
        "datasets", reason="the hub is read with the datasets library (pip install .[hub])"
    )
    for language in ("python", "javascript"):
        write_rows(
            tmp_path / f"{language}.jsonl",
            [f"{language} {n}" for n in range(3 if language == "python" else 5)],
            "content",
        )
    real = datasets.load_dataset

    def local(path, name=None, data_dir=None, split=None, streaming=None):
        return real("json", data_files=str(tmp_path / f"{data_dir}.jsonl"), split=split, streaming=streaming)
    monkeypatch.setattr(datasets, "load_dataset", local)
    source = hub_sources.hub_source(
        "code", [HubDataset("x/y", data_dir="python"), HubDataset("x/y", data_dir="javascript")]
    )
    rows = list(source.documents(0))
    assert rows == [
        "python 0",
        "javascript 0",
        "python 1",
        "javascript 1",
        "python 2",
        "javascript 2",
        "javascript 3",
        "javascript 4",
    ]
    assert list(source.documents(5)) == rows[5:]


@pytest.mark.ci
def test_a_repository_with_subsets_and_other_columns(tmp_path):
    """The real `datasets` library on a folder laid out as FineWeb-HQ is on the hub: the subset that is named,
    and no column but the text.
    """
    pytest.importorskip("datasets", reason="the hub is read with the datasets library (pip install .[hub])")
    pyarrow = pytest.importorskip(
        "pyarrow", reason="parquet files are read with pyarrow (pip install .[hub])"
    )
    import pyarrow.parquet
    for subset in ("CC-MAIN-2024-51", "CC-MAIN-2024-46"):
        (tmp_path / "data" / subset).mkdir(parents=True)
        table = pyarrow.table(
            {
                "id": ["a", "b", "c"],
                "text": [f"{subset} {n}" for n in range(3)],
                "embeddings": [[[0.5] * 768]] * 3,
            }
        )
        pyarrow.parquet.write_table(table, tmp_path / "data" / subset / "00000.parquet")
    configs = "".join(
        f"- config_name: {subset}\n  data_files: data/{subset}/*\n"
        for subset in ("CC-MAIN-2024-46", "CC-MAIN-2024-51")
    )
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    own = HubDataset(str(tmp_path), FINEWEB_HQ.name, columns=FINEWEB_HQ.columns)
    assert list(hub_sources.hub_source("web", [own]).documents(1)) == [
        "CC-MAIN-2024-51 1",
        "CC-MAIN-2024-51 2",
    ]
    with pytest.raises(UserError, match="no column text or content; found id"):
        next(hub_sources.texts_of(iter([{"id": 1}]), str(tmp_path)))
    with pytest.raises(UserError, match="interrupted after 0 rows .*CC-MAIN-1999-01"):
        next(hub_sources.hub_texts(HubDataset(str(tmp_path), "CC-MAIN-1999-01")))


@pytest.mark.ci
def test_an_unreachable_hub_is_one_line(tmp_path):
    """The real `datasets` library without a network."""
    pytest.importorskip("datasets", reason="the hub is read with the datasets library (pip install .[hub])")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [
            sys.executable,
            ROOT / "data.py",
            "prepare",
            "--source",
            "hub",
            "--tokens",
            "1M",
            "--out",
            tmp_path / "out",
        ],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 2 and not done.stdout
    assert (
        done.stderr.startswith("data.py: error: epfml/FineWeb-HQ: interrupted after 0 rows")
        and done.stderr.count("\n") == 1
    )


def stand_in(monkeypatch, load_dataset) -> None:
    """A `datasets` module that answers with what the real one was seen to raise or yield."""
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))


@pytest.mark.parametrize("error, message", [
    (ConnectionError("Couldn't reach 'x/y' on the Hub"), "is the hub reachable"),
    (RuntimeError("Dataset 'x/y' is a gated dataset on the Hub."), "it is gated"),
    (ValueError("BuilderConfig 'z' not found.\nAvailable: ['a']"),
        "ValueError: BuilderConfig 'z' not found. Available")])
def test_hub_errors_are_one_line(monkeypatch, error, message):
    def fail(*_, **__):
        raise error
    stand_in(monkeypatch, fail)
    with pytest.raises(UserError, match=message) as caught:
        next(hub_sources.hub_texts(HubDataset("x/y", "z")))
    assert "x/y" in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_column_and_a_missing_library_are_one_line(monkeypatch):
    stand_in(monkeypatch, lambda *_, **__: [{"body": "x", "id": 1}])
    with pytest.raises(UserError, match="x/y: no column text or content; found body, id"):
        next(hub_sources.hub_texts(HubDataset("x/y")))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r'pip install "\.\[hub\]"'):
        next(hub_sources.hub_texts(HubDataset("x/y")))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_hub_that_breaks_off_is_continued(tmp_path, monkeypatch, math_file, workers):
    broken = {"at": 110}

    def rows(*_, **__):
        for number, text in enumerate(MATH):
            if number == broken["at"]:
                raise ConnectionError("connection reset")
            yield {"text": text}
    stand_in(monkeypatch, rows)
    source = hub_sources.hub_source("math", [HubDataset("x/y")])
    with pytest.raises(UserError, match="x/y: interrupted after 110 rows .* run the same command again"):
        prepare([source], tmp_path / "out", workers=workers)
    assert json.loads((tmp_path / "out" / "prepare.json").read_bytes())["sources"]["math"]["read"] == 110
    broken["at"] = -1
    out = prepare([source], tmp_path / "out", workers=workers)
    whole = prepare([path_source("math", math_file)], tmp_path / "whole", workers=1)
    for split in data.SPLITS:
        assert (tokens_in(out, "math", split) == tokens_in(whole, "math", split)).all()


# ----------------------------------------------------------------------------------------------- command line

@pytest.fixture
def command(monkeypatch, capsys):
    """Run `python data.py ARGUMENTS` in this process; returns exit code, output and error output."""
    def call(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["data.py", *map(str, arguments)])
        code = common.run(data.main)
        return (code, *capsys.readouterr())
    return call


def test_commands(tmp_path, math_file, command):
    out = tmp_path / "corpus"
    code, printed, error = command(
        "prepare", "--source", f"math={math_file}", "--out", out, "--workers", "1", "--shard_tokens", "4k"
    )
    assert code == 0 and "training tokens" in printed and f"python data.py info {out}" in printed, error
    code, printed, error = command(
        "info", out, "--steps", "20", "--seq-len", "64", "--plot", tmp_path / "mix.svg"
    )
    assert code == 0, error
    for part in (
        "have no padding",
        "mixture over 20 steps of 8 x 64 tokens",
        "chars/token",
        "step 0, row 0",
    ):
        assert part in printed
    assert (tmp_path / "mix.svg").read_text(encoding="utf-8").startswith("<?xml")
    assert command("info", out, "--mix-at", "3")[1].startswith("step 3 of")
    for wrong in (
        ("info", "--mix-at", "99999"),
        ("info", "--mix-at", "-1"),
        ("info", "--plot", tmp_path / "mix.foo"),
        ("show", "--step", "-1"),
        ("show", "--row", "8"),
    ):
        code, _, error = command(wrong[0], out, "--seq-len", "64", *wrong[1:])
        assert code == 2 and error.count("\n") == 1, wrong
    code, printed, error = command(
        "show", out, "--step", "7", "--row", "3", "--steps", "20", "--seq-len", "64"
    )
    assert code == 0 and printed.startswith("step 7, row 3: block"), error
    coder = tokenizer.load(out / "tokenizer")
    row = data.Corpus(out, 64, 8, 20).batch(7)[3]
    shown = printed.split("\n", 2)[2].rstrip("\n").replace("\n----- separator -----\n", "")
    assert shown == coder.decode([id for id in row.tolist() if id != coder.eos_id])


def test_show_takes_a_run_folder(tmp_path, math_file, capsys):
    out = prepare([path_source("math", math_file)], tmp_path / "corpus", workers=1)
    (tmp_path / "run").mkdir()
    record = {"settings": {"seq_len": 32, "batch_size": 2, "steps": 9, "seed": 5}, "data": str(out)}
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    corpus = corpus_report.opened(parser().parse_args(["show", str(tmp_path / "run"), "--step", "8"]))
    assert (corpus.batch(8) == data.Corpus(out, 32, 2, 9, seed=5).batch(8)).all()


@pytest.mark.parametrize("arguments, message", [
    (["prepare", "--source", "web=/no/such/file"], "no such file or folder"),
    (["info", "/no/such/corpus"], "no prepared corpus here"),
    (["prepare", "--sorce", "builtin"], "did you mean --source"), (["show"], "DIR"),
    (["prepare", "--tokens", "many"], "not a number"),
    (["prepare", "--mix", "stentor4"], "invalid choice"),
    (["prepare", "--tokens", "0"], "--tokens/--token-budget: '0' is not at least 1"),
    (["prepare", "--shard-tokens", "-1"], "is not at least 1"),
    (["prepare", "--workers", "0"], "is not at least 1"),
    (["prepare", "--validation-share", "0"], "between 0 and 1"),
    (["prepare", "--source", "../x=setup.py"], "no such kind in this mixture"),
    (["prepare", "--source", "web="], "expected builtin"),
        (["info", "x", "--seq-len", "0"], "--seq-len: '0' is not at least 1")])
def test_misuse_is_one_line_and_exit_code_2(tmp_path, monkeypatch, command, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, printed, error = command(*arguments)
    assert code == 2 and message in error and error.count("\n") == 1 and not printed
    assert not list(tmp_path.iterdir())


def test_leftovers_of_a_killed_run_are_no_part_of_the_corpus(tmp_path):
    """A kill inside the writing of a vocabulary's file leaves a temporary neighbour; the next run removes it
    and does not list it.
    """
    files = kill_files(tmp_path)
    (tmp_path / "out" / "tokenizer").mkdir(parents=True)
    for place in ("", "tokenizer"):
        (tmp_path / "out" / place / ".tokenmonster_hf.py.1.tmp").write_text("half")
    folder = prepare([path_source("math", files[0])], tmp_path / "out", workers=1)
    named = data.read_manifest(folder)["tokenizer"]["files"]
    assert not list(folder.rglob("*.tmp")) and not any(".tmp" in name for name in named)
