"""Train MAML and its relatives, and compare how they adapt to tasks that they have not seen.

  python demo.py                       sinusoids, all methods, about 45 seconds
  python demo.py --paper               the setting of Finn et al. 2017 beside their figures, about 70 seconds
  python demo.py --best                how far learned inner rates take the same network, about 2 minutes
  python demo.py --tasks characters    telling made-up handwriting apart, 2 to 3 minutes

Sinusoids are the benchmark of section 5.1 of Finn et al. 2017: each task is a wave of its own amplitude (0.1 to 5) and
phase (0 to π), shown by a few points. Every method learns from the same tasks and examples. Then it gets unseen tasks,
takes gradient steps on the few points of each, and is judged by its error on 100 other points. Ctrl-C ends the training
of one method early and goes on with what it has learnt.
"""
import argparse
import codecs
import importlib.util
import math
import os
import sys
import textwrap
import time
import zipfile
from collections import deque
from functools import partial
from types import SimpleNamespace

import numpy as np

from maml import MLP, adapt, cosine_decay, meta_gradient, meta_train, reptile_gradient
from tasks import FewShot, Sinusoid, Tasks, characters

STEPS = 0, 1, 5, 10                        # after how many gradient steps to evaluate, as in the paper
RATES = 0.001, 0.003, 0.01, 0.03, 0.1, 0.3  # what was not trained for one inner rate adapts at the best of these
OTHERS = 200                               # tasks to choose that rate on
REPTILE_STEPS = 5                          # with one inner step Reptile would be joint training
WRECKED = 4                                # an error of so many squared amplitudes counts as diverged
COLUMN = 13                                # width of a column of the tables

# The settings of each mode. An option changes one, and is refused by a mode that has no such setting.
COMMON = dict(
    meta_batch=25,                         # tasks of one iteration, as in the original code, github.com/cbfinn/maml
    outer_rate=3e-3, decay=True, clip=10,  # after 12,000 iterations better than the original 1e-3, constant, unclipped
    unseen=600,                            # tasks that evaluate, as in the original code
    seed=0, activation="relu", save=None, load=None)
TEST = dict(test_amplitude=(0.1, 5.0), test_phase=(0.0, math.pi))  # as in training
SINUSOIDS = dict(
    COMMON, **TEST, shots=10, inner_steps=1,  # as in the original code
    inner_rate=0.01,                       # as in the paper's text; its code has 0.001
    iterations=12000, float=32, first_order=False, plot=None)
MODES = {
    "sinusoids": SINUSOIDS,
    "paper": dict(SINUSOIDS, inner_rate=0.001, iterations=70000, outer_rate=1e-3, decay=False, clip=None),
    "best": dict(COMMON, **TEST, iterations=15000, unseen=4000),
    "characters": dict(COMMON, shots=None, inner_steps=3, inner_rate=0.1, iterations=2000, float=32, first_order=False),
}
TRAINING = "iterations", "quick", "inner_steps", "inner_rate", "outer_rate", "meta_batch", "float"  # void with --load
PUBLISHED = {  # mean squared errors in Table 2 of the paper and on the poster of Meta-Curvature (Park, Oliva 2019)
    5: [("joint training, Table 2", "", "2.41", "2.23", "2.19"), ("MAML, Table 2", "", "0.67", "0.38", "0.35"),
        ("MAML, poster", "", "0.69 ± 0.07"), ("Meta-SGD, poster", "", "0.48"), ("Meta-Curvature, poster", "", "0.41")],
    10: [("MAML, poster", "", "0.44 ± 0.04"), ("Meta-SGD, poster", "", "0.26"), ("Meta-Curvature, poster", "", "0.20")],
    20: []}


class Stop(Exception):
    """What the user has to put right, in one line."""


# ------------------------------------------------------------------------------------------------ training

class Progress:
    """Shows how much of a stage is done and how long the rest will take."""

    def __init__(self, name, parts):
        self.name, self.parts, self.start, self.shown, self.done = name, parts, time.monotonic(), -math.inf, 0

    def __call__(self, done, note=""):
        self.done = done
        now, terminal = time.monotonic(), sys.stdout.isatty()
        due = now > self.shown + 0.1 if terminal else done % max(1, self.parts // 4) == 0
        if due or done == self.parts:
            self.shown, share = now, done / self.parts
            left = (now - self.start) * (1 / share - 1)
            bar = f"[{'#' * round(15 * share):15}]" if terminal else ""
            line = f"{self.name:27}{bar} {share:4.0%}  {note:17}  {left:3.0f} s left"
            print(f"\r{line}" if terminal else line, end="" if terminal and share < 1 else "\n", flush=True)


class Trainer:
    """Trains one network with the settings chosen, and keeps what each method learns: name -> (theta, alpha)."""

    def __init__(self, model, chosen):
        self.model, self.chosen = model, chosen
        self.made_for = f"{chosen.mode}, network {'-'.join(map(str, model.sizes))} {chosen.activation}"
        self.learned = load(chosen.load, model, self.made_for) if chosen.load else {}

    @property
    def maml(self):
        """The name of the method that is compared with joint training."""
        return "first-order MAML" if self.chosen.first_order else "MAML"

    def start(self, std=None, float=None):
        """Return the theta that every method starts from."""
        return self.model.init(np.random.default_rng([self.chosen.seed, 0]), std, f"float{float or self.chosen.float}")

    def __call__(self, name, start, sample, alpha, steps, gradient=meta_gradient, iterations=None):
        """Return the theta and alpha that a method learns from sample(rng, n_tasks), the same tasks for each method."""
        chosen = self.chosen
        if chosen.load:
            if name not in self.learned:
                raise Stop(f"--load {chosen.load}: expected {name}, got only {', '.join(self.learned)}")
            return self.learned[name]
        iterations, rng = iterations or chosen.iterations, np.random.default_rng([chosen.seed, 1])
        progress, losses, self.learned[name] = Progress(name, iterations), deque([], 100), (start, alpha)

        def watch(i, loss, theta, alpha):
            losses.append(loss)
            self.learned[name] = theta, alpha
            progress(i + 1, f"meta-loss {np.mean(losses):7.3f}")  # of the last 100, for one meta-batch alone is noisy

        try:
            meta_train(self.model, start, lambda: sample(rng, chosen.meta_batch), alpha, steps, iterations,
                       cosine_decay(chosen.outer_rate, iterations) if chosen.decay else chosen.outer_rate,
                       chosen.clip, gradient, watch)
        except (KeyboardInterrupt, FloatingPointError) as stop:
            reason = f" by {stop}" if str(stop) else ""
            told = f"{name}: stopped after {progress.done} iterations{reason}; going on with what it has learnt by then"
            print("\n" + textwrap.fill(told, 79))
        return self.learned[name]


def save(file, learned, made_for):
    """Write all that has been learnt, and what for, to a .npz file, whole or not at all."""
    arrays = {f"{name} {part}": a for name, pair in learned.items() for part, a in zip(("theta", "alpha"), pair)}
    unfinished = f"{file}.part"
    try:
        with open(unfinished, "wb") as stream:
            np.savez(stream, made_for=made_for, **arrays)
        os.replace(unfinished, file)
    except OSError as error:
        raise Stop(f"--save {file}: {error}") from None
    finally:
        if os.path.exists(unfinished):
            os.remove(unfinished)


def load(file, model, made_for):
    """Return name -> (theta, alpha) as save wrote it. Raises Stop if the file is none or made for another use."""
    try:
        if not zipfile.is_zipfile(file):
            raise ValueError("expected a .npz file that --save wrote")
        with np.load(file) as archive:
            arrays = {key: archive[key] for key in archive.files}
        found = str(arrays.pop("made_for"))
        if found != made_for:
            raise ValueError(f"expected what --save wrote for {made_for}, got it for {found}")
        learned = {key[:-6]: (arrays[key], arrays[f"{key[:-6]} alpha"]) for key in arrays if key.endswith(" theta")}
        for name, (theta, alpha) in learned.items():
            model.unpack(theta)  # refuses a theta that does not fit, as adapt refuses alpha
            adapt(model, theta, None, None, alpha, steps=0)
            if theta.ndim != 1 or theta.dtype.kind != "f" or not np.isfinite(theta).all():
                raise ValueError(f"{name} theta: expected one vector of finite numbers")
    except KeyError as error:
        raise Stop(f"--load {file}: expected what --save wrote, which has {error}") from None
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise Stop(f"--load {file}: {error}") from None
    return learned


# ------------------------------------------------------------------------------------------------ the methods

def pooled(tasks):
    """Return tasks with support and query examples in either set, for methods that do not tell them apart."""
    x, y = (np.concatenate(pair, axis=1) for pair in (tasks[::2], tasks[1::2]))
    return Tasks(x, y, x, y)


def learn(trainer, start, family, label="", reptile=False):
    """Train MAML and its relatives on a family of tasks; return name -> (theta, alpha, or None if it is left open)."""
    chosen, all_examples = trainer.chosen, lambda rng, n: pooled(family.sample(rng, n))
    alpha, K, approximate = chosen.inner_rate, chosen.inner_steps, partial(meta_gradient, first_order=True)
    theta, _ = trainer(label + "joint training", start, all_examples, alpha, 0)
    learned = {"random initialisation": (start, None), "joint training": (theta, None)}
    if reptile:
        theta, _ = trainer(label + "Reptile", start, all_examples, alpha, max(K, REPTILE_STEPS), reptile_gradient)
        learned["Reptile"] = theta, None
    alphas = np.full(len(start), alpha)
    methods = [("first-order MAML", alpha, approximate), ("MAML", alpha, meta_gradient),
               ("Meta-SGD", alphas, partial(meta_gradient, wrt_alpha=True))]
    if chosen.first_order:
        methods[1:] = [("first-order Meta-SGD", alphas, partial(approximate, wrt_alpha=True))]
    for name, rates, gradient in methods:
        learned[name] = trainer(label + name, start, family.sample, rates, K, gradient)
    return learned


# ------------------------------------------------------------------------------------------------ evaluation

def accuracy(model, theta, x, y):
    """Return the percentage of right labels in each task, (tasks,)."""
    return 100 * (model.predict(theta, x).argmax(-1) == y).mean(-1)


def evaluate(model, theta, tasks, alpha, score):
    """Return the score of each task after each number of STEPS, (len(STEPS), tasks); score is called as MLP.loss is."""
    scores = []
    for i in range(0, len(tasks.x_support), 100):  # so many tasks at a time fit into the processor's cache
        part = Tasks(*(a[i:i + 100] for a in tasks))
        scores.append([score(model, adapt(model, theta, *part[:2], alpha, k), *part[2:]) for k in STEPS])
    return np.concatenate(scores, axis=1)


def best_rate(model, theta, tasks):
    """Return the one of RATES with the smallest mean query loss after the last of STEPS."""
    losses = np.array([evaluate(model, theta, tasks, alpha, MLP.loss)[-1].mean() for alpha in RATES])
    return RATES[np.where(np.isnan(losses), np.inf, losses).argmin()]


def compare(model, learned, tasks, score, others=None):
    """Return name -> (theta, alpha, scores) for what was learned; where alpha is open, it is chosen on other tasks."""
    progress, results, rates = Progress("evaluation", len(learned)), {}, []
    for name, (theta, alpha) in learned.items():
        if alpha is None:
            alpha = best_rate(model, theta, others)
            rates.append(f"{name} {alpha}")
        results[name] = theta, alpha, evaluate(model, theta, tasks, alpha, score)
        progress(len(results))
    if rates:
        print(textwrap.fill("inner rates that did best on other tasks: " + ", ".join(rates), 79))
    return results


def interval(scores):
    """Return mean and half width of the 95 % interval over the last axis, 1.96 · std / √n as in the original code."""
    return scores.mean(-1), 1.96 * scores.std(-1) / np.sqrt(scores.shape[-1])


def cell(write, digits, otherwise):
    """Return write(digits), or with fewer digits if that is too wide for a column, or else what it is otherwise."""
    texts = (write(d) for d in range(digits, -1, -1))
    return next((text for text in texts if len(text) <= COLUMN and "n" not in text), otherwise)  # no inf or nan


def rows(name, scores, digits=2, limit=4 * 5**2):
    """Return a row (name, cell, ...) for scores (columns, tasks), and one of medians if single tasks wreck its means.

    Tasks above the limit count as diverged.
    """
    cells = [cell(lambda d: f"{mean:.{d}f} ± {half:.{d}f}", digits, "diverged")
             for mean, half in zip(*interval(scores))]
    lost = (~(scores <= limit)).sum(-1)
    medians = np.median(np.where(np.isnan(scores), np.inf, scores), -1)
    more = [cell(lambda d: f"{median:.{d}f} ({n})", digits, f"diverged ({n})") for median, n in zip(medians, lost)]
    return [(name, *cells), ("  median (diverged)", *more)] if lost.any() else [(name, *cells)]


def table(*parts):
    """Return lines of text for lists of rows."""
    head = [("after gradient steps", *STEPS)]
    return [f"{name:24}" + "".join(f" {text:>{COLUMN}}" for text in cells) for name, *cells in sum(parts, head)]


# ------------------------------------------------------------------------------------------------ pictures

GRID = np.linspace(-5, 5, 800)[:, None]  # where waves are drawn, so close that steep ones have no gaps
BRAILLE = np.array([[1, 8], [2, 16], [4, 32], [64, 128]])  # what each dot of a cell adds to its number in Unicode


def panel(title, prediction, truth, points, top, width=37, height=7):
    """Return lines that draw a prediction and the truth on GRID, and points (x, y), where |y| < top."""
    def spots(x, y, rows, columns):
        x, y = x[abs(y) < top], y[abs(y) < top]
        return ((1 - y / top) / 2 * rows).astype(int), np.rint((x + 5) / 10 * (columns - 1)).astype(int)

    cells, dots = np.full((height, width), " "), np.zeros((4 * height, 2 * width), int)
    cells[spots(GRID, truth, height, width)] = "·"
    dots[spots(GRID, prediction, 4 * height, 2 * width)] = 1
    codes = (dots.reshape(height, 4, width, 2) * BRAILLE[:, None]).sum((1, 3))
    cells[codes > 0] = [chr(0x2800 + code) for code in codes[codes > 0]]
    cells[spots(*points, height, width)] = "●"
    return [f"┌─ {title} ".ljust(width + 1, "─") + "┐", *("│" + "".join(row) + "│" for row in cells),
            "└" + "─" * width + "┘"]


def picture(model, pair, tasks, waves, i):
    """Return lines that draw task i before and after 1 and 10 steps, one column for each (name, theta, alpha)."""
    support, truth = (tasks.x_support[i], tasks.y_support[i]), waves(GRID)[i]
    lines = ["● points given   · true wave   ⠤⠒⠉ prediction"]
    for when, k in ("before", 0), ("after 1 step", 1), ("after 10 steps", 10):
        panels = [panel(f"{name}, {when}", model.predict(adapt(model, theta, *support, alpha, k), GRID), truth, support,
                        1.2 * abs(truth).max() or 1) for name, theta, alpha in pair]
        lines += [" ".join(parts) for parts in zip(*panels)]
    return lines


def plot(file, model, pair, tasks, waves, i):
    """Draw task i as the paper's figure 2 does, each (name, theta, alpha) with half of the points and with all."""
    from matplotlib.figure import Figure
    figure, shots = Figure(figsize=(10, 7)), len(tasks.x_support[i])
    for row, (name, theta, alpha) in zip(figure.subplots(len(pair), 2, sharex=True, sharey=True), pair):
        for axes, n in zip(row, (max(1, shots // 2), shots)):
            points = tasks.x_support[i, :n], tasks.y_support[i, :n]
            axes.plot(GRID, waves(GRID)[i], "r", label="true wave")
            for k, style, label in (0, "g:", "before"), (1, "g-.", "1 step"), (10, "g--", "10 steps"):
                axes.plot(GRID, model.predict(adapt(model, theta, *points, alpha, k), GRID), style, label=label)
            axes.plot(*points, "m^", label="points given")
            axes.set_title(f"{name}, {n} points")
    axes.legend()
    figure.savefig(file)


def images(x):
    """Return lines that draw images x (n, side²) side by side, two pixels in a character."""
    side = math.isqrt(x.shape[-1])
    ink = (x.reshape(-1, side // 2, 2, side) > 0.5).astype(int)
    halves = np.array(list(" ▀▄█"))[ink[:, :, 0] + 2 * ink[:, :, 1]]  # (n, side / 2, side)
    return [" ".join("".join(row) for row in line) for line in halves.swapaxes(0, 1)]


# ------------------------------------------------------------------------------------------------ the modes

def unseen_waves(chosen, shots):
    """Return unseen tasks, their Waves, and other tasks to choose inner rates on; the same for every method."""
    family = Sinusoid(shots, 100, chosen.test_amplitude, chosen.test_phase)
    rng = np.random.default_rng([chosen.seed, 2])
    waves = family.draw(rng, chosen.unseen)
    return family.observe(rng, waves), waves, family.sample(rng, OTHERS)


def show(trainer, results, tasks, waves):
    """Draw MAML beside joint training, on the task with the median of MAML's errors."""
    pair = [(name, *results[name][:2]) for name in (trainer.maml, "joint training")]
    i = np.argsort(results[trainer.maml][2][-1])[len(waves.phase) // 2]
    print(f"\nThe unseen task with the median of {trainer.maml}'s errors after 10 steps:",
          *picture(trainer.model, pair, tasks, waves, i), sep="\n")
    if trainer.chosen.plot:
        plot(trainer.chosen.plot, trainer.model, pair, tasks, waves, i)


def published(chosen, shots):
    """Return the published rows, if they are about these tasks."""
    return PUBLISHED[shots] if all(list(getattr(chosen, name)) == list(TEST[name]) for name in TEST) else []


def report(chosen, shots, scores, published=(), digits=2):
    """Print the table of scores, name -> errors (len(STEPS), tasks), and of published rows."""
    limit = WRECKED * max(map(abs, chosen.test_amplitude))**2
    print(f"\nMean squared error on {chosen.unseen} unseen tasks, {shots} points each, ± 95 % interval\n",
          *table(*(rows(name, errors, digits, limit) for name, errors in scores.items()), list(published)), sep="\n")


def sinusoids(trainer, chosen):
    """All methods on the paper's sinusoids."""
    learned = learn(trainer, trainer.start(), Sinusoid(chosen.shots, chosen.shots), reptile=True)
    tasks, waves, others = unseen_waves(chosen, chosen.shots)
    results = compare(trainer.model, learned, tasks, MLP.loss, others)
    mean_wave = -5.1 / np.pi * np.cos(tasks.x_query)  # of all of the paper's waves
    scores = {name: errors for name, (theta, alpha, errors) in results.items()}
    for name, y in ("mean of all waves", mean_wave), ("oracle, knows the wave", waves(tasks.x_query)):
        scores[name] = np.tile(((y - tasks.y_query)**2).mean((1, 2)), (len(STEPS), 1))
    report(chosen, chosen.shots, scores)
    maml, joint, mean = (scores[name][1].mean() for name in (trainer.maml, "joint training", "mean of all waves"))
    print("\n" + textwrap.fill(
        f"In words: after one step on {chosen.shots} points {trainer.maml} errs by {maml:.2f}, joint training on the "
        f"same tasks by {joint:.2f}. Before it adapts, a model can at best be the mean of the waves it learned from, "
        f"which errs by {mean:.2f} here and by 3.006 over all of the paper's tasks. Joint training learns "
        "that mean; MAML looks for a model that few steps turn into the wave at hand.", 79))
    show(trainer, results, tasks, waves)


def paper(trainer, chosen):
    """The original code's setting, evaluated with 5, 10 and 20 points."""
    start, rng = trainer.start(std=0.01), np.random.default_rng([chosen.seed, 3])
    while (far := abs(start) > 0.02).any():  # as there, a normal distribution cut off at two standard deviations
        start[far] = 0.01 * rng.standard_normal(far.sum())
    family, gradient = Sinusoid(chosen.shots, chosen.shots), partial(meta_gradient, first_order=chosen.first_order)
    theta, _ = trainer("joint training", start, lambda rng, n: pooled(family.sample(rng, n)), chosen.inner_rate, 0)
    learned = {"joint training": (theta, None), trainer.maml: trainer(
        trainer.maml, start, family.sample, chosen.inner_rate, chosen.inner_steps, gradient)}
    for shots in PUBLISHED:
        tasks, waves, others = unseen_waves(chosen, shots)
        results = compare(trainer.model, learned, tasks, MLP.loss, others)
        report(chosen, shots, {name: r[2] for name, r in results.items()}, published(chosen, shots))
        if shots == 10:
            show(trainer, results, tasks, waves)


def best(trainer, chosen):
    """Learned inner rates: one for each parameter and one step, and one for each parameter and each of five steps."""
    gradient, n = partial(meta_gradient, wrt_alpha=True), chosen.iterations
    # Five steps in float64: early in training single tasks explode, beyond what float32 holds and clipping can mend.
    one, five = trainer.start(std=0.15, float=32), trainer.start(std=0.01, float=64)
    scattered = 0.01 * np.random.default_rng([chosen.seed, 3]).standard_normal(len(one))  # ends lower than all alike
    equal = np.full((5, len(five)), 0.01)
    runs = {
        "Meta-SGD, one step": (one, Sinusoid(shots=10, queries=10).sample, scattered, 1, gradient, 6 * n),
        "five learned steps": (five, Sinusoid(shots=5, queries=20).sample, equal, 5, gradient, n)}
    learned = {name: trainer(name, *how) for name, how in runs.items()}
    for shots in 5, 10:
        results = compare(trainer.model, learned, unseen_waves(chosen, shots)[0], MLP.loss)
        report(chosen, shots, {name: r[2] for name, r in results.items()}, published(chosen, shots), digits=3)


def nearest(tasks):
    """Return the query labels by the nearest support example, pixel by pixel, (tasks, queries)."""
    x, centres = tasks.x_query, tasks.x_support
    distance = (centres**2).sum(-1)[:, None] - 2 * x @ centres.swapaxes(1, 2)  # squared, less what is the same for all
    return np.take_along_axis(tasks.y_support, distance.argmin(-1), axis=1)


def handwriting(trainer, chosen):
    """5-way classification of made-up characters, with accuracy in per cent."""
    all_shots = (1, 5) if chosen.shots is None else (chosen.shots,)
    classes = characters(np.random.default_rng([chosen.seed, 3]), 800, max(20, all_shots[-1] + 10))
    known, new = classes[:600], classes[600:]
    for shots in all_shots:
        family, rng = FewShot(known, 5, shots, 5), np.random.default_rng([chosen.seed, 2])
        learned = learn(trainer, trainer.start(), family, f"{shots}-shot ")
        tasks, others = FewShot(new, 5, shots, 10).sample(rng, chosen.unseen), family.sample(rng, OTHERS)
        results = compare(trainer.model, learned, tasks, accuracy, others)
        by_pixels = np.tile(100 * (nearest(tasks) == tasks.y_query).mean(-1), (len(STEPS), 1))
        print(f"\nPer cent right on {chosen.unseen} tasks of 5 unseen characters, {shots} of each given, ± 95 %\n")
        scores = {**{name: r[2] for name, r in results.items()}, "nearest by pixels": by_pixels}
        print(*table(*(rows(*row) for row in scores.items())), sep="\n")
        print("\n" + textwrap.fill(
            "In words: each task deals its labels anew, so no model can tell them without its examples, and what joint "
            f"training learns stays at chance, 20 %, until it adapts. After 5 steps {trainer.maml} is right in "
            f"{results[trainer.maml][2][2].mean():.0f} %, the nearest neighbour in {by_pixels.mean():.0f} %.", 79))
        draw_characters(trainer, results[trainer.maml], tasks, shots)


def draw_characters(trainer, result, tasks, shots):
    """Print the support characters of one task, and one query of each, with their labels before and after."""
    theta, alpha, scores = result
    i = np.argsort(scores[2])[len(scores[2]) // 2]  # after 5 steps
    labels = tasks.y_query[i, ::10]
    support, queries = (tasks.x_support[i], tasks.y_support[i]), tasks.x_query[i, ::10]
    before, after = (trainer.model.predict(adapt(trainer.model, theta, *support, alpha, k), queries).argmax(-1)
                     for k in (0, 5))
    line = lambda texts: " ".join(f"{text:14}" for text in texts)
    print("\nThe task with the median accuracy: the characters given, then a query of each,\nwith its label and what "
          f"{trainer.maml} says before and after 5 steps",
          line(f"label {label}" for label in labels), *images(tasks.x_support[i, ::shots]),
          line(f"{label}: {b}, then {a}" for label, b, a in zip(labels, before, after)),
          *images(queries), sep="\n")


# ------------------------------------------------------------------------------------------------ the command line

def parser():
    """Return the parser of the command line. What is not given stays out of its result, for the mode to decide."""
    def kind(read, fits, expected):
        def parse(text):
            try:
                value = read(text)
            except ValueError:
                value = math.nan
            if not fits(value):
                raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
            return value
        return parse

    def file(*ends):
        return kind(str, lambda name: name.endswith(ends) and os.path.isdir(os.path.dirname(name) or ".")
                    and not os.path.isdir(name),
                    f"a name that ends in {' or '.join(ends)}, in a folder that exists")

    whole, count = (kind(int, lambda n, least=least: n >= least, f"a whole number >= {least}") for least in (0, 1))
    rate = kind(float, lambda a: 0 < a < math.inf, "a number > 0")
    finite = kind(float, math.isfinite, "a finite number")
    new = argparse.ArgumentParser(
        prog="demo.py", usage="python demo.py [--tasks KIND | --paper | --best] [options]", description=__doc__,
        argument_default=argparse.SUPPRESS, formatter_class=argparse.RawTextHelpFormatter, allow_abbrev=False)
    modes = new.add_argument_group("what to do").add_mutually_exclusive_group()
    modes.add_argument("--tasks", dest="mode", choices=("sinusoids", "characters"), help="default: sinusoids")
    modes.add_argument("--paper", dest="mode", action="store_const", const="paper", help=(
        "joint training and MAML as in the original code, tested with 5, 10 and 20 points"))
    modes.add_argument("--best", dest="mode", action="store_const", const="best", help=(
        "inner rates learned for each parameter, with one inner step and, for each step,\nwith five"))
    group = new.add_argument_group("tasks")
    add = lambda flag, metavar, type, text: group.add_argument(flag, metavar=metavar, type=type, help=text)
    add("--shots", "N", count, "examples given of a task (default: 10 points, as in the original code; --paper tests\n"
                               "with 5, 10 and 20 in any case) or of each character (default: 1, then 5)")
    group.add_argument("--test-amplitude", nargs=2, metavar=("LOW", "HIGH"), type=finite, help=(
        "of unseen waves (default: 0.1 5, as in training); beyond it, see MAML extrapolate"))
    group.add_argument("--test-phase", nargs=2, metavar=("LOW", "HIGH"), type=finite, help=(
        "of unseen waves, in radians (default: 0 3.1416, as in training)"))
    add("--unseen", "N", count, "number of unseen tasks (default: 600, as in the original code; 4000 with --best)")
    group = new.add_argument_group("learning")
    ends = group.add_mutually_exclusive_group()
    ends.add_argument("--iterations", metavar="N", type=count, help=(
        "outer steps of each method (default: 12000; 70000 with --paper, as in the original\n"
        "code; 15000 with --best, and six times as many for one inner step; 2000 for\ncharacters)"))
    ends.add_argument("--quick", action="store_true", help="a tenth of the iterations, to see that it works")
    add("--inner-steps", "K", count, "steps that MAML learns through (default: 1, as in the original code; 3 for\n"
                                     "characters); Reptile takes at least 5")
    add("--inner-rate", "ALPHA", rate, "of MAML, and where Meta-SGD starts (default: 0.01, as in the paper's text;\n"
                                       "0.001 with --paper, as in the original code; 0.1 for characters)")
    add("--outer-rate", "LR", rate, "of Adam (default: 0.003, decayed to 0 along a cosine, gradients clipped to\n"
                                    "norm 10; with --paper 0.001, constant, not clipped, as in the original code)")
    add("--meta-batch", "N", count, "tasks of one outer step (default: 25, as in the original code)")
    add("--seed", "N", whole, "of all random numbers (default: 0)")
    group.add_argument("--activation", choices=("relu", "tanh"), help="of the hidden layers (default: relu)")
    group.add_argument("--float", type=int, choices=(32, 64), help="bits of a number (default: 32)")
    group.add_argument("--first-order", action="store_true", help="leave the Hessian out, of Meta-SGD too")
    group = new.add_argument_group("files")
    add("--save", "FILE.npz", file(".npz"), "keep what is learned, as arrays 'MAML theta', 'MAML alpha' and so on")
    add("--load", "FILE.npz", str, "use what the same mode has saved, without training")
    add("--plot", "FILE", file(".png", ".svg", ".pdf"), "draw the paper's figure 2 as png, svg or pdf, with matplotlib")
    return new


def settings(arguments):
    """Return the settings of the mode chosen, changed by the options given. Ends the program where these are bad."""
    command = parser()
    given = vars(command.parse_args(arguments))
    mode, quick = given.pop("mode", "sinusoids"), given.pop("quick", False)
    for name in given:
        if name not in MODES[mode]:
            command.error(f"--{name.replace('_', '-')} has no meaning for {mode}")
    void = [name for name in [*given, *["quick"] * quick] if name in TRAINING]
    if "load" in given and void:
        command.error(f"--load trains nothing, so --{void[0].replace('_', '-')} has no meaning")
    chosen = SimpleNamespace(mode=mode, **{**MODES[mode], **given})
    chosen.iterations //= 10 if quick else 1
    for name in "amplitude", "phase":
        low, high = given.get(f"test_{name}", (0, 0))
        if low > high:
            command.error(f"argument --test-{name}: expected LOW <= HIGH, got {low} {high}")
    if given.get("plot") and importlib.util.find_spec("matplotlib") is None:
        command.error("--plot needs matplotlib: python -m pip install matplotlib")
    return chosen


def nearest_character(error):
    """For an output that cannot show Unicode: an ASCII character of the same width for each that it lacks."""
    like = dict(zip("±·●─│┌┐└┘▀▄█α→−π≤", "~.O-|++++\".#a>-p<"))
    return "".join(like.get(c, " " if c == "\u2800" else "*") for c in error.object[error.start:error.end]), error.end


@np.errstate(over="ignore", invalid="ignore")  # a task that diverges shows in the figures
def main(arguments=None):
    chosen = settings(arguments)
    sizes, loss = ((196, 64, 64, 5), "cross_entropy") if chosen.mode == "characters" else ((1, 40, 40, 1), "mse")
    run = {"sinusoids": sinusoids, "paper": paper, "best": best, "characters": handwriting}[chosen.mode]
    trainer = Trainer(MLP(sizes, chosen.activation, loss), chosen)
    print(f"network {'-'.join(map(str, sizes))}, {trainer.model.n_params} parameters, {chosen.activation}\n")
    try:
        run(trainer, chosen)
    finally:
        if chosen.save:
            save(chosen.save, trainer.learned, trainer.made_for)


if __name__ == "__main__":
    codecs.register_error("nearest character", nearest_character)
    sys.stdout.reconfigure(errors="nearest character")
    try:
        main()
    except Stop as stop:
        sys.exit(f"demo.py: {stop}")
    except KeyboardInterrupt:
        sys.exit(130)
