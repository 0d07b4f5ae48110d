# SPDX-License-Identifier: Apache-2.0
"""Every shape comment of model.py, `# (B, T, D)`, is compared with the tensors of a real forward pass, line
by line.

The pass runs under sys.settrace. When a statement of model.py has run, the tensors that it assigned or
returned are held against the comment at its end. All axes have different sizes, so a wrong letter cannot
hide.
"""
import ast
import importlib.util
import re
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
COMMENT = re.compile(r"#\s*\(([A-Z0-9][^()]*)\)\s*$")

# One size per axis, and S = SEEN + T where a cache holds SEEN positions. Checked below: no two of them, nor
# F/2, are equal.
AXES = {"B": 2, "T": 5, "D": 20, "H": 6, "K": 3, "F": 14, "M": 28, "V": 40}
SEEN = 4


def shape_comments(source: str) -> dict[int, str]:
    """Line number -> what is in the brackets, for each line that ends in a shape comment."""
    return {
        number: match[1]
        for number, line in enumerate(source.splitlines(), 1)
        if (match := COMMENT.search(line))
    }


def statements(source: str) -> tuple[dict[int, ast.stmt], dict[str, ast.FunctionDef]]:
    """Line -> the assignment or return statement on it, and qualified name -> function."""
    by_line, functions = {}, {}

    def visit(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
                if isinstance(child, ast.FunctionDef):
                    functions[prefix + child.name] = child
                visit(child, prefix + child.name + ".")
                continue
            if isinstance(child, (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Return)):
                by_line.update(dict.fromkeys(range(child.lineno, child.end_lineno + 1), child))
            visit(child, prefix)

    visit(ast.parse(source), "")
    return by_line, functions


def value_of(shape: str, axes: dict[str, int]) -> tuple[int, ...]:
    """`B, H, T, F/2` -> the numbers."""
    return tuple(
        int(eval(part, {"__builtins__": {}}, axes))
        for part in shape.replace("/", "//").split(",")
        if part.strip()
    )


class ShapeTracer:
    """Follows the frames of one file and collects what its comments get wrong."""

    def __init__(self, file: str, source: str, axes: dict[str, int]):
        self.file, self.axes = file, axes
        self.comments = shape_comments(source)
        self.by_line, _ = statements(source)
        self.checked: set[int] = set()          # lines whose comment was compared with a tensor
        self.wrong: dict[int, str] = {}
        # lines of a `forward` that made a tensor and do not say its shape
        self.uncommented: dict[int, str] = {}

    def __enter__(self):
        self.before = sys.gettrace()
        sys.settrace(self.call)
        return self

    def __exit__(self, *_):
        sys.settrace(self.before)

    def call(self, frame, event, _):
        if frame.f_code.co_filename != self.file:
            return None
        pending = None                          # the statement that is running in this frame

        def step(frame, event, returned):
            nonlocal pending
            now = self.by_line.get(frame.f_lineno) if event == "line" else None
            if event == "return" and isinstance(pending, ast.Return):
                self.compare(frame, pending, [returned])
                pending = None
            elif pending is not None and event != "exception" and now is not pending:
                if not isinstance(pending, ast.Return):
                    self.compare(frame, pending, self.assigned(frame, pending))
                pending = None
            elif event == "exception":
                pending = None
                return step
            if event == "line":
                pending = now
            return step

        return step

    @staticmethod
    def assigned(frame, statement) -> list:
        """The values of the plain names that an assignment bound."""
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        names = [
            node.id
            for target in targets
            for node in ast.walk(target)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        ]
        return [frame.f_locals[name] for name in names]

    def compare(self, frame, statement, values) -> None:
        tensors = []
        for value in values:
            tensors += [
                item
                for item in (value if isinstance(value, (tuple, list)) else [value])
                if isinstance(item, torch.Tensor)
            ]
        if not tensors:
            return
        line = statement.end_lineno
        if line not in self.comments:
            if frame.f_code.co_name == "forward":
                self.uncommented[line] = (
                    f"line {line} makes {[tuple(tensor.shape) for tensor in tensors]} and does not say so"
                )
            return
        axes = self.axes_of(frame)
        expected = value_of(self.comments[line], axes)
        self.checked.add(line)
        for tensor in tensors:
            if tuple(tensor.shape) != expected:
                self.wrong[line] = (
                    f"line {line} says ({self.comments[line]}) = {expected}, the tensor is "
                    f"{tuple(tensor.shape)}"
                )

    def axes_of(self, frame) -> dict[str, int]:
        """The sizes behind the letters. Two helpers serve two callers each: `rotate` turns queries or keys,
        the table covers all positions.
        """
        if frame.f_code.co_name == "rotate":
            heads = frame.f_locals["x"].shape[1]
            assert heads in (self.axes["H"], self.axes["K"])
            return {**self.axes, "H": heads}
        if frame.f_code.co_name == "rotary_table":
            return {**self.axes, "T": frame.f_locals["length"]}
        return self.axes


def load(path: Path):
    """model.py, or a changed copy of it, as a module of its own."""
    spec = importlib.util.spec_from_file_location("model_under_trace", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["model_under_trace"] = module
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules["model_under_trace"]
    return module


def trace_everything(path: Path) -> tuple[list[ShapeTracer], set[int]]:
    """Run all the paths of a forward pass: tied and untied, both attentions, with and without cache,
    recomputed, and the loss.
    """
    source = path.read_text(encoding="utf-8")
    module = load(path)
    B, T, V = AXES["B"], AXES["T"], AXES["V"]
    ids = torch.arange(B * T).view(B, T) % V
    tracers = []

    def traced(seen: int) -> ShapeTracer:
        tracers.append(ShapeTracer(str(path), source, {**AXES, "S": seen + T}))
        return tracers[-1]

    for tied in (True, False):
        for attend in (module.sdpa, module.attention_written_out):
            config = module.ModelConfig(
                V, AXES["D"], AXES["M"], 2, AXES["H"], AXES["K"], AXES["F"], 32, tie_word_embeddings=tied
            )
            with traced(0):
                model = module.Llama(config, attend)
                logits = model(ids)
                module.next_token_loss(logits, ids)
                module.next_token_losses(logits, ids)
            cache = module.KVCache(config, B, 16)
            model(ids[:, :SEEN], cache)
            with traced(SEEN):
                model(ids, cache)
            model.model.recompute = lambda function, *inputs: function(*inputs)
            with traced(0):
                model(ids)
    return tracers, set().union(*(tracer.checked for tracer in tracers))


def collect(tracers: list[ShapeTracer], what: str) -> dict[int, str]:
    return {line: message for tracer in tracers for line, message in getattr(tracer, what).items()}


@pytest.fixture(scope="module")
def trace():
    return trace_everything(ROOT / "model.py")


def test_the_axes_are_all_different():
    sizes = [*AXES.values(), SEEN + AXES["T"], AXES["F"] // 2, AXES["H"] * AXES["F"], AXES["T"] - 1, 1]
    assert len(set(sizes)) == len(sizes)


def test_every_shape_comment_is_true(trace):
    tracers, checked = trace
    assert collect(tracers, "wrong") == {}
    assert len(checked) >= 45


def test_no_shape_comment_is_left_unchecked(trace):
    _, checked = trace
    assert sorted(set(shape_comments((ROOT / "model.py").read_text(encoding="utf-8"))) - checked) == []


def test_every_tensor_line_of_a_forward_says_its_shape(trace):
    tracers, _ = trace
    assert collect(tracers, "uncommented") == {}


def test_every_assignment_and_return_of_a_forward_was_run(trace):
    """So that "every tensor line" above means every line, not only those that this test happened to reach."""
    source = (ROOT / "model.py").read_text(encoding="utf-8")
    lines = source.splitlines()
    _, functions = statements(source)
    _, checked = trace
    forwards = {name: node for name, node in functions.items() if name.endswith(".forward")}
    assert sorted(forwards) == [
        "Attention.forward", "Block.forward", "Decoder.forward", "Llama.forward", "MLP.forward",
        "RMSNorm.forward",
    ]
    not_tensors = {"T", "start", "limit", "cache.length"}
    for name, function in forwards.items():
        for node in ast.walk(function):
            if isinstance(node, (ast.Assign, ast.AugAssign, ast.Return)) and node.end_lineno not in checked:
                target = ast.unparse(node.targets[0]) if isinstance(node, ast.Assign) else ast.unparse(node)
                assert target in not_tensors, f"{name}: never seen running: {lines[node.lineno - 1].strip()}"


def test_each_comment_made_wrong_is_caught(tmp_path):
    """A copy of model.py in which the last axis of every comment is one too many: each one must be reported,
    and nothing else.
    """
    source = (ROOT / "model.py").read_text(encoding="utf-8")
    lines = source.splitlines()
    for number, shape in shape_comments(source).items():
        wrong = shape.rstrip(", ") + "+1" + ("," if shape.endswith(",") else "")
        lines[number - 1] = lines[number - 1].replace(f"({shape})", f"({wrong})")
    path = tmp_path / "model_wrong.py"
    path.write_text("\n".join(lines) + "\n")
    tracers, _ = trace_everything(path)
    assert set(collect(tracers, "wrong")) == set(shape_comments(source))


def test_a_swapped_letter_and_a_missing_comment_are_caught(tmp_path):
    source = (ROOT / "model.py").read_text(encoding="utf-8")
    swapped = re.sub(r"(k = self\.split_heads.*)# \(B, K, T, F\)", r"\1# (B, H, T, F)", source)
    bare = re.sub(r"( +up = self\.up_proj\(x\)) +# \(B, T, M\)", r"\1", swapped)
    assert bare != swapped != source
    path = tmp_path / "model_wrong.py"
    path.write_text(bare)
    tracers, _ = trace_everything(path)
    assert [
        "says (B, H, T, F) = (2, 6, 5, 14), the tensor is (2, 3, 5, 14)" in text
        for text in collect(tracers, "wrong").values()
    ] == [True]
    assert ["makes [(2, 5, 28)]" in text for text in collect(tracers, "uncommented").values()] == [True]
