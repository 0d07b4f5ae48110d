# SPDX-License-Identifier: Apache-2.0
"""A model folder as others read it: the files and their keys, transformers 4.5x and 5.x, and folders that
transformers wrote.
"""
import ast
import dataclasses
import json
import sys

import numpy
import pytest
import torch
from oracle_runner import oracle
from safetensors.torch import load_file, save_file

import data
from corpus.command import prepare_files
import tokenizer
from common import ROOT, UserError
from publishing import card
from vocab_files.tokenizer_files import module_text
from training.job import open_job
from model import SIZES, Llama, ModelConfig, next_token_loss
from sample import generate
from train import train

VOCABULARIES = {"20m": "english-4096-strict-nocapcode-v1", "30m": "english-8000-strict-nocapcode-v1"}


def save_folder(folder, size, vocabulary, **changes):
    """A model of `size`, two layers deep, with random weights large enough for logits to differ, and its
    tokenizer. Returns both.
    """
    torch.manual_seed(0)
    config = dataclasses.replace(SIZES[size], num_hidden_layers=2, **changes)
    model = Llama(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)
    t = tokenizer.load(vocabulary)
    model.save_pretrained(folder, eos_token_id=t.eos_id, bos_token_id=t.bos_id, pad_token_id=t.pad_id)
    t.save_pretrained(folder)
    return model, t


def texts(shared, vocabulary) -> list[str]:
    """The golden cases of a vocabulary, and lines of real text of each kind."""
    golden = json.loads((shared / "golden" / "tokenmonster.json").read_text(encoding="utf-8"))
    found = [case["text"] for case in golden if case["vocab"] == vocabulary]
    return found + [
        "",
        "a<|endoftext|>b <|user|>",
        "one\r\ntwo\rthree\n\n\tfour",
        "e\u0301\u00e9 \u65e5\u672c\u8a9e \U0001f600\x7f\x00",
        "x" * 3000,
    ]


def write_expectations(folder, model, t, cases):
    """What the oracle compares with: ids, decoded text, logits, a greedy continuation."""
    expected = [
        {
            "text": text,
            "ids": t.encode(text, document=True),
            "decoded": t.decode(t.encode(text, document=True)),
        }
        for text in cases
    ]
    (folder / "cases.json").write_text(json.dumps(expected))
    ids = torch.randint(t.vocab.rows, (2, 129), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = model(ids)
    prompt = t.encode("Once upon a time", document=True)
    greedy = generate(model, prompt, 12, temperature=0)
    numpy.savez(
        folder / "logits.npz", input_ids=ids.numpy(), logits=logits.numpy(), prompt_ids=prompt, greedy=greedy
    )
    assert logits.std() > 0.5 and len(set(greedy)) > 1


def check_loaded(shared, tmp_path, environment, size):
    vocabulary = VOCABULARIES[size]
    folder = tmp_path / f"model_{size}"
    model, t = save_folder(folder, size, shared / "vocabs" / f"{vocabulary}.vocab")
    write_expectations(tmp_path, model, t, texts(shared, vocabulary))
    report = oracle(
        environment, "load_folder.py", folder, tmp_path / "cases.json", tmp_path / "logits.npz", work=tmp_path
    )
    print(report["transformers"], "largest logit difference", report["logit_difference"])
    assert report["warnings"] == [] and report["loading_info"] == {}
    assert report["classes"] == ["LlamaConfig", "LlamaForCausalLM", "TokenMonsterTokenizer"]
    assert report["wrong_ids"] == [] and report["wrong_text"] == []
    assert report["logit_difference"] < 1e-4 and report["greedy_agrees"] and report["padded_batch_agrees"]
    assert report["pipeline_starts_with_prompt"]
    named = {t.eos_id, t.bos_id} - {None}
    ids = len(named | set(range(t.vocab.size)))
    assert report["tokenizer"] == {
        "vocab_size": t.vocab.size,
        "len": ids,
        "strings": ids,
        "ids": ids,
        "highest": ids - 1,
        "eos": t.eos_id,
        "bos": t.bos_id,
        "pad": t.pad_id,
        "model_max_length": model.config.max_position_embeddings,
        "round_trip": True,
        "past_the_table": t.decode([model.config.vocab_size - 1])
        if t.vocab.rows == model.config.vocab_size
        else "",
    }
    assert report["special"] == {
        "shown": "Hello<|endoftext|>Hello",
        "skipped": "HelloHello",
        "in_text": 1,
        "split": False,
        "as_tokens": "Hello<|endoftext|>",
    }
    assert report["chat"] == {
        "text": "<|user|>Hi there<|assistant|>Hello<|user|>Bye<|assistant|>",
        "ids_agree": True,
    }
    assert report["saved_again"] == [True, True, True]


@pytest.mark.ci
@pytest.mark.parametrize("size", VOCABULARIES)
@pytest.mark.parametrize("environment", ["tf4", "tf5"])
def test_loads_in_both_versions(shared, tmp_path, environment, size):
    check_loaded(shared, tmp_path, environment, size)


# ------------------------------------------------------------------------------------------ the folder itself

def test_shipped_module_stands_alone():
    """transformers looks up every import of such a file, and copies no sibling: the standard library, numpy
    and transformers only.
    """
    tree = ast.parse(module_text())
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import needs a sibling"
            found.add(node.module.split(".")[0])
    assert found - set(sys.stdlib_module_names) <= {"numpy", "transformers"}
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert "__file__" not in used
    core = (
        (ROOT / "tokenizer.py")
        .read_text(encoding="utf-8")
        .split("# --- core: begin")[1]
        .split("# --- core: end")[0]
    )
    assert core in module_text(), "the encoder that travels is the project's own, letter for letter"


def test_folder_files_and_keys(shared, tmp_path):
    """The keys that layout rules ask for, checked without transformers."""
    for size, vocabulary in VOCABULARIES.items():
        folder = tmp_path / size
        source = shared / "vocabs" / f"{vocabulary}.vocab"
        model, t = save_folder(folder, size, source)
        assert {file.name for file in folder.iterdir()} == {
            "config.json",
            "generation_config.json",
            "model.safetensors",
            "tokenizer_config.json",
            "tokenmonster_hf.py",
            "tokenmonster.vocab",
        }
        assert (folder / "tokenmonster.vocab").read_bytes() == source.read_bytes()
        assert (folder / "model.safetensors").stat().st_mode & 0o777 == 0o644
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == model.config.rope_theta
        assert {
            "bos_token_id",
            "eos_token_id",
            "pad_token_id",
            "head_dim",
            "num_key_value_heads",
            "rms_norm_eps",
        } <= set(config)
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        assert settings["auto_map"] == {"AutoTokenizer": ["tokenmonster_hf.TokenMonsterTokenizer", None]}
        assert settings["model_max_length"] == model.config.max_position_embeddings
        names = {id: token["content"] for id, token in settings["added_tokens_decoder"].items()}
        assert names[str(t.eos_id)] == settings["eos_token"] == settings["pad_token"] == "<|endoftext|>"
        assert (
            config["eos_token_id"] == config["pad_token_id"] == t.eos_id
            and config["bos_token_id"] == t.bos_id
        )
        assert settings["bos_token"] == (None if t.bos_id is None else names[str(t.bos_id)])
        generation = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
        assert generation["eos_token_id"] == t.eos_id and ("bos_token_id" in generation) == (
            t.bos_id is not None
        )


# ---------------------------------------------------------------------------- folders that transformers wrote

def check_written(tmp_path, environment):
    out = tmp_path / "written"
    report = oracle(environment, "write_folders.py", out, work=tmp_path)
    assert report["shards"] > 3
    kinds = sorted(folder.name for folder in out.iterdir() if not folder.name.startswith("refuse_"))
    assert len(kinds) == 11
    for kind in kinds:
        expected = numpy.load(out / kind / "logits.npz")
        model = Llama.from_pretrained(out / kind)
        with torch.no_grad():
            difference = numpy.abs(
                model(torch.from_numpy(expected["input_ids"])).numpy() - expected["logits"]
            ).max()
        assert difference < 1e-4 and expected["logits"].std() > 0.5, f"{kind}: {difference}"
    named = {
        "attention_bias": "attention_bias",
        "mlp_bias": "mlp_bias",
        "hidden_act": "hidden_act 'gelu'",
        "linear": "rope scaling 'linear'",
        "dynamic": "rope scaling 'dynamic'",
        "llama3": "rope scaling 'llama3'",
        "yarn": "rope scaling 'yarn'",
        "mistral": "model_type 'mistral'",
        "sliding_window": "sliding_window 16",
        "quantization_config": "quantization_config",
    }
    for why, words in named.items():
        with pytest.raises(UserError) as error:
            Llama.from_pretrained(out / f"refuse_{why}")
        assert words in str(error.value) and f"refuse_{why}" in str(error.value), error.value


@pytest.mark.ci
@pytest.mark.parametrize("environment", ["tf4", "tf5"])
def test_folders_of_transformers(tmp_path, environment):
    """GQA or not, tied or not, sharded, BF16 and FP16: equal logits. What a plain Llama has no place for is
    refused by its name.
    """
    check_written(tmp_path, environment)


def small_folder(tmp_path, **changes):
    """A two-layer folder of ours, and its config.json as a dictionary, for changing by hand."""
    folder = tmp_path / "small"
    config = ModelConfig(
        **{**dataclasses.asdict(SIZES["tiny"]), "vocab_size": 64, "num_hidden_layers": 2, **changes}
    )
    Llama(config).save_pretrained(folder, eos_token_id=2)
    return folder, json.loads((folder / "config.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("key, value, words", [
    ("rope_scaling", {"type": "linear", "factor": 2.0}, "rope scaling 'linear'"),
    ("rope_parameters", {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
    "partial_rotary_factor 0.5"),
    ("partial_rotary_factor", 0.5, "partial_rotary_factor 0.5"),
    ("rope_parameters", {"rope_type": "default", "rope_theta": 777.0}, "rope_theta"),
    ("hidden_act", "relu", "hidden_act 'relu'"),
])
def test_refused_by_name(tmp_path, key, value, words):
    folder, config = small_folder(tmp_path)
    (folder / "config.json").write_text(json.dumps({**config, key: value}))
    with pytest.raises(UserError, match=words.replace("[", r"\[")):
        Llama.from_pretrained(folder)


def test_quantized_weights_are_refused_by_dtype(tmp_path):
    folder, _ = small_folder(tmp_path)
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"] = weights["model.layers.0.mlp.up_proj.weight"].to(torch.int8)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(UserError, match="up_proj.weight has dtype I8; only F32, F16 and BF16"):
        Llama.from_pretrained(folder)


def test_tied_model_with_another_head_is_refused(tmp_path):
    """transformers 4 would ignore such a head and 5 would use it: one folder, two models. An equal copy is
    harmless.
    """
    folder, _ = small_folder(tmp_path)
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, folder / "model.safetensors")
    Llama.from_pretrained(folder)
    weights["lm_head.weight"][3, 5] += 1
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(UserError, match="lm_head.weight differs from model.embed_tokens.weight"):
        Llama.from_pretrained(folder)


def test_old_config_means_what_it_meant(tmp_path):
    """Keys that old files leave out or set to null have transformers' defaults: as many key/value heads as
    heads, theta 10,000, eps 1e-6.
    """
    folder, config = small_folder(tmp_path, num_key_value_heads=4)
    for key in ("rope_parameters", "rope_theta", "rms_norm_eps", "head_dim", "tie_word_embeddings"):
        config.pop(key)
    config["num_key_value_heads"] = None
    (folder / "config.json").write_text(json.dumps(config))
    found = ModelConfig.from_json(folder / "config.json")
    assert (found.num_key_value_heads, found.rope_theta, found.rms_norm_eps, found.head_dim) == (
        4,
        10_000,
        1e-6,
        32,
    )
    assert found.tie_word_embeddings is False


@pytest.mark.ci
@pytest.mark.parametrize("environment", ["tf4", "tf5"])
def test_training_continues_from_a_folder_of_transformers(tmp_path, environment):
    """A folder in BF16 and several files, tokenizer included, goes through `train.py --init`; its first loss
    is that of the folder.
    """
    torch.manual_seed(0)
    t = tokenizer.load()
    ours = Llama(ModelConfig(t.vocab_size, 96, 128, 2, 6, 2, 16, 256))
    ours.save_pretrained(
        tmp_path / "ours", eos_token_id=t.eos_id, bos_token_id=t.bos_id, pad_token_id=t.pad_id
    )
    t.save_pretrained(tmp_path / "ours")
    names = oracle(environment, "resave.py", tmp_path / "ours", tmp_path / "theirs", work=tmp_path)
    assert "model.safetensors.index.json" in names and "model.safetensors" not in names
    assert tokenizer.load(tmp_path / "theirs").fingerprint == t.fingerprint
    (tmp_path / "tales.txt").write_text(
        "\n\n".join(f"Tale {i}: the sea was calm and the boats came home early." * 4 for i in range(80))
    )
    settings = dict(
        init=str(tmp_path / "theirs"),
        data=str(tmp_path / "tales.txt"),
        out=str(tmp_path / "run"),
        steps=4,
        seq_len=32,
        batch_size=4,
        eval_steps=4,
        logging_steps=1,
        device="cpu",
        precision="fp32",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)  # the corpus is prepared under the current folder
        patch.setattr(card, "STENTOR3", dataclasses.replace(card.STENTOR3, max_new_tokens=8))
        history = train(**settings)
        corpus = data.Corpus(next((tmp_path / "corpora").iterdir()), 32, 4, 4)
    ids = torch.from_numpy(corpus.batch(0))
    start = Llama.from_pretrained(tmp_path / "theirs")
    with torch.no_grad():
        assert history.losses[0] == pytest.approx(next_token_loss(start(ids), ids).item(), abs=1e-4)
    assert ModelConfig.from_json(history.folder / "best" / "config.json") == ours.config


@pytest.mark.ci
@pytest.mark.parametrize("environment", ["tf4", "tf5"])
def test_bpe_folder(tmp_path, environment):
    """A BPE travels as its own tokenizer.json, without custom code."""
    tokenizers = pytest.importorskip(
        "tokenizers", reason="tokenizers is not installed: it makes the small BPE of this test"
    )
    bpe = tokenizers.ByteLevelBPETokenizer()
    lines = (ROOT / "tokenizer.py").read_text(encoding="utf-8").splitlines()
    bpe.train_from_iterator(lines, vocab_size=600, special_tokens=["<s>", "</s>"], show_progress=False)
    (tmp_path / "source").mkdir()
    bpe.save(str(tmp_path / "source" / "tokenizer.json"))
    t = tokenizer.load(tmp_path / "source")
    t.save_pretrained(tmp_path / "folder")
    cases = [{"text": line, "ids": t.encode(line)} for line in lines[::5]]
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    found = oracle(environment, "load_bpe.py", tmp_path / "folder", tmp_path / "cases.json", work=tmp_path)
    assert found == {"wrong": [], "class": found["class"], "eos": t.eos_id, "bos": t.bos_id, "pad": t.pad_id}
    assert not list((tmp_path / "folder").glob("*.py"))


def test_fine_tuning_presets_are_the_cards(tmp_path, capsys):
    """Each card's own settings, a range's lower end; without --init there is nothing to go on from."""
    stated = json.loads((ROOT / "cards" / "cards.json").read_text(encoding="utf-8"))["models"]
    t = tokenizer.load()
    Llama(ModelConfig(t.vocab_size, 32, 48, 1, 2, 1, 16, 1024)).save_pretrained(
        tmp_path / "first", eos_token_id=t.eos_id
    )
    t.save_pretrained(tmp_path / "first")
    (tmp_path / "tales.txt").write_text(
        "\n\n".join(f"Tale {i}: the sea was calm and the boats came home early." * 40 for i in range(80))
    )
    corpus = prepare_files([tmp_path / "tales.txt"], tmp_path / "tales")
    seen = []
    for recipe, model in (("finetune-stentor3", "Stentor3-20M"), ("finetune-portimbria", "Portimbria-150M")):
        wanted = dict(
            init=str(tmp_path / "first"),
            data=str(corpus),
            out=str(tmp_path / "run"),
            recipe=recipe,
            device="cpu",
        )
        job = open_job(wanted)
        card_says = {key: value[0]["value"] for key, value in stated[model]["lora"].items()}
        lower = {key: value[0] if isinstance(value, list) else value for key, value in card_says.items()}
        found = job.settings
        assert (found.learning_rate, found.batch_size, found.seq_len) == (
            lower["learning_rate"],
            lower["batch_size"],
            lower["max_sequence"],
        )
        assert (
            found.steps
            == data.steps_for_epochs(corpus, found.seq_len, found.batch_size, lower["epochs"])
            == job.schedule_end()
        )
        assert found.schedule == "cosine" and found.warmup_steps == max(1, round(0.05 * found.steps))
        assert f"({found.beta1}, {found.beta2}) eps 1e-8" in card_says["optimizer"]
        seen.append((found.learning_rate, found.batch_size))
        with pytest.raises(
            UserError, match=f"--recipe {recipe} starts from a trained model: name its folder with --init"
        ):
            open_job({**wanted, "init": None})
    assert len(set(seen)) == 2
    notes = open_job({**wanted, "recipe": "laptop"}).notes
    assert any("--recipe finetune-stentor3" in note for note in notes)
