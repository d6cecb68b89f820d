"""The process that judges one body of a file: it comes into maml.py, for its tests of the proof.
A test that fails runs again with the right body, to tell what is off, and with every edit."""
import ast
import contextlib
import copy
import functools
import importlib
import inspect
import itertools
import json
import os
import sys
import traceback
import warnings
from pathlib import Path
from unittest import mock

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import mistakes

NETWORK = "10_the_forward 11_12 10R 10_to_12R"
BODIES = {   # what the body answers, and the tests that it has to pass, in order
    "relu": f"σ(z), σ′(z), σ″(z) | {NETWORK} 10_activations",
    "tanh": f"σ(z), σ′(z), σ″(z) | {NETWORK} 10_activations",
    "mse": "L, δ, R{δ} | 07 10R 10_to_12R",
    "cross_entropy": "L, δ, R{δ} | 08 10R 10_to_12R",
    "policy": "L, δ, R{δ} | 09 10R 10_to_12R",
    "_forward": "f, A_l, σ′(z_l), σ″(z_l) | " + NETWORK,
    "linearize": "L, g, H r | " + NETWORK,
    "hvp": "L, g, H r | 10R 10_to_12R 02_to_05_the",
    "adapt": "θ_K | 01_adapt 01_to_06",
    "meta_gradient": "J, ∂J/∂θ, ∂J/∂α | 02_to_05_the 03_05 02_to_06 01_to_06 01_to_05",
    "reptile_gradient": "J, Reptile's direction | 06 02_to_06 01_to_06",
    "step": "θ | 13_adam"}
HINTS = {"read-only": "it was passed in", "complex128') to": "θ, α and r may be complex"}


def judge(name, source):
    """Yield what is wrong with a body of a file, the last word last; "" if nothing is."""
    # hvp and the way back may be right with each other only, if their names are not the sheet's
    whole, alone = Trial(name, source, False), Trial(name, source, True)
    if name in ("linearize", "hvp") and alone.passes() or whole.passes():
        yield ""
    elif alone.exception is None or isinstance(alone.exception, NameError):
        yield from whole.explain()
    else:
        yield from alone.explain()


class Told(AssertionError):   # it says by itself what is wrong
    pass


class Trial:
    """The tests of one body, with the student's in maml.py."""

    def __init__(self, name, source, alone):
        self.name, self.source, self.alone = name, source, alone
        answers, tests = BODIES[name].split(" | ")
        self.answers, self.tests = answers.split(", "), tests.split()
        self.log = self.exception = self.case = None

    def passes(self):
        """Run the tests; keep the exception that ends them, and the case in which it came."""
        for module in "maml", "test_maml":
            sys.modules.pop(module, None)
        self.maml = importlib.import_module("maml")
        try:
            self.put_in(ast.parse(self.source))
            self.proof = importlib.import_module("test_maml")
            same = self.proof.same   # with more room: other ways to write a body round otherwise
            self.proof.same = lambda found, right, room=1e-12: same(found, right, 100 * room)
            for self.case in cases(self.proof, self.tests):
                self.case[0](**copy.deepcopy(self.case[1]))
        except BaseException as exception:   # whatever a student's code may raise
            self.exception = exception
        return self.exception is None

    def put_in(self, tree):
        """Put the student's body into maml, and what the file has beyond maml.py."""
        maml, own = self.maml, mistakes.function_of(self.name, tree)
        self.names = dict(vars(maml))   # the right ones
        if own is None:
            raise Told(f"no {self.name}: keep the names of the sheet")
        home = {"_forward": maml.MLP, "linearize": maml.MLP, "step": maml.Adam}.get(own.name, maml)
        classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
        for node in tree.body + [member for one in classes for member in one.body]:
            with contextlib.suppress(BaseException):   # it is missed where it is needed
                for (key, value), place in itertools.product(
                        self.run(node).items(), (maml, maml.MLP, maml.Adam)):
                    if not hasattr(place, key):
                        setattr(place, key, value)
        if self.alone:
            right = mistakes.function_of("hvp", ast.parse("\n" * 9999 + mistakes.SOURCE))
            own = mistakes.joined(*((right, own) if self.name == "hvp" else (own, right)))
        self.right = inspect.unwrap(getattr(home, own.name))
        self.own = self.body = self.run(own)[own.name]
        watched = functools.wraps(self.own)(lambda *a, **options: self.watched(*a, **options))
        setattr(home, own.name, maml.in_groups(watched) if "_gradient" in self.name else watched)
        for table in maml.ACTIVATIONS, maml.LOSSES:
            table.update({key: watched for key in table if key == own.name})

    def run(self, node):
        """Run one statement of the file among the names of maml; return those that it defines."""
        names, one = {}, ast.fix_missing_locations(ast.Module([node], []))
        exec(compile(one, "<student>", "exec"), vars(self.maml), names)
        return names

    def watched(self, *arguments, **options):
        """Call the body that is tried, and keep what it answers."""
        log, self.log = self.log, None   # of a recursion, the first call counts
        answer = self.body(*arguments, **options)
        self.log = log
        self.keep(self.answers, answer, (arguments, options))
        if not isinstance(answer, tuple):
            return answer
        return tuple(functools.partial(self.along, part, (arguments, options))
                     if callable(part) else part for part in answer)

    def along(self, function, arguments, direction):
        """Call a function that was returned, R{f} -> R{δ} or hvp."""
        refused = mock.Mock(side_effect=Told("hvp may not call linearize or _forward: derive it"))
        with mock.patch.multiple(self.maml.MLP, linearize=refused, _forward=refused):
            answer = function(direction)
        self.keep(self.answers[2:], answer, arguments)
        return answer

    def keep(self, names, answer, arguments):
        """Keep each number or array of an answer with its name, unless the student's differs."""
        parts = (answer,) if len(names) == 1 else answer
        if not isinstance(parts, (tuple, list)) or len(parts) != len(names):
            names, parts = [""], [answer]
        for name, part in sorted(zip(names, parts), key=lambda pair: pair[0] == "f"):
            for l, value in enumerate(part if isinstance(part, list) else [part]):
                if not callable(value) and self.log is not None:
                    what = f"{name} for l = {l}" if isinstance(part, list) else name
                    zero = name[:2] == "σ″" and not np.any(value)   # for which None may stand
                    kept = None if zero else copy.deepcopy(value)
                    entry = what, kept, arguments
                    if self.like:
                        other = self.like[len(self.log)]
                        if what != other[0] or not agree(other[1], entry[1]):
                            self.differing = other, entry
                            raise Told("the answers part")
                    self.log.append(entry)

    def logged(self, body, like=None):
        """Return all that a body answers in the case that failed, until it is not like another."""
        self.body, self.like, self.differing = body, like, None
        log = self.log = []
        with contextlib.suppress(BaseException):   # how it ends shows in the log
            self.case[0](**copy.deepcopy(self.case[1]))
        self.log = None
        return log

    def explain(self):
        """Yield a line, or what is off and then the name of the mistake."""
        trace = traceback.extract_tb(self.exception.__traceback__)
        lines = [frame.lineno for frame in trace if frame.filename == "<student>"
                 and frame.lineno <= self.source.count("\n") + 1]   # what is right stands below
        if isinstance(self.exception, NotImplementedError):
            yield "not written yet"
        elif isinstance(self.exception, Told) or not lines and not self.case:
            yield said(self.exception)
        elif lines:
            code = self.source.split("\n")[lines[-1] - 1].partition("  #")[0].strip()
            yield f"line {lines[-1]}, `{code}`: {said(self.exception)}"
        else:
            yield f"{self.case[0].__name__}, `{trace[-1].line}`: {said(self.exception)}"
            self.proof.same = lambda *_: None   # so that all calls of the case are made
            own = self.logged(self.own)
            self.logged(self.right, own)
            (what, found, _), (expected, right, asked) = self.differing   # or that is the last word
            if what != expected:
                yield f"expected {', '.join(self.answers)}, got {what or type(found).__name__}"
                return
            self.asked = inspect.getcallargs(self.right, *asked[0], **asked[1])
            where = what + self.described()
            yield f"{where}: {self.off(found, right)}"
            for label, text in mistakes.edits(self.name):
                names = dict(self.names)
                with contextlib.suppress(SyntaxError), mock.patch.object(np, "empty", np.zeros):
                    exec(text, names)
                    if len(self.logged(names[self.own.__name__], own)) == len(own):
                        yield f"{where}: {label}"
                        return

    def described(self):
        case, words, model = self.asked, [], self.asked.get("model", self.asked.get("self"))
        if hasattr(model, "sizes"):
            words = ["-".join(map(str, model.sizes)), model.activation, model.loss_name]
        if "steps" in case:
            words += [f"K = {case['steps']}", f"α {np.shape(case['alpha'])}"]
        if case.get("first_order"):
            words.append("first order")
        return f" ({', '.join(words)})" if words else ""

    def as_many(self, number):
        shape = np.shape(self.asked.get("f", self.asked.get("x", self.asked.get("tasks", [0])[0])))
        many = dict(zip(("numbers in an example", "examples", "tasks"), shape[::-1]))
        many.update({"steps": self.asked.get("steps"), "numbers in a task": np.prod(shape[-2:])})
        names = [what for what, n in many.items() if (n or 0) > 1 and abs(number / n - 1) < 1e-5]
        return f" (there are {number:.0f} {' and '.join(names)})" if names else ""

    def off(self, found, right):
        if found is None or right is None:
            return f"expected {'None' if right is None else 'an array'}, got {type(found).__name__}"
        found, right = np.asarray(found), np.asarray(right)
        if found.shape != right.shape:
            lost = [self.as_many(n) for axis, n in enumerate(right.shape)
                    if right.shape[:axis] + right.shape[axis + 1:] == found.shape]
            words = f": an axis is lost{lost[0]}" if lost else ""
            return f"expected shape {right.shape}, got {found.shape}{words}"
        if right.dtype == np.float32 != found.dtype:
            return f"right but for float32, got {found.dtype}"
        if not np.isfinite(found).all():
            return "not finite, or not filled in: " + (
                self.by_layer(found, right) or "the exp of a large number, or the log of 0?")
        if np.iscomplexobj(right):
            return "right but for complex numbers, or the second time: abs, a norm, a real array?"
        start = self.asked["theta"] if self.name in ("adapt", "step") else 0   # a step is small
        found, right = found - start, right - start
        worst = abs(found - right).argmax()
        return self.by_factor(found, right) or self.by_layer(found, right) or (
            f"expected {right.flat[worst]:.4g}, got {found.flat[worst]:.4g}, where it is most off")

    def by_factor(self, found, right):
        """Return which number found is times what it should be, and what there are as many of."""
        if not found.any():
            return "all zeros"
        factor = np.sum(found * right) / max(np.sum(right * right), 1e-300)
        plain = round(abs(factor), 9) in (0.5, 1, 2)   # of which nothing follows
        many = "" if plain else self.as_many(abs(factor)) or self.as_many(1 / abs(factor))
        known = plain or many or found.size > 1
        alike = known and agree(found, factor * right)
        return f"{factor:.7g} times what it should be{many}" if alike else ""

    def by_layer(self, found, right):
        model, wrong = self.asked.get("model", self.asked.get("self")), []
        if not hasattr(model, "sizes") or found.shape[-1:] != (model.n_params,):
            return ""
        for l, layers in enumerate(zip(model.unpack(found), model.unpack(right))):
            for name, own, part in zip(("weights", "bias"), *layers):
                if not agree(own, part):
                    wrong.append(f"layer {l} {name} {self.by_factor(own, part) or 'off'}")
        every = len(wrong) == 2 * l + 2
        return "off in every layer" if every else "; ".join(wrong) + "; right elsewhere"


def cases(proof, prefixes):
    """Yield each test with each set of arguments that pytest would give it."""
    for prefix in prefixes:
        for test in [vars(proof)[name] for name in dir(proof) if name.startswith(f"test_{prefix}")]:
            marks = [m.args for m in getattr(test, "pytestmark", []) if m.name == "parametrize"]
            for values in itertools.product(*(args[1] for args in marks)):
                pairs = [zip(names.split(", "), value if "," in names else [value])
                         for (names, *_), value in zip(marks, values)]
                yield test, dict(itertools.chain(*pairs))


def agree(found, right):
    """Compare two answers; real and imaginary part by themselves, as one may be 1e-30 small."""
    if found is None or right is None:
        return found is right
    found, right = np.asarray(found), np.asarray(right)
    single = [a.dtype == np.float32 for a in (found, right)]
    if found.shape != right.shape or found.dtype.kind not in "fciub" or single[0] != single[1]:
        return False
    off, room = found - right, 1e6 * np.finfo(np.result_type(found, right, np.float16)).eps
    return bool(np.isfinite(off).all()) and all(
        np.max(abs(part), initial=0) <= room * np.max(abs(whole), initial=0)
        for part, whole in ((off.real, right.real), (off.imag, right.imag)))


def said(exception):
    text = (str(exception).strip().splitlines() or ["it does not hold"])[0]
    for words, hint in HINTS.items():
        text += f" ({hint})" if words in text else ""
    kind = type(exception).__name__
    return text if kind in ("Told", "AssertionError") else f"{kind}: {text}"


def main():
    """Read which body of what to judge from stdin, and write each verdict on a line of stdout."""
    name, source = json.loads(sys.stdin.buffer.read())
    verdicts, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    np.empty = lambda shape, dtype=float: np.full(   # so that what is not filled in shows
        shape, np.nan if np.dtype(dtype).kind in "fc" else 0, dtype)
    sys.modules.update(demo=mock.MagicMock(), tasks=mock.MagicMock())   # no equations are in them
    os.write(verdicts, b"ready\n")
    for message in judge(name, source):
        os.write(verdicts, f"verdict {json.dumps(message)}\n".encode())
    os._exit(0)   # threads and exit handlers of the student's code are not waited for


if __name__ == "__main__":
    main()
