# SPDX-License-Identifier: Apache-2.0
"""The report of a run: its parts, old runs, running ones, several; nothing that a run says becomes HTML."""
import functools
import html.parser
import json
import re
import xml.etree.ElementTree as xml

import pytest

import train
from bench import readme_picture
from common import UserError
from corpus import builtin
from corpus.documents import builtin_source
from corpus.prepare import prepare
from model import ModelConfig
from publishing.report import main, report
from training import learned
from training.curves import Line, chart, loss_chart
from training.log import read_log, read_samples

SMALL = ModelConfig(4096, 32, 64, 2, 2, 1, 16, 1024, tie_word_embeddings=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Four steps on a small built-in corpus, evaluated twice, with short samples."""
    folder = tmp_path_factory.mktemp("report")
    sources = [builtin_source(kind) for kind in builtin.KINDS]
    corpus = prepare(sources, folder / "builtin", source_token_budget=12_000, validation_share=0.2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learned, "continuations", functools.partial(learned.continuations, most=60))
        train.train(model=SMALL, data=str(corpus), out=str(folder / "run"), steps=4, eval_steps=2, seq_len=32,
                    batch_size=2, max_eval_samples=12, logging_steps=1, device="cpu", precision="fp32")
    return folder / "run"


@pytest.fixture()
def copied(run, tmp_path):
    """What an old or a running run has: run.json and a log."""
    for name in ("run.json", "log.jsonl"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    return tmp_path


class Page(html.parser.HTMLParser):
    """The elements of a page: names, attributes, text, and tags that were left open."""

    def __init__(self, text):
        super().__init__()
        self.names, self.attributes, self.open, self.text = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "input", "path", "circle"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in ("path", "circle"):
            return
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def explorers(page):
    return [json.loads(text) for text in re.findall(r'<script type="application/json">(.*?)</script>', page)]


def test_a_run_has_every_part(run):
    page = report([run])
    found = Page(page)
    assert found.open == []
    for words in ("uniform guess, ln V = 8.32", "token frequencies alone", "entropy, the bound",
                  "tales, validation", "What it writes", "token by token", "parameters are", "Cost",
                  "Settings that differ", "do next"):
        assert words in found.text, words
    assert re.search(r"from scratch on 256 tokens of \S+builtin in \d+ s on cpu\.", found.text)
    for row in read_samples(run):
        assert row["text"][:60] in found.text
    assert found.names.count("svg") == 2
    for text in re.findall("<svg.*?</svg>", page, re.DOTALL):
        xml.fromstring(text)


def test_the_explorer_has_a_state_for_each_snapshot(run):
    (data,) = explorers(report([run]))
    assert [state["label"].split(":")[0] for state in data["states"]] == ["step 1", "step 2", "step 4"]
    lengths = {len(state["rows"]) for state in data["states"]}
    assert len(lengths) == 1 and lengths.pop() > 20
    for state in data["states"]:
        for _, _, colour, best in state["rows"]:
            assert colour in ("green", "yellow", "orange", "red")
            assert 0 <= sum(share for _, _, share in best) <= 1.01 and all(number < len(data["names"])
                                                                           for number, _, _ in best)


def test_nothing_from_elsewhere(run):
    page = report([run])
    assert "default-src 'none'" in page
    links = [value for name, value in Page(page).attributes if name in ("src", "href", "xlink:href")]
    assert links == [] and "url(" not in page and "@import" not in page


def test_a_run_without_snapshots_samples_or_new_fields(copied):
    """An old log has losses only; a run that has just begun has none."""
    rows = [{name: row[name] for name in ("step", "loss", "eval_loss") if name in row}
            for row in read_log(copied / "log.jsonl")]
    (copied / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    info = json.loads((copied / "run.json").read_text(encoding="utf-8"))
    kept = {name: info[name] for name in ("settings", "model", "data", "corpus")}
    (copied / "run.json").write_text(json.dumps(kept))
    page = Page(report([copied]))
    assert "Validation loss" in page.text and page.names.count("svg") == 1
    assert " 0 s" not in page.text and "energy" not in page.text  # no time was recorded
    assert "sample.py" not in page.text                           # there is no model to ask
    (copied / "log.jsonl").unlink()
    page = Page(report([copied]))
    assert "no step yet" in page.text and "Cost" not in page.text and "train.py --resume" in page.text


def test_a_word_of_the_explorer_is_not_broken(run):
    """The tokens of one word are in one element, which keeps them on one line."""
    page = report([run])
    tokens = re.search('<div class="tokens".*?</div>', page, re.DOTALL)[0]
    words = re.findall('<span class="word">(.*?)</span>', tokens)
    texts = [re.findall(r"<button[^>]*>(.*?)</button>", word, re.DOTALL) for word in words]
    assert sum(map(len, texts)) == tokens.count("<button") and max(map(len, texts)) > 1
    for word in texts:
        assert not any(text[0].isspace() for text in word[1:])


def test_many_training_tokens_are_short_numbers_on_the_axis():
    picture = chart("x", [Line("one", [(0, 1.0), (8.5e9, 2.0)], "#000000")], "tokens", "loss")
    assert ">8B<" in picture and ">0<" in picture and "000,000" not in picture


def test_an_unfinished_run_says_how_to_continue(copied):
    rows = [row for row in read_log(copied / "log.jsonl") if row["step"] < 3]
    (copied / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = Page(report([copied])).text
    assert "Step 2 of 4" in text and "train.py --resume" in text


def test_what_a_run_says_is_escaped(run, copied):
    """Names, settings, samples and sources that look like HTML, or are no text at all."""
    bad = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\ud800"
    info = json.loads((copied / "run.json").read_text(encoding="utf-8"))
    info |= {"device": bad, "command": bad, "data": bad}
    info["settings"] |= {"init": bad, "data": bad, bad: bad}
    (copied / "run.json").write_text(json.dumps(info))
    (copied / "samples.jsonl").write_text(json.dumps({"step": 1, "text": bad}) + "\n")
    rows = list(read_log(copied / "log.jsonl"))
    rows.append({"step": 4, "eval_loss": 3.0, "losses": {bad: 2.0, "web": "text"}, "kept": bad})
    rows.append({"step": 4, "eval_loss": None, "kept": {"tales": 0}, "tokens_per_second": bad})
    (copied / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    clean, page = Page(report([run])), Page(report([copied]))
    assert page.names.count("script") <= clean.names.count("script") and "img" not in page.names
    assert not any(name.startswith("on") for name, _ in page.attributes)
    report([copied]).encode()


def test_several_runs_are_compared(run, copied, tmp_path, monkeypatch, capsys):
    out = tmp_path / "class.html"
    monkeypatch.setattr("sys.argv", ["report", str(run), str(copied), "--out", str(out)])
    assert main() == 0
    page = Page(out.read_text(encoding="utf-8"))
    assert page.names.count("h2") == 2 and page.names.count("h1") == 1
    assert page.names.count("svg") == 1 + 2 * 2
    assert ("class", "stacked") in page.attributes and ("data-name", "validation loss") in page.attributes
    monkeypatch.setattr("sys.argv", ["report", str(run), str(copied)])
    with pytest.raises(UserError, match="--out"):
        main()


def test_a_run_that_has_learned_nothing_has_no_share(copied):
    rows = [json.loads(line) for line in (copied / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    for row in rows:
        if "share_of_the_way" in row:
            row |= {"share_of_the_way": -0.07, "eval_loss": 7.0}
    (copied / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = report([copied, copied])
    assert "not yet better than counting tokens" in page and "none yet" in page and "-7.0%" not in page


@pytest.mark.parametrize("content", ["{}", '{"settings": {}, "model": {}}', "[]", '{"model": 1}'])
def test_what_is_no_run_is_named(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(UserError, match="run.json"):
        report([tmp_path])


@pytest.mark.parametrize("name, value", [("origin", []), ("notes", 0), ("data", -1), ("device", None)])
def test_a_field_of_another_type_is_named(copied, name, value):
    info = json.loads((copied / "run.json").read_text(encoding="utf-8"))
    (copied / "run.json").write_text(json.dumps({**info, name: value}))
    with pytest.raises(UserError, match=f"run.json.*{name} must be"):
        report([copied])


def test_a_chart_of_absurd_losses_is_drawn(copied):
    row = {"step": 1, "tokens": 1, "loss": 1e308, "eval_loss": 1e308, "eval_ppl": 1e308}
    with open(copied / "log.jsonl", "a") as log:
        log.write(json.dumps(row) + "\n")
    report([copied])


def test_a_chart_of_one_point_and_of_nothing():
    """Also values that a logarithm does not take."""
    for points in ([(1, 2.0)], [], [(1, 0.0), (2, -1.0)], [(1, float("nan"))], [(0, 3.0), (5, 3.0)]):
        for log in (False, True):
            xml.fromstring(chart("a < b", [Line("x & y", points, "#000")], "step", "loss", log))
    xml.fromstring(loss_chart([{"step": 1, "loss": 8.0}], {}))


def test_the_pictures_of_the_readme_are_those_of_the_records():
    assert readme_picture.CURVE.read_text(encoding="utf-8") == readme_picture.curve()
    assert readme_picture.EXPLORER.read_text(encoding="utf-8") == readme_picture.explorer()
    xml.fromstring(readme_picture.explorer())
