# SPDX-License-Identifier: Apache-2.0
"""What every script shares: errors, exit codes, signals, flags, files, the terminal, run folders.

Nothing here is about language models. A reader of the course may skip this file.
"""
from __future__ import annotations

import argparse
import contextlib
import dataclasses
import decimal
import difflib
import errno
import hashlib
import itertools
import json
import math
import os
import re
import shlex
import shutil
import signal
import stat
import sys
import textwrap
import threading
import time
import typing
import unicodedata
from pathlib import Path
from typing import Any, Callable, Iterator

ROOT = Path(__file__).resolve().parent


class UserError(Exception):
    """A mistake of the user, or of the user's files: the one line that the command prints before exit code 2.

    Messages quote names and values from files, so control characters are written as escapes, and the message
    is truncated to 2,000 characters.
    """

    def __init__(self, message: str):
        super().__init__(
            "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in message[:2000])
        )


class CheckFailed(Exception):
    """A check failed, or training met numbers that are not finite: one line, exit code 1."""


def run(main: Callable[[], int | None]) -> int:
    """Run a script's `main` and return its exit code.

    0 success; 2 a mistake of the user; 1 a failed check; 130 Ctrl-C. Each error is one line on stderr (see
    `tell`). So are the operating system's errors (no permission, no space, not a folder), which the user can
    fix.
    """
    script = Path(sys.argv[0]).name
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")                  # unsupported characters print as ?
    try:
        code = main() or 0
        if sys.stdout:
            with naming("standard output"):
                sys.stdout.flush()
        return code
    except UserError as error:
        tell(f"{script}: error: {error}")
        return 2
    except CheckFailed as error:
        tell(f"{script}: {error}")
        return 1
    except BrokenPipeError:                                       # the reader of our output is gone: `| head`
        drop_output()
        return 0
    except OSError as error:
        if error.filename == "standard output":
            drop_output()
        file = f": {error.filename}" if error.filename else ""
        reason = error.strerror or error
        if isinstance(error, FileExistsError):                    # mkdir raises it
            reason = "a file is where a folder is needed"
        tell(f"{script}: error: {reason}{file}")
        return 2
    except KeyboardInterrupt:
        print(f"{script}: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        words = str(error).splitlines() or ["out of memory."]
        if not (isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
                or "can't allocate memory" in words[0]):          # torch's error, without importing torch
            raise
        tell(f"{script}: error: the device is out of memory: {words[0]} Use a smaller model, batch or "
             "length.")
        return 2


def drop_output() -> None:
    """Send the rest of stdout to os.devnull: at exit, Python would write it again and print its own error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def before_run(kind: type, error: BaseException, trace: Any) -> None:
    """Print one line if a script ends before `run`, while it imports torch, which takes seconds."""
    if kind is KeyboardInterrupt:
        print(f"{Path(sys.argv[0]).name}: interrupted", file=sys.stderr)
    elif kind is ModuleNotFoundError:
        tell(f"{Path(sys.argv[0]).name}: error: {error.name} is not installed here; activate its "
             "environment, or: pip install .")
    else:
        sys.__excepthook__(kind, error, trace)


if Path(sys.argv[0]).is_file() and Path(sys.argv[0]).resolve().parent == ROOT:
    sys.excepthook = before_run                                   # works if a script imports torch after this


# ---------------------------------------------------------------------------------------------- stop signals

STOPPING = ("SIGINT", "SIGTERM", "SIGHUP")                        # Windows has no SIGHUP


class StopSignals:
    """Within this block a signal asks the loop to finish its step; `received` is its number, 0 before.

    A second Ctrl-C or SIGTERM ends the program at once. A signal that was ignored when the block began stays
    ignored (`nohup`). Outside the main thread, signals are left as they are.
    """

    def __enter__(self) -> StopSignals:
        self.received, self.when, self.before = 0, 0.0, {}
        if threading.current_thread() is threading.main_thread():
            numbers = [getattr(signal, name) for name in STOPPING if hasattr(signal, name)]
            heard = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
            self.before = {number: signal.signal(number, self.receive) for number in heard}
        return self

    def receive(self, number: int, frame: Any) -> None:
        """Called by Python when the signal arrives."""
        now = time.monotonic()
        # torchrun repeats the terminal's signal; shell and kernel may both report a closed terminal
        repeated = os.environ.get("WORLD_SIZE", "1") != "1" and now - self.when < 1
        hangup = number == getattr(signal, "SIGHUP", None)
        if self.received and not repeated and not hangup:
            os._exit(128 + number)
        self.received, self.when = self.received or number, now
        if hangup:
            leave_closed_terminal()
        print("\nfinishing this step and saving; Ctrl-C again exits at once", file=sys.stderr)

    def __exit__(self, *_: Any) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


def leave_closed_terminal() -> None:
    """Drop output to a terminal that is closed: each write there would be an error."""
    for descriptor in (1, 2):
        try:
            closed = stat.S_ISCHR(os.fstat(descriptor).st_mode) and not os.isatty(descriptor)
        except OSError:
            continue                                              # the stream was closed before the start
        if closed:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)


# ------------------------------------------------------------------------------------------------------ flags

DASH = "give a text that begins with a dash on standard input, and such a path as ./-name"
MAY_BE_EMPTY = ("run", "prompt", "text")                          # arguments that are texts, or may be one


class Parser(argparse.ArgumentParser):
    """argparse whose mistakes are UserErrors, with "did you mean", and where --batch_size is --batch-size.

    An empty argument is a mistake: a shell passes one for a variable that is not set.
    """

    def __init__(self, purpose: str | None = None, examples: str = "", **options: Any):
        options.setdefault("description", purpose)
        options.setdefault("epilog", f"examples:\n{examples}" if examples else None)
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **options)
        self.register("type", Path, path_of)

    def parse_known_args(self, args=None, namespace=None):
        args = list(sys.argv[1:] if args is None else args)
        for i, arg in enumerate(args):
            if arg == "--":
                break
            if arg.startswith("--"):
                name, equals, value = arg.partition("=")
                args[i] = name.replace("_", "-") + equals + value
            elif arg.startswith("-h") and arg != "-h":            # argparse would read -h, and print the help
                self.error(DASH)
        return super().parse_known_args(args, namespace)

    def parse_args(self, args=None, namespace=None):
        # "intermixed" allows flags between arguments: RUN --flag 1 "prompt"
        parse = self.parse_known_args if self._subparsers else self.parse_known_intermixed_args
        known, unknown = parse(args, namespace)
        parsers = [self]
        for action in self._actions:
            parsers += action.choices.values() if isinstance(action.choices, dict) else []
        actions = [action for parser in parsers for action in parser._actions]
        if unknown:
            flags = [name for action in actions for name in action.option_strings]
            close = difflib.get_close_matches(unknown[0].split("=")[0], flags, n=1)
            if close:
                hint = f"did you mean {close[0]}?"
            elif re.match("-[^-]", unknown[0]):
                hint = DASH
            elif unknown[0][0] != "-" and any(action.dest in ("prompt", "text") for action in actions
                                              if not action.option_strings):
                hint = "put a text of several words in quotes"
            else:
                hint = f"see {self.prog} --help"
            raise UserError(f"unknown argument {unknown[0]}; {hint}")
        for action in actions:
            value = getattr(known, action.dest, None)
            empty = value == "" or isinstance(value, list) and "" in value
            if empty and action.const != "" and (action.option_strings or action.dest not in MAY_BE_EMPTY):
                name = action.option_strings[0] if action.option_strings else action.metavar or action.dest
                raise UserError(f"{name} is empty (an unset variable?); give a value, or leave it out")
        return known

    def error(self, message: str):
        raise UserError(f"{message} (see {self.prog} --help)")


def path_of(text: str) -> Path:
    """The path of an argument with type=Path. An empty one is a mistake: Path("") is the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty (an unset variable?); give a value, or leave it out")
    return Path(text)


def flag(default: Any, help: str, **options: Any) -> Any:
    """A dataclass field that `add_flags` turns into a command-line flag.

    `options` go to argparse (choices, type, nargs, const, metavar); `shown` replaces the default in the help.
    """
    return dataclasses.field(default=default, metadata={"help": help, **options})


def add_flags(parser: argparse.ArgumentParser, cls: type) -> None:
    """Add one flag for each field of the dataclass `cls` that was made by `flag`.

    A flag that is not given is missing in the parsed namespace, so a caller can tell a default from a choice.
    Choices are compared in lower case.
    """
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if "help" not in field.metadata:
            continue
        options = dict(field.metadata, default=argparse.SUPPRESS)
        kinds = typing.get_args(hints[field.name]) or (hints[field.name],)
        shown = options.pop("shown", field.default)
        if kinds[0] is bool:
            options.setdefault("action", "store_true")
        else:
            names = options.get("choices", ())
            plain = str.lower if names and all(name == name.lower() for name in names) else kinds[0]
            number = count_or_auto if str in kinds else count_of
            options.setdefault("type", number if kinds[0] is int else plain)
            options.setdefault("metavar", None if names else kinds[0].__name__.upper())
            if shown is not None:
                options["help"] += f" (default: {shown})"
        options["help"] = options["help"].replace("%", "%%")
        parser.add_argument("--" + field.name.replace("_", "-"), dest=field.name, **options)


def count_or_auto(text: str) -> int | str:
    """`count_of`, or the word auto."""
    return "auto" if text == "auto" else count_of(text)


def count_of(text: str) -> int:
    """A whole number as people write it: `32425`, `1e9`, `2.5M`, `64k`, `8.5B`.

    >>> count_of("2.5M"), count_of("1e3"), count_of("8_192")
    (2500000, 1000, 8192)
    >>> count_of("8.3B")
    8300000000
    """
    match = re.fullmatch(r"([+-]?[\d_]*\.?\d*(?:[eE]\+?\d{1,2})?)([kKmMbB]?)", text.strip())
    scale = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}
    try:
        value = decimal.Decimal(match[1].replace("_", "")) * scale[match[2].lower()]
    except (TypeError, decimal.InvalidOperation):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number such as 500, 1e9 or 2.5M") from None
    if value != int(value) or abs(value) > 2**63:
        raise argparse.ArgumentTypeError(f"{text[:30]!r} is not a whole number of at most 2^63")
    return int(value)


def positive(text: str) -> int:
    """A whole number of at least 1, written as `count_of` reads it."""
    value = count_of(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not at least 1")
    return value


def duration(text: str) -> float:
    """Seconds from `8h45m`, `90m`, `30s` or a bare number of seconds.

    >>> duration("8h45m"), duration("90")
    (31500.0, 90.0)
    """
    match = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?", text.strip())
    if not match or not text.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 8h45m, 90m or 30s")
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds


# ------------------------------------------------------------------------------------------------------ files

def fsync_folder(folder: Path) -> None:
    """Make renames inside `folder` durable where the system can (a folder cannot be opened on Windows)."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def atomic_write(path: str | Path, content: bytes | str) -> None:
    """Write a file completely or not at all: a temporary file beside it, fsync, then one rename.

    A character of a text that UTF-8 cannot store becomes a question mark.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming(path):
            with open(temporary, "wb") as file:
                file.write(content.encode(errors="replace") if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):                        # a read-only file system refuses this too
            temporary.unlink()
    fsync_folder(path.parent)


def utf8_path(path: str | Path) -> Path:
    """`path`. Raises UserError if its name has bytes that are not UTF-8, which no JSON file can hold."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UserError(f"{path}: the name has bytes that are not UTF-8; rename it") from None
    return Path(path)


def numbered(path: Path) -> Iterator[Path]:
    """`path`, then `path`-2, `path`-3 and so on, without end."""
    yield path
    for number in itertools.count(2):
        yield path.with_name(f"{path.name}-{number}")


def sha256_file(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def folder_problem(folder: Path) -> str | None:
    """What is wrong with a folder of `replace_folder` (a missing, cut or changed file), or None."""
    sums = folder / "SHA256SUMS"
    if not sums.is_file() or sums.stat().st_size > 1 << 20:
        return f"{sums} is missing"
    lines = [line.partition("  ") for line in sums.read_text(errors="replace").splitlines()]
    digests = {Path(name).name: digest for digest, _, name in lines}
    unlisted = {file.name for file in folder.iterdir() if file.name[0] != "."} - {*digests, sums.name}
    if unlisted:
        return f"{sums} does not list {min(unlisted)}: it is damaged, or the file was put there later"
    for name in sorted(digests):
        if not (folder / name).is_file():
            return f"{folder / name} is missing"
        if sha256_file(folder / name) != digests[name]:
            return f"{folder / name} is damaged (its checksum differs)"
    return None


def beside(folder: Path, ending: str) -> Path:
    """The path `folder` + `ending` (.new or .old). If `folder` is a link, it is beside the linked folder."""
    real = Path(os.path.realpath(folder)) if folder.is_symlink() else folder
    return real.with_name(real.name + ending)


def versions(folder: Path) -> list[Path]:
    """Where a reader looks for a folder of `replace_folder`, in this order: itself, then .new, then .old."""
    return [folder, beside(folder, ".new"), beside(folder, ".old")]


def replace_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Let `write(temporary)` fill a folder, then put it in the place of `folder`.

    The previous folder becomes `folder`.old, so one of `folder`, `folder`.new and `folder`.old is complete at
    every moment. If `folder` is a link, the linked folder is replaced and the link stays. Raises UserError if
    writing fails; `folder` is then unchanged.
    """
    new, old, real = beside(folder, ".new"), beside(folder, ".old"), beside(folder, "")
    shutil.rmtree(new, ignore_errors=True)
    try:
        new.mkdir(parents=True)
        write(new)
        files = sorted(file for file in new.iterdir() if file.is_file())
        (new / "SHA256SUMS").write_text("".join(f"{sha256_file(file)}  {file.name}\n" for file in files))
        for file in new.iterdir():
            with open(file, "rb+") as handle:
                os.fsync(handle.fileno())
        fsync_folder(new)
    except Exception as error:
        shutil.rmtree(new, ignore_errors=True)
        if isinstance(error, OSError) or type(error).__name__ == "SafetensorError":
            kept = "; the previous one is unchanged" if real.exists() else ""
            raise UserError(f"could not write {folder}: {error}{kept}") from None
        raise
    if real.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.replace(real, old)
    os.replace(new, real)
    fsync_folder(real.parent)


def restore_folder(folder: Path) -> None:
    """Undo the last `replace_folder`: `folder`.old takes its place again, or `folder` is removed."""
    old, real = beside(folder, ".old"), beside(folder, "")
    shutil.rmtree(real, ignore_errors=True)
    if old.exists():
        os.replace(old, real)
    fsync_folder(real.parent)


@contextlib.contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Put `path` into an OSError raised in this block: the error of a full disk, for one, names no file."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise


class FolderBusy(UserError):
    """Another process holds the folder."""


def lock_folder(folder: Path) -> Any:
    """Lock `folder` for this process; the system releases it when the process ends, however it ends.

    Raises FolderBusy if another process has locked it. On a file system without locks it only warns.
    """
    handle = open(folder / ".lock", "a+")
    try:
        if os.name == "posix":
            import fcntl
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            import msvcrt
            handle.seek(0)
            msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK):
            handle.close()
            raise FolderBusy(f"{folder}: another process is writing into this folder; wait for it or choose "
                             "another one") from None
        tell(f"warning: {folder}: this file system has no locks ({error.strerror}); make sure that no other "
             "process writes here")
    return handle


def read_json(path: str | Path, limit: int = 16 << 20) -> dict:
    """The JSON object in a file of at most `limit` bytes.

    Raises UserError that names the file and what is wrong with it.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if path.stat().st_size > limit:
        raise UserError(f"{path}: {path.stat().st_size} bytes, more than the {limit} such a file may have")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def optional_json(path: Path) -> dict:
    """The JSON object in a file (see `read_json`); {} where there is no file."""
    return read_json(path) if path.is_file() else {}


def json_lines(path: Path) -> Iterator[dict]:
    """The JSON objects of a file, one a line; nothing where there is no file.

    A line that is cut or damaged, for example by a full disk, is left out. NaN and Infinity, which are not
    JSON, are read as None.
    """
    if path.is_file():
        with open(path, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                with contextlib.suppress(ValueError, RecursionError):
                    value = json.loads(line, parse_constant=lambda name: None)
                    if isinstance(value, dict):
                        yield value


# --------------------------------------------------------------------------------------------------- terminal

def progress(iterable: Any = None, **options: Any) -> Any:
    """A tqdm progress bar: on a terminal on stderr, in a notebook on stdout; none in a log or a test.

    A notebook shows stdout and stderr in separate boxes. Only in the box of the printed lines can the bar
    stay below them.
    """
    from tqdm import tqdm
    if "ipykernel" in sys.modules:
        own = {"file": sys.stdout, "ncols": 80, "mininterval": 1.0}
    else:
        own = {"file": sys.stderr, "dynamic_ncols": True, "disable": not (sys.stderr and sys.stderr.isatty())}
    return tqdm(iterable, **{**own, **options})


def say(text: str) -> None:
    """Print lines, above the progress bar if there is one."""
    if sys.stdout is None:
        return
    from tqdm import tqdm
    with naming("standard output"):
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()


def text_width() -> int:
    """Columns for text: those of the terminal, at most 100; 100 where stdout is not a terminal."""
    on_terminal = sys.stdout and sys.stdout.isatty()
    return min(100, shutil.get_terminal_size().columns) if on_terminal else 100


# A command inside a sentence: it ends before a semicolon, comma or closing parenthesis.
COMMAND = re.compile(r"(?:python (?:-m |\S+\.py)|pip install |hf auth |torchrun )[^;,)]*")


def wrapped(text: str, first: str = "", rest: str = "", width: int | None = None) -> str:
    """`text` broken between words to `width`, its first line after `first`, all others after `rest`.

    Without `width` it is `text_width()`. A newline stays a line break. A command stays on one line, so that
    it can be copied.
    """
    lines = []
    for line in text.split("\n"):
        indent = rest if lines else first
        if line.startswith("python "):
            lines.append(indent + line)
            continue
        joined = COMMAND.sub(lambda found: found[0].replace(" ", "\0"), line)
        lines += textwrap.wrap(joined, width or text_width(), initial_indent=indent, subsequent_indent=rest,
                               break_long_words=False, break_on_hyphens=False) or [indent]
    return "\n".join(lines).replace("\0", " ")


def tell(text: str) -> None:
    """Print an error or a note on stderr: on a terminal broken between words, elsewhere one line."""
    if sys.stderr and sys.stderr.isatty():
        text = wrapped(text, width=os.get_terminal_size(sys.stderr.fileno()).columns or 80)
    print(text, file=sys.stderr)


def escaped(text: str) -> str:
    r"""`text` with its control characters, except newline and tab, as visible escapes.

    >>> escaped("a\x1b[31mb")
    'a\\x1b[31mb'
    """
    return "".join(letter if letter in "\n\t" or unicodedata.category(letter) != "Cc" else repr(letter)[1:-1]
                   for letter in text)


def for_terminal(text: str) -> str:
    """`escaped(text)` if stdout is a terminal, which no text may control; else `text`."""
    return escaped(text) if sys.stdout and sys.stdout.isatty() else text


class Flow:
    """A growing text for the terminal: a line that becomes too long is broken between words.

    Where stdout is not a terminal, the text stays as it is.
    """

    def __init__(self):
        self.width = text_width() if sys.stdout and sys.stdout.isatty() else math.inf
        self.column, self.held = 0, ""                            # `held`: a word that may still grow

    def add(self, text: str, last: bool = False) -> str:
        """What to print after `text` was added: all but a word at its end; with `last` that word too."""
        text = self.held + for_terminal(text)
        end = len(text) if last else re.search(r"\S*\Z", text).start()
        text, self.held = text[:end], text[end:]
        shown = ""
        for piece in re.findall(r"\n|[^\S\n]+|\S+", text):
            if self.column and self.column + len(piece) > self.width and piece != "\n":
                piece = "\n" if piece.isspace() else f"\n{piece}"
                self.column = 0
            self.column = len(piece) - 1 if piece[0] == "\n" else self.column + len(piece)
            shown += piece
        return shown


def colour(text: str, code: str) -> str:
    """`text` in an ANSI colour (`code` such as "32" or "38;5;208").

    Plain if stdout is not a terminal, or NO_COLOR is set.
    """
    if not (sys.stdout and sys.stdout.isatty()) or os.environ.get("NO_COLOR"):
        return text
    if os.name == "nt":
        os.system("")  # switches the Windows console to ANSI sequences
    return f"\x1b[{code}m{text}\x1b[0m"


# ------------------------------------------------------------------------------------------------ run folders

def runs_in(runs: str | Path) -> list[Path]:
    """The run folders under `runs` that this user may read, by name."""
    # os.path.isfile is False in a folder that this user may not read; Path.is_file raises an error there
    return [folder for folder in sorted(Path(runs).glob("*"))
            if os.path.isfile(folder / "run.json") and os.access(folder, os.R_OK)]


def no_run(folder: Path, what: str) -> UserError:
    """The error for a folder that is no run: `what` is wrong, and which runs are there."""
    names = ", ".join(str(run) for run in runs_in("runs")[:8])
    hint = f"the runs here are: {names}" if names else "make one with: python train.py --size tiny"
    return UserError(f"{folder}: {what}; {hint}")


def newest_run(runs: str | Path = "runs") -> Path:
    """The run folder under `runs` that was written last.

    Raises UserError with the command that makes one.
    """
    folders = runs_in(runs)
    if not folders:
        raise UserError(f"no run found under {runs}/; make one with: python train.py --size tiny")
    return max(folders, key=lambda folder: max(file.lstat().st_mtime for file in folder.iterdir()))


def find_run(run: str | Path | None = None) -> Path:
    """The model folder that RUN names: itself, its `best/`, or its newest complete `last/`.

    Without `run` the newest under `runs/`. Raises UserError if there is none.
    """
    if run == "":
        raise UserError("the name of the run or model folder is empty; leave it out for the newest run")
    folder = newest_run() if run is None else Path(run)
    for place in (folder, folder / "best", *versions(folder / "last")):
        if (place / "config.json").is_file():
            if place in (folder, folder / "best") or folder_problem(place) is None:
                return place
    if not folder.is_dir():
        what = "a file, not a run" if folder.exists() else "no such run"
        raise no_run(folder, f"{what} or model folder")
    raise UserError(f"{folder}: no complete model found (config.json, best/ or last/); train one with: "
                    "python train.py --size tiny")


def run_of(folder: Path) -> Path:
    """The run folder of a model folder: the one above best/ or last/, else itself."""
    return folder.parent if folder.name.split(".")[0] in ("best", "last") else folder


def output_file(flag: str, file: Path, example: str) -> Path:
    """`file`, if it can be written. Raises UserError for a folder, or where its folder does not exist."""
    if not file.parent.is_dir() or file.is_dir():
        problem = "that is a folder" if file.is_dir() else "there is no such folder"
        raise UserError(f"{flag} {file}: {problem}; name a file, such as {example}")
    return file


def save_figure(figure: Any, path: str | Path, example: str) -> None:
    """Write a figure of matplotlib to the file of --plot; the ending is the format.

    Raises UserError for a file that cannot be written, and for a format that matplotlib does not know.
    """
    file = output_file("--plot", Path(path), example)
    try:
        with naming(file):
            figure.savefig(file, format=file.suffix[1:] or "png")
    except ValueError as error:
        raise UserError(f"--plot {path}: {error}") from None


def command(*words: object) -> str:
    """A command line to copy: `python` and these words, quoted for a shell where they need it.

    A path that begins with a dash gets ./ before it, since it would be read as a flag.

    >>> command("sample.py", "runs/a b")
    "python sample.py 'runs/a b'"
    """
    safe = [f"./{word}" if isinstance(word, Path) and str(word)[0] == "-" else str(word) for word in words]
    return shlex.join(["python", *safe])
