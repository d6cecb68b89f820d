"""Tests of the grader: what a teacher would notice if it broke."""
import ast
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

pytest.register_assert_rewrite("checks", "judge")   # python -O leaves these asserts in place
import grade
sys.path.append(str(grade.MAML.parent))
import test_maml   # loads maml.py, which judge.py needs
import judge

SOURCE = grade.MAML.read_text(encoding="utf-8")
pytestmark = pytest.mark.skipif(bool(test_maml.OTHER), reason="maml.py is the reference here")


WRITTEN = {   # the sheet's bodies as someone may write them, with much that is their own
    "relu": """
slope = np.empty(z.shape, z.real.dtype, order="C")
slope[...] = z.real > 0
return np.maximum(z, 0), slope, np.zeros_like(z)""",
    "mse": """
count = f.shape[-2] * f.shape[-1]
error = f - y
return np.mean(error**TWO, axis=(-2, -1)), 2 / count * error, lambda Rf: 2 / count * Rf""",
    "cross_entropy": """
log_p = f - logsumexp(f)
p, n = np.exp(log_p), f.shape[-2]
onehot = np.eye(f.shape[-1], dtype=f.real.dtype)[y]
def along(Rf):
    return p * (Rf - np.einsum("...i,...i->...", p, Rf)[..., None]) / n
return -(onehot * log_p).sum((-2, -1)) / n, (p - onehot) / n, along""",
    "_forward": """
run = Pass([], [], [])
np.log(np.zeros(1))   # warns
for l in range(self.depth):
    run.A.append(append_column(x) * self.ONE)
    x = run.A[l] @ M[l]
    if l < self.last:
        x, slope, curvature = ACTIVATIONS[self.activation](x)
        run.slope.append(slope)
        run.curvature.append(curvature)
return x, run.A, run.slope, run.curvature""",
    "_backward": """
delta, e, parts = {self.last: delta_last}, {0: None}, {}
def step(l):
    parts[l] = T(A[l]) @ delta[l]
    if l > 0:
        e[l] = delta[l] @ T(M[l][..., :-1, :])
        delta[l - 1] = e[l] * slope[l - 1]
        step(l - 1)
step(self.last)
flat = [parts[l].reshape(*parts[l].shape[:-2], -1) for l in range(self.depth)]
return np.concatenate(flat, -1), delta, e""",
    "hvp": """
RM, last = self._matrices(r), self.last
RA, Rz = [append_column(0 * x, 0)], []
for l in range(self.depth):
    Rz.append(RA[l] @ M[l] + A[l] @ RM[l])
    if l < last:
        RA.append(append_column(slope[l] * Rz[l], 0))
Rdelta = delta_along(Rz[last])
Hr = np.empty(axes + (self.n_params,), Rdelta.dtype)
for l in range(last, -1, -1):
    sum_of_products(RA[l], delta[l], A[l], Rdelta, out=self._matrices(Hr)[l])
    if l > 0:
        Re = Rdelta @ T(M[l][..., :-1, :]) + delta[l] @ T(RM[l][..., :-1, :])
        bend = 0 if curvature[l - 1] is None else e[l] * curvature[l - 1]
        Rdelta = Re * slope[l - 1] + bend * Rz[l - 1]
return Hr""",
    "adapt": """
def one_step(t, alpha_k):
    return t - alpha_k * model.linearize(t, x, y)[1]
return functools.reduce(one_step, rates, +theta)""",
    "meta_gradient": """
def adapt(t, k, x_support, y_support, *query):
    if k == steps:
        return (*model.linearize(t, *query)[:2], [])
    _, grad, hvp = model.linearize(t, x_support, y_support)
    loss, v, rows = adapt(t - rates[k] * grad, k + 1, x_support, y_support, *query)
    rows = [-(grad * v).sum(0), *rows]
    return loss, v if first_order else v - hvp(rates[k] * v), rows
J, direction, entries, n = 0, 0, 0, len(tasks[0])
for part in groups(tasks, theta):
    loss, v, rows = adapt(theta, 0, *part)
    J, direction = J + loss.sum(), direction + v.sum(0)
    entries = entries + np.array(rows, v.dtype).reshape(steps, theta.size)
return J / n, direction / n, sum_shared(entries / n, alpha) if wrt_alpha else None""",
    "reptile_gradient": """
def mse(x_support, y_support, x_query, y_query):
    t = adapt(model, theta, x_support, y_support, alpha, steps)
    loss, grad, _ = model.linearize(t, x_query, y_query)
    return loss.sum(), np.broadcast_to(t, grad.shape).sum(0)
losses, ends = zip(*(mse(*part) for part in groups(tasks, theta)))
return sum(losses) / len(tasks[0]), theta - sum(ends) / len(tasks[0])""",
    "step": """
self.t += 1
self.path.append(grad)
self.m = self.blend(self.m, self.path[-1], self.beta1)
self.u = self.blend(self.u, grad * grad, self.beta2)
m, u = self.m / (1 - self.beta1**self.t), self.u / (1 - self.beta2**self.t)
return theta - float(lr) * m / (np.sqrt(u) + self.eps)""",
}
ADDED = {
    "import math\n": """from __future__ import annotations
import functools
import math
from dataclasses import dataclass
try:
    from a_package_of_their_own import logsumexp
except ImportError:
    def logsumexp(a):
        top = a.real.max(-1, keepdims=True)
        return np.log(np.exp(a - top).sum(-1, keepdims=True)) + top
TWO: int = 2


def counted(function):
    @functools.wraps(function)
    def called(*arguments, **options):
        counted.calls += 1
        return function(*arguments, **options)
    return called


counted.calls = 0
""",
    "def adapt(": "@counted\ndef adapt(", "def mse(f, y)": "def mse(f: NDArray, y)",
    "def append_column(a, value)": "def append_column(a, value=1)",
    "class MLP:\n": """T = transpose


@dataclass
class Pass:
    A: list
    slope: list
    curvature: list


class MLP:
    ONE = 1
    broken = a_name_without_value + 1

    @a_name_without_value
    def unfinished(self):
        pass

    @property
    def last(self):
        return self.depth - 1

""",
    "    def init(": "        self.depth = len(self.sizes) - 1\n\n    def init(",
    "    def _forward(": "    @counted\n    def _forward(",
    "    def step(self": """        self.path = []

    @staticmethod
    def blend(old, new, beta):
        return beta * old + (1 - beta) * new

    def step(self""",
}
TAIL = """
def my_tanh(z):   # half of it overflows and warns
    a = np.where(z.real > 0, 2 / (np.exp(-2 * z) + 1) - 1, 1 - 2 / (np.exp(2 * z) + 1))
    slope = (1 - a) * (1 + a)
    return a, slope, -2 * a * slope


tanh = my_tanh
policy = lambda f, y: weighted(y[..., -1:] / f.shape[-2])(f - y[..., :-1])


def weighted(weight):
    def loss(off):
        return (weight * off * off).sum((-2, -1)) / 2, weight * off, lambda Rf: weight * Rf
    return loss


import a_package_of_their_own
print("θ", a_package_of_their_own)
np.seterr(all="raise")
exit()
"""


def filled(bodies):
    """Return the sheet with bodies written."""
    sheet = grade.sheet(SOURCE)
    lines, found = sheet.splitlines(), grade.functions_of(ast.parse(sheet))
    for name in sorted(bodies, key=lambda name: -found[name].lineno):
        left = found[name].body[-1]
        lines[left.lineno - 1] = textwrap.indent(bodies[name].strip(), " " * left.col_offset)
    return "\n".join(lines) + "\n"


def replaced(source, *pairs):
    for old, new in pairs:
        assert old in source, f"no {old} to replace"
        source = source.replace(old, new, 1)
    return source


OWN = replaced(filled(WRITTEN), *ADDED.items()) + TAIL


@pytest.mark.parametrize("name", grade.BODIES)
def test_every_body_with_all_that_a_student_may_add_is_right(monkeypatch, name):
    cases = judge.cases
    monkeypatch.setattr(judge, "cases", lambda test: list(cases(test))[::4])   # to save time
    assert judge.judge(name, OWN) == ""


def test_a_body_gets_its_point_whatever_the_others_and_what_is_given_are_like():
    adapt = ast.get_source_segment(SOURCE, grade.functions_of(ast.parse(SOURCE))["adapt"])
    assert judge.judge("adapt", adapt) == ""   # a file with nothing else in it
    assert "a plus" in judge.judge("adapt", replaced(adapt, ("- alpha_k", "+ alpha_k")))
    for name in "relu", "hvp", "adapt", "step":
        message = judge.judge(name, grade.sheet(SOURCE) + adapt)
        assert message == ("" if name == "adapt" else "not written yet")
    wrong = replaced(OWN, ("step(l - 1)", "step(9)"), ("**TWO", "**3"))
    assert [bool(judge.judge(name, wrong)) for name in ("hvp", "mse", "_backward")] == [0, 1, 1]
    for given in "return a.swapaxes(-1, -2)", "self.n_params = ends[-1]":
        assert judge.judge("hvp", replaced(SOURCE, (given, given + " + 1"))) == ""
    assert test_maml.maml is judge.reference is sys.modules["maml"], "the proof is left as it was"
    assert test_maml.MLP is judge.reference.MLP and test_maml.check is judge.proof_check


# ----------------------------------------------------------------------- wrong work loses its point

@pytest.mark.parametrize("name, right, wrong, words", (
    ("relu", "(z, 0), slope, np.zeros_like(z)", "(z, 0)", "relu: expected 3 things, σ(z), σ′(z)"),
    ("relu", "def relu", "def rectify", "no relu: keep the names of the sheet"),
    ("relu", "def relu", "@nothing\ndef relu", ", @nothing: NameError: name 'nothing' is not"),
    ("relu", "[...] = z", "[...] = nothing   # yet", ", slope[...] = nothing: NameError"),
    ("tanh", "return a, slope,", "a, slope,", "σ(z), σ′(z), σ″(z), got NoneType"),
    ("tanh", "return a, slope,", "exit();", ": SystemExit: it ends the program"),
    ("tanh", "return a, slope,", "assert z.ndim > 2  #", ", assert z.ndim > 2: it does not hold"),
    ("tanh", "return a, slope,", "np.log(0 * z); return 2 * a, slope,", "σ(z) of tanh: "),
    ("mse", "error = f - y\n", "f -= y; error = f\n", "read-only (it was passed in, and may not"),
    ("mse", "Rf: 2 / count * Rf", "Rf: np.multiply(2 / count, Rf, out=Rf)", "read-only"),
    ("mse", "error, lambda Rf: 2 / count * Rf", "error", "L, δ, the function R{f} -> R{δ}, got 2"),
    ("_forward", "run.slope, run.curvature\n", "run.curvature, run.slope\n", "σ′(z_l) as returned"),
    ("_forward", "x, run.A, run.slope, run.curvature\n", "x\n", "_forward: expected 4 things, f"),
    ("_backward", ", delta, e\n", "\n", "_backward: expected 3 things, g"),
    ("_backward", "= e[l] * slope[l - 1]", "= e[l]; e[l] *= slope[l - 1]", "e_l as returned"),
    ("_backward", "= e[l] * slope[l - 1]", "= slope[l - 1]; slope[l - 1] *= e[l]", "read-only"),
    ("hvp", "RA, Rz =", "self.linearize(theta, x, y); RA, Rz =", "hvp may not call linearize"),
    ("hvp", "RA, Rz =", "self._forward(M, x); RA, Rz =", "hvp may not call _forward"),
    ("hvp", "delta_along(Rz[last])", "delta_along(Rz[last]); A[last] *= 2",
     "H r comes out differently the second time"),
    ("hvp", "RA[l] @ M[l] +", "RA[l] @ M[l].real +", "right for real θ but not for complex θ"),
    ("hvp", "Rdelta.dtype)", "theta.dtype)", ", sum_of_products(RA[l], delta[l], A[l], Rdelta, "),
    ("hvp", "0 if curvature[l - 1] is None else ", "", " e[l] * curvature[l - 1]: TypeError"),
    ("hvp", "    return loss, grad, hvp", "    return loss, 2 * grad, hvp", "g of "),
    ("adapt", "model.linearize(t, x, y)[1]\n", "model.loss(t, x, y)\n",
     ": AttributeError: model.loss is not at hand: of a model only linearize is"),
    ("adapt", "rates, +theta)", "rates, +theta).astype(theta.dtype)", "θ, α and r may be complex"),
    ("adapt", "rates, +theta)", "rates, +theta).view(type('Own', (np.ndarray,), {}))",
     "θ_K: expected an array, got Own"),
    ("reptile_gradient", "= adapt(model, theta,", "= adapt(model, theta.real,", "θ.real in place"),
    ("reptile_gradient", "loss.sum(), np.broad", "loss.real.sum(), np.broad", "J of Reptile"),
    ("meta_gradient", "(*model.linearize(t, *query)[:2], [])", "(*model.linearize(t + 1e-30j, "
     "*query)[:2], [])", "linearize was called with a complex θ")))
def test_wrong_work_loses_its_point_and_is_told_why(name, right, wrong, words):
    assert words in judge.judge(name, replaced(OWN, (right, wrong)))


# ------------------------------------------------------------------------------ processes and files

def test_a_body_in_a_process_of_its_own(monkeypatch):
    """What may end, hold up or deceive the process."""
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    monkeypatch.setenv("PYTHONOPTIMIZE", "1")
    cases = (("import os; os._exit(0)", 30, "the process ended before its tests did"),
             ("while True: print(z)", 1, "not done after 1 s: an endless loop?"),
             ("import torch", 30, "import of torch halted; None in sys.modules (only numpy and"),
             ("print('θ'); a = np.empty_like(z)", 30, "not finite"),
             ("a = np.tanh(z) + np.zeros(z.shape)", 30, "of a float32 z got float64"),
             ("raise ValueError('\\x1b[2K' + 'x' * 9999)", 30, "ValueError: [2Kxxx"))

    def message(case):
        text = f"import numpy as np\ndef tanh(z):\n    {case[0]}\n    return a, 1 - a**2, 2 * a**3"
        return grade.judged(text + " - 2 * a", case[1], "tanh")[0]

    with ThreadPoolExecutor(2) as pool:
        for case, found in zip(cases, pool.map(message, cases)):
            assert case[2] in found and found.isprintable()


def test_a_judge_that_does_not_start_is_no_fault_of_a_student(monkeypatch, tmp_path):
    (tmp_path / "judge.py").write_text("import nothing_of_that_name")
    monkeypatch.setattr(grade, "COURSE", tmp_path)
    with pytest.raises(SystemExit, match="(?s)judge.py does not start.*nothing_of_that"):
        grade.judged(SOURCE, 30, "relu")


def test_what_goes_to_gradescope_is_all_that_marking_needs(monkeypatch, tmp_path):
    page = (grade.COURSE / "README.md").read_text(encoding="utf-8")
    for name in re.search("zip -r autograder.zip setup.sh run_autograder (.*)", page)[1].split():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        copy = shutil.copytree if name == "course" else shutil.copy
        copy(grade.MAML.parent / name, tmp_path / name)
    monkeypatch.setattr(grade, "COURSE", tmp_path / "course")
    monkeypatch.setattr(grade, "MAML", tmp_path / "maml.py")
    assert grade.judged(SOURCE, 30, "relu")[0] == ""


def test_files_of_windows_are_read(tmp_path):
    file = tmp_path / "student.py"
    for data in (SOURCE.encode("utf-8-sig"), SOURCE.encode("utf-16"),
                 SOURCE.replace("\n", "\r\n").encode()):
        file.write_bytes(data)
        assert grade.read(file) == SOURCE


# ---------------------------------------------------------------------------------------- the sheet

def test_the_sheet_keeps_all_but_the_bodies():
    sheet, whole = (grade.functions_of(ast.parse(text)) for text in (grade.sheet(SOURCE), SOURCE))
    assert whole.keys() - sheet.keys() == {"delta_along"}   # part of a body
    for name, left in sheet.items():
        full = whole[name]
        assert ast.dump(left.args) == ast.dump(full.args)
        assert ast.get_docstring(left) == ast.get_docstring(full)
        if name in grade.BODIES:
            kept = [ast.dump(line) for line in left.body[:-1]]
            assert ast.unparse(left.body[-1]) == "raise NotImplementedError"
            assert kept == [ast.dump(line) for line in full.body[:len(kept)]] and len(kept) < 4
        elif name != "linearize":
            assert ast.dump(left) == ast.dump(full)


def test_the_sheet_to_derive_lacks_what_is_to_be_derived_and_nothing_else():
    write, derive = (grade.sheet(SOURCE, derive) for derive in (False, True))
    left = set(derive.splitlines()) - set(write.splitlines())
    assert "chain rule" not in derive and len(derive.splitlines()) > len(write.splitlines()) - 15
    numbers = [re.search(r"\((\d+R?)\) ", line)[1] for line in left]
    assert sorted(numbers) == sorted(grade.DERIVED) and all(line[-3:] == "= ?" for line in left)
    assert "L = mean of (f − y)² over examples and outputs;  δ = ?" in derive
    write, derive = (re.sub(r'""".*?"""', "", text, flags=re.S) for text in (write, derive))
    assert write == derive


# --------------------------------------------------------------------------------------- the report

LOOK = """import sys
import os.path as p
from inspect import stack
from numpy import load
open("maml.py")
getattr(np, "x")
__builtins__
adapt.__globals__
(i for i in ()).gi_frame
np.tanh = 3
np.fromfile("maml.py")
class Own(np.ndarray): pass"""


def test_what_no_honest_body_needs_is_to_be_looked_at():
    lines = SOURCE.count("\n")
    assert grade.flagged(ast.parse(SOURCE + LOOK)) == [lines + i + 1 for i in range(12)]
    assert grade.flagged(ast.parse(OWN.replace("a_package_of_their_own", "itertools"))) == []


def run(capsys, *arguments):
    """Return the exit status and what is printed."""
    try:
        status = grade.main(list(map(str, arguments)))
    except SystemExit as end:
        status = end.code
    return status, "".join(capsys.readouterr())


def test_marks_are_printed_summed_and_written_for_gradescope(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(grade, "judged", lambda source, seconds, name: (
        "off by one" if name == "hvp" and "import os" in source else "", 0.04))
    good, bad, broken, none, out = (tmp_path / name for name in "good bad broken none out".split())
    good.write_text(SOURCE, encoding="utf-8")
    bad.write_text("x = 1\nimport os", encoding="utf-8")
    broken.write_text("def relu(z)", encoding="utf-8")
    assert run(capsys, good)[0] == 0
    status, printed = run(capsys, bad, "--json", out)
    assert status == 1 and "to look at, line 2: import os" in printed
    assert re.search(r"^hvp +\(10R\) \(11R\) \(12R\) +wrong +0.0 s  off by one$", printed, re.M)
    assert "\n11 of 12\n" in printed and "not tamper-proof" in printed
    results = json.loads(out.read_text(encoding="utf-8"))["tests"]
    assert sum(test["score"] for test in results) == 11 and len(results) == 12
    assert {test["output"] for test in results} == {"right", "off by one"}
    status, printed = run(capsys, good, bad, broken, none)
    assert status == 1 and "cannot be read: line 1, def relu(z): " in printed
    rows = [line.split() for line in printed.splitlines()[-4:]]
    assert rows == [[str(good), *"1" * 12, "12"], [str(bad), *"111111101111", "11", "1"],
                    [str(broken), *"0" * 12, "0"], [str(none), *"0" * 12, "0"]]


@pytest.mark.parametrize("arguments, words", (
    ("", "name files to mark, or ask for the --sheet"), ("--sheet a.py", "invalid choice"),
    ("a.py --sheet derive", "name files"), ("a.py --out b.py", "--out is for the --sheet"),
    ("a.py --seconds 0", "--seconds: expected a number above 0, got 0"),
    ("a.py --seconds nan", "above 0"), ("a.py --json .", "--json: "),
    ("a.py --json no/folder.json", "--json: "), ("a.py --json a.py", "would write over the file"),
    ("a.py b.py --json c.json", "--json takes the marks of one file"),
    ("--sheet --out .", "--out: ")))
def test_a_wrong_command_line_is_refused_before_anything_is_marked(
        capsys, monkeypatch, tmp_path, arguments, words):
    monkeypatch.chdir(tmp_path)
    status, printed = run(capsys, *arguments.split())
    assert status == 2 and words in printed and "of 12" not in printed


def test_a_sheet_is_never_written_over_a_file(capsys, tmp_path):
    out = tmp_path / "student.py"
    assert run(capsys, "--sheet", "derive", "--out", out) == (None, "")
    assert out.read_text(encoding="utf-8") == grade.sheet(SOURCE, derive=True)
    assert run(capsys, "--sheet", "--out", out)[0] == 2


def test_the_command_writes_utf_8_anywhere_and_ends_quietly_with_its_reader():
    command = [sys.executable, grade.COURSE / "grade.py", "--sheet"]
    run = partial(subprocess.run, command, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert run(stdout=subprocess.PIPE).stdout.decode("utf-8").splitlines() == (
        grade.sheet(SOURCE).splitlines())
    reader, writer = os.pipe()
    os.close(reader)
    assert not run(stdout=writer, stderr=subprocess.PIPE).stderr
    os.close(writer)
