"""Every equation of maml.py checked against the one below it, then proof that these checks can fail.

The chain: the loss is worked by hand; the gradient is checked against the loss, the Hessian-vector product against the
gradient, the meta-gradient against the meta-objective. Each check is a complex step: F(θ + ihd) = F(θ) + ih F′(θ)d
+ O(h²), so the imaginary part over h is the derivative along d. Nothing is subtracted, so nothing cancels, h can be
1e-30, and the two sides agree to rounding: the largest relative error seen here is 1e-13, and 1e-12 is allowed.
"""
import io
import math
import re
import subprocess
import sys
from functools import partial

import numpy as np
import pytest

import demo
import maml
import tasks as families
from maml import MLP, adapt, meta_gradient, meta_train, reptile_gradient

TOLERANCE, STEP = 1e-12, 1e-30
MODELS = [(sizes, activation, loss) for sizes in ((3, 4), (3, 5, 4), (3, 5, 6, 4), (3, 5, 6, 5, 4))
          for activation in ("relu", "tanh") for loss in ("mse", "cross_entropy")]
every_model = pytest.mark.parametrize("spec", MODELS, ids=lambda s: "-".join(map(str, s[0])) + f" {s[1]} {s[2]}")
every_K = pytest.mark.parametrize("K", (0, 1, 3, 5))


def problem(spec, n_tasks=3):
    """A model with parameters (biases too) away from 0, and tasks whose support and query sets differ in size."""
    model, rng = MLP(*spec), np.random.default_rng(7)
    theta = model.init(rng) + 0.1 * rng.standard_normal(model.n_params)
    data, d_out = [], model.sizes[-1]
    for n in 5, 4:
        labels, targets = rng.integers(0, d_out, (n_tasks, n)), rng.standard_normal((n_tasks, n, d_out))
        data += [rng.standard_normal((n_tasks, n, model.sizes[0])), targets if spec[2] == "mse" else labels]
    return model, theta, families.Tasks(*data), rng


def derivatives(f, at):
    """∂f/∂at[i] for every i, in at's shape: one complex step along each."""
    at, out = np.asarray(at, float), np.empty(np.shape(at))
    for i in np.ndindex(at.shape):
        d = np.zeros(at.shape)
        d[i] = STEP
        out[i] = np.imag(f(at + 1j * d)) / STEP
    return out


def error(found, expected):
    """Largest deviation, relative to the largest value expected."""
    assert np.shape(found) == np.shape(expected)
    return np.max(np.abs(found - expected)) / np.max(np.abs(expected))


def objective(model, tasks, K, theta, alpha):
    """Equation (2), by adapting and evaluating."""
    adapted = adapt(model, theta, tasks.x_support, tasks.y_support, alpha, K)
    return model.loss(adapted, tasks.x_query, tasks.y_query).mean()


def alphas(rng, K, P):
    """Every form that alpha may take; with K > 2 the last row of the fourth is reused."""
    return [0.1, rng.uniform(0.05, 0.15, P), rng.uniform(0.05, 0.15, (max(K, 1), P)), rng.uniform(0.05, 0.15, (2, 1))]


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
    assert error(model.predict(theta, tasks.x_support), np.reshape(outputs, (3, 5, 4))) < TOLERANCE


def test_theta_holds_weights_then_bias_layer_by_layer_and_unpack_gives_views():
    model = MLP((1, 2, 1))
    theta = np.arange(7.0)
    (W0, b0), (W1, b1) = model.unpack(theta)
    for part, expected in (W0, [[0, 1]]), (b0, [[2, 3]]), (W1, [[4], [5]]), (b1, [[6]]):
        assert np.array_equal(part, expected) and np.shares_memory(part, theta)
    assert model.n_params == 7
    assert [W.shape for W, _ in model.unpack(np.zeros((8, 7)))] == [(8, 1, 2), (8, 2, 1)]


@pytest.mark.parametrize("std, spread", ((None, None), (0.01, 0.01), (0, 0)))
@pytest.mark.parametrize("activation, gain", (("relu", 2), ("tanh", 1)))
def test_init_scales_the_weights_and_leaves_the_biases_at_0(activation, gain, std, spread):
    model = MLP((50, 400, 300), activation)
    for W, b in model.unpack(model.init(np.random.default_rng(0), std)):
        assert abs(np.std(W) - (np.sqrt(gain / len(W)) if std is None else spread)) <= np.std(W) / 50
        assert not b.any()


def test_07_relu_has_slope_0_at_0():
    """The convention of the autodiff frameworks, for the point where relu has no derivative."""
    assert [part.item() for part in maml.relu(np.zeros(1))[:2]] == [0, 0]


def test_08_mse_worked_by_hand():
    """Errors 1, 0, −2, 3 over two examples of two outputs: (1 + 0 + 4 + 9) / 4 = 3.5, gradient 2/4 of the errors."""
    loss, delta, _ = maml.mse(np.array([[2.0, 5.0], [1.0, 3.0]]), np.array([[1.0, 5.0], [3.0, 0.0]]))
    assert loss == 3.5 and np.array_equal(delta, [[0.5, 0], [-1, 1.5]])


def test_09_cross_entropy_worked_by_hand():
    """Logits (0, ln 3) mean p = (1/4, 3/4). Labels 0 and 1: L = (ln 4 + ln 4/3) / 2, δ = (p − onehot) / 2."""
    loss, delta, _ = maml.cross_entropy(np.array([[0, np.log(3)]] * 2), np.array([0, 1]))
    assert error(loss, (np.log(4) + np.log(4 / 3)) / 2) < TOLERANCE
    assert error(delta, np.array([[-3, 3], [1, -1]]) / 8) < TOLERANCE


def test_09_cross_entropy_of_extreme_logits_is_finite():
    logits = np.array([[1e3, -1e3, 0.0], [-1e3, 1e3, 1e3]])
    loss, delta, loss_hvp = maml.cross_entropy(logits, np.array([1, 1]))
    assert error(loss, (2e3 + np.log(2)) / 2) < TOLERANCE
    assert error(delta, np.array([[0.5, -0.5, 0], [0, -0.25, 0.25]])) < TOLERANCE
    assert error(loss_hvp(np.eye(3)[:2]), np.array([[0, 0, 0], [0, 0.125, -0.125]])) < TOLERANCE


@every_model
def test_10_11_gradient_is_the_derivative_of_the_loss(spec):
    model, theta, (x, y, _, _), _ = problem(spec)
    loss, grad, _ = model.linearize(theta, x, y)
    assert error(loss, model.loss(theta, x, y)) == 0
    for i in range(len(x)):
        assert error(grad[i], derivatives(lambda t: model.loss(t, x[i], y[i]), theta)) < TOLERANCE


@every_model
def test_07R_to_11R_hvp_is_the_derivative_of_the_gradient(spec):
    model, theta, (x, y, _, _), rng = problem(spec)
    u, v = rng.standard_normal((2, 3, model.n_params))
    hvp = model.linearize(theta, x, y)[2]
    assert error(hvp(v), model.linearize(theta + 1j * STEP * v, x, y)[1].imag / STEP) < TOLERANCE
    assert error((u * hvp(v)).sum(-1), (v * hvp(u)).sum(-1)) < TOLERANCE  # the Hessian is symmetric


@every_model
def test_leading_axes_broadcast(spec):
    """Parameters and data, each shared or one for each task, give what one task at a time gives."""
    model, theta, (x, y, _, _), rng = problem(spec)
    many, v = theta + 0.1 * rng.standard_normal((3, model.n_params)), rng.standard_normal((3, model.n_params))
    assert error(model.loss(many[:, None], x[None], y[None]), [model.loss(t, x, y) for t in many]) < TOLERANCE
    for t, data in (many, (x, y)), (theta, (x, y)), (many, (x[0], y[0])), (theta, (x[0], y[0])):
        loss, grad, hvp = model.linearize(t, *data)
        for i in range(3):
            single = model.linearize(t[i] if t is many else t, *(data if data[0].ndim == 2 else (x[i], y[i])))
            pick = (lambda a: a[i]) if loss.ndim else (lambda a: a)
            assert error(pick(loss), single[0]) < TOLERANCE and error(pick(grad), single[1]) < TOLERANCE
            assert error(hvp(v)[i], single[2](v[i])) < TOLERANCE


# ------------------------------------------------------------------------------------------------ the algorithm

@every_K
def test_01_adapt_takes_K_gradient_steps(K):
    model, theta, (x, y, _, _), rng = problem(((3, 5, 4), "tanh", "mse"))
    scalar, by_parameter, by_both, by_step = alphas(rng, K, model.n_params)
    for alpha, at in ((scalar, lambda k: scalar), (by_parameter, lambda k: by_parameter),
                      (by_both, lambda k: by_both[k]), (by_step, lambda k: by_step[0 if k == 0 else 1, 0])):
        expected = np.tile(theta, (3, 1))
        for k in range(K):
            expected = expected - at(k) * model.linearize(expected, x, y)[1]
        assert error(adapt(model, theta, x, y, alpha, K) + 0 * expected, expected) < TOLERANCE


@every_model
@every_K
def test_02_03_04_meta_gradient_is_the_derivative_of_the_meta_objective(spec, K):
    model, theta, tasks, rng = problem(spec)
    directions = rng.standard_normal((4, model.n_params))
    for alpha in alphas(rng, K, model.n_params):
        loss, grad, nothing = meta_gradient(model, theta, tasks, alpha, K)
        assert type(loss) is float and error(loss, objective(model, tasks, K, theta, alpha)) < TOLERANCE
        assert nothing is None and grad.shape == theta.shape
        along = [objective(model, tasks, K, theta + 1j * STEP * d, alpha).imag / STEP for d in directions]
        assert error(directions @ grad, np.array(along)) < TOLERANCE


@pytest.mark.parametrize("activation", ("relu", "tanh"))
@pytest.mark.parametrize("loss", ("mse", "cross_entropy"))
@every_K
def test_05_alpha_gradient_is_the_derivative_of_the_meta_objective(activation, loss, K):
    model, theta, tasks, rng = problem(((3, 5, 4), activation, loss))
    for alpha in alphas(rng, K, model.n_params):
        grad = meta_gradient(model, theta, tasks, alpha, K, wrt_alpha=True)[2]
        assert grad.shape == np.shape(alpha)
        if K == 0:
            assert not grad.any()
            continue
        assert error(grad, derivatives(lambda a: objective(model, tasks, K, theta, a), alpha)) < TOLERANCE
    unused = meta_gradient(model, theta, tasks, np.full((K + 1, 1), 0.1), K, wrt_alpha=True)[2]
    assert unused[K] == 0


def test_01_to_05_worked_by_hand():
    """One task, one input, no hidden layer, θ = (w, b) = (1, 0), α = 1/4; support x=1, y=3; query x=2, y=1.

    Support: error w + b − 3 = −2, L = 4, g = 2(−2)(1, 1) = (−4, −4), H = 2 (1 1; 1 1).   (8) (10)
    Adapted: θ_1 = (1, 0) + (4, 4)/4 = (2, 1).                                          (1)
    Query:   error 2·2 + 1 − 1 = 4, J = 16, v_1 = 2·4·(2, 1) = (16, 8).                 (2)
    Back:    H (v_1/4) = 2 (1 1; 1 1) (4, 2) = (12, 12), v_0 = (16, 8) − (12, 12).        (3) (4)
    Rate:    −g ∘ v_1 = (64, 32); for a single α shared by both, 96.                      (5)
    """
    model, theta = MLP((1, 1)), np.array([1.0, 0.0])
    tasks = [np.reshape(float(value), (1, 1, 1)) for value in (1, 3, 2, 1)]
    assert np.array_equal(adapt(model, theta, *tasks[:2], 0.25), [[2, 1]])
    loss, grad, grad_alpha = meta_gradient(model, theta, tasks, 0.25, wrt_alpha=True)
    assert loss == 16 and np.array_equal(grad, [4, -4]) and grad_alpha == 96
    assert np.array_equal(meta_gradient(model, theta, tasks, np.full(2, 0.25), wrt_alpha=True)[2], [64, 32])
    assert np.array_equal(meta_gradient(model, theta, tasks, 0.25, first_order=True)[1], [16, 8])
    loss, direction = reptile_gradient(model, theta, tasks, 0.25)
    assert loss == 16 and np.array_equal(direction, [-1, -1])


def test_03_linear_model_has_the_closed_form_product_of_I_minus_alpha_A():
    """With A the constant Hessian of the support loss, v_0 = (I − A diag α)^K ∇L_q(θ_K)."""
    model, theta, tasks, rng = problem(((3, 4), "relu", "mse"), n_tasks=1)
    X = np.hstack([tasks.x_support[0], np.ones((5, 1))])
    A, alpha = np.kron(2 / (5 * 4) * X.T @ X, np.eye(4)), rng.uniform(0.05, 0.15, 16)
    adapted = adapt(model, theta, tasks.x_support, tasks.y_support, alpha, 4)
    v = model.linearize(adapted, tasks.x_query, tasks.y_query)[1][0]
    expected = np.linalg.matrix_power(np.eye(16) - A * alpha, 4) @ v
    assert error(meta_gradient(model, theta, tasks, alpha, 4)[1], expected) < TOLERANCE


def test_03_meta_gradient_agrees_with_central_differences():
    model, theta, tasks, _ = problem(((3, 5, 4), "tanh", "cross_entropy"))
    J, h = partial(objective, model, tasks, 3, alpha=0.1), 1e-5
    slopes = [(J(theta + h * d) - J(theta - h * d)) / (2 * h) for d in np.eye(model.n_params)]
    assert error(meta_gradient(model, theta, tasks, 0.1, 3)[1], np.array(slopes)) < 1e-6


def test_03_first_order_is_the_mean_gradient_at_theta_K():
    model, theta, tasks, _ = problem(((3, 5, 4), "tanh", "mse"))
    adapted = adapt(model, theta, tasks.x_support, tasks.y_support, 0.1, 3)
    loss, grad, grad_alpha = meta_gradient(model, theta, tasks, 0.1, 3, first_order=True, wrt_alpha=True)
    at_theta_K = model.linearize(adapted, tasks.x_query, tasks.y_query)[1]
    assert error(grad, at_theta_K.mean(0)) < TOLERANCE
    moved = (theta - adapted) / 0.1  # the sum of the support gradients
    assert error(grad_alpha, -(moved * at_theta_K).sum(-1).mean(0)) < TOLERANCE


@every_K
def test_04_a_batch_is_the_mean_of_its_tasks(K):
    model, theta, tasks, rng = problem(((3, 5, 4), "relu", "cross_entropy"))
    alpha = rng.uniform(0.05, 0.15, model.n_params)
    for method in (partial(meta_gradient, wrt_alpha=True), partial(meta_gradient, first_order=True), reptile_gradient):
        whole = method(model, theta, tasks, alpha, K)
        singles = [method(model, theta, [a[i:i + 1] for a in tasks], alpha, K) for i in range(3)]
        for part, parts in zip(whole, zip(*singles)):
            if part is not None and np.any(part):
                assert error(part, np.mean(parts, axis=0)) < TOLERANCE


def test_03_without_inner_steps_or_rate_it_is_joint_multi_task_training():
    model, theta, tasks, _ = problem(((3, 5, 4), "tanh", "mse"))
    pooled = [a.reshape(-1, a.shape[-1]) for a in tasks]
    loss, grad, _ = model.linearize(theta, *pooled[2:])
    for alpha, K in (0.1, 0), (0.0, 3):
        found = meta_gradient(model, theta, tasks, alpha, K)
        assert error(found[0], loss) < TOLERANCE and error(found[1], grad) < TOLERANCE


@every_K
def test_06_reptile_is_the_mean_way_to_theta_K(K):
    model, theta, tasks, _ = problem(((3, 5, 4), "tanh", "mse"))
    loss, direction = reptile_gradient(model, theta, tasks, 0.1, K)
    ends = [adapt(model, theta, x, y, 0.1, K) for x, y in zip(*tasks[:2])]
    assert error(loss, objective(model, tasks, K, theta, 0.1)) < TOLERANCE
    assert direction.shape == theta.shape and type(loss) is float
    assert np.allclose(direction, theta - np.mean(ends, axis=0), rtol=0, atol=1e-15)


@pytest.mark.parametrize("loss", ("mse", "cross_entropy"))
def test_nothing_the_caller_owns_is_modified(loss):
    """Everything passed in is locked: a write to it would raise."""
    model, theta, tasks, rng = problem(((3, 5, 4), "tanh", loss))
    alpha, v = rng.uniform(0.05, 0.15, (2, model.n_params)), rng.standard_normal(model.n_params)
    for a in (theta, alpha, v, *tasks):
        a.setflags(write=False)
    model.predict(theta, tasks.x_query), model.linearize(theta, *tasks[:2])[2](v)
    meta_gradient(model, theta, tasks, alpha, 3, wrt_alpha=True), reptile_gradient(model, theta, tasks, alpha, 3)
    meta_train(model, theta, lambda: tasks, alpha, 2, 2, gradient=partial(meta_gradient, wrt_alpha=True))
    for K in 0, 1:
        assert not np.shares_memory(adapt(model, theta, *tasks[:2], alpha, K), theta)
    assert not np.shares_memory(meta_train(model, theta, lambda: tasks, alpha, iterations=0)[0], theta)


@pytest.mark.parametrize("loss", ("mse", "cross_entropy"))
def test_theta_decides_the_precision(loss):
    model, theta, tasks, rng = problem(((3, 5, 4), "tanh", loss))
    exact = meta_gradient(model, theta, tasks, 0.1, 3, wrt_alpha=True)
    theta, alpha, gradient = theta.astype(np.float32), np.float64(0.1), partial(meta_gradient, wrt_alpha=True)
    _, grad, grad_alpha = gradient(model, theta, tasks, alpha, 3)
    assert grad.dtype == grad_alpha.dtype == reptile_gradient(model, theta, tasks, alpha)[1].dtype == np.float32
    assert error(grad, exact[1]) < 1e-5 and error(grad_alpha, exact[2]) < 1e-5
    decay = maml.cosine_decay(np.float64(1e-3), 9)
    for learned in meta_train(model, theta, lambda: tasks, np.full(theta.size, 0.1), 1, 2, decay, 1, gradient):
        assert learned.dtype == np.float32
    loss, grad, hvp = model.linearize(theta, *tasks[:2])
    assert {a.dtype for a in (model.predict(theta, tasks[0]), loss, grad, hvp(grad))} == {np.dtype(np.float32)}
    assert model.init(rng, dtype=np.float32).dtype == np.float32


# ------------------------------------------------------------------------------------------------ the checks have teeth

def walk(model, theta, tasks, alpha, K):
    """Return H_s and H_q at θ_0 .. θ_K, as lists of functions, and v_K."""
    path = [theta]
    for _ in range(K):
        path.append(adapt(model, path[-1], *tasks[:2], alpha))
    at = [(model.linearize(t, *tasks[:2]), model.linearize(t, *tasks[2:])) for t in path]
    return [s[2] for s, _ in at], [q[2] for _, q in at], at[-1][1][1]


def back(v, hvps, alpha):
    """Equations (3) and (4) with the Hessians given."""
    for hvp in hvps:
        v = v - hvp(alpha * v)
    return v.mean(0)


def never_adapted(model, theta, tasks, alpha, K):
    return model.linearize(theta, *tasks[2:])[1].mean(0)


def first_order(model, theta, tasks, alpha, K):
    return walk(model, theta, tasks, alpha, K)[2].mean(0)


def hessian_always_at_theta_0(model, theta, tasks, alpha, K):
    H_s, _, v = walk(model, theta, tasks, alpha, K)
    return back(v, H_s[:1] * K, alpha)


def hessian_at_theta_k_plus_1(model, theta, tasks, alpha, K):
    H_s, _, v = walk(model, theta, tasks, alpha, K)
    return back(v, H_s[:0:-1], alpha)


def hessians_from_first_to_last(model, theta, tasks, alpha, K):
    H_s, _, v = walk(model, theta, tasks, alpha, K)
    return back(v, H_s[:K], alpha)


def hessian_of_the_query_loss(model, theta, tasks, alpha, K):
    _, H_q, v = walk(model, theta, tasks, alpha, K)
    return back(v, H_q[:K][::-1], alpha)


def inner_rate_missing_before_H(model, theta, tasks, alpha, K):
    H_s, _, v = walk(model, theta, tasks, alpha, K)
    return back(v, H_s[:K][::-1], 1)


def inner_rate_on_the_wrong_side_of_H(model, theta, tasks, alpha, K):
    H_s, _, v = walk(model, theta, tasks, alpha, K)
    return back(v, [lambda u, H=H: alpha * H(u / alpha) for H in H_s[:K][::-1]], alpha)


def curvature_of_the_activation_dropped(model, theta, tasks, alpha, K):
    blind = MLP(model.sizes)
    blind._activation = lambda z: (*model._activation(z)[:2], None)
    return meta_gradient(blind, theta, tasks, alpha, K)[1]


def support_used_as_query(model, theta, tasks, alpha, K):
    return meta_gradient(model, theta, [*tasks[:2], *tasks[:2]], alpha, K)[1]


def support_and_query_swapped(model, theta, tasks, alpha, K):
    return meta_gradient(model, theta, [*tasks[2:], *tasks[:2]], alpha, K)[1]


def sum_over_tasks(model, theta, tasks, alpha, K):
    return meta_gradient(model, theta, tasks, alpha, K)[1] * len(tasks[0])


def parameters_carried_over_from_task_to_task(model, theta, tasks, alpha, K):
    grads, start = [], theta
    for i in range(len(tasks[0])):
        task = [a[i:i + 1] for a in tasks]
        grads.append(meta_gradient(model, start, task, alpha, K)[1])
        start = adapt(model, start, task[0][0], task[1][0], alpha, K)
    return np.mean(grads, axis=0)


ORDER = {hessian_always_at_theta_0, hessian_at_theta_k_plus_1, hessians_from_first_to_last}
MISTAKES = sorted(ORDER | {
    never_adapted, first_order, hessian_of_the_query_loss, inner_rate_missing_before_H,
    inner_rate_on_the_wrong_side_of_H, curvature_of_the_activation_dropped, support_used_as_query,
    support_and_query_swapped, sum_over_tasks, parameters_carried_over_from_task_to_task}, key=lambda f: f.__name__)
BLIND = {  # settings of the chain's kind, and the mistakes that cannot be seen in them
    ("tanh", 5, (3, 5, 4)): set(),
    ("tanh", 3, (3, 5, 4)): set(),
    ("tanh", 1, (3, 5, 4)): {hessian_always_at_theta_0, hessians_from_first_to_last},
    ("relu", 5, (3, 5, 4)): {curvature_of_the_activation_dropped},
    ("relu", 4, (3, 4)): {curvature_of_the_activation_dropped} | ORDER,
}


@pytest.mark.parametrize("setting", BLIND, ids=str)
@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda f: f.__name__)
def test_the_check_of_the_meta_gradient_rejects(mistake, setting):
    """At K = 1, with relu alone or with a linear model, real mistakes pass: hence the chain's choice of settings."""
    activation, K, sizes = setting
    model, theta, tasks, rng = problem((sizes, activation, "mse"))
    alpha = rng.uniform(0.05, 0.15, model.n_params)
    right = derivatives(lambda t: objective(model, tasks, K, t, alpha), theta)
    assert error(meta_gradient(model, theta, tasks, alpha, K)[1], right) < TOLERANCE
    wrong = error(mistake(model, theta, tasks, alpha, K), right)
    assert wrong < TOLERANCE if mistake in BLIND[setting] else wrong > 1e-3


def test_taylor_remainder_falls_with_slope_2_along_the_exact_gradient_and_1_along_first_order():
    """J(θ + εd) − J(θ) − ε ∇J·d is O(ε²) for the gradient and O(ε) for anything else."""
    model, theta, tasks, rng = problem(((3, 5, 4), "tanh", "mse"))
    d, J = rng.standard_normal(model.n_params), partial(objective, model, tasks, 3, alpha=0.1)
    for gradient, expected in (meta_gradient, 2), (partial(meta_gradient, first_order=True), 1):
        grad = gradient(model, theta, tasks, 0.1, 3)[1]
        remainders = [abs(J(theta + e * d) - J(theta) - e * grad @ d) for e in (1e-3, 1e-4)]
        assert abs(np.log10(remainders[0] / remainders[1]) - expected) < 0.05


# ------------------------------------------------------------------------------------------------ meta-training

def test_12_adam_follows_the_moments_summed_by_hand():
    grads, theta, adam = [np.array([1.0, -2.0]), np.array([3.0, 0.5]), np.array([-1.0, 0.0])], np.zeros(2), maml.Adam()
    expected = theta
    for t, grad in enumerate(grads, 1):
        m = sum(0.1 * 0.9 ** (t - 1 - i) * g for i, g in enumerate(grads[:t])) / (1 - 0.9**t)
        s = sum(0.001 * 0.999 ** (t - 1 - i) * g**2 for i, g in enumerate(grads[:t])) / (1 - 0.999**t)
        expected = expected - 0.01 * m / (np.sqrt(s) + 1e-8)
        theta = adam.step(theta, grad, lr=0.01)
        assert error(theta, expected) < TOLERANCE
    assert error(maml.Adam().step(np.zeros(1), np.array([1e-8])), np.array([-0.5e-3])) < TOLERANCE  # ε counts


def replay(grads_theta, grads_alpha, rates):
    theta, alpha, for_theta, for_alpha = np.zeros(2), np.array(0.1), maml.Adam(), maml.Adam()
    for g, a, rate in zip(grads_theta, grads_alpha, rates):
        theta, alpha = for_theta.step(theta, np.array(g), rate), for_alpha.step(alpha, np.array(a), rate)
    return theta, alpha


def test_meta_train_clips_the_global_norm_decays_the_rate_and_reports():
    """Norms √(3² + 0² + 4²) = 5 and 1 against clip = 2: the first gradient shrinks by 2/5, the second stays."""
    given = iter([(9.0, np.array([3.0, 0.0]), np.array(4.0)), (8.0, np.array([0.0, 1.0]), np.array(0.0))])
    seen, rates = [], [0.5, 0.25]
    learned = meta_train(None, np.zeros(2), lambda: None, 0.1, iterations=2, lr=lambda i: rates[i], clip=2,
                         gradient=lambda *_: next(given), callback=lambda *args: seen.append(args))
    expected = replay([(1.2, 0), (0, 1)], [1.6, 0], rates)
    for found, value in zip(learned, expected):
        assert error(found, value) < TOLERANCE
    assert [s[:2] for s in seen] == [(0, 9.0), (1, 8.0)] and seen[1][2] is learned[0] and seen[1][3] is learned[1]


def test_meta_train_leaves_alpha_alone_unless_it_is_learned():
    model, theta, tasks, _ = problem(((3, 5, 4), "tanh", "mse"))
    for gradient in meta_gradient, reptile_gradient, partial(meta_gradient, wrt_alpha=True):
        found, alpha = meta_train(model, theta, lambda: tasks, 0.1, iterations=2, gradient=gradient)
        assert (alpha == 0.1) == (not isinstance(gradient, partial)) and not np.array_equal(found, theta)


def test_cosine_decay():
    rates = [maml.cosine_decay(3.0, 12)(i) for i in (0, 4, 6, 12)]
    assert np.allclose(rates, [3, 2.25, 1.5, 0], rtol=0, atol=1e-15)


def test_divergence_stops_the_training_with_a_remedy():
    model, theta, tasks, _ = problem(((3, 5, 4), "relu", "mse"))
    with pytest.raises(FloatingPointError, match="iteration 0: meta-loss .*lower alpha or lr, or clip"):
        meta_train(model, theta, lambda: tasks, 1e200, steps=3)
    bad_gradient = lambda *_: (1.0, np.full(2, np.nan))
    with pytest.raises(FloatingPointError, match="iteration 0: meta-loss 1.0, norm of its gradient nan"):
        meta_train(None, np.zeros(2), lambda: None, 0.1, gradient=bad_gradient)


def test_a_short_training_run_learns_to_adapt():
    """After 600 iterations, five steps on 10 examples serve MAML's θ at least three times as well as joint training's."""
    model, family, losses = MLP((1, 40, 40, 1)), families.Sinusoid(), []
    test = family.sample(np.random.default_rng(1), 200)
    for K in 1, 0:
        rng = np.random.default_rng(0)
        theta = model.init(rng, dtype=np.float32)
        theta, _ = meta_train(model, theta, lambda: family.sample(rng, 25), 0.01, K, 600, lr=3e-3, clip=10)
        losses.append(model.loss(adapt(model, theta, *test[:2], 0.01, 5), *test[2:]).mean())
    assert losses[0] < losses[1] / 3


# ------------------------------------------------------------------------------------------------ tasks

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
    assert np.array_equal(tasks.y_support, waves(tasks.x_support)) and np.array_equal(tasks.y_query, waves(tasks.x_query))


def test_sinusoid_varies_frequency_and_adds_noise():
    family, rng = families.Sinusoid(shots=50, queries=50, frequency=(0.8, 1.2), noise=0.3), np.random.default_rng(3)
    waves = family.draw(rng, 400)
    tasks = family.observe(rng, waves)
    assert 0.8 <= waves.frequency.min() < 0.81 and 1.19 < waves.frequency.max() <= 1.2
    x, (A, phase, frequency) = tasks.x_support[9, 3, 0], (field[9, 0, 0] for field in waves)
    assert abs(waves(tasks.x_support)[9, 3, 0] - A * np.sin(frequency * x - phase)) < 1e-15
    for x, y in tasks[:2], tasks[2:]:
        assert abs(np.std(y - waves(x)) - 0.3) < 0.01


def test_sampling_is_reproducible_and_every_task_is_new():
    family = families.Sinusoid()
    first, again, other = (family.sample(np.random.default_rng(seed), 3) for seed in (5, 5, 6))
    assert all(np.array_equal(a, b) for a, b in zip(first, again))
    assert not any(np.array_equal(a, b) for a, b in zip(first, other))
    assert len(np.unique(np.concatenate([first.x_support, first.x_query], axis=1))) == 60


# ------------------------------------------------------------------------------------------------ bad input

REGRESSION, CLASSES, RNG = MLP((2, 3, 1)), MLP((2, 3), loss="cross_entropy"), np.random.default_rng(0)
THETA, X, Y = np.zeros(13), np.zeros((4, 5, 2)), np.zeros((4, 5, 1))
TASKS, LABELS = families.Tasks(X, Y, X, Y), np.zeros((4, 5), int)
BAD = [
    ("sizes: expected two or more positive integers, got 3", lambda: MLP(3)),
    ("sizes: expected .*, got \\(3,\\)", lambda: MLP((3,))),
    ("sizes: expected .*, got \\(1, 0\\)", lambda: MLP((1, 0))),
    ("sizes: expected .*, got \\(1, 2.0\\)", lambda: MLP((1, 2.0))),
    ("sizes: expected .*, got \\(1, True\\)", lambda: MLP((1, True))),
    ("sizes: expected two or more positive integers, got {1, 2}", lambda: MLP({1, 2})),
    ("sizes: expected two or more outputs for cross_entropy, got \\(3, 1\\)", lambda: MLP((3, 1), loss="cross_entropy")),
    ("activation: expected relu or tanh, got 'gelu'", lambda: MLP((1, 1), "gelu")),
    ("loss: expected mse or cross_entropy, got 'l1'", lambda: MLP((1, 1), loss="l1")),
    ("rng: expected a numpy.random.Generator, got 0", lambda: REGRESSION.init(0)),
    ("std: expected a finite number >= 0 or None, got -1", lambda: REGRESSION.init(RNG, std=-1)),
    ("dtype: expected a floating-point type, got 'int64'", lambda: REGRESSION.init(RNG, dtype="int64")),
    ("theta: expected floats of shape \\(..., 13\\), got float64 of shape \\(12,\\)",
     lambda: REGRESSION.unpack(np.zeros(12))),
    ("theta: expected floats .*, got int64", lambda: REGRESSION.predict(np.zeros(13, "int64"), X)),
    ("v: expected floats of shape \\(..., 13\\)", lambda: REGRESSION.linearize(THETA, X, Y)[2](np.zeros(3))),
    ("x: expected real numbers of shape \\(..., n, 2\\), no axis empty, got float64 of shape \\(5,\\)",
     lambda: REGRESSION.predict(THETA, np.zeros(5))),
    ("x: expected real numbers", lambda: REGRESSION.predict(THETA, np.zeros((5, 3)))),
    ("x: expected real numbers", lambda: REGRESSION.predict(THETA, np.zeros((0, 2)))),
    ("x: expected real numbers .*, got <U1", lambda: REGRESSION.predict(THETA, np.full((5, 2), "a"))),
    ("x: expected an array, got a list that makes none|x: expected real numbers",
     lambda: REGRESSION.predict(THETA, [[1, 2], [3]])),
    ("v: expected leading axes that fit \\(4,\\), got float64 of shape \\(3, 13\\)",
     lambda: REGRESSION.linearize(THETA, X, Y)[2](np.zeros((3, 13)))),
    ("x: expected leading axes that fit theta's \\(3,\\)", lambda: REGRESSION.predict(np.zeros((3, 13)), X)),
    ("y: expected real numbers of shape \\(5, 1\\), as x has it, got float64 of shape \\(5,\\)",
     lambda: REGRESSION.loss(THETA, X[0], np.zeros(5))),
    ("y: expected real numbers", lambda: REGRESSION.linearize(THETA, X, Y[:3])),
    ("y: expected real numbers .*, got complex128", lambda: REGRESSION.loss(THETA, X, Y + 1j)),
    ("y: expected integer labels from 0 to 2 of shape \\(4, 5\\), as x has it, got .* values from 3 to 3",
     lambda: CLASSES.loss(np.zeros(9), X, LABELS + 3)),
    ("y: expected integer labels .* values from -1 to -1", lambda: CLASSES.loss(np.zeros(9), X, LABELS - 1)),
    ("y: expected integer labels .* got float64", lambda: CLASSES.loss(np.zeros(9), X, LABELS * 1.0)),
    ("y: expected integer labels", lambda: CLASSES.loss(np.zeros(9), X, LABELS[..., None])),
    ("theta: expected floats", lambda: adapt(REGRESSION, 0.0, X, Y, 0.1)),
    ("theta: expected floats", lambda: adapt(REGRESSION, np.zeros(13, int), X, Y, 0.1, 0)),
    ("steps: expected a whole number >= 0, got 1.0", lambda: adapt(REGRESSION, THETA, X, Y, 0.1, 1.0)),
    ("steps: expected a whole number >= 0, got -1", lambda: meta_gradient(REGRESSION, THETA, TASKS, 0.1, -1)),
    ("steps: expected a whole number >= 0, got True", lambda: reptile_gradient(REGRESSION, THETA, TASKS, 0.1, True)),
    ("alpha: expected a finite number or an array of them, of shape \\(13,\\), \\(steps, 13\\) or \\(steps, 1\\), got .*12",
     lambda: adapt(REGRESSION, THETA, X, Y, np.ones(12))),
    ("alpha: expected", lambda: meta_gradient(REGRESSION, THETA, TASKS, np.ones((2, 3)))),
    ("alpha: expected", lambda: meta_gradient(REGRESSION, THETA, TASKS, np.ones((0, 1)))),
    ("alpha: expected", lambda: meta_gradient(REGRESSION, THETA, TASKS, np.ones((4, 1, 13)))),
    ("alpha: expected .*, got <U3", lambda: meta_train(REGRESSION, THETA, lambda: TASKS, "0.1")),
    ("alpha: expected a finite number .* values from nan to nan", lambda: adapt(REGRESSION, THETA, X, Y, np.nan)),
    ("theta: expected floats of shape \\(..., 13\\)", lambda: meta_gradient(REGRESSION, np.zeros(12), TASKS, 0.1)),
    ("theta: expected one vector \\(P,\\)", lambda: meta_gradient(REGRESSION, np.zeros((4, 13)), TASKS, 0.1)),
    ("tasks: expected the four arrays x_support, .*, got \\(1, 2\\)",
     lambda: meta_gradient(REGRESSION, THETA, (1, 2), 0.1)),
    ("y_query: expected shape \\(tasks, n, d_out\\) or \\(tasks, n\\) with the number of tasks that x_support has",
     lambda: reptile_gradient(REGRESSION, THETA, (X, Y, X, Y[:1]), 0.1)),
    ("x_query: expected shape \\(tasks, n, d\\)", lambda: meta_gradient(REGRESSION, THETA, (X, Y, X[:, 0], Y), 0.1)),
    ("x_support: expected shape .*, at least 1", lambda: meta_gradient(REGRESSION, THETA, [a[:0] for a in TASKS], 0.1)),
    ("x_query: expected shape", lambda: reptile_gradient(REGRESSION, THETA, (X, Y, X[None], Y[None]), 0.1)),
    ("y_query: expected shape", lambda: meta_gradient(REGRESSION, THETA, (X, Y, X, Y[:, 0, 0]), 0.1)),
    ("x_support: expected real numbers", lambda: meta_gradient(REGRESSION, THETA, (X[:, :0], Y[:, :0], X, Y), 0.1)),
    ("y_query: expected real numbers", lambda: meta_gradient(REGRESSION, THETA, (X, Y, X, Y[..., 0]), 0.1)),
    ("y_query: expected real numbers", lambda: reptile_gradient(REGRESSION, THETA, (X, Y, X, Y[:, :2]), 0.1)),
    ("grad: expected theta's shape \\(13,\\)", lambda: maml.Adam().step(THETA, np.zeros(12))),
    ("beta2: expected a number from 0 to below 1, got 1", lambda: maml.Adam(beta2=1)),
    ("iterations: expected a whole number >= 1, got 0", lambda: maml.cosine_decay(0.1, 0)),
    ("iterations: expected a whole number", lambda: meta_train(REGRESSION, THETA, lambda: TASKS, 0.1, iterations=1.5)),
    ("lr: expected a finite number >= 0, or a function to one, got -1",
     lambda: meta_train(REGRESSION, THETA, lambda: TASKS, 0.1, lr=-1)),
    ("lr: expected a finite number >= 0, or a function to one, got nan",
     lambda: meta_train(REGRESSION, THETA, lambda: TASKS, 0.1, lr=lambda i: math.nan)),
    ("clip: expected a number > 0 or None", lambda: meta_train(REGRESSION, THETA, lambda: TASKS, 0.1, clip=-1)),
    ("sample: expected a function .*, got Tasks", lambda: meta_train(REGRESSION, THETA, TASKS, 0.1)),
    ("shots: expected a whole number >= 1, got 0", lambda: families.Sinusoid(shots=0)),
    ("queries: expected a whole number >= 1, got 1.5", lambda: families.Sinusoid(queries=1.5)),
    ("amplitude: expected a pair of finite numbers low <= high, got \\(5, 1\\)",
     lambda: families.Sinusoid(amplitude=(5, 1))),
    ("phase: expected a pair", lambda: families.Sinusoid(phase=1.0)),
    ("x_range: expected a pair", lambda: families.Sinusoid(x_range=(0, np.inf))),
    ("noise: expected a finite number >= 0, got -1", lambda: families.Sinusoid(noise=-1)),
    ("n_tasks: expected a whole number >= 1, got 0", lambda: families.Sinusoid().sample(RNG, 0)),
    ("rng: expected a numpy.random.Generator, got 1", lambda: families.Sinusoid().sample(1, 4)),
]


@pytest.mark.parametrize("message, call", BAD, ids=[message[:50] for message, _ in BAD])
def test_bad_input_is_refused_in_one_line(message, call):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------------ the demo

def test_demo_prints_the_table_and_draws_a_task(capsys):
    demo.main(["--iterations", "100", "--seed", "3"])
    printed = capsys.readouterr().out
    for row in "random initialisation", "joint training", "MAML":
        assert re.search(rf"^{row}( +(\d+\.\d\d ± \d+\.\d\d|diverged)){{4}}$", printed, re.M)
    assert "100%" in printed and printed.count("\n|") == 18 and "\r" not in printed
    assert max(map(len, printed.splitlines())) <= 80
    demo.main(["--iterations", "100", "--seed", "3"])
    without_times = partial(re.sub, r" +\d+ s left", "")
    assert without_times(capsys.readouterr().out) == without_times(printed)


@pytest.mark.parametrize("options", (["--iterations", "0"], ["--iterations", "2.5"], ["--seed", "-1"], ["--bogus"]))
def test_demo_refuses_bad_options_with_a_plain_sentence(options):
    done = subprocess.run([sys.executable, demo.__file__, *options], capture_output=True, text=True)
    assert done.returncode == 2 and "error: " in done.stderr and "Traceback" not in done.stderr and not done.stdout


def test_demo_goes_on_with_what_it_has_learnt_when_interrupted(capsys):
    class Interrupted(families.Sinusoid):
        def sample(self, rng, n_tasks):
            if not countdown.pop():
                raise KeyboardInterrupt
            return super().sample(rng, n_tasks)

    model, countdown = MLP((1, 4, 1)), [False, True, True]
    start = model.init(np.random.default_rng(0))
    theta, done = demo.train("MAML", model, start, Interrupted(), 1, 10, 0)
    expected, rng = [], np.random.default_rng(0)
    meta_train(model, start, lambda: families.Sinusoid().sample(rng, demo.META_BATCH), demo.ALPHA, 1, 2, clip=demo.CLIP,
               lr=maml.cosine_decay(demo.OUTER_RATE, 10), callback=lambda *args: expected.append(args[2]))
    assert done == 2 and np.array_equal(theta, expected[-1])
    assert "MAML: stopped after 2 iterations" in capsys.readouterr().out


def test_demo_evaluates_each_number_of_steps_and_picks_the_best_rate():
    model, family, rng = MLP((1, 4, 1)), families.Sinusoid(), np.random.default_rng(0)
    theta, tasks = model.init(rng), family.sample(rng, 20)
    losses = demo.evaluate(model, theta, tasks, 0.01)
    assert losses.shape == (4, 20)
    for row, K in zip(losses, (0, 1, 5, 10)):
        assert error(row.mean(), objective(model, tasks, K, theta, 0.01)) < TOLERANCE
    finals = [objective(model, tasks, 10, theta, alpha) for alpha in demo.BASELINE_RATES]
    assert demo.best_rate(model, theta, tasks) == demo.BASELINE_RATES[np.argmin(finals)]
    mean, half = demo.interval(np.array([[1.0, 3.0], [2.0, 2.0]]))  # standard deviations 1 and 0, √n = √2
    assert np.array_equal(mean, [2, 2]) and np.allclose(half, [1.96 / np.sqrt(2), 0], rtol=1e-15)


def test_demo_chart_puts_later_layers_on_top_and_corners_into_corners():
    box = np.array([0.0, 1.0])
    assert demo.chart([("a", box, box), ("b", box[:1], box[1:])], width=5, height=3)[1:4] == ["|b   a|", "|     |", "|a    |"]


def test_demo_shows_a_bar_where_the_output_is_a_terminal(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stdout", terminal)
    progress = demo.Progress("MAML", None, 4)
    progress(1, 2.5, None, None), progress(3, 2.5, None, None)
    first, last = terminal.getvalue().split("\r")[1:]
    assert first.startswith(f"MAML           [{'#' * 15}{' ' * 15}]  50%  meta-loss  2.500") and not first.endswith("\n")
    assert last.startswith(f"MAML           [{'#' * 30}] 100%") and last.endswith("\n")
