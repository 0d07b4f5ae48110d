# SPDX-License-Identifier: Apache-2.0
"""The rules of the house: lines, imports, licences, no pickle, no machine's paths, documented functions,
documentation that names what exists.
"""
import ast
import contextlib
import functools
import io
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from unittest import mock
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).resolve().parent.parent
# The fixed order of the house: a file may import what is on an earlier line, or earlier on its own line.
ORDER = """
common
vocab_files: by_name tokenizer_files bpe
tokenizer
model
params
devices: loss_cpu attention_cpu attention_gpu attention_tpu device torchtpu xla open
precision
data
corpus: grammar tales programs exercises builtin checker python_docs documents prepare report command
tokenizing: records candidates lanes trainer reference view hf_class
sample
sampling: many
training: settings learned compiled chunked_loss resolve job curves log read_run run_folder announce
train
sampling: fast_decoder cuda_graph weights answers history template terminal
sampling: chat speculate explore arena web_views web
evaluate
judging: builtin gsm8k fetch_blimp curve scoreboard lm_eval_model
audit: cost plot cards shapes runs claims results all
publishing: gallery card card_audit report_page report to_gguf to_onnx kaggle_notebook
bench: pipeline encoder attention training_step
bench: readme_picture recipes shakespeare weight_forms decoding scoring torchtpu_on_cpu tpu_compile
"""


def places(order: str) -> dict[str, int]:
    """Module -> its place in the order."""
    modules = []
    for line in order.split("\n"):
        room, colon, files = line.partition(":")
        modules += [f"{room}.{file}" for file in files.split()] if colon else line.split()
    return {module: place for place, module in enumerate(modules)}


PLACE = places(ORDER)
ROOMS = sorted({module.split(".")[0] for module in PLACE if "." in module})
CORE = [f"{module}.py" for module in PLACE if "." not in module]
LONGEST_LINE = 110


@functools.cache
def tracked() -> list[str]:
    """The files of the project: what git tracks, or, in an unpacked archive, everything but outputs."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        outputs = {"runs", "corpora", "build", "built", "__pycache__"}
        listed = [
            str(path.relative_to(ROOT))
            for path in ROOT.rglob("*")
            if not any(
                part in outputs or part.startswith(".venv") or part.endswith(".egg-info")
                for part in path.relative_to(ROOT).parts
            )
        ]
    return sorted(name for name in listed if name and (ROOT / name).is_file())


def python_files(*folders: str) -> list[str]:
    """Tracked .py files directly in these folders ("" is the root)."""
    return [name for name in tracked() if name.endswith(".py") and os.path.dirname(name) in folders]


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@functools.cache
def tree_of(name: str) -> ast.Module:
    return ast.parse(text_of(name), name)


# ------------------------------------------------------------------------------------------------------ lines

# Files that quote printed lines, which are as long as the program prints them.
PRINTED = {"tests/test_tokenizer.py", "tests/test_tokenizer_unicode.py"}


@pytest.mark.parametrize("name", python_files("", *ROOMS, "lessons", "tests"))
def test_lines_fit_and_hold_one_statement(name):
    long = [number for number, line in enumerate(text_of(name).splitlines(), 1) if len(line) > LONGEST_LINE]
    assert not long or name in PRINTED, f"{name}: lines of more than {LONGEST_LINE} columns: {long}"
    bodies = [
        getattr(node, field, None)
        for node in ast.walk(tree_of(name))
        for field in ("body", "orelse", "finalbody")
    ]
    crowded = []
    for body in bodies:
        if isinstance(body, list):
            crowded += [
                after.lineno for before, after in zip(body, body[1:]) if before.end_lineno == after.lineno
            ]
    crowded += [
        node.lineno
        for node in ast.walk(tree_of(name))
        if isinstance(node, (ast.If, ast.For, ast.While, ast.With, ast.FunctionDef))
        and node.body[0].lineno == node.lineno
    ]
    assert not crowded, f"{name}: lines with two statements: {crowded}"


# ---------------------------------------------------------------------------------------------------- imports

def imported(node: ast.AST) -> set[str]:
    """Top names of what one statement imports."""
    if isinstance(node, ast.Import):
        return {alias.name.split(".")[0] for alias in node.names}
    if isinstance(node, ast.ImportFrom) and node.level == 0:
        return {node.module.split(".")[0]}
    return set()


def imports_of(name: str, everywhere: bool = True) -> set[str]:
    """All imports of a file, or only those that run when it is imported."""
    def visit(node: ast.AST) -> set[str]:
        found = imported(node)
        for child in ast.iter_child_nodes(node):
            if everywhere or not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                found |= visit(child)
        return found
    return visit(tree_of(name))


def module_of(name: str) -> str:
    return name[:-3].replace("/", ".").removesuffix(".__init__")


def house_imports(name: str) -> set[str]:
    """Modules of the house that a file imports anywhere, except inside `main` or `if __name__` of a top-level
    script.
    """
    found, top_level = set(), "/" not in name

    def visit(node: ast.AST, outermost: bool) -> None:
        if top_level and outermost and isinstance(node, ast.FunctionDef) and node.name == "main":
            return
        if top_level and outermost and isinstance(node, ast.If) and "__name__" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.module:
            found.update([node.module, *(f"{node.module}.{alias.name}" for alias in node.names)])
        for child in ast.iter_child_nodes(node):
            visit(child, isinstance(node, ast.Module))

    visit(tree_of(name), True)
    return found & set(PLACE)


@pytest.mark.parametrize("name", python_files("", *ROOMS))
def test_imports_run_one_way(name):
    """Each file imports from those before it, also inside functions; never from lessons or tests."""
    module = module_of(name)
    if name.endswith("/__init__.py"):
        assert house_imports(name) == set()
        return
    assert module in PLACE, f"{name} is not in ORDER"
    upward = {
        (module, other) for other in house_imports(name) if PLACE[other] >= PLACE[module] and other != module
    }
    assert upward == set()
    assert imports_of(name) & {"lessons", "tests"} == set()


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_what_it_is_for(room):
    """Its `__init__.py` is one docstring: purpose, reading order, what it may import."""
    body = tree_of(f"{room}/__init__.py").body
    assert len(body) == 1 and ast.get_docstring(tree_of(f"{room}/__init__.py"))


def test_computed_imports_are_absent():
    for name in python_files("", *ROOMS):
        for node in ast.walk(tree_of(name)):
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in (
                "import_module",
                "__import__",
            ):
                assert isinstance(node.args[0], ast.Constant), (
                    f"{name}:{node.lineno}: a module is imported by a computed name"
                )


def brought_by(name: str) -> set[str]:
    """Top names of all that runs at import of a file, walking into the modules of the house."""
    brought, todo, seen = set(), [name], set()
    while todo:
        file = todo.pop()
        if file in seen:
            continue
        seen.add(file)

        def visit(node: ast.AST) -> None:
            brought.update(imported(node))
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                modules = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            todo.extend(f"{module.replace('.', '/')}.py" for module in modules if module in PLACE)
            for child in ast.iter_child_nodes(node):
                if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                    visit(child)

        visit(tree_of(file))
    return brought


@pytest.mark.parametrize("name", CORE)
def test_what_importing_a_core_file_brings(name):
    """At import: the standard library, the house, torch, numpy, safetensors and tqdm. The tokenizer does
    without torch.
    """
    allowed = set(sys.stdlib_module_names) | {module.split(".")[0] for module in PLACE} | {"numpy"}
    if name not in ("common.py", "tokenizer.py"):
        allowed |= {"torch", "safetensors"}
    assert brought_by(name) - allowed == set()


@pytest.mark.parametrize("script", ["train.py", "sample.py", "evaluate.py", "params.py"])
@pytest.mark.parametrize(("found", "line"), [("raise KeyboardInterrupt", "interrupted"),
    ("import no_such_torch",
    "error: no_such_torch is not installed here; activate its environment, "
     "or: pip install .")])
def test_ctrl_c_while_torch_is_imported_and_a_missing_package_are_one_line(
    script: str, found: str, line: str, tmp_path: Path
):
    """Both end a script before its `main`: a torch of ours takes the place of the real one."""
    (tmp_path / "torch.py").write_text(found + "\n")
    done = subprocess.run(
        [sys.executable, str(ROOT / script), "--help"], env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True,
    )
    assert (done.stdout, done.stderr) == ("", f"{script}: {line}\n") and done.returncode != 0


def test_only_bench_lessons_and_tests_import_train():
    rooms = [room for room in ROOMS if room != "bench"]
    assert [name for name in python_files("", *rooms) if "train" in house_imports(name)] == []


# ------------------------------------------------------------------------------ licence, pickle, paths, hosts

@pytest.mark.parametrize("name", [name for name in tracked() if name.endswith(".py")])
def test_the_licence_stands_in_the_first_line(name):
    assert "# SPDX-License-Identifier: Apache-2.0" in text_of(name).splitlines()[:2]


def pickle_uses(tree: ast.AST) -> list[str]:
    """Whatever could run a stranger's code while reading a file, or write such a file."""
    found = []
    for node in ast.walk(tree):
        if imported(node) & {
            "pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal",
        }:
            found.append(f"line {node.lineno}: import")
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in ("torch.load", "torch.save"):
                found.append(f"line {node.lineno}: {called}")
            if any(
                word.arg == "allow_pickle"
                and not (isinstance(word.value, ast.Constant) and word.value.value is False)
                for word in node.keywords
            ):
                found.append(f"line {node.lineno}: {called} with allow_pickle")
    return found


def test_pickle_uses_are_found():
    code = "import pickle\nfrom joblib import load\ntorch.load(f)\nnp.load(f, allow_pickle=True)\n"
    code += "np.load(f, allow_pickle=False)\nsave_file(w, f)"
    assert [line.split(":")[0] for line in pickle_uses(ast.parse(code))] == [
        "line 1", "line 2", "line 3", "line 4",
    ]


@pytest.mark.parametrize("name",
    [name for name in tracked() if name.endswith(".py") and not name.startswith("tests/")])
def test_no_pickle(name):
    assert pickle_uses(tree_of(name)) == []


def index_hosts() -> set[str]:
    """Hosts and folders of the package indexes of the machine at hand; public ones may be named."""
    settings = {
        os.environ.get(key, "")
        for key in (
            "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "UV_INDEX_URL", "UV_DEFAULT_INDEX", "PIP_FIND_LINKS",
        )
    }
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True
    ).stdout
    settings |= {
        line.split("=", 1)[1]
        for line in listed.splitlines()
        if re.search(r"index-url|find-links|trusted-host", line.split("=")[0])
    }
    found = set()
    for place in re.split(r"[\s'\"]+", " ".join(settings)):
        found.add(urlsplit(place).hostname or urlsplit(place).path.rstrip("/"))
    return {place for place in found if len(place) > 3} - {
        "pypi.org", "files.pythonhosted.org", "download.pytorch.org", "localhost",
    }


def test_nothing_names_a_machine():
    """No absolute path of the machine on which this was written, no private package index."""
    machine = re.compile(r"(?<![\w.~*-])/(?:work|root)/")
    private = re.compile(
        r"https?://(?:10\.|192\.168\.|172\.\d\d\.|[\w.-]+\.(?:internal|local|lan|corp)\b"
        r"|[\w.-]*(?:artifactory|nexus|devpi))"
    )
    hosts = index_hosts()
    found = []
    for name in tracked():
        content = (ROOT / name).read_bytes()
        if b"\0" in content:
            continue                                                  # a vocabulary
        for number, line in enumerate(content.decode("utf-8").splitlines(), 1):
            if machine.search(line) or private.search(line) or any(host in line for host in hosts):
                found.append(f"{name}:{number}: {line.strip()[:100]}")
    assert found == []


# --------------------------------------------------------------------------------------- documented functions

def undocumented(tree: ast.Module) -> list[str]:
    """Public functions and methods of a module without a docstring, or with an argument or result whose type
    is not said.
    """
    found = []

    def look(function: ast.FunctionDef, prefix: str, inherits: bool) -> None:
        name = prefix + function.name
        dunder = function.name.startswith("__")
        if function.name.startswith("_") and not dunder:
            return
        # A method of a class that inherits may be documented by its base; `forward` is what its class's
        # docstring describes.
        if ast.get_docstring(function) is None and not (dunder or inherits or function.name == "forward"):
            found.append(f"{name}: no docstring")
        arguments = function.args
        plain = [
            *arguments.posonlyargs,
            *arguments.args,
            *arguments.kwonlyargs,
            *filter(None, (arguments.vararg, arguments.kwarg)),
        ]
        untyped = [
            argument.arg
            for argument in plain
            if argument.annotation is None and argument.arg not in ("self", "cls")
        ]
        if untyped and not inherits:
            found.append(f"{name}: no type for {', '.join(untyped)}")
        if function.returns is None and function.name != "__init__" and not inherits:
            found.append(f"{name}: no type for the result")

    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            look(node, "", False)
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            if ast.get_docstring(node) is None:
                found.append(f"{node.name}: no docstring")
            for method in node.body:
                if isinstance(method, ast.FunctionDef):
                    foreign = any(ast.unparse(base) not in ("nn.Module", "Module") for base in node.bases)
                    look(method, f"{node.name}.", foreign)
    return found


def test_undocumented_functions_are_found():
    code = '''
def f(x: int) -> int:
    "documented"
def g(x, *, y: int):
    "documented"
def h() -> None:
    pass
def _private(x):
    pass
class A:
    def method(self, z) -> int:
        "documented"
'''
    assert undocumented(ast.parse(code)) == [
        "g: no type for x", "g: no type for the result", "h: no docstring", "A: no docstring",
        "A.method: no type for z",
    ]


@pytest.mark.parametrize("name", CORE)
def test_public_functions_say_what_they_do_and_take(name):
    assert ast.get_docstring(tree_of(name)), f"{name} has no docstring"
    found = undocumented(tree_of(name))
    assert not found, f"{name}: " + "; ".join(found)


# ------------------------------------------------------------------------ what the documentation names exists

COMMAND = re.compile(r"python3?\s+(?:-m\s+)?((?:%s)[./]\w+(?:\.py)?|\w+\.py)\b" % "|".join(ROOMS))
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9_-]*")
SYMBOL = re.compile(
    r"(?<![\w/.-])((?:(?:%s|lessons|tests)/)?\w+\.py):([A-Za-z_]\w*(?:\.\w+)*)" % "|".join(ROOMS)
)

PATH = re.compile(r"(?<![\w/.-])((?:%s|lessons|tests)/[\w/]+\.(?:py|md|jsonl?))\b" % "|".join(ROOMS))


def documents() -> list[str]:
    """Everything a reader follows: Markdown, lessons, docstrings and messages of the programs, the check
    script.
    """
    return [
        name
        for name in tracked()
        if name.endswith(".md") or name == ".ci/run" or name in python_files("", *ROOMS, "lessons")
    ]


def script_of(command: str) -> str:
    """`train.py` or `sampling.weights` -> the file in this project."""
    if command.endswith(".py"):
        return command
    return command.replace(".", "/") + ".py"


def commands_in(text: str) -> list[tuple[str, str | None, list[str]]]:
    """(script, the word after it, the flags that follow on the line) for each command of this project that a
    text gives.
    """
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        starts = list(COMMAND.finditer(line))
        for match, following in zip(starts, [*starts[1:], None]):
            script = script_of(match[1])
            rest = line[match.end():following.start() if following else len(line)].split("&&")[0]
            word = re.match(r"\s+([a-z][a-z-]*)\b", rest)
            found.append((script, word and word[1], [flag.rstrip("-_") for flag in FLAG.findall(rest)]))
    # ROOM/NAME.py means any of them
    return [command for command in found if not re.search(r"[A-Z]", command[0])]


def test_commands_are_read():
    text = ("| `python sample.py` | text; `--chat`, `--sweep 0.3` |\n"
            "pip install x --upgrade && python -m audit.cost runs/a \\\n  --json && pip --quiet")
    assert commands_in(text) == [
        ("sample.py", None, ["--chat", "--sweep"]),
        ("audit/cost.py", "runs", ["--json"]),
    ]


@functools.cache
def help_of(script: str, word: str | None) -> str | None:
    """What `python script [word] --help` prints, run in this process (a fresh one would load torch for
    seconds).

    None where the script needs a library that is not installed here.
    """
    argv, path, printed = sys.argv, list(sys.path), io.StringIO()
    sys.argv = [script, *([word] if word else []), "--help"]
    try:
        with (contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed),
              mock.patch.dict(os.environ, COLUMNS="80")):
            try:
                if "/" in script:
                    runpy.run_module(script[:-3].replace("/", "."), run_name="__main__", alter_sys=True)
                else:
                    runpy.run_path(str(ROOT / script), run_name="__main__")
            except SystemExit as end:
                if end.code == 2 and "not installed" in printed.getvalue():
                    return None
                assert not end.code, f"{' '.join(sys.argv)} ends with {end.code}: {printed.getvalue()}"
    finally:
        sys.argv, sys.path = argv, path
    return printed.getvalue()


@pytest.mark.parametrize("command", [
    "train.py", "params.py", "sample.py", "evaluate.py", "data.py", "data.py prepare", "data.py info",
    "data.py show", "tokenizer.py", "tokenizer.py info", "tokenizer.py encode", "tokenizer.py decode",
    "tokenizer.py train", "publishing/report.py", "publishing/card.py", "bench/readme_picture.py",
    "publishing/to_gguf.py", "publishing/to_onnx.py",
])
def test_help_fits_80_columns(command):
    script, _, word = command.partition(" ")
    text = help_of(script, word or None)
    assert text and [line for line in text.splitlines() if len(line) > 80] == []


def flags_of(script: str, word: str | None) -> set[str] | None:
    """The flags of a script, with those of its sub-command where `word` is one; None where they cannot be
    known here.
    """
    general = help_of(script, None)
    if general is None:
        return None
    subcommands = {name for group in re.findall(r"\{([\w,-]+)\}", general) for name in group.split(",")}
    special = help_of(script, word) if word in subcommands else ""
    return set(FLAG.findall(general)) | set(FLAG.findall(special))


@pytest.mark.parametrize("name", documents())
def test_commands_and_flags_that_are_named_exist(name):
    wrong = []
    for script, word, flags in commands_in(text_of(name)):
        if not (ROOT / script).is_file():
            wrong.append(f"{script}: no such script")
            continue
        known = flags_of(script, word) if flags else None
        if known is not None:
            wrong += [
                f"python {script} {word or ''}: no flag {flag}"
                for flag in flags
                if flag.replace("_", "-") not in known
            ]
    assert not wrong, f"{name}: " + "; ".join(wrong)


def symbols_of(name: str) -> set[str]:
    """Dotted names of what a file defines: functions, classes, methods, constants, fields."""
    found = set()

    def visit(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                found.add(prefix + node.name)
                visit(node.body, prefix + node.name + ".")
            elif isinstance(node, (ast.Assign, ast.AnnAssign)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                found.update(
                    prefix + inner.id
                    for target in targets
                    for inner in ast.walk(target)
                    if isinstance(inner, ast.Name)
                )
            elif isinstance(node, (ast.If, ast.Try, ast.With, ast.For)):
                visit(node.body, prefix)

    visit(tree_of(name).body, "")
    return found


@pytest.mark.parametrize("name", documents())
def test_files_and_symbols_that_are_named_exist(name):
    paths = [path for path in PATH.findall(text_of(name)) if "NAME" not in path and "NN_" not in path]
    wrong = [f"{path}: no such file" for path in paths if not (ROOT / path).is_file()]
    for file, symbol in SYMBOL.findall(text_of(name)):
        if not (ROOT / file).is_file():
            wrong.append(f"{file}:{symbol}: no such file")
        elif symbol not in symbols_of(file):
            wrong.append(f"{file}:{symbol}: no such name")
    assert not wrong, f"{name}: " + "; ".join(wrong)

