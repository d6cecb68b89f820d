"""Train MAML on sinusoids and watch it adapt: python demo.py [--help]

The benchmark of Finn et al. 2017, section 5.1: each task is a sine wave of unknown amplitude and phase, shown by 10
points. MAML and joint multi-task training learn from the same number of tasks; then both, and a random initialisation,
get 600 unseen tasks and fine-tune on 10 points of each. The figure is the mean squared error on 100 other points.
"""
import argparse
import math
import sys
import time
from collections import deque
from functools import partial

import numpy as np

from maml import MLP, adapt, cosine_decay, meta_train
from tasks import Sinusoid

STEPS = 0, 1, 5, 10                        # after how many gradient steps to evaluate, as in the paper
ALPHA = 0.01                               # inner rate of the paper's text; its code has 0.001
BASELINE_RATES = 0.001, 0.003, 0.01, 0.03  # the baselines fine-tune at the best of these
N_UNSEEN = 600                             # tasks that evaluate, as in the original code
META_BATCH = 25                            # tasks of one iteration, as in the original code
OUTER_RATE, CLIP = 3e-3, 10                # Adam's first rate, decayed to 0; the original code: 1e-3, constant
FLOOR = 3.006                              # error of −(5.1/π) cos x, the best prediction that knows no task


class Progress:
    """A callback of meta_train that shows how far it is, and keeps the latest theta for a Ctrl-C."""

    def __init__(self, name, theta, iterations):
        self.name, self.theta, self.iterations = name, theta, iterations
        self.done, self.losses = 0, deque(maxlen=100)  # one meta-batch alone is noisy: shown is a mean of 100
        self.start, self.shown = time.monotonic(), -math.inf

    def __call__(self, i, loss, theta, alpha):
        self.done, self.theta = i + 1, theta
        self.losses.append(loss)
        now, terminal = time.monotonic(), sys.stdout.isatty()
        due = now > self.shown + 0.1 if terminal else self.done % max(1, self.iterations // 4) == 0
        if due or self.done == self.iterations:
            self.shown, share = now, self.done / self.iterations
            left = (now - self.start) * (1 / share - 1)
            bar = f"[{'#' * round(30 * share):30}]" if terminal else ""
            line = f"{self.name:15}{bar} {share:4.0%}  meta-loss {np.mean(self.losses):6.3f}  {left:3.0f} s left"
            print(f"\r{line}" if terminal else line, end="" if terminal and share < 1 else "\n", flush=True)


def train(name, model, theta, family, steps, iterations, seed):
    """Return what meta_train learns within `iterations` or until Ctrl-C, and the number of iterations done."""
    rng, progress = np.random.default_rng(seed), Progress(name, theta, iterations)
    try:
        meta_train(model, theta, lambda: family.sample(rng, META_BATCH), ALPHA, steps, iterations,
                   cosine_decay(OUTER_RATE, iterations), CLIP, callback=progress)
    except KeyboardInterrupt:
        print(f"\n{name}: stopped after {progress.done} iterations, going on with what has been learnt so far")
    return progress.theta, progress.done


def evaluate(model, theta, tasks, alpha):
    """Return the query loss of each task after each number of STEPS, (len(STEPS), tasks)."""
    return np.array([model.loss(adapt(model, theta, *tasks[:2], alpha, k), *tasks[2:]) for k in STEPS])


def best_rate(model, theta, tasks):
    """Return the one of BASELINE_RATES with the smallest mean query loss after the last of STEPS."""
    adapted = (adapt(model, theta, *tasks[:2], alpha, STEPS[-1]) for alpha in BASELINE_RATES)
    return BASELINE_RATES[int(np.nanargmin([model.loss(theta_K, *tasks[2:]).mean() for theta_K in adapted]))]


def interval(losses):
    """Return mean and half width of the 95 % interval over the last axis, 1.96 · std / √n as in the original code."""
    return losses.mean(-1), 1.96 * losses.std(-1) / np.sqrt(losses.shape[-1])


def table(rows):
    """Return lines of text for rows (name, losses (len(STEPS), tasks))."""
    lines = [f"{'after gradient steps':23}" + "".join(f" {k:>13}" for k in STEPS)]
    for name, losses in rows:
        cells = [f"{mean:.2f} ± {half:.2f}" if mean + half < 100 else "diverged" for mean, half in zip(*interval(losses))]
        lines.append(f"{name:23}" + "".join(f" {cell:>13}" for cell in cells))
    return lines


def chart(layers, width=76, height=18):
    """Return lines of text that draw layers (mark, x, y), later ones over earlier ones; y beyond ±10 is left out."""
    layers = [(mark, x[abs(y) < 10], y[abs(y) < 10]) for mark, x, y in layers]
    x, y = (np.concatenate([layer[i] for layer in layers]) for i in (1, 2))
    grid = np.full((height, width), " ")
    for mark, across, up in layers:
        column = np.rint((across - x.min()) / np.ptp(x) * (width - 1)).astype(int)
        row = np.rint((y.max() - up) / np.ptp(y) * (height - 1)).astype(int)
        grid[row, column] = mark
    frame = "+" + "-" * width + "+"
    return [frame, *("|" + "".join(line) + "|" for line in grid), frame,
            f" x from {x.min():.0f} to {x.max():.0f}, y from {y.min():.1f} to {y.max():.1f}"]


def picture(model, theta, tasks, wave, i):
    """Return a chart of task i: its points, the true curve, the predictions before and after 10 steps."""
    x = np.linspace(-5, 5, 400)[:, None]
    support = tasks.x_support[i], tasks.y_support[i]
    after = model.predict(adapt(model, theta, *support, ALPHA, STEPS[-1]), x)
    layers = [("-", x, model.predict(theta, x)), (".", x, wave(x)[i]), ("*", x, after), ("O", *support)]
    return ["O points given   . true curve   - before adapting   * after 10 steps", *chart(layers)]


def options(arguments):
    def whole(text, least=1):
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"expected a whole number >= {least}, got {text!r}")
        return int(text)

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=whole, default=20000, help="meta-iterations of each method (%(default)s)")
    parser.add_argument("--quick", action="store_const", dest="iterations", const=2000, help="2000 iterations")
    parser.add_argument("--seed", type=partial(whole, least=0), default=0, help="of all random numbers (%(default)s)")
    return parser.parse_args(arguments)


@np.errstate(over="ignore", invalid="ignore")  # a task that diverges shows in the figures
def main(arguments=None):
    chosen = options(arguments)
    model, family = MLP((1, 40, 40, 1)), Sinusoid(shots=10, queries=10)
    print(f"Network 1-40-40-1, {model.n_params} parameters; {META_BATCH} tasks an iteration, {family.shots} points a "
          f"task.\nCtrl-C ends the training of a method early and goes on with what it has learnt.\n")
    start = model.init(np.random.default_rng([chosen.seed, 0]), dtype=np.float32)
    maml, done = train("MAML", model, start, family, 1, chosen.iterations, [chosen.seed, 1])
    joint, _ = train("joint training", model, start, family, 0, max(done, 1), [chosen.seed, 1])

    rng, unseen = np.random.default_rng([chosen.seed, 2]), Sinusoid(shots=10, queries=100)
    validation, waves = unseen.sample(rng, N_UNSEEN), unseen.draw(rng, N_UNSEEN)
    tasks = unseen.observe(rng, waves)
    rows = [(name, evaluate(model, theta, tasks, best_rate(model, theta, validation)))
            for name, theta in (("random initialisation", start), ("joint training", joint))]
    rows.append(("MAML", evaluate(model, maml, tasks, ALPHA)))
    print(f"\nMean squared error on {N_UNSEEN} unseen tasks, with 95 % intervals\n", *table(rows), sep="\n")
    print(f"\nThe best prediction that knows no task errs by {FLOOR} on average, the truth by 0.\n")
    median = np.argsort(rows[-1][1][-1])[N_UNSEEN // 2]
    print("MAML on the unseen task with the median error after 10 steps:", *picture(model, maml, tasks, waves, median),
          sep="\n")


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace")
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
