"""Proof that maml.py computes its equations, and tests of what stands around it: python -m pytest

The proof is a chain: losses against values worked by hand, the forward pass against loops, the
gradient against the loss, the Hessian-vector product against the gradient, the meta-gradient
against the meta-objective. docs/vectors.json, made by autodiff, is an oracle from outside.
"""
import doctest
import json
import math
import os
import textwrap
from functools import partial
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")   # before NumPy is loaded, as demo.py has it
import numpy as np
import pytest

import demo
import maml
import tasks as families
from maml import MLP, Adam, adapt, check_model, meta_gradient, meta_train, reptile_gradient

HERE = Path(__file__).resolve().parent

# ----------------------------------------------------------------------------- helpers and problems

def same(found, expected, tolerance=1e-12):   # relative to the largest number expected
    assert np.shape(found) == np.shape(expected), f"shapes {np.shape(found)}, {np.shape(expected)}"
    error, largest = np.max(np.abs(np.subtract(found, expected))), np.max(np.abs(expected))
    assert error <= tolerance * largest, f"off by {error:.1e}, where the largest is {largest:.1e}"


def derivative(f, at, direction, h=1e-30):
    """Return f′(at) d by the complex step: f(x + ihd) = f(x) + ih f′(x)d + O(h²), to rounding."""
    return np.imag(f(at + 1j * h * direction)) / h


# The numbers of tasks, examples and units differ, so that to confuse two of them shows.
DEEP, ONE_OUTPUT, LINEAR = (2, 6, 5, 3), (1, 6, 5, 1), (2, 3)   # the second like the README's
NETWORKS = [(DEEP, "tanh"), (DEEP, "relu"), (ONE_OUTPUT, "tanh"), (ONE_OUTPUT, "relu"),
            (LINEAR, "relu")]
SPECS = [(*network, loss) for network in NETWORKS for loss in ("mse", "policy")]
SPECS += [(*network, "cross_entropy") for network in NETWORKS if network[0] != ONE_OUTPUT]
every_model = pytest.mark.parametrize("spec", SPECS, ids=str)
every_K = pytest.mark.parametrize("K", (3, 1, 5, 0))   # K = 1 hides mistakes
SMALL = (2, 6, 3), "tanh", "mse"
_, *VECTORS = json.loads((HERE / "docs" / "vectors.json").read_text(encoding="utf-8"))


def problem(spec):   # a model, θ away from 0, tasks, and a generator; θ and tasks are read-only
    sizes, _, loss = spec
    model, rng, tasks = MLP(*spec), np.random.default_rng(7), []
    theta = model.init(rng) + 0.1 * rng.standard_normal(model.n_params)
    for n in 8, 7:
        y = rng.standard_normal((4, n, sizes[-1]))
        if loss == "policy":   # advantages below 0 drive θ_k away, so small ones
            y = np.concatenate((y, 0.3 * rng.standard_normal((4, n, 1))), -1)
        if loss == "cross_entropy":
            y = rng.integers(0, sizes[-1], (4, n))
        tasks += [rng.standard_normal((4, n, sizes[0])), y]
    for a in theta, *tasks:
        a.setflags(write=False)
    return model, theta, tasks, rng


def alphas(rng, K, P):   # every form that alpha may take
    return [rng.uniform(0.05, 0.15, form) for form in ((), P, (max(K, 1), 1), (max(K, 1), P))]


def J(model, theta, tasks, alpha, K):   # (2): adapt, then judge
    return model.loss(adapt(model, theta, *tasks[:2], alpha, K), *tasks[2:]).mean()


# ----------------------------------------------------------------------- the algorithm, (1) to (6)

@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: f"{v['activation']} {v['loss']}")
def test_01_to_05_equal_what_jax_computes(vector):
    model = MLP(vector["sizes"], vector["activation"], vector["loss"])
    tasks = [vector[name] for name in ("x_support", "y_support", "x_query", "y_query")]
    given = model, vector["theta"], tasks, vector["alpha"], vector["steps"]
    answer = meta_gradient(*given, wrt_alpha=True)
    for name, found in zip(("J", "grad_theta", "grad_alpha"), answer):
        same(found, vector[name])
    same(meta_gradient(*given, first_order=True)[1], vector["first_order"])


def test_01_to_06_worked_by_hand():
    """One task, one input, no hidden layer, θ = (w, b) = (1, 0), α = 1/2, one step.

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
    found = (adapt(model, theta, *tasks[:2], 0.5),
             *meta_gradient(model, theta, tasks, 0.5, wrt_alpha=True),
             meta_gradient(model, theta, tasks, [0.5, 0.5], wrt_alpha=True)[2],
             meta_gradient(model, theta, tasks, 0.5, first_order=True)[1],
             *reptile_gradient(model, theta, tasks, 0.5))
    expected = [[3, 2]], 1, [-2, -4], 24, [16, 8], [4, 2], 1, [-2, -2]
    assert list(map(np.array_equal, found, expected)) == [True] * 8


@every_K
def test_01_adapt_takes_K_gradient_steps(K):
    """θ may be shared or one for each task, θ and α real or complex."""
    model, theta, (x, y, _, _), rng = problem(SMALL)
    each = theta + 0.1 * rng.standard_normal((4, model.n_params))
    assert adapt(model, theta.astype("f"), x, y, np.full(1, 0.1), K).dtype == np.float32
    for start in theta, each, (1 + 0.1j) * theta, (1 + 0.1j) * each:
        for alpha in alphas(rng, K, model.n_params):
            for rates in alpha, (1 + 0.3j) * alpha:
                expected = start
                for rate in np.broadcast_to(rates, (K, model.n_params)):
                    expected = expected - rate * model.linearize(expected, x, y)[1]
                found = adapt(model, start, x, y, rates, K)
                assert not np.shares_memory(found, start)
                same(found, expected)


@every_K
@every_model
def test_02_to_05_the_meta_gradient_is_the_derivative_of_the_meta_objective(spec, K):
    """Last, ∂²J/∂θ∂α is found twice, from ∂J/∂θ by complex α and from ∂J/∂α by complex θ."""
    model, theta, tasks, rng = problem(spec)
    gradient = partial(meta_gradient, model, tasks=tasks, steps=K, wrt_alpha=True)
    for a in gradient(theta.astype("f"), alpha=np.full(1, 0.1))[1:]:
        assert a.dtype == np.float32
    for alpha in alphas(rng, K, model.n_params):
        found, grad_theta, grad_alpha = gradient(theta, alpha=alpha)
        d = np.copysign(rng.standard_normal(theta.shape), grad_theta)   # so that no sum cancels
        e = np.copysign(rng.standard_normal(alpha.shape), grad_alpha)
        same(found, J(model, theta, tasks, alpha, K))
        same(grad_theta @ d, derivative(lambda t: J(model, t, tasks, alpha, K), theta, d))
        same((grad_alpha * e).sum(), derivative(lambda a: J(model, theta, tasks, a, K), alpha, e))
        same(grad_theta @ d, derivative(lambda t: gradient(t, alpha=alpha)[0], theta, d))
        mixed = derivative(lambda a: gradient(theta, alpha=a)[1], alpha, e)
        d = np.copysign(d, mixed)
        same(mixed @ d, derivative(lambda t: (gradient(t, alpha=alpha)[2] * e).sum(), theta, d))


@pytest.mark.parametrize("K", (1, 3, 5))
def test_04_05_the_meta_gradient_by_finite_differences(K):
    """The familiar second opinion, in real arithmetic: (J(θ + hd) − J(θ − hd)) / 2h."""
    model, theta, tasks, rng = problem((DEEP, "tanh", "cross_entropy"))
    alpha, h = rng.uniform(0.05, 0.15, (K, model.n_params)), 1e-5
    _, grad_theta, grad_alpha = meta_gradient(model, theta, tasks, alpha, K, wrt_alpha=True)
    for _ in range(5):
        d, e = rng.standard_normal(theta.shape), rng.standard_normal(alpha.shape)
        above, below = (J(model, theta + s * h * d, tasks, alpha, K) for s in (1, -1))
        same(grad_theta @ d, (above - below) / (2 * h), 1e-6)
        above, below = (J(model, theta, tasks, alpha + s * h * e, K) for s in (1, -1))
        same((grad_alpha * e).sum(), (above - below) / (2 * h), 1e-6)


def test_03_05_first_order_leaves_out_the_hessian():
    model, theta, tasks, rng = problem(SMALL)
    alpha = rng.uniform(0.05, 0.15, theta.shape)
    grad_alpha = meta_gradient(model, theta, tasks, alpha, 3, True, True)[2]
    end = adapt(model, theta, *tasks[:2], alpha, 3)
    v_K = model.linearize(end, *tasks[2:])[1]
    same(alpha * grad_alpha, -((theta - end) * v_K).mean(0))   # α times the sum of all g


@every_K
def test_06_reptile_is_the_mean_way_from_theta_K(K):
    model, theta, tasks, rng = problem(SMALL)
    assert reptile_gradient(model, theta.astype("f"), tasks, 0.1, K)[1].dtype == np.float32
    for start in theta, theta + 0.1j * rng.standard_normal(theta.shape):
        found, direction = reptile_gradient(model, start, tasks, 0.1 + 0.03j, K)
        ways = [start - adapt(model, start, x, y, 0.1 + 0.03j, K) for x, y in zip(*tasks[:2])]
        same(direction, np.mean(ways, axis=0))
        same(found, J(model, start, tasks, 0.1 + 0.03j, K))


@pytest.mark.parametrize("gradient", (
    reptile_gradient, lambda *a: meta_gradient(*a)[:2], partial(meta_gradient, wrt_alpha=True)))
def test_02_to_06_tasks_in_groups_give_what_one_at_a_time_gives(gradient):
    """75,000 parameters take 0.6 MB, so five tasks come in groups of 2, 2 and 1."""
    model, rng = MLP((74999, 1)), np.random.default_rng(0)
    theta, alpha = 0.01 * rng.standard_normal(75000), rng.uniform(0, 1e-5, (2, 1))
    tasks = [rng.standard_normal((5, n, d)) for n in (2, 3) for d in (74999, 1)]
    each = [gradient(model, theta, [a[i:i + 1] for a in tasks], alpha, 2) for i in range(5)]
    for found, parts in zip(gradient(model, theta, tasks, alpha, 2), zip(*each)):
        same(found, np.mean(parts, axis=0))


# ------------------------------------------------------------------------- the model, (7) to (12R)

def check_loss(function, f, y):   # δ is the derivative of L, and R{δ} that of δ
    d = np.random.default_rng(1).standard_normal(f.shape)
    f.flags.writeable = d.flags.writeable = False
    _, delta, delta_along = function(f, y)
    same((delta * d).sum((-2, -1)), derivative(lambda f: function(f, y)[0], f, d))
    same(delta_along(d), derivative(lambda f: function(f, y)[1], f, d))


def test_07_mse():
    """By hand, two tasks of two examples: the squared errors add up to 18 and 72, L is 3 and 12."""
    off = np.array([[[1.0, 0, -2], [3, 0, 2]], [[6, 0, 0], [0, 0, -6]]])
    y = np.arange(12.0).reshape(2, 2, 3)
    same(maml.mse(y + off, y)[0], [3, 12])
    check_loss(maml.mse, *np.random.default_rng(0).standard_normal((2, 4, 5, 3)))


def test_08_cross_entropy():
    """By hand: p of the labels is 1/4, 2/3, 4/5. Extreme logits: (1, 0, 0) and (0, ½, ½)."""
    rng, f = np.random.default_rng(0), np.log([[1, 3], [2, 1], [1, 4]])
    same(maml.cross_entropy(f, np.array([0, 0, 1]))[0], math.log(7.5) / 3)
    check_loss(maml.cross_entropy, rng.standard_normal((4, 5, 3)), rng.integers(0, 3, (4, 5)))
    extreme = np.array([[1e3, -1e3, 0.0], [-3e3, -1e3, -1e3]])
    loss, delta, delta_along = maml.cross_entropy(extreme, np.array([1, 1]))
    same(loss, (2e3 + math.log(2)) / 2)
    same(delta, [[0.5, -0.5, 0], [0, -0.25, 0.25]])
    same(delta_along(np.eye(3)[[1, 1]]), [[0, 0, 0], [0, 0.125, -0.125]])


def test_09_policy():
    """By hand: ‖f − action‖² is 5, 4, 3, 6, the advantages 3, −1, 2, 4: L = 41 / 8."""
    off = np.array([[1.0, 2, 0], [0, 2, 0], [1, 1, 1], [2, 1, 1]])
    action, advantage = np.arange(12.0).reshape(4, 3), np.array([[3.0], [-1], [2], [4]])
    same(maml.policy(action + off, np.hstack([action, advantage]))[0], 41 / 8)
    rng = np.random.default_rng(0)
    check_loss(maml.policy, rng.standard_normal((4, 5, 2)), rng.standard_normal((4, 5, 3)))


@pytest.mark.parametrize("sigma, by_hand", (
    (maml.relu, [[-1000, 0, 0, 0], [-1e-9, 0, 0, 0], [0, 0, 0, 0], [1e-9, 1e-9, 1, 0]]),
    (maml.tanh, [[-1000, -1, 0, 0], [math.atanh(0.5), 0.5, 0.75, -0.75], [1000, 1, 0, 0]])))
def test_10_activations_and_their_derivatives(sigma, by_hand):
    """Each row: z, σ, σ′, σ″ (None if always 0); tanh has ½, 1 − ½² and −2 · ½ · ¾ at atanh ½."""
    z, *expected = np.array(by_hand, float).T
    z.setflags(write=False)
    a, slope, curvature = sigma(z)
    same([a, slope, 0 * z if curvature is None else curvature], expected)


def test_10_theta_holds_weights_then_bias_layer_by_layer_and_unpack_gives_views():
    model, theta = MLP((1, 2, 1)), np.arange(7.0)
    parts = [part for pair in model.unpack(theta) for part in pair]
    for part, expected in zip(parts, ([[0, 1]], [[2, 3]], [[4], [5]], [[6]])):
        same(part, expected)
        assert np.shares_memory(part, theta)
    assert model.predict(list(theta), [[1.0]]) == 4 * 2 + 5 * 4 + 6


@every_model
def test_10_the_forward_pass_equals_loops_over_single_numbers(spec):
    model, theta, (x, _, _, _), _ = problem(spec)
    activation = {"relu": lambda z: max(z, 0.0), "tanh": math.tanh}[spec[1]]
    outputs = []
    for a in x.reshape(-1, x.shape[-1]):
        for W, b in model.unpack(theta):
            z = [sum(a[i] * W[i, j] for i in range(len(a))) + b[0, j] for j in range(W.shape[1])]
            a = [activation(number) for number in z]
        outputs.append(z)   # of the last layer
    same(model.predict(theta, x), np.reshape(outputs, (*x.shape[:-1], -1)))


@every_model
def test_11_12_the_gradient_is_the_derivative_of_the_loss(spec):
    model, theta, (x, y, _, _), rng = problem(spec)
    loss, grad, _ = model.linearize(theta, x, y)
    d = rng.standard_normal((4, model.n_params))   # another for each task
    same(loss, model.loss(theta, x, y))
    same((grad * d).sum(-1), derivative(lambda t: model.loss(t, x, y), theta, d))


@every_model
def test_10R_to_12R_hvp_is_the_derivative_of_the_gradient(spec):
    model, theta, (x, y, _, _), rng = problem(spec)
    r = rng.standard_normal((4, model.n_params))   # another for each task
    r.setflags(write=False)
    hvp = model.linearize(theta, x, y)[2]
    same(hvp(r), derivative(lambda t: model.linearize(t, x, y)[1], theta, r))
    loss, grad, hvp = model.linearize(theta.astype("f"), x, y)
    for a in loss, grad, hvp(grad), model.predict(theta.astype("f"), x):
        assert a.dtype == np.float32


@every_model
def test_10_to_12R_leading_axes_broadcast(spec):
    """Parameters and data, each shared or one for each task, give what one task at a time gives."""
    model, theta, (x, y, _, _), rng = problem(spec)
    many = theta + 0.1 * rng.standard_normal((4, model.n_params))
    same(model.loss(many[:, None], x[None], y[None]), [model.loss(t, x, y) for t in many])
    for whole, each in (((many, x, y), (many, x, y)), ((theta, x, y), ([theta] * 4, x, y)),
                        ((many, x[0], y[0]), (many, [x[0]] * 4, [y[0]] * 4))):
        loss, grad, hvp = model.linearize(*whole)
        losses, grads, hvps = zip(*(model.linearize(*single) for single in zip(*each)))
        same(loss, losses)
        same(grad, grads)
        same(hvp(grad), [hvp_i(grad_i) for hvp_i, grad_i in zip(hvps, grads)])
    hvp = model.linearize(theta, x[0], y[0])[2]
    same(hvp(grad), [hvp(grad_i) for grad_i in grad])   # grad is the last case's


def test_init_scales_the_weights_and_leaves_the_biases_at_0():
    rng = np.random.default_rng(0)
    for activation, gain, std in ("relu", 2, None), ("tanh", 1, None), ("relu", None, 0.1):
        model = MLP((50, 400, 300), activation)
        for W, b in model.unpack(model.init(rng, std)):
            same(np.std(W), np.sqrt(gain / len(W)) if std is None else std, 0.02)
            assert not b.any()
    assert model.init(rng, dtype=np.float32).dtype == np.float32


def changed(model, change):   # a model whose L, g and hvp are changed
    return SimpleNamespace(linearize=lambda *given: change(*model.linearize(*given)))


@every_model
def test_check_model_calls_right_models_right(spec):
    """Also where relu is at its kink, at θ = 0 or x = 0, or near it, as one of 400 tasks is."""
    model, theta, (x, y, _, _), rng = problem(spec)
    one_zero = x * (np.arange(8) > 0)[:, None]
    for t, data in ((theta, x), (0 * theta, x), (model.init(rng), 0 * x), (theta, one_zero),
                    (np.tile(theta, (4, 1)), x), (theta, rng.standard_normal((400, *x.shape[1:])))):
        targets = np.concatenate([y] * (len(data) // 4))
        assert max(check_model(model, t, data, targets)) < 1e-7
    assert max(check_model(model, theta, x[0], y[0])) < 1e-7


def test_check_model_calls_wrong_models_wrong():
    """The first error is that of the gradient, the second that of H r, both also at 0."""
    class Bent(MLP):
        def _forward(self, M, x):   # with −σ″ for σ″
            f, A, slope, curvature = super()._forward(M, x)
            return f, A, slope, [-c for c in curvature]

    bent = Bent(DEEP, "tanh")
    model, theta, (x, y, _, _), _ = problem((DEEP, "tanh", "mse"))
    later = np.arange(model.n_params) > 17   # not the first layer's
    wrong_g = changed(model, lambda L, g, hvp: (L, g * later, hvp))
    doubled = changed(model, lambda L, g, hvp: (L, 2 * g, lambda r: 4 * hvp(r)))
    mixed = changed(model, lambda L, g, hvp: (L, g, lambda r: hvp(r[::-1])))
    for t, data in (theta, x), (0 * theta, x), (theta, 0 * x):
        assert check_model(wrong_g, t, data, y)[0] > 0.01
        for wrong_H in mixed, bent:
            grad_error, Hr_error = check_model(wrong_H, t, data, y)
            assert grad_error < 1e-7 < 1e-3 < Hr_error
        same(check_model(doubled, t, data, y), [1.0, 1.0], 1e-6)
    flat = changed(model, lambda L, g, hvp: (0 * L, 0 * g, lambda r: 0 * r))
    assert check_model(flat, theta, x, y) == (0, 0)
    wrong_far_from_0 = SimpleNamespace(linearize=lambda t, x, y: (   # as at θ
        bent if abs(t).max() > 0.7 else model).linearize(t, x, y))
    assert check_model(wrong_far_from_0, theta, x, y)[1] > 1e-3


# ---------------------------------------------------------------------------- the outer loop, (13)

@pytest.mark.parametrize("adam, beta1, beta2, eps", (
    (Adam(), 0.9, 0.999, 1e-8), (Adam(0.5, 0.25, 0.125), 0.5, 0.25, 0.125)))
def test_13_adam(adam, beta1, beta2, eps):
    """m and u of (13) are written out as sums here, from θ = 0; ε counts in some columns only."""
    grads = np.random.default_rng(2).standard_normal((4, 5)) * [1, 1e-2, 1e-4, 1e-8, 10]
    theta = right = np.zeros(5)
    for t in range(1, 5):
        theta = adam.step(theta, grads[t - 1], 0.01)
        age = np.arange(t)[::-1, None]
        m = ((1 - beta1) * beta1**age * grads[:t]).sum(0) / (1 - beta1**t)
        u = ((1 - beta2) * beta2**age * grads[:t]**2).sum(0) / (1 - beta2**t)
        right = right - 0.01 * m / (np.sqrt(u) + eps)
        same(theta, right)
    assert Adam().step(theta.astype("f"), theta, np.float64(0.1)).dtype == np.float32


def test_13_meta_train_clips_the_global_norm_decays_the_rate_reports_and_can_be_ended():
    """Norms √(3² + 0² + 4²) = 5 and 1, clip = 2: the first shrinks to 2/5, the second stays."""
    asked, seen = [], []
    answers = [(9.0, np.array([3.0, 0.0]), np.array(4.0)),
               (8.0, np.array([0.48, 0.64]), np.array(0.6))]
    def gradient(model, theta, batch, alpha, K):
        asked.append((batch, K, *theta, alpha))
        return answers[batch]
    def callback(i, loss, theta, alpha):
        seen.append((i, loss, *theta, alpha))
        return np.bool_(i == 1)
    sample, lr = iter((0, 1)).__next__, [0.5, 0.25].__getitem__
    learned = meta_train(None, np.zeros(2), sample, 0.1, 3, 5, lr, 2, gradient, callback)
    theta, alpha, for_theta, for_alpha = np.zeros(2), np.array(0.1), Adam(), Adam()
    for i, G, grad_alpha in (0, (1.2, 0), 1.6), (1, (0.48, 0.64), 0.6):
        same(asked[i], (i, 3, *theta, alpha))
        theta = for_theta.step(theta, np.array(G), lr(i))
        alpha = for_alpha.step(alpha, np.array(grad_alpha), lr(i))
        same(seen[i], (i, 9 - i, *theta, alpha))
    same(np.append(*learned), seen[1][2:])


def test_meta_train_has_the_defaults_it_names_and_learns_alpha_only_if_told():
    model, theta, tasks, _ = problem(SMALL)
    seen = []
    meta_train(None, [1.0, 2.0], lambda: 0, 0.1, callback=lambda i, K, *_: seen.append(K),
               gradient=lambda model, theta, batch, alpha, K: (K, np.ones(2)))   # K as the loss
    assert seen == [1] * 1000
    one_step, alpha = meta_train(model, theta, lambda: tasks, 0.1, iterations=1)
    same(one_step, Adam().step(theta, meta_gradient(model, theta, tasks, 0.1)[1]))
    assert type(meta_gradient(model, theta, tasks, 0.1)[0]) is float
    gradient = partial(meta_gradient, wrt_alpha=True)
    assert alpha == 0.1 != meta_train(model, theta, lambda: tasks, 0.1, 1, 1, gradient=gradient)[1]
    same([maml.cosine_decay(3.0, 12)(i) for i in (0, 4, 6, 12, 18)], [3, 2.25, 1.5, 0, 0])


@pytest.mark.parametrize("loss, size, clip, fine", (
    (1, 1, None, True), (1, 0, 10, True), (1, 1e200, 10, True), (math.nan, 1, 10, False),
    (1, math.nan, 10, False), (1, math.inf, 10, False), (1, 1e200, None, False)))
def test_training_stops_at_what_is_not_finite_or_cannot_be_squared(loss, size, clip, fine):
    gradient = lambda *_: (loss, np.full(2, size) + np.exp(np.float64(-1000)))
    train = partial(meta_train, None, np.zeros(2), lambda: 0, 0.1, 1, 1, 1e-3, clip, gradient)
    with np.errstate(all="raise"):   # training must let the underflow of exp above pass
        if fine:
            same(train()[0], np.full(2, -1e-3 * np.sign(size)), 1e-6)
            return
        with pytest.raises(FloatingPointError, match=f"iteration 0: meta-loss {loss}, "):
            train()


# --------------------------------------------------------------------------------- what is refused

R, C, THETA, ZEROS = MLP((2, 3, 1)), MLP((2, 3), loss="cross_entropy"), np.zeros(13), np.zeros(9)
X, Y, LABELS = np.zeros((4, 5, 2)), np.zeros((4, 5, 1)), np.zeros((4, 5), int)
SETS, UNLIKE = [X, Y, X, Y], [np.zeros((5, 2)), np.zeros((6, 2))]
REFUSED = (
    ("activation", lambda: MLP((1, 1), "sigmoid")), ("loss", lambda: MLP((1, 1), loss="hinge")),
    ("sizes", lambda: MLP((3, 1), loss="cross_entropy")),
    ("theta", lambda: R.unpack(THETA[1:])),
    ("theta", lambda: adapt(R, np.zeros(13, int), X, Y, 0.1)),
    ("y", lambda: R.loss(THETA, X, Y[..., 0])),
    ("y", lambda: C.loss(ZEROS, X, LABELS + 3)),
    ("y", lambda: C.loss(ZEROS, X, LABELS - 1)),
    ("y", lambda: C.loss(ZEROS, X, 0.0 * LABELS)),
    ("y", lambda: C.loss(ZEROS, X, LABELS[..., None])),
    ("y", lambda: C.loss(ZEROS, X[:, :3], np.eye(3, dtype=int)[LABELS[:, :3]])),
    ("tasks", lambda: meta_gradient(R, THETA, [X, Y, X, Y[:1]], 0.1)),
    ("tasks", lambda: meta_gradient(R, THETA, [X[0], Y[0], X[0], Y[0]], 0.1)),
    ("tasks", lambda: reptile_gradient(R, THETA, [UNLIKE, UNLIKE, X, Y], 0.1)),
    ("model", lambda: meta_gradient(changed(R, lambda L, g, h: (L.sum(), g, h)), THETA, SETS, 0)),
    ("model", lambda: meta_gradient(changed(R, lambda L, g, h: (L, g.sum(0), h)), THETA, SETS, 0)),
    ("model", lambda: reptile_gradient(changed(R, lambda *_: (Y, Y, None)), THETA, SETS, 0, 0)),
    ("model", lambda: check_model(changed(R, lambda L, g, h: (L, g, np.sum)), THETA, X, Y)),
    ("grad", lambda: Adam().step(THETA, THETA[1:])),
    ("classes", lambda: families.FewShot([np.zeros((16, 2))] * 4)),
    ("classes[4]", lambda: families.FewShot([np.zeros((16, 2))] * 4 + [np.zeros((15, 2))])),
    ("classes[0]", lambda: families.FewShot([np.zeros((16, 14, 14))] * 5)))


@pytest.mark.parametrize("name, call", REFUSED)
def test_what_is_likely_and_would_pass_in_silence_is_refused_in_one_line(name, call):
    with pytest.raises(ValueError) as caught:
        call()
    assert str(caught.value).startswith(name)
    assert "\n" not in str(caught.value)


def test_the_readme_quotes_meta_gradient_as_it_stands_and_the_example_in_its_head_runs():
    quote = (HERE / "README.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    assert textwrap.indent(quote, 4 * " ") in (HERE / "maml.py").read_text(encoding="utf-8")
    assert doctest.testmod(maml, raise_on_error=True).attempted > 0


# -------------------------------------------------------------------------------------------- tasks

def test_sinusoid_has_the_paper_s_ranges_and_tells_the_truth():
    rng, plain = np.random.default_rng(3), families.Sinusoid(50, 20)
    waves = plain.draw(rng, 2000)
    x, y, x_query, y_query = plain.observe(rng, waves)
    assert (x.shape, np.unique(np.hstack((x, x_query))).size) == ((2000, 50, 1), 2000 * 70)
    same(np.hstack((y, y_query)), waves.amplitude * np.sin(np.hstack((x, x_query)) - waves.phase))
    noisy = families.Sinusoid(50, 20, frequency=(0.8, 1.2), noise=0.3)
    fast = noisy.draw(rng, 2000)
    for values, low, high in ((waves.amplitude, 0.1, 5), (waves.phase, 0, np.pi), (x, -5, 5),
                              (fast.frequency, 0.8, 1.2)):
        same([values.min(), values.max()], [low, high], 0.01)
        assert low <= values.min() < values.max() <= high
    x, y, *_ = noisy.observe(rng, fast)
    same(np.std(y - fast.amplitude * np.sin(fast.frequency * x - fast.phase)), 0.3, 0.01)


def test_few_shot_tasks_keep_what_the_sampler_promises():
    """Ways, labels and examples are all equally likely, and no example comes twice in a task."""
    counts, rng = (7, 5, 12, 6, 9), np.random.default_rng(0)
    classes = [np.stack([np.full(n, c), np.arange(n)], -1) for c, n in enumerate(counts)]
    tasks = families.FewShot(classes, 3, 2, 3).sample(rng, 6000)
    x, y, _, _ = families.pool(tasks)
    for i in range(300):
        assert len({tuple(example) for example in x[i]}) == 15
        assert len(set(x[i, :, 0])) == len(set(zip(x[i, :, 0], y[i]))) == 3   # a label for each
    for labels, n in (tasks.y_support, 2), (tasks.y_query, 3):
        assert ((labels[..., None] == np.arange(3)).sum(1) == n).all()
    seen = np.zeros((5, 12, 3))
    np.add.at(seen, (x[..., 0], x[..., 1], y), 1)
    for c, count in enumerate(counts):   # 6000 tasks / 5 classes · 5 examples of a label / count
        same(seen[c, :count], np.full((count, 3), 6000 / count), 0.2)
    drawn = families.characters(rng, 30, 8)   # more alike within a class than between
    assert 0 <= np.min(drawn) < 0.1 < np.mean(drawn) < 0.4 < 0.9 < np.max(drawn) <= 1
    assert abs(np.diff(drawn, axis=1)).mean() < 0.9 * abs(np.diff(drawn, axis=0)).mean()


def test_navigation_moves_by_clipped_actions_and_rewards_nearness():
    """Every mean action is (1, −0.02) here: 0.1 a step to the right, a fifth of that down."""
    world, rng = families.Navigation(3, 4, deviation=1e-12), np.random.default_rng(0)
    goals = world.draw(rng, 5000)
    assert -0.5 <= goals.min() < -0.49 < 0.49 < goals.max() <= 0.5
    met = world.roll_out(rng, lambda x: x * 0 + [1, -0.02], goals)
    way = np.array([[0, 0], [0.1, -0.02], [0.2, -0.04], [0.3, -0.06]])
    distance = np.linalg.norm(way[1:] - goals, axis=-1)   # after each move
    same(met.positions, np.tile(way[:3], (5000, 4, 1, 1)), 1e-9)
    same(met.rewards, np.tile(-distance[:, None], (1, 4, 1)), 1e-9)
    noisy = families.Navigation().roll_out(rng, lambda x: 0 * x + 1, goals[:100]).actions
    same([*noisy.shape, noisy.mean(), noisy.std()], [100, 20, 20, 2, 1, 0.1], 2e-5)


def test_advantages_are_rewards_to_go_less_their_mean_over_episodes_in_units_of_their_deviation():
    """To go: 6, 5, 3 and 0, 0, 0. Less the mean: ±3, ±2.5, ±1.5, of deviation √(35/6) = 2.4152."""
    actions, rewards = np.arange(12.0).reshape(1, 2, 3, 2), np.array([[[1.0, 2, 3], [0, 0, 0]]])
    x, y = families.Episodes(actions + 50, actions, rewards).examples()
    half = np.array([3, 2.5, 1.5]) / np.sqrt(35 / 6)
    same(x, np.arange(50.0, 62).reshape(1, 6, 2))
    same(y[..., :2], x - 50)
    same(y[0, :, 2], np.concatenate([half, -half]))
    alike = families.Episodes(actions, actions, 0 * rewards + 0.1).examples()[1]
    assert abs(alike[..., 2]).max() < 0.01


def test_rollout_gradient_is_the_meta_gradient_of_the_episodes_it_rolls_out():
    model, world = MLP((2, 3, 2), "tanh", "policy"), families.Navigation(steps=3, episodes=4)
    theta = model.init(np.random.default_rng(2))
    tasks, again = (world.sample(np.random.default_rng(3), 2) for _ in range(2))
    found = families.rollout_gradient(model, theta, tasks, 0.5, 2, wrt_alpha=True)
    support = again(partial(model.predict, theta)).examples()
    query = again(partial(model.predict, adapt(model, theta, *support, 0.5, 2)))
    right = meta_gradient(model, theta, [*support, *query.examples()], 0.5, 2, wrt_alpha=True)
    for a, b in zip(found, (-query.returns().mean(), *right[1:])):
        same(a, b)


# ----------------------------------------------------------------------------------------- the demo

@pytest.fixture
def run(capsys, monkeypatch):
    def printed(options):   # the lines of the demo on few tasks, characters being noise
        demo.main(f"--unseen 4 --meta-batch 4 --iterations 3 {options}".split())
        return capsys.readouterr().out.splitlines()
    monkeypatch.setattr(demo, "OTHERS", 6)
    monkeypatch.setattr(demo, "characters", lambda rng, *n: list(rng.random((*n, 196), "f")))
    return printed


@pytest.mark.parametrize("tasks", demo.DOMAINS)
def test_demo_prints_a_row_for_each_method_and_the_same_for_the_same_seed(run, tasks):
    lines = run(f"--tasks {tasks} --seed 5")
    for name in "random init", "joint training ", "first-order MAML ", "MAML ", "Meta-SGD ":
        assert any(line.startswith(name) for line in lines)
    assert run(f"--tasks {tasks} --seed 5") == lines


def test_demo_trains_each_method_by_its_own_gradient_on_the_same_tasks(run, monkeypatch):
    calls = []
    monkeypatch.setattr(demo, "meta_train", lambda *given: calls.append(given))
    run("--inner-steps 2")
    tasks = families.Sinusoid().sample(np.random.default_rng([0, demo.TRAINING]), 4)
    pooled, first = families.pool(tasks), partial(meta_gradient, first_order=True)
    rights = ((meta_gradient, pooled, 0), (reptile_gradient, pooled, 5), (first, tasks, 2),
              (meta_gradient, tasks, 2), (partial(meta_gradient, wrt_alpha=True), tasks, 2))
    for (right, seen, K), (model, theta, sample, alpha, steps, *outer) in zip(rights, calls):
        found = outer[3](model, theta, sample(), alpha, steps)   # outer[3] is the gradient
        assert all(map(np.array_equal, found, right(model, theta, seen, alpha, K)))
    assert len(calls) == 5


def test_demo_interval_median_and_choice_of_a_rate_worked_by_hand(capsys):
    """The interval of 1, 2, 3 is 1.96 √(2/3) / √3 = 0.924 wide to either side."""
    scores = np.array([[1.0, 2, 3], [1, 2, np.nan], [1, 2, 2000], [np.inf, 1, np.nan]])
    demo.print_row("name", 0.1, scores, limit=100)
    assert capsys.readouterr().out.split() == (
        "name 0.1 2.00 ± 0.92 median 2.00 median 2.00 diverged diverged, of 3 0 1 1 2".split())
    assert demo.best_rate((1, 2, 3, 4), [[5, np.nan], [4, 6], [1, 8], [np.inf, 0]]) == 3


def test_demo_goes_on_after_ctrl_c_and_after_a_training_that_diverges(run, monkeypatch):
    full, batches = run(""), []
    def pool(tasks):
        batches.append(tasks)
        if len(batches) == 3:   # the last of joint training
            raise KeyboardInterrupt
        return families.pool(tasks)
    monkeypatch.setattr(demo, "pool", pool)
    lines = run("")
    i = lines.index("  joint training: stopped after 2 of 3 iterations")
    assert lines[:i] + lines[i + 2:i + 6] == full[:i] + full[i + 1:i + 5]   # all but its row
    lines = run("--tasks characters --shots 1 --inner-rate 1e29")
    rows = [line for line in lines if line.startswith(("MAML ", "Meta-SGD "))]
    assert [row.count("diverged") for row in rows] == [4, 4]
