"""Train MAML and its relatives, and compare how they adapt to tasks that they have not seen.

  python demo.py                      regression of sinusoids, all methods, about 45 seconds
  python demo.py --tasks characters   classification of made-up handwriting, 2 minutes
  python demo.py --tasks navigation   reinforcement learning: 2D navigation, about 25 seconds
  python demo.py --paper              sinusoids as in the paper, beside its figures, 60 seconds
  python demo.py --best               how far learned inner rates take sinusoids, 2 minutes

These are the three domains of Finn et al. 2017. Every method learns from the same tasks, then
gets unseen ones, takes gradient steps on a few examples of each, and is judged on others.
Ctrl-C ends the training of a method and goes on with what it has learnt; twice leaves.
"""
import argparse
import importlib.util
import math
import os
import signal
import sys
import textwrap
import time
from collections import deque
from functools import partial
from types import SimpleNamespace

# Before NumPy is loaded: its threads would wait for each other longer than these products take.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
try:
    import numpy as np
except ModuleNotFoundError:
    sys.exit("demo.py needs NumPy: python -m pip install numpy")

from maml import MLP, adapt, cosine_decay, meta_gradient, meta_train, reptile_gradient
from tasks import FewShot, Navigation, Sinusoid, Tasks, characters

STEPS = 0, 1, 5, 10                         # when to evaluate, in gradient steps, as in the paper
GOAL_STEPS = 0, 1, 2, 3                     # the same for navigation
RATES = 0.001, 0.003, 0.01, 0.03, 0.1, 0.3  # who learns for no inner rate adapts at the best one
GOAL_RATES = 2, 5, 10, 20, 40               # the same for navigation
OTHERS = 200                                # tasks to choose that rate on; half of it for goals
REPTILE_STEPS = 5                           # at least; with one it would be joint training
CLIP = 10                                   # largest norm of the outer gradient
WRECKED = 100             # an error above four squared amplitudes of 5 counts as diverged
# Navigation's inner rate falls to this share after each step: MAML's returns after 2 and 3 steps
# are then -2.4 and -2.1. Halved once, as in the authors' code, it leaves -2.6 and -2.7.
GOAL_DECAY = 0.4


# ----------------------------------------------------------------------------------- the methods

def learn(trainer, start, sample, together, gradient=meta_gradient, reptile=False):
    """Train MAML and its relatives; return name -> (theta, alpha, or None if that is left open).

    `together` samples for the methods that do not tell support from query examples.
    """
    alpha, K = trainer.chosen.inner_rate, trainer.chosen.inner_steps
    methods = [("joint training", 0, gradient)]
    if reptile:
        methods += [("Reptile", max(K, REPTILE_STEPS), reptile_gradient)]
    learned = {"random initialisation": (start, None)}
    for name, steps, how in methods:
        learned[name] = trainer(name, start, together, alpha, steps, how)[0], None
    for name, rates, how in (
            ("first-order MAML", alpha, partial(gradient, first_order=True)),
            ("MAML", alpha, gradient),
            ("Meta-SGD", np.full(len(start), alpha), partial(gradient, wrt_alpha=True))):
        learned[name] = trainer(name, start, sample, rates, K, how)
    return learned


def pooled(sample, rng, n_tasks):
    """Return the tasks of sample(rng, n_tasks) with all of their examples in either set."""
    tasks = sample(rng, n_tasks)
    x, y = (np.concatenate(pair, axis=1) for pair in (tasks[::2], tasks[1::2]))
    return Tasks(x, y, x, y)


def policy_gradient(model, theta, roll_out, alpha, steps, **options):
    """Return minus the mean return of θ_K, and meta_gradient where the examples are episodes.

    roll_out is the function from a policy to its Episodes. Those of θ are the support set, of all
    steps, and those of θ_K the query set. Like other data they count as given. So the gradient
    leaves out that θ also decides which support episodes are seen, and thus what can be learnt
    from them. E-MAML (Stadie et al. 2018) adds that term, and ProMP (Rothfuss et al. 2019)
    estimates it with less variance.
    """
    support = roll_out(partial(model.predict, theta)).examples()
    theta_K = adapt(model, theta, *support, alpha, steps)
    query = roll_out(partial(model.predict, theta_K))
    tasks = Tasks(*support, *query.examples())
    _, grad_theta, grad_alpha = meta_gradient(model, theta, tasks, alpha, steps, **options)
    return -query.returns().mean(), grad_theta, grad_alpha


class Trainer:
    """Trains a network with the settings chosen, and notes which methods it could not finish."""

    def __init__(self, model, chosen):
        self.model, self.chosen = model, chosen
        self.unfinished = {}                           # name -> what happened
        self.interrupted = -math.inf                   # when Ctrl-C came last

    def start(self, std=None, dtype=np.float32):
        """Return the theta that every method starts from."""
        return self.model.init(np.random.default_rng([self.chosen.seed, 0]), std, dtype)

    def __call__(self, name, start, sample, alpha, steps, gradient=meta_gradient, iterations=None):
        """Return theta and alpha, learned from the tasks sample(rng, n) that all methods see."""
        chosen, iterations = self.chosen, iterations or self.chosen.iterations
        rate, clip = cosine_decay(chosen.outer_rate, iterations), CLIP
        if chosen.mode == "paper":                     # as in the authors' code
            rate, clip = chosen.outer_rate, None
        rng, progress = np.random.default_rng([chosen.seed, 1]), Progress(name, iterations)
        learned = [start, alpha]

        def watch(i, loss, *now):
            learned[:] = now
            progress(loss)

        try:
            meta_train(self.model, start, lambda: sample(rng, chosen.meta_batch), alpha, steps,
                       iterations, rate, clip, gradient, watch)
        except KeyboardInterrupt:
            previous, self.interrupted = self.interrupted, time.monotonic()
            if self.interrupted < previous + 1:
                raise
            self.unfinished[name] = progress.end("stopped")
        except FloatingPointError:
            rates = [f"--{r}-rate" for r in ("inner", "outer") if hasattr(chosen, f"{r}_rate")]
            self.unfinished[name] = progress.end(f"diverged, try a lower {' or '.join(rates)},")
        return tuple(learned)


class Progress:
    """Shows in one line how far the training of a method is and how long the rest will take."""

    def __init__(self, name, iterations):
        self.name, self.iterations, self.done = name, iterations, 0
        self.began, self.losses = time.monotonic(), deque([], 100)  # a single one is noisy

    def __call__(self, loss):
        self.losses.append(loss)
        self.done += 1
        last, terminal = self.done == self.iterations, sys.stdout.isatty()
        if last or terminal and self.done % max(1, self.iterations // 100) == 0:
            share, spent = self.done / self.iterations, time.monotonic() - self.began
            left = f"{spent:.0f} s" if last else f"{spent / share - spent:.0f} s left"
            line = f"{self.name:22} {share:4.0%}   meta-loss {np.mean(self.losses):8.3f}   {left}"
            print(f"\r{line:70}" if terminal else line, end="\n" if last else "", flush=True)

    def end(self, how):
        """Print and return how the training ended."""
        what = f"{self.name} {how} after {self.done} of {self.iterations} iterations"
        print(f"\n{what}")
        return what


# ------------------------------------------------------------------------------------ evaluation

def evaluate(model, tasks, score, theta, alpha):
    """Return the score, called as MLP.loss is, of each task after STEPS, (len(STEPS), tasks)."""
    scores = []
    for i in range(0, len(tasks.x_support), 100):      # so many tasks fit the processor's cache
        *support, x, y = (a[i:i + 100] for a in tasks)
        adapted = (adapt(model, theta, *support, alpha, k) for k in STEPS)
        scores.append([score(model, theta_k, x, y) for theta_k in adapted])
    return np.concatenate(scores, axis=1)


def accuracy(model, theta, x, y):
    """Return the percentage of right labels in each task, (tasks,)."""
    return 100 * (model.predict(theta, x).argmax(-1) == y).mean(-1)


def nearest(tasks):
    """Return the query labels by the nearest support example, pixel by pixel, (tasks, queries)."""
    x, centres = tasks.x_query, tasks.x_support        # squared distances, but for what all share:
    distance = (centres**2).sum(-1)[:, None] - 2 * x @ centres.swapaxes(1, 2)
    return np.take_along_axis(tasks.y_support, distance.argmin(-1), axis=1)


def explore(model, goals, theta, alpha):
    """Return the Episodes after each of GOAL_STEPS, each step being taken on those before it."""
    rng, found = np.random.default_rng(0), []          # every method meets the same chance
    for k in GOAL_STEPS:
        if k > 0:
            theta = adapt(model, theta, *found[-1].examples(), alpha * GOAL_DECAY**(k - 1))
        found.append(Navigation().roll_out(rng, partial(model.predict, theta), goals))
    return found


def returns(model, goals, theta, alpha):
    """Return the mean return of each goal after each of GOAL_STEPS, (len(GOAL_STEPS), goals)."""
    return np.array([episodes.returns() for episodes in explore(model, goals, theta, alpha)])


def compare(learned, score, loss, rates=RATES):
    """Return name -> (theta, alpha, scores); an open alpha is the one of rates with least loss.

    score and loss take theta and alpha and return (steps, tasks), loss of other tasks.
    """
    results, found = {}, []
    for name, (theta, alpha) in learned.items():
        if alpha is None:
            losses = np.array([loss(theta, rate)[-1].mean() for rate in rates])
            alpha = rates[np.where(np.isnan(losses), np.inf, losses).argmin()]
            found.append(f"{name} {alpha}")
        results[name] = theta, alpha, score(theta, alpha)
    if found:
        say("inner rates that did best on other tasks: " + ", ".join(found))
    return results


def interval(scores):
    """Return mean and half width of the 95 % interval over the last axis, as in the paper."""
    return scores.mean(-1), 1.96 * scores.std(-1) / np.sqrt(scores.shape[-1])


def rows(name, scores, digits=2):
    """Return a row (name, cell, ...) of means over tasks, scores being (columns, tasks), and one
    of medians if single tasks wreck the means."""
    means = [f"{mean:.{digits}f} ± {half:.{digits}f}" if mean <= WRECKED else "diverged"
             for mean, half in zip(*interval(scores))]
    lost = (~(scores <= WRECKED)).sum(-1)
    if not lost.any():
        return [(name, *means)]
    medians = np.median(np.where(np.isnan(scores), np.inf, scores), -1)
    counted = [f"{median:.{digits}f} ({n})" if median <= WRECKED else f"diverged ({n})"
               for median, n in zip(medians, lost)]
    return [(name, *means), ("  median (diverged)", *counted)]


def report(title, results, steps, unfinished, published=(), digits=2):
    """Print a table of the results, and of what others have published."""
    lines = [("after gradient steps", *steps)]
    for name, (_, _, scores) in results.items():
        lines += rows(name + " *" * (name in unfinished), scores, digits)
    print(f"\n{title}, ± 95 % interval\n")
    for name, *cells in (*lines, *published):
        print(f"{name:24}" + "".join(f" {text:>13}" for text in cells))
    for what in unfinished.values():
        print(f"* {what}")


def say(text):
    print("\n" + textwrap.fill(text, 79))


def median_task(scores):
    """Return the number of the task with the median of scores (tasks,)."""
    return np.argsort(scores)[len(scores) // 2]


# ------------------------------------------------------------------------ pictures in the terminal

GRID = np.linspace(-5, 5, 800)[:, None]                # so close that steep waves have no gaps
BRAILLE = np.array([[1, 8], [2, 16], [4, 32], [64, 128]])    # what each dot adds in Unicode


def after(k):
    return f"after {k} step" + "s" * (k > 1) if k else "before"


def panel(title, layers, x_limit, y_limit, width=37, height=7):
    """Return lines that draw layers (character, x, y), later ones over earlier ones.

    A layer without a character is drawn in fine dots, 2 by 4 to a character.
    """
    def spots(x, y, columns, lines):
        inside = (abs(x) <= x_limit) & (abs(y) < y_limit)
        across, down = (x[inside] / x_limit + 1) / 2, (1 - y[inside] / y_limit) / 2
        return (down * lines).astype(int), np.rint(across * (columns - 1)).astype(int)

    cells = np.full((height, width), " ")
    for character, x, y in layers:
        if character:
            cells[spots(x, y, width, height)] = character
            continue
        dots = np.zeros((4 * height, 2 * width), int)
        dots[spots(x, y, 2 * width, 4 * height)] = 1
        codes = (dots.reshape(height, 4, width, 2) * BRAILLE[:, None]).sum((1, 3))
        cells[codes > 0] = [chr(0x2800 + code) for code in codes[codes > 0]]
    return [f"┌─ {title} ".ljust(width + 1, "─") + "┐",
            *("│" + "".join(line) + "│" for line in cells), "└" + "─" * width + "┘"]


def print_beside(pictures):
    """Print pictures, lists of equally many lines, side by side."""
    print(*(" ".join(lines) for lines in zip(*pictures)), sep="\n")


def draw_waves(model, methods, tasks, waves, i, steps):
    """Draw task i after each number of steps, one column for each (name, theta, alpha)."""
    x, y, truth = tasks.x_support[i], tasks.y_support[i], waves(GRID)[i]
    top = 1.2 * abs(truth).max() or 1
    print("● points given   · true wave   ⠤⠒⠉ prediction")
    for k in steps:
        panels = []
        for name, theta, alpha in methods:
            prediction = model.predict(adapt(model, theta, x, y, alpha, k), GRID)
            layers = ("·", GRID, truth), ("", GRID, prediction), ("●", x, y)
            panels.append(panel(f"{name}, {after(k)}", layers, 5, top))
        print_beside(panels)


def draw_images(images, captions):
    """Draw images (n, side²) side by side under captions, two pixels in a character."""
    side = math.isqrt(images.shape[-1])
    ink = (images.reshape(-1, side // 2, 2, side) > 0.5).astype(int)
    halves = np.array(list(" ▀▄█"))[ink[:, :, 0] + 2 * ink[:, :, 1]]    # (n, side / 2, side)
    print_beside([[f"{caption:{side}}", *map("".join, image)]
                  for caption, image in zip(captions, halves)])


def draw_paths(name, paths, goal):
    """Draw the paths of each number of steps, k -> (episodes, steps, 2), to a goal (2,)."""
    panels = []
    t = np.linspace(0, 1, 8)[:, None, None, None]                       # dots between positions
    for k, path in paths.items():
        x, y = np.moveaxis(path[:, :-1] + t * np.diff(path, axis=1), -1, 0)
        layers = ("", x, y), ("+", np.zeros(1), np.zeros(1)), ("●", *goal[:, None])
        panels.append(panel(after(k), layers, 0.6, 0.6, 24, 12))
    print(name)
    print_beside(panels)


# ----------------------------------------------------------------------------- pictures in a file

# Colours that the colour-blind tell apart (Okabe, Ito 2008), of different brightness in print.
STAGES = ({"color": "#E69F00", "linestyle": ":", "linewidth": 2.5},
          {"color": "#0072B2", "linestyle": "--", "linewidth": 2},
          {"color": "black", "linestyle": "-", "linewidth": 1.5})
MARKERS = {"random initialisation": ("0.6", "x"), "joint training": ("#E69F00", "s"),
           "first-order MAML": ("#56B4E9", "^"), "MAML": ("#0072B2", "o"),
           "Meta-SGD": ("#009E73", "D")}


def new_figure(width, height):
    from matplotlib.figure import Figure
    return Figure(figsize=(width, height), layout="constrained")


def save(figure, file):
    """Write the figure, with the same bytes each time: no date, no random names."""
    import matplotlib
    dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with matplotlib.rc_context({"svg.hashsalt": "maml"}):
        figure.savefig(file, metadata=dates.get(file[-3:].lower()))


def plot_waves(file, model, methods, tasks, waves, i, steps):
    """Draw task i as the paper's figure 2 does, for each (name, theta, alpha)."""
    truth, shots = waves(GRID)[i], len(tasks.x_support[i])
    figure, top = new_figure(9, 5), 1.5 * abs(truth).max() or 1
    grid = figure.subplots(2, 2, sharex=True, sharey=True)
    for row, (name, theta, alpha) in zip(grid, methods):
        for axes, n in zip(row, (max(1, shots // 2), shots)):
            x, y = tasks.x_support[i, :n], tasks.y_support[i, :n]
            axes.plot(GRID, truth, color="0.8", linewidth=7, label="true wave")
            for k, style in zip(steps, STAGES):
                prediction = model.predict(adapt(model, theta, x, y, alpha, k), GRID)
                axes.plot(GRID, prediction, **style, label=after(k))
            axes.plot(x, y, "o", color="white", markeredgecolor="black", label="points given")
            axes.set(title=f"{name}, {n} points", xlim=(-5, 5), ylim=(-top, top))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=5)
    save(figure, file)


def plot_scores(axes, results, steps, what):
    """Draw mean scores against gradient steps with 95 % intervals; what does not adapt, dotted."""
    for name, (_, _, scores) in results.items():
        colour, marker = MARKERS.get(name, ("black", ""))
        style = dict(color=colour, marker=marker, linestyle="-" if marker else ":")
        axes.errorbar(steps, *interval(scores), **style, label=name)
    axes.set(xlabel="gradient steps", ylabel=what, xticks=steps)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)


def plot_images(axes, images, captions, title):
    """Draw images (n, side²) in a row under their captions."""
    n, side = len(images), math.isqrt(images.shape[-1])
    framed = np.pad(images.reshape(n, side, side), ((0, 0), (0, 0), (1, 1)))
    axes.imshow(framed.swapaxes(0, 1).reshape(side, -1), cmap="gray_r")
    centres = (side + 2) * (np.arange(n) + 0.5)
    axes.set(title=title, xticks=centres, xticklabels=captions, yticks=())
    axes.tick_params(length=0, labeltop=True, labelbottom=False)


def plot_characters(file, parts):
    """Draw for each part (title, results, given, asked) the accuracy, and one task's images."""
    figure = new_figure(12, 4 * len(parts))
    for i, (title, results, given, asked) in enumerate(parts):
        grid = figure.add_gridspec(2 * len(parts), 2)[2 * i:2 * i + 2, :].subgridspec(2, 2)
        axes = figure.add_subplot(grid[:, 0], title=title)
        plot_scores(axes, results, STEPS, "% right")
        plot_images(figure.add_subplot(grid[0, 1]), *given, "One task: the characters given")
        plot_images(figure.add_subplot(grid[1, 1]), *asked, "Label: MAML before, after 5 steps")
    save(figure, file)


def plot_navigation(file, paths, goal, results):
    """Draw paths to a goal, name -> k -> (episodes, steps, 2), and the returns of all goals."""
    figure = new_figure(14, 3.6)
    *squares, right = figure.subplots(1, 3)
    for axes, (name, stages) in zip(squares, paths.items()):
        for (k, path), style in zip(stages.items(), STAGES):
            lines = axes.plot(*path.T, ".-", color=style["color"], linewidth=1)
            lines[0].set_label(after(k))
        axes.plot(*goal, "*", markersize=18, color="#D55E00", label="goal")
        axes.set(title=f"{name}: paths to one goal", xlim=(-0.6, 0.6), ylim=(-0.6, 0.6))
        axes.set_aspect("equal")
    squares[1].legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    plot_scores(right, results, GOAL_STEPS, "return, mean of unseen goals")
    save(figure, file)


# ------------------------------------------------------------------------------------ the domains

PUBLISHED = {  # in Table 2 of the paper and on the poster of Meta-Curvature (Park, Oliva 2019)
    5: [("joint training, Table 2", "", "2.41", "2.23", "2.19"),
        ("MAML, Table 2", "", "0.67", "0.38", "0.35"),
        ("MAML, poster", "", "0.69 ± 0.07"),
        ("Meta-SGD, poster", "", "0.48"),
        ("Meta-Curvature, poster", "", "0.41")],
    10: [("MAML, poster", "", "0.44 ± 0.04"),
         ("Meta-SGD, poster", "", "0.26"),
         ("Meta-Curvature, poster", "", "0.20")]}


def sinusoids(trainer, chosen):
    """All methods on the waves of section 5.1."""
    sample = Sinusoid(chosen.shots, chosen.shots).sample
    learned = learn(trainer, trainer.start(), sample, partial(pooled, sample), reptile=True)
    results = judge_waves(trainer, learned, chosen.shots)
    show_waves(trainer, results, ["MAML", "joint training"], chosen.shots)
    maml, joint, mean = (results[name][2][1].mean()
                         for name in ("MAML", "joint training", "mean of all waves"))
    if max(maml, joint) < WRECKED:
        say(f"In words: after one step on {chosen.shots} points MAML errs by {maml:.2f}, joint "
            f"training on the same tasks by {joint:.2f}. Before it adapts, a model can at best be "
            f"the mean of the waves it learned from, which errs by {mean:.2f} here and by 3.006 "
            "over all of the paper's tasks. Joint training learns that mean; MAML looks for a "
            "model that few steps turn into the wave at hand.")
    print("\nThere is more: --tasks characters, --tasks navigation, --paper, --best, --help")


def paper(trainer, chosen):
    """Joint training and MAML as in the original code."""
    sample, alpha = Sinusoid(chosen.shots, chosen.shots).sample, chosen.inner_rate
    start, rng = trainer.start(std=0.01), np.random.default_rng([chosen.seed, 3])
    while (far := abs(start) > 0.02).any():            # cut off at two standard deviations
        start[far] = 0.01 * rng.standard_normal(far.sum())
    theta, _ = trainer("joint training", start, partial(pooled, sample), alpha, 0)
    learned = {"joint training": (theta, None),
               "MAML": trainer("MAML", start, sample, alpha, chosen.inner_steps)}
    for shots in 5, 10, 20:
        results = judge_waves(trainer, learned, shots, PUBLISHED.get(shots, ()))
        if shots == 10:
            show_waves(trainer, results, ["MAML", "joint training"], shots)


def best(trainer, chosen):
    """Inner rates learned for each parameter: of one step, and of each of five steps."""
    one_step, five_steps = names = ["Meta-SGD, one step", "five learned steps"]
    gradient, n = partial(meta_gradient, wrt_alpha=True), chosen.iterations
    start, rng = trainer.start(std=0.15), np.random.default_rng([chosen.seed, 3])
    rates = 0.01 * rng.standard_normal(len(start))     # scattered ones end lower than equal ones
    sample = Sinusoid(shots=10, queries=10).sample
    learned = {one_step: trainer(one_step, start, sample, rates, 1, gradient, 6 * n)}
    # float64: early in training single tasks explode, beyond what float32 holds and clipping mends
    start, rates = trainer.start(std=0.01, dtype=np.float64), np.full((5, len(start)), 0.01)
    sample = Sinusoid(shots=5, queries=20).sample
    learned[five_steps] = trainer(five_steps, start, sample, rates, 5, gradient, n)
    for shots in 5, 10:
        results = judge_waves(trainer, learned, shots, PUBLISHED[shots], digits=3)
    show_waves(trainer, results, names[::-1], shots, steps=(0, 1, 5))


def unseen_waves(chosen, shots):
    """Return unseen Tasks, their Waves, and other Tasks to choose inner rates on."""
    family, rng = Sinusoid(shots, queries=100), np.random.default_rng([chosen.seed, 2])
    waves = family.draw(rng, chosen.unseen)
    return family.observe(rng, waves), waves, family.sample(rng, OTHERS)


def judge_waves(trainer, learned, shots, published=(), digits=2):
    """Print the errors on unseen waves; return name -> (theta, alpha, errors)."""
    tasks, waves, others = unseen_waves(trainer.chosen, shots)
    score, loss = (partial(evaluate, trainer.model, some, MLP.loss) for some in (tasks, others))
    results = compare(learned, score, loss)
    for name, y in (("mean of all waves", -5.1 / np.pi * np.cos(tasks.x_query)),
                    ("the true wave", waves(tasks.x_query))):
        errors = ((y - tasks.y_query)**2).mean((1, 2))
        results[name] = None, None, np.tile(errors, (len(STEPS), 1))
    title = f"Mean squared error on {len(errors)} unseen tasks, {shots} points each"
    report(title, results, STEPS, trainer.unfinished, published, digits)
    return results


def show_waves(trainer, results, names, shots, steps=(0, 1, 10)):
    """Draw two methods on the wave with the median of the first one's last errors."""
    tasks, waves, _ = unseen_waves(trainer.chosen, shots)
    i = median_task(results[names[0]][2][STEPS.index(steps[-1])])
    methods = [(name, *results[name][:2]) for name in names]
    print(f"\nThe unseen task with the median error of {names[0]}, {after(steps[-1])}:")
    draw_waves(trainer.model, methods, tasks, waves, i, steps)
    if trainer.chosen.plot:
        plot_waves(trainer.chosen.plot, trainer.model, methods, tasks, waves, i, steps)


def handwriting(trainer, chosen):
    """5-way classification of made-up characters."""
    all_shots, model, parts = (chosen.shots,) if chosen.shots else (1, 5), trainer.model, []
    rng = np.random.default_rng([chosen.seed, 3])
    classes = characters(rng, 800, max(20, all_shots[-1] + 10))
    known, new = classes[:600], classes[600:]
    for shots in all_shots:
        print(f"\n{shots} of each character given")
        trainer.unfinished = {}
        family, rng = FewShot(known, 5, shots, 5), np.random.default_rng([chosen.seed, 2])
        learned = learn(trainer, trainer.start(), family.sample, partial(pooled, family.sample))
        tasks = FewShot(new, 5, shots, 10).sample(rng, chosen.unseen)
        others = family.sample(rng, OTHERS)
        results = compare(learned, partial(evaluate, model, tasks, accuracy),
                          partial(evaluate, model, others, MLP.loss))
        pixels = 100 * (nearest(tasks) == tasks.y_query).mean(-1)
        results["nearest by pixels"] = None, None, np.tile(pixels, (len(STEPS), 1))
        title = f"% right on {chosen.unseen} tasks of 5 unseen characters, {shots} given of each"
        report(title, results, STEPS, trainer.unfinished)
        say("In words: each task deals its labels anew, so no model can tell them without its "
            "examples, and what joint training learns stays at chance, 20 %, until it adapts. "
            f"After 5 steps MAML is right in {results['MAML'][2][2].mean():.0f} %, the nearest "
            f"neighbour in {pixels.mean():.0f} %.")
        given, asked = one_task(model, *results["MAML"], tasks, shots)
        print("\nThe task with the median accuracy: the characters given, then a query of each,"
              "\nwith its label and what MAML answers before and after 5 steps")
        draw_images(*given)
        draw_images(*asked)
        parts.append((title, results, given, asked))
    if chosen.plot:
        plot_characters(chosen.plot, parts)


def one_task(model, theta, alpha, scores, tasks, shots):
    """Return images and captions of the median task: the support set, and a query of each."""
    x, y, queries, labels = (a[median_task(scores[2])] for a in tasks)
    before, then = (model.predict(adapt(model, theta, x, y, alpha, k), queries).argmax(-1)
                    for k in (0, 5))
    answers = [f"{label}: {b}, then {t}" for label, b, t in zip(labels, before, then)]
    names = [f"label {label}" for label in y]
    return (x[::shots], names[::shots]), (queries[::10], answers[::10])


def navigation(trainer, chosen):
    """All methods on the goals of section 5.3."""
    model, family = trainer.model, Navigation()
    start = trainer.start()
    model.unpack(start)[-1][0][...] *= 0.1             # or most of the first actions are clipped

    def sample(rng, n_tasks):
        return partial(family.roll_out, rng, goals=family.draw(rng, n_tasks))

    learned = learn(trainer, start, sample, sample, policy_gradient)
    goals, others = (family.draw(np.random.default_rng([chosen.seed, i]), n)
                     for i, n in ((2, chosen.unseen), (3, OTHERS // 2)))
    results = compare(learned, partial(returns, model, goals),
                      lambda theta, alpha: -returns(model, others, theta, alpha), GOAL_RATES)
    rng = np.random.default_rng(0)
    # Of the factors tried, 0.5 to 10, 4 does best: it overcomes the noise and seldom overshoots.
    knows = family.roll_out(rng, lambda x: 4 * (goals - x), goals).returns()
    results["oracle, knows the goal"] = None, None, np.tile(knows, (len(GOAL_STEPS), 1))
    report(f"Return on {chosen.unseen} unseen goals", results, GOAL_STEPS, trainer.unfinished)
    maml, joint = (results[name][2].mean(-1) for name in ("MAML", "joint training"))
    if np.isfinite([maml, joint]).all():
        say(f"In words: one step on {family.episodes} episodes takes MAML from {maml[0]:.1f} to "
            f"{maml[1]:.1f}, joint training to {joint[1]:.1f}; three take them to {maml[3]:.1f} "
            f"and {joint[3]:.1f}. Knowing the goal gives {knows.mean():.1f} with the same noise.")
    show_paths(model, chosen, results, goals)


def show_paths(model, chosen, results, goals):
    """Draw paths of MAML and joint training to the goal with the median of MAML's returns."""
    i, paths = median_task(results["MAML"][2][-1]), {}
    print("\nThree paths to the goal with the median of MAML's returns: + start, ● goal")
    for name in "MAML", "joint training":
        episodes = explore(model, goals, *results[name][:2])
        paths[name] = {k: episodes[k].positions[i, :3] for k in (0, 1, 3)}
        draw_paths(name, paths[name], goals[i, 0])
    if chosen.plot:
        plot_navigation(chosen.plot, paths, goals[i, 0], results)


# ------------------------------------------------------------------------------- the command line

def number(read, fits, expected):
    """Return a type for argparse: what read makes of a text, if it fits."""
    def parse(text):
        try:
            value = read(text)
        except ValueError:
            value = math.nan
        if not fits(value):
            raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
        return value
    return parse


def picture_file(name):
    """Return the name of a file that a picture can be written to, a type for argparse."""
    if not name.lower().endswith((".png", ".svg", ".pdf")):
        raise argparse.ArgumentTypeError(f"expected a .png, .svg or .pdf file, got {name!r}")
    if importlib.util.find_spec("matplotlib") is None:
        raise argparse.ArgumentTypeError("needs matplotlib: python -m pip install matplotlib")
    new = not os.path.exists(name)
    try:
        open(name, "ab").close()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"cannot write {name!r}: {error.strerror}") from None
    if new:
        os.remove(name)
    return name


WHOLE = number(int, lambda n: n >= 0, "a whole number >= 0")
COUNT = number(int, lambda n: n >= 1, "a whole number >= 1")
RATE = number(float, lambda a: 0 < a < 1e30, "a number > 0 and < 1e30")

WAVES = dict(shots=10, inner_steps=1, inner_rate=0.01, outer_rate=3e-3, meta_batch=25,
             iterations=12000, unseen=600)
NETWORK = (1, 40, 40, 1), "relu", "mse"                # of the paper
MODES = {  # what to run, the network, and the settings, explained with the options below
    "sinusoids": (sinusoids, NETWORK, WAVES),
    "paper": (paper, NETWORK, {**WAVES, "inner_rate": 0.001, "outer_rate": 1e-3,
                               "iterations": 70000}),
    "best": (best, NETWORK, dict(outer_rate=3e-3, meta_batch=25, iterations=15000, unseen=4000)),
    "characters": (handwriting, ((196, 64, 64, 5), "relu", "cross_entropy"), {
        **WAVES, "shots": None, "inner_steps": 3, "inner_rate": 0.1, "iterations": 2000}),
    "navigation": (navigation, ((2, 40, 40, 2), "tanh", "policy"), dict(
        inner_steps=1, inner_rate=2.0, outer_rate=5e-3, meta_batch=20, iterations=300,
        unseen=200))}


def parser():
    """Return the parser, whose result lacks the options that are not given."""
    command = argparse.ArgumentParser(
        "demo.py", "python demo.py [--tasks KIND | --paper | --best] [options]", __doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS, allow_abbrev=False)
    modes = command.add_mutually_exclusive_group()
    modes.add_argument("--tasks", dest="mode", choices=("sinusoids", "characters", "navigation"),
                       help="(default: sinusoids)")
    modes.add_argument("--paper", dest="mode", action="store_const", const="paper",
                       help="joint training and MAML as in the authors' code, cbfinn/maml")
    modes.add_argument("--best", dest="mode", action="store_const", const="best",
                       help="inner rates learned for each parameter, of one step and of five")
    add = partial(command.add_argument, metavar="N", type=COUNT)
    add("--shots", help="examples given of a task (default: 10, as in the authors' code), or of "
                        "each character (default: 1, then 5)")
    add("--inner-steps", help="that MAML learns through (default: 1, as in the authors' code; "
                              "characters 3); Reptile takes 5 or more")
    add("--inner-rate", type=RATE, help=(
        "of MAML, and where Meta-SGD starts (default: 0.01, as in the paper's text; --paper 0.001, "
        "as in the authors' code; characters 0.1 and navigation 2, the best tried)"))
    add("--outer-rate", type=RATE, help=(
        "of Adam (default: 0.003, falling to 0, gradients clipped to norm 10, better in 12000 "
        "iterations than the authors' 0.001, neither falling nor clipped, which --paper has; "
        "navigation 0.005, faster than 0.003, and 0.01 can end far lower)"))
    add("--meta-batch", help=(
        "tasks of an outer step (default: 25, navigation 20, as in the authors' code)"))
    limits = command.add_mutually_exclusive_group()
    limits.add_argument("--iterations", metavar="N", type=COUNT, help=(
        "outer steps (default: 12000 for some seconds a method; --paper 70000, as in the authors' "
        "code; --best 15000, sixfold for one step; characters 2000; navigation 300)"))
    limits.add_argument("--quick", action="store_true", help=(
        "a tenth of the default iterations, of navigation a fifth"))
    add("--unseen", help="tasks to judge by (default: 600, as in the authors' code; --best 4000, "
                         "navigation 200, for small intervals)")
    add("--seed", type=WHOLE, help="of all random numbers (default: 0)")
    add("--plot", metavar="FILE", type=picture_file, help=(
        "draw the results as .png, .svg or .pdf, with matplotlib 3.7 or newer (default: no "
        "picture)"))
    return command


def settings(arguments):
    """Return the settings of the mode chosen, changed by the options given."""
    command = parser()
    given = vars(command.parse_args(arguments))
    mode, quick = given.pop("mode", "sinusoids"), given.pop("quick", False)
    default = {**MODES[mode][2], "seed": 0, "plot": None}
    for name in given:
        if name not in default:
            command.error(f"--{name.replace('_', '-')} has no meaning for {mode}")
    chosen = SimpleNamespace(mode=mode, **{**default, **given})
    if quick:
        chosen.iterations //= 5 if mode == "navigation" else 10
    return chosen


@np.errstate(over="ignore", invalid="ignore")          # what diverges shows in the table
def main(arguments=None):
    chosen = settings(arguments)
    run, network, _ = MODES[chosen.mode]
    model = MLP(*network)
    print(f"network {'-'.join(map(str, network[0]))}, {model.n_params} parameters, {network[1]}\n")
    run(Trainer(model, chosen), chosen)


if __name__ == "__main__":
    if sys.stdout is None:                             # the output is closed
        sys.stdout = open(os.devnull, "w")
    if hasattr(sys.stdout, "reconfigure"):             # which a notebook's lacks
        sys.stdout.reconfigure(encoding="utf-8")
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` ends this program as any other
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:                           # a full disk
        sys.exit(f"demo.py: {error}")
