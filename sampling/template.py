# SPDX-License-Identifier: Apache-2.0
"""Render the chat template of a foreign folder: a program in the Jinja language that cannot be trusted.

    python -m sampling.template < {"source": ..., "values": ...}      {"text": ...} or {"error": ...}

Jinja's sandbox keeps a template from changing anything and from reaching Python's internals. It cannot keep
it from running forever, or from building a string of gigabytes. So `render` starts a new process for each
text and limits its time (SECONDS) and memory (MEMORY). The process does not import torch and takes a few
tenths of a second.
"""
from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from typing import Any

from common import ROOT, UserError

SECONDS = 20                                # until a template is stopped
MEMORY = 1 << 30                            # bytes of the process, where the system can limit them
LONGEST = 4 << 20                           # characters of a text
FAILS = "the folder's chat template fails"


def render(source: str, values: dict[str, Any]) -> str:
    """The text of the template `source` with these variables. Raises UserError that says why it fails."""
    asked = json.dumps({"source": source, "values": values})
    try:
        done = subprocess.run([sys.executable, "-m", "sampling.template"], input=asked.encode(), cwd=ROOT,
                              capture_output=True, timeout=SECONDS, check=False)
        answer = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        raise UserError(f"{FAILS}: it was not finished after {SECONDS} seconds") from None
    except ValueError:
        raise UserError(f"{FAILS}: its process ended with code {done.returncode}") from None
    if "error" in answer:
        raise UserError(answer["error"])
    return answer["text"]


def compiled(source: str) -> Any:
    """A template in Jinja's sandbox, with the functions that transformers offers to templates.

    Its tag `generation`, which marks the text to train on, changes no text.
    """
    try:
        import jinja2
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError:
        raise UserError("it needs Jinja: pip install jinja2") from None

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    sandbox = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    sandbox.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    sandbox.globals |= {"raise_exception": raise_exception, "strftime_now": time.strftime}
    source = re.sub(r"(\{%[-+]?\s*)generation\b", r"\1if true", source)
    source = re.sub(r"(\{%[-+]?\s*)endgeneration\b", r"\1endif", source)
    try:
        return sandbox.from_string(source)
    except (jinja2.TemplateError, RecursionError) as error:
        raise UserError(f"it is not a Jinja template: {error}") from None


def answer(source: str, values: dict[str, Any]) -> dict[str, str]:
    """{"text": the rendered template}, or {"error": why there is none}."""
    try:
        text = compiled(source).render(**values)
    except UserError as error:
        return {"error": str(error)}
    except Exception as error:  # noqa: BLE001 (a template can fail in any way)
        return {"error": f"{FAILS}: {str(error) or type(error).__name__}"}
    if len(text) > LONGEST:
        return {"error": f"{FAILS}: its text has {len(text):,} characters, more than {LONGEST:,}"}
    return {"text": text}


def main() -> None:
    """Read one JSON object from stdin, limit this process, write the answer as one JSON object."""
    asked = json.load(sys.stdin)
    try:
        import resource
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    except (ImportError, ValueError, OSError):
        pass                                                      # Windows; or a lower limit is set already
    print(json.dumps(answer(asked["source"], asked["values"])))


if __name__ == "__main__":
    main()
