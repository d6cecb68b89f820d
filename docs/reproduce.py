"""Make the table of docs/results.md that stands beside the paper's, in a minute and a half.

    python docs/reproduce.py [--seed N] [--unseen N] [--inner-rate RATE]
"""
import argparse
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import demo
import numpy as np
from maml import MLP, adapt, meta_gradient
from tasks import Sinusoid

MODEL = MLP((1, 40, 40, 1))


def paper(iterations=70000, seed=0, unseen=600, inner_rate=0.001):
    """As in cbfinn/maml: a steady outer rate, no clipping. The paper's text has inner rate 0.01."""
    start = MODEL.init(np.random.default_rng([seed, demo.START]), std=0.01, dtype=np.float32)
    rng = np.random.default_rng([seed, demo.REST])
    while (abs(start) > 0.02).any():  # cut off at two standard deviations
        far = abs(start) > 0.02
        start[far] = 0.01 * rng.standard_normal(far.sum())
    learn = partial(demo.train, MODEL, start, Sinusoid(), 1e-3, 25, iterations, seed, clip=None,
                    schedule=lambda outer_rate, iterations: outer_rate)
    joint, _ = learn("joint training", demo.pooled(meta_gradient), 0, 0.0)
    maml, _ = learn("MAML", meta_gradient, 1, inner_rate)
    for shots in 5, 10, 20:
        waves, rng = Sinusoid(shots, queries=100), np.random.default_rng([seed, demo.UNSEEN])
        tasks, others = waves.sample(rng, unseen), waves.sample(rng, demo.OTHERS)
        losses = [demo.evaluate(MODEL, joint, rate, others, MLP.loss)[-1] for rate in demo.RATES]
        report("joint training", joint, demo.best_rate(demo.RATES, losses), tasks)
        report("MAML", maml, inner_rate, tasks)


def report(name, theta, alpha, tasks):
    """Print errors after 1, 5 and 10 steps."""
    x, y, x_query, y_query = tasks
    for k in 1, 5, 10:
        errors = MODEL.loss(adapt(MODEL, theta, x, y, alpha, k), x_query, y_query)
        mean, half = demo.interval(errors)
        median = np.median(np.nan_to_num(errors, nan=np.inf))
        print(f"{name:20} {x.shape[1]:3} points, step {k:2}: error {mean:.3g} ± {half:.2g}, "
              f"median {median:.3g}, {(~(errors < 100)).sum()} of {len(x)} diverged")


if __name__ == "__main__":
    command = argparse.ArgumentParser(argument_default=argparse.SUPPRESS)
    command.add_argument("--quick", dest="iterations", action="store_const", const=100)
    for name, kind in ("seed", int), ("unseen", int), ("inner-rate", float):
        command.add_argument(f"--{name}", type=kind)
    with np.errstate(over="ignore", invalid="ignore"):  # what diverges shows in the table
        paper(**vars(command.parse_args()))
