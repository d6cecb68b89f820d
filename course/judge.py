"""The process that judges one body of a student's file. grade.py starts it and reads its verdict.

The module to judge is the student's whole file, run statement by statement, with the functions of
maml.py put back in the places of the other eleven bodies after each. So all that a student adds
stays, wherever it stands, and a statement that fails costs only what needs it. The functions put
back see maml.py's own names only, so a helper that a student has changed does not reach them.
"""
import ast
import itertools
import json
import os
import re
import signal
import sys
import traceback
import warnings
from pathlib import Path
from types import FunctionType, ModuleType

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import test_maml as proof

import checks
import mistakes

reference = proof.maml
STUDENT = "<student>"   # stands for the file in tracebacks
FUNCTIONS = "relu tanh mse cross_entropy policy adapt meta_gradient reptile_gradient".split()
PLACES = {**dict(zip(FUNCTIONS, FUNCTIONS)), "_forward": "MLP._forward", "step": "Adam.step",
          "_backward": "MLP._backward", "hvp": "MLP.linearize"}   # body -> what is kept with it

JUDGED_BY = {  # which bodies each test judges; a body's tests run in this order
    checks.functions_return_three_things: "relu tanh mse cross_entropy policy",
    proof.test_10_relu_and_its_derivatives: "relu",
    proof.test_10_tanh_and_its_derivatives: "tanh",
    proof.test_07_mse: "mse",
    proof.test_08_cross_entropy: "cross_entropy",
    proof.test_09_policy: "policy",
    checks.forward_returns_what_the_way_back_needs: "_forward",
    proof.test_10_forward_pass_equals_loops_over_single_numbers: "_forward",
    checks.backward_returns_delta_and_e_of_every_layer: "_backward",
    checks.hvp_gives_the_same_the_second_time: "hvp",
    proof.test_11_12_gradient_is_the_derivative_of_the_loss: "_forward _backward hvp",
    proof.test_10R_to_12R_hvp_is_the_derivative_of_the_gradient: "_forward _backward hvp",
    checks.hvp_holds_at_complex_parameters: "hvp",
    proof.test_10_to_12R_leading_axes_broadcast: "_forward _backward hvp",
    proof.test_01_adapt_takes_K_gradient_steps: "adapt",
    checks.every_alpha_may_be_complex: "adapt reptile_gradient",
    checks.meta_gradient_takes_no_complex_steps: "meta_gradient",
    proof.test_02_to_05_meta_gradient_is_the_derivative_of_the_meta_objective: "meta_gradient",
    proof.test_03_05_first_order_is_the_mean_gradient_at_theta_K: "meta_gradient",
    proof.test_06_reptile_is_the_mean_way_to_theta_K: "reptile_gradient",
    proof.test_02_to_06_groups_of_tasks_give_what_all_tasks_give_at_once:
        "meta_gradient reptile_gradient",
    proof.test_01_to_06_worked_by_hand: "adapt meta_gradient reptile_gradient",
    proof.test_theta_decides_the_precision:
        "_forward _backward hvp adapt meta_gradient reptile_gradient",
    proof.test_13_adam: "step",
    proof.test_13_adam_has_the_defaults_it_names_and_keeps_the_precision: "step",
}


def judge(name, source):
    """Return what is wrong with a body of the file with this source, or an empty string.

    It is right if its tests pass with the file as it stands; or with what is given put back too, in
    case the student has spoilt that. In the first try a warning is an error, as it leads to a line,
    but a warning alone costs no point.
    """
    messages, warned = [], ""
    for action, as_given in ("error", False), ("ignore", False), ("ignore", True):
        failed = []   # what kept a statement of the file from being run
        try:
            run_tests(name, source, action, as_given, failed)
            return ""
        except BaseException as exception:   # whatever a student's code may raise
            message = explain(exception, source, failed)
            if action == "error" and isinstance(exception, Warning):
                warned = f" ({message})" if own_lines(exception) else ""
            else:
                messages.append(message)
        finally:
            connect(reference, proof_check)
    return messages[0] + warned


def run_tests(name, source, action, as_given, failed):
    """Run the tests of one body, with warnings as errors or ignored."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        connect(assembled(name, source, as_given, failed), check)
        warnings.simplefilter(action)
        np.seterr(all="warn", under="ignore")   # NumPy's default
        for test, names in JUDGED_BY.items():
            for arguments in cases(test) if name in names.split() else ():
                test(**arguments)


def cases(test):
    """Yield the arguments of each run that pytest would make of a parametrized test."""
    marks = [m for m in getattr(test, "pytestmark", []) if m.name == "parametrize"]
    for values in itertools.product(*(m.args[1] for m in marks[::-1])):
        yield {m.args[0]: value for m, value in zip(marks[::-1], values)}


SHARED = [key for key, value in vars(proof).items() if getattr(value, "__module__", "") == "maml"]


def connect(module, check):
    """Let the proof judge this module, by this check."""
    sys.modules["maml"] = proof.maml = module
    vars(proof).update({key: getattr(module, key) for key in SHARED}, check=check)


proof_check = proof.check
PLAIN = {np.ndarray, type(None), float, int, complex, *np.sctypeDict.values()}


def check(what, found, expected, /, **case):
    """The proof's check, of plain arrays: a class of a student's own may compare as it likes."""
    for a in found, case.get("whole"):
        assert type(a) in PLAIN, f"{what}: expected an array, got {type(a).__name__}"
    proof_check(what, found, expected, **case)


# --------------------------------------------------------------------------------------- the module

GRADED = {place.partition(".")[0] for place in PLACES.values()}


def assembled(name, source, as_given, failed):
    """Return the module to judge."""
    module = sys.modules["maml"] = ModuleType("maml")
    names = vars(module)
    names["_failed"] = failed
    tree = ast.parse(source)
    futures = [node for node in tree.body if getattr(node, "module", "") == "__future__"]
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name in GRADED:
            node.body = [attempted(statement) for statement in node.body]
        one = ast.Module([*futures, node], [])
        try:
            exec(compile(one, STUDENT, "exec", dont_inherit=True, optimize=0), names)
        except BaseException as exception:   # SystemExit too
            failed.append(exception)
        put_back(names, PLACES[name], as_given)
    owner, _, method = PLACES[name].partition(".")
    if owner not in names or method and not hasattr(names[owner], method):
        raise Missing(f"no {PLACES[name]}: keep the names of the sheet")
    for key, value in vars(reference).items():
        names.setdefault(key, value)
    if name == "hvp":
        checks.refuse_other_passes_while_hvp_runs(names["MLP"])
    return module


def attempted(statement):
    """Return the statement of a class in a try, so that a failure costs that statement only."""
    attempt, = ast.parse("try: pass\nexcept BaseException as _e: _failed.append(_e)").body
    attempt.body = [statement]
    return attempt


def put_back(names, place, as_given):
    """Put the functions of maml.py in all places but one, or the bodies' only."""
    owner, _, own = place.partition(".")
    for key, value in vars(reference).items():
        given = as_given and isinstance(value, (FunctionType, type))
        if key != owner and (key in GRADED or given):
            names[key] = value
    if own and isinstance(names.get(owner), type):
        for key, value in vars(getattr(reference, owner)).items():
            given = as_given and isinstance(value, FunctionType)
            if key != own and (f"{owner}.{key}" in PLACES.values() or given):
                setattr(names[owner], key, value)


# -------------------------------------------------------------------------------------- the message

FRAMEWORKS = """aesara autograd casadi cupy jax jaxlib mlx numba pytensor scipy sympy tensorflow
theano tinygrad torch""".split()
HINTS = {r"requires a reduction": "out has other leading axes than the product that fills it",
         r"read-only": "it was passed in, and may not be changed in place",
         r"complex\d+'\) to dtype\('float|discards the imaginary": "θ, α and r may be complex",
         rf"\b({'|'.join(FRAMEWORKS)})\b": "only numpy and Python's own modules are at hand"}


class Missing(AssertionError):
    """There is no body to judge."""


def explain(exception, source, failed):
    """Return one line on the exception that ended the tests."""
    if isinstance(exception, proof.Wrong):
        try:
            return mistakes.explain(exception)
        except Exception:   # what was found may be of any shape and kind
            return str(exception)
    if isinstance(exception, NotImplementedError):
        return "not written yet"
    words = described(exception, source)
    if failed and isinstance(exception, (NameError, AttributeError, Missing)):
        words += f" (not run: {'; '.join(described(e, source) for e in failed)})"
    return words


def described(exception, source):
    """Return the student's line that raised an exception, and what the exception says."""
    text = (str(exception).strip().splitlines() or [""])[0]
    text = re.sub(r"'(Checked|Watched)' object has no attribute '(\w+)'",
                  r"model.\2 is not at hand: of a model only linearize is", text)
    lines = own_lines(exception)
    if isinstance(exception, SyntaxError):   # one that ast.parse leaves to compile
        lines = [exception.lineno]
    elif isinstance(exception, SystemExit):
        text = "it ends the program"
    if not isinstance(exception, AssertionError):
        text = f"{type(exception).__name__}: {text}".rstrip(": ")
    hints = [hint for pattern, hint in HINTS.items() if re.search(pattern, text)]
    text += f" ({hints[0]})" if hints else ""
    if lines:
        line = re.sub(r"\s+# .*", "", source.split("\n")[lines[-1] - 1].strip())
        return f"line {lines[-1]}, {line}: {text or 'it does not hold'}"
    if isinstance(exception, AssertionError):
        return text
    return f"what it returns, or leaves of what it got, cannot be used: {text}"


GIVEN = {"checked_hvp", *vars(reference), *vars(reference.MLP), *vars(reference.Adam),
         *vars(reference.Checked)} - {*PLACES}


def own_lines(exception):
    """Return the student's lines on the way to an exception, without those in what is given."""
    trace = [(frame.f_code, line) for frame, line in traceback.walk_tb(exception.__traceback__)]
    own = [(code.co_name, line) for code, line in trace if code.co_filename == STUDENT]
    return [line for name, line in own if name not in GIVEN] or [line for _, line in own]


# -------------------------------------------------------------------------------------- the process

def with_nan(allocate):
    """Return np.empty with arrays of NaN, so that what is not filled shows."""
    def filled(*arguments, **options):
        out = allocate(*arguments, **options)
        if out.dtype.kind in "fc":
            out.fill(np.nan)
        return out
    return filled


def main():
    """Read which body of what to judge from stdin, and write the verdict to stdout."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    nonce, name, source = json.loads(sys.stdin.buffer.read())
    verdict, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.write(verdict, f"{nonce}\n".encode())
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    np.empty, np.empty_like = with_nan(np.empty), with_nan(np.empty_like)
    sys.modules.update(dict.fromkeys(FRAMEWORKS))   # who imports one gets an ImportError
    message = " ".join(judge(name, source).split())
    os.write(verdict, f"{nonce} {message}\n".encode(errors="replace"))
    os._exit(0)   # threads and exit handlers of the student's code are not waited for


if __name__ == "__main__":
    main()
