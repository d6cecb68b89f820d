"""Tests of the grader: what a teacher would notice if it broke."""
import ast
import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.register_assert_rewrite("checks", "judge")   # python -O leaves these asserts in place
import grade
sys.path.append(str(grade.MAML.parent))
import test_maml   # loads maml.py, which judge.py needs
import judge

SOURCE = grade.MAML.read_text(encoding="utf-8")
pytestmark = pytest.mark.skipif(bool(test_maml.OTHER), reason="maml.py is the reference here")


def edited(*edits):
    """Return maml.py's source with the first occurrence of each text replaced."""
    source = SOURCE
    for old, new in edits:
        assert old in source, f"maml.py has no longer a line {old}"
        source = source.replace(old, new, 1)
    return source


# ----------------------------------------------------------------------- honest work keeps its points

OWN = edited(
    ("import math\n", """from __future__ import annotations
import functools
import math
from dataclasses import dataclass
try:
    from a_package_of_their_own import times
except ImportError:
    def times(a, b):
        return a * b
TWO: int = 2


def counted(function):
    @functools.wraps(function)
    def called(*arguments, **options):
        counted.calls += 1
        return function(*arguments, **options)
    return called


counted.calls = 0
"""),
    ("def adapt(", "@counted\ndef adapt("),
    ("def meta_gradient(", "def parts(*both):\n    yield from groups(*both)\n\n\ndef meta_gradient("),
    ("in groups(tasks, theta):", "in parts(tasks, theta):"),
    ("return J.item() / n_tasks", "return J / n_tasks"),
    ("    J, ends = 0, 0\n", "    J, ends = 0, 0\n    def mse(L):\n        return times(1, L)\n"),
    ("ends = ends + np.broadcast_to(theta_K", "ends = mse(ends) + np.broadcast_to(theta_K"),
    ("    slope = (z.real > 0).astype(z.real.dtype) ",
     "    slope = np.empty(z.shape, z.real.dtype, order='C')\n    slope[...] = z.real > 0   #"),
    ("return z * slope, slope, None", "return np.maximum(z, 0), slope, 0 * z"),
    ("def tanh(z):\n    a = np.tanh(z)\n", """def my_tanh(z):   # half of it overflows, with a warning
    a = np.where(z.real > 0, 2 / (np.exp(-2 * z) + 1) - 1, 1 - 2 / (np.exp(2 * z) + 1))
"""),
    ("return a, slope, curvature\n", "return a, slope, curvature\n\n\ntanh = my_tanh\n"),
    ("def mse(f, y):", "def mse(prediction: np.ndarray | None, y):"),
    ("error = f - y\n", "f = prediction\n    error = f - y\n"),
    ("scale = 2 / (", "scale = TWO / ("),
    ("def cross_entropy", "@counted\ndef cross_entropy"),
    ("def policy(f, y):", "policy = lambda f, y: weighted(f, y)\n\n\ndef weighted(f, y):"),
    ("def append_column(a, value):", "def append_column(a, value=1):"),
    ("class MLP:\n", """T = transpose


@dataclass
class Pass:
    A: list


class MLP:
    ONE = 1
    broken = a_name_without_value + 1

    @a_name_without_value
    def unfinished(self):
        pass

    @property
    def last(self):
        return self.depth - 1

"""),
    ("self.n_params = ends[-1]", "self.n_params, self.depth = ends[-1], len(ends)"),
    ("    def _forward(", "    @counted\n    def _forward("),
    ("[append_column(x, 1)], [], []", "Pass([append_column(x) * self.ONE]).A, [], []"),
    ("        for M_l in M[:-1]:\n", "        np.log(np.zeros(1))   # warns\n        for M_l in M[:-1]:\n"),
    ("        last = len(M) - 1\n", "        last = self.last\n        def step(l):\n            return T(A[l])\n"),
    ("np.matmul(transpose(A[l]), delta[l]", "np.matmul(step(l), delta[l]"),
    ("            last = len(M) - 1\n", "            last, ones = self.last, append_column(x)\n"),
    ("A[0] @ RM[0]", "ones @ RM[0]"),
    ("self.m = self.u = self.t = 0", "self.m = self.u = self.t = 0; self.path = []"),
    ("    def step(self, ", """    @staticmethod
    def blend(old, new, beta):
        return beta * old + (1 - beta) * new

    def step(self, """),
    ("self.m = self.beta1 * self.m + (1 - self.beta1) * grad", "self.path.append(grad)\n"
     "        self.m = self.blend(self.m, self.path[-1], self.beta1)")) + """
import a_package_of_their_own
print("θ", a_package_of_their_own)
np.seterr(all="raise")
exit()
"""


@pytest.mark.parametrize("name", grade.BODIES)
def test_every_body_with_all_that_a_student_may_add_is_right(monkeypatch, name):
    cases = judge.cases
    monkeypatch.setattr(judge, "cases", lambda test: list(cases(test))[::4])   # to save time
    assert judge.judge(name, OWN) == ""


def test_a_body_gets_its_point_whatever_the_others_and_what_is_given_are_like():
    adapt = ast.get_source_segment(SOURCE, grade.functions_of(ast.parse(SOURCE))["adapt"])
    assert judge.judge("adapt", adapt) == ""   # a file with nothing else in it
    sheet = grade.sheet(SOURCE) + adapt
    for name in "relu", "hvp", "adapt", "step":
        assert judge.judge(name, sheet) == ("" if name == "adapt" else "not written yet")
    others = OWN.replace("step(l), ", "step(9), ")
    assert judge.judge("hvp", others) == "" != judge.judge("_backward", others)
    assert judge.judge("hvp", edited(("return a.swapaxes(-1, -2)", "return a"))) == ""
    assert judge.judge("hvp", edited(("self.n_params = ends[-1]", "self.n_params = 1"))) == ""
    assert test_maml.maml is judge.reference is sys.modules["maml"], "the proof is left as it was"
    assert test_maml.MLP is judge.reference.MLP and test_maml.check is judge.proof_check


# -------------------------------------------------------------------------- wrong work loses its point

IN_HVP, IN_TANH = "            RM = self._matrices(r)\n", "    a = np.tanh(z)\n"


@pytest.mark.parametrize("name, right, wrong, words", (
    ("relu", "return z * slope, slope, None", "return z * slope", "relu: expected 3 things, σ(z), σ′"),
    ("relu", "def relu", "def rectify", "no relu: keep the names of the sheet"),
    ("relu", "def relu", "@nothing\ndef relu", "not run: line 139, @nothing: NameError"),
    ("tanh", "return a, slope, curvature", "pass", "σ(z), σ′(z), σ″(z), got NoneType"),
    ("tanh", IN_TANH, "    exit()\n", ", exit(): SystemExit: it ends the program"),
    ("tanh", IN_TANH, "    assert z.ndim > 2\n", ", assert z.ndim > 2: it does not hold"),
    ("tanh", IN_TANH, "    a = nothing   # yet\n", ", a = nothing: NameError: name"),
    ("tanh", IN_TANH, "    np.log(np.zeros(1)); a = 2 * np.tanh(z)\n", "σ(z) of tanh: "),
    ("mse", "error = f - y\n", "f -= y; error = f\n", "read-only (it was passed in, and may not be"),
    ("mse", "lambda Rf: scale * Rf", "lambda Rf: np.multiply(scale, Rf, out=Rf)", "read-only"),
    ("mse", "error, lambda Rf: scale * Rf", "error", "L, δ, the function R{f} -> R{δ}, got 2"),
    ("_forward", "A, slope, curvature\n", "A, curvature, slope\n", "σ′(z_l) as returned"),
    ("_forward", "A[-1] @ M[-1], A, slope, curvature\n", "A[-1] @ M[-1]\n", "expected 4 things, f"),
    ("_backward", "return grad, delta, e", "return grad", "_backward: expected 3 things, g, all δ_l"),
    ("_backward", "delta[l - 1] = e[l] * slope[l - 1]", "delta[l - 1] = e[l]; e[l] *= slope[l - 1]",
     "e_l as returned"),
    ("_backward", "delta[l - 1] = e[l] * slope[l - 1]", "slope[l - 1] *= e[l]", "read-only"),
    ("hvp", IN_HVP, IN_HVP + "            self.linearize(theta, x, y)\n", "hvp may not call linearize"),
    ("hvp", IN_HVP, IN_HVP + "            self._forward(M, x)\n", "hvp may not call _forward"),
    ("hvp", "Rdelta += e[l] * curvature[l - 1]", "e[l] *= curvature[l - 1]; Rdelta += e[l]",
     "H r comes out differently the second time"),
    ("hvp", "RA[l] @ M[l] + ", "RA[l] @ M[l].real + ", "right for real θ but not for complex θ"),
    ("hvp", "Rdelta.dtype)", "theta.dtype)", ", sum_of_products(RA[l], delta[l], A[l], Rdelta, out"),
    ("hvp", "if curvature[l - 1] is not None:", "if True:", "curvature[l - 1] * Rz[l - 1]: TypeError"),
    ("hvp", "    return loss, grad, hvp", "    return loss, 2 * grad, hvp", "g of "),
    ("adapt", "_, grad, _ = model.linearize(", "grad = model.loss(", ": AttributeError: model.loss is not"
     " at hand: of a model only linearize is"),
    ("adapt", "return theta_k", "return theta_k.astype(theta.dtype)", "(θ, α and r may be complex)"),
    ("adapt", "return theta_k", "return theta_k.view(type('Own', (np.ndarray,), {}))",
     "θ_K: expected an array, got Own"),
    ("reptile_gradient", "theta_K = adapt(model, theta,", "theta_K = adapt(model, theta.real,",
     "θ.real in place of θ"),
    ("reptile_gradient", "J = J + loss.sum()\n        ends", "J = J + loss.real.sum()\n        ends",
     "J of Reptile"),
    ("meta_gradient", "    J, grad_theta, grad_alpha = 0, 0, 0\n", "    model.linearize(theta + 1e-30j, "
     "*tasks[:2])\n", "linearize was called with a complex θ")))
def test_wrong_work_loses_its_point_and_is_told_why(name, right, wrong, words):
    assert words in judge.judge(name, edited((right, wrong)))


# ----------------------------------------------------------------------------- processes and files

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
        return grade.judged(edited((IN_TANH, f"    {case[0]}\n")), case[1], "tanh")[0]

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


# ------------------------------------------------------------------------------------------- the sheet

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


# ------------------------------------------------------------------------------------------ the report

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
    bad.write_text("import os", encoding="utf-8")
    broken.write_text("def relu(z)", encoding="utf-8")
    assert run(capsys, good)[0] == 0
    status, printed = run(capsys, bad, "--json", out)
    assert status == 1 and "to look at, line 1: import os" in printed
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


def test_the_command_ends_quietly_with_its_reader():
    command = [sys.executable, grade.COURSE / "grade.py", "--sheet"]
    options = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                   env={**os.environ, "PYTHONIOENCODING": "ascii"})
    with subprocess.Popen(command, **options) as running:
        assert running.stdout.readline() == grade.RULES.splitlines(True)[0].encode()
        running.stdout.close()
        assert not running.stderr.read()
