"""Proof that maml.py computes its equations, and tests of what stands around it.

    python -m pytest                                  check everything
    MAML=other.py python -m pytest test_maml.py       check another module with maml.py's names

The proof is a chain: losses against values worked by hand, the forward pass against loops over
single numbers, the gradient against the loss, the Hessian-vector product against the gradient, the
meta-gradient against the meta-objective. So nothing vouches for itself. It has an oracle from
outside too, docs/vectors.json, made by JAX. The tests follow maml.py, and their names begin with
their equations where they have any.

Derivatives are complex steps: f(x + ihd) = f(x) + ih f′(x)d + O(h²), so the imaginary part over h
is the derivative along d. Nothing cancels, so h can be 1e-30, and both sides agree to rounding.
"""
import importlib.util
import json
import math
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from functools import partial
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")   # before NumPy is loaded, as demo.py has it
import numpy as np
import pytest

HERE = Path(__file__).resolve().parent
OTHER = os.environ.get("MAML")   # another module to check, in place of maml.py


def load(path):
    """Import a file as the module maml."""
    spec = importlib.util.spec_from_file_location("maml", path)
    sys.modules["maml"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


if OTHER:
    load(OTHER)
import maml
from maml import MLP, adapt, meta_gradient, meta_train, reptile_gradient

if not OTHER:
    import demo
    import tasks as families

pytestmark = pytest.mark.filterwarnings("error")


def of_the_project(test):
    """Leave out a test that is not about another module's equations."""
    return None if OTHER else test


# ------------------------------------------------------------------------------ found and expected

TOLERANCE, STEP = 1e-12, 1e-30   # the largest error, and h of the complex step


class Wrong(AssertionError):
    """What was found is not what was expected; course/mistakes.py explains it by the case."""

    def __init__(self, what, found, expected, case):
        self.what, self.found, self.expected, self.case = what, found, expected, case
        got, shape = (None if found is None else np.shape(found)), np.shape(expected)
        off = f"expected shape {shape}, got {got}"
        if got == shape:
            off = f"off by {error(found, expected):.0e} of the largest value expected"
        super().__init__(f"{what}{case.get('where', '')}: {off}")


def check(what, found, expected, /, **case):
    """Raise Wrong unless found equals expected to rounding."""
    same = found is not None and np.shape(found) == np.shape(expected)
    if not (same and error(found, expected) < TOLERANCE):
        raise Wrong(what, found, expected, case)


def error(found, expected):
    """Return the largest deviation, relative to the largest value expected."""
    return np.max(np.abs(found - expected)) / (np.max(np.abs(expected)) or 1)


def check_derivative(what, along, f, at, /, **case):
    """Check along(d), the derivative of f at `at` along d, for two random directions d."""
    for d in np.random.default_rng(1).standard_normal((2, *np.shape(at))):
        expected = np.imag(f(at + 1j * STEP * d)) / STEP
        check(what, along(d), expected, direction=d, **case)


def needed(name):
    """Return a function of maml.py that is no public name: another module may be without it."""
    return getattr(maml, name, None) or pytest.skip(f"the module has no function {name}")


# ----------------------------------------------------------------------------------------- problems
# The numbers of tasks, examples and units differ, so that to confuse two of them shows.

DEEP, LINEAR = (2, 6, 5, 3), (2, 3)
ONE_OUTPUT = (1, 6, 5, 1)   # as the README's network
NETWORKS = [(DEEP, "tanh"), (DEEP, "relu"), (ONE_OUTPUT, "tanh"), (ONE_OUTPUT, "relu"),
            (LINEAR, "relu")]
MODELS = [(sizes, activation, loss) for sizes, activation in NETWORKS
          for loss in ("mse", "cross_entropy", "policy")
          if loss != "cross_entropy" or sizes[-1] > 1]
SMALL = (2, 6, 3), "tanh", "mse"
every_model = pytest.mark.parametrize(
    "spec", MODELS, ids=lambda spec: "-".join(map(str, spec[0])) + f" {spec[1]} {spec[2]}")
every_K = pytest.mark.parametrize("K", (3, 1, 5, 0), ids="K={}".format)   # K = 1 hides mistakes


def problem(spec, n_tasks=4):
    """Return a model, parameters away from 0, tasks of 8 support and 7 query examples, and an rng.

    Everything is locked: who writes to it, as by theta -= ..., gets an error at that line.
    """
    model, rng = MLP(*spec), np.random.default_rng(7)
    theta = model.init(rng) + 0.1 * rng.standard_normal(model.n_params)
    (d_in, *_, d_out), _, loss = spec
    tasks = []
    for n in 8, 7:
        y = rng.standard_normal((n_tasks, n, d_out + (loss == "policy")))
        y[..., d_out:] *= 0.3   # of "policy": advantages below 0 drive θ_k away, so small ones
        labels = rng.integers(0, d_out, (n_tasks, n))
        tasks += [rng.standard_normal((n_tasks, n, d_in)), labels if loss == "cross_entropy" else y]
    lock(theta, *tasks)
    return model, theta, tasks, rng


def lock(*arrays):
    for a in arrays:
        a.setflags(write=False)


def alphas(rng, K, P):
    """Return every form that alpha may take; with K > 2 the last row of the third is reused."""
    forms = [rng.uniform(0.05, 0.15, shape) for shape in ((K or 1, P), P, (min(K, 2) or 1, 1))]
    lock(*forms)
    return forms + [0.1]


def by_step(alpha, K):
    """Return the rates of K steps, one row each."""
    rows = np.atleast_2d(alpha)
    return [rows[min(k, len(rows) - 1)] for k in range(K)]


def objective(model, theta, tasks, alpha, K):
    """Equation (2): adapt, then evaluate."""
    return model.loss(adapt(model, theta, *tasks[:2], alpha, K), *tasks[2:]).mean()


# ---------------------------------------------------------------------------- the proof: (1) to (6)

ABOUT, *VECTORS = json.loads((HERE / "docs" / "vectors.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: f"{v['activation']} {v['loss']}")
def test_01_to_05_equal_what_jax_computes(vector):
    """docs/vectors.json comes from automatic differentiation, by docs/vectors.py."""
    model = MLP(vector["sizes"], vector["activation"], vector["loss"])
    theta, alpha = np.array(vector["theta"]), np.array(vector["alpha"])
    tasks = [np.array(vector[name]) for name in ("x_support", "y_support", "x_query", "y_query")]
    gradient = partial(meta_gradient, model, theta, tasks, alpha, len(alpha))
    case = dict(model=model, theta=theta, tasks=tasks, alpha=alpha, K=len(alpha))
    J, grad_theta, grad_alpha = gradient(wrt_alpha=True)
    check("∂J/∂θ", grad_theta, vector["grad_theta"], **case)
    check("J", J, vector["J"], **case)
    check("∂J/∂α", grad_alpha, vector["grad_alpha"], **case)
    check("∂J/∂θ of first order", gradient(first_order=True)[1], vector["first_order"], **case)


def test_01_to_06_worked_by_hand():
    """One task, one input, no hidden layer, θ = (w, b) = (1, 0), α = 1/2, one step unless told.

    Support x = 1, y = 3; query x = 2, y = 7.
    Support: error w + b − 3 = −2, L = 4, g = 2(−2)(1, 1) = (−4, −4), H = 2 (1 1; 1 1).   (7) (11)
    Adapted: θ_1 = (1, 0) + (4, 4)/2 = (3, 2).                                          (1)
    Query:   error 2·3 + 2 − 7 = 1, J = 1, v_1 = 2·1·(2, 1) = (4, 2).                   (2)
    Back:    H (v_1/2) = 2 (1 1; 1 1) (2, 1) = (6, 6), v_0 = (4, 2) − (6, 6).             (3) (4)
    Rate:    −g ∘ v_1 = (16, 8); for a single α shared by both, 24.                       (5)
    Reptile: θ − θ_1 = (−2, −2).                                                        (6)
    """
    model, theta = MLP((1, 1)), np.array([1.0, 0.0])
    tasks = [np.reshape(float(number), (1, 1, 1)) for number in (1, 3, 2, 7)]
    gradient = partial(meta_gradient, model, theta, tasks)
    for what, found, expected in (
            ("θ_1", adapt(model, theta, *tasks[:2], 0.5), [[3, 2]]), ("J", gradient(0.5)[0], 1),
            ("∂J/∂θ", gradient(0.5)[1], [-2, -4]), ("∂J/∂α", gradient(0.5, wrt_alpha=True)[2], 24),
            ("∂J/∂α", gradient(np.full(2, 0.5), wrt_alpha=True)[2], [16, 8]),
            ("∂J/∂θ of first order", gradient(0.5, first_order=True)[1], [4, 2]),
            ("J of Reptile", reptile_gradient(model, theta, tasks, 0.5)[0], 1),
            ("Reptile's direction", reptile_gradient(model, theta, tasks, 0.5)[1], [-2, -2])):
        assert np.array_equal(found, expected), f"{what} worked by hand: expected {expected}"


@every_K
def test_01_adapt_takes_K_gradient_steps(K):
    """θ may be shared or one for each task, real or complex; it is left as it is."""
    model, theta, (x, y, _, _), rng = problem(SMALL)
    each = theta + 0.1 * rng.standard_normal((4, model.n_params))
    for start in theta, each, (1 + 0.1j) * theta, (1 + 0.1j) * each:
        lock(start)
        for alpha in alphas(rng, K, model.n_params):
            expected = start
            for alpha_k in by_step(alpha, K):
                expected = expected - alpha_k * model.linearize(expected, x, y)[1]
            found = adapt(model, start, x, y, alpha, K)
            where = f" for K = {K}, alpha {np.shape(alpha)}, theta {start.shape} {start.dtype}"
            check("θ_K", found, expected, where=where, model=model, theta=start, x=x, y=y,
                  alpha=alpha, K=K)
            assert not np.shares_memory(found, start), "θ_K is the array that was passed in"


@every_K
@every_model
def test_02_to_05_meta_gradient_is_the_derivative_of_the_meta_objective(spec, K):
    """J itself holds for complex θ and α."""
    model, theta, tasks, rng = problem(spec)
    for alpha in alphas(rng, K, model.n_params):
        J, grad_theta, grad_alpha = meta_gradient(model, theta, tasks, alpha, K, wrt_alpha=True)
        case = dict(where=f" for K = {K}, alpha {np.shape(alpha)}", model=model, theta=theta,
                    tasks=tasks, alpha=alpha, K=K)
        check_derivative("∂J/∂θ", grad_theta.dot, lambda t: objective(model, t, tasks, alpha, K),
                         theta, whole=grad_theta, **case)
        check("J", J, objective(model, theta, tasks, alpha, K), **case)
        check_derivative("∂J/∂α", lambda d: (grad_alpha * d).sum(),
                         lambda a: objective(model, theta, tasks, a, K), alpha,
                         whole=grad_alpha, **case)
        check_derivative("J of complex θ", grad_theta.dot,
                         lambda t: meta_gradient(model, t, tasks, alpha, K)[0], theta, **case)
        check_derivative("J of complex α", lambda d: (grad_alpha * d).sum(),
                         lambda a: meta_gradient(model, theta, tasks, a, K, wrt_alpha=True)[0],
                         alpha, **case)


def test_02_to_06_J_is_a_python_float_and_no_gradient_is_returned_unasked():
    model, theta, tasks, _ = problem(SMALL)
    for gradient in meta_gradient, reptile_gradient:
        J, _, *more = gradient(model, theta.astype(np.float32), tasks, 0.1)
        assert type(J) is float and more in ([], [None]), gradient.__name__


@pytest.mark.parametrize("K", (1, 3, 5))
def test_04_05_meta_gradient_by_finite_differences(K):
    """The familiar second opinion, in real arithmetic: (J(θ + hd) − J(θ − hd)) / 2h."""
    model, theta, tasks, rng = problem((DEEP, "tanh", "cross_entropy"))
    alpha, h = rng.uniform(0.05, 0.15, (K, model.n_params)), 1e-5
    _, grad_theta, grad_alpha = meta_gradient(model, theta, tasks, alpha, K, wrt_alpha=True)
    J = partial(objective, model, tasks=tasks, K=K)
    for _ in range(5):
        d, e = rng.standard_normal(theta.shape), rng.standard_normal(alpha.shape)
        by_theta = (J(theta + h * d, alpha=alpha) - J(theta - h * d, alpha=alpha)) / (2 * h)
        by_alpha = (J(theta, alpha=alpha + h * e) - J(theta, alpha=alpha - h * e)) / (2 * h)
        assert abs(grad_theta @ d - by_theta) < 1e-6 * abs(by_theta), "∂J/∂θ along d"
        assert abs((grad_alpha * e).sum() - by_alpha) < 1e-6 * abs(by_alpha), "∂J/∂α along e"


def test_03_05_first_order_is_the_mean_gradient_at_theta_K():
    model, theta, tasks, _ = problem(SMALL)
    end = adapt(model, theta, *tasks[:2], 0.1, 3)
    gradient = partial(meta_gradient, first_order=True, wrt_alpha=True)
    _, grad_theta, grad_alpha = gradient(model, theta, tasks, 0.1, 3)
    v_K = model.linearize(end, *tasks[2:])[1]
    case = dict(model=model, theta=theta, tasks=tasks, alpha=0.1, K=3)
    check("∂J/∂θ of first order", grad_theta, v_K.mean(0), **case)
    g_sum = (theta - end) / 0.1   # over the steps
    check("∂J/∂α of first order", grad_alpha, -(g_sum * v_K).sum(-1).mean(0), **case)


def test_03_05_wide_layers_are_multiplied_in_other_ways():
    """Wide enough for times_transpose to transpose its first factor."""
    model, theta, tasks, rng = problem(((3, 160, 160, 2), "tanh", "mse"))
    alpha = rng.uniform(0.05, 0.15, (2, model.n_params))
    d, *e = rng.standard_normal((3, model.n_params))
    _, grad_theta, grad_alpha = meta_gradient(model, theta, tasks, alpha, 2, wrt_alpha=True)
    J = objective(model, theta + 1j * STEP * d, tasks, alpha + 1j * STEP * np.array(e), 2)
    check("dJ along a direction", grad_theta @ d + (grad_alpha * e).sum(), J.imag / STEP)


def test_02_to_06_groups_hold_each_task_once():
    tasks = [np.arange(5.0) + 10 * i for i in range(4)]
    for P, sizes in (8, [5]), (2**17, [2, 2, 1]), (2**20, [1] * 5):
        parts = needed("groups")(tasks, np.zeros(P))
        assert [len(x_support) for x_support, *_ in parts] == sizes, f"groups for P = {P}"
        assert all(np.array_equal(np.concatenate([part[i] for part in parts]), tasks[i])
                   for i in range(4)), "groups"


@pytest.mark.parametrize("name", ("meta_gradient", "reptile_gradient"))
def test_02_to_06_groups_of_tasks_give_what_all_tasks_give_at_once(name):
    """Five tasks in groups of 2, 2 and 1: what is added up are sums, not means."""
    groups = needed("groups")
    model, theta, tasks, _ = problem(SMALL, n_tasks=5)
    options = {"wrt_alpha": True} if name == "meta_gradient" else {}
    gradient = lambda tasks: getattr(maml, name)(model, theta, tasks, 0.1, 3, **options)
    parts = [[a[i:i + 2] for a in tasks] for i in (0, 2, 4)]
    whole, each = gradient(tasks), [gradient(part) for part in parts]
    maml.groups = lambda tasks, theta: parts
    try:
        found = gradient(tasks)
    finally:
        maml.groups = groups
    for what, one, right, *means in zip(("J", "the direction", "∂J/∂α"), found, whole, *each):
        check(f"{what} by groups of tasks", one, right, means=means)


@every_K
def test_06_reptile_is_the_mean_way_to_theta_K(K):
    model, theta, tasks, rng = problem(SMALL)
    for start in theta, theta + 0.1j * rng.standard_normal(theta.shape):
        J, direction = reptile_gradient(model, start, tasks, 0.1, K)
        ends = [adapt(model, start, x, y, 0.1, K) for x, y in zip(*tasks[:2])]
        case = dict(where=f" for K = {K}, theta {start.dtype}", model=model, theta=start,
                    tasks=tasks, alpha=0.1, K=K)
        scale = np.max(abs(start))   # (6) is exact to θ's rounding, so this is added to both sides
        check("Reptile's direction", direction + scale, start - np.mean(ends, axis=0) + scale,
              scale=scale, **case)
        check("J of Reptile", J, objective(model, start, tasks, 0.1, K), **case)


# ----------------------------------------------------------------- the proof: the loss, (7) to (9)

def check_loss(name, f, y):
    """Check that δ is the derivative of L, and R{δ} that of δ; also in float32 and locked."""
    lock(f, y)
    function = needed(name)
    _, delta, delta_along = function(f, y)
    check_derivative(f"δ of {name}", lambda d: (delta * d).sum((-2, -1)),
                     lambda f: function(f, y)[0], f, whole=delta, name=name, f=f, y=y)

    def along(d):
        lock(d)
        return delta_along(d)

    check_derivative(f"R{{δ}} of {name}", along, lambda f: function(f, y)[1], f, name=name, f=f,
                     y=y)
    y = y if y.dtype.kind == "i" else y.astype(np.float32)
    loss, delta, delta_along = function(f.astype(np.float32), y)
    for what, a in ("L", loss), ("δ", delta), ("R{δ}", delta_along(f.astype(np.float32))):
        assert a.dtype == np.float32, f"{what} of {name}: expected float32 as f is, got {a.dtype}"


def test_07_mse():
    """By hand, two tasks of four examples: the squared errors add up to 36 and 72, L is 3 and 6."""
    off = np.array([[[1.0, 0, -2], [3, 0, 2], [1, 1, 2], [2, 2, 2]],
                    [[6, 0, 0], [0, 0, -6], [0, 0, 0], [0, 0, 0]]])
    y = np.arange(24.0).reshape(2, 4, 3)
    loss = needed("mse")(y + off, y)[0]
    check("L of mse", loss, [3, 6], name="mse", f=y + off, y=y)
    for d_out in 3, 1:
        check_loss("mse", *np.random.default_rng(0).standard_normal((2, 4, 5, d_out)))


def test_08_cross_entropy():
    """By hand: p of three examples is (1/4, 3/4), (2/3, 1/3) and (1/5, 4/5), that of the label
    1/4, 2/3 and 4/5, so L = (ln 4 + ln 3/2 + ln 5/4) / 3 = ln(7.5) / 3.

    Logits can be extreme: those of two examples here have the softmax (1, 0, 0) and (0, ½, ½).
    """
    function, rng = needed("cross_entropy"), np.random.default_rng(0)
    f, y = np.log([[1, 3], [2, 1], [1, 4.0]]), np.array([0, 0, 1])
    check("L of cross_entropy", function(f, y)[0], math.log(7.5) / 3, name="cross_entropy", f=f,
          y=y)
    check_loss("cross_entropy", rng.standard_normal((4, 5, 3)), rng.integers(0, 3, (4, 5)))
    extreme = np.array([[1e3, -1e3, 0.0], [-3e3, -1e3, -1e3]])
    with np.errstate(all="ignore"):
        loss, delta, delta_along = function(extreme, np.array([1, 1]))
        R_delta = delta_along(np.eye(3)[[1, 1]])
    where = " for logits of ±1000, where exp overflows"
    check("L", loss, (2e3 + math.log(2)) / 2, where=where)
    check("δ", delta, [[0.5, -0.5, 0], [0, -0.25, 0.25]], where=where)
    check("R{δ}", R_delta, [[0, 0, 0], [0, 0.125, -0.125]], where=where)


def test_09_policy():
    """By hand: ‖f − action‖² is 5, 4, 3, 6, the advantages 3, −1, 2, 4; L = (15 − 4 + 6 + 24) / 8.
    """
    off = np.array([[1.0, 2, 0], [0, 2, 0], [1, 1, 1], [2, 1, 1]])
    action, advantage = np.arange(12.0).reshape(4, 3), np.array([[3.0], [-1], [2], [4]])
    y = np.hstack([action, advantage])
    check("L of policy", needed("policy")(action + off, y)[0], 41 / 8, name="policy",
          f=action + off, y=y)
    rng = np.random.default_rng(0)
    for d_out in 2, 1:
        f, y = rng.standard_normal((4, 5, d_out)), rng.standard_normal((4, 5, d_out + 1))
        check_loss("policy", f, y)


# ------------------------------------------------------------- the proof: the model, (10) to (12R)

def check_activation(name, z, expected):
    """Check σ, σ′ and σ″ at z, and that σ′ and σ″ are derivatives; None stands for a σ″ of 0."""
    lock(z)
    sigma = needed(name)
    found = list(sigma(z))
    found[2] = 0 * z if found[2] is None else found[2]
    for part, what in enumerate(("σ(z)", "σ′(z)", "σ″(z)")):
        check(f"{what} of {name}", found[part], expected[part], name=name, z=z)
    smooth = z[z != 0]   # relu has no derivative at 0
    _, slope, curvature = (a[z != 0] for a in found)
    check_derivative(f"σ′(z) of {name}", lambda d: slope * d, lambda z: sigma(z)[0], smooth,
                     name=name, z=smooth)
    check_derivative(f"σ″(z) of {name}", lambda d: curvature * d, lambda z: sigma(z)[1], smooth,
                     name=name, z=smooth)
    for a in sigma(z.astype(np.float32)):
        assert a is None or a.dtype == np.float32, f"{name}: of a float32 z got {a.dtype}"


def test_10_relu_and_its_derivatives():
    """σ′(0) is 0 here."""
    z = np.array([-1000.0, -2.0, -1e-9, 0.0, 1e-9, 2.0, 1000.0])
    check_activation("relu", z, (z * (z > 0), 1.0 * (z > 0), 0 * z))


def test_10_tanh_and_its_derivatives():
    """By hand at z = atanh ½: σ = ½, σ′ = 1 − ½² = ¾, σ″ = −2 · ½ · ¾."""
    a = np.array([-1, -0.5, 0, 0.25, 0.5, 1])
    z = np.array([-1000, -math.atanh(0.5), 0, math.atanh(0.25), math.atanh(0.5), 1000])
    check_activation("tanh", z, (a, 1 - a**2, -2 * a * (1 - a**2)))


def test_10_theta_holds_weights_then_bias_layer_by_layer_and_unpack_gives_views():
    model = MLP((1, 2, 1))
    theta = np.arange(7.0)
    (W0, b0), (W1, b1) = model.unpack(theta)
    for part, expected in (W0, [[0, 1]]), (b0, [[2, 3]]), (W1, [[4], [5]]), (b1, [[6]]):
        assert np.array_equal(part, expected) and np.shares_memory(part, theta), "unpack"
    assert model.n_params == 7 and model.predict(list(theta), [[1.0]]) == 4 * 2 + 5 * 4 + 6, "f"
    shapes = [W.shape for W, _ in model.unpack(np.zeros((8, 7)))]
    assert shapes == [(8, 1, 2), (8, 2, 1)], "unpack of (8, P)"


@every_model
def test_10_forward_pass_equals_loops_over_single_numbers(spec):
    model, theta, (x, y, _, _), _ = problem(spec)
    activation = {"relu": lambda z: max(z, 0.0), "tanh": math.tanh}[spec[1]]
    layers, outputs = model.unpack(theta), []
    for example in x.reshape(-1, x.shape[-1]):
        a = list(example)
        for l, (W, b) in enumerate(layers):
            z = [sum(a[i] * W[i, j] for i in range(len(a))) + b[0, j] for j in range(W.shape[1])]
            a = z if l == len(layers) - 1 else [activation(number) for number in z]
        outputs.append(a)
    check("f", model.predict(theta, x), np.reshape(outputs, (*x.shape[:-1], -1)), spec=spec,
          model=model, theta=theta, x=x, y=y)


@every_model
def test_11_12_gradient_is_the_derivative_of_the_loss(spec):
    model, theta, (x, y, _, _), rng = problem(spec)
    loss, grad, _ = model.linearize(theta, x, y)
    check("L of linearize", loss, model.loss(theta, x, y))
    check_derivative("g", lambda d: (grad * d).sum(-1), lambda t: model.loss(t, x, y),
                     np.tile(theta, (4, 1)), whole=grad, spec=spec, model=model, theta=theta, x=x,
                     y=y)


@every_model
def test_10R_to_12R_hvp_is_the_derivative_of_the_gradient(spec):
    model, theta, (x, y, _, _), rng = problem(spec)
    hvp = model.linearize(theta, x, y)[2]

    def along(r):
        lock(r)
        return hvp(r)

    case = dict(spec=spec, model=model, theta=theta, x=x, y=y)
    check_derivative("H r", along, lambda t: model.linearize(t, x, y)[1], np.tile(theta, (4, 1)),
                     **case)
    u, r = rng.standard_normal((2, 4, model.n_params))
    check("H r of complex r", hvp(u + 1j * r), hvp(u) + 1j * hvp(r), **case)


@every_model
def test_10_to_12R_leading_axes_broadcast(spec):
    """Parameters and data, each shared or one for each task, give what one task at a time gives."""
    model, theta, (x, y, _, _), rng = problem(spec)
    many = theta + 0.1 * rng.standard_normal((4, model.n_params))
    r = rng.standard_normal((4, model.n_params))
    check("L with one more axis", model.loss(many[:, None], x[None], y[None]),
          [model.loss(t, x, y) for t in many])
    for t, data in (many, (x, y)), (theta, (x, y)), (many, (x[0], y[0])), (theta, (x[0], y[0])):
        where = f" for theta {t.shape} and x {data[0].shape}"
        loss, grad, hvp = model.linearize(t, *data)
        for i in range(4):
            own = data if data[0].ndim == 2 else (x[i], y[i])
            single = model.linearize(t[i] if t is many else t, *own)
            pick = (lambda a: a[i]) if np.ndim(loss) else (lambda a: a)
            check("L", pick(loss), single[0], where=where)
            check("g", pick(grad), single[1], where=where)
            check("H r", hvp(r)[i], single[2](r[i]), where=where + f", r {r.shape}")
            check("H r", pick(hvp(r[0])), single[2](r[0]), where=where + f", r {r[0].shape}")


@pytest.mark.parametrize("activation", ("tanh", "relu"))
@pytest.mark.parametrize("loss", ("mse", "cross_entropy", "policy"))
def test_theta_decides_the_precision(activation, loss):
    model, theta, tasks, rng = problem((DEEP, activation, loss))
    exact = meta_gradient(model, theta, tasks, 0.1, 3, wrt_alpha=True)
    theta, alpha = theta.astype(np.float32), np.float64(0.1)
    L, grad, hvp = model.linearize(theta, *tasks[:2])
    _, grad_theta, grad_alpha = meta_gradient(model, theta, tasks, alpha, 3, wrt_alpha=True)
    _, direction = reptile_gradient(model, theta, tasks, alpha)
    for what, a in (("f", model.predict(theta, tasks[0])), ("L", L), ("g", grad),
                    ("H r", hvp(grad)), ("θ_1", adapt(model, theta, *tasks[:2], alpha)),
                    ("∂J/∂θ", grad_theta), ("∂J/∂α", grad_alpha),
                    ("Reptile's direction", direction)):
        assert a.dtype == np.float32, f"{what} at a float32 θ: expected float32, got {a.dtype}"
    assert error(grad_theta, exact[1]) < 1e-5, "∂J/∂θ in float32"
    assert error(grad_alpha, exact[2]) < 1e-5, "∂J/∂α in float32"
    no_steps = meta_gradient(model, theta, tasks, alpha, 0, wrt_alpha=True)[2]
    assert no_steps.dtype == np.float32, "∂J/∂α at K = 0"
    assert all(model.init(rng, dtype=kind).dtype == kind for kind in (np.float32, float)), "init"


@pytest.mark.parametrize("std", (None, 0.01, 0))
@pytest.mark.parametrize("activation, gain", (("relu", 2), ("tanh", 1)))
def test_init_scales_the_weights_and_leaves_the_biases_at_0(activation, gain, std):
    model = MLP((50, 400, 300), activation)
    for W, b in model.unpack(model.init(np.random.default_rng(0), std)):
        right = np.sqrt(gain / len(W)) if std is None else std
        assert abs(np.std(W) - right) <= np.std(W) / 50 and not b.any(), "init"


# ------------------------------------------------------------------------ the proof: the outer loop

def adam_path(grads, lr, beta1, beta2, eps):
    """Return θ after each gradient, from θ = 0, with m and u of (13) written out as sums."""
    theta, path = 0, []
    for t in range(1, len(grads) + 1):
        age = np.arange(t)[::-1, None]
        m = ((1 - beta1) * beta1**age * grads[:t]).sum(0) / (1 - beta1**t)
        u = ((1 - beta2) * beta2**age * grads[:t]**2).sum(0) / (1 - beta2**t)
        theta = theta - lr * m / (np.sqrt(u) + eps)
        path.append(theta)
    return np.array(path)


@pytest.mark.parametrize("settings", ((0.9, 0.999, 1e-8), (0.5, 0.25, 0.125)), ids=str)
def test_13_adam(settings):
    grads = np.random.default_rng(2).standard_normal((4, 5))
    grads *= [1, 1e-2, 1e-4, 1e-8, 10]   # where ε counts and where not
    theta, adam, path = np.zeros(5), maml.Adam(*settings), []
    for grad in grads:
        lock(theta, grad)
        theta = adam.step(theta, grad, 0.01)
        path.append(theta)
    expected = adam_path(grads, 0.01, *settings)
    for t in range(4):
        check(f"θ after step {t + 1} of Adam", path[t], expected[t], t=t, path=path, grads=grads,
              lr=0.01, settings=settings)


def test_13_adam_has_the_defaults_it_names_and_keeps_the_precision():
    theta, adam = np.zeros((1, 1)), maml.Adam()
    for grad in np.array([[[1.0]], [[3.0]]]):
        theta = adam.step(theta, grad)
    path = adam_path(np.array([[1.0], [3.0]]), 1e-3, 0.9, 0.999, 1e-8)
    check("θ after two steps with what holds unless told", theta[0], path[-1])
    kind = maml.Adam().step(np.ones(2, np.float32), np.ones(2), np.float64(0.1)).dtype
    assert kind == np.float32, f"of a float32 θ with lr an np.float64 expected float32, got {kind}"


def test_13_meta_train_clips_the_global_norm_decays_the_rate_and_reports():
    """Norms √(3² + 0² + 4²) = 5 and 1, clip = 2: the first shrinks by 2/5, the second stays."""
    given = iter([(9.0, np.array([3.0, 0.0]), np.array(4.0)),
                  (8.0, np.array([0.48, 0.64]), np.array(0.6))])
    seen, asked, rates, batches = [], [], [0.5, 0.25], iter("ab")

    def gradient(*args):
        asked.append(args)
        return next(given)

    learned = meta_train(MLP((1, 1)), np.zeros(2), lambda: next(batches), 0.1, steps=3,
                         iterations=2, lr=rates.__getitem__, clip=2, gradient=gradient,
                         callback=lambda *args: seen.append(args))
    theta, alpha, for_theta, for_alpha = np.zeros(2), np.array(0.1), maml.Adam(), maml.Adam()
    for G, grad_alpha, rate in zip([(1.2, 0), (0.48, 0.64)], [1.6, 0.6], rates):
        theta = for_theta.step(theta, np.array(G), rate)
        alpha = for_alpha.step(alpha, np.array(grad_alpha), rate)
    check("the learned θ", learned[0], theta)
    check("the learned α", learned[1], alpha)
    _, theta, batch, alpha, K = asked[1]
    assert (batch, K) == ("b", 3) and theta is seen[0][2] and alpha is seen[0][3]
    assert [(i, J) for i, J, _, _ in seen] == [(0, 9.0), (1, 8.0)]
    assert seen[1][2] is learned[0] and seen[1][3] is learned[1]


def test_the_global_norm_is_taken_in_float64():
    a = np.full(3, 0.1, np.float32)
    check("the norm", needed("global_norm")(a, None), math.sqrt(3) * float(a[0]))


def test_meta_train_has_the_defaults_it_names_and_learns_alpha_only_if_told():
    model, theta, tasks, _ = problem(SMALL)
    steps = []

    def gradient(model, theta, tasks, alpha, K):
        steps.append(K)
        return 1.0, theta

    meta_train(model, [1.0, 2.0], lambda: None, 0.1, gradient=gradient)
    assert steps == [1] * 1000
    for gradient, learns in ((meta_gradient, False), (reptile_gradient, False),
                             (partial(meta_gradient, wrt_alpha=True), True)):
        found, alpha = meta_train(model, theta, lambda: tasks, 0.1, 1, 2, 1e-3, 0.5, gradient)
        assert (alpha != 0.1) == learns and not np.array_equal(found, theta)
    for mine in meta_train(model, theta, lambda: tasks, alpha=theta, iterations=0):
        assert np.array_equal(mine, theta) and not np.shares_memory(mine, theta)


@pytest.mark.parametrize("answer, updates", ((True, 2), (np.True_, 2), (None, 5), (1, 5)))
def test_a_callback_that_returns_true_ends_the_training(answer, updates):
    model, theta, tasks, _ = problem(SMALL)
    made = []

    def callback(i, J, theta, alpha):
        made.append(theta)
        return answer if i == 1 else False

    learned, _ = meta_train(model, theta, lambda: tasks, 0.1, iterations=5, callback=callback)
    assert len(made) == updates and learned is made[-1]


def test_cosine_decay():
    rates = [maml.cosine_decay(3.0, 12)(i) for i in (0, 4, 6, 12, 18)]
    assert np.allclose(rates, [3, 2.25, 1.5, 0, 0], rtol=0, atol=1e-15)
    assert maml.cosine_decay(3.0, 1)(0) == 3


@pytest.mark.parametrize("loss, size, clip, dtype, fine", (
    (1, 1, None, "f", True), (1, 0, 10, "f", True), (1, 1e21, 10, "f", True),
    (1, 1e200, 10, "d", True), (1, 1e-30, 10, "f", True), (math.nan, 1, 10, "f", False),
    (1, math.nan, 10, "f", False), (1, math.inf, 10, "f", False), (1, 1e21, None, "f", False),
    (1, 1e200, None, "d", False)))
def test_training_stops_at_what_is_not_finite_or_cannot_be_squared(loss, size, clip, dtype, fine):
    train = partial(meta_train, MLP((1, 1)), np.zeros(2, dtype), lambda: None, 0.1, 1, 1, clip=clip,
                    gradient=lambda *_: (loss, np.full(2, size, dtype)))
    if fine:
        with np.errstate(all="raise"):   # a square that underflows is no divergence
            moved = train()[0]
        assert np.allclose(moved, -1e-3 * (size > 1e-9), rtol=1e-6, atol=1e-20)
        return
    words = "^iteration 0: meta-loss .*; lower alpha or lr"
    with pytest.raises(FloatingPointError, match=words) as caught:
        train()
    assert ("clip the outer gradient" in str(caught.value)) == (clip is None)


def test_training_names_what_is_not_finite_and_says_without_warnings_that_it_diverges():
    model, theta, tasks, _ = problem(((2, 6, 3), "relu", "mse"))
    with pytest.raises(FloatingPointError, match="iteration 0: meta-loss (nan|inf).*, or clip"):
        meta_train(model, theta, lambda: tasks, 1e200, steps=3)
    for i, name in enumerate(("x_support", "y_support", "x_query", "y_query")):
        spoilt = [a * np.nan if i == j else a for j, a in enumerate(tasks)]
        with pytest.raises(ValueError, match=f"^{name} of iteration 0: expected finite .* nan"):
            meta_train(model, theta, lambda: spoilt, 0.1)
    with pytest.raises(ValueError, match="^theta: expected one vector .* finite .* nan"):
        meta_train(model, theta * np.nan, lambda: tasks, 0.1)


def test_training_of_a_classifier_that_is_sure_is_no_floating_point_error():
    model, theta, tasks, _ = problem((LINEAR, "relu", "cross_entropy"))
    with np.errstate(all="raise"):   # exp(−1000) underflows
        meta_train(model, 1e3 * theta, lambda: tasks, 0.1, iterations=1)


# -------------------------------------------------------------------------- a model of one's own

class Own:
    """A model whose answers are those of an MLP, changed by a function (loss, grad, hvp) -> any."""

    def __init__(self, model, change):
        self.model, self.change = model, change

    def linearize(self, theta, x, y):
        return self.change(*self.model.linearize(theta, x, y))


@pytest.mark.parametrize("spec", MODELS[:6], ids=str)
def test_check_model_tells_right_from_wrong(spec):
    """The first error is that of the gradient, the second that of H r."""
    model, theta, (x, y, _, _), _ = problem(spec)
    check_model = needed("check_model")
    assert max(check_model(model, theta, x, y)) < 1e-6
    assert max(check_model(model, np.tile(theta, (4, 1)), x, y)) < 1e-6
    assert max(check_model(model, theta, x[0], y[0])) < 1e-6
    doubled = Own(model, lambda loss, grad, hvp: (loss, grad, lambda r: 2 * hvp(r)))
    shifted = Own(model, lambda loss, grad, hvp: (loss, grad + 1, hvp))
    mixed = Own(model, lambda loss, grad, hvp: (loss, grad, lambda r: hvp(r[::-1])))
    assert [round(e, 6) for e in check_model(doubled, theta, x, y)] == [0, 1]
    assert [e > 0.1 for e in check_model(shifted, theta, x, y)] == [True, False]
    assert [e > 0.1 for e in check_model(mixed, theta, x, y)] == [False, True]


@of_the_project
def test_a_model_made_before_the_module_is_loaded_again_works_on():
    """As when a notebook reloads an edited module; the if lets the code be indented."""
    code = """if True:
        import importlib, maml, numpy as np
        model, rng = maml.MLP((2, 9, 3), loss="cross_entropy"), np.random.default_rng
        theta = model.init(rng(0))
        importlib.reload(maml)
        assert np.array_equal(model.init(rng(0)), theta)
        print(model.loss(theta, np.ones((4, 2)), np.ones(4, int)))
        model.loss(theta, np.ones((4, 2)), np.ones(4))
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=HERE, capture_output=True, text=True)
    assert float(done.stdout) > 0 and "ValueError: y: expected integer labels" in done.stderr


# ---------------------------------------------------------------------------------------- bad input
# One case for each thing that can be wrong: how the message begins, and a call that gets it.
# R regresses, C classifies; `of` is R's meta-gradient, `train` its training, T its θ.

R, C = partial(MLP, (2, 3, 1)), partial(MLP, (2, 3), loss="cross_entropy")
RNG, T, X, Y = np.random.default_rng(0), np.zeros(13), np.zeros((4, 5, 2)), np.zeros((4, 5, 1))
LABELS, SETS = np.zeros((4, 5), int), [X, Y, X, Y]
of, train = partial(meta_gradient, R(), T), partial(meta_train, R(), T, lambda: SETS, 0.1)
MASKED = np.ma.masked_less(X, 1)


def used(shape=()):
    """Return an Adam that has taken a step of that shape."""
    adam = maml.Adam()
    adam.step(np.zeros(shape), np.zeros(shape))
    return adam


BAD = r"""
sizes: expected two or more positive integers, got \(3,\) | MLP((3,))
sizes: .*, got \(1, 2.0\) | MLP((1, 2.0))
sizes: expected two or more outputs for cross_entropy, got | MLP((3, 1), loss="cross_entropy")
activation: expected relu or tanh, got \['relu'\] | MLP((1, 1), ["relu"])
std: expected a finite number >= 0 or None, got -1 | R().init(RNG, -1)
dtype: expected float32 or float64, got 'int64' | R().init(RNG, dtype="int64")
theta: expected float32 or float64 of shape \(..., 13\), got .* \(12,\) | R().unpack(T[1:])
theta: .*, got int64 | R().predict(np.zeros(13, "int64"), X)
r: expected float32 or float64 of shape \(..., 13\), got .* \(\) | R().linearize(T, X, Y)[2](1.0)
x: expected real numbers of shape \(..., n, 2\), no axis empty, got | R().predict(T, X[0, 0])
x: .*, got .* \(5, 3\) | R().predict(T, np.zeros((5, 3)))
x: .*, got .* \(0, 2\) | R().predict(T, X[0, :0])
x: .*, got <U1 | R().predict(T, np.full((5, 2), "a"))
x: expected an array without a mask, got a list | R().predict(T, list(MASKED))
y: expected real numbers of shape \(5, 1\), as x has it, got | R().loss(T, X[0], np.zeros(5))
y: .*, got complex128 | R().loss(T, X, Y + 1j)
y: expected real numbers of shape \(4, 5, 2\) | MLP((2, 1), loss="policy").loss(np.zeros(3), X, Y)
y: expected integer labels 0 to 2 of .* from 3 to 3$ | C().loss(np.zeros(9), X, LABELS + 3)
y: expected integer labels .* -1 to -1$ | C().loss(np.zeros(9), X, LABELS - 1)
y: expected integer labels .* got float64 | C().loss(np.zeros(9), X, Y[..., 0])
y: expected integer labels .* \(4, 1, 5\) | C().loss(np.zeros(9), X, LABELS[:, None])
theta: expected float32 or float64 of shape \(..., P\) | adapt(R(), 0.0, X, Y, 0.1)
theta: .*, got float16 | adapt(R(), T.astype("float16"), X, Y, 0.1, 0)
theta: .*, got float64 of shape \(0,\) | meta_gradient(R(), T[:0], SETS, 0.1)
theta: expected one vector \(P,\) | meta_gradient(R(), np.zeros((4, 13)), SETS, 0.1)
steps: .*, got -1 | of(SETS, 0.1, -1)
steps: .*, got True | reptile_gradient(R(), T, SETS, 0.1, True)
alpha: expected a finite number or .* \(13,\), \(steps, 13\) or | adapt(R(), T, X, Y, np.ones(12))
alpha: .* \(2, 3\) | of(SETS, np.ones((2, 3)), 2)
alpha: .* \(0, 1\) | of(SETS, np.ones((0, 1)))
alpha: .* 1e\+300$ | adapt(R(), T.astype("float32"), X, Y, 1e300)
alpha: .* nan to nan | adapt(R(), T, X, Y, math.nan)
alpha: .*, got <U3 | adapt(R(), T, X, Y, "0.1")
alpha: expected an array without a mask | adapt(R(), T, X, Y, [np.ma.masked_less(T, 1)], 1)
alpha: expected no more rows than steps, 2, got | of(SETS, np.ones((13, 1)), 2)
alpha: .* than steps, 1, got .* \(4, 13\) | reptile_gradient(R(), T, SETS, np.ones((4, 13)))
first_order: expected True or False, got 'False' | of(SETS, 0.1, first_order="False")
wrt_alpha: expected True or False, got 1 | of(SETS, 0.1, wrt_alpha=1)
x_support: expected shape .* at least 1 | of([a[:0] for a in SETS], 0.1)
x_query: expected shape \(tasks, n, d\) | of([X, Y, X[:, 0], Y], 0.1)
y_query: expected shape | of([X, Y, X, Y[:, 0, 0]], 0.1)
y_query: .* as many tasks as x_support, .*1, 5, 1 | of([X, Y, X, Y[:1]], 0.1)
model.linearize: expected to return loss, gradient and hvp | through(lambda L, g, h: (L, g))
model.linearize: .*, got None | adapt(returns(lambda L, g, h: None), T, X, Y, 0.1)
loss of model.linearize: expected an array \(4,\) | through(lambda L, g, h: (L.mean(), g, h))
gradient of .*: expected an array \(4, 13\), .* \(13,\) | through(lambda L, g, h: (L, g.mean(0), h))
gradient of .* \(4, 1\) | adapt(returns(lambda L, g, h: (L, g[:, :1], h)), T, X, Y, 0.1)
gradient of model.linearize: .*, got a list | through(lambda L, g, h: (L, g.tolist(), h))
hvp of model.linearize: expected a function, got None | through(lambda L, g, h: (L, g, None))
hvp of .*: expected to return an array \(4, 13\), as r is, got .* \(13,\) | through(summed)
hvp of .* \(1, 4, 13\) | through(lambda L, g, h: (L, g, lambda r: h(r)[None]))
theta: .* finite real numbers, got complex128 | meta_train(R(), T + 0j, lambda: SETS, 0.1)
alpha: expected real numbers, got | meta_train(R(), T, lambda: SETS, 0.1j)
iterations: expected a whole number >= 0, got -1 | train(iterations=-1)
lr: expected a finite number >= 0, or a function to one, got -1 | train(lr=-1)
clip: expected a number > 0 or None, got 0 | train(clip=0)
gradient: expected to return J, ∂J/∂θ and.*, got None | train(gradient=lambda *_: None)
gradient: expected to return J, .*, got \(1.0,\) | train(gradient=lambda *_: (1.0,))
gradient: expected to return J, .*, got \(1.0, None\) | train(gradient=lambda *_: (1.0, None))
grad: expected .* shape \(\), got .* \(13,\) | train(gradient=lambda *_: (1.0, T, T))
gradient: expected to return J, .*, got {'J': 1.0} | train(gradient=lambda *_: {"J": 1.0})
iterations: expected a whole number >= 1, got 0 | maml.cosine_decay(0.1, 0)
lr: expected a finite number >= 0, got -1 | maml.cosine_decay(-1, 3)
beta1: expected a number from 0 to below 1, got -0.1 | maml.Adam(beta1=-0.1)
beta2: .*, got 1 | maml.Adam(beta2=1)
eps: expected a finite number >= 0, got -1 | maml.Adam(eps=-1)
theta: expected float32 or float64, got int64 | maml.Adam().step([1], [0.5])
theta: expected the shape \(13,\) of this Adam's m and u, got | used(13).step(T[1:], T[1:])
grad: expected real numbers of theta's shape \(13,\) | maml.Adam().step(T, np.zeros(12))
grad: .*, got complex128 | maml.Adam().step(T, T + 1j)
lr: expected a finite number >= 0, got nan | maml.Adam().step(T, T, math.nan)
"""


def returns(change):
    """Return the MLP of the table, its answers changed."""
    return Own(R(), change)


def through(change, gradient=meta_gradient):
    """Call an outer gradient with the MLP of the table, its answers changed."""
    return gradient(returns(change), T, SETS, 0.1)


def summed(loss, grad, hvp):
    return loss, grad, lambda r: hvp(r).sum(0)


@of_the_project
@pytest.mark.parametrize("case", BAD.strip().splitlines())
def test_bad_input_is_refused_in_one_line(case):
    message, call = case.split(" | ")
    with pytest.raises(ValueError, match="^" + message) as caught:
        eval(call)
    assert "\n" not in str(caught.value)


@of_the_project
def test_a_step_that_is_refused_leaves_adam_as_it_was():
    adam = used(13)
    before = adam.m, adam.u
    for bad in (T, T, -1.0), (T, T[1:], 0.1), (T[1:], T[1:], 0.1), (T, 1j * T, 0.1):
        with pytest.raises(ValueError):
            adam.step(*bad)
    assert adam.t == 1 and adam.m is before[0] and adam.u is before[1]


# ------------------------------------------------------------------------------------------- README

@of_the_project
def test_the_readme_quotes_meta_gradient_as_it_stands():
    page = (HERE / "README.md").read_text(encoding="utf-8")
    quote = page.split("```python\n")[1].split("```")[0]
    assert textwrap.indent(quote, 8 * " ") in (HERE / "maml.py").read_text(encoding="utf-8")


# -------------------------------------------------------------------------------------------- tasks

@of_the_project
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
    assert waves(np.zeros((6, 1))).shape == (4000, 6, 1)


@of_the_project
def test_sinusoid_varies_frequency_and_adds_noise():
    family = families.Sinusoid(shots=50, queries=50, frequency=(0.8, 1.2), noise=0.3)
    rng = np.random.default_rng(3)
    waves = family.draw(rng, 400)
    tasks = family.observe(rng, waves)
    assert 0.8 <= waves.frequency.min() < 0.81 and 1.19 < waves.frequency.max() <= 1.2
    A, phase, frequency = (field[9, 0, 0] for field in waves)
    check("the wave", waves(tasks.x_support)[9], A * np.sin(frequency * tasks.x_support[9] - phase))
    assert all(abs(np.std(y - waves(x)) - 0.3) < 0.01 for x, y in (tasks[:2], tasks[2:]))


def numbered(*counts):
    """Return classes whose example i of class c is (c, i)."""
    return [np.stack([np.full(n, c), np.arange(n)], -1) for c, n in enumerate(counts)]


@of_the_project
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
        for c, n in enumerate(counts):   # 3 of 5 classes a task, a third of them for each label
            share = [np.mean((part[..., 0] == c)[labels == label]) for label in range(3)]
            assert np.allclose(share, 1 / 5, atol=0.02)
            seen = np.bincount(part[part[..., 0] == c][:, 1], minlength=n)
            assert len(seen) == n and np.allclose(seen / seen.sum(), 1 / n, atol=0.02)


@of_the_project
def test_pool_gives_all_examples_in_either_set():
    tasks = families.FewShot(numbered(20, 20), 2, 1, 2).sample(np.random.default_rng(0), 3)
    x, y, *again = families.pool(tasks)
    assert np.array_equal(x, np.concatenate((tasks.x_support, tasks.x_query), 1))
    assert np.array_equal(y, np.concatenate((tasks.y_support, tasks.y_query), 1))
    assert again[0] is x and again[1] is y


@of_the_project
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


@of_the_project
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
    distance = np.linalg.norm(way[1:] - goals, axis=-1)   # after each move
    assert np.allclose(episodes.rewards, -distance[:, None], rtol=0, atol=1e-7)
    assert np.allclose(episodes.returns(), -distance.sum(-1), rtol=0, atol=1e-6)
    noisy = families.Navigation(deviation=0.3).roll_out(rng, lambda x: 0 * x, goals[:100])
    assert noisy.actions.shape == (100, 20, 20, 2) and abs(noisy.actions.std() - 0.3) < 0.01


@of_the_project
def test_advantages_are_rewards_to_go_less_their_mean_over_episodes_in_units_of_their_deviation():
    """To go: 6, 5, 3 and 0, 0, 0. Less the mean: ±3, ±2.5, ±1.5, of deviation √(35/6) = 2.4152."""
    actions, rewards = np.arange(12.0).reshape(1, 2, 3, 2), np.array([[[1.0, 2, 3], [0, 0, 0]]])
    x, y = families.Episodes(actions + 50, actions, rewards).examples()
    assert np.array_equal(x, np.arange(50.0, 62).reshape(1, 6, 2))
    assert np.array_equal(y[..., :2], x - 50)
    half = np.array([3, 2.5, 1.5]) / np.sqrt((9 + 6.25 + 2.25) / 3)
    check("advantages", y[0, :, 2], np.concatenate([half, -half]))
    for dtype in float, np.float32:   # episodes that are alike, up to rounding of the mean
        alike = np.full((1, 11, 30, 2), 0.1, dtype)
        assert not families.Episodes(alike, alike, alike[..., 0]).examples()[1][..., 2].any()
    lost = families.Episodes(actions, actions, rewards * np.nan).examples()[1][..., 2]
    assert np.isnan(lost).all(), "what is lost does not look like what is alike"


@of_the_project
def test_rollout_gradient_is_the_meta_gradient_of_the_episodes_it_rolls_out():
    model, world = MLP((2, 3, 2), "tanh", "policy"), families.Navigation(steps=3, episodes=4)
    theta = model.init(np.random.default_rng(2))
    tasks, again = (world.sample(np.random.default_rng(3), 2) for _ in range(2))
    J, grad_theta, grad_alpha = families.rollout_gradient(
        model, theta, tasks, 0.5, 2, wrt_alpha=True)
    support = again(partial(model.predict, theta)).examples()
    query = again(partial(model.predict, adapt(model, theta, *support, 0.5, 2)))
    _, right, right_alpha = meta_gradient(
        model, theta, [*support, *query.examples()], 0.5, 2, wrt_alpha=True)
    check("∂J/∂θ", grad_theta, right)
    check("∂J/∂α", grad_alpha, right_alpha)
    assert J == -query.returns().mean()
    one, same = (families.rollout_gradient(model, theta, world.sample(
        np.random.default_rng(3), 2), 0.5, *steps)[1] for steps in ((), (1,)))
    assert np.array_equal(one, same), "one inner step is the default"


CLASSES = [np.zeros((16, 2))] * 4
WAVES, GOALS = np.zeros((3, 1, 1)), np.zeros((3, 1, 2))
BAD_TASKS = r"""
shots: expected a whole number >= 1, got 0 | Sinusoid(shots=0)
amplitude: expected a pair of finite numbers low <= high, got | Sinusoid(amplitude=(5, 1))
phase: .*, got 1.0 | Sinusoid(phase=1.0)
x_range: .*, got \(0, inf\) | Sinusoid(x_range=(0, math.inf))
noise: expected a finite number >= 0, got -1 | Sinusoid(noise=-1)
rng: expected a numpy.random.Generator, got 1 | Sinusoid().sample(1, 4)
x: expected an array .*, got .* \(5,\) | Waves(WAVES, WAVES, WAVES)(np.zeros(5))
phase: expected an array \(tasks, n, 1\), .*, got .* \(3,\) | Waves(WAVES, WAVES[:, 0, 0], WAVES)(Y)
ways: expected a whole number >= 2, got 1 | FewShot(CLASSES, 1)
shots: .*, got 0 | FewShot(CLASSES, 2, 0)
queries: .*, got 2.0 | FewShot(CLASSES, 2, 1, 2.0)
classes: expected at least ways, 5, of them, got 4 | FewShot(CLASSES)
classes: .*, one for each class, got a dict | FewShot(dict.fromkeys("abcde", X))
classes\[4\]: expected at least 16 examples | FewShot(CLASSES + [np.zeros((15, 2))])
classes\[4\]: .* \(examples, 2\), got | FewShot(CLASSES + [np.zeros((16, 3))])
classes\[4\]: .*, got <U | FewShot(CLASSES + [np.full((16, 2), "a")])
classes\[4\]: .* of finite numbers | FewShot(CLASSES + [CLASSES[0] * np.nan])
classes\[4\]: .* without a mask | FewShot(CLASSES + [list(np.ma.masked_less(CLASSES[0], 1))])
n_tasks: .*, got 0 | FewShot(CLASSES, 2).sample(RNG, 0)
n_classes: expected a whole number >= 1, got 0 | characters(RNG, 0)
n_examples: .*, got 0 | characters(RNG, 1, 0)
steps: expected a whole number >= 1, got 0 | Navigation(steps=0)
episodes: expected a whole number >= 2, got 1 | Navigation(episodes=1)
deviation: expected a finite number > 0, got 0 | Navigation(deviation=0)
n_tasks: expected a whole number >= 1, got 0 | Navigation().sample(RNG, 0)
goals: .* \(tasks, 1, 2\) | Navigation().roll_out(RNG, np.negative, np.zeros((3, 2)))
goals: .*, got float64 .* nan to nan | Navigation().roll_out(RNG, np.negative, GOALS * np.nan)
goals: expected finite numbers | Navigation().roll_out(RNG, GOALS, np.negative)
goals: .* without a mask | Navigation().roll_out(RNG, np.negative, [np.ma.masked_less(GOALS[0], 1)])
act: .* \(3, 20, 2\), got | Navigation().roll_out(RNG, lambda x: x[..., :1], GOALS)
"""


@of_the_project
@pytest.mark.parametrize("case", BAD_TASKS.strip().splitlines())
def test_bad_settings_of_tasks_are_refused_in_one_line(case):
    message, call = case.split(" | ")
    with pytest.raises(ValueError, match="^" + message) as caught:
        eval(call, {**globals(), **vars(families)})
    assert "\n" not in str(caught.value)


# ----------------------------------------------------------------------------------------- the demo

@pytest.fixture
def run(capsys, monkeypatch):
    """Run demo.py on few tasks and briefly, characters being noise; return what it prints."""
    monkeypatch.setattr(demo, "OTHERS", 6)
    monkeypatch.setattr(demo, "CTRL_C", [])
    noise = lambda rng, *shape: list(rng.random((*shape, 196), "f"))
    monkeypatch.setattr(demo, "characters", noise)
    monkeypatch.setattr(demo, "Navigation", partial(families.Navigation, steps=4, episodes=5))

    def printed(line):
        demo.main(["--unseen", "4", "--meta-batch", "4", *line.split()])
        return capsys.readouterr().out
    return printed


@of_the_project
@pytest.mark.parametrize("line, last, words, column", (
    ("sinusoids --iterations 20", "the true wave", r"after 1 step .* MAML errs by (\S+),", 1),
    ("characters --iterations 2 --shots 1 --seed 7", "nearest by pixels", r"right in (\S+) %,", 2),
    ("navigation --iterations 2", "oracle, knows the goal", r"takes MAML from (\S+) to", 0)))
def test_demo_compares_all_methods_in_each_domain_and_in_words(run, line, last, words, column):
    printed = run("--tasks " + line)
    rows = dict(re.findall(r"^(\w.*?) {2,}(.* ± [\d.]+)$", printed, re.M))
    names = ["random initialisation", "joint training", "first-order MAML", "MAML", "Meta-SGD"]
    assert [name for name in rows if name in names + [last]] == names + [last]
    said = re.search(words, " ".join(printed.split("In words")[-1].split())).group(1)
    shown = re.split(r" ± \S+ *", rows["MAML"])[column]
    assert abs(float(said) - float(shown)) <= 0.51 * 10**-len(said.partition(".")[2])
    assert max(map(len, printed.splitlines())) <= 80 and ("│" in printed or "after: " in printed)
    marks = re.findall(r"(\d) ([✓✗])", printed)
    assert all((mark == "✓") == (int(answer) == i % 5) for i, (answer, mark) in enumerate(marks))
    assert run("--tasks " + line) == printed              # the same seed
    assert "±" not in run("--tasks " + line + " --unseen 1")


@of_the_project
def test_demo_trains_each_method_by_its_own_gradient_on_the_same_tasks(run, monkeypatch):
    calls = []
    monkeypatch.setattr(demo, "meta_train", lambda *given: calls.append(given))
    run("--inner-steps 2 --inner-rate 0.02 --meta-batch 3 --outer-rate 0.1 --iterations 9")
    expected = ((meta_gradient, 0, True, {}), (reptile_gradient, 5, True, {}),
                (meta_gradient, 2, False, {"first_order": True}), (meta_gradient, 2, False, {}),
                (meta_gradient, 2, False, {"wrt_alpha": True}))
    tasks = families.Sinusoid().sample(np.random.default_rng([0, 1]), 3)
    for given, (right, steps, pooled, options) in zip(calls, expected):
        model, theta, sample, alpha, K, n, lr, clip, gradient, _ = given
        assert all(map(np.array_equal, sample(), tasks)) and K == steps
        assert (n, lr(0), lr(9), clip) == (9, 0.1, 0, 10)
        rates = np.full(theta.shape if "wrt_alpha" in options else (), 0.02)
        seen = families.pool(tasks) if pooled else tasks
        for found, value in zip(gradient(model, theta, tasks, alpha, K),
                                right(model, theta, seen, rates, K, **options)):
            assert np.array_equal(found, value)
    run("--tasks navigation")
    used = [(getattr(call[8], "func", call[8]), call[4]) for call in calls[5:]]
    assert used == [(families.rollout_gradient, steps) for steps in (0, 1, 1, 1)]


@of_the_project
def test_demo_table_and_the_choice_of_a_rate_worked_by_hand(capsys):
    """The interval of 1, 2, 3 is 1.96 √(2/3) / √3 = 0.924 wide to either side."""
    demo.compare(
        demo.Table("Errors", 3, (0, 1), limit=100),
        [demo.Method("fixed"), demo.Method("open", tuned=True)],
        learn=lambda method: (None, 7, "stopped"), rates=(1, 2, 3, 4),
        score=lambda theta, alpha: np.array([[1.0, 2, 3], [3, 3, {7: np.nan}.get(alpha, alpha)]]),
        loss=lambda theta, alpha: np.array([[0], [{2: np.nan, 3: 4}.get(alpha, 5)]]),
        known={"known": np.full(3, 2.0)})
    assert [line.split() for line in capsys.readouterr().out.splitlines()[4:9]] == [
        "fixed 2.00 ± 0.92 diverged".split(), "median (diverged) 2.00 (0) 3.00 (1)".split(),
        ["stopped"], "open 2.00 ± 0.92 3.00 ± 0.00".split(), ["stopped"]]


@of_the_project
@pytest.mark.parametrize("gap, words", ((0.1, "level with"), (9, "ahead of"), (-9, "behind")))
def test_demo_says_why_first_order_loses_nothing_where_it_does(run, monkeypatch, gap, words):
    maml = np.array([[-8.0, -9], [-3, -4], [-2, -3], [-1, -2]])
    scores = {"MAML": maml, "first-order MAML": maml + gap, "joint training": maml - 5}
    results = {name: demo.Result(np.zeros(1842), 1.0, found) for name, found in scores.items()}
    monkeypatch.setattr(demo, "compare", lambda *_, **__: results)
    printed = " ".join(run("--tasks navigation").split())
    assert f"is {words} MAML after one step and {words} it after three" in printed
    assert ("advantages" in printed) == (gap > 0)


@of_the_project
@pytest.mark.parametrize("name, call, note", (
    ("adapt", 6, []), ("pool", 2, ["  stopped after 2 of 3 iterations"])))
def test_demo_goes_on_at_ctrl_c_with_what_there_is(run, monkeypatch, name, call, note):
    """It comes while a rate is chosen, which changes nothing, and in the joint training."""
    full, function, calls = run("--iterations 3").splitlines(), getattr(demo, name), []

    def pressing(*given):
        calls.append(given)
        if len(calls) == call:
            demo.on_ctrl_c()
        return function(*given)

    monkeypatch.setattr(demo, name, pressing)
    printed = run("--iterations 3").splitlines()
    assert printed[6:7] + printed[8:8 + len(note)] == full[6:7] + note
    assert printed[8 + len(note):18] == full[8:18 - len(note)]
    assert note or printed == full


@of_the_project
@pytest.mark.parametrize("option, advice", (
    ("--inner-rate", "a lower inner or outer rate"), ("--outer-rate", "a lower outer rate")))
@pytest.mark.parametrize("kind", ("sinusoids", "characters"))
def test_demo_says_what_diverged(run, kind, option, advice):
    printed = run(f"--tasks {kind} --shots 1 --iterations 3 {option} 1e29")
    for name in ("MAML", "Meta-SGD") + ("joint training",) * (option == "--outer-rate"):
        words = rf"^{name} .* diverged\n  median .* \(4\)\n  diverged after \d of 3 iterations"
        assert re.search(words, printed, re.M)
    assert advice in printed and "nan" not in printed and "In words" not in printed


@of_the_project
@pytest.mark.parametrize("line, words", (
    ("--iterations 0", "--iterations: expected 1 to 1e30, got 0"), ("--seed -1", "got -1"),
    ("--inner-rate nan", "got nan"), ("--shots x", "--shots: invalid"), ("--iter 9", "--iter"),
    ("--tasks cars", "--tasks"), ("--iterations 9 --quick", "not allowed with"),
    ("--tasks navigation --shots 5", "--shots: has no meaning for navigation")))
def test_demo_refuses_bad_options_in_one_line(capsys, line, words):
    with pytest.raises(SystemExit) as caught:
        demo.main(line.split())
    printed = capsys.readouterr()
    assert caught.value.code == 2 and words in printed.err.splitlines()[-1] and not printed.out


@of_the_project
def test_demo_as_a_command_writes_utf_8_ends_quietly_and_leaves_at_a_second_ctrl_c():
    line = [sys.executable, demo.__file__, "--unseen", "4", "--iterations", "5000"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUNBUFFERED": ""}
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, encoding="utf-8")
    with subprocess.Popen(line, **pipes) as running:
        assert running.stdout.readline().startswith("sinusoids: ")
        running.stdout.close()                            # as `| head -1` does
        assert not running.stderr.read()
    with subprocess.Popen(line, **pipes) as running:
        next(row for row in running.stdout if re.match("random .* ± ", row))
        time.sleep(0.3)
        running.send_signal(signal.SIGINT)                # ends the joint training
        next(row for row in running.stdout if row.startswith("  stopped after"))
        for _ in range(2):
            running.send_signal(signal.SIGINT)
            time.sleep(0.1)
        assert not running.stderr.read()
    assert running.returncode == 130
    if os.path.exists("/dev/full"):
        with open("/dev/full", "w") as full:
            done = subprocess.run(line, **{**pipes, "stdout": full})
        assert done.returncode == 1 and done.stderr.count("\n") == 1
