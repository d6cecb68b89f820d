"""Tell which implementations compute the exact meta-gradient: each is run on vectors.json.

    python docs/conformance.py             those below that are installed
    python docs/conformance.py mine.py     yours: a file that defines meta_gradient(problem)

meta_gradient takes an entry of vectors.json, its lists as arrays, and returns J, grad_theta and
grad_alpha or None, or raises NotImplementedError. Exact is within 1e-12 of the largest value.
learn2learn does not build on Python 3.11: docs/compare.md says how to run its source.
"""
import json
import os
import runpy
import sys
from functools import partial
from importlib import metadata
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = "1"
import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))                            # where maml.py is
SETS = "x_support", "y_support", "x_query", "y_query"

def error(problem, name, found):
    """Return the largest error of a result, relative to its largest value."""
    found, right = np.asarray(found, float), np.array(problem[name])
    if found.shape != right.shape:
        raise ValueError(f"{name}: expected shape {right.shape}, found {found.shape}")
    return abs(found - right).max() / abs(right).max()

def judge(meta_gradient):
    """Return how many of the problems it can express, and what its results are."""
    _, *problems = json.loads((HERE / "vectors.json").read_text(encoding="utf-8"))
    errors, first_order = [], []
    for problem in problems:
        arrays = {name: np.array(problem[name]) for name in ("theta", "alpha", *SETS)}
        try:
            J, grad_theta, grad_alpha = meta_gradient({**problem, **arrays})
        except NotImplementedError:
            continue
        errors += [error(problem, "J", J), error(problem, "grad_theta", grad_theta)]
        if grad_alpha is not None:
            errors.append(error(problem, "grad_alpha", grad_alpha))
        first_order.append(error(problem, "first_order", grad_theta))
    count = f"{len(first_order):2} of {len(problems)}   "
    if np.max(errors) < 1e-12:
        return count + f"exact, {np.max(errors):.0e}"
    if np.max(first_order) < 1e-12:
        return count + "first order"
    return count + f"off by {np.max(errors):.2g}"

def task_loss(problem, nn, x, y, theta):
    """Return the loss of one task, where nn is torch or tf.nn."""
    sizes, a = problem["sizes"], x
    for d, d_next in zip(sizes, sizes[1:]):
        n = (d + 1) * d_next                                    # weights, then a row of biases
        M, theta = theta[:n].reshape((d + 1, d_next)), theta[n:]
        f = a @ M[:-1] + M[-1]
        a = getattr(nn, problem["activation"])(f)
    if problem["loss"] == "cross_entropy":
        return -nn.log_softmax(f, 1)[np.arange(len(y)), y].mean()
    if problem["loss"] == "policy":
        return (y[:, -1:] * (f - y[:, :-1])**2).mean() * sizes[-1] / 2
    return ((f - y)**2).mean()

def objective(problem, nn, tensor, step, theta, alpha):
    """Return J, where step(loss, theta_k, alpha_k) is theta after an inner step."""
    losses, rows = [], tensor(np.zeros((problem["steps"], 1)))
    for x_s, y_s, x_q, y_q in zip(*[tensor(problem[name]) for name in SETS]):
        theta_k = theta
        for alpha_k in alpha + rows:                            # one rate becomes a row a step
            theta_k = step(partial(task_loss, problem, nn, x_s, y_s), theta_k, alpha_k)
        losses.append(task_loss(problem, nn, x_q, y_q, theta_k))
    return sum(losses) / len(losses)

def maml_py(problem):
    import maml
    model = maml.MLP(problem["sizes"], problem["activation"], problem["loss"])
    theta, alpha, *tasks = [problem[name] for name in ("theta", "alpha", *SETS)]
    return maml.meta_gradient(model, theta, tasks, alpha, problem["steps"], wrt_alpha=True)

def tensorflow_tape(problem):
    import tensorflow as tf
    tf.experimental.numpy.experimental_enable_numpy_behavior()
    theta, alpha = tf.constant(problem["theta"]), tf.constant(problem["alpha"])
    with tf.GradientTape(persistent=True) as tape:              # it also records the gradients
        tape.watch((theta, alpha))
        step = lambda loss, theta, alpha_k: theta - alpha_k * tape.gradient(loss(theta), theta)
        J = objective(problem, tf.nn, tf.constant, step, theta, alpha)
    return (J, *tape.gradient(J, (theta, alpha)))

def pytorch(step, problem):
    import torch
    theta, alpha = (torch.nn.Parameter(torch.tensor(problem[name])) for name in ("theta", "alpha"))
    J = objective(problem, torch, torch.tensor, partial(step, torch), theta, alpha)
    J.backward()
    return J.item(), theta.grad, alpha.grad

def autograd(torch, loss, theta, alpha_k, create_graph=True):
    grad, = torch.autograd.grad(loss(theta), theta, create_graph=create_graph)
    return theta - alpha_k * grad

def func(torch, loss, theta, alpha_k):
    return theta - alpha_k * torch.func.grad(loss)(theta)

def higher_sgd(torch, loss, theta, alpha_k):
    import higher
    leaf = theta.detach()
    optimizer = higher.get_diff_optim(torch.optim.SGD([leaf], lr=1), [leaf])
    return optimizer.step(loss(theta), [theta], override={"lr": [alpha_k]})[0]

def torchopt_sgd(torch, loss, theta, alpha_k):
    import torchopt
    optimizer = torchopt.FuncOptimizer(torchopt.sgd(lambda count: alpha_k))
    return optimizer.step(loss(theta), (theta,))[0]

def learn2learn_maml(torch, loss, theta, alpha_k):
    from learn2learn.algorithms.maml import MAML
    network = torch.nn.Module()
    network._parameters["theta"] = theta                        # no leaf after the first step
    learner = MAML(network, alpha_k).clone()
    learner.adapt(loss(learner.theta))
    return learner.theta

def report(name, package="numpy", meta_gradient=None):
    """Print a line, and return whether it is exact; without meta_gradient, name is a file."""
    try:
        if meta_gradient is None:
            sys.path.insert(0, str(Path(name).resolve().parent))
            meta_gradient = runpy.run_path(name)["meta_gradient"]
        line = f"{package + ' ' + metadata.version(package):20}{judge(meta_gradient)}"
    except metadata.PackageNotFoundError:
        line = f"not installed: python -m pip install {package}"
    except (Exception, SystemExit) as fault:
        line = f"{type(fault).__name__}: {fault}".split("\n")[0]
    print(f"{name:23} {line}", flush=True)
    return "   exact, " in line

if __name__ == "__main__":
    if sys.argv[1:]:
        sys.exit(not report(sys.argv[1]))
    report("maml.py", "numpy", maml_py)
    report("TensorFlow", "tensorflow", tensorflow_tape)
    report("torch.autograd", "torch", partial(pytorch, autograd))
    report("  create_graph=False", "torch", partial(pytorch, partial(autograd, create_graph=False)))
    report("torch.func", "torch", partial(pytorch, func))
    report("higher", "higher", partial(pytorch, higher_sgd))
    report("torchopt", "torchopt", partial(pytorch, torchopt_sgd))
    report("learn2learn MAML", "learn2learn", partial(pytorch, learn2learn_maml))
