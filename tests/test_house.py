# SPDX-License-Identifier: Apache-2.0
"""The rules of the house: size, imports, licences, no pickle, no machine's paths, documented functions, documentation that names what exists.

    python tests/test_house.py        # prints lines of code per file
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
import tokenize
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).resolve().parent.parent
# In the order in which one may import another.
CORE = ["common.py", "model.py", "params.py", "precision.py", "tokenizer.py", "data.py", "sample.py", "evaluate.py", "train.py"]
CORE_LINES, MODEL_LINES, EXTRA_LINES = 2600, 300, 250


@functools.cache
def tracked() -> list[str]:
    """The files of the project: what git tracks, or, in an unpacked archive, everything but outputs."""
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        outputs = {"runs", "corpora", "build", "built", "__pycache__"}
        listed = [str(path.relative_to(ROOT)) for path in ROOT.rglob("*")
                  if not any(part in outputs or part.startswith(".venv") or part.endswith(".egg-info") for part in path.relative_to(ROOT).parts)]
    return sorted(name for name in listed if name and (ROOT / name).is_file())


def python_files(*folders: str) -> list[str]:
    """Tracked .py files directly in these folders ("" is the root)."""
    return [name for name in tracked() if name.endswith(".py") and os.path.dirname(name) in folders]


def existing_core() -> list[str]:
    return [name for name in CORE if (ROOT / name).is_file()]


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@functools.cache
def tree_of(name: str) -> ast.Module:
    return ast.parse(text_of(name), name)


# ------------------------------------------------------------------------------------------------------------------------ size

def code_lines(source: str) -> int:
    """Lines that hold code: neither blank, nor comment, nor docstring."""
    nothing = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING, tokenize.ENDMARKER}
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in nothing:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and ast.get_docstring(node) is not None:
            lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(lines)


def test_lines_of_code_are_counted_right():
    source = '''# comment
"""Docstring
of two lines."""

import os                     # code with a comment

def f(x):
    """One line."""
    text = """a string
    that is data"""
    return (x +

            text)
'''
    assert code_lines(source) == 6                                   # import, def, text (2), return and its last line


def test_the_core_is_small():
    counts = {name: code_lines(text_of(name)) for name in existing_core()}
    assert sum(counts.values()) <= CORE_LINES, counts
    assert counts.get("model.py", 0) <= MODEL_LINES


@pytest.mark.parametrize("name", python_files("extras"))
def test_an_extra_is_small(name):
    assert code_lines(text_of(name)) <= EXTRA_LINES


@pytest.mark.parametrize("name", python_files("", "extras", "lessons"))
def test_the_count_is_not_cheated(name):
    """One statement a line, and lines that fit on a screen."""
    long = [number for number, line in enumerate(text_of(name).splitlines(), 1) if len(line) > 150]
    assert not long, f"{name}: lines of more than 150 columns: {long}"
    bodies = [getattr(node, field, None) for node in ast.walk(tree_of(name)) for field in ("body", "orelse", "finalbody")]
    crowded = []
    for body in bodies:
        if isinstance(body, list):
            crowded += [after.lineno for before, after in zip(body, body[1:]) if before.end_lineno == after.lineno]
    crowded += [node.lineno for node in ast.walk(tree_of(name)) if isinstance(node, (ast.If, ast.For, ast.While, ast.With, ast.FunctionDef))
                and node.body[0].lineno == node.lineno]
    assert not crowded, f"{name}: lines with two statements: {crowded}"


# --------------------------------------------------------------------------------------------------------------------- imports

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


@pytest.mark.parametrize("name", existing_core())
def test_imports_run_one_way(name):
    """Each file imports from those before it; extras only inside the function that needs them; lessons and tests never."""
    later = {other[:-3] for other in CORE[CORE.index(name):]}
    assert imports_of(name) & later == set()
    assert imports_of(name) & {"lessons", "tests"} == set()
    assert "extras" not in imports_of(name, everywhere=False)


@pytest.mark.parametrize("name", existing_core())
def test_what_importing_a_core_file_brings(name):
    """At import: the standard library, the core, torch, numpy and safetensors. The tokenizer does without torch."""
    allowed = set(sys.stdlib_module_names) | {other[:-3] for other in CORE} | {"numpy"}
    if name != "tokenizer.py":
        allowed |= {"torch", "safetensors"}
    assert imports_of(name, everywhere=False) - allowed == set()
    if name == "tokenizer.py":
        assert imports_of(name) & {"torch", "model", "params", "precision"} == set()


@pytest.mark.parametrize("script", ["train.py", "sample.py", "evaluate.py", "params.py"])
@pytest.mark.parametrize(("found", "line"), [("raise KeyboardInterrupt", "interrupted"),
                                             ("import no_such_torch", "error: no_such_torch is not installed here; activate its environment, or: pip install .")])
def test_ctrl_c_while_torch_is_imported_and_a_missing_package_are_one_line(script: str, found: str, line: str, tmp_path: Path):
    """Both end a script before its `main`: a torch of ours stands in the place of the real one."""
    (tmp_path / "torch.py").write_text(found + "\n")
    done = subprocess.run([sys.executable, str(ROOT / script), "--help"], env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("", f"{script}: {line}\n") and done.returncode != 0


def test_only_lessons_extras_and_tests_import_train():
    assert [name for name in python_files("") if "train" in imports_of(name)] == []


# ------------------------------------------------------------------------------------------------- licence, pickle, paths, hosts

@pytest.mark.parametrize("name", [name for name in tracked() if name.endswith(".py")])
def test_the_licence_stands_in_the_first_line(name):
    assert "# SPDX-License-Identifier: Apache-2.0" in text_of(name).splitlines()[:2]


def pickle_uses(tree: ast.AST) -> list[str]:
    """Whatever could run a stranger's code while reading a file, or write such a file."""
    found = []
    for node in ast.walk(tree):
        if imported(node) & {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}:
            found.append(f"line {node.lineno}: import")
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in ("torch.load", "torch.save"):
                found.append(f"line {node.lineno}: {called}")
            if any(word.arg == "allow_pickle" and not (isinstance(word.value, ast.Constant) and word.value.value is False) for word in node.keywords):
                found.append(f"line {node.lineno}: {called} with allow_pickle")
    return found


def test_pickle_uses_are_found():
    code = "import pickle\nfrom joblib import load\ntorch.load(f)\nnp.load(f, allow_pickle=True)\nnp.load(f, allow_pickle=False)\nsave_file(w, f)"
    assert [line.split(":")[0] for line in pickle_uses(ast.parse(code))] == ["line 1", "line 2", "line 3", "line 4"]


@pytest.mark.parametrize("name", [name for name in tracked() if name.endswith(".py") and not name.startswith("tests/")])
def test_no_pickle(name):
    assert pickle_uses(tree_of(name)) == []


def index_hosts() -> set[str]:
    """Hosts and folders of the package indexes of the machine at hand; public ones may be named."""
    settings = {os.environ.get(key, "") for key in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "UV_INDEX_URL", "UV_DEFAULT_INDEX", "PIP_FIND_LINKS")}
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
    settings |= {line.split("=", 1)[1] for line in listed.splitlines() if re.search(r"index-url|find-links|trusted-host", line.split("=")[0])}
    found = set()
    for place in re.split(r"[\s'\"]+", " ".join(settings)):
        found.add(urlsplit(place).hostname or urlsplit(place).path.rstrip("/"))
    return {place for place in found if len(place) > 3} - {"pypi.org", "files.pythonhosted.org", "download.pytorch.org", "localhost"}


def test_nothing_names_a_machine():
    """No absolute path of the machine on which this was written, no private package index."""
    machine = re.compile(r"(?<![\w.~*-])/(?:work|root)/")
    private = re.compile(r"https?://(?:10\.|192\.168\.|172\.\d\d\.|[\w.-]+\.(?:internal|local|lan|corp)\b|[\w.-]*(?:artifactory|nexus|devpi))")
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


# -------------------------------------------------------------------------------------------------------------- documented functions

def undocumented(tree: ast.Module) -> list[str]:
    """Public functions and methods of a module without a docstring, or with an argument or result whose type is not said."""
    found = []

    def look(function: ast.FunctionDef, prefix: str, inherits: bool) -> None:
        name = prefix + function.name
        dunder = function.name.startswith("__")
        if function.name.startswith("_") and not dunder:
            return
        # A method of a class that inherits may be documented by its base; `forward` is what its class's docstring describes.
        if ast.get_docstring(function) is None and not (dunder or inherits or function.name == "forward"):
            found.append(f"{name}: no docstring")
        arguments = function.args
        plain = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, *filter(None, (arguments.vararg, arguments.kwarg))]
        untyped = [argument.arg for argument in plain if argument.annotation is None and argument.arg not in ("self", "cls")]
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
    assert undocumented(ast.parse(code)) == ["g: no type for x", "g: no type for the result", "h: no docstring", "A: no docstring",
                                             "A.method: no type for z"]


@pytest.mark.parametrize("name", existing_core())
def test_public_functions_say_what_they_do_and_take(name):
    assert ast.get_docstring(tree_of(name)), f"{name} has no docstring"
    found = undocumented(tree_of(name))
    assert not found, f"{name}: " + "; ".join(found)


# ---------------------------------------------------------------------------------------------- what the documentation names exists

COMMAND = re.compile(r"python3?\s+(?:-m\s+)?((?:extras[./])?\w+(?:\.py)?)\b")
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9_-]*")
SYMBOL = re.compile(r"(?<![\w/.-])((?:extras/|lessons/|tests/)?\w+\.py):([A-Za-z_]\w*(?:\.\w+)*)")


def documents() -> list[str]:
    """Everything a reader follows: Markdown, lessons, docstrings and messages of the programs, the check script."""
    return [name for name in tracked() if name.endswith(".md") or name == ".ci/run" or name in python_files("", "extras", "lessons")]


def script_of(command: str) -> str | None:
    """`train.py` or `extras.quantize` -> the file in this project; None for other programs (`python -m venv`)."""
    if command.endswith(".py"):
        return command
    if command.startswith("extras."):
        return command.replace(".", "/") + ".py"
    return None


def commands_in(text: str) -> list[tuple[str, str | None, list[str]]]:
    """(script, the word after it, the flags that follow on the line) for each command of this project that a text gives."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        starts = list(COMMAND.finditer(line))
        for match, following in zip(starts, [*starts[1:], None]):
            script = script_of(match[1])
            rest = line[match.end():following.start() if following else len(line)].split("&&")[0]
            word = re.match(r"\s+([a-z][a-z-]*)\b", rest)
            if script:
                found.append((script, word and word[1], [flag.rstrip("-_") for flag in FLAG.findall(rest)]))
    return [command for command in found if not re.search(r"[A-Z]", command[0])]      # extras/NAME.py stands for any of them


def test_commands_are_read():
    text = ("| `python sample.py` | text; `--chat`, `--sweep 0.3` |\n"
            "pip install x --upgrade && python -m extras.cost runs/a \\\n  --json && pip --quiet")
    assert commands_in(text) == [("sample.py", None, ["--chat", "--sweep"]), ("extras/cost.py", "runs", ["--json"])]


@functools.cache
def help_of(script: str, word: str | None) -> str | None:
    """What `python script [word] --help` prints, run in this process (a fresh one would load torch for seconds).

    None where the script needs a library that is not installed here.
    """
    argv, path, printed = sys.argv, list(sys.path), io.StringIO()
    sys.argv = [script, *([word] if word else []), "--help"]
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
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


def flags_of(script: str, word: str | None) -> set[str] | None:
    """The flags of a script, with those of its sub-command where `word` is one; None where they cannot be known here."""
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
            wrong += [f"python {script} {word or ''}: no flag {flag}" for flag in flags if flag.replace("_", "-") not in known]
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
                found.update(prefix + inner.id for target in targets for inner in ast.walk(target) if isinstance(inner, ast.Name))
            elif isinstance(node, (ast.If, ast.Try, ast.With, ast.For)):
                visit(node.body, prefix)

    visit(tree_of(name).body, "")
    return found


@pytest.mark.parametrize("name", documents())
def test_symbols_that_are_named_exist(name):
    wrong = []
    for file, symbol in SYMBOL.findall(text_of(name)):
        if not (ROOT / file).is_file():
            wrong.append(f"{file}:{symbol}: no such file")
        elif symbol not in symbols_of(file):
            wrong.append(f"{file}:{symbol}: no such name")
    assert not wrong, f"{name}: " + "; ".join(wrong)


if __name__ == "__main__":
    for name in [*existing_core(), *python_files("extras")]:
        print(f"{code_lines(text_of(name)):5} {name}")
    print(f"{sum(code_lines(text_of(name)) for name in existing_core()):5} core, of {CORE_LINES}")
