"""Problems and their meta-gradients, as JAX computes them in float64: docs/vectors.py writes this.

sizes: inputs, hidden units, outputs of a multilayer perceptron; the activation follows all layers
but the last. theta: for each layer its weights (inputs, outputs), row by row, then its bias.
loss: mse is the mean of (f - y)**2 over examples and outputs; cross_entropy the mean over examples
of -log softmax(f)[y]; policy the mean over examples of advantage * sum((f - action)**2) / 2, where
y is the action and then the advantage. The first axis of the data is the task.
steps: K. alpha: in the first five problems a row for each step with a rate for each parameter, in
the others one number. Each task takes K steps theta <- theta - alpha * grad of its support loss.
J: the mean of the query losses after them. grad_theta, grad_alpha: its derivatives. first_order:
grad_theta if inner gradients are constants. Exact means to some 1e-14 of the largest, in float64.
"""
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

jax.config.update("jax_enable_x64", True)
SETS = "x_support", "y_support", "x_query", "y_query"
PROBLEMS = [  # sizes, activation, loss, K, whether alpha is one number
    ((1, 5, 5, 1), "relu", "mse", 1, False),
    ((1, 5, 5, 1), "tanh", "mse", 3, False),
    ((3, 4, 3), "tanh", "cross_entropy", 3, False),
    ((3, 4, 3), "relu", "cross_entropy", 5, False),
    ((2, 4, 2), "tanh", "policy", 2, False),
    ((2, 4, 3), "tanh", "mse", 1, True),
    ((1, 5, 5, 1), "relu", "mse", 3, True),
    ((1, 5, 5, 1), "tanh", "mse", 5, True),
    ((3, 4, 3), "relu", "cross_entropy", 1, True),
    ((3, 4, 3), "tanh", "cross_entropy", 3, True),
    ((3, 4, 4, 3), "relu", "cross_entropy", 5, True)]


def task_loss(problem, theta, x, y):
    """Return the loss of one task, for x (n, d_in)."""
    sizes, f = problem["sizes"], x
    for l, (d, d_next) in enumerate(zip(sizes, sizes[1:])):
        a = f if l == 0 else getattr(jax.nn, problem["activation"])(f)
        W, b, theta = jnp.split(theta, (d * d_next, (d + 1) * d_next))
        f = a @ W.reshape(d, d_next) + b
    if problem["loss"] == "mse":
        return jnp.mean((f - y)**2)
    if problem["loss"] == "cross_entropy":
        return -jnp.mean(jax.nn.log_softmax(f)[jnp.arange(len(y)), y])
    return jnp.mean(y[:, -1] * jnp.sum((f - y[:, :-1])**2, axis=1)) / 2


def objective(problem, theta, alpha, first_order=False):
    """Return J, the mean query loss after the inner steps; alpha is () or (K, P)."""
    losses = []
    for x_support, y_support, x_query, y_query in zip(*(problem[name] for name in SETS)):
        theta_k = theta
        for alpha_k in jnp.broadcast_to(alpha, (problem["steps"], len(theta))):
            grad = jax.grad(task_loss, argnums=1)(problem, theta_k, x_support, y_support)
            theta_k = theta_k - alpha_k * (jax.lax.stop_gradient(grad) if first_order else grad)
        losses.append(task_loss(problem, theta_k, x_query, y_query))
    return jnp.mean(jnp.array(losses))


def draw(rng, sizes, activation, loss, K, one_rate, n_tasks=3):
    """Return a problem without its answers, all numbers rounded to three decimals."""
    P = sum((d + 1) * d_next for d, d_next in zip(sizes, sizes[1:]))
    problem = {"sizes": sizes, "activation": activation, "loss": loss, "steps": K}
    problem["theta"] = (0.7 * rng.standard_normal(P)).round(3)
    problem["alpha"] = rng.uniform(0.05, 0.3, () if one_rate else (K, P)).round(3)
    for name, n in ("support", 5), ("query", 4):
        problem[f"x_{name}"] = rng.standard_normal((n_tasks, n, sizes[0])).round(3)
        columns = sizes[-1] + 1 if loss == "policy" else sizes[-1]
        y = rng.standard_normal((n_tasks, n, columns)).round(3)
        problem[f"y_{name}"] = rng.integers(0, 3, y.shape[:2]) if loss == "cross_entropy" else y
    return problem


def solve(problem):
    """Return the problem with J, its derivatives and the first-order gradient."""
    theta, alpha = problem["theta"], problem["alpha"]
    J, grad = jax.value_and_grad(objective, (1, 2))(problem, theta, alpha)
    first = jax.grad(objective, 1)(problem, theta, alpha, first_order=True)
    return {**problem, "J": J, "grad_theta": grad[0], "grad_alpha": grad[1], "first_order": first}


if __name__ == "__main__":
    rng = np.random.default_rng(0)
    entries = {"about": __doc__.splitlines()}, *(solve(draw(rng, *each)) for each in PROBLEMS)
    lines = ",\n".join(json.dumps(entry, default=lambda a: a.tolist()) for entry in entries)
    Path(__file__).with_name("vectors.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
