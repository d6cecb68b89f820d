"""Every equation of maml.py checked against the one below it, then proof that these checks can fail.

    python -m pytest                                check maml.py
    MAML=student.py python -m pytest                grade another module with the same public names
    python test_maml.py --skeleton > student.py     print maml.py as an exercise: the bodies to derive are left out

The chain: the loss is worked by hand; the gradient is checked against the loss, the Hessian-vector product against the
gradient, the meta-gradient against the meta-objective. Each of these three is a complex step: F(θ + ihd) = F(θ)
+ ih F′(θ)d + O(h²), so the imaginary part over h is the derivative along d. Nothing is subtracted, so nothing cancels,
h can be 1e-30 and the two sides agree to rounding. The tests stand in the order of the derivation, model first: what
fails first is wrong first, and its message names the classic mistake that the result equals, or else what is off.
"""
import ast
import importlib.util
import io
import math
import os
import re
import subprocess
import sys
from functools import partial
from importlib.machinery import SourceFileLoader
from pathlib import Path

import numpy as np
import pytest

GRADED = os.environ.get("MAML", "maml.py")
HERE = Path(__file__).parent


def module_under_test():
    """Return the module GRADED, which tasks.py and demo.py then get as maml; say in one line if it cannot be used."""
    loader = SourceFileLoader("maml", GRADED if "MAML" in os.environ else str(HERE / "maml.py"))
    module = sys.modules["maml"] = importlib.util.module_from_spec(importlib.util.spec_from_loader("maml", loader))
    try:
        loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise pytest.Collector.CollectError(f"{GRADED} cannot be imported: {type(error).__name__}: {error}") from None
    names = ("MLP", "adapt", "meta_gradient", "reptile_gradient", "Adam", "cosine_decay", "meta_train",
             "require", "is_number", "is_whole", "as_array")  # the last four serve tasks.py
    missing = [name for name in names if not hasattr(module, name)]
    if missing:
        raise pytest.Collector.CollectError(f"{GRADED} lacks {', '.join(missing)}")
    return module


maml = module_under_test()
MLP, adapt, meta_gradient, meta_train = maml.MLP, maml.adapt, maml.meta_gradient, maml.meta_train
reptile_gradient = maml.reptile_gradient

import demo  # noqa: E402
import tasks as families  # noqa: E402

about_the_project = pytest.mark.skipif("MAML" in os.environ, reason="not about the module graded")
pytestmark = pytest.mark.filterwarnings("error")

TOLERANCE, STEP = 1e-12, 1e-30
MODELS = [(sizes, activation, loss) for sizes in ((3, 4), (3, 5, 4), (3, 5, 6, 4), (3, 5, 6, 5, 4))
          for activation in ("relu", "tanh") for loss in ("mse", "cross_entropy")]
every_model = pytest.mark.parametrize("spec", MODELS, ids=lambda s: "x".join(map(str, s[0])) + f" {s[1]} {s[2]}")
every_K = pytest.mark.parametrize("K", (3, 0, 1, 5), ids="K={}".format)
SMALL = (3, 5, 4), "tanh", "mse"


def problem(spec, n_tasks=3):
    """A model, parameters (biases too) away from 0, tasks with 5 support and 4 query examples, and a generator."""
    model, rng = MLP(*spec), np.random.default_rng(7)
    theta = model.init(rng) + 0.1 * rng.standard_normal(model.n_params)
    data, d_out = [], spec[0][-1]
    for n in 5, 4:
        labels, targets = rng.integers(0, d_out, (n_tasks, n)), rng.standard_normal((n_tasks, n, d_out))
        data += [rng.standard_normal((n_tasks, n, spec[0][0])), targets if spec[2] == "mse" else labels]
    return model, theta, families.Tasks(*data), rng


def alphas(rng, K, P):
    """Every form that alpha may take; with K > 2 the last row of the fourth is reused."""
    return [0.1, rng.uniform(0.05, 0.15, P), rng.uniform(0.05, 0.15, (max(K, 1), P)), rng.uniform(0.05, 0.15, (2, 1))]


def by_step(alpha, K, P):
    """alpha as a list of K vectors (P,)."""
    rows = np.atleast_2d(alpha)
    return [np.broadcast_to(rows[min(k, len(rows) - 1)], P) for k in range(K)]


def derivatives(f, at):
    """∂f/∂at[i] for every i, in at's shape: one complex step along each."""
    at, out = np.asarray(at, float), np.empty(np.shape(at))
    for i in np.ndindex(at.shape):
        d = np.zeros(at.shape)
        d[i] = STEP
        out[i] = np.imag(f(at + 1j * d)) / STEP
    return out


def objective(model, theta, tasks, alpha, K):
    """Equation (2), by adapting and evaluating."""
    return model.loss(adapt(model, theta, *tasks[:2], alpha, K), *tasks[2:]).mean()


def objective_gradient(model, theta, tasks, alpha, K):
    """∂J/∂θ (P,) by complex steps along all parameters at once: P copies of the tasks, each with its own θ."""
    P, n_tasks = len(theta), len(tasks[0])
    thetas = np.repeat(theta + 1j * STEP * np.eye(P), n_tasks, axis=0)
    copies = [np.concatenate([a] * P) for a in tasks]
    losses = model.loss(adapt(model, thetas, *copies[:2], alpha, K), *copies[2:])
    return losses.reshape(P, n_tasks).mean(-1).imag / STEP


# ------------------------------------------------------------------------------------------------ saying what is wrong

def error(found, expected):
    """Largest deviation, relative to the largest value expected."""
    return np.max(np.abs(found - expected)) / (np.max(np.abs(expected)) or 1)


def check(found, expected, model=None, gallery=dict):
    """Fail, with a message that says what is wrong, unless found equals expected to rounding."""
    if np.shape(found) != np.shape(expected):
        pytest.fail(f"expected shape {np.shape(expected)}, got {np.shape(found)}", pytrace=False)
    if not error(found, expected) < TOLERANCE:
        pytest.fail(f"relative error {error(found, expected):.1e}: {diagnose(found, expected, model, gallery)}", False)


def diagnose(found, expected, model, gallery):
    """Name the mistake in the gallery() that found equals, else its factor, else the parameters that are off."""
    for mistake, value in gallery().items():
        if error(found, value) < 1e-9:
            return f"equals {mistake}"
    if error(found, expected) < 1e-6:
        return "nearly right: a finite difference, a float32 or an epsilon in between?"
    factor = np.sum(found * expected) / (np.sum(expected * expected) or 1)
    if np.size(expected) > 1 and error(found, factor * expected) < 1e-9:
        return f"{factor:.6g} times the expected value"
    if model is None or np.shape(found)[-1:] != (model.n_params,):
        return f"expected {np.ravel(expected)[:4]} ..., got {np.ravel(found)[:4]} ..."
    off = [f"layer {l} {name} by {error(f, e):.1e}" for l, pair in enumerate(zip(*map(model.unpack, (found, expected))))
           for name, f, e in zip(("weights", "bias"), *pair) if not error(f, e) < TOLERANCE]
    return f"off in {', '.join(off)}" + ("; right elsewhere" if len(off) < 2 * len(model.unpack(expected)) else "")


def multiples(value, **factors):
    """The gallery of a value that is off by a factor: the sign, or a sum over so many instead of a mean."""
    return {"minus the expected value": -value, "half the expected value: is the 2 of the square missing?": value / 2,
            **{f"{n} times the expected value: a sum over {of}, not a mean?": n * value for of, n in factors.items()}}


def hvp_without_curvature(Hv, model, theta, x, y, v):
    """H v without the σ″ term of (11R), for mse and one hidden layer of tanh."""
    (W0, b0), (W1, b1) = model.unpack(theta)
    (V0, c0), _ = model.unpack(v)
    a, Rz = np.tanh(x @ W0 + b0), x @ V0 + c0
    delta = 2 * (a @ W1 + b1 - y) / y[0].size
    term = delta @ W1.swapaxes(-1, -2) * -2 * a * (1 - a * a) * Rz
    Hv = Hv.copy()
    weights, bias = model.unpack(Hv)[0]
    weights -= x.swapaxes(-1, -2) @ term
    bias -= term.sum(-2, keepdims=True)
    return Hv


AT_0, AT_NEXT = "the Hessian always taken at θ_0", "the Hessian of step k taken at θ_{k+1}"
ORDER, CURVATURE = "the Hessians applied from the first step to the last", "no σ″ term in the Hessian-vector product"


def meta_gallery(model, theta, tasks, alpha, K):
    """What the classic mistakes make of the meta-gradient, found without meta_gradient, which may be wrong."""
    support, query, rates, path = tasks[:2], tasks[2:], by_step(alpha, K, len(theta)), [theta]
    for rate in rates:
        path.append(adapt(model, path[-1], *support, rate))
    H_s, H_q = ([model.linearize(t, *part)[2] for t in path] for part in (support, query))
    v_K, exact = model.linearize(path[-1], *query)[1], partial(objective_gradient, model, alpha=alpha, K=K)

    def back(hvps, before=lambda rate: rate, after=lambda rate: 1, start=v_K):
        v = start
        for hvp, rate in zip(hvps, rates[::-1]):
            v = v - after(rate) * hvp(before(rate) * v)  # (3)
        return v.mean(0)

    carried, start = [], theta
    for i in range(len(tasks[0])):
        task = [a[i:i + 1] for a in tasks]
        carried.append(exact(start, task))
        start = adapt(model, start, task[0][0], task[1][0], alpha, K)
    last_first = H_s[:K][::-1]
    return {
        "first-order MAML, the gradient at θ_K as if it were at θ: the Hessian term is missing": v_K.mean(0),
        "the gradient at θ: the query loss was not taken at θ_K": model.linearize(theta, *query)[1].mean(0),
        "the query gradient taken at θ, not at θ_K": back(last_first, start=model.linearize(theta, *query)[1]),
        AT_0: back(H_s[:1] * K), AT_NEXT: back(H_s[:0:-1]), ORDER: back(H_s[:K]),
        "the Hessian of the query loss, not the support loss": back(H_q[:K][::-1]),
        "no inner rate in front of H": back(last_first, before=lambda rate: 1),
        "the inner rate on the wrong side of H": back(last_first, before=lambda rate: 1, after=lambda rate: rate),
        "a plus in front of H": back(last_first, after=lambda rate: -1),
        "the support set used as query set": exact(theta, [*support, *support]),
        "support and query set swapped": exact(theta, [*query, *support]),
        "a sum over tasks, not a mean": len(tasks[0]) * exact(theta, tasks),
        "parameters carried over from task to task": np.mean(carried, axis=0),
        "an inner step too many": exact(theta, tasks, K=K + 1),
        **({"an inner step too few": exact(theta, tasks, K=K - 1),
            "no factor I − H α for the first step": back(last_first[:-1])} if K > 1 else {}),
    }


# ------------------------------------------------------------------------------------------------ the exercise sheet

EXERCISES = ("relu", "tanh", "mse", "cross_entropy", "_forward", "_backward", "_hvp", "adapt", "_through_steps",
             "reptile_gradient", "step")


def skeleton(source):
    """Return maml.py's source with the bodies of EXERCISES replaced; signatures, docstrings and equations stay."""
    lines = source.splitlines()
    functions = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef) and n.name in EXERCISES]
    for function in sorted(functions, key=lambda n: -n.lineno):
        first = function.body[1 if ast.get_docstring(function) else 0]
        lines[first.lineno - 1:function.end_lineno] = [" " * first.col_offset + "raise NotImplementedError"]
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------ the model

@every_model
def test_07_forward_pass_equals_loops_over_single_numbers(spec):
    model, theta, tasks, _ = problem(spec)
    activation = {"relu": lambda z: max(z, 0.0), "tanh": math.tanh}[spec[1]]
    layers, outputs = model.unpack(theta), []
    for example in tasks.x_support.reshape(-1, 3):
        a = list(example)
        for l, (W, b) in enumerate(layers):
            z = [sum(a[i] * W[i, j] for i in range(len(a))) + b[0, j] for j in range(W.shape[1])]
            a = z if l == len(layers) - 1 else [activation(value) for value in z]
        outputs.append(a)
    check(model.predict(theta, tasks.x_support), np.reshape(outputs, (3, 5, 4)))


def test_07_theta_holds_weights_then_bias_layer_by_layer_and_unpack_gives_views():
    model = MLP((1, 2, 1))
    theta = np.arange(7.0)
    (W0, b0), (W1, b1) = model.unpack(theta)
    for part, expected in (W0, [[0, 1]]), (b0, [[2, 3]]), (W1, [[4], [5]]), (b1, [[6]]):
        assert np.array_equal(part, expected) and np.shares_memory(part, theta)
    assert model.n_params == 7 and model.predict(list(theta), [[1.0]]) == 4 * 2 + 5 * 4 + 6  # lists will do
    assert [W.shape for W, _ in model.unpack(np.zeros((8, 7)))] == [(8, 1, 2), (8, 2, 1)]


def outputs_as_inputs(d, loss):
    """A linear model of d outputs, and parameters with which it returns its inputs."""
    return MLP((d, d), loss=loss), np.concatenate([np.eye(d).ravel(), np.zeros(d)])


def test_08_mse_worked_by_hand():
    """Errors 1, 0, −2, 3 over two examples of two outputs: (1 + 0 + 4 + 9) / 4 = 3.5."""
    model, theta = outputs_as_inputs(2, "mse")
    found = model.loss(theta, [[2.0, 5.0], [1.0, 3.0]], [[1.0, 5.0], [3.0, 0.0]])
    check(found, 3.5, gallery=partial(multiples, 3.5, **{"examples or outputs": 2}))


def test_09_cross_entropy_worked_by_hand():
    """Logits (0, ln 3) mean p = (1/4, 3/4); with labels 0 and 1, L = (ln 4 + ln 4/3) / 2."""
    model, theta = outputs_as_inputs(2, "cross_entropy")
    check(model.loss(theta, [[0, np.log(3)]] * 2, [0, 1]), (np.log(4) + np.log(4 / 3)) / 2)


EXTREME = [[1e3, -1e3, 0.0], [-3e3, -1e3, -1e3]], [1, 1]  # whose softmax is (1, 0, 0) and (0, ½, ½)


def test_09_loss_of_extreme_logits_is_finite():
    model, theta = outputs_as_inputs(3, "cross_entropy")
    check(model.loss(theta, *EXTREME), (2e3 + np.log(2)) / 2)


@pytest.mark.parametrize("loss", ("mse", "cross_entropy"))
def test_08_09_losses_accept_complex_parameters(loss):
    """All that follows takes complex steps, which np.abs, norms, conjugates and real buffers would break."""
    model, theta, (x, y, _, _), _ = problem(((3, 5, 4), "tanh", loss))
    mean_loss, h = lambda t: model.loss(t, x, y).mean(), 1e-5
    slopes = [(mean_loss(theta + h * d) - mean_loss(theta - h * d)) / (2 * h) for d in np.eye(model.n_params)]
    assert error(derivatives(mean_loss, theta), slopes) < 1e-6, "the loss is wrong for complex θ"


@every_model
def test_10_11_gradient_is_the_derivative_of_the_loss(spec):
    model, theta, (x, y, _, _), _ = problem(spec)
    loss, grad, _ = model.linearize(theta, x, y)
    check(loss, model.loss(theta, x, y))
    expected = np.array([derivatives(lambda t: model.loss(t, *example), theta) for example in zip(x, y)])
    check(grad, expected, model, partial(multiples, expected, examples=5, outputs=4))


def test_11_relu_has_slope_0_at_0():
    """The convention of the autodiff frameworks, for the point where relu has no derivative."""
    grad = MLP((1, 1, 1)).linearize(np.array([0.0, 0.0, 1.0, 0.0]), [[1.0]], [[1.0]])[1]
    assert np.array_equal(grad, [0, 0, 0, -2])


@every_model
def test_07R_to_11R_hvp_is_the_derivative_of_the_gradient(spec):
    model, theta, (x, y, _, _), rng = problem(spec)
    u, v = rng.standard_normal((2, 3, model.n_params))
    hvp = model.linearize(theta, x, y)[2]
    expected = model.linearize(theta + 1j * STEP * v, x, y)[1].imag / STEP

    def gallery():
        blunt = {CURVATURE: hvp_without_curvature(expected, model, theta, x, y, v)} if spec == SMALL else {}
        return {**multiples(expected, examples=5, outputs=4), **blunt}

    check(hvp(v), expected, model, gallery)
    check((u * hvp(v)).sum(-1), (v * hvp(u)).sum(-1))  # the Hessian is symmetric
    check(hvp(u + 1j * v), hvp(u) + 1j * hvp(v))


def test_09_09R_extreme_logits_have_finite_derivatives():
    """δ = (½, −½, 0) and (0, −¼, ¼) add up in the bias; the second logit's bias moves only the second example's p."""
    model, theta = outputs_as_inputs(3, "cross_entropy")
    _, grad, hvp = model.linearize(theta, *EXTREME)
    check(model.unpack(grad)[0][1], np.array([[0.5, -0.75, 0.25]]))
    check(model.unpack(hvp(np.eye(12)[10]))[0][1], np.array([[0, 0.125, -0.125]]))


@every_model
def test_07_to_11R_leading_axes_broadcast(spec):
    """Parameters and data, each shared or one for each task, give what one task at a time gives."""
    model, theta, (x, y, _, _), rng = problem(spec)
    many, v = theta + 0.1 * rng.standard_normal((3, model.n_params)), rng.standard_normal((3, model.n_params))
    check(model.loss(many[:, None], x[None], y[None]), [model.loss(t, x, y) for t in many])
    for t, data in (many, (x, y)), (theta, (x, y)), (many, (x[0], y[0])), (theta, (x[0], y[0])):
        loss, grad, hvp = model.linearize(t, *data)
        for i in range(3):
            single = model.linearize(t[i] if t is many else t, *(data if data[0].ndim == 2 else (x[i], y[i])))
            pick = (lambda a: a[i]) if loss.ndim else (lambda a: a)
            check(pick(loss), single[0])
            check(pick(grad), single[1], model)
            check(hvp(v)[i], single[2](v[i]), model)
            check(pick(hvp(v[0])), single[2](v[0]), model)


# ------------------------------------------------------------------------------------------------ the algorithm

@every_K
def test_01_adapt_takes_K_gradient_steps(K):
    model, theta, (x, y, _, _), rng = problem(SMALL)
    for alpha in alphas(rng, K, model.n_params):
        path, at_start = [theta], theta
        for rate in by_step(alpha, K, model.n_params):
            path.append(path[-1] - rate * model.linearize(path[-1], x, y)[1])
            at_start = at_start - rate * model.linearize(theta, x, y)[1]
        wrong = {"every gradient taken at the start": at_start, "one step too few": path[-2]} if K > 1 else {}
        check(adapt(model, theta, x, y, alpha, K), path[K], model, lambda: wrong)


@every_model
@every_K
def test_02_03_04_meta_gradient_is_the_derivative_of_the_meta_objective(spec, K):
    model, theta, tasks, rng = problem(spec)
    for alpha in alphas(rng, K, model.n_params):
        loss, grad, nothing = meta_gradient(model, theta, tasks, alpha, K)
        check(grad, objective_gradient(model, theta, tasks, alpha, K), model,
              partial(meta_gallery, model, theta, tasks, alpha, K))
        J = objective(model, theta, tasks, alpha, K)
        check(loss, J, gallery=partial(multiples, J, tasks=3))
        assert nothing is None and isinstance(loss, float)


@pytest.mark.parametrize("activation", ("relu", "tanh"))
@pytest.mark.parametrize("loss", ("mse", "cross_entropy"))
@every_K
def test_05_alpha_gradient_is_the_derivative_of_the_meta_objective(activation, loss, K):
    model, theta, tasks, rng = problem(((3, 5, 4), activation, loss))
    for alpha in alphas(rng, K, model.n_params):
        expected = derivatives(lambda a: objective(model, theta, tasks, a, K), alpha)
        found = meta_gradient(model, theta, tasks, alpha, K, wrt_alpha=True)[2]
        check(found, expected, gallery=partial(multiples, expected, tasks=3))
    unused = meta_gradient(model, theta, tasks, np.full((K + 1, 1), 0.1), K, wrt_alpha=True)[2]
    assert unused[K] == 0


def test_01_to_06_worked_by_hand():
    """One task, one input, no hidden layer, θ = (w, b) = (1, 0), α = 1/4; support x=1, y=3; query x=2, y=1.

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
    for found, expected in (
            (adapt(model, theta, *tasks[:2], 0.25), [[2, 1]]), (gradient(0.25)[0], 16), (gradient(0.25)[1], [4, -4]),
            (gradient(0.25, wrt_alpha=True)[2], 96), (gradient(np.full(2, 0.25), wrt_alpha=True)[2], [64, 32]),
            (gradient(0.25, first_order=True)[1], [16, 8]), (reptile_gradient(model, theta, tasks, 0.25)[0], 16),
            (reptile_gradient(model, theta, tasks, 0.25)[1], [-1, -1])):
        assert np.array_equal(found, expected), f"expected exactly {expected}, got {found}"


def test_03_linear_model_has_the_closed_form_product_of_I_minus_A_alpha():
    """With A the constant Hessian of the support loss, v_0 = (I − A diag α)^K ∇L_q(θ_K)."""
    model, theta, tasks, rng = problem(((3, 4), "relu", "mse"), n_tasks=1)
    X = np.hstack([tasks.x_support[0], np.ones((5, 1))])
    A, alpha = np.kron(2 / (5 * 4) * X.T @ X, np.eye(4)), rng.uniform(0.05, 0.15, 16)
    v = model.linearize(adapt(model, theta, *tasks[:2], alpha, 4), *tasks[2:])[1][0]
    expected = np.linalg.matrix_power(np.eye(16) - A * alpha, 4) @ v
    check(meta_gradient(model, theta, tasks, alpha, 4)[1], expected, model)


def test_03_meta_gradient_agrees_with_central_differences():
    model, theta, tasks, _ = problem(((3, 5, 4), "tanh", "cross_entropy"))
    J, h = partial(objective, model, tasks=tasks, alpha=0.1, K=3), 1e-5
    slopes = [(J(theta + h * d) - J(theta - h * d)) / (2 * h) for d in np.eye(model.n_params)]
    assert error(meta_gradient(model, theta, tasks, 0.1, 3)[1], slopes) < 1e-6


def test_03_05_meta_gradient_of_wide_layers_along_a_direction():
    """Wide layers are multiplied in another way (times_transpose), and 11 such tasks go in two groups."""
    model, theta, tasks, rng = problem(((3, 160, 160, 2), "tanh", "mse"), n_tasks=11)
    alpha, d = rng.uniform(0.05, 0.15, (2, model.n_params)), rng.standard_normal((3, model.n_params))
    expected = objective(model, theta + 1j * STEP * d[0], tasks, alpha + 1j * STEP * d[1:], 2).imag / STEP
    _, grad, grad_alpha = meta_gradient(model, theta, tasks, alpha, 2, wrt_alpha=True)
    check(grad @ d[0] + (grad_alpha * d[1:]).sum(), expected)


def test_03_taylor_remainder_falls_with_slope_2_along_the_exact_gradient_and_1_along_first_order():
    """J(θ + εd) − J(θ) − ε ∇J·d is O(ε²) for the gradient and O(ε) for anything else."""
    model, theta, tasks, rng = problem(SMALL)
    d, J = rng.standard_normal(model.n_params), partial(objective, model, tasks=tasks, alpha=0.1, K=3)
    for gradient, expected in (meta_gradient, 2), (partial(meta_gradient, first_order=True), 1):
        grad = gradient(model, theta, tasks, 0.1, 3)[1]
        remainders = [abs(J(theta + e * d) - J(theta) - e * grad @ d) for e in (1e-3, 1e-4)]
        assert abs(np.log10(remainders[0] / remainders[1]) - expected) < 0.05


def test_03_first_order_is_the_mean_gradient_at_theta_K():
    model, theta, tasks, _ = problem(SMALL)
    adapted = adapt(model, theta, *tasks[:2], 0.1, 3)
    _, grad, grad_alpha = meta_gradient(model, theta, tasks, 0.1, 3, first_order=True, wrt_alpha=True)
    at_theta_K = model.linearize(adapted, *tasks[2:])[1]
    check(grad, at_theta_K.mean(0), model)
    moved = (theta - adapted) / 0.1  # the sum of the support gradients
    check(grad_alpha, -(moved * at_theta_K).sum(-1).mean(0))


def test_03_without_inner_steps_or_rate_it_is_joint_multi_task_training():
    model, theta, tasks, _ = problem(SMALL)
    loss, grad, _ = model.linearize(theta, *(a.reshape(-1, a.shape[-1]) for a in tasks[2:]))
    for alpha, K in (0.1, 0), (0.0, 3):
        found = meta_gradient(model, theta, tasks, alpha, K)
        check(found[0], loss)
        check(found[1], grad, model)


@every_K
def test_04_a_batch_is_the_mean_of_its_tasks(K):
    model, theta, tasks, rng = problem(((3, 5, 4), "relu", "cross_entropy"))
    alpha = rng.uniform(0.05, 0.15, model.n_params)
    for method in partial(meta_gradient, wrt_alpha=True), partial(meta_gradient, first_order=True), reptile_gradient:
        whole = method(model, theta, tasks, alpha, K)
        singles = [method(model, theta, [a[i:i + 1] for a in tasks], alpha, K) for i in range(3)]
        for part, parts in zip(whole, zip(*singles)):
            if part is not None:
                check(part, np.mean(parts, axis=0))


def test_04_tasks_whose_parameters_exceed_the_cache_go_one_by_one():
    model, theta, tasks, _ = problem(((2, 100_000), "relu", "mse"), n_tasks=2)
    singles = [meta_gradient(model, theta, [a[i:i + 1] for a in tasks], 0.1)[1] for i in range(2)]
    check(meta_gradient(model, theta, tasks, 0.1)[1], np.mean(singles, axis=0))


@every_K
def test_06_reptile_is_the_mean_way_to_theta_K(K):
    model, theta, tasks, _ = problem(SMALL)
    loss, direction = reptile_gradient(model, theta, tasks, 0.1, K)
    assert isinstance(loss, float)
    check(loss, objective(model, theta, tasks, 0.1, K))
    ends = [adapt(model, theta, x, y, 0.1, K) for x, y in zip(*tasks[:2])]
    right = theta - np.mean(ends, axis=0)
    wrong = {"minus the expected value: a direction to descend": theta + right, "it over α": theta - 10 * right}
    check(theta - direction, theta - right, model, lambda: wrong)
    if K == 1:
        assert np.array_equal(reptile_gradient(model, theta, tasks, 0.1)[1], direction)


@pytest.mark.parametrize("std", (None, 0.01, 0))
@pytest.mark.parametrize("activation, gain", (("relu", 2), ("tanh", 1)))
def test_init_scales_the_weights_and_leaves_the_biases_at_0(activation, gain, std):
    model = MLP((50, 400, 300), activation)
    for W, b in model.unpack(model.init(np.random.default_rng(0), std)):
        assert abs(np.std(W) - (np.sqrt(gain / len(W)) if std is None else std)) <= np.std(W) / 50
        assert not b.any()


# ------------------------------------------------------------------------------------------------ the checks have teeth

BLIND = {  # settings of the chain's kind, and the mistakes that make no difference in them
    ("tanh", 5, (3, 5, 4)): set(),
    ("tanh", 3, (3, 5, 4)): set(),
    ("tanh", 1, (3, 5, 4)): {AT_0, ORDER},
    ("relu", 5, (3, 5, 4)): set(),
    ("relu", 4, (3, 4)): {AT_0, AT_NEXT, ORDER},
}


@about_the_project
@pytest.mark.parametrize("setting", BLIND, ids=lambda s: f"{s[0]} K={s[1]} {'-'.join(map(str, s[2]))}")
def test_every_mistake_is_caught_and_named(setting):
    """At K = 1 and with a linear model real mistakes pass, and relu has no σ″ to forget: hence the chain's settings."""
    activation, K, sizes = setting
    model, theta, tasks, rng = problem((sizes, activation, "mse"))
    alpha = rng.uniform(0.05, 0.15, model.n_params)
    right = objective_gradient(model, theta, tasks, alpha, K)
    gallery = meta_gallery(model, theta, tasks, alpha, K)
    for mistake, wrong in gallery.items():
        if mistake in BLIND[setting]:
            check(wrong, right)
        else:
            assert error(wrong, right) > 1e-3
            with pytest.raises(pytest.fail.Exception, match=re.escape(f"equals {mistake}")):
                check(wrong, right, model, lambda: gallery)


@about_the_project
def test_a_wrong_value_is_described_by_its_factor_or_by_the_parameters_that_are_off():
    model, theta, tasks, _ = problem(SMALL)
    right = model.linearize(theta, *tasks[:2])[1][0]
    for wrong, words in ((5 * right, "5 times the expected value: a sum over examples"), (-right, "equals minus"),
                         (0.7 * right, "0.7 times the expected value"), (right[:3], "expected shape .44,., got .3,."),
                         (np.where(np.arange(44) < 40, right, 0), r"off in layer 1 bias by 1.0e\+00; right elsewhere"),
                         (right + np.nan, "off in layer 0 weights by nan, .* layer 1 bias by nan$")):
        with pytest.raises(pytest.fail.Exception, match=words):
            check(wrong, right, model, partial(multiples, right, examples=5))


def grade(folder, source, *options):
    """Run these tests, in their order, on another module in a process of its own; return its status and output."""
    (folder / "student.py").write_text(source, encoding="utf-8")
    plain = ["-q", "-p", "no:cacheprovider", "-p", "no:randomly", *options, str(HERE / "test_maml.py")]
    set_up = {"MAML": str(folder / "student.py"), "PYTHONIOENCODING": "utf-8", "PYTEST_ADDOPTS": ""}
    done = subprocess.run([sys.executable, "-m", "pytest", *plain], capture_output=True, text=True, encoding="utf-8",
                          cwd=HERE, env={**os.environ, **set_up})
    return done.returncode, done.stdout + done.stderr


@about_the_project
@pytest.mark.parametrize("source, words", (
    ("1 +", "cannot be imported: SyntaxError"), ("from maml import *", "lacks MLP, adapt, meta_gradient, "),
    ("MLP = adapt = meta_gradient = reptile_gradient = Adam = cosine_decay = meta_train = 0; "
     "require = is_number = is_whole = 0",
     "lacks as_array")))
def test_a_module_that_cannot_be_graded_gets_one_line(tmp_path, source, words):
    status, printed = grade(tmp_path, source)
    assert status == 2 and words in printed and len(printed.splitlines()) < 9  # 7 are pytest's frame


@about_the_project
@pytest.mark.parametrize("right, wrong, message", (
    ("scale = f - y, 2 /", "scale = f - y, 2 * f.shape[-1] /", "equals 2 times the expected value: a sum over"),
    ("+ e[l] * curvature * Rz[l - 1]", "", "equals no σ″ term"),
    ("v = v - hvp(row(rates, k) * v)", "v = v", "equals first-order MAML"),
    ("v = v - hvp(row(rates, k) * v)", "v = v - row(rates, k) * hvp(v)", "equals the inner rate on the wrong side"),
    ("linearize(theta_k, x_query, y_query)", "linearize(theta_k, x_support, y_support)", "equals the support set")))
def test_a_wrong_module_is_told_its_mistake(tmp_path, right, wrong, message):
    source = (HERE / "maml.py").read_text(encoding="utf-8")
    assert source.count(right) == 1
    status, printed = grade(tmp_path, source.replace(right, wrong), "-x", "-k", "test_0")
    assert status == 1 and message in printed


@about_the_project
def test_the_exercise_sheet_keeps_all_but_the_bodies_to_derive():
    source = (HERE / "maml.py").read_text(encoding="utf-8")
    sheet, whole = ast.parse(skeleton(source)), ast.parse(source)
    functions = [[n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)] for tree in (sheet, whole)]
    assert ast.get_docstring(sheet) == ast.get_docstring(whole) and len(functions[0]) == len(functions[1])
    for left, full in zip(*functions):
        assert ast.dump(left.args) == ast.dump(full.args) and ast.get_docstring(left) == ast.get_docstring(full)
        blank = ast.unparse(left.body[-1]) == "raise NotImplementedError"
        assert blank if full.name in EXERCISES else ast.dump(left) == ast.dump(full)


# ------------------------------------------------------------------------------------------------ meta-training

def test_12_adam_follows_the_moments_summed_by_hand():
    grads, theta, adam = [np.array([1.0, -2.0]), np.array([3.0, 0.5]), np.array([-1.0, 0.0])], np.zeros(2), maml.Adam()
    expected = theta
    for t, grad in enumerate(grads, 1):
        m = sum(0.1 * 0.9 ** (t - 1 - i) * g for i, g in enumerate(grads[:t])) / (1 - 0.9**t)
        s = sum(0.001 * 0.999 ** (t - 1 - i) * g**2 for i, g in enumerate(grads[:t])) / (1 - 0.999**t)
        expected = expected - 0.01 * m / (np.sqrt(s) + 1e-8)
        theta.setflags(write=False)
        theta = adam.step(theta, grad, lr=0.01)
        check(theta, expected)
    check(maml.Adam().step(np.zeros(1), np.array([1e-8])), np.array([-0.5e-3]))  # ε counts


def replay(grads_theta, grads_alpha, rates):
    theta, alpha, for_theta, for_alpha = np.zeros(2), np.array(0.1), maml.Adam(), maml.Adam()
    for g, a, rate in zip(grads_theta, grads_alpha, rates):
        theta, alpha = for_theta.step(theta, np.array(g), rate), for_alpha.step(alpha, np.array(a), rate)
    return theta, alpha


def test_meta_train_clips_the_global_norm_decays_the_rate_and_reports():
    """Norms √(3² + 0² + 4²) = 5 and 1 against clip = 2: the first gradient shrinks by 2/5, the second stays."""
    given = iter([(9.0, np.array([3.0, 0.0]), np.array(4.0)), (8.0, np.array([0.48, 0.64]), np.array(0.6))])
    seen, asked, rates, batches = [], [], [0.5, 0.25], iter("ab")
    learned = meta_train(None, np.zeros(2), lambda: next(batches), 0.1, 3, 2, lr=lambda i: rates[i], clip=2,
                         gradient=lambda *args: asked.append(args) or next(given),
                         callback=lambda *args: seen.append(args))
    expected = replay([(1.2, 0), (0.48, 0.64)], [1.6, 0.6], rates)
    for found, value in zip(learned, expected):
        check(found, value)
    assert asked[1][1] is seen[0][2] and asked[1][3] is seen[0][3]
    assert [(a[2], a[4]) for a in asked] == [("a", 3), ("b", 3)]
    assert [s[:2] for s in seen] == [(0, 9.0), (1, 8.0)] and seen[1][2] is learned[0] and seen[1][3] is learned[1]


def test_meta_train_leaves_alpha_alone_unless_it_is_learned():
    model, theta, tasks, _ = problem(((3, 5, 4), "tanh", "mse"))
    for gradient in meta_gradient, reptile_gradient, partial(meta_gradient, wrt_alpha=True):
        found, alpha = meta_train(model, theta, lambda: tasks, 0.1, iterations=2, gradient=gradient)
        assert (alpha == 0.1) == (not isinstance(gradient, partial)) and not np.array_equal(found, theta)


def test_meta_train_takes_one_inner_step_and_1000_iterations_unless_told():
    steps = []
    meta_train(None, [0.0], lambda: None, 0.1, gradient=lambda *args: steps.append(args[4]) or (1.0, np.ones(1)))
    assert steps == [1] * 1000


def test_cosine_decay():
    rates = [maml.cosine_decay(3.0, 12)(i) for i in (0, 4, 6, 12, 18)]
    assert np.allclose(rates, [3, 2.25, 1.5, 0, 0], rtol=0, atol=1e-15) and maml.cosine_decay(3.0, 1)(0) == 3


@pytest.mark.parametrize("loss, size, clip, dtype, fine", (
    (1, 1, None, "f", True), (1, 0, 10, "f", True), (math.nan, 1, 10, "f", False), (1, math.nan, 10, "f", False),
    (1, math.inf, 10, "f", False), (1, 1e21, None, "f", False), (1, 1e21, 10, "f", True), (1, 1e200, None, "d", False),
    (1, 1e200, 10, "d", True)))
def test_training_stops_at_what_is_not_finite_or_cannot_be_squared(loss, size, clip, dtype, fine):
    gradient, start = lambda *_: (loss, np.full(2, size, dtype)), np.zeros(2, dtype)
    train = partial(meta_train, None, start, lambda: None, 0.1, iterations=1, clip=clip, gradient=gradient)
    if fine:
        assert np.allclose(train()[0], -1e-3 if size else 0, rtol=1e-6)
        return
    with pytest.raises(FloatingPointError, match="^iteration 0: meta-loss .*; lower alpha or lr") as caught:
        train()
    assert ("clip the outer gradient" in str(caught.value)) == (clip is None)


def test_training_that_diverges_says_so_without_warnings():
    model, theta, tasks, _ = problem(((3, 5, 4), "relu", "mse"))
    with pytest.raises(FloatingPointError, match="iteration 0: meta-loss (nan|inf)"):
        meta_train(model, theta, lambda: tasks, 1e200, steps=3)


@pytest.mark.parametrize("loss", ("mse", "cross_entropy"))
def test_nothing_the_caller_owns_is_modified(loss):
    """Everything passed in is locked: a write to it would raise."""
    model, theta, tasks, rng = problem(((3, 5, 4), "tanh", loss))
    alpha, v = rng.uniform(0.05, 0.15, (2, model.n_params)), rng.standard_normal(model.n_params)
    for a in (theta, alpha, v, *tasks):
        a.setflags(write=False)
    model.predict(theta, tasks.x_query), model.linearize(theta, *tasks[:2])[2](v)
    meta_gradient(model, theta, tasks, alpha, 3, wrt_alpha=True), reptile_gradient(model, theta, tasks, alpha, 3)
    learned = meta_train(model, theta, lambda: tasks, alpha, 2, 2, gradient=partial(meta_gradient, wrt_alpha=True))
    unmoved = meta_train(model, theta, lambda: tasks, alpha, iterations=0)
    for mine in (*learned, *unmoved, *(adapt(model, theta, *tasks[:2], alpha, K) for K in (0, 1))):
        assert not np.shares_memory(mine, theta) and not np.shares_memory(mine, alpha)


@pytest.mark.parametrize("loss", ("mse", "cross_entropy"))
def test_theta_decides_the_precision(loss):
    model, theta, tasks, rng = problem(((3, 5, 4), "tanh", loss))
    exact = meta_gradient(model, theta, tasks, 0.1, 3, wrt_alpha=True)
    theta, alpha, gradient = theta.astype(np.float32), np.float64(0.1), partial(meta_gradient, wrt_alpha=True)
    loss, grad, hvp = model.linearize(theta, *tasks[:2])
    assert {a.dtype for a in (model.predict(theta, tasks[0]), loss, grad, hvp(grad))} == {np.dtype(np.float32)}
    assert all(isinstance(g(model, theta, tasks, alpha)[0], float) for g in (meta_gradient, reptile_gradient))
    _, grad, grad_alpha = gradient(model, theta, tasks, alpha, 3)
    assert grad.dtype == grad_alpha.dtype == reptile_gradient(model, theta, tasks, alpha)[1].dtype == np.float32
    assert error(grad, exact[1]) < 1e-5 and error(grad_alpha, exact[2]) < 1e-5
    decay = maml.cosine_decay(np.float64(1e-3), 9)
    for learned in meta_train(model, theta, lambda: tasks, np.full(theta.size, 0.1), 1, 2, decay, 1, gradient):
        assert learned.dtype == np.float32
    assert maml.Adam().step(theta, exact[1], np.float64(0.1)).dtype == np.float32
    assert model.init(rng, dtype=np.float32).dtype == np.float32 and model.init(rng, dtype=float).dtype == float


def test_a_short_training_run_learns_to_adapt():
    """After 600 iterations, five steps leave MAML's θ less than a third of the error they leave joint training's."""
    model, family, losses = MLP((1, 40, 40, 1)), families.Sinusoid(), []
    test = family.sample(np.random.default_rng(1), 200)
    for K in 1, 0:
        rng = np.random.default_rng(0)
        theta = model.init(rng, dtype=np.float32)
        theta, _ = meta_train(model, theta, lambda: family.sample(rng, 25), 0.01, K, 600, lr=3e-3, clip=10)
        losses.append(model.loss(adapt(model, theta, *test[:2], 0.01, 5), *test[2:]).mean())
    assert losses[0] < losses[1] / 3


# ------------------------------------------------------------------------------------------------ tasks

@about_the_project
def test_sinusoid_has_the_paper_s_ranges_and_tells_the_truth():
    family, rng = families.Sinusoid(shots=5, queries=7), np.random.default_rng(3)
    waves = family.draw(rng, 4000)
    tasks = family.observe(rng, waves)
    assert [a.shape for a in tasks] == [(4000, 5, 1)] * 2 + [(4000, 7, 1)] * 2
    for values, low, high in ((waves.amplitude, 0.1, 5), (waves.phase, 0, np.pi), (tasks.x_support, -5, 5),
                              (tasks.x_query, -5, 5)):
        span = high - low
        assert low <= values.min() < low + span / 100 and high - span / 100 < values.max() <= high
        assert abs(values.mean() - (low + high) / 2) < span / 50
    A, phase, x = waves.amplitude[9, 0, 0], waves.phase[9, 0, 0], tasks.x_query[9, 3, 0]
    assert waves.frequency.min() == waves.frequency.max() == 1
    assert abs(tasks.y_query[9, 3, 0] - A * np.sin(x - phase)) < 1e-15
    assert all(np.array_equal(y, waves(x)) for x, y in (tasks[:2], tasks[2:]))


@about_the_project
def test_sinusoid_varies_frequency_and_adds_noise():
    family, rng = families.Sinusoid(shots=50, queries=50, frequency=(0.8, 1.2), noise=0.3), np.random.default_rng(3)
    waves = family.draw(rng, 400)
    tasks = family.observe(rng, waves)
    assert 0.8 <= waves.frequency.min() < 0.81 and 1.19 < waves.frequency.max() <= 1.2
    x, (A, phase, frequency) = tasks.x_support[9, 3, 0], (field[9, 0, 0] for field in waves)
    assert abs(waves(tasks.x_support)[9, 3, 0] - A * np.sin(frequency * x - phase)) < 1e-15
    for x, y in tasks[:2], tasks[2:]:
        assert abs(np.std(y - waves(x)) - 0.3) < 0.01


@about_the_project
def test_sampling_is_reproducible_and_every_task_is_new():
    family = families.Sinusoid()
    first, again, other = (family.sample(np.random.default_rng(seed), 3) for seed in (5, 5, 6))
    assert all(np.array_equal(a, b) for a, b in zip(first, again))
    assert not any(np.array_equal(a, b) for a, b in zip(first, other))
    assert len(np.unique(np.concatenate([first.x_support, first.x_query], axis=1))) == 60


def numbered(counts):
    """Classes whose example i of class c is (c, i)."""
    return [np.stack([np.full(n, c), np.arange(n)], -1) for c, n in enumerate(counts)]


@about_the_project
def test_few_shot_tasks_keep_what_the_sampler_promises():
    """Ways, labels and examples are all equally likely; no example comes twice in a task, or from another class."""
    counts = [7, 5, 12, 6, 9]
    family = families.FewShot(numbered(counts), ways=3, shots=2, queries=3)
    tasks = family.sample(np.random.default_rng(0), 6000)
    assert [a.shape for a in tasks] == [(6000, 6, 2), (6000, 6), (6000, 9, 2), (6000, 9)]
    x, y = (np.concatenate(pair, axis=1) for pair in (tasks[::2], tasks[1::2]))
    for i in range(300):
        assert len({tuple(example) for example in x[i]}) == 15
        by_label = [set(x[i, y[i] == label, 0]) for label in range(3)]
        assert all(len(classes) == 1 for classes in by_label) and len(set.union(*by_label)) == 3
    for labels, n in (tasks.y_support, 2), (tasks.y_query, 3):
        assert all((np.count_nonzero(labels == label, axis=1) == n).all() for label in range(3))
    for part, labels in tasks[:2], tasks[2:]:
        for c, n in enumerate(counts):  # 3 of 5 classes a task, a third of them for each label
            share = [np.mean((part[..., 0] == c)[labels == label]) for label in range(3)]
            assert np.allclose(share, 1 / 5, atol=0.02)
            seen = np.bincount(part[part[..., 0] == c][:, 1], minlength=n)
            assert len(seen) == n and np.allclose(seen / seen.sum(), 1 / n, atol=0.02)


@about_the_project
def test_few_shot_sampling_is_reproducible_and_takes_any_arrays():
    family = families.FewShot(np.arange(240.0).reshape(6, 20, 2))  # 5 ways, 1 shot and 15 queries unless told
    first, again, other = (family.sample(np.random.default_rng(seed), 4) for seed in (1, 1, 2))
    assert [a.shape for a in first] == [(4, 5, 2), (4, 5), (4, 75, 2), (4, 75)]
    assert all(np.array_equal(a, b) for a, b in zip(first, again)) and not np.array_equal(first[0], other[0])
    every = families.FewShot([[[0, 0], [0, 1]], [[1, 0], [1, 1]]], 2, 1, 1).sample(np.random.default_rng(0), 1)
    assert sorted(map(tuple, np.concatenate([every[0], every[2]], 1)[0])) == [(0, 0), (0, 1), (1, 0), (1, 1)]


@about_the_project
def test_characters_are_images_more_alike_within_a_class_than_between():
    drawn, again, other = (families.characters(np.random.default_rng(seed), 30, 8) for seed in (0, 0, 1))
    assert len(drawn) == 30 and all(a.shape == (8, 196) and a.dtype == np.float32 for a in drawn)
    assert all(np.array_equal(a, b) for a, b in zip(drawn, again)) and not np.array_equal(drawn[0], other[0])
    assert 0 <= np.min(drawn) and 0.9 < np.max(drawn) <= 1 and 0.1 < np.mean(drawn) < 0.4
    distance = lambda a, b: np.linalg.norm(a[:, None] - b, axis=-1).mean()
    within = [distance(a[:4], a[4:]) for a in drawn]
    between = [distance(a, b) for a, b in zip(drawn, drawn[1:])]
    assert np.mean(within) < 0.9 * np.mean(between)
    assert families.characters(np.random.default_rng(0), 1, 2, grid=9)[0].shape == (2, 81)


@about_the_project
def test_a_short_run_on_characters_beats_the_nearest_neighbour_on_unseen_ones():
    classes, rng = families.characters(np.random.default_rng(0), 300), np.random.default_rng(1)
    family, test = families.FewShot(classes[:200], 5, 1, 5), families.FewShot(classes[200:], 5, 1, 10).sample(rng, 200)
    model = MLP((196, 64, 64, 5), loss="cross_entropy")
    theta, _ = meta_train(model, model.init(rng, dtype=np.float32), lambda: family.sample(rng, 25), 0.1, 3, 300,
                          maml.cosine_decay(3e-3, 300), 10)
    scores = demo.evaluate(model, theta, test, 0.1, demo.accuracy).mean(-1)
    nearest = 100 * np.mean(demo.nearest(test) == test.y_query)
    assert abs(scores[0] - 20) < 3 and nearest > 40 and scores[2] > nearest + 3


# ------------------------------------------------------------------------------------------------ bad input

R, C = partial(MLP, (2, 3, 1)), partial(MLP, (2, 3), loss="cross_entropy")
RNG, T = np.random.default_rng(0), np.zeros(13)
X, Y, LABELS = np.zeros((4, 5, 2)), np.zeros((4, 5, 1)), np.zeros((4, 5), int)
SETS = families.Tasks(X, Y, X, Y)
train, wave = (lambda **options: meta_train(R(), T, lambda: SETS, 0.1, **options)), families.Sinusoid
BAD = [
    (r"sizes: expected two or more positive integers, got 3", lambda: MLP(3)),
    (r"sizes: .*, got \(3,\)", lambda: MLP((3,))),
    (r"sizes: .*, got \(1, 0\)", lambda: MLP((1, 0))),
    (r"sizes: .*, got \(1, 2.0\)", lambda: MLP((1, 2.0))),
    (r"sizes: .*, got \(1, True\)", lambda: MLP((1, True))),
    (r"sizes: .*, got {1, 2}", lambda: MLP({1, 2})),
    (r"sizes: expected two or more outputs for cross_entropy, got \(3, 2, 1\)",
     lambda: MLP((3, 2, 1), loss="cross_entropy")),
    (r"activation: expected relu or tanh, got 'gelu'", lambda: MLP((1, 1), "gelu")),
    (r"activation: .*, got \['relu'\]", lambda: MLP((1, 1), ["relu"])),
    (r"loss: expected mse or cross_entropy, got \['mse'\]", lambda: MLP((1, 1), loss=["mse"])),
    (r"rng: expected a numpy.random.Generator, got 0", lambda: R().init(0)),
    (r"std: expected a finite number >= 0 or None, got -1", lambda: R().init(RNG, std=-1)),
    (r"std: .*, got inf", lambda: R().init(RNG, std=math.inf)),
    (r"std: .*, got '1'", lambda: R().init(RNG, std="1")),
    (r"dtype: expected float32 or float64, got 'int64'", lambda: R().init(RNG, dtype="int64")),
    (r"theta: expected float32 or float64 of shape \(..., 13\), got .* \(12,\)", lambda: R().unpack(np.zeros(12))),
    (r"theta: .*, got int64", lambda: R().predict(np.zeros(13, "int64"), X)),
    (r"v: expected float32 or float64 of shape \(..., 13\), got", lambda: R().linearize(T, X, Y)[2](np.zeros(3))),
    (r"v: expected leading axes that fit \(4,\), got", lambda: R().linearize(T, X, Y)[2](np.zeros((3, 13)))),
    (r"x: expected real numbers of shape \(..., n, 2\), no axis empty, got", lambda: R().predict(T, np.zeros(2))),
    (r"x: .*, got .* \(5, 3\)", lambda: R().predict(T, np.zeros((5, 3)))),
    (r"x: .*, got .* \(0, 2\)", lambda: R().predict(T, np.zeros((0, 2)))),
    (r"x: .*, got <U1", lambda: R().predict(T, np.full((5, 2), "a"))),
    (r"x: expected an array, got a list", lambda: R().predict(T, [[1, 2], [3]])),
    (r"y: expected an array, got a list", lambda: R().loss(T, X[0, :2], [[1], [2, 3]])),
    (r"x: .*, got complex128", lambda: R().predict(T, X + 1j)),
    (r"x: expected leading axes that fit theta's \(3,\)", lambda: R().predict(np.zeros((3, 13)), X)),
    (r"y: expected real numbers of shape \(5, 1\), as x has it, got .* \(5,\)", lambda: R().loss(T, X[0], np.zeros(5))),
    (r"y: .*, got .* \(3, 5, 1\)", lambda: R().linearize(T, X, Y[:3])),
    (r"y: .*, got complex128", lambda: R().loss(T, X, Y + 1j)),
    (r"y: expected integer labels from 0 to 2 of .* from 3 to 3$", lambda: C().loss(np.zeros(9), X, LABELS + 3)),
    (r"y: expected integer labels .* -1 to -1$", lambda: C().loss(np.zeros(9), X, LABELS - 1)),
    (r"y: expected integer labels .* got float64", lambda: C().loss(np.zeros(9), X, LABELS * 1.0)),
    (r"y: expected integer labels .* \(4, 5, 1\)", lambda: C().loss(np.zeros(9), X, LABELS[..., None])),
    (r"theta: expected float32 or float64 of shape \(..., P\)", lambda: adapt(R(), 0.0, X, Y, 0.1)),
    (r"theta: .*, got int64", lambda: adapt(R(), np.zeros(13, "int64"), X, Y, 0.1, 0)),
    (r"alpha: expected real numbers, got complex128", lambda: meta_train(R(), T, lambda: SETS, 0.1j)),
    (r"theta: .*, got float64 of shape \(0,\)", lambda: meta_gradient(R(), np.zeros(0), SETS, 0.1)),
    (r"theta: expected float32 or float64 of shape \(..., 13\)", lambda: meta_gradient(R(), np.zeros(12), SETS, 0.1)),
    (r"theta: expected one vector \(P,\)", lambda: meta_gradient(R(), np.zeros((4, 13)), SETS, 0.1)),
    (r"steps: expected a whole number >= 0, got 1.0", lambda: adapt(R(), T, X, Y, 0.1, 1.0)),
    (r"steps: .*, got -1", lambda: meta_gradient(R(), T, SETS, 0.1, -1)),
    (r"steps: .*, got True", lambda: reptile_gradient(R(), T, SETS, 0.1, True)),
    (r"alpha: expected a finite number or an array .* \(13,\), \(steps, 13\) or \(steps, 1\), got .* \(12,\)",
     lambda: adapt(R(), T, X, Y, np.ones(12))),
    (r"alpha: .* \(2, 3\)", lambda: meta_gradient(R(), T, SETS, np.ones((2, 3)))),
    (r"alpha: .* \(0, 1\)", lambda: meta_gradient(R(), T, SETS, np.ones((0, 1)))),
    (r"alpha: .* \(4, 1, 13\)", lambda: reptile_gradient(R(), T, SETS, np.ones((4, 1, 13)))),
    (r"theta: .*, got float16", lambda: adapt(R(), np.zeros(13, "float16"), X, Y, 0.1)),
    (r"theta: expected one real vector \(P,\), got complex128", lambda: meta_train(R(), T + 0j, lambda: SETS, 0.1)),
    (r"theta: expected float32 or float64, got int64", lambda: maml.Adam().step([1, 2], [0.5, 0.5])),
    (r"alpha: .* 1e\+300$", lambda: adapt(R(), T.astype("float32"), X, Y, 1e300)),
    (r"alpha: .* nan to nan", lambda: adapt(R(), T, X, Y, math.nan)),
    (r"alpha: .*, got <U3", lambda: meta_train(R(), T, lambda: SETS, "0.1")),
    (r"tasks: expected the four arrays x_support, .*, got \(1, 2\)", lambda: meta_gradient(R(), T, (1, 2), 0.1)),
    (r"x_support: expected shape .* at least 1, got", lambda: meta_gradient(R(), T, [a[:0] for a in SETS], 0.1)),
    (r"y_query: .* as many tasks as x_support, .*1, 5, 1", lambda: reptile_gradient(R(), T, (X, Y, X, Y[:1]), 0.1)),
    (r"x_query: expected shape \(tasks, n, d\)", lambda: meta_gradient(R(), T, (X, Y, X[:, 0], Y), 0.1)),
    (r"y_query: expected shape", lambda: meta_gradient(R(), T, (X, Y, X, Y[:, 0, 0]), 0.1)),
    (r"x_query: .* \(1, 4, 5, 2\)", lambda: reptile_gradient(R(), T, (X, Y, X[None], Y[None]), 0.1)),
    (r"x_support: expected real numbers", lambda: meta_gradient(R(), T, (X[:, :0], Y[:, :0], X, Y), 0.1)),
    (r"y_support: expected real numbers", lambda: reptile_gradient(R(), T, (X, Y[..., 0], X, Y), 0.1)),
    (r"y_query: expected real numbers", lambda: meta_gradient(R(), T, (X, Y, X, Y[..., 0]), 0.1)),
    (r"y_query: expected real numbers", lambda: reptile_gradient(R(), T, (X, Y, X, Y[:, :2]), 0.1)),
    (r"theta: expected one real vector \(P,\), got", lambda: meta_train(R(), np.zeros((2, 13)), lambda: SETS, 0.1)),
    (r"beta1: expected a number from 0 to below 1, got -0.1", lambda: maml.Adam(beta1=-0.1)),
    (r"beta1: .*, got '0'", lambda: maml.Adam(beta1="0")),
    (r"beta2: expected a number from 0 to below 1, got 1", lambda: maml.Adam(beta2=1)),
    (r"grad: expected theta's shape \(13,\)", lambda: maml.Adam().step(T, np.zeros(12))),
    (r"iterations: expected a whole number >= 1, got 0", lambda: maml.cosine_decay(0.1, 0)),
    (r"iterations: expected a whole number >= 0, got 1.5", lambda: train(iterations=1.5)),
    (r"iterations: .*, got -1", lambda: train(iterations=-1)),
    (r"lr: expected a finite number >= 0, or a function to one, got -1", lambda: train(lr=-1)),
    (r"lr: .*, got nan", lambda: train(lr=lambda i: math.nan)),
    (r"clip: expected a number > 0 or None, got 0", lambda: train(clip=0)),
    (r"clip: .*, got '10'", lambda: train(clip="10")),
    (r"sample: expected a function .*, got Tasks", lambda: meta_train(R(), T, SETS, 0.1)),
    (r"shots: expected a whole number >= 1, got 0", lambda: wave(shots=0)),
    (r"queries: .*, got 1.5", lambda: wave(queries=1.5)),
    (r"amplitude: expected a pair of finite numbers low <= high, got \(5, 1\)", lambda: wave(amplitude=(5, 1))),
    (r"phase: .*, got 1.0", lambda: wave(phase=1.0)),
    (r"x_range: .*, got \(0, inf\)", lambda: wave(x_range=(0, math.inf))),
    (r"noise: expected a finite number >= 0, got -1", lambda: wave(noise=-1)),
    (r"n_tasks: expected a whole number >= 1, got 0", lambda: wave().sample(RNG, 0)),
    (r"ways: expected a whole number >= 2, got 1", lambda: families.FewShot(numbered([9] * 5), 1)),
    (r"shots: expected a whole number >= 1, got 0", lambda: families.FewShot(numbered([9] * 5), shots=0)),
    (r"queries: .*, got 2.0", lambda: families.FewShot(numbered([9] * 5), queries=2.0)),
    (r"len\(classes\): expected at least 5, as many as ways, got 4", lambda: families.FewShot(numbered([99] * 4))),
    (r"classes: expected a list of arrays, one for each class, got float64", lambda: families.FewShot(np.array(3.0))),
    (r"classes: .*, got dict", lambda: families.FewShot(dict.fromkeys("abcde", X))),
    (r"classes\[3\]: expected at least 16 examples .*, got int64 of shape \(15, 2\)",
     lambda: families.FewShot(numbered([16, 16, 16, 15, 16]))),
    (r"classes\[2\]: expected .* shape \(examples, 2\), got float64 of shape \(16, 3\)",
     lambda: families.FewShot(numbered([16, 16]) + [np.zeros((16, 3))] + numbered([16, 16]))),
    (r"classes\[0\]: expected .* shape \(examples, features\), got float64 of shape \(16,\)",
     lambda: families.FewShot([np.zeros(16)] * 5)),
    (r"classes\[0\]: .*, got float64 of shape \(16, 0\)", lambda: families.FewShot([np.zeros((16, 0))] * 5)),
    (r"classes\[1\]: expected an array, got a list that makes none",
     lambda: families.FewShot([X[0], [[1], [1, 2]], X[0], X[0], X[0]])),
    (r"classes\[4\]: .*, got <U", lambda: families.FewShot(numbered([16] * 4) + [np.full((16, 2), "a")])),
    (r"classes\[4\]: .* of finite numbers, .* nan to nan",
     lambda: families.FewShot(numbered([16] * 4) + [np.full((16, 2), np.nan)])),
    (r"n_tasks: expected a whole number >= 1, got 0", lambda: families.FewShot(numbered([16] * 5)).sample(RNG, 0)),
    (r"rng: expected a numpy.random.Generator, got 0", lambda: families.FewShot(numbered([16] * 5)).sample(0, 1)),
    (r"n_classes: expected a whole number >= 1, got 0", lambda: families.characters(RNG, 0)),
    (r"n_examples: .*, got 0", lambda: families.characters(RNG, 1, 0)),
    (r"grid: .*, got 1.5", lambda: families.characters(RNG, 1, grid=1.5)),
    (r"rng: expected a numpy.random.Generator, got 7", lambda: families.characters(7, 1)),
    (r"rng: expected a numpy.random.Generator, got 1", lambda: wave().sample(1, 4)),
]


@about_the_project
@pytest.mark.parametrize("message, call", BAD, ids=lambda part: part[:40] if isinstance(part, str) else "")
def test_bad_input_is_refused_in_one_line(message, call):
    with pytest.raises(ValueError, match="^" + message) as caught:
        call()
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------------ the demo

def run_demo(capsys, *arguments):
    """Run demo.py in this process; return what it prints without the times left."""
    demo.main(arguments)
    return re.sub(r" +\d+ s left", "", capsys.readouterr().out)


@about_the_project
def test_demo_evaluates_each_number_of_steps_and_picks_the_best_rate():
    model, family, rng = MLP((1, 4, 1)), families.Sinusoid(), np.random.default_rng(1)  # where 1 and 10 steps differ
    theta, tasks = model.init(rng), family.sample(rng, 120)  # more than one part of 100
    scores = demo.evaluate(model, theta, tasks, 0.01, MLP.loss)
    assert scores.shape == (4, 120)
    for row, K in zip(scores, (0, 1, 5, 10)):
        check(row, model.loss(adapt(model, theta, *tasks[:2], 0.01, K), *tasks[2:]))
    with np.errstate(all="ignore"):
        finals = [objective(model, theta, tasks, alpha, 10) for alpha in demo.RATES]
        assert demo.best_rate(model, theta, tasks) == demo.RATES[np.nanargmin(finals)]
        assert demo.best_rate(model, 1e200 * theta, tasks) in demo.RATES  # where every rate diverges
        results = demo.compare(model, {"fixed": (theta, 0.01), "open": (theta, None)}, tasks, MLP.loss, tasks)
    check(results["fixed"][2], scores)
    assert results["open"][1] == demo.RATES[np.nanargmin(finals)] and results["fixed"][1] == 0.01


@about_the_project
def test_demo_table_gives_intervals_and_medians_where_single_tasks_wreck_the_mean():
    """Standard deviations 1 and 0 over two tasks: half widths 1.96/√2 = 1.386 and 0."""
    mean, half = demo.interval(np.array([[1.0, 3.0], [2.0, 2.0]]))
    assert np.array_equal(mean, [2, 2]) and np.allclose(half, [1.96 / np.sqrt(2), 0], rtol=1e-15)
    fine = demo.rows("fine", np.array([[1.0, 3.0, 1.0, 3.0], [2.0] * 4, [2.0] * 4, [100.0] * 4]))
    assert fine == [("fine", "2.00 ± 0.98", "2.00 ± 0.00", "2.00 ± 0.00", "100.00 ± 0.00")]
    with np.errstate(invalid="ignore"):
        lost = demo.rows("lost", np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 101.0], [1.0, np.nan, np.inf], [1.0, 2.0, 3e9]]))
    assert [row[0] for row in lost] == ["lost", "  median (diverged)"]
    assert lost[0][2] == "34.67 ± 53.08" and lost[0][3:] == ("diverged", "diverged")
    assert lost[1][1:] == ("2.00 (0)", "2.00 (1)", "diverged (2)", "2.00 (1)")
    assert demo.rows("fine", np.array([[1.0, 101.0]]), 2, 200) == [("fine", "51.00 ± 69.30")]
    assert demo.rows("fine", np.array([[1.0, 2.0], [1.0, 99.0]]), 3) == [("fine", "1.500 ± 0.693", "50.00 ± 67.91")]
    lines = demo.table(fine, lost)
    assert lines[0].split() == ["after", "gradient", "steps", "0", "1", "5", "10"] and set(map(len, lines)) == {80}


@about_the_project
def test_demo_pools_support_and_query_for_methods_that_do_not_tell_them_apart():
    tasks = problem(SMALL)[2]
    x, y, *again = demo.pooled(tasks)
    assert x.shape == (3, 9, 3) and y.shape == (3, 9, 4) and again[0] is x and again[1] is y
    assert np.array_equal(x[:, :5], tasks.x_support) and np.array_equal(y[:, 5:], tasks.y_query)


@about_the_project
def test_demo_nearest_neighbour_and_accuracy_worked_by_hand():
    x = np.array([[[0.0, 0.0], [2.0, 2.0]]])
    queries = np.array([[[0.9, 1.0], [1.2, 1.0], [9.0, 9.0]]])
    assert np.array_equal(demo.nearest(families.Tasks(x, np.array([[1, 0]]), queries, None)), [[1, 0, 0]])
    (model, theta), logits = outputs_as_inputs(2, "cross_entropy"), np.array([[[0.0, 1.0], [2.0, 0.0]]] * 2)
    assert np.array_equal(demo.accuracy(model, theta, logits, [[1, 0], [0, 0]]), [100, 50])


@about_the_project
def test_demo_panel_draws_points_over_prediction_over_truth():
    """On a grid of 5 × 3 cells: truth at −1, the prediction at 0, which is the upper half of the middle row's cells."""
    flat, points = np.ones((800, 1)), (np.array([[-5.0], [5.0], [0.0]]), np.array([[2.9], [-2.9], [9.0]]))
    lines = demo.panel("a", 0 * flat, -2 * flat, points, 3, 5, 3)
    assert lines == ["┌─ a ─┐", "│●    │", "│⠤⠤⠤⠤⠤│", "│····●│", "└─────┘"]
    steep = demo.panel("a", 100 * demo.GRID, 9 * flat, (flat[:0], flat[:0]), 3, 5, 3)
    assert all(line[3] != " " for line in steep[1:4]) and steep[1][1:3] == "  "  # no gap, and cut at the frame


@about_the_project
def test_demo_draws_two_pixels_in_a_character():
    assert demo.images(np.array([[1, 0, 1, 1], [0, 1, 0, 0]])) == ["█▄  ▀"]


@about_the_project
def test_demo_shows_a_bar_where_the_output_is_a_terminal(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stdout", terminal)
    progress = demo.Progress("MAML", 4)
    progress(2, "note"), progress(4, "note")
    first, last = terminal.getvalue().split("\r")[1:]
    assert re.match(rf"MAML {{23}}\[{'#' * 8} {{7}}\]  50%  note +0 s left$", first)
    assert re.match(rf"MAML {{23}}\[{'#' * 15}\] 100%  note +0 s left\n$", last)


def trainer_of(*arguments, model=MLP((1, 4, 1))):
    return demo.Trainer(model, demo.settings(arguments))


@about_the_project
def test_demo_trains_with_the_settings_and_on_the_same_tasks_for_every_method():
    trainer = trainer_of(*"--iterations 3 --meta-batch 2 --outer-rate 0.1 --seed 5 --float 64".split())
    start, seen = trainer.start(), []
    sample = lambda rng, n: seen.append(families.Sinusoid().sample(rng, n)) or seen[-1]
    found, alpha = trainer("MAML", start, sample, 0.02, 2)
    batches = iter(seen[:])
    expected, _ = meta_train(trainer.model, start, lambda: next(batches), 0.02, 2, 3, maml.cosine_decay(0.1, 3), 10)
    check(found, expected)
    assert alpha == 0.02 and trainer.learned["MAML"][0] is found and len(seen) == 3 and len(seen[0].x_query) == 2
    trainer("Reptile", start, sample, 0.02, 2, maml.reptile_gradient)
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(seen[:3], seen[3:]))


@about_the_project
@pytest.mark.parametrize("first_order", (False, True))
def test_demo_learns_each_method_by_its_own_gradient(first_order):
    """Methods that do not tell support from query see all 20 examples of a task, the others 10 and 10."""
    calls, start, family = {}, np.zeros(13), families.Sinusoid()

    class Recorder:
        chosen = demo.settings(["--inner-steps", "2", "--inner-rate", "0.5"] + ["--first-order"] * first_order)

        def __call__(self, name, start, sample, alpha, steps, gradient=meta_gradient):
            calls[name] = sample(np.random.default_rng(0), 3).x_query.shape[1], alpha, steps, gradient
            return name, alpha

    learned = demo.learn(Recorder(), start, family, "label ", reptile=True)
    sgd = "first-order Meta-SGD" if first_order else "Meta-SGD"
    assert [name for name, (_, alpha) in learned.items() if alpha is None] == [
        "random initialisation", "joint training", "Reptile"]
    assert [key[6:] for key in calls] == [name for name in learned if name != "random initialisation"]
    assert ("MAML" in learned) != first_order and all(learned[key[6:]][0] == key for key in calls)
    assert calls["label joint training"] == (20, 0.5, 0, meta_gradient)
    assert calls["label Reptile"] == (20, 0.5, 5, reptile_gradient)
    for name, keywords in (("first-order MAML", dict(first_order=True)), ("MAML", {}),
                           (sgd, dict(wrt_alpha=True, **({"first_order": True} if first_order else {})))):
        if name in learned:
            examples, alpha, steps, gradient = calls["label " + name]
            assert (examples, steps, np.unique(alpha)) == (10, 2, 0.5)
            assert np.shape(alpha) == ((13,) if name == sgd else ())
            assert getattr(gradient, "keywords", {}) == keywords
            assert getattr(gradient, "func", gradient) is meta_gradient


@about_the_project
def test_demo_tests_on_the_ranges_chosen_and_says_what_the_mean_wave_errs_by(capsys):
    options = "--iterations 1 --unseen 40 --test-amplitude 2 2.5 --test-phase 1 1.5 --first-order".split()
    tasks, waves, others = demo.unseen_waves(demo.settings(options), 10)
    assert 2 <= waves.amplitude.min() and waves.amplitude.max() <= 2.5 and len(others.x_query) == demo.OTHERS
    assert 1 <= waves.phase.min() and waves.phase.max() <= 1.5 and tasks.x_query.shape == (40, 100, 1)
    printed = run_demo(capsys, *options)
    error = np.mean((tasks.y_query + 5.1 / np.pi * np.cos(tasks.x_query))**2)
    assert re.search(rf"^mean of all waves +{error:.2f} ", printed, re.M) and "points first-order MAML errs" in printed


@about_the_project
@pytest.mark.parametrize("stop, words", (
    (KeyboardInterrupt(), "stopped after 2 iterations; going on"),
    (None, "stopped after 2 iterations by iteration 2: meta-loss nan")))
def test_demo_goes_on_with_what_it_has_learnt_when_interrupted_or_diverging(capsys, stop, words):
    def sample(rng, n):
        tasks = families.Sinusoid().sample(rng, n)
        if not countdown.pop() and stop:
            raise stop
        return tasks if countdown else [a * np.nan for a in tasks]

    trainer, countdown = trainer_of("--iterations", "10"), [False, True, True]
    start, batches = trainer.start(), np.random.default_rng([0, 1])
    theta, _ = trainer("MAML", start, sample, 0.01, 1)
    path = []
    meta_train(trainer.model, start, lambda: families.Sinusoid().sample(batches, 25), 0.01, 1, 2, clip=10,
               lr=maml.cosine_decay(3e-3, 10), callback=lambda *args: path.append(args[2]))
    assert np.array_equal(theta, path[-1])
    printed = " ".join(capsys.readouterr().out.split())
    assert f"MAML: {words}" in printed and printed.endswith("going on with what it has learnt by then")


@about_the_project
def test_demo_saves_whole_or_not_at_all_and_loads_what_it_saved(tmp_path, monkeypatch):
    file, model, rng = str(tmp_path / "kept.npz"), MLP((1, 4, 1)), np.random.default_rng(0)
    learned = {"MAML": (model.init(rng, dtype=np.float32), 0.01), "Meta-SGD": (model.init(rng), rng.random((2, 13)))}
    demo.save(file, learned, "this")
    loaded = demo.load(file, model, "this")
    assert list(loaded) == list(learned)
    for name in learned:
        for found, kept in zip(loaded[name], learned[name]):
            assert np.array_equal(found, kept) and found.dtype == np.asarray(kept).dtype
    whole = Path(file).read_bytes()
    monkeypatch.setattr(np, "savez", lambda stream, **arrays: stream.write(b"half") and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        demo.save(file, {}, "this")
    assert Path(file).read_bytes() == whole and os.listdir(tmp_path) == ["kept.npz"]


@about_the_project
@pytest.mark.parametrize("change, message", (
    (dict(made_for="that"), "expected what --save wrote for this, got it for that"),
    ({"MAML theta": np.zeros(12)}, r"theta: expected float32 or float64 of shape \(..., 13\)"),
    ({"MAML theta": np.zeros((2, 13))}, "MAML theta: expected one vector of finite numbers"),
    ({"MAML theta": np.full(13, np.nan)}, "MAML theta: expected one vector of finite numbers"),
    ({"MAML alpha": np.zeros(12)}, r"alpha: expected .* got float64 of shape \(12,\)"),
    ({"MAML alpha": np.array("a")}, "alpha: expected"), ({"MAML alpha": np.array(None)}, "Object arrays"),
    ({"MAML theta": np.zeros(13, complex)}, "MAML theta: expected one vector of finite numbers"),
    (dict(made_for=None), "expected what --save wrote, which has 'made_for"),
    ({"MAML alpha": None}, "expected what --save wrote, which has 'MAML alpha")))
def test_demo_refuses_a_file_that_does_not_fit(tmp_path, change, message):
    file = str(tmp_path / "other.npz")
    arrays = {"made_for": "this", "MAML theta": np.zeros(13), "MAML alpha": np.array(0.1)}
    arrays.update(change)
    np.savez(file, **{name: a for name, a in arrays.items() if a is not None})
    with pytest.raises(demo.Stop, match=rf"^--load {re.escape(file)}: .*{message}") as caught:
        demo.load(file, MLP((1, 4, 1)), "this")
    assert "\n" not in str(caught.value)


@about_the_project
def test_demo_refuses_a_file_that_is_none(tmp_path):
    file = tmp_path / "kept.npz"
    demo.save(str(file), {"MAML": (np.zeros(13), 0.1)}, "sinusoids, network 1-4-1 relu")
    whole = file.read_bytes()
    with pytest.raises(demo.Stop, match="expected Reptile, got only MAML"):
        trainer_of("--load", str(file))("Reptile", None, None, 0.1, 1)
    for content in b"", b"text", whole[:200], whole[:-30], whole[:300] + b"?" + whole[301:]:
        file.write_bytes(content)
        with pytest.raises(demo.Stop, match="^--load "):
            trainer_of("--load", str(file))
    with pytest.raises(demo.Stop, match="expected a .npz file that --save wrote"):
        trainer_of("--load", str(tmp_path / "none.npz"))
    demo.save(str(file), {"MAML": (np.zeros(13), 0.1)}, "paper, network 1-4-1 relu")
    with pytest.raises(demo.Stop, match="for sinusoids, network 1-4-1 relu, got it for paper, network 1-4-1 relu"):
        trainer_of("--load", str(file))


@about_the_project
def test_demo_runs_and_tells_the_whole_story(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(demo, "OTHERS", 10)
    file, options = str(tmp_path / "kept.npz"), ("--iterations", "20", "--unseen", "30", "--seed", "3")
    printed = run_demo(capsys, *options, "--save", file)
    cells = {}
    for row in ("random initialisation", "joint training", "Reptile", "first-order MAML", "MAML", "Meta-SGD",
                "mean of all waves", "oracle, knows the wave"):
        cells[row] = re.search(rf"^{row}((?: +(?:[\d.]+ ± [\d.]+|diverged)){{4}})$", printed, re.M).group(1)
    maml, joint = (cells[row].replace(" ± ", "±").split()[1].split("±")[0] for row in ("MAML", "joint training"))
    assert f"after one step on 10 points MAML errs by {maml}, joint training on the same tasks by {joint}." in (
        " ".join(printed.split()))
    assert cells["oracle, knows the wave"].split() == ["0.00", "±", "0.00"] * 4
    assert "100%" in printed and printed.count("\n│") == 21 and "\r" not in printed
    assert max(map(len, printed.splitlines())) <= 80
    assert run_demo(capsys, *options) == printed  # same seed, same figures
    shown = run_demo(capsys, "--load", file, "--unseen", "30", "--seed", "3")
    assert shown.split("Mean squared")[1] == printed.split("Mean squared")[1]


@about_the_project
def test_demo_runs_in_every_mode(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(demo, "OTHERS", 3)
    tiny = ("--iterations", "2", "--unseen", "4")
    printed = run_demo(capsys, "--paper", *tiny)
    assert [int(n) for n in re.findall(r"unseen tasks, (\d+) points", printed)] == [5, 10, 20]
    assert re.search(r"^MAML, Table 2 +0.67 +0.38 +0.35$", printed, re.M)
    assert len(re.findall("^joint training .*±", printed, re.M)) == len(re.findall("^MAML .*±", printed, re.M)) == 3
    kept = str(tmp_path / "kept.npz")
    run_demo(capsys, "--paper", "--iterations", "1", "--unseen", "4", "--save", kept)
    assert np.abs(np.load(kept)["MAML theta"]).max() < 0.0215  # weights cut off at 0.02, and one step of 0.001
    assert "Table 2" not in run_demo(capsys, "--paper", *tiny, "--test-amplitude", "5", "10")
    assert "Table 2" in run_demo(capsys, "--paper", *tiny, "--test-amplitude", "0.1", "5")
    printed = run_demo(capsys, "--best", *tiny)
    for row in "Meta-SGD, one step", "five learned steps":
        assert len(re.findall(f"^{row} .*±", printed, re.M)) == 2
    printed = run_demo(capsys, "--tasks", "characters", *tiny)
    assert printed.count("\nnearest by pixels") == 2 and printed.count("\nlabel 0 ") == 2
    assert [int(n) for n in re.findall(r"unseen characters, (\d) of each", printed)] == [1, 5]
    assert max(map(len, printed.splitlines())) <= 80


@about_the_project
def test_demo_settings_are_those_of_the_mode_changed_by_the_options(tmp_path):
    plain = vars(demo.settings([]))
    assert (plain["shots"], plain["inner_steps"], plain["inner_rate"], plain["iterations"]) == (10, 1, 0.01, 12000)
    options = {"shots": 5, "inner_steps": 3, "inner_rate": 0.5, "outer_rate": 1e-4, "meta_batch": 7, "iterations": 9,
               "unseen": 11, "seed": 0, "activation": "tanh", "float": 64, "test_amplitude": [1, 2],
               "test_phase": [-1, 9.5], "save": str(tmp_path / "a.npz")}
    line = ["--first-order"]
    for name, value in options.items():
        line += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, list) else [value])]
    assert vars(demo.settings(line)) == {**plain, **options, "first_order": True}
    assert demo.settings(["--quick"]).iterations == 1200 and demo.settings(["--quick", "--paper"]).iterations == 7000
    paper = demo.settings(["--paper", "--inner-rate", "0.01"])
    assert (paper.inner_rate, paper.outer_rate, paper.clip, paper.decay) == (0.01, 1e-3, None, False)
    assert demo.settings(["--tasks", "characters"]).inner_steps == 3 and demo.settings(["--best"]).unseen == 4000


@about_the_project
@pytest.mark.parametrize("line, words", (
    ("--iterations 0", "--iterations: expected a whole number >= 1, got '0'"), ("--iterations 2.5", "got '2.5'"),
    ("--iterations 9 --quick", "not allowed with"), ("--seed -1", "--seed: expected a whole number >= 0, got '-1'"),
    ("--shots none", "--shots"), ("--unseen 0", "--unseen"), ("--inner-steps 0", "--inner-steps"),
    ("--meta-batch 0", "--meta-batch"), ("--inner-rate 0", "--inner-rate: expected a number > 0, got '0'"),
    ("--outer-rate inf", "got 'inf'"), ("--inner-rate nan", "got 'nan'"), ("--activation gelu", "--activation"),
    ("--float 16", "--float"), ("--test-amplitude 2 1", "--test-amplitude: expected LOW <= HIGH, got 2.0 1.0"),
    ("--test-phase 1", "--test-phase"), ("--test-phase 0 inf", "--test-phase: expected a finite number, got 'inf'"),
    ("--save out", "--save: expected a name that ends in .npz"), ("--save no/folder/a.npz", "in a folder that exists"),
    ("--plot a.jpg", "--plot: expected a name that ends in .png or .svg or .pdf"), ("--bogus", "--bogus"),
    ("--paper --best", "not allowed with"), ("--tasks cars", "--tasks"), ("--iter 9", "--iter"),
    ("--best --shots 5", "--shots has no meaning for best"),
    ("--tasks characters --plot a.png", "--plot has no meaning for characters"),
    ("--load a.npz --float 32", "--load trains nothing, so --float has no meaning"),
    ("--load a.npz --quick", "so --quick has no meaning")))
def test_demo_refuses_bad_options_in_one_line(capsys, line, words):
    with pytest.raises(SystemExit) as caught:
        demo.main(line.split())
    printed = capsys.readouterr()
    assert caught.value.code == 2 and words in printed.err.splitlines()[-1] and not printed.out


@about_the_project
def test_demo_plots_where_matplotlib_is_and_says_how_to_get_it_where_it_is_not(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        demo.main(["--plot", str(tmp_path / "a.png")])
    assert "error: --plot needs matplotlib: python -m pip install matplotlib" in capsys.readouterr().err
    monkeypatch.undo()
    pytest.importorskip("matplotlib")
    for end in "png", "svg", "pdf":
        demo.main(["--iterations", "1", "--unseen", "4", "--plot", str(tmp_path / f"a.{end}")])
        assert (tmp_path / f"a.{end}").stat().st_size > 5000


@about_the_project
def test_demo_runs_as_a_command_and_draws_in_ascii_where_unicode_cannot_be_shown():
    line = [sys.executable, demo.__file__, "--quick", "--unseen", "9", "--meta-batch", "1", "--shots", "2"]
    done = subprocess.run(line, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    printed = done.stdout.decode("ascii")
    assert done.returncode == 0 and not done.stderr
    assert re.search(r"^MAML +\d+\.\d\d ~ \d+\.\d\d ", printed, re.M) and "+- MAML, before ---" in printed
    assert re.search(r"^\|[ .*O]{37}\| \|[ .*O]{37}\|$", printed, re.M)
    refused = subprocess.run([*line[:2], "--load", "no.npz"], capture_output=True, text=True)
    assert refused.returncode == 1 and refused.stderr == (
        "demo.py: --load no.npz: expected a .npz file that --save wrote\n")


if __name__ == "__main__":
    if sys.argv[1:] != ["--skeleton"]:
        sys.exit(__doc__)
    sys.stdout.reconfigure(encoding="utf-8")
    print(skeleton((HERE / "maml.py").read_text(encoding="utf-8")))
