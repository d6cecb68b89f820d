"""Time the meta-gradient of maml.py beside JAX and PyTorch.

    python docs/benchmark.py           the table of speed in scale.md; needs jax and torch
    python docs/benchmark.py --cost    the tables of cost there, of maml.py alone

Each contender runs alone in a process of its own, and they take turns, since the thread pools of
two libraries in one process disturb each other. A time is the median of the medians of the rounds.
All gradients are compared with that of maml.py.
"""
import json
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from maml import MLP, meta_gradient
from tasks import Sinusoid

ALPHA, ROUNDS, CONTENDERS = 0.01, 5, ("maml.py", "JAX", "torch.func", "torch loop")
# tasks, points, inner steps K, width of two hidden layers; the first row is the paper's setting
ROWS = ((25, 10, 1, 40), (25, 5, 1, 40), (25, 10, 5, 40), (4, 10, 1, 40),
        (100, 10, 1, 40), (25, 20, 1, 100), (32, 5, 1, 256))


def contender(name, n_tasks, points, steps, width):
    """Return a function without arguments that computes the meta-gradient in float32."""
    model, rng = MLP((1, width, width, 1)), np.random.default_rng(0)
    tasks = [a.astype(np.float32) for a in Sinusoid(points, points).sample(rng, n_tasks)]
    theta = model.init(rng, dtype=np.float32)
    layers = [part for pair in model.unpack(theta) for part in pair]
    if name == "maml.py":
        return lambda: [meta_gradient(model, theta, tasks, ALPHA, steps)[1]]
    if name == "JAX":
        import jax
        relu, grad, vmap = jax.nn.relu, jax.grad, jax.vmap
        p, data = jax.tree.map(jax.numpy.asarray, (layers, tasks))
    else:
        import torch
        relu, grad, vmap = torch.relu, torch.func.grad, torch.func.vmap
        p, data = ([torch.tensor(a) for a in arrays] for arrays in (layers, tasks))

    def loss(p, x, y):
        for l in range(0, len(p) - 2, 2):
            x = relu(x @ p[l] + p[l + 1])
        return ((x @ p[-2] + p[-1] - y)**2).mean()

    def adapted_loss(p, x_support, y_support, x_query, y_query, inner=grad(loss)):
        for _ in range(steps):
            p = [a - ALPHA * g for a, g in zip(p, inner(p, x_support, y_support))]
        return loss(p, x_query, y_query)

    def loop():   # one graph a task
        def recorded(p, x, y):
            return torch.autograd.grad(loss(p, x, y), p, create_graph=True)
        losses = [adapted_loss(p, *task, inner=recorded) for task in zip(*data)]
        return torch.autograd.grad(sum(losses) / n_tasks, p)

    if name == "torch loop":
        p = [a.requires_grad_() for a in p]
        return loop
    outer = grad(lambda p, data: vmap(adapted_loss, (None, 0, 0, 0, 0))(p, *data).mean())
    if name == "torch.func":
        return lambda: outer(p, data)
    outer = jax.jit(outer)
    return lambda: jax.block_until_ready(outer(p, data))


def median_time(call):
    """Return the median of the times of a call for 0.7 seconds, in milliseconds."""
    times, end = [], time.perf_counter() + 0.7
    while len(times) < 12 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - start))
    return float(np.median(times[5:]))   # five calls to warm up


def alone(name, row):
    """Return the time and the gradient of a contender, from a process of its own."""
    return json.loads(subprocess.check_output([sys.executable, __file__, name, *map(str, row)]))


def speed():
    print("tasks, points, K, width", *(f"{name}, ms" for name in CONTENDERS), sep=" | ")
    ratios = []
    for row in ROWS:
        rounds = [[alone(name, row) for name in CONTENDERS] for _ in range(ROUNDS)]
        right, *others = (np.array(gradient) for _, gradient in rounds[0])
        assert all(abs(g - right).max() < 1e-4 * abs(right).max() for g in others), row
        times = np.median([[milliseconds for milliseconds, _ in run] for run in rounds], axis=0)
        ratios.append(times / times[0])
        print(row, *(f"{t:.2f} ({r:.1f} ×)" for t, r in zip(times, ratios[-1])), sep=" | ")
    means = np.exp(np.log(ratios).mean(0))
    print("geometric mean", *(f"{mean:.1f} ×" for mean in means), sep=" | ")


def cost():
    print("tasks, points, K, width | ms | MB at most")
    for row in (*((n, 10, 1, 40) for n in (1, 10, 100, 1000)),
                *((25, 10, K, 40) for K in (0, 1, 5, 10, 20)),
                *((25, 10, 1, width) for width in (10, 40, 100, 256, 512))):
        call = contender("maml.py", *row)
        milliseconds = median_time(call)
        tracemalloc.start()
        call()
        megabytes = tracemalloc.get_traced_memory()[1] / 1e6
        tracemalloc.stop()
        print(row, f"{milliseconds:.2f}", f"{megabytes:.1f}", sep=" | ")


if __name__ == "__main__":
    if sys.argv[1:] == ["--cost"]:
        cost()
    elif sys.argv[1:]:   # one contender, for alone
        call = contender(sys.argv[1], *map(int, sys.argv[2:]))
        gradient = np.concatenate([np.asarray(a).ravel() for a in call()])
        print(json.dumps((median_time(call), gradient.tolist())))
    else:
        speed()
