"""Time the meta-gradient of maml.py for docs/results.md, in processes that take turns.

    python docs/benchmark.py [--cost]     beside JAX and torch.func [or alone, in more rows]"""
import os
import subprocess
import sys
import timeit
import tracemalloc
os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before NumPy is loaded: more are slower
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import numpy as np
from maml import MLP, meta_gradient
from tasks import Sinusoid

# tasks, points, inner steps K, width of two hidden layers; the first row is the paper's setting
ROWS = ((25, 10, 1, 40), (25, 5, 1, 40), (25, 10, 5, 40), (4, 10, 1, 40),
        (100, 10, 1, 40), (25, 20, 1, 100), (32, 5, 1, 256))
COSTS = [(n_tasks, 10, 1, 40) for n_tasks in (1, 10, 100, 1000)]
COSTS += [(25, 10, K, 40) for K in (0, 1, 5, 10, 20)]
COSTS += [(25, 10, 1, width) for width in (10, 40, 100, 256, 512)]


def contender(name, n_tasks, points, steps, width):
    """Return a function without arguments that returns the meta-gradient, in parts, float32."""
    model, rng = MLP((1, width, width, 1)), np.random.default_rng(0)
    data = np.array(Sinusoid(points, points).sample(rng, n_tasks), np.float32)
    theta = model.init(rng, dtype=np.float32)
    if name == "maml.py":
        return lambda: [meta_gradient(model, theta, data, 0.01, steps)[1]]
    if name == "JAX":
        import jax
        array, relu, grad, vmap = jax.numpy.array, jax.nn.relu, jax.grad, jax.vmap
    else:
        import torch
        array, relu, grad, vmap = torch.tensor, torch.relu, torch.func.grad, torch.func.vmap

    def loss(p, x, y):
        for i in range(0, len(p) - 2, 2):
            x = relu(x @ p[i] + p[i + 1])
        return ((x @ p[-2] + p[-1] - y)**2).mean()

    def adapted_loss(p, x, y, x_query, y_query):
        for _ in range(steps):
            p = [a - 0.01 * g for a, g in zip(p, grad(loss)(p, x, y))]
        return loss(p, x_query, y_query)

    outer = grad(lambda p, data: vmap(adapted_loss, (None, 0, 0, 0, 0))(p, *data).mean())
    outer = jax.jit(outer) if name == "JAX" else outer
    p, data = [array(part) for pair in model.unpack(theta) for part in pair], array(data)
    return lambda: [np.asarray(part) for part in outer(p, data)]  # which waits for JAX to finish


if len(sys.argv) > 2:  # one contender and row, for the process below
    name, *row = sys.argv[1], *map(int, sys.argv[2:])
    call, (right,) = contender(name, *row), contender("maml.py", *row)()
    error = np.concatenate([part.ravel() for part in call()]) - right
    assert abs(error).max() < 1e-4 * abs(right).max(), (name, row)
    seconds = np.median(timeit.repeat(call, number=1, repeat=100)[5:])  # five to warm up
    tracemalloc.start()
    call()
    print(1e3 * seconds, tracemalloc.get_traced_memory()[1] / 1e6)
else:
    names = ["maml.py"] if sys.argv[1:] == ["--cost"] else ["maml.py", "JAX", "torch.func"]
    print("tasks, points, K, width", *(f"{name}, ms" for name in names), "maml.py, MB", sep=" | ")
    for row in COSTS if sys.argv[1:] == ["--cost"] else ROWS:
        commands = [[sys.executable, __file__, name, *map(str, row)] for name in names]
        turns = [[subprocess.check_output(each).split() for each in commands] for _ in range(3)]
        times, memory = np.median(np.array(turns, float), axis=0).T
        print(row, *times.round(2), memory[0].round(1), sep=" | ")
