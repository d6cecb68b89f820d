"""Make vectors.json: small problems with their meta-gradients as JAX computes them, in float64.

    python docs/vectors.py       writes docs/vectors.json; needs jax

It imports nothing of this project, so the file is an oracle from outside. The definitions are the
plain ones: a loss of one flat vector θ, jax.grad for the inner steps, and jax.grad through them.
"""
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

jax.config.update("jax_enable_x64", True)

ABOUT = [
    "Meta-gradients of MAML with K inner steps, computed by JAX in float64 (docs/vectors.py).",
    "sizes: inputs, hidden units, outputs of a multilayer perceptron; the activation follows all "
    "layers but the last.",
    "theta: for each layer its weights (inputs, outputs), row by row, then its bias.",
    "loss: mse is the mean of (f - y)**2 over examples and outputs. cross_entropy is the mean over "
    "examples of -log softmax(f)[y]. policy is the mean over examples of advantage * "
    "sum((f - action)**2) / 2, where an example's y is its action and then its advantage.",
    "The first axis of x_support, y_support, x_query, y_query is the task.",
    "alpha: a row for each inner step, an inner rate for each parameter. Each task starts at "
    "theta and takes len(alpha) steps theta <- theta - alpha[k] * grad of its support loss.",
    "J is the mean over tasks of the query loss after these steps; grad_theta and grad_alpha are "
    "its derivatives; first_order is grad_theta if the inner gradients count as constants.",
    "To use it: compute these four from the rest, in float64. An exact implementation agrees to "
    "about 1e-14 of each one's largest value; if yours equals first_order, it is first order."]
PROBLEMS = [  # sizes, activation, loss, K
    ((1, 5, 5, 1), "relu", "mse", 1),
    ((1, 5, 5, 1), "tanh", "mse", 3),
    ((3, 4, 3), "tanh", "cross_entropy", 3),
    ((3, 4, 3), "relu", "cross_entropy", 5),
    ((2, 4, 2), "tanh", "policy", 2)]


def task_loss(problem, theta, x, y):
    """Return the loss of one task, for x (n, d_in)."""
    activation = {"relu": jax.nn.relu, "tanh": jnp.tanh}[problem["activation"]]
    sizes, a = problem["sizes"], x
    for l, (d, d_next) in enumerate(zip(sizes, sizes[1:])):
        W, b, theta = jnp.split(theta, (d * d_next, (d + 1) * d_next))
        a = a @ W.reshape(d, d_next) + b
        a = activation(a) if l < len(sizes) - 2 else a
    if problem["loss"] == "mse":
        return jnp.mean((a - y)**2)
    if problem["loss"] == "cross_entropy":
        return -jnp.mean(jax.nn.log_softmax(a)[jnp.arange(len(y)), y])
    return jnp.mean(y[:, -1] * jnp.sum((a - y[:, :-1])**2, axis=1)) / 2


def objective(problem, theta, alpha, first_order=False):
    """Return J, the mean query loss after a step for each row of alpha."""
    def query_loss(x_support, y_support, x_query, y_query):
        theta_k = theta
        for rate in alpha:
            grad = jax.grad(task_loss, argnums=1)(problem, theta_k, x_support, y_support)
            theta_k = theta_k - rate * (jax.lax.stop_gradient(grad) if first_order else grad)
        return task_loss(problem, theta_k, x_query, y_query)

    sets = (jnp.array(problem[name]) for name in ("x_support", "y_support", "x_query", "y_query"))
    return jnp.mean(jnp.array([query_loss(*task) for task in zip(*sets)]))


def draw(rng, sizes, activation, loss, K, n_tasks=3):
    """Return a problem without its answers, all numbers rounded to three decimals."""
    P = sum((d + 1) * d_next for d, d_next in zip(sizes, sizes[1:]))
    problem = {"sizes": sizes, "activation": activation, "loss": loss,
               "theta": 0.7 * rng.standard_normal(P), "alpha": rng.uniform(0.05, 0.3, (K, P))}
    for name, n in ("support", 5), ("query", 4):
        problem[f"x_{name}"] = rng.standard_normal((n_tasks, n, sizes[0]))
        y = rng.standard_normal((n_tasks, n, sizes[-1] + (loss == "policy")))
        problem[f"y_{name}"] = rng.integers(0, 3, y.shape[:2]) if loss == "cross_entropy" else y
    return {name: value.round(3).tolist() if isinstance(value, np.ndarray) else value
            for name, value in problem.items()}


def solve(problem):
    """Return the problem with J, its derivatives and the first-order gradient."""
    theta, alpha = jnp.array(problem["theta"]), jnp.array(problem["alpha"])
    gradient = jax.grad(objective, argnums=(1, 2))
    grad_theta, grad_alpha = gradient(problem, theta, alpha)
    return {**problem, "J": objective(problem, theta, alpha).item(),
            "grad_theta": grad_theta.tolist(), "grad_alpha": grad_alpha.tolist(),
            "first_order": gradient(problem, theta, alpha, first_order=True)[0].tolist()}


if __name__ == "__main__":
    rng = np.random.default_rng(0)
    problems = [solve(draw(rng, *settings)) for settings in PROBLEMS]
    lines = ",\n".join(json.dumps(entry) for entry in ({"about": ABOUT}, *problems))
    Path(__file__).with_name("vectors.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
