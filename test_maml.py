"""Proof that maml.py computes its equations, proof that this proof can fail, and a grader.

    python -m pytest                                check maml.py
    python test_maml.py --skeleton > student.py     print maml.py without the bodies to derive
    python test_maml.py --grade student.py          mark each body: right, or what is wrong with it
    MAML=student.py python -m pytest                check another module as a whole

The proof is a chain in the order of the derivation: losses against values worked by hand, the
gradient against the loss, the Hessian-vector product against the gradient, the meta-gradient
against the meta-objective. Each of the last three is a complex step: F(θ + ihd) = F(θ)
+ ih F′(θ)d + O(h²), so the imaginary part over h is the derivative along d. Nothing cancels, so h
can be 1e-30 and both sides agree to rounding. The names of the tests begin with their equations.
"""
import argparse
import ast
import io
import itertools
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import textwrap
import time
import tracemalloc
import warnings
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

HERE = Path(__file__).parent
GRADED = os.environ.get("MAML")      # another module to check, in place of maml.py
BODY = os.environ.get("MAML_BODY")   # the one function to take from it, with maml.py's others
FAR = 1_000_000                      # is added to the line numbers of that function
PUBLIC = "MLP adapt meta_gradient reptile_gradient Adam cosine_decay meta_train".split()
FRAMEWORKS = "torch jax tensorflow autograd scipy sympy casadi aesara pytensor tinygrad mlx".split()


def functions_of(tree):
    """Return name -> function, at any depth."""
    return {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def graft(name, student, reference):
    """Return the reference with one function of the student's, and what only the student has."""
    known = {ast.dump(node) for node in reference.body} | {*functions_of(reference), "MLP", "Adam"}
    kinds = ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Assign
    extras = [node for node in student.body if isinstance(node, kinds)
              and not {ast.dump(node), getattr(node, "name", None)} & known]
    for node in ast.walk(student):
        if hasattr(node, "lineno"):
            node.lineno += FAR
            node.end_lineno += FAR
    place, own = functions_of(reference)[name], functions_of(student)[name]
    place.args = own.args
    place.body = own.body
    methods = {f.name: f for c in student.body if isinstance(c, ast.ClassDef)
               for f in c.body if isinstance(f, ast.FunctionDef) and f.name not in known}
    for c in reference.body:
        if isinstance(c, ast.ClassDef):
            c.body += methods.values()
    ignore = ast.ExceptHandler(None, None, [ast.Pass()])
    after_imports = 3
    reference.body[after_imports:after_imports] = [ast.Try([e], [ignore], [], []) for e in extras]
    return ast.fix_missing_locations(reference)


def module_under_test():
    """Return the module to check, which demo.py then gets as maml too."""
    tree = ast.parse(Path(GRADED or HERE / "maml.py").read_text(encoding="utf-8"))
    if BODY:
        reference = ast.parse((HERE / "maml.py").read_text(encoding="utf-8"))
        tree = graft(BODY, tree, reference)
    module = sys.modules["maml"] = ModuleType("maml")
    exec(compile(tree, GRADED or "maml.py", "exec"), module.__dict__)
    missing = [name for name in PUBLIC if not hasattr(module, name)]
    if missing:
        raise pytest.Collector.CollectError(f"{GRADED} lacks {', '.join(missing)}")
    return module


if BODY:
    sys.modules.update(dict.fromkeys(FRAMEWORKS))   # to import one of these raises an ImportError
maml = module_under_test()
MLP, adapt, meta_gradient, meta_train = maml.MLP, maml.adapt, maml.meta_gradient, maml.meta_train
reptile_gradient = maml.reptile_gradient

if not GRADED and __name__ != "__main__":   # to mark students needs maml.py and this file only
    import demo
    import tasks as families

pytestmark = pytest.mark.filterwarnings("error")
PROVES = {}   # name of a function of maml.py -> the tests that judge it, in their order


def proves(*names):
    def note(test):
        for name in names:
            PROVES.setdefault(name, []).append(test.__name__)
        return test
    return note


def about_the_project(test):
    """Leave out a test that is not about the module graded."""
    return None if GRADED else test


# ----------------------------------------------------------------------------------------- problems

TOLERANCE, STEP = 1e-12, 1e-30
DEEP, LINEAR = (3, 5, 6, 4), (3, 4)
MODELS = [(sizes, activation, loss) for sizes in (DEEP, (3, 5, 4))
          for activation in ("tanh", "relu") for loss in ("mse", "cross_entropy", "policy")]
MODELS += [(LINEAR, "relu", loss) for loss in ("mse", "cross_entropy", "policy")]
every_model = pytest.mark.parametrize(
    "spec", MODELS, ids=lambda s: "x".join(map(str, s[0])) + f" {s[1]} {s[2]}")
every_K = pytest.mark.parametrize("K", (3, 1, 5, 0), ids="K={}".format)
SMALL = (3, 5, 4), "tanh", "mse"


def problem(spec, n_tasks=3):
    """Return a model, parameters away from 0, tasks of 5 and 4 examples, and a generator.

    Everything is locked: who writes to it, as by theta -= ..., gets an error at that line.
    """
    model, rng = MLP(*spec), np.random.default_rng(7)
    theta = model.init(rng) + 0.1 * rng.standard_normal(model.n_params)
    (d_in, *_, d_out), _, loss = spec
    tasks = []
    for n in 5, 4:
        y = rng.standard_normal((n_tasks, n, d_out + (loss == "policy")))
        y[..., d_out:] *= 0.3  # small advantages: those below 0 drive θ_k away
        labels = rng.integers(0, d_out, (n_tasks, n))
        tasks += [rng.standard_normal((n_tasks, n, d_in)), labels if loss == "cross_entropy" else y]
    for a in (theta, *tasks):
        a.setflags(write=False)
    return model, theta, tasks, rng


def alphas(rng, K, P):
    """Return every form that alpha may take; with K > 2 the last row of the third is reused."""
    forms = [rng.uniform(0.05, 0.15, shape) for shape in ((K or 1, P), P, (min(K, 2) or 1, 1), ())]
    for alpha in forms:
        alpha.setflags(write=False)
    return forms[:3] + [float(forms[3])]


def by_step(alpha, K, P):
    """Return alpha as a list of K vectors (P,)."""
    rows = np.atleast_2d(alpha)
    return [np.broadcast_to(rows[min(k, len(rows) - 1)], P) for k in range(K)]


def derivatives(f, at):
    """Return ∂f/∂at[i] for every i, in at's shape: one complex step along each."""
    out = np.empty(np.shape(at))
    for i in np.ndindex(out.shape):
        d = np.zeros(out.shape)
        d[i] = STEP
        out[i] = np.imag(f(at + 1j * d)) / STEP
    return out


def objective(model, theta, tasks, alpha, K):
    """Equation (2), by adapting and evaluating."""
    return model.loss(adapt(model, theta, *tasks[:2], alpha, K), *tasks[2:]).mean()


def objective_gradient(model, theta, tasks, alpha, K):
    """Return ∂J/∂θ (P,) by complex steps along all parameters, each with a copy of the tasks."""
    P, n_tasks = len(theta), len(tasks[0])
    thetas = np.repeat(theta + 1j * STEP * np.eye(P), n_tasks, axis=0)
    copies = [np.concatenate([a] * P) for a in tasks]
    losses = model.loss(adapt(model, thetas, *copies[:2], alpha, K), *copies[2:])
    return losses.reshape(P, n_tasks).mean(-1).imag / STEP


# ----------------------------------------------------------------------------- saying what is wrong

def error(found, expected):
    """Return the largest deviation, relative to the largest value expected."""
    return np.max(np.abs(found - expected)) / (np.max(np.abs(expected)) or 1)


def fail(message):
    pytest.fail(message, pytrace=False)


def check(what, found, expected, gallery=dict, model=None):
    """Fail with one line that says what is wrong, unless found equals expected to rounding."""
    if found is None or np.shape(found) != np.shape(expected):
        got = "nothing" if found is None else f"shape {np.shape(found)}"
        rows = ", a row for each task" if np.shape(found) == np.shape(expected)[1:] else ""
        fail(f"{what}: expected shape {np.shape(expected)}{rows}, got {got}")
    if not error(found, expected) < TOLERANCE:
        fail(f"{what}: {diagnose(found, expected, gallery(), model)}")


def diagnose(found, expected, gallery, model=None):
    """Name the mistakes in the gallery that found equals, else its factor, else what is off."""
    blocks = model is not None and np.shape(found)[-1:] == (model.n_params,)
    if not np.isfinite(found).all():
        parts = [f"layer {l} {name}" for l, pair in enumerate(model.unpack(found) if blocks else ())
                 for name, part in zip(("weights", "bias"), pair) if not np.isfinite(part).all()]
        return f"not finite, or not filled in {', '.join(parts)}".replace(" in ", ": " * blocks)
    names = [mistake for mistake, value in gallery.items()
             if error(found, value) < 1e-9 and error(value, expected) > 1e-9]
    if names:
        return ", or ".join(names)
    size = error(found, expected)
    if size < 1e-4:
        return f"nearly right, but off by {size:.0e}: a finite difference, or float32 in between?"
    factor = factor_of(found, expected)
    if factor and np.size(expected) > 1:
        return f"{factor:.4g} times what it should be"
    if blocks:
        return off_blocks(model.unpack(found), model.unpack(expected), size)
    off = np.abs(np.subtract(found, expected))
    i = np.unravel_index(off.argmax(), off.shape)
    index = f"[{', '.join(map(str, i))}] " if i else ""
    return f"{index}expected {np.asarray(expected)[i]:.4g}, got {np.asarray(found)[i]:.4g}"


def factor_of(found, expected):
    """Return the number that found is times expected, or None."""
    factor = np.sum(found * expected) / (np.sum(expected * expected) or 1)
    return factor if error(found, factor * expected) < 1e-9 * (abs(factor) or 1) else None


def off_blocks(found, expected, size):
    """Say which layers' weights or biases are off, and by what."""
    off = []
    for l, pairs in enumerate(zip(found, expected)):
        for name, f, e in zip(("weights", "bias"), *pairs):
            if not error(f, e) < TOLERANCE:
                factor = factor_of(f, e)
                by = f"{factor:.4g} times" if factor is not None else f"off by {error(f, e):.0e}"
                off.append(f"layer {l} {name} {by}")
    if len(off) == 2 * len(found):
        return f"off in every layer, by up to {size:.0e} of the largest value"
    return "; ".join(off) + "; right elsewhere"


# ----------------------------------------------------------------------------- the classic mistakes
# Plain second versions of what maml.py derives, with one line at a time as students get it wrong.
# right(mistake) is False for the mistake that is made.

def variants(compute):
    """Return {mistake: value} for each mistake that compute(right) can make."""
    mistakes = {}
    compute(lambda mistake: mistakes.setdefault(mistake, True))
    return {wrong: compute(lambda mistake: mistake != wrong) for wrong in mistakes}


def sigma(activation, z):
    if activation == "tanh":
        return np.tanh(z), 1 - np.tanh(z)**2, -2 * np.tanh(z) * (1 - np.tanh(z)**2)
    return z * (z.real > 0), 1.0 * (z.real > 0), 0 * z


def plain_loss(loss, f, y, Rf, right):
    """Return L, δ and R{δ} of one task's f (n, d_out)."""
    n, d_out = f.shape
    if loss == "mse":
        Ry = 0 if right("y is constant, so R{y} is 0, (8R)") else y
        size = n * d_out
        return ((f - y)**2).sum() / size, 2 * (f - y) / size, 2 * (Rf - Ry) / size
    if loss == "policy":
        A = y[:, -1:]
        off = f - y[:, :-1]
        delta = (A if right("no advantage in front of f − action, (13)") else 1) * off / n
        R_A = A if right("no advantage in R{δ}, (13R)") else 1
        return (A * off**2).sum() / (2 * n), delta, R_A * Rf / n
    p = np.exp(f) / np.exp(f).sum(-1, keepdims=True)
    onehot = np.eye(d_out)[y] if right("no onehot(y) in δ, (9)") else 0
    across = (p * Rf).sum(-1, keepdims=True)
    if not right("only the diagonal of the softmax's Hessian, p (1 − p), (9R)"):
        across = p * Rf
    Rp = p * (Rf - right("no sum over classes in (9R)") * across)
    if not right("no p in front of the sum in (9R)"):
        Rp = p * Rf - across
    return -np.log(p[np.arange(n), y]).sum() / n, (p - onehot) / n, Rp / n


def plain_passes(spec, model, theta, x, y, v, right):
    """Return f, g and H v of one task, with the W and b of each layer by themselves."""
    layers, along = model.unpack(theta), model.unpack(v)
    a, Ra, z, Rz = [x], [0 * x], [], []
    for l, ((W, b), (V, c)) in enumerate(zip(layers, along)):
        M = np.vstack([W, b])
        if right("[1 a_l] in place of [a_l 1]: the bias is the last row of M_l, (7)"):
            z.append(a[l] @ W + right("no bias in z_l, (7)") * b)
        else:
            z.append(a[l] @ M[1:] + M[0])
        column = 0 if l == 0 or right("[R{a_l} 1] in place of [R{a_l} 0], (7R)") else 1
        RA_M = Ra[l] @ W + column * b
        A_N = a[l] @ V + right("no bias of v in A_l N_l, (7R)") * c
        Rz.append(right("no R{A_l} M_l in (7R)") * RA_M + right("no A_l N_l in (7R)") * A_N)
        value, slope, curvature = sigma(spec[1], z[l])
        slope = slope if right("σ″ in place of σ′") else curvature
        a.append(value)
        Ra.append((slope if right("no σ′ in R{a_{l+1}}, (7R)") else 1) * Rz[l])
    last = len(layers) - 1
    f = z[last] if right("σ after the last layer too, (7)") else a[-1]
    _, delta, Rdelta = plain_loss(spec[2], f, y, Rz[last], right)
    exact = right("the Gauss-Newton product: the terms with δ_l and e_l are missing, (10R) (11R)")
    if not right("δ in place of R{δ} at the last layer"):
        Rdelta = delta
    g, Hv = [], []
    for l in range(last, -1, -1):
        W, V = layers[l][0], along[l][0]
        share = 1 if right("the bias averaged over the examples, not summed, (10)") else 1 / len(x)
        g = [a[l].T @ delta, share * delta.sum(0)] + g
        H_W = right("no R{A_l}ᵀ δ_l in (10R)") * exact * (Ra[l].T @ delta)
        H_W = H_W + right("no A_lᵀ R{δ_l} in (10R)") * (a[l].T @ Rdelta)
        share = 1 if right("the bias averaged over the examples, (10R)") else 1 / len(x)
        column = l and not right("[R{a_l} 1] in place of [R{a_l} 0], (7R)")
        Hv = [H_W, share * Rdelta.sum(0) + column * delta.sum(0)] + Hv
        if l > 0:
            reshaped = W.reshape(W.T.shape)
            e = delta @ (W.T if right("W reshaped in place of transposed, (11)") else reshaped)
            turned = W.T if right("W reshaped in place of transposed, (11R)") else reshaped
            Re = right("no R{δ_l} W_lᵀ in (11R)") * (Rdelta @ turned)
            Re = Re + right("no δ_l V_lᵀ in (11R)") * exact * (delta @ V.T)
            at = z[l - 1] if right("σ′ taken at a_{l+1}, not at z_l") else a[l]
            slope = sigma(spec[1], at)[1 if right("σ″ in place of σ′") else 2]
            bend = sigma(spec[1], z[l - 1])[2]
            sign = 1 if right("a plus for a minus in σ″, (11R)") else -1
            first = e if right("δ_{l−1} in place of e_l in front of σ″, (11R)") else e * slope
            then = Rz[l - 1] if right("R{a_l} in place of R{z_{l−1}} behind σ″, (11R)") else Ra[l]
            then = then if right("no R{z_{l−1}} behind σ″, (11R)") else 1
            bent = right("no σ″ term in (11R)") * exact * sign * first * bend * then
            Rdelta = (slope if right("no σ′ behind R{e_l}, (11R)") else 1) * Re + bent
            delta = e * (slope if right("no σ′ in δ_{l−1}, (11)") else 1)
    return f, *(np.concatenate([part.ravel() for part in parts]) for parts in (g, Hv))


def model_gallery(part, spec, model, theta, x, y, v):
    """Return what each mistake makes of f (part 0), g (1) or H v (2), for each task."""
    def compute(right):
        runs = [plain_passes(spec, model, theta, *one, right) for one in zip(x, y, v)]
        return np.stack([run[part] for run in runs])
    return variants(compute)


def plain_meta(model, theta, tasks, alpha, K, right):
    """Return ∂J/∂θ and the rows of ∂J/∂α (K, P), by (3) to (5) on all tasks at once."""
    support, query = tasks[:2], tasks[2:]
    if not right("the support set used as query set"):
        query = support
    if not right("support and query set swapped"):
        support, query = query, support
    rates, path = by_step(alpha, K, len(theta)), [theta]
    for rate in rates:
        path.append(adapt(model, path[-1], *support, rate))
    ends = [model.linearize(t, *support) for t in path]
    at_query = [model.linearize(t, *query) for t in path]
    v = at_query[K if right("the query gradient taken at θ, not at θ_K") else 0][1]
    rows, behind = [], []
    for k in reversed(range(K)):
        _, grad, hvp = ends[k]
        if not right("the Hessian always taken at θ_0"):
            hvp = ends[0][2]
        if not right("the Hessian of step k taken at θ_{k+1}"):
            hvp = ends[k + 1][2]
        if not right("the Hessians applied from the first step to the last"):
            hvp = ends[K - 1 - k][2]
        if not right("the Hessian always taken at θ_{K−1}: a function that keeps its variable?"):
            hvp = ends[K - 1][2]
        rate = rates[k]
        if not right("(3) taken from the first step to the last: begin with k = K − 1"):
            rate, hvp = rates[K - 1 - k], ends[K - 1 - k][2]
        if not right("the first rate in every step of (3)"):
            rate = rates[0]
        if not right("the last rate in every step of (3)"):
            rate = rates[K - 1]
        if not right("the Hessian of the query loss, not the support loss"):
            hvp = at_query[k][2]
        before = rate if right("no inner rate in front of v_{k+1}, (3)") else 1
        after = 1
        if not right("the inner rate on the wrong side of H, (3)"):
            before, after = 1, rate
        if not right("the inner rate on both sides of H, (3)"):
            after = rate
        sign = 1 if right("a plus in front of H, (3)") else -1
        if not right("the Hessian of the query set at θ_K"):
            hvp = at_query[K][2]
        carried = right("no v_{k+1} in front of the minus, (3)")
        exact = right("first-order MAML: the Hessian term of (3) is missing")
        multiplied = v if right("H multiplied by v_K, not by v_{k+1}, (3)") else at_query[K][1]
        earlier = carried * v - exact * sign * after * hvp(before * multiplied)
        behind.insert(0, v)
        rows.insert(0, -grad * (v if right("v_k in place of v_{k+1}, (5)") else earlier))
        if not right("the query gradient v_K in place of v_{k+1}, (5)"):
            rows[0] = -grad * at_query[K][1]
        v = earlier
    rows = np.array([row.mean(0) for row in rows]).reshape(K, len(theta))
    if not right("the product of the means over tasks, not the mean of the products, (5)"):
        rows = np.array([-ends[k][1].mean(0) * after.mean(0) for k, after in enumerate(behind)])
        rows = rows.reshape(K, len(theta))
    scale = 1 if right("a sum over tasks, not a mean") else len(tasks[0])
    scale = scale if right("divided by the number of tasks twice") else 1 / len(tasks[0])
    sign = 1 if right("no minus in (5)") else -1
    return scale * v.mean(0), sign * scale * rows


def shared(rows, alpha):
    """Return rows (K, P) in alpha's shape: entries that share a rate are summed."""
    out = np.zeros(np.atleast_2d(alpha).shape)
    for k, row in enumerate(rows):
        out[min(k, len(out) - 1)] += row if out.shape[1] > 1 else row.sum()
    return out.reshape(np.shape(alpha))


def meta_gallery(model, theta, tasks, alpha, K):
    """Return what each mistake makes of ∂J/∂θ."""
    exact = partial(objective_gradient, model, alpha=alpha, K=K)
    one_by_one, start = [], theta
    for i in range(len(tasks[0])):
        task = [a[i:i + 1] for a in tasks]
        one_by_one.append(exact(start, task))
        start = adapt(model, start, task[0][0], task[1][0], alpha, K)
    mistakes = variants(lambda right: plain_meta(model, theta, tasks, alpha, K, right)[0])
    mistakes["θ carried over from task to task"] = np.mean(one_by_one, axis=0)
    changed = in_place(model, theta, tasks, alpha, K)
    mistakes["θ_k changed in place before its product H v"] = changed
    mistakes["an inner step too many"] = exact(theta, tasks, K=K + 1)
    if K:
        mistakes["an inner step too few"] = exact(theta, tasks, K=K - 1)
    return mistakes


def in_place(model, theta, tasks, alpha, K):
    """Return ∂J/∂θ with one array for all θ_k, which every hvp keeps and later steps overwrite."""
    theta_k = np.repeat(theta[None], len(tasks[0]), axis=0)
    rates, hvps = by_step(alpha, K, len(theta)), []
    for rate in rates:
        _, grad, hvp = model.linearize(theta_k, *tasks[:2])
        hvps.append(hvp)
        theta_k -= rate * grad
    v = model.linearize(theta_k, *tasks[2:])[1]
    for rate, hvp in zip(rates[::-1], hvps[::-1]):
        v = v - hvp(rate * v)
    return v.mean(0)


def plain_adam(grads, lr, right):
    """Return θ after each of the gradients, from θ = 0."""
    theta, m, u, path = 0 * grads[0], 0 * grads[0], 0 * grads[0], []
    b1, b2, eps = (0.9, 0.999, 1e-8) if right("β₁ and β₂ swapped") else (0.999, 0.9, 1e-8)
    for t, g in enumerate(grads, 1):
        m = b1 * m + (1 - b1 if right("no 1 − β₁ in m") else 1) * g
        squared = g * g if right("no square in u") else g
        squared = squared if right("m ∘ m in place of G ∘ G in u") else m * m
        u = b2 * u + (1 - b2 if right("no 1 − β₂ in u") else 1) * squared
        s = t if right("t is always 1 in the corrections") else 1
        corrected_m = m / (1 - b1**s if right("no correction of m by 1 − β₁ᵗ") else 1)
        corrected_u = u / (1 - b2**s if right("no correction of u by 1 − β₂ᵗ") else 1)
        if not right("no corrections by 1 − β₁ᵗ and 1 − β₂ᵗ"):
            corrected_m, corrected_u = m, u
        root = np.sqrt(abs(corrected_u)) if right("no root of u") else corrected_u
        divisor = root + (eps if right("no ε") else 0)
        if not right("ε inside the root"):
            divisor = np.sqrt(abs(corrected_u) + eps)
        if not right("the corrected m and u kept for the next step"):
            m, u = corrected_m, corrected_u
        sign = 1 if right("a plus in front of lr: Adam ascends") else -1
        theta = theta - sign * lr * corrected_m / divisor
        path.append(theta)
    return np.array(path)


# ------------------------------------------------------------------- the proof: activations, losses

def needed(name):
    """Return a function of maml.py that is no public name: another module may be without it."""
    return getattr(maml, name, None) or pytest.skip(f"the module has no function {name}")


def check_activation(name, z, expected, gallery):
    """Check σ, σ′ and σ″ at z; None may stand for a σ″ of zeros."""
    z.setflags(write=False)
    found = needed(name)(z)
    for what, f, e in zip(("σ(z)", "σ′(z)", "σ″(z)"), found, expected):
        f = np.zeros(z.shape) if f is None and what == "σ″(z)" else f
        check(f"{what} of {name}", f, e, gallery)
    for f in needed(name)(z.real.astype(np.float32)):
        if f is not None and f.dtype != np.float32:
            fail(f"{name}: of a float32 z expected float32, got {f.dtype}")


@proves("relu")
def test_07_relu_and_its_derivatives():
    z = np.array([[-2.0, -0.5, 0.0, 0.5, 2.0]])
    slope = np.array([[0.0, 0.0, 0.0, 1.0, 1.0]])
    gallery = {"σ′(0) is 0 here, not 1": np.array([[0, 0, 1.0, 1, 1]]),
               "σ′(0) is 0 here, not ½": np.array([[0, 0, 0.5, 1, 1]]),
               "the absolute value": abs(z)}
    check_activation("relu", z, (z * slope, slope, 0 * z), lambda: gallery)
    at = z + 0.1j
    check_activation("relu", at, (at * slope, slope, 0 * z), dict)


@proves("tanh")
def test_07_tanh_and_its_derivatives():
    z = np.array([[-2.0, -0.5, 0.0, 0.5, 2.0]])
    a, slope, curvature = sigma("tanh", z)
    gallery = {"σ′ taken at tanh(z), not at z": 1 - np.tanh(a)**2,
               "a plus for a minus in σ″": -curvature, "no 2 in σ″": curvature / 2,
               "1 − z² in place of 1 − tanh(z)²": 1 - z**2,
               "no σ′ behind the −2 tanh(z) of σ″": -2 * a}
    check_activation("tanh", z, (a, slope, curvature), lambda: gallery)
    check_activation("tanh", z + 0.1j, sigma("tanh", z + 0.1j), dict)


def check_loss(name, f, y):
    """Check that δ is the derivative of L, and R{δ} that of δ, by complex steps."""
    loss, delta, R_delta = needed(name)(f, y)
    n, d_out = f.shape[-2:]
    right = [plain_loss(name, *one, 0 * f[0], lambda mistake: True)[0] for one in zip(f, y)]
    right = np.array(right)
    check(f"L of {name} for f {f.shape}", loss, right, lambda: {
        "divided by the number of tasks too: each task has a mean of its own": right / len(f),
        "n taken from the axis of the tasks": right * n / len(f), "half of it": right / 2,
        "n and d_out confused": right * d_out / n, "d_out and n confused": right * n / d_out,
        "a sum over examples, not a mean": right * n})
    Rf, h = np.random.default_rng(1).standard_normal(f.shape), 1e-5
    expected = derivatives(lambda at: needed(name)(at, y)[0].sum(), f)
    slope = (needed(name)(f + h * Rf, y)[0] - needed(name)(f - h * Rf, y)[0]).sum() / (2 * h)
    if abs((expected * Rf).sum() - slope) > 1e-6:
        fail(f"L of {name} is wrong for complex f: an abs, a norm or a conjugate in it?")

    def gallery(part, expected):
        mistakes = {f"a sum over {n} examples, not a mean": n * expected,
                    f"a sum over {d_out} outputs, not a mean": d_out * expected,
                    "a sum over examples and outputs, not a mean": n * d_out * expected,
                    "minus what it should be": -expected,
                    "half what it should be: is the 2 of the square missing?": expected / 2}
        mistakes.update(variants(lambda right: np.stack([
            plain_loss(name, *one, right)[part] for one in zip(f, y, Rf)])))
        return mistakes

    check(f"δ of {name}, the derivative of its L", delta, expected, partial(gallery, 1, expected))
    expected = needed(name)(f + 1j * STEP * Rf, y)[1].imag / STEP
    check(f"R{{δ}} of {name}, the derivative of its δ", R_delta(Rf), expected,
          partial(gallery, 2, expected))
    y = y if y.dtype.kind == "i" else y.astype(np.float32)
    loss, delta, R_delta = needed(name)(f.astype(np.float32), y)
    for what, a in ("L", loss), ("δ", delta), ("R{δ}", R_delta(Rf.astype(np.float32))):
        if a.dtype != np.float32:
            fail(f"{what} of {name}: of a float32 f expected float32, got {a.dtype}")


@proves("mse")
def test_08_mse():
    """By hand: errors 1, 0, −2, 3 over two examples of two outputs: (1 + 0 + 4 + 9) / 4 = 3.5."""
    loss = needed("mse")(np.array([[2.0, 5.0], [1.0, 3.0]]), np.array([[1.0, 5.0], [3.0, 0.0]]))[0]
    check("L for errors 1, 0, −2, 3", loss, 3.5, lambda: {
        "a sum over examples and outputs, not a mean": 14, "half of it: no ½ here": 1.75,
        "a sum over examples or outputs, not a mean": 7, "absolute errors": 1.5})
    rng = np.random.default_rng(0)
    check_loss("mse", *rng.standard_normal((2, 3, 5, 4)))


@proves("cross_entropy")
def test_09_cross_entropy():
    """By hand: logits (0, ln 3) mean p = (1/4, 3/4); with labels 0 and 1, L = (ln 4 + ln 4/3) / 2.

    Logits can be extreme: those of two examples here have the softmax (1, 0, 0) and (0, ½, ½).
    """
    function = needed("cross_entropy")
    assert MLP((1, 2), loss="cross_entropy").n_params == 4  # two classes are enough
    two = np.array([[0, np.log(3)]] * 2)
    expected = (np.log(4) + np.log(4 / 3)) / 2
    check("L for p = (1/4, 3/4)", function(two, np.array([0, 1]))[0], expected, lambda: {
        "a sum over examples, not a mean": 2 * expected, "minus what it should be": -expected})
    rng = np.random.default_rng(0)
    check_loss("cross_entropy", rng.standard_normal((3, 5, 4)), rng.integers(0, 4, (3, 5)))
    extreme = np.array([[1e3, -1e3, 0.0], [-3e3, -1e3, -1e3]])
    with np.errstate(all="ignore"):
        loss, delta, R_delta = function(extreme, np.array([1, 1]))
        Rdelta = R_delta(np.eye(3)[[1, 1]])
    where = "for logits of ±1000, where exp overflows"
    check(f"L {where}", loss, (2e3 + np.log(2)) / 2)
    check(f"δ {where}", delta, np.array([[0.5, -0.5, 0], [0, -0.25, 0.25]]))
    check(f"R{{δ}} {where}", Rdelta, np.array([[0, 0, 0], [0, 0.125, -0.125]]))


@proves("policy")
def test_13_policy():
    """By hand: off by (1, 2) and (0, 2), advantages 3 and −1: L = (3·5 − 1·4) / 2 / 2 = 11/4."""
    f, y = np.array([[1.0, 2.0], [5.0, 3.0]]), np.array([[0.0, 0.0, 3.0], [5.0, 1.0, -1.0]])
    check("L for ‖f − action‖² = 5 and 4, A = 3 and −1", needed("policy")(f, y)[0], 2.75, lambda: {
        "twice what it should be: no ½, or a sum over examples": 5.5, "no advantage": 2.25,
        "a mean over outputs, not a sum": 1.375, "minus what it should be": -2.75,
        "neither ½ nor a mean over examples": 11,
        "A multiplies outputs, not examples: keep its axis, y[..., -1:]": -1.25})
    rng = np.random.default_rng(0)
    check_loss("policy", rng.standard_normal((3, 5, 2)), rng.standard_normal((3, 5, 3)))


# ----------------------------------------------------------------------------- the proof: the model

def test_07_theta_holds_weights_then_bias_layer_by_layer_and_unpack_gives_views():
    model = MLP((1, 2, 1))
    theta = np.arange(7.0)
    (W0, b0), (W1, b1) = model.unpack(theta)
    for part, expected in (W0, [[0, 1]]), (b0, [[2, 3]]), (W1, [[4], [5]]), (b1, [[6]]):
        assert np.array_equal(part, expected) and np.shares_memory(part, theta)
    assert model.n_params == 7 and model.predict(list(theta), [[1.0]]) == 4 * 2 + 5 * 4 + 6
    assert [W.shape for W, _ in model.unpack(np.zeros((8, 7)))] == [(8, 1, 2), (8, 2, 1)]


@proves("_forward")
@every_model
def test_07_forward_returns_what_the_way_back_needs(spec):
    model, theta, (x, _, _, _), _ = problem(spec)
    if not hasattr(model, "_forward"):
        pytest.skip("the module has no method _forward")
    M = model._matrices(theta)
    _, A, slope, curvature = model._forward(M, x)
    value, ones = x, np.ones((3, 5, 1))
    for l in range(len(M) - 1):
        where = f"as returned, of {len(M)} layers of {spec[1]}"
        right = np.concatenate([value, ones], -1)
        z = right @ M[l]
        value, first, second = sigma(spec[1], z)
        check(f"A_{l} {where}", A[l], right, lambda: {
            "[1 a_l] in place of [a_l 1]": np.concatenate([ones, right[..., :-1]], -1),
            "the 1 appended before σ": np.concatenate([right[..., :-1], np.tanh(ones)], -1)})
        check(f"σ′(z_{l}) {where}", slope[l], first, lambda: {
            "σ″ in place of σ′": second, f"σ′ taken at a_{l + 1}": sigma(spec[1], value)[1]})
        bent = np.zeros(z.shape) if curvature[l] is None else curvature[l]
        check(f"σ″(z_{l}) {where}", bent, second, lambda: {"σ′ in place of σ″": first})


@proves("_forward")
@every_model
def test_07_forward_pass_equals_loops_over_single_numbers(spec):
    model, theta, (x, y, _, _), _ = problem(spec)
    activation = {"relu": lambda z: max(z, 0.0), "tanh": math.tanh}[spec[1]]
    layers, outputs = model.unpack(theta), []
    for example in x.reshape(-1, 3):
        a = list(example)
        for l, (W, b) in enumerate(layers):
            z = [sum(a[i] * W[i, j] for i in range(len(a))) + b[0, j] for j in range(W.shape[1])]
            a = z if l == len(layers) - 1 else [activation(value) for value in z]
        outputs.append(a)
    v = np.zeros((3, model.n_params))
    check("f", model.predict(theta, x), np.reshape(outputs, (3, 5, 4)),
          partial(model_gallery, 0, spec, model, theta, x, y, v))


@every_model
def test_08_09_13_losses_are_those_of_the_outputs_and_accept_complex_parameters(spec):
    """All that follows takes complex steps, which np.abs, conjugates and real buffers break."""
    model, theta, (x, y, _, _), rng = problem(spec)
    one = [model.loss(theta, *example) for example in zip(x, y)]
    check("L of three tasks at once", model.loss(theta, x, y), np.array(one))
    d, h = rng.standard_normal(model.n_params), 1e-5
    slope = (model.loss(theta + h * d, x, y) - model.loss(theta - h * d, x, y)) / (2 * h)
    step = np.imag(model.loss(theta + 1j * STEP * d, x, y)) / STEP
    assert error(step, slope) < 1e-6, "the loss is wrong for complex θ"


@proves("_backward")
@every_model
def test_11_backward_returns_delta_and_e_of_every_layer(spec):
    model, theta, (x, y, _, _), _ = problem(spec)
    if not hasattr(model, "_backward"):
        pytest.skip("the module has no method _backward")
    M = model._matrices(theta)
    f, A, slope, _ = model._forward(M, x)
    last = len(M) - 1
    _, delta, e = model._backward(M, A, slope, f)
    for l in range(last, 0, -1):
        right = f if l == last else right * slope[l]
        check(f"δ_{l} as returned, from δ_{last} back", delta[l], right)
        before, shape = right, M[l][:-1].T.shape
        right = right @ M[l][:-1].T
        check(f"e_{l} as returned", e[l], right, lambda: {
            f"e_{l} ∘ σ′(z_{l - 1}): changed in place, or σ′ too soon?": right * slope[l - 1],
            "W reshaped in place of transposed, (11)": before @ M[l][:-1].reshape(shape),
            "the first row of M_l taken for the bias": before @ M[l][1:].T})


@proves("_forward", "_backward")
@every_model
def test_10_11_gradient_is_the_derivative_of_the_loss(spec):
    model, theta, (x, y, _, _), rng = problem(spec)
    loss, grad, _ = model.linearize(theta, x, y)
    check("L of linearize", loss, model.loss(theta, x, y))
    expected = [derivatives(lambda t: model.loss(t, *example), theta) for example in zip(x, y)]
    v = rng.standard_normal((3, model.n_params))
    expected = np.array(expected)
    check("g, the derivative of L", grad, expected, lambda: {
        "divided by the number of examples twice: δ holds 1/n": expected / 5,
        **model_gallery(1, spec, model, theta, x, y, v)}, model)


NOT_DERIVED = "a complex step through g, or a real array in it? (7R) to (11R) are to be derived"


@proves("_forward", "hvp")
@every_model
def test_07R_to_11R_hvp_is_the_derivative_of_the_gradient(spec):
    model, theta, (x, y, _, _), rng = problem(spec)
    u, v = rng.standard_normal((2, 3, model.n_params))
    v.setflags(write=False)
    hvp = model.linearize(theta, x, y)[2]
    expected = model.linearize(theta + 1j * STEP * v, x, y)[1].imag / STEP
    gallery = partial(model_gallery, 2, spec, model, theta, x, y, v)
    check("H v, the derivative of g along v", hvp(v), expected, gallery, model)
    Hu = hvp(u)
    if np.shape(hvp(v)) != np.shape(expected) or not error(hvp(v), expected) < TOLERANCE:
        fail("H v comes out differently the second time: what hvp keeps is changed in place")
    check("vᵀ H u, which is uᵀ H v", (v * Hu).sum(-1), (u * expected).sum(-1))
    if not error(hvp(u + 1j * v), Hu + 1j * expected) < TOLERANCE:
        fail(f"H v is right for real v but not for complex v: {NOT_DERIVED}")


@proves("hvp")
@every_model
def test_07R_to_11R_hvp_at_complex_parameters(spec):
    """Derived line by line, H v holds for complex θ too. A complex step through g does not."""
    model, theta, (x, y, _, _), rng = problem(spec)
    v = rng.standard_normal((3, model.n_params))
    at = theta + 0.1j * rng.standard_normal(model.n_params)
    right = [plain_passes(spec, model, at, *one, lambda mistake: True)[2] for one in zip(x, y, v)]
    if not error(model.linearize(at, x, y)[2](v), np.array(right)) < TOLERANCE:
        fail(f"H v is right for real θ but not for complex θ: {NOT_DERIVED}")


@proves("_forward", "_backward", "hvp")
@every_model
def test_07_to_11R_leading_axes_broadcast(spec):
    """Parameters and data, each shared or one for each task, give what one task at a time gives."""
    model, theta, (x, y, _, _), rng = problem(spec)
    many = theta + 0.1 * rng.standard_normal((3, model.n_params))
    v = rng.standard_normal((3, model.n_params))
    check("L with one more axis", model.loss(many[:, None], x[None], y[None]),
          [model.loss(t, x, y) for t in many])
    for t, data in (many, (x, y)), (theta, (x, y)), (many, (x[0], y[0])), (theta, (x[0], y[0])):
        where = f"for theta {t.shape} and x {data[0].shape}"
        loss, grad, hvp = model.linearize(t, *data)
        for i in range(3):
            own = data if data[0].ndim == 2 else (x[i], y[i])
            single = model.linearize(t[i] if t is many else t, *own)
            pick = (lambda a: a[i]) if np.ndim(loss) else (lambda a: a)
            check(f"L {where}", pick(loss), single[0])
            check(f"g {where}", pick(grad), single[1], model=model)
            check(f"H v {where}, v (3, P)", hvp(v)[i], single[2](v[i]), model=model)
            check(f"H v {where}, v (P,)", pick(hvp(v[0])), single[2](v[0]), model=model)


# ------------------------------------------------------------------------- the proof: the algorithm

@proves("adapt")
@every_K
def test_01_adapt_takes_K_gradient_steps(K):
    model, theta, (x, y, _, _), rng = problem(SMALL)
    for alpha in alphas(rng, K, model.n_params):
        path, at_start = [theta], theta
        for rate in by_step(alpha, K, model.n_params):
            path.append(path[-1] - rate * model.linearize(path[-1], x, y)[1])
            at_start = at_start - rate * model.linearize(theta, x, y)[1]
        one_rate = uphill = theta
        for rate in by_step(alpha, K, model.n_params):
            first = by_step(alpha, K, model.n_params)[0]
            one_rate = one_rate - first * model.linearize(one_rate, x, y)[1]
            uphill = uphill + rate * model.linearize(uphill, x, y)[1]
        gallery = {"every gradient taken at the start": at_start, "a plus for the minus": uphill,
                   "the first rate in every step": one_rate,
                   "one step too few": path[max(K - 1, 0)]}
        where = f"for K = {K}, alpha {np.shape(alpha)}"
        found = adapt(model, theta, x, y, alpha, K)
        check(f"θ_K {where}", found, path[K], lambda: gallery, model)
        if np.shares_memory(found, theta):
            fail(f"θ_K {where} is the array that was passed in: return a new one")


class Watched:
    """A model with nothing but linearize, which counts its calls and those of hvp."""

    def __init__(self, model):
        self.model, self.calls, self.products = model, 0, 0

    def linearize(self, theta, x, y):
        if np.iscomplexobj(theta):
            fail("linearize was called with a complex θ: a complex step for each parameter? "
                 "(3) takes K products H v")
        self.calls += 1
        loss, grad, hvp = self.model.linearize(theta, x, y)

        def counted(v):
            self.products += 1
            return hvp(v)
        return loss, grad, counted


@proves("meta_gradient")
def test_03_meta_gradient_takes_K_products_and_nothing_but_linearize():
    model, theta, tasks, rng = problem(SMALL)
    for first_order in False, True:
        watched = Watched(model)
        meta_gradient(watched, theta, tasks, 0.1, 3, first_order=first_order)
        if watched.calls >= len(theta):
            fail(f"linearize was called {watched.calls} times for K = 3 and P = {len(theta)}: "
                 "a finite difference? (3) takes K products H v")
        if not first_order and watched.products < 3:
            fail(f"hvp was called {watched.products} times for K = 3: (3) takes K products H v")
        if first_order and watched.products:
            fail(f"hvp was called {watched.products} times with first_order=True: (3) without H")


@proves("meta_gradient")
@every_K
@every_model
def test_02_03_04_meta_gradient_is_the_derivative_of_the_meta_objective(spec, K):
    model, theta, tasks, rng = problem(spec)
    d = rng.standard_normal(model.n_params)
    for alpha in alphas(rng, K, model.n_params):
        where = f"for K = {K}, alpha {np.shape(alpha)}"
        J, grad, nothing = meta_gradient(model, theta, tasks, alpha, K)
        gallery = partial(meta_gallery, model, theta, tasks, alpha, K)
        expected = objective_gradient(model, theta, tasks, alpha, K)
        check(f"∂J/∂θ {where}", grad, expected, gallery, model)
        right = objective(model, theta, tasks, alpha, K)
        check(f"J {where}", J, right, lambda: {
            "a sum over tasks, not a mean": 3 * right,
            "divided by the number of tasks twice": right / 3,
            "the loss before adapting": objective(model, theta, tasks, alpha, 0)})
        J_at = meta_gradient(model, theta + 1j * STEP * d, tasks, alpha, K)[0]
        check(f"Im J for complex θ {where}", np.imag(J_at) / STEP, expected @ d)
        if nothing is not None or not isinstance(J, float):
            fail(f"expected a float J and no ∂J/∂α, got {type(J).__name__} and {nothing!r:.30}")


@proves("meta_gradient")
@every_K
@pytest.mark.parametrize("activation", ("tanh", "relu"))
@pytest.mark.parametrize("loss", ("mse", "cross_entropy", "policy"))
def test_05_alpha_gradient_is_the_derivative_of_the_meta_objective(activation, loss, K):
    model, theta, tasks, rng = problem(((3, 5, 4), activation, loss))
    for alpha in alphas(rng, K, model.n_params):
        expected = derivatives(lambda a: objective(model, theta, tasks, a, K), alpha)
        found = meta_gradient(model, theta, tasks, alpha, K, wrt_alpha=True)[2]
        wrong = partial(plain_meta, model, theta, tasks, alpha, K)

        def gallery():
            rows = variants(lambda right: shared(wrong(right)[1], alpha))
            return {name: value for name, value in rows.items() if "(5)" in name or "task" in name}

        check(f"∂J/∂α for K = {K}, alpha {np.shape(alpha)}", found, expected, gallery)


def test_03_linear_model_has_the_closed_form_product_of_I_minus_A_alpha():
    """With A the constant Hessian of the support loss, v_0 = (I − A diag α)^K ∇L_q(θ_K)."""
    model, theta, tasks, rng = problem((LINEAR, "relu", "mse"), n_tasks=1)
    X = np.hstack([tasks[0][0], np.ones((5, 1))])
    A, alpha = np.kron(2 / (5 * 4) * X.T @ X, np.eye(4)), rng.uniform(0.05, 0.15, 16)
    v = model.linearize(adapt(model, theta, *tasks[:2], alpha, 4), *tasks[2:])[1][0]
    expected = np.linalg.matrix_power(np.eye(16) - A * alpha, 4) @ v
    check("∂J/∂θ", meta_gradient(model, theta, tasks, alpha, 4)[1], expected, model=model)


def test_03_taylor_remainder_falls_with_slope_2_along_the_gradient_and_1_along_first_order():
    """J(θ + εd) − J(θ) − ε ∇J·d is O(ε²) for the gradient and O(ε) for anything else."""
    model, theta, tasks, rng = problem(SMALL)
    d = rng.standard_normal(model.n_params)
    J = partial(objective, model, tasks=tasks, alpha=0.1, K=3)
    for gradient, expected in (meta_gradient, 2), (partial(meta_gradient, first_order=True), 1):
        grad = gradient(model, theta, tasks, 0.1, 3)[1]
        rest = [abs(J(theta + e * d) - J(theta) - e * grad @ d) for e in (1e-3, 1e-4)]
        assert abs(np.log10(rest[0] / rest[1]) - expected) < 0.05


def test_03_05_wide_layers_are_multiplied_in_other_ways_and_go_by_groups_of_tasks():
    """11 tasks with layers of 160 fill two groups; of 200,000 parameters, each fills one."""
    model, theta, tasks, rng = problem(((3, 160, 160, 2), "tanh", "mse"), n_tasks=11)
    alpha = rng.uniform(0.05, 0.15, (2, model.n_params))
    d = rng.standard_normal((3, model.n_params))
    at = theta + 1j * STEP * d[0], tasks, alpha + 1j * STEP * d[1:], 2
    _, grad, grad_alpha = meta_gradient(model, theta, tasks, alpha, 2, wrt_alpha=True)
    found = grad @ d[0] + (grad_alpha * d[1:]).sum()
    check("dJ along a direction", found, objective(model, *at).imag / STEP)
    model, theta, tasks, _ = problem(((2, 100_000), "relu", "mse"), n_tasks=2)
    for method, end in (meta_gradient, 0), (reptile_gradient, theta):  # (6) rounds as θ does
        singles = [method(model, theta, [a[i:i + 1] for a in tasks], 0.1)[1] for i in range(2)]
        found = method(model, theta, tasks, 0.1)[1]
        check(method.__name__, found - end, np.mean(singles, axis=0) - end)


@proves("meta_gradient")
def test_03_first_order_is_the_mean_gradient_at_theta_K():
    model, theta, tasks, _ = problem(SMALL)
    end = adapt(model, theta, *tasks[:2], 0.1, 3)
    gradient = partial(meta_gradient, first_order=True, wrt_alpha=True)
    _, grad, grad_alpha = gradient(model, theta, tasks, 0.1, 3)
    v_K = model.linearize(end, *tasks[2:])[1]
    check("∂J/∂θ with first_order=True", grad, v_K.mean(0), model=model)
    steps = (theta - end) / 0.1  # the sum of the support gradients
    check("∂J/∂α with first_order=True", grad_alpha, -(steps * v_K).sum(-1).mean(0))


def test_03_without_inner_steps_or_rate_it_is_joint_training():
    model, theta, tasks, _ = problem(SMALL)
    loss, grad, _ = model.linearize(theta, *(a.reshape(-1, a.shape[-1]) for a in tasks[2:]))
    for alpha, K in (0.1, 0), (0.0, 3):
        found = meta_gradient(model, theta, tasks, alpha, K)
        check("J", found[0], loss)
        check("∂J/∂θ", found[1], grad, model=model)


@every_K
def test_04_a_batch_is_the_mean_of_its_tasks(K):
    model, theta, tasks, rng = problem(((3, 5, 4), "relu", "cross_entropy"))
    alpha = rng.uniform(0.05, 0.15, model.n_params)
    first = partial(meta_gradient, first_order=True)
    for method in partial(meta_gradient, wrt_alpha=True), first, reptile_gradient:
        whole = method(model, theta, tasks, alpha, K)
        singles = [method(model, theta, [a[i:i + 1] for a in tasks], alpha, K) for i in range(3)]
        for part, parts in zip(whole, zip(*singles)):
            if part is not None:
                check("a mean over tasks", part, np.mean(parts, axis=0))


@proves("reptile_gradient")
@every_K
def test_06_reptile_is_the_mean_way_to_theta_K(K):
    model, theta, tasks, _ = problem(SMALL)
    loss, direction = reptile_gradient(model, theta, tasks, 0.1, K)
    right = theta - np.mean([adapt(model, theta, x, y, 0.1, K) for x, y in zip(*tasks[:2])], axis=0)
    at_query = theta - adapt(model, theta, *tasks[2:], 0.1, K).reshape(-1, len(theta)).mean(0)
    gallery = {"minus what it should be: a direction to descend": -right,
               "divided by α": 10 * right, "a sum over tasks, not a mean": 3 * right,
               "adapted to the query set": at_query}
    scale = np.max(abs(theta))  # the difference of vectors near θ is exact to θ's rounding
    check(f"Reptile's direction for K = {K}", direction + scale, right + scale,
          lambda: {name: value + scale for name, value in gallery.items()}, model)
    assert np.array_equal(reptile_gradient(model, list(theta), tasks, 0.1, K)[1], direction)
    J = objective(model, theta, tasks, 0.1, K)
    check("J of Reptile", loss, J, lambda: {"a sum over tasks, not a mean": 3 * J})
    if not isinstance(loss, float):
        fail(f"expected a float J, got {type(loss).__name__}")


@pytest.mark.parametrize("method", (meta_gradient, reptile_gradient), ids=lambda m: m.__name__)
@proves("meta_gradient", "reptile_gradient")
def test_04_groups_of_tasks_give_what_all_tasks_give_at_once(method):
    """Five tasks in groups of 2, 2 and 1: what is added up are sums, not means."""
    groups = needed("groups")
    model, theta, tasks, _ = problem(SMALL, n_tasks=5)
    options = {"wrt_alpha": True} if method is meta_gradient else {}
    whole = method(model, theta, tasks, 0.1, 3, **options)
    parts = [[a[i:i + 2] for a in tasks] for i in (0, 2, 4)]
    each = [method(model, theta, part, 0.1, 3, **options) for part in parts]
    maml.groups = lambda tasks, theta: parts
    try:
        found = method(model, theta, tasks, 0.1, 3, **options)
    finally:
        maml.groups = groups
    for what, one, right, *values in zip(("J", "what is descended", "∂J/∂α"), found, whole, *each):
        check(f"{what} with the tasks in three groups", one, right, lambda: {
            "the means of the groups are added: add sums, divide once": sum(values),
            "a mean of the groups' means": sum(values) / 3, "only the last group": values[-1],
            "only the last group, divided by all tasks": values[-1] / 5})


@proves("meta_gradient", "adapt", "reptile_gradient")
def test_01_to_06_worked_by_hand():
    """One task, one input, no hidden layer, θ = (w, b) = (1, 0), α = 1/4.

    Support x = 1, y = 3; query x = 2, y = 1.
    Support: error w + b − 3 = −2, L = 4, g = 2(−2)(1, 1) = (−4, −4), H = 2 (1 1; 1 1).   (8) (10)
    Adapted: θ_1 = (1, 0) + (4, 4)/4 = (2, 1).                                          (1)
    Query:   error 2·2 + 1 − 1 = 4, J = 16, v_1 = 2·4·(2, 1) = (16, 8).                 (2)
    Back:    H (v_1/4) = 2 (1 1; 1 1) (4, 2) = (12, 12), v_0 = (16, 8) − (12, 12).        (3) (4)
    Rate:    −g ∘ v_1 = (64, 32); for a single α shared by both, 96.                      (5)
    Reptile: θ − θ_1 = (−1, −1).                                                        (6)
    """
    model, theta = MLP((1, 1)), np.array([1.0, 0.0])
    tasks = [np.reshape(float(value), (1, 1, 1)) for value in (1, 3, 2, 1)]
    gradient = partial(meta_gradient, model, theta, tasks)
    for what, found, expected in (
            ("θ_1", adapt(model, theta, *tasks[:2], 0.25), [[2, 1]]), ("J", gradient(0.25)[0], 16),
            ("∂J/∂θ", gradient(0.25)[1], [4, -4]), ("∂J/∂α", gradient(0.25, wrt_alpha=True)[2], 96),
            ("∂J/∂α", gradient(np.full(2, 0.25), wrt_alpha=True)[2], [64, 32]),
            ("∂J/∂θ, first order", gradient(0.25, first_order=True)[1], [16, 8]),
            ("J of Reptile", reptile_gradient(model, theta, tasks, 0.25)[0], 16),
            ("Reptile's direction", reptile_gradient(model, theta, tasks, 0.25)[1], [-1, -1])):
        if not np.array_equal(found, expected):
            fail(f"{what} worked by hand: expected exactly {expected}, got {found}")


@proves("_forward", "_backward", "hvp", "adapt", "meta_gradient", "reptile_gradient")
@pytest.mark.parametrize("activation", ("tanh", "relu"))
@pytest.mark.parametrize("loss", ("mse", "cross_entropy", "policy"))
def test_theta_decides_the_precision(activation, loss):
    model, theta, tasks, rng = problem(((3, 5, 4), activation, loss))
    exact = meta_gradient(model, theta, tasks, 0.1, 3, wrt_alpha=True)
    theta, alpha = theta.astype(np.float32), np.float64(0.1)
    L, grad, hvp = model.linearize(theta, *tasks[:2])
    _, outer, outer_alpha = meta_gradient(model, theta, tasks, alpha, 3, wrt_alpha=True)
    _, direction = reptile_gradient(model, theta, tasks, alpha)
    results = {"f": model.predict(theta, tasks[0]), "L": L, "g": grad, "H v": hvp(grad),
               "θ_1": adapt(model, theta, *tasks[:2], alpha), "∂J/∂θ": outer,
               "∂J/∂α": outer_alpha, "Reptile's direction": direction}
    for what, a in results.items():
        if a.dtype != np.float32:
            fail(f"{what} at a float32 θ: expected float32, got {a.dtype}")
    assert error(outer, exact[1]) < 1e-5 and error(outer_alpha, exact[2]) < 1e-5
    assert all(model.init(rng, dtype=kind).dtype == kind for kind in (np.float32, float))


# ----------------------------------------------------------------------------------- the outer loop

@proves("step")
def test_12_adam():
    rng = np.random.default_rng(2)
    grads = rng.standard_normal((4, 5)) * [1, 1e-2, 1e-4, 1e-8, 10]  # where ε counts and where not
    theta, adam, path = np.zeros(5), maml.Adam(), []
    for grad in grads:
        for a in (theta, grad):
            a.setflags(write=False)
        theta = adam.step(theta, grad, lr=0.01)
        if theta is None:
            fail("step: expected the next theta, got nothing")
        path.append(theta)
    for t, found in enumerate(path):
        def gallery():
            return {name: values[t] for name, values in
                    variants(partial(plain_adam, grads, 0.01)).items()}
        expected = plain_adam(grads, 0.01, lambda mistake: True)[t]
        check(f"θ after step {t + 1} of Adam", found, expected, gallery)
    own = maml.Adam(beta1=0.5, beta2=0.25, eps=0.125)  # m = 1/2, u = 3/4, both corrected to 1
    check("a step with β₁ = ½, β₂ = ¼, ε = ⅛", own.step(np.zeros(1), np.ones(1), 9.0), [-8.0])
    check("a step with the lr unless told", maml.Adam().step(np.zeros(1), np.ones(1)),
          [-1e-3 / (1 + 1e-8)])
    kind = maml.Adam().step(np.ones(2, np.float32), np.ones(2), np.float64(0.1)).dtype
    if kind != np.float32:
        fail(f"step of a float32 θ with lr an np.float64: expected float32, got {kind}")


def replay(grads_theta, grads_alpha, rates):
    theta, alpha, for_theta, for_alpha = np.zeros(2), np.array(0.1), maml.Adam(), maml.Adam()
    for g, a, rate in zip(grads_theta, grads_alpha, rates):
        theta = for_theta.step(theta, np.array(g), rate)
        alpha = for_alpha.step(alpha, np.array(a), rate)
    return theta, alpha


def test_meta_train_clips_the_global_norm_decays_the_rate_and_reports():
    """Norms √(3² + 0² + 4²) = 5 and 1, clip = 2: the first shrinks by 2/5, the second stays."""
    given = iter([(9.0, np.array([3.0, 0.0]), np.array(4.0)),
                  (8.0, np.array([0.48, 0.64]), np.array(0.6))])
    seen, asked, rates, batches = [], [], [0.5, 0.25], iter("ab")

    def gradient(*args):
        asked.append(args)
        return next(given)

    learned = meta_train(MLP((1, 1)), np.zeros(2), lambda: next(batches), 0.1, 3, 2,
                         rates.__getitem__, 2, gradient, lambda *args: seen.append(args))
    for found, value in zip(learned, replay([(1.2, 0), (0.48, 0.64)], [1.6, 0.6], rates)):
        check("what is learned", found, value)
    assert asked[1][1] is seen[0][2] and asked[1][3] is seen[0][3]
    assert [(a[2], a[4]) for a in asked] == [("a", 3), ("b", 3)]
    assert [s[:2] for s in seen] == [(0, 9.0), (1, 8.0)]
    assert seen[1][2] is learned[0] and seen[1][3] is learned[1]


def test_meta_train_has_the_defaults_it_names_and_learns_alpha_only_if_told():
    model, theta, tasks, _ = problem(SMALL)
    steps = []
    meta_train(model, list(theta), lambda: None, 0.1,
               gradient=lambda *args: steps.append(args[4]) or (1.0, np.ones(theta.size)))
    assert steps == [1] * 1000
    for gradient in meta_gradient, reptile_gradient, partial(meta_gradient, wrt_alpha=True):
        found, alpha = meta_train(model, theta, lambda: tasks, 0.1, 1, 2, 1e-3, 0.5, gradient)
        assert (alpha == 0.1) == (not isinstance(gradient, partial))
        assert not np.array_equal(found, theta)


def test_cosine_decay():
    rates = [maml.cosine_decay(3.0, 12)(i) for i in (0, 4, 6, 12, 18)]
    assert np.allclose(rates, [3, 2.25, 1.5, 0, 0], rtol=0, atol=1e-15)
    assert maml.cosine_decay(3.0, 1)(0) == 3


@pytest.mark.parametrize("loss, size, clip, dtype, fine", (
    (1, 1, None, "f", True), (1, 0, 10, "f", True), (1, 1e21, 10, "f", True),
    (1, 1e200, 10, "d", True), (math.nan, 1, 10, "f", False), (1, math.nan, 10, "f", False),
    (1, math.inf, 10, "f", False), (1, 1e21, None, "f", False), (1, 1e200, None, "d", False)))
def test_training_stops_at_what_is_not_finite_or_cannot_be_squared(loss, size, clip, dtype, fine):
    train = partial(meta_train, MLP((1, 1)), np.zeros(2, dtype), lambda: None, 0.1, 1, 1, clip=clip,
                    gradient=lambda *_: (loss, np.full(2, size, dtype)))
    if fine:
        assert np.allclose(train()[0], -1e-3 if size else 0, rtol=1e-6)
        return
    words = "^iteration 0: meta-loss .*; lower alpha or lr"
    with pytest.raises(FloatingPointError, match=words) as caught:
        train()
    assert ("clip the outer gradient" in str(caught.value)) == (clip is None)


def test_training_names_what_is_not_finite_and_says_without_warnings_that_it_diverges():
    model, theta, tasks, _ = problem(((3, 5, 4), "relu", "mse"))
    with pytest.raises(FloatingPointError, match="iteration 0: meta-loss (nan|inf)"):
        meta_train(model, theta, lambda: tasks, 1e200, steps=3)
    for i, name in enumerate(("x_support", "y_support", "x_query", "y_query")):
        spoilt = [a * np.nan if i == j else a for j, a in enumerate(tasks)]
        with pytest.raises(ValueError, match=f"^{name} of iteration 0: expected finite .* nan"):
            meta_train(model, theta, lambda: spoilt, 0.1)
    with pytest.raises(ValueError, match="^theta: expected one vector .* finite .* nan"):
        meta_train(model, theta * np.nan, lambda: tasks, 0.1)


@pytest.mark.parametrize("loss", ("mse", "cross_entropy", "policy"))
def test_nothing_the_caller_owns_is_modified(loss):
    """Everything passed in is locked: a write to it would raise."""
    model, theta, tasks, rng = problem(((3, 5, 4), "tanh", loss))
    alpha, v = rng.uniform(0.05, 0.15, (2, model.n_params)), rng.standard_normal(model.n_params)
    for a in alpha, v:
        a.setflags(write=False)
    gradient = partial(meta_gradient, wrt_alpha=True)
    model.predict(theta, tasks[2])
    model.linearize(theta, *tasks[:2])[2](v)
    gradient(model, theta, tasks, alpha, 3)
    reptile_gradient(model, theta, tasks, alpha, 3)
    learned = meta_train(model, theta, lambda: tasks, alpha, 2, 2, gradient=gradient)
    unmoved = meta_train(model, theta, lambda: tasks, alpha, iterations=0)
    for mine in (*learned, *unmoved):
        assert not np.shares_memory(mine, theta) and not np.shares_memory(mine, alpha)


@pytest.mark.parametrize("std", (None, 0.01, 0))
@pytest.mark.parametrize("activation, gain", (("relu", 2), ("tanh", 1)))
def test_init_scales_the_weights_and_leaves_the_biases_at_0(activation, gain, std):
    model = MLP((50, 400, 300), activation)
    for W, b in model.unpack(model.init(np.random.default_rng(0), std)):
        assert abs(np.std(W) - (np.sqrt(gain / len(W)) if std is None else std)) <= np.std(W) / 50
        assert not b.any()


@about_the_project
def test_a_short_training_run_learns_to_adapt():
    """After 600 iterations MAML's θ errs by less than a third of joint training's in five steps."""
    model, family, losses = MLP((1, 40, 40, 1)), families.Sinusoid(), []
    test = family.sample(np.random.default_rng(1), 200)
    for K in 1, 0:
        rng = np.random.default_rng(0)
        theta = model.init(rng, dtype=np.float32)
        theta, _ = meta_train(model, theta, lambda: family.sample(rng, 25), 0.01, K, 600, 3e-3, 10)
        losses.append(objective(model, theta, test, 0.01, 5))
    assert losses[0] < losses[1] / 3


# ---------------------------------------------------------------------------- the checks have teeth

BLIND = {  # settings of the chain's kind, and how mistakes begin that make no difference in them
    ("tanh", 5, DEEP): (),
    ("tanh", 1, (3, 5, 4)): ("the Hessian always", "the Hessians applied", "(3) taken",
                             "the first rate", "the last rate", "H multiplied by v_K"),
    ("relu", 5, (3, 5, 4)): (),
    ("relu", 4, LINEAR): ("the Hessian always", "the Hessian of step k", "the Hessians applied",
                          "θ_k changed"),
}


@about_the_project
@pytest.mark.parametrize("setting", BLIND, ids=str)
def test_every_mistake_in_the_meta_gradient_is_caught_and_named(setting):
    """At K = 1 and with a linear model real mistakes pass: hence the chain's settings."""
    activation, K, sizes = setting
    model, theta, tasks, rng = problem((sizes, activation, "mse"))
    alpha = rng.uniform(0.05, 0.15, (K, model.n_params))
    right = objective_gradient(model, theta, tasks, alpha, K)
    gallery = meta_gallery(model, theta, tasks, alpha, K)
    for mistake, wrong in gallery.items():
        if mistake.endswith("(5)") or mistake.startswith(BLIND[setting] or "none"):
            check("∂J/∂θ", wrong, right)
        else:
            must_be_named(mistake, wrong, right, lambda: gallery)
    rows = partial(plain_meta, model, theta, tasks, alpha, K)
    right, gallery = rows(lambda mistake: True)[1], variants(lambda right: rows(right)[1])
    for mistake in gallery:
        if mistake.endswith("(5)") and K > 1:
            must_be_named(mistake, gallery[mistake], right, lambda: gallery)


def must_be_named(mistake, wrong, right, gallery):
    with pytest.raises(pytest.fail.Exception) as caught:
        check("this", wrong, right, gallery)
    assert mistake in caught.value.msg, (mistake, caught.value.msg)


@about_the_project
@pytest.mark.parametrize("loss", ("mse", "cross_entropy", "policy"))
def test_every_mistake_in_the_model_is_caught_and_named(loss):
    spec = DEEP, "tanh", loss
    model, theta, (x, y, _, _), rng = problem(spec)
    v = rng.standard_normal((3, model.n_params))
    right = model.predict(theta, x), *model.linearize(theta, x, y)[1:]
    right = right[0], right[1], right[2](v)
    galleries = [model_gallery(part, spec, model, theta, x, y, v) for part in range(3)]
    for mistake in galleries[2]:
        part = next(i for i in range(3) if error(galleries[i][mistake], right[i]) > 1e-6)
        must_be_named(mistake, galleries[part][mistake], right[part], lambda: galleries[part])


@about_the_project
def test_every_mistake_in_adam_is_caught_and_named():
    grads = np.random.default_rng(2).standard_normal((3, 5)) * [1, 1e-2, 1e-4, 1e-8, 10]
    right = plain_adam(grads, 0.01, lambda mistake: True)
    gallery = variants(partial(plain_adam, grads, 0.01))
    for mistake, wrong in gallery.items():
        t = next(t for t in range(3) if error(wrong[t], right[t]) > 1e-6)
        must_be_named(mistake, wrong[t], right[t], lambda: {m: w[t] for m, w in gallery.items()})


@about_the_project
def test_a_wrong_value_is_described_by_its_factor_or_by_the_parameters_that_are_off():
    model, theta, tasks, _ = problem(SMALL)
    right = model.linearize(theta, *tasks[:2])[1][0]
    blocks = right.copy()
    blocks[-4:] *= 0.2
    for wrong, words in (
            (0.7 * right, "g: 0.7 times what it should be"), (None, "got nothing"),
            (right[:3], "expected shape (44,), got shape (3,)"), (right + np.nan, "not finite"),
            (right * (1 + 1e-8 * theta), "nearly right"),
            (blocks, "layer 1 bias 0.2 times; right elsewhere")):
        with pytest.raises(pytest.fail.Exception) as caught:
            check("g", wrong, right, model=model)
        assert words in caught.value.msg


@about_the_project
@pytest.mark.parametrize("name, wrong, test, words", (
    ("relu", lambda z: (z * (z >= 0), 1.0 * (z >= 0), None), test_07_relu_and_its_derivatives,
     "σ′(z) of relu: σ′(0) is 0 here, not 1"),
    ("mse", lambda f, y: (((f - y)**2).mean((-2, -1)), (f - y) / f[0].size, None), test_08_mse,
     "δ of mse, the derivative of its L: half what it should be"),
    ("policy", lambda f, y: maml.LOSSES["policy"](f, abs(y)), test_13_policy,
     "L for ‖f − action‖² = 5 and 4, A = 3 and −1: expected 2.75, got 4.75")))
def test_a_wrong_function_is_told_its_mistake(monkeypatch, name, wrong, test, words):
    monkeypatch.setattr(maml, name, wrong)
    with pytest.raises(pytest.fail.Exception) as caught:
        test()
    assert words in caught.value.msg


# ---------------------------------------------------------------------------------------- bad input
# One case for each thing that can be wrong: how the message begins, and a call that gets it.

R, C = partial(MLP, (2, 3, 1)), partial(MLP, (2, 3), loss="cross_entropy")
RNG, T, X, Y = np.random.default_rng(0), np.zeros(13), np.zeros((4, 5, 2)), np.zeros((4, 5, 1))
LABELS, SETS = np.zeros((4, 5), int), [X, Y, X, Y]
gradient_of, train = partial(meta_gradient, R(), T), partial(meta_train, R(), T, lambda: SETS, 0.1)
MASKED, RAGGED = np.ma.masked_less(X, 1), [[1.0, 2.0], [3.0]]


class Answers:
    """A model of the reader's own that returns what it should not."""

    def __init__(self, loss, grad):
        self.answer = loss, grad, lambda v: v

    def linearize(self, theta, x, y):
        return self.answer


def answered(loss, grad, gradient=meta_gradient):
    return gradient(Answers(loss, grad), T, SETS, 0.1, 0)


BAD = r"""
sizes: expected two or more positive integers, got 3 | MLP(3)
sizes: .*, got \(3,\) | MLP((3,))
sizes: .*, got \(1, 0\) | MLP((1, 0))
sizes: .*, got \(1, 2.0\) | MLP((1, 2.0))
sizes: expected two or more outputs for cross_entropy, got | MLP((3, 1), loss="cross_entropy")
activation: expected relu or tanh, got \['relu'\] | MLP((1, 1), ["relu"])
loss: expected mse or cross_entropy or policy, got 'l1' | MLP((1, 1), loss="l1")
rng: expected a numpy.random.Generator, got 0 | R().init(0)
std: expected a finite number >= 0 or None, got -1 | R().init(RNG, -1)
std: .*, got inf | R().init(RNG, math.inf)
std: .*, got '1' | R().init(RNG, "1")
dtype: expected float32 or float64, got 'int64' | R().init(RNG, dtype="int64")
theta: expected float32 or float64 of shape \(..., 13\), got .* \(12,\) | R().unpack(T[1:])
theta: .*, got int64 | R().predict(np.zeros(13, "int64"), X)
theta: expected leading axes that fit \(4,\), got | R().predict(np.zeros((3, 13)), X)
v: expected float32 or float64 of shape \(..., 13\), got | R().linearize(T, X, Y)[2](T[1:])
v: expected leading axes that fit \(4,\), got | R().linearize(T, X, Y)[2](np.zeros((3, 13)))
x: expected real numbers of shape \(..., n, 2\), no axis empty, got | R().predict(T, X[0, 0])
x: .*, got .* \(5, 3\) | R().predict(T, np.zeros((5, 3)))
x: .*, got .* \(0, 2\) | R().predict(T, X[0, :0])
x: .*, got <U1 | R().predict(T, np.full((5, 2), "a"))
x: .*, got complex128 | R().predict(T, X + 1j)
x: expected an array, got \[\[1.0, 2.0\], \[3.0\]\] | R().predict(T, RAGGED)
x: expected an array without a mask, got | R().predict(T, MASKED)
y: expected real numbers of shape \(5, 1\), as x has it, got | R().loss(T, X[0], np.zeros(5))
y: .*, got object | R().linearize(T, X, None)
y: .*, got complex128 | R().loss(T, X, Y + 1j)
y: expected real numbers of shape \(4, 5, 2\) | MLP((2, 1), loss="policy").loss(np.zeros(3), X, Y)
y: expected integer labels 0 to 2 of .* from 3 to 3$ | C().loss(np.zeros(9), X, LABELS + 3)
y: expected integer labels .* -1 to -1$ | C().loss(np.zeros(9), X, LABELS - 1)
y: expected integer labels .* got float64 | C().loss(np.zeros(9), X, Y[..., 0])
y: expected integer labels .* \(4, 1, 5\) | C().loss(np.zeros(9), X, LABELS[:, None])
model: expected an object with a method linearize, got None | adapt(None, T, X, Y, 0.1)
model: .*, got None | meta_train(None, T, lambda: SETS, 0.1)
theta: expected float32 or float64 of shape \(..., P\) | adapt(R(), 0.0, X, Y, 0.1)
theta: .*, got float16 | adapt(R(), T.astype("float16"), X, Y, 0.1, 0)
theta: .*, got float64 of shape \(0,\) | meta_gradient(R(), T[:0], SETS, 0.1)
theta: expected one vector \(P,\) | meta_gradient(R(), np.zeros((4, 13)), SETS, 0.1)
steps: expected a whole number >= 0, got 1.0 | adapt(R(), T, X, Y, 0.1, 1.0)
steps: .*, got -1 | gradient_of(SETS, 0.1, -1)
steps: .*, got True | reptile_gradient(R(), T, SETS, 0.1, True)
alpha: expected a finite number or .* \(13,\), \(steps, 13\) or | adapt(R(), T, X, Y, np.ones(12))
alpha: .* \(2, 3\) | gradient_of(SETS, np.ones((2, 3)), 2)
alpha: .* \(0, 1\) | gradient_of(SETS, np.ones((0, 1)))
alpha: .* 1e\+300$ | adapt(R(), T.astype("float32"), X, Y, 1e300)
alpha: .* nan to nan | adapt(R(), T, X, Y, math.nan)
alpha: .*, got <U3 | adapt(R(), T, X, Y, "0.1")
alpha: expected no more rows than steps, 2, got | gradient_of(SETS, np.ones((13, 1)), 2)
alpha: .* than steps, 1, got .* \(4, 13\) | reptile_gradient(R(), T, SETS, np.ones((4, 13)))
tasks: expected four arrays x_support, .*, got \(1, 2\) | gradient_of((1, 2), 0.1)
tasks: .*, got float64 of shape \(4, 4, 5, 2\) | gradient_of(np.array([X] * 4), 0.1)
x_support: expected shape .* at least 1 | gradient_of([a[:0] for a in SETS], 0.1)
x_query: expected an array without a mask | gradient_of([X, Y, MASKED, Y], 0.1)
x_query: expected shape \(tasks, n, d\) | gradient_of([X, Y, X[:, 0], Y], 0.1)
y_query: expected shape | gradient_of([X, Y, X, Y[:, 0, 0]], 0.1)
y_query: .* as many tasks as x_support, .*1, 5, 1 | reptile_gradient(R(), T, [X, Y, X, Y[:1]], 0.1)
loss of model.linearize: expected an array \(4,\) | answered(0.5, np.zeros((4, 13)))
loss of model.linearize: .* \(4, 5\) | answered(np.zeros((4, 5)), np.zeros((4, 13)))
gradient of .*: expected an array \(4, 13\), .* \(13,\) | answered(np.zeros(4), np.zeros(13))
gradient of model.linearize: .* \(4,\) | answered(np.zeros(4), np.zeros(4), reptile_gradient)
gradient of model.linearize: .*, got a list | answered(np.zeros(4), [[0.0] * 13] * 4)
theta: .* finite real numbers, got complex128 | meta_train(R(), T + 0j, lambda: SETS, 0.1)
theta: expected one vector .* \(2, 13\) | meta_train(R(), np.zeros((2, 13)), lambda: SETS, 0.1)
alpha: expected real numbers, got | meta_train(R(), T, lambda: SETS, 0.1j)
sample: expected a function .*, got \[ | meta_train(R(), T, [1, 2], 0.1)
gradient: expected a function .*, got 'reptile' | train(gradient="reptile")
callback: expected a function or None, got 'print' | train(callback="print")
iterations: expected a whole number >= 0, got 1.5 | train(iterations=1.5)
lr: expected a finite number >= 0, or a function to one, got -1 | train(lr=-1)
clip: expected a number > 0 or None, got 0 | train(clip=0)
clip: .*, got '10' | train(clip="10")
iterations: expected a whole number >= 1, got 0 | maml.cosine_decay(0.1, 0)
beta1: expected a number from 0 to below 1, got -0.1 | maml.Adam(beta1=-0.1)
beta2: .*, got 1 | maml.Adam(beta2=1)
theta: expected float32 or float64, got int64 | maml.Adam().step([1], [0.5])
grad: expected theta's shape \(13,\) | maml.Adam().step(T, np.zeros(12))
"""


@about_the_project
@pytest.mark.parametrize("case", BAD.strip().splitlines())
def test_bad_input_is_refused_in_one_line(case):
    message, call = case.split(" | ")
    with pytest.raises(ValueError, match="^" + message) as caught:
        eval(call)
    assert "\n" not in str(caught.value)


@about_the_project
def test_adapt_may_take_fewer_steps_than_alpha_has_rows():
    model, theta, (x, y, _, _), rng = problem(SMALL)
    alpha = rng.uniform(0.05, 0.15, (3, 1))
    check("θ_2", adapt(model, theta, x, y, alpha, 2), adapt(model, theta, x, y, alpha[:2], 2))


# -------------------------------------------------------------------------------------------- tasks

@about_the_project
def test_sinusoid_has_the_paper_s_ranges_and_tells_the_truth():
    family, rng = families.Sinusoid(shots=5, queries=7), np.random.default_rng(3)
    waves = family.draw(rng, 4000)
    tasks = family.observe(rng, waves)
    assert [a.shape for a in tasks] == [(4000, 5, 1)] * 2 + [(4000, 7, 1)] * 2
    for values, low, high in ((waves.amplitude, 0.1, 5), (waves.phase, 0, np.pi),
                              (tasks.x_support, -5, 5), (tasks.x_query, -5, 5)):
        span = high - low
        assert low <= values.min() < low + span / 100
        assert high - span / 100 < values.max() <= high
        assert abs(values.mean() - (low + high) / 2) < span / 50
    A, phase, x = waves.amplitude[9, 0, 0], waves.phase[9, 0, 0], tasks.x_query[9, 3, 0]
    assert waves.frequency.min() == waves.frequency.max() == 1
    assert abs(tasks.y_query[9, 3, 0] - A * np.sin(x - phase)) < 1e-15
    assert all(np.array_equal(y, waves(x)) for x, y in (tasks[:2], tasks[2:]))


@about_the_project
def test_sinusoid_varies_frequency_and_adds_noise():
    family = families.Sinusoid(shots=50, queries=50, frequency=(0.8, 1.2), noise=0.3)
    rng = np.random.default_rng(3)
    waves = family.draw(rng, 400)
    tasks = family.observe(rng, waves)
    assert 0.8 <= waves.frequency.min() < 0.81 and 1.19 < waves.frequency.max() <= 1.2
    x, (A, phase, frequency) = tasks.x_support[9, 3, 0], (field[9, 0, 0] for field in waves)
    assert abs(waves(tasks.x_support)[9, 3, 0] - A * np.sin(frequency * x - phase)) < 1e-15
    for x, y in tasks[:2], tasks[2:]:
        assert abs(np.std(y - waves(x)) - 0.3) < 0.01


def numbered(*counts):
    """Return classes whose example i of class c is (c, i)."""
    return [np.stack([np.full(n, c), np.arange(n)], -1) for c, n in enumerate(counts)]


@about_the_project
def test_few_shot_tasks_keep_what_the_sampler_promises():
    """Ways, labels and examples are all equally likely, and no example comes twice in a task."""
    counts = 7, 5, 12, 6, 9
    family = families.FewShot(numbered(*counts), ways=3, shots=2, queries=3)
    tasks = family.sample(np.random.default_rng(0), 6000)
    assert [a.shape for a in tasks] == [(6000, 6, 2), (6000, 6), (6000, 9, 2), (6000, 9)]
    x, y = (np.concatenate(pair, axis=1) for pair in (tasks[::2], tasks[1::2]))
    for i in range(300):
        assert len({tuple(example) for example in x[i]}) == 15
        by_label = [set(x[i, y[i] == label, 0]) for label in range(3)]
        assert all(len(classes) == 1 for classes in by_label) and len(set.union(*by_label)) == 3
    for labels, n in (tasks.y_support, 2), (tasks.y_query, 3):
        for label in range(3):
            assert (np.count_nonzero(labels == label, axis=1) == n).all()
    for part, labels in tasks[:2], tasks[2:]:
        for c, n in enumerate(counts):  # 3 of 5 classes a task, a third of them for each label
            share = [np.mean((part[..., 0] == c)[labels == label]) for label in range(3)]
            assert np.allclose(share, 1 / 5, atol=0.02)
            seen = np.bincount(part[part[..., 0] == c][:, 1], minlength=n)
            assert len(seen) == n and np.allclose(seen / seen.sum(), 1 / n, atol=0.02)


@about_the_project
def test_few_shot_is_frozen_and_needs_little_memory_for_large_classes():
    family = families.FewShot([np.zeros((300_000, 1), np.float32)] * 5)
    tracemalloc.start()
    family.sample(np.random.default_rng(0), 4)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000
    with pytest.raises(AttributeError):
        family.ways = 3


@about_the_project
@pytest.mark.parametrize("family", (
    lambda: families.Sinusoid(), lambda: families.FewShot(numbered(16, 17, 18, 19, 20, 21))))
def test_sampling_is_reproducible(family):
    first, again, other = (family().sample(np.random.default_rng(seed), 3) for seed in (5, 5, 6))
    assert all(np.array_equal(a, b) for a, b in zip(first, again))
    assert not np.array_equal(first[0], other[0]) and not np.array_equal(first[0][0], first[0][1])


@about_the_project
def test_characters_are_images_more_alike_within_a_class_than_between():
    drawn, again = (families.characters(np.random.default_rng(0), 30, 8) for _ in range(2))
    assert len(drawn) == 30 and all(a.shape == (8, 196) and a.dtype == np.float32 for a in drawn)
    assert all(np.array_equal(a, b) for a, b in zip(drawn, again))
    assert 0 <= np.min(drawn) and 0.9 < np.max(drawn) <= 1 and 0.1 < np.mean(drawn) < 0.4
    distance = lambda a, b: np.linalg.norm(a[:, None] - b, axis=-1).mean()
    within = [distance(a[:4], a[4:]) for a in drawn]
    between = [distance(a, b) for a, b in zip(drawn, drawn[1:])]
    assert np.mean(within) < 0.9 * np.mean(between)
    assert families.characters(np.random.default_rng(0), 1, 2, grid=9)[0].shape == (2, 81)


@about_the_project
def test_navigation_moves_by_clipped_actions_and_rewards_nearness():
    """Every mean action is (1, −0.02) here: 0.1 a step to the right, a fifth of that down."""
    family, rng = families.Navigation(steps=3, episodes=4, deviation=1e-9), np.random.default_rng(0)
    goals = family.draw(rng, 5000)
    assert goals.shape == (5000, 1, 2) and -0.5 <= goals.min() < -0.49 and 0.49 < goals.max() <= 0.5
    episodes = family.roll_out(rng, lambda x: x * 0 + [1, -0.02], goals)
    assert episodes.positions.shape == episodes.actions.shape == (5000, 4, 3, 2)
    way = np.array([[0, 0], [0.1, -0.02], [0.2, -0.04], [0.3, -0.06]])
    assert np.allclose(episodes.positions, way[:3], rtol=0, atol=1e-7)
    assert np.allclose(episodes.actions, [1, -0.02], rtol=0, atol=1e-7)
    distance = np.linalg.norm(way[1:] - goals, axis=-1)  # after each move
    assert np.allclose(episodes.rewards, -distance[:, None], rtol=0, atol=1e-7)
    assert np.allclose(episodes.returns(), -distance.sum(-1), rtol=0, atol=1e-6)
    noisy = families.Navigation(deviation=0.3).roll_out(rng, lambda x: 0 * x, goals[:100])
    assert noisy.actions.shape == (100, 20, 20, 2) and abs(noisy.actions.std() - 0.3) < 0.01


@about_the_project
def test_advantages_are_rewards_to_go_less_their_mean_over_episodes_in_units_of_their_deviation():
    """To go: 6, 5, 3 and 0, 0, 0. Less the mean: ±3, ±2.5, ±1.5, of deviation √(35/6) = 2.4152."""
    actions, rewards = np.arange(12.0).reshape(1, 2, 3, 2), np.array([[[1.0, 2, 3], [0, 0, 0]]])
    x, y = families.Episodes(actions + 50, actions, rewards).examples()
    assert np.array_equal(x, np.arange(50.0, 62).reshape(1, 6, 2))
    assert np.array_equal(y[..., :2], x - 50)
    half = np.array([3, 2.5, 1.5]) / np.sqrt((9 + 6.25 + 2.25) / 3)
    check("advantages", y[0, :, 2], np.concatenate([half, -half]))
    assert not families.Episodes(actions, actions, 0 * rewards).examples()[1][..., 2].any()


SPOILT = [np.zeros((16, 2))] * 4
BAD_TASKS = r"""
shots: expected a whole number >= 1, got 0 | Sinusoid(shots=0)
queries: .*, got 1.5 | Sinusoid(queries=1.5)
amplitude: expected a pair of finite numbers low <= high, got | Sinusoid(amplitude=(5, 1))
phase: .*, got 1.0 | Sinusoid(phase=1.0)
x_range: .*, got \(0, inf\) | Sinusoid(x_range=(0, math.inf))
noise: expected a finite number >= 0, got -1 | Sinusoid(noise=-1)
n_tasks: expected a whole number >= 1, got 0 | Sinusoid().sample(RNG, 0)
rng: expected a numpy.random.Generator, got 1 | Sinusoid().sample(1, 4)
ways: expected a whole number >= 2, got 1 | FewShot(SPOILT, 1)
shots: .*, got 0 | FewShot(SPOILT, 2, 0)
queries: .*, got 2.0 | FewShot(SPOILT, 2, 1, 2.0)
classes: expected at least ways, 5, of them, got 4 | FewShot(SPOILT)
classes: .*, one for each class, got a dict | FewShot(dict.fromkeys("abcde", X))
classes\[4\]: expected at least 16 examples | FewShot(SPOILT + [np.zeros((15, 2))])
classes\[4\]: .* \(examples, 2\), got | FewShot(SPOILT + [np.zeros((16, 3))])
classes\[4\]: .*, got <U | FewShot(SPOILT + [np.full((16, 2), "a")])
classes\[4\]: .* of finite numbers | FewShot(SPOILT + [SPOILT[0] * np.nan])
classes\[4\]: .* no mask | FewShot(SPOILT + [np.ma.masked_less(SPOILT[0], 1)])
n_tasks: .*, got 0 | FewShot(SPOILT, 2).sample(RNG, 0)
n_classes: expected a whole number >= 1, got 0 | characters(RNG, 0)
n_examples: .*, got 0 | characters(RNG, 1, 0)
steps: expected a whole number >= 1, got 0 | Navigation(steps=0)
episodes: expected a whole number >= 2, got 1 | Navigation(episodes=1)
deviation: expected a finite number > 0, got 0 | Navigation(deviation=0)
goals: .* \(tasks, 1, 2\) | Navigation().roll_out(RNG, np.negative, np.zeros((3, 2)))
policy: .* \(3, 20, 2\), got | Navigation().roll_out(RNG, lambda x: x[..., :1], np.zeros((3, 1, 2)))
"""


@about_the_project
@pytest.mark.parametrize("case", BAD_TASKS.strip().splitlines())
def test_bad_settings_of_tasks_are_refused_in_one_line(case):
    message, call = case.split(" | ")
    with pytest.raises(ValueError, match="^" + message) as caught:
        eval(call, {**globals(), **vars(families)})
    assert "\n" not in str(caught.value)


# ----------------------------------------------------------------------------------------- the demo

def run_demo(capsys, *arguments):
    """Run demo.py in this process; return what it prints, without the seconds."""
    demo.main(arguments)
    return re.sub(r" +\d+ s( left)?$", "", capsys.readouterr().out, flags=re.M)


@about_the_project
def test_demo_evaluates_each_number_of_steps_and_picks_the_best_rate():
    model, family, rng = MLP((1, 4, 1)), families.Sinusoid(), np.random.default_rng(1)
    theta, tasks = model.init(rng), family.sample(rng, 120)  # more than one part of 100
    score = partial(demo.evaluate, model, tasks, MLP.loss)
    for row, K in zip(score(theta, 0.01), (0, 1, 5, 10)):
        check("errors", row, model.loss(adapt(model, theta, *tasks[:2], 0.01, K), *tasks[2:]))
    with np.errstate(all="ignore"):
        finals = [objective(model, theta, tasks, alpha, 10) for alpha in demo.RATES]
        results = demo.compare({"fixed": (theta, 0.01), "open": (theta, None)}, score, score)
        lost = demo.compare({"lost": (1e200 * theta, None)}, score, score)  # at every rate
    assert results["open"][1] == demo.RATES[np.nanargmin(finals)] and results["fixed"][1] == 0.01
    check("errors", results["fixed"][2], score(theta, 0.01))
    assert lost["lost"][1] in demo.RATES


@about_the_project
def test_demo_table_gives_intervals_and_medians_where_single_tasks_wreck_the_mean():
    """Standard deviations 1 and 0 over two tasks: half widths 1.96/√2 = 1.386 and 0."""
    fine = demo.rows("fine", np.array([[1.0, 3.0], [2.0, 2.0]]))
    assert fine == [("fine", "2.00 ± 1.39", "2.00 ± 0.00")]
    with np.errstate(invalid="ignore"):
        lost = demo.rows("lost", np.array([[1.0, 2, 3], [1, 2, 101], [1, np.nan, np.inf]]), 1)
    assert lost == [("lost", "2.0 ± 0.9", "34.7 ± 53.1", "diverged"),
                    ("  median (diverged)", "2.0 (0)", "2.0 (1)", "diverged (2)")]


@about_the_project
def test_demo_nearest_neighbour_accuracy_and_pooling_worked_by_hand():
    x, labels = np.array([[[0.0, 0.0], [2.0, 2.0]]]), np.array([[1, 0]])
    queries = np.array([[[0.9, 1.0], [1.2, 1.0], [9.0, 9.0]]])
    tasks = families.Tasks(x, labels, queries, np.array([[1, 1, 0]]))
    assert np.array_equal(demo.nearest(tasks), [[1, 0, 0]])
    model, theta = MLP((2, 2), loss="cross_entropy"), np.array([1.0, 0, 0, 1, 0, 0])
    logits = np.array([[[0.0, 1.0], [2.0, 0.0]]] * 2)
    assert np.array_equal(demo.accuracy(model, theta, logits, [[1, 0], [0, 0]]), [100, 50])
    x, y, *again = demo.pooled(lambda rng, n: tasks, None, 1)
    assert x.shape == (1, 5, 2) and np.array_equal(y, [[1, 0, 1, 1, 0]])
    assert again[0] is x and again[1] is y


@about_the_project
def test_demo_draws_points_over_prediction_over_truth_and_two_pixels_in_a_character(capsys):
    flat, x = np.zeros((800, 1)), np.array([[-5.0], [5.0], [0.0]])
    points = "●", x, np.array([[2.9], [-2.9], [9]])
    layers = [("·", demo.GRID, flat - 2), ("", demo.GRID, flat), points]
    assert demo.panel("a", layers, 5, 3, 5, 3) == [
        "┌─ a ─┐", "│●    │", "│⠤⠤⠤⠤⠤│", "│····●│", "└─────┘"]
    demo.draw_images(np.array([[1, 0, 1, 1], [0, 1, 0, 0]]), "ab")
    assert capsys.readouterr().out == "a  b \n█▄  ▀\n"


@about_the_project
def test_demo_explores_each_step_on_the_episodes_before_it_at_a_falling_rate():
    model, world = MLP((2, 2), loss="policy"), families.Navigation()
    theta, rng = np.zeros(6), np.random.default_rng(0)
    goals = world.draw(np.random.default_rng(1), 3)
    found = demo.explore(model, goals, theta, 2.0)
    for k, episodes in enumerate(found):
        expected = world.roll_out(rng, partial(model.predict, theta), goals)
        check("rewards", episodes.rewards, expected.rewards)
        theta = adapt(model, theta, *expected.examples(), 2.0 * demo.GOAL_DECAY**k)
    assert len(found) == 4 and demo.returns(model, goals, np.zeros(6), 2.0).shape == (4, 3)


@about_the_project
def test_demo_s_policy_gradient_is_the_meta_gradient_of_the_episodes_it_rolls_out():
    model, world = MLP((2, 3, 2), "tanh", "policy"), families.Navigation(steps=3, episodes=4)
    theta, goals = model.init(np.random.default_rng(2)), world.draw(np.random.default_rng(1), 2)
    roll_out = lambda rng: partial(world.roll_out, rng, goals=goals)
    loss, grad, grad_alpha = demo.policy_gradient(
        model, theta, roll_out(np.random.default_rng(3)), 0.5, 2, wrt_alpha=True)
    again = roll_out(np.random.default_rng(3))
    support = again(partial(model.predict, theta)).examples()
    query = again(partial(model.predict, adapt(model, theta, *support, 0.5, 2)))
    _, right, right_alpha = meta_gradient(
        model, theta, [*support, *query.examples()], 0.5, 2, wrt_alpha=True)
    check("∂J/∂θ", grad, right)
    check("∂J/∂α", grad_alpha, right_alpha)
    assert loss == -query.returns().mean()


def trainer_of(*arguments):
    return demo.Trainer(MLP((1, 4, 1)), demo.settings(arguments))


@about_the_project
def test_demo_trains_every_method_with_the_settings_on_the_same_tasks():
    trainer = trainer_of(*"--iterations 3 --meta-batch 2 --outer-rate 0.1 --seed 5".split())
    start, seen = trainer.start(), []

    def sample(rng, n):
        seen.append(families.Sinusoid().sample(rng, n))
        return seen[-1]

    theta, alpha = trainer("MAML", start, sample, 0.02, 2)
    batches, decay = iter(seen[:]), maml.cosine_decay(0.1, 3)
    expected, _ = meta_train(trainer.model, start, lambda: next(batches), 0.02, 2, 3, decay, 10)
    check("θ", theta, expected)
    first = families.Sinusoid().sample(np.random.default_rng([5, 1]), 2)
    assert np.array_equal(seen[0].x_support, first.x_support)
    trainer("Reptile", start, sample, 0.02, 2, reptile_gradient)
    assert alpha == np.float32(0.02) and len(seen[0].x_query) == 2
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(seen[:3], seen[3:]))


@about_the_project
def test_demo_learns_each_method_by_its_own_gradient():
    calls = {}

    class Recorder:
        chosen = demo.settings(["--inner-steps", "2", "--inner-rate", "0.5"])

        def __call__(self, name, start, sample, alpha, steps, gradient):
            calls[name] = sample, np.shape(alpha), np.max(alpha), steps, gradient
            return name, alpha

    learned = demo.learn(Recorder(), np.zeros(13), "split", "pooled", reptile=True)
    assert [name for name, (_, alpha) in learned.items() if alpha is None] == [
        "random initialisation", "joint training", "Reptile"]
    assert calls["joint training"] == ("pooled", (), 0.5, 0, meta_gradient)
    assert calls["Reptile"] == ("pooled", (), 0.5, 5, reptile_gradient)
    assert calls["MAML"] == ("split", (), 0.5, 2, meta_gradient)
    for name, shape, option in (("first-order MAML", (), "first_order"),
                                ("Meta-SGD", (13,), "wrt_alpha")):
        *rest, gradient = calls[name]
        assert rest == ["split", shape, 0.5, 2] and gradient.keywords == {option: True}


@about_the_project
@pytest.mark.parametrize("stop, words", (
    (KeyboardInterrupt, "MAML stopped after 2 of 10 iterations"),
    (FloatingPointError, "MAML diverged, try a lower --inner-rate or --outer-rate, after 2 of 10")))
def test_demo_goes_on_with_what_it_has_learnt_when_a_training_ends_early(capsys, stop, words):
    trainer, countdown = trainer_of("--iterations", "10"), [True, False, False]

    def sample(rng, n):
        if countdown.pop():
            raise stop
        return families.Sinusoid().sample(rng, n)

    start = trainer.start()
    theta, _ = trainer("MAML", start, sample, 0.01, 1)
    assert not np.array_equal(theta, start) and words in trainer.unfinished["MAML"]
    assert words in capsys.readouterr().out
    countdown[:] = [stop is KeyboardInterrupt]
    if stop is KeyboardInterrupt:  # a second one within a second
        with pytest.raises(KeyboardInterrupt):
            trainer("Meta-SGD", start, sample, 0.01, 1)


@about_the_project
def test_demo_shows_progress_in_one_line_of_a_terminal(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stdout", terminal)
    progress = demo.Progress("MAML", 4)
    for loss in 3.0, 1.0, 2.0, 2.0:
        progress(loss)
    _, first, *_, last = terminal.getvalue().split("\r")
    assert re.match(r"MAML +25%   meta-loss    3.000   0 s left +$", first)
    assert re.match(r"MAML +100%   meta-loss    2.000   0 s +\n$", last)


TINY = "--iterations", "2", "--unseen", "4"


@pytest.fixture
def small(monkeypatch):
    """Let the demo choose rates on few tasks, and navigate in few and short episodes."""
    monkeypatch.setattr(demo, "OTHERS", 6)
    monkeypatch.setattr(demo, "GOAL_RATES", (1, 2))
    monkeypatch.setattr(demo, "Navigation", partial(families.Navigation, steps=4, episodes=5))


@about_the_project
def test_demo_tells_the_story_of_the_sinusoids(capsys, small):
    options = "--iterations", "20", "--unseen", "30", "--seed", "5"
    printed = run_demo(capsys, *options)
    cells = {}
    for row in ("random initialisation", "joint training", "Reptile", "first-order MAML", "MAML",
                "Meta-SGD", "mean of all waves", "the true wave"):
        line = re.search(rf"^{row}((?: +(?:[\d.]+ ± [\d.]+|diverged)){{4}})$", printed, re.M)
        cells[row] = line.group(1).replace(" ± ", "±").split()
    maml_error, joint = (cells[row][1].split("±")[0] for row in ("MAML", "joint training"))
    words = " ".join(printed.split())
    assert f"MAML errs by {maml_error}, joint training on the same tasks by {joint}." in words
    assert cells["the true wave"] == ["0.00±0.00"] * 4
    assert printed.count("\n│") == 21 and "--tasks navigation" in printed
    assert max(map(len, printed.splitlines())) <= 80
    assert run_demo(capsys, *options) == printed  # same seed, same figures


@about_the_project
@pytest.mark.parametrize("mode, words, times", (
    ("--paper", "^MAML, Table 2 +0.67 +0.38 +0.35$", 1), ("--best", "^five learned steps .*±", 2),
    ("--tasks characters", "^nearest by pixels .*±", 2),
    ("--tasks navigation", "^oracle, knows the goal( +-[0-9.]+ ± [0-9.]+){4}$", 1)))
def test_demo_runs_in_every_mode(capsys, small, mode, words, times):
    printed = run_demo(capsys, *mode.split(), *TINY)
    assert len(re.findall(words, printed, re.M)) == times
    assert max(map(len, printed.splitlines())) <= 80


@about_the_project
def test_demo_starts_each_mode_as_it_says(capsys, monkeypatch, small):
    runs = []  # the arguments of each training, none of which learns anything
    monkeypatch.setattr(demo, "meta_train", lambda *given: runs.append((*given[1:6], given[7])))
    run_demo(capsys, "--paper", "--unseen", "2")
    assert 0.019 < abs(runs[-1][0]).max() <= 0.02 and runs[-1][5] is None  # nothing is clipped
    run_demo(capsys, "--best", *TINY)
    (one, _, scattered, *how), (five, _, equal, *hows) = ((*run[:5],) for run in runs[-2:])
    assert how == [1, 12] and abs(scattered.std() - 0.01) < 1e-3 and one.dtype == np.float32
    assert hows == [5, 2] and equal.shape == (5, len(five)) and set(equal.flat) == {0.01}
    assert five.dtype == np.float64 and runs[-1][5] == 10
    printed = run_demo(capsys, "--tasks", "navigation", "--unseen", "20")
    model, theta = MLP((2, 40, 40, 2), "tanh", "policy"), runs[-1][0]
    goals = demo.Navigation().draw(np.random.default_rng([0, 3]), demo.OTHERS // 2)
    found = [demo.returns(model, goals, theta, alpha)[-1].mean() for alpha in demo.GOAL_RATES]
    best = demo.GOAL_RATES[np.argmax(found)]
    assert f"random initialisation {best}, joint" in " ".join(printed.split())
    start, knows = (float(re.search(rf"^{row} +(\S+)", printed, re.M).group(1))
                    for row in ("random initialisation", "oracle, knows the goal"))
    assert knows > start
    last_weights = model.unpack(theta)[-1][0]
    assert abs(last_weights.std() * 40**0.5 - 0.1) < 0.02  # a tenth of the usual


@about_the_project
def test_demo_says_where_all_diverges(capsys, small):
    printed = run_demo(capsys, *TINY, "--inner-rate", "1e25")
    for name in "first-order MAML", "MAML", "Meta-SGD":
        assert re.search(rf"^{name} \* .* diverged +diverged$", printed, re.M)
        assert f"* {name} diverged, try a lower --inner-rate or --outer-rate" in printed
    assert "nan" not in printed and "In words" not in printed


@about_the_project
def test_demo_settings_are_those_of_the_mode_changed_by_the_options():
    assert vars(demo.settings([])) == dict(
        mode="sinusoids", shots=10, inner_steps=1, inner_rate=0.01, outer_rate=3e-3, meta_batch=25,
        iterations=12000, unseen=600, seed=0, plot=None)
    line = "--paper --inner-rate 0.01 --shots 5 --unseen 9 --seed 4 --outer-rate 1e-4".split()
    paper = demo.settings(line)
    assert (paper.inner_rate, paper.shots, paper.unseen, paper.seed) == (0.01, 5, 9, 4)
    assert (paper.outer_rate, paper.iterations) == (1e-4, 70000)
    assert demo.settings(["--quick"]).iterations == 1200
    assert demo.settings("--quick --tasks navigation".split()).iterations == 60


@about_the_project
@pytest.mark.parametrize("line, words", (
    ("--iterations 0", "--iterations: expected a whole number >= 1, got '0'"),
    ("--seed -1", "--seed: expected a whole number >= 0, got '-1'"), ("--shots none", "got 'none'"),
    ("--inner-rate 0", "--inner-rate: expected a number > 0"), ("--outer-rate inf", "got 'inf'"),
    ("--iterations 9 --quick", "not allowed with"), ("--paper --best", "not allowed with"),
    ("--plot a.jpg", "--plot: expected a .png, .svg or .pdf file, got 'a.jpg'"),
    ("--tasks cars", "--tasks"), ("--iter 9", "--iter"), ("--save x.npz", "--save"),
    ("--best --shots 5", "--shots has no meaning for best")))
def test_demo_refuses_bad_options_in_one_line(capsys, line, words):
    with pytest.raises(SystemExit) as caught:
        demo.main(line.split())
    printed = capsys.readouterr()
    assert caught.value.code == 2 and words in printed.err.splitlines()[-1] and not printed.out


@about_the_project
def test_demo_says_how_to_get_matplotlib_where_it_is_not(capsys, monkeypatch):
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        demo.main(["--plot", "a.png"])
    assert "--plot: needs matplotlib: python -m pip install matplotlib" in capsys.readouterr().err


@about_the_project
@pytest.mark.parametrize("mode, ends", (
    ("--tasks sinusoids", ("svg", "png", "pdf")), ("--tasks characters", ("svg",)),
    ("--tasks navigation", ("svg",))))
def test_demo_plots_in_every_domain_where_matplotlib_is(capsys, small, tmp_path, mode, ends):
    pytest.importorskip("matplotlib")
    for end in ends:
        demo.main([*mode.split(), *TINY, "--plot", str(tmp_path / f"a.{end}")])
        assert (tmp_path / f"a.{end}").stat().st_size > 5000
        assert b"<dc:date>" not in (tmp_path / f"a.{end}").read_bytes()  # the same bytes each time
    assert demo.picture_file(str(tmp_path / "new.svg")) and not (tmp_path / "new.svg").exists()
    with pytest.raises(SystemExit):
        demo.main(["--plot", str(tmp_path / "no" / "a.svg")])
    assert "cannot write" in capsys.readouterr().err


@about_the_project
def test_demo_as_a_command_ends_quietly_with_its_reader_and_writes_utf_8_anywhere():
    line = [sys.executable, demo.__file__, "--tasks", "navigation", *TINY]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONWARNINGS": "error"}
    done = subprocess.run(line, capture_output=True, env=environment)
    assert done.returncode == 0 and not done.stderr and "●" in done.stdout.decode("utf-8")
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        running.stdout.readline()
        running.stdout.close()
        assert not running.stderr.read()


# --------------------------------------------------------------------------------------- the grader

BODIES = {  # what a student derives, in the grader's order: its equations, and what to know
    "relu": ("(7)", "σ′(0) is 0 here. None stands for σ″, which is 0 everywhere. All are of z's "
             "precision: a float32 z gives a float32 slope. z may be complex."),
    "tanh": ("(7)", "All three are of z's precision. z may be complex."),
    "mse": ("(8) (8R)", "Return L, δ and the function R{f} -> R{δ}, all of f's precision. f may be "
            "complex: squares are plain products, not |.|²."),
    "cross_entropy": ("(9) (9R)", "Return as mse does, all of f's precision. Logits may be ±1000, "
                      "or complex: subtract the largest .real."),
    "policy": ("(13) (13R)", "Return as mse does. ‖.‖² is a sum of plain products, as in mse."),
    "_forward": ("(7)", "Given: append_column(a, 1). M and x may have different leading axes."),
    "_backward": ("(10) (11)", "Given: transpose, times_transpose(a, B) = a Bᵀ, and "
                  "self._matrices(grad), views that fill grad. delta[l] and e[l] are δ_l and e_l; "
                  "e[0] may be None. grad has the leading axes of δ."),
    "hvp": ("(7R) (10R) (11R)", "Given: append_column(a, 0), transpose, times_transpose, "
            "self._matrices. H v has the leading axes `axes`, those of θ, x and v together. A "
            "curvature of None is 0. Derive it: complex steps do not count."),
    "adapt": ("(1)", "Given: rates, α_k of each step, (P,) or (1,). Return a new array, even if "
              "steps is 0, and change none in place."),
    "meta_gradient": ("(1) to (5)", "Given: rates, α_k of each step, (P,) or (1,); groups(tasks, "
                      "theta), the tasks in groups that may differ in size, so add up sums and "
                      "divide once; sum_shared(entries, alpha, dtype) for (5), where entries[k] is "
                      "the (P,) of step k. J is a number, not an array."),
    "reptile_gradient": ("(6)", "Given: groups, as in meta_gradient, and adapt, which returns (P,) "
                         "if steps is 0."),
    "step": ("(12)", "self.m, self.u and self.t are 0 at first. The next theta has theta's dtype, "
             "even if lr is an np.float64."),
}


def skeleton(source):
    """Return maml.py's source with the bodies to derive left out; docstrings and checks stay."""
    lines, functions = source.splitlines(), functions_of(ast.parse(source))
    for name in sorted(BODIES, key=lambda name: -functions[name].lineno):
        body = functions[name].body
        given = [i for i, line in enumerate(body) if isinstance(line, (ast.Expr, ast.Assign))
                 and re.search(r"""^['"]|(check_\w+|require)\(""", ast.unparse(line))]
        first = body[given[-1] + 1 if given else 0]
        indent = " " * first.col_offset
        words = textwrap.wrap(BODIES[name][1], 96 - len(indent))
        left = [f"{indent}# {line}" for line in words] + [indent + "raise NotImplementedError"]
        lines[first.lineno - 1:functions[name].end_lineno] = left
    return "\n".join(lines)


def cases(test):
    """Return the arguments of each run that pytest would make of a parametrized test."""
    marks = [m for m in getattr(test, "pytestmark", []) if m.name == "parametrize"]
    for values in itertools.product(*(m.args[1] for m in marks[::-1])):
        yield {m.args[0]: value for m, value in zip(marks[::-1], values)}


def judge(result):
    """Run the tests of BODY in this process; write what is wrong to a file, or nothing."""
    warnings.simplefilter("error")
    maml.np = ModuleType("numpy")   # whose empty arrays show what is not filled
    maml.np.__dict__.update(vars(np))
    maml.np.empty = lambda shape, dtype=float: np.full(shape, np.nan, dtype)
    message = ""
    try:
        for name in PROVES[BODY]:
            for arguments in cases(globals()[name]):
                globals()[name](**arguments)
    except BaseException as exception:  # whatever a student's code may raise
        message = explain(exception)
    Path(result).write_text(json.dumps(message), encoding="utf-8")


def explain(exception):
    """Return one line on an exception in or about the function under test."""
    if isinstance(exception, pytest.fail.Exception):
        return exception.msg
    if isinstance(exception, NotImplementedError):
        return "not written yet"
    frames, trace = [], exception.__traceback__
    while trace:
        frames.append((trace.tb_lineno, trace.tb_frame.f_locals))
        trace = trace.tb_next
    own = [line - FAR for line, _ in frames if line > FAR]
    where = next((f"{names['where']}: " for _, names in frames if "where" in names), "")
    if own:
        source = Path(GRADED).read_text(encoding="utf-8").splitlines()
        where += f"line {own[-1]}, {source[own[-1] - 1].strip()}: "
    elif frames:
        where += "what it returns cannot be used: "
    text = (str(exception).strip().splitlines() or ["it ends the program"])[0]
    if "read-only" in text:
        text += " (it was passed in, and may not be changed in place)"
    if re.search(rf"\b({'|'.join(FRAMEWORKS)})\b", text):
        text += " (only numpy and Python's own modules are at hand)"
    return f"{where}{type(exception).__name__}: {text}"


def mark(student, name, seconds):
    """Return what is wrong with one function of a student's module, or an empty string."""
    try:
        source = Path(student).read_text(encoding="utf-8")
        compile(source, student, "exec")
        if name not in functions_of(ast.parse(source)):
            return f"no function {name}: keep the names of the sheet"
    except (OSError, SyntaxError, ValueError) as error:
        return f"the file cannot be read: {type(error).__name__}: {error}"
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, __file__, "--judge", str(result)]
        environment = {**os.environ, "MAML": student, "MAML_BODY": name}
        quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        try:
            subprocess.run(command, env=environment, timeout=seconds, **quiet)
        except subprocess.TimeoutExpired:
            return f"not done after {seconds:g} s: an endless loop?"
        if not result.exists():
            return "the process ended before its tests did"
        return json.loads(result.read_text(encoding="utf-8"))


def grade(student, seconds):
    """Print a line for each body, and their sum; return name -> what is wrong with it."""
    messages = {}
    for name, (equations, _) in BODIES.items():
        start = time.monotonic()
        messages[name] = mark(student, name, seconds)
        verdict = "wrong" if messages[name] else "right"
        spent = time.monotonic() - start
        line = f"{name:17} {equations:17} {verdict} {spent:5.1f} s  {messages[name]}"
        print(line.rstrip(), flush=True)
    print(f"{sum(not message for message in messages.values())} of {len(messages)}")
    return messages


def as_gradescope(messages):
    """Return what Gradescope reads as results.json, a point for each body."""
    tests = [{"name": f"{name} {BODIES[name][0]}", "score": int(not message), "max_score": 1,
              "output": message or "right"} for name, message in messages.items()]
    return json.dumps({"tests": tests}, indent=1, ensure_ascii=False)


def print_table(marks):
    """Print a row for each student and a column for each body."""
    width = max(map(len, marks))
    print(f"\n{'':{width}}", *BODIES, " sum")
    for student, messages in marks.items():
        cells = [f"{int(not messages[name]):>{len(name)}}" for name in BODIES]
        print(f"{student:{width}}", *cells, f"{sum(not m for m in messages.values()):4}")


def main():
    parser = argparse.ArgumentParser(usage=__doc__.split("\n\n")[1].strip())
    choice = parser.add_mutually_exclusive_group(required=True)
    choice.add_argument("--skeleton", action="store_true", help="print the exercise sheet")
    choice.add_argument("--grade", nargs="+", metavar="FILE", help="modules to mark body by body")
    choice.add_argument("--judge", help=argparse.SUPPRESS)  # the process of one body
    parser.add_argument("--json", metavar="FILE", help="for Gradescope: where to write its results")
    parser.add_argument("--seconds", type=float, default=30, help="limit of a body (default: 30)")
    options = parser.parse_args()
    sys.stdout.reconfigure(encoding="utf-8")
    if options.judge:
        judge(options.judge)
    elif options.skeleton:
        print(skeleton((HERE / "maml.py").read_text(encoding="utf-8")))
    else:
        sys.exit(mark_all(options, parser))


def mark_all(options, parser):
    """Mark the files; return the exit status, 0 if all of them are right."""
    several = len(options.grade) > 1
    if options.json and several:
        parser.error("--json takes the marks of one file")
    marks = {}
    for student in options.grade:
        if several:
            print(f"\n{student}")
        marks[student] = grade(student, options.seconds)
    if several:
        print_table(marks)
    if options.json:
        Path(options.json).write_text(as_gradescope(marks[options.grade[0]]), encoding="utf-8")
    return any(any(messages.values()) for messages in marks.values())


def source_with(name, body):
    """Return maml.py's source with the body of one function replaced."""
    tree = ast.parse((HERE / "maml.py").read_text(encoding="utf-8"))
    functions_of(tree)[name].body = ast.parse(body).body
    return ast.unparse(tree)


@about_the_project
@pytest.mark.parametrize("name, body, words", (
    ("tanh", "raise NotImplementedError", "not written yet"),
    ("tanh", "import os; os._exit(0)", "the process ended before its tests did"),
    ("tanh", "import sys; sys.exit()", "SystemExit: it ends the program"),
    ("tanh", "while True: print(z)", "not done after 1 s: an endless loop?"),
    ("tanh", "import torch", "only numpy and Python's own modules are at hand"),
    ("tanh", "pass", "what it returns cannot be used: TypeError"),
    ("hvp", "return self.linearize(theta + 1e-30j * v, x, y)[1].imag / 1e-30", NOT_DERIVED),
    ("adapt", "theta -= alpha\nreturn theta", "theta -= alpha: ValueError: output array is read"),
    ("adapt", "for rate in check_inner(model, theta, alpha, steps)[1]:\n"
     "    theta = theta - rate * model.linearize(theta, x, y)[1]\nreturn theta", "was passed in"),
    ("_backward", "n = delta_last.shape[-2]\nreturn nothing(n)", ": NameError: name 'nothing'")))
def test_a_wrong_body_costs_its_own_point_and_is_told_why(tmp_path, name, body, words):
    student = tmp_path / "student.py"
    student.write_text(source_with(name, body), encoding="utf-8")
    assert words in mark(str(student), name, 1 if "while" in body else 30)
    if "exit" in body:
        assert mark(str(student), "relu", 30) == ""


@about_the_project
def test_a_student_may_add_functions_methods_and_imports_of_their_own(tmp_path):
    source = source_with("tanh", "return curved(np.tanh(z))")
    source = source.replace("import math\n", "import math as m\n")
    source += "\n\ndef curved(a):\n    return a, 1 - a * a, -2 * a * (1 - a * a) * m.cos(0)\n"
    student = tmp_path / "student.py"
    student.write_text(source, encoding="utf-8")
    assert mark(str(student), "tanh", 30) == ""
    student.write_text(source.replace("def relu", "def rectify"), encoding="utf-8")
    assert mark(str(student), "relu", 30) == "no function relu: keep the names of the sheet"


@about_the_project
def test_marks_are_printed_summed_and_written_for_gradescope(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(sys.modules[__name__], "mark", lambda file, name, seconds:
                        "off by one" if name == "hvp" and file == "a.py" else "")
    out = tmp_path / "results.json"
    for arguments, status in (
            (["a.py", "--json", str(out)], 1), (["b.py"], 0), (["a.py", "b.py"], 1)):
        monkeypatch.setattr(sys, "argv", ["test_maml.py", "--grade", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        assert caught.value.code == status
    printed = capsys.readouterr().out
    assert re.search(r"^hvp +\(7R\) \(10R\) \(11R\) +wrong +0.0 s  off by one$", printed, re.M)
    assert printed.splitlines()[12] == "11 of 12"
    assert re.search(r"^b.py( +1){12} +12$", printed, re.M)
    results = json.loads(out.read_text(encoding="utf-8"))["tests"]
    assert sum(test["score"] for test in results) == 11 and len(results) == 12
    assert {test["output"] for test in results} == {"right", "off by one"}


@about_the_project
def test_the_sheet_keeps_all_but_the_bodies_to_derive():
    source = (HERE / "maml.py").read_text(encoding="utf-8")
    sheet, whole = functions_of(ast.parse(skeleton(source))), functions_of(ast.parse(source))
    assert whole.keys() - sheet.keys() == {"R_delta"}  # part of a body to derive
    for name, left in sheet.items():
        full = whole[name]
        assert ast.dump(left.args) == ast.dump(full.args)
        assert ast.get_docstring(left) == ast.get_docstring(full)
        if name in BODIES:
            kept = [ast.dump(line) for line in left.body[:-1]]
            assert ast.unparse(left.body[-1]) == "raise NotImplementedError"
            assert kept == [ast.dump(line) for line in full.body[:len(kept)]] and len(kept) < 6
        elif name != "linearize":
            assert ast.dump(left) == ast.dump(full)


if __name__ == "__main__":
    main()
