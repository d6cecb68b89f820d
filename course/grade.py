"""The exercise: a sheet to hand out, and marks for what comes back.

    python course/grade.py --sheet --out student.py     write maml.py without its twelve bodies
    python course/grade.py --sheet derive > student.py  the same without the equations to derive
    python course/grade.py student.py                   mark each body: right, or what is wrong
    python course/grade.py *.py                         mark a class, and end with a table
    python course/grade.py student.py --json FILE       also write what Gradescope reads

Each body is judged in a process of its own (judge.py), in the student's module with the bodies of
maml.py in the other eleven places. The exit status is 0 if all bodies are right, 1 if not, 2 for a
wrong command line. README.md is the page for teachers.
"""
import argparse
import ast
import codecs
import io
import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
import textwrap
import time
import tokenize
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

COURSE = Path(__file__).resolve().parent
MAML = COURSE.parent / "maml.py"

BODIES = {  # what a student writes, in the order of the report: its equations, and what to know
    "relu": ("(10)", "σ′(0) is 0 here; z may be complex, and z.real alone decides. None stands for "
             "σ″, which is 0 everywhere. All are of z's precision: a float32 z gives a float32 "
             "slope."),
    "tanh": ("(10)", "All three are of z's precision. z may be complex, and as large as ±1000."),
    "mse": ("(7) (7R)", "Return L, δ and the function from R{f} to R{δ}, all of f's precision, and "
            "change neither f nor R{f} in place. f may be complex: squares are plain products, "
            "not |.|²."),
    "cross_entropy": ("(8) (8R)", "Return as mse does. Logits may be ±1000, or complex: subtract "
                      "the largest .real."),
    "policy": ("(9) (9R)", "Return as mse does. ‖.‖² is a sum of plain products, as in mse."),
    "_forward": ("(10)", "Given: append_column(a, 1), and ACTIVATIONS[self.activation], which maps "
                 "z to σ(z), σ′(z) and σ″(z) or None. M and x may have different leading axes, and "
                 "be complex."),
    "_backward": ("(11) (12)", "Given: transpose, times_transpose(a, B) = a Bᵀ, and "
                  "self._matrices(grad), views that fill grad. delta[l] and e[l] are δ_l and e_l; "
                  "e[0] may be None. grad has the leading axes of δ. Change nothing that is passed "
                  "in: hvp needs it later."),
    "hvp": ("(10R) (11R) (12R)", "Given: what linearize has computed above; append_column(a, 0), "
            "transpose, times_transpose, self._matrices. H r has the leading axes `axes`, those of "
            "θ, x and r together. A curvature of None is 0. θ and r may be complex. Derive it: "
            "linearize and _forward refuse to be called while it runs."),
    "adapt": ("(1)", "Given: rates, α_k of each step, (P,) or (1,). Return a new array, which is a "
              "copy of θ if steps is 0, and change none in place. θ and α may be complex, θ "
              "(tasks, P)."),
    "meta_gradient": ("(1) to (5)", "Given: rates, α_k of each step, (P,) or (1,); groups(tasks, "
                      "theta), the tasks in groups that may differ in size, so add up sums and "
                      "divide once; sum_shared(entries, alpha) for (5), where entries (steps, P) "
                      "is an array. Of model ask linearize only. J is a number, not an array, and "
                      "complex if θ or α is."),
    "reptile_gradient": ("(6)", "Given: groups, as in meta_gradient, and adapt, which returns (P,) "
                         "if steps is 0. J is as in meta_gradient."),
    "step": ("(13)", "self.m, self.u and self.t are 0 at first. The next theta has theta's dtype, "
             "even if lr is an np.float64."),
}


# ---------------------------------------------------------------------------------------- the sheet

RULES = """
# An exercise, made of maml.py: write the twelve bodies that raise NotImplementedError.
#
# Each is marked by itself, with right bodies in the other eleven places, by course/grade.py of the
# project, which your teacher or an autograder runs. So take them in any order; one that is wrong or
# missing costs one point and no other; a syntax error costs all. Keep the names, the order of the
# arguments and of what is returned, which are plain arrays. Only numpy and Python's own modules are
# at hand.
# All that you add is kept: imports, constants, functions, classes, decorators; methods of MLP and
# Adam, their class attributes and what __init__ sets; what linearize does besides hvp. You may also
# change what is given, if a body of yours needs it: the other eleven do not see it. But keep the
# attributes that __init__ sets, under their names.
""".lstrip()

DERIVED = "3 4 5 7 7R 8 8R 9 9R 11 12 10R 11R 12R".split()   # the rest are definitions


def sheet(source, derive=False):
    """Return maml.py's source with the bodies to write left out; docstrings and checks stay."""
    lines, functions = source.splitlines(), functions_of(ast.parse(source))
    for name in sorted(BODIES, key=lambda name: -functions[name].lineno):
        body = functions[name].body
        given = [i for i, line in enumerate(body) if isinstance(line, (ast.Expr, ast.Assign))
                 and re.search(r"""^['"]|check_\w+\(""", ast.unparse(line))]
        first = body[given[-1] + 1 if given else 0]
        indent = " " * first.col_offset
        words = textwrap.wrap(BODIES[name][1], 96 - len(indent))
        left = [f"{indent}# {line}" for line in words] + [indent + "raise NotImplementedError"]
        lines[first.lineno - 1:functions[name].end_lineno] = left
    text = RULES + "\n".join(lines) + "\n"
    return without_derivations(text) if derive else text


def functions_of(tree):
    """Return name -> function, at any depth."""
    return {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def without_derivations(text):
    """Return the sheet with a ? for what is to be derived, and without the words that derive it."""
    text = "\n\n".join(part for part in text.split("\n\n") if "chain rule" not in part)
    equation = r"^( +\((\d+R?)\) {2,})(.*?)(?=\n\n|\n +\(\d|\n +\"\"\")"
    return re.sub(equation, question, text, flags=re.M | re.S)


def question(match):
    """Return an equation with its right-hand sides left out, but for definitions."""
    start, number, sides = match.groups()
    if number not in DERIVED:
        return match[0]
    parts = [part.partition(" = ") for part in re.split(r";\s+", sides)]
    return start + ";  ".join("".join(part) if part[0] in ("L", "p") else f"{part[0]} = ?"
                              for part in parts)


# ---------------------------------------------------------------------------------------- the marks

def read(path):
    """Return the text of a Python file, also in UTF-16, which PowerShell's > writes."""
    data = Path(path).read_bytes()
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    encoding = "utf-16" if utf16 else tokenize.detect_encoding(io.BytesIO(data).readline)[0]
    return io.TextIOWrapper(io.BytesIO(data), encoding).read()


def parse(source):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")    # as of "\d" in a string
        return ast.parse(source)


class Marks(NamedTuple):
    messages: dict   # body -> what is wrong with it, "" if nothing is
    flagged: list    # numbers of the lines to look at

    def points(self):
        return sum(not message for message in self.messages.values())


def mark(path, seconds):
    """Print a line for each body, their sum and what to look at; return the Marks."""
    try:
        source = read(path)
        tree = parse(source)
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        message = f"the file cannot be read: {described(error)}"
        print(f"{message}\n0 of {len(BODIES)}", flush=True)
        return Marks(dict.fromkeys(BODIES, message), [])
    marks, lines = Marks({}, flagged(tree)), source.split("\n")
    with ThreadPoolExecutor(2) as pool:
        verdicts = pool.map(partial(judged, source, seconds), BODIES)
        for name, (message, spent) in zip(BODIES, verdicts):
            marks.messages[name] = message
            verdict = "wrong" if message else "right"
            line = f"{name:17}{BODIES[name][0]:19}{verdict} {spent:5.1f} s  {message}"
            print(line.rstrip(), flush=True)
    print(f"{marks.points()} of {len(BODIES)}")
    for line in marks.flagged:
        print(f"to look at, line {line}: {printable(lines[line - 1])}")
    print("Marks are not tamper-proof: what was marked ran beside what marks it.", flush=True)
    return marks


def described(error):
    if isinstance(error, SyntaxError) and error.text:
        return f"line {error.lineno}, {printable(error.text)[:80]}: {error.msg}"
    return printable(f"{type(error).__name__}: {error}").rstrip(": ")


def printable(text):
    """Return the text on one line, without what steers a terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text[:400]).split())


def judged(source, seconds, name):
    """Return what is wrong with one body, or an empty string, and the seconds that took.

    Its process is told a number on stdin, before it loads the student's code. It writes the number
    when it is ready, and once more before the verdict.
    """
    nonce, start = secrets.token_hex(), time.monotonic()
    order = json.dumps([nonce, name, source]).encode()
    environment = {**os.environ, "MAML": str(MAML),   # of the proof, to leave out demo and tasks
                   "OPENBLAS_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    environment.pop("PYTHONOPTIMIZE", None)    # the proof is made of asserts
    with tempfile.TemporaryFile() as output:   # a pipe would wait for the student's own processes
        try:
            subprocess.run([sys.executable, COURSE / "judge.py"], input=order, timeout=seconds,
                           env=environment, stdout=output, stderr=output)
        except subprocess.TimeoutExpired:
            return f"not done after {seconds:g} s: an endless loop?", time.monotonic() - start
        output.seek(0)
        written = output.read().decode(errors="replace")
    if nonce not in written:
        sys.exit(f"judge.py does not start: {written.strip()}")
    verdict = re.search(f"^{nonce} (.*)$", written, re.M)
    message = printable(verdict[1]) if verdict else "the process ended before its tests did"
    return message, time.monotonic() - start


# ------------------------------------------------------------------------------- what to look at
# No honest body needs these. They cost nothing: a teacher looks at the lines.

HARMLESS = """__future__ abc cmath collections contextlib copy dataclasses decimal enum fractions
functools itertools logging math matplotlib numbers numpy operator pprint random statistics string
textwrap time timeit types typing warnings""".split()
BUILTINS = """breakpoint compile delattr eval exec getattr globals input locals memoryview open
setattr vars""".split()
READERS = "fromfile fromregex genfromtxt load loadtxt memmap os sys".split()
FRAMES = r"(ag|cr|gi|tb|f)_(back|builtins|code|frame|globals|locals)"


def flagged(tree):
    """Return the lines of a syntax tree for a teacher to look at, in order."""
    nodes = list(ast.walk(tree))
    imports = [node for node in nodes if isinstance(node, (ast.Import, ast.ImportFrom))]
    modules = {(name.asname or name.name).split(".")[0] for node in imports for name in node.names}
    return sorted({node.lineno for node in nodes if is_flagged(node, modules)})


def is_flagged(node, modules):
    if isinstance(node, ast.Import):
        return any(name.name.split(".")[0] not in HARMLESS for name in node.names)
    if isinstance(node, ast.ImportFrom):
        names = [name.name for name in node.names]
        return (node.module or "").split(".")[0] not in HARMLESS or not {*READERS}.isdisjoint(names)
    if isinstance(node, ast.Name):
        return node.id in BUILTINS or re.match("__(?!name__|all__)", node.id)
    if isinstance(node, ast.ClassDef):
        return any(re.search("ndarray|memmap|matrix|generic", ast.unparse(b)) for b in node.bases)
    if not isinstance(node, ast.Attribute):
        return False
    changed = not isinstance(node.ctx, ast.Load) and getattr(node.value, "id", None) in modules
    hidden = re.match(f"__(?!init__|post_init__|name__|call__)|{FRAMES}$", node.attr)
    return changed or hidden or node.attr in READERS


# --------------------------------------------------------------------------------------- the report

def as_gradescope(marks):
    """Return what Gradescope reads as results.json, a point for each body."""
    tests = [{"name": f"{name} {BODIES[name][0]}", "score": int(not message), "max_score": 1,
              "output": message or "right"} for name, message in marks.messages.items()]
    return json.dumps({"tests": tests}, indent=1, ensure_ascii=False)


def print_table(marks):
    """Print a row for each file and a column for each body."""
    width = max(map(len, marks))
    print(f"\n{'':{width}}", *BODIES, " sum  lines to look at")
    for path, own in marks.items():
        cells = [f"{int(not own.messages[name]):>{len(name)}}" for name in BODIES]
        print(f"{path:{width}}", *cells, f"{own.points():4}  {len(own.flagged) or ''}".rstrip())


def write_sheet(options, parser):
    """Print the sheet, or write it to a new file."""
    text = sheet(MAML.read_text(encoding="utf-8"), options.sheet == "derive")
    if not options.out:
        print(text, end="", flush=True)
        return
    try:
        with open(options.out, "x", encoding="utf-8") as file:   # never over a student's work
            file.write(text)
    except OSError as error:
        parser.error(f"--out: {error}")


def mark_all(options, parser):
    """Mark the files; return the exit status, 0 if all of them are right."""
    try:
        if options.json:
            open(options.json, "a").close()   # so that marks are not lost in the end
    except OSError as error:
        parser.error(f"--json: {error}")
    marks = {}
    for path in options.files:
        if len(options.files) > 1:
            print(f"\n{path}")
        marks[path] = mark(path, options.seconds)
    if len(options.files) > 1:
        print_table(marks)
    if options.json:
        Path(options.json).write_text(as_gradescope(marks[path]), encoding="utf-8")
    return int(any(own.points() < len(BODIES) for own in marks.values()))


def main(arguments=None):
    parser = argparse.ArgumentParser(usage=(
        "grade.py --sheet [write | derive] [--out FILE]\n"
        "       grade.py FILE [FILE ...] [--json FILE] [--seconds S]"))
    parser.add_argument("files", nargs="*", metavar="FILE", help="modules to mark body by body")
    parser.add_argument("--sheet", nargs="?", const="write", choices=("write", "derive"),
                        help="print the exercise, with all equations or without those to derive")
    parser.add_argument("--out", metavar="FILE", help="a new file to write the sheet to")
    parser.add_argument("--json", metavar="FILE", help="a file to write what Gradescope reads")
    parser.add_argument("--seconds", type=float, default=30, help="limit of a body (default: 30)")
    options = parser.parse_args(arguments)
    if bool(options.sheet) == bool(options.files):
        parser.error("name files to mark, or ask for the --sheet")
    if options.out and not options.sheet:
        parser.error("--out is for the --sheet")
    if options.json and len(options.files) != 1:
        parser.error("--json takes the marks of one file")
    if options.json and Path(options.json).resolve() == Path(options.files[0]).resolve():
        parser.error("--json would write over the file to mark")
    if not 0 < options.seconds < 1e6:
        parser.error(f"--seconds: expected a number above 0, got {options.seconds:g}")
    return write_sheet(options, parser) if options.sheet else mark_all(options, parser)


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8")
    try:
        sys.exit(main())
    except BrokenPipeError:   # as of | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
