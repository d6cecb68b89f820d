"""The exercise: a sheet to hand out, and marks for what comes back.

    python course/grade.py --sheet --out student.py          maml.py without its twelve bodies
    python course/grade.py --sheet derive --out derive.py    and without the equations to derive
    python course/grade.py student.py                        mark each body: right, or what is wrong
    python course/grade.py handed-in/*.py                    mark a class, and end with a table
    python course/grade.py student.py --json results.json    also write what Gradescope reads
"""
import argparse
import ast
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import textwrap
import tokenize
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

COURSE = Path(__file__).resolve().parent
BODIES = {   # the equations | how the first line that is left out begins | what to know
    "relu": "(10) | slope | σ′(0) is 0. Of a complex z, z.real decides. None stands for a σ″ of 0.",
    "tanh": "(10) | a = | z may be as large as ±1000.",
    "mse": "(7) (7R) | error | Return L, δ and the function from R{f} to R{δ}.",
    "cross_entropy": "(8) (8R) | n = | As mse. Logits may be ±1000: subtract the largest .real.",
    "policy": "(9) (9R) | error | As mse.",
    "_forward": "(10) | sigma | Given: append_column; ACTIVATIONS[self.activation], z ↦ σ, σ′, σ″",
    "linearize": "(11) (12) | for l in | Fill grad by its views grad_M[l], delta, bend.",
    "hvp": "(10R) (11R) (12R) | RA, Rz | Given: all above. linearize and _forward refuse calls.",
    "adapt": "(1) | theta_k | Given: inner_rates(alpha, steps, theta), the α_k. 0 steps: a copy.",
    "meta_gradient": "(1) to (5) | theta_k, grads | Given: rates, linearize_query, unbroadcast.",
    "reptile_gradient": "(6) | theta_K | Given: linearize_query, adapt. 0 steps leave θ_K (P,).",
    "step": "(13) | self.t += | The next theta has theta's dtype, even if lr is an np.float64."}
EQUATIONS = {name: words.split(" |")[0] for name, words in BODIES.items()}
RULES = """\
# An exercise, made of maml.py: write the twelve bodies that are marked as not implemented.
# Each is marked with right ones in the other eleven places. Keep names and what is given; add what
# you like. Leading axes may differ, float32 stays, all but labels may be complex. Change no input.
"""
DERIVED = "3 4 5 7 7R 8 8R 9 9R 11 12 10R 11R 12R".split()   # the rest are definitions


def sheet(kind):
    """Return maml.py without the bodies; docstrings stay, and the first lines of some."""
    source = (COURSE.parent / "maml.py").read_text(encoding="utf-8")
    functions = {node.name: node for node in ast.walk(ast.parse(source)) if hasattr(node, "args")
                 and hasattr(node, "name")}
    lines = source.splitlines()
    for name in sorted(BODIES, key=lambda name: -functions[name].lineno):
        _, start, words = (part.strip() for part in BODIES[name].split("|", 2))
        first = next(s for s in functions[name].body if ast.unparse(s).startswith(start))
        last = functions[name].body[-3 if name == "linearize" else -1]   # hvp and return follow
        indent = " " * first.col_offset
        known = [f"{indent}# {line}" for line in textwrap.wrap(words, 98 - len(indent))]
        lines[first.lineno - 1:last.end_lineno] = [*known, indent + "raise NotImplementedError"]
    text = RULES + "\n".join(lines) + "\n"
    if kind == "write":
        return text
    text = "\n\n".join(part for part in text.split("\n\n") if "chain rule" not in part)
    equation = r"^( +\((\d+R?)\) +)(.*?)(?=\n\n|\n +\(\d|\n +\"\"\")"
    return re.sub(equation, question, text, flags=re.M | re.S)


def question(match):
    """Return an equation with a ? for each right-hand side that is to be derived."""
    start, number, sides = match.groups()
    parts = [part.partition(" = ") for part in re.split(r";\s+", sides)]
    asked = ("".join(part) if part[0] in ("L", "p") else f"{part[0]} = ?" for part in parts)
    return start + ";  ".join(asked) if number in DERIVED else match[0]


def read(path):
    """Return the text of a Python file, also in UTF-16, which PowerShell's > writes."""
    data = Path(path).read_bytes()
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16")
    return data.decode(tokenize.detect_encoding(io.BytesIO(data).readline)[0])


def judged(source, seconds, name):
    """Return what is wrong with one body, or an empty string. It has a process of its own."""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    environment.pop("PYTHONOPTIMIZE", None)    # the proof is made of asserts
    with tempfile.TemporaryFile() as output:   # a pipe would wait for the student's own processes
        message = "it ends the process"
        try:
            subprocess.run([sys.executable, COURSE / "judge.py"], timeout=seconds, env=environment,
                           input=json.dumps([name, source]).encode(), stdout=output, stderr=output)
        except subprocess.TimeoutExpired:
            message = f"not done after {seconds:g} s: an endless loop?"
        output.seek(0)
        written = output.read().decode(errors="replace")
    if not written.startswith("ready"):
        sys.exit(f"judge.py does not start: {written.strip()}")
    for verdict in re.findall(r"^verdict (.*)$", written, re.M):   # the last word counts
        message = json.loads(verdict)
    return "".join(c if c.isprintable() else " " for c in message[:500])


def mark(path, seconds):
    """Print a line for each body of a file, and their sum; return body -> what is wrong, or ""."""
    try:
        source = read(path)
        ast.parse(source)
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        print(f"the file cannot be read: {error}")
        return dict.fromkeys(BODIES, f"the file cannot be read: {error}")
    marks = {}
    with ThreadPoolExecutor(2) as pool:
        for name, message in zip(BODIES, pool.map(lambda n: judged(source, seconds, n), BODIES)):
            marks[name] = message
            verdict = f"wrong  {message}" if message else "right"
            print(f"{name:17}{EQUATIONS[name]:19}{verdict}", flush=True)
    print(f"{list(marks.values()).count('')} of {len(BODIES)}", flush=True)
    return marks


def main(arguments=None):
    parser = argparse.ArgumentParser(usage=__doc__.split("\n\n")[1].strip())
    parser.add_argument("files", nargs="*")
    parser.add_argument("--sheet", nargs="?", const="write", choices=("write", "derive"))
    parser.add_argument("--out", help="a new file, for the sheet")
    parser.add_argument("--json", help="a file for what Gradescope reads")
    parser.add_argument("--seconds", type=float, default=30, help="limit of a body (default: 30)")
    options = parser.parse_args(arguments)
    if bool(options.sheet) == bool(options.files) or options.json and len(options.files) != 1:
        parser.error("name files to mark, one for --json, or ask for the --sheet")
    if options.out and options.sheet:
        with open(options.out, "x", encoding="utf-8") as file:   # never over a student's work
            file.write(sheet(options.sheet))
    elif options.sheet:
        print(sheet(options.sheet), end="")
    table = {}
    for path in options.files:
        print(path)
        table[path] = marks = mark(path, options.seconds)
    if options.json:   # as Gradescope reads it
        tests = [{"name": f"{name} {EQUATIONS[name]}", "score": int(not message), "max_score": 1,
                  "output": message or "right"} for name, message in marks.items()]
        Path(options.json).write_text(json.dumps({"tests": tests}, indent=1), encoding="utf-8")
    if len(table) > 1:   # a row for each file, a column for each body
        width = max(map(len, table))
        print(" " * width, *BODIES, "sum")
        for path, marks in table.items():
            cells = [f"{int(not message):{len(name)}}" for name, message in marks.items()]
            print(f"{path:{width}}", *cells, f"{list(marks.values()).count(''):3}")
    return int(any(any(marks.values()) for marks in table.values()))


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8")
    sys.exit(main())
