"""Draw the figures of the README and of docs/results.md, or one of them with other settings.

    python docs/figures.py                                          all three, 4 minutes
    python docs/figures.py --tasks navigation --seed 1 --out a.png  one, with options of demo.py

Needs matplotlib 3.7 or newer. What can fail is tried before anything is trained.
"""
import argparse
import io
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import demo
import matplotlib
import numpy as np
from maml import adapt
from matplotlib.figure import Figure

# Told apart by the colour-blind (Okabe, Ito 2008), and of different brightness in print.
ORANGE, SKY, BLUE, PURPLE, GREEN, RED = "#E69F00 #56B4E9 #0072B2 #CC79A7 #009E73 #D55E00".split()
METHODS = {
    "random initialisation": dict(color="0.55", marker="x", linestyle=":"),
    "joint training": dict(color=ORANGE, marker="s", linestyle="--"),
    "first-order MAML": dict(color=SKY, marker="^", linestyle="-"),
    "MAML": dict(color=BLUE, marker="o", linestyle="-"),
    "Meta-SGD": dict(color=PURPLE, marker="D", linestyle="-.")}
STAGES = {0: dict(color=ORANGE, linestyle=":"), 1: dict(color=BLUE, linestyle="--"),
          10: dict(color="black", linewidth=1.5)}
# Letters are large enough for a slide, and for a telephone that shows the figure 360 pixels wide.
LOOK = {"font.size": 14, "axes.titlesize": 14, "legend.fontsize": 13, "legend.frameon": False,
        "lines.linewidth": 2.2, "axes.spines.top": False, "axes.spines.right": False,
        "path.simplify_threshold": 0.5, "svg.hashsalt": "the same names of parts each time"}


def sinusoids(figure, model, results, tasks, waves):
    """One wave, as figure 2 of the paper has it, with 5 and with 10 points."""
    i = demo.median_task(results["MAML"].scores[-1])
    grid = np.linspace(-5, 5, 201)[:, None]
    truth, shots = waves(grid)[i], tasks.x_support.shape[1]
    panels = figure.subplots(2, 2, sharex=True, sharey=True)
    for row, name in zip(panels, ("MAML", "joint training")):
        theta, alpha, _ = results[name]
        for axes, n in zip(row, (max(1, shots // 2), shots)):
            x, y = tasks.x_support[i, :n], tasks.y_support[i, :n]
            axes.plot(grid, truth, color="0.85", linewidth=9, label="true wave")
            errors = []
            for k, style in STAGES.items():
                theta_k = adapt(model, theta, x, y, alpha, k)
                axes.plot(grid, model.predict(theta_k, grid), label=demo.after(k), **style)
                errors.append(f"{model.loss(theta_k, tasks.x_query[i], tasks.y_query[i]):.2g}")
            axes.plot(x, y, "o", color="white", markeredgecolor="black", label="points given")
            axes.set_title(f"{name}, {n} points\nerror {' → '.join(errors)}")
    top = 1.8 * abs(truth).max() or 1
    axes.set(xlim=(-5, 5), ylim=(-top, top))
    for axes in panels[:, 0]:
        axes.set_ylabel("y")
    for axes in panels[1]:
        axes.set_xlabel("x")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)


def characters(figure, model, outcomes):
    """Accuracy for each number of examples, and one task with the fewest."""
    upper, lower = figure.subfigures(2, 1, height_ratios=(4, 3))
    panels = upper.subplots(1, len(outcomes), sharey=True, squeeze=False)[0]
    for axes, (shots, (_, results)) in zip(panels, outcomes.items()):
        plot_scores(axes, results, demo.STEPS)
        axes.set_title(f"{shots} of each character given")
    panels[0].set_ylabel("% right, unseen tasks")
    upper.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)

    tasks, results = next(iter(outcomes.values()))
    i = demo.median_task(results["MAML"].scores[2])
    examples, queries, *answers = demo.one_of_each(model, results["MAML"], tasks, i)
    rows = lower.subplots(2, 5, gridspec_kw=dict(hspace=0.05))
    for row, images, name in zip(rows, (examples, queries), ("given", "asked")):
        for axes, image in zip(row, images):
            axes.imshow(image.reshape(14, 14), cmap="gray_r")
            axes.set(xticks=(), yticks=())
            axes.spines[:].set_visible(True)
        row[0].set_ylabel(name)
    lower.suptitle("One task, and MAML's answers before and after 5 steps", fontsize=14)
    for label, axes in enumerate(rows[0]):
        axes.set_title(f"label {label}")
    for when, labels, y in zip(("before", "after"), answers, (15, 19)):
        for axes, words in zip(rows[1], demo.marked(when, labels)):
            colour = GREEN if "✓" in words else RED
            axes.text(6.5, y, words, color=colour, ha="center", va="top")


def navigation(figure, model, results, world, goals):
    """Mean paths to four goals, and the returns of all."""
    upper, lower = figure.subfigures(2, 1, height_ratios=(3, 4))
    corners = 0.4 * np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]])
    chosen = np.linalg.norm(goals - corners, axis=-1).argmin(0)           # an unseen goal near each
    met = {name: demo.explore(model, world, goals, results[name].theta, results[name].alpha)
           for name in ("MAML", "joint training")}
    panels = upper.subplots(1, 3, sharex=True, sharey=True)
    for axes, k in zip(panels, (0, 1, 3)):
        for name, episodes in met.items():
            paths = episodes[k].positions[chosen].mean(1)                 # (goals, steps, 2)
            axes.plot(*paths.T, color=METHODS[name]["color"],
                      linestyle=METHODS[name]["linestyle"])
        axes.plot(*goals[chosen, 0].T, "*", color="black", markersize=13)
        axes.set(title=demo.after(k), xlim=(-0.6, 0.6), ylim=(-0.6, 0.6), xticks=(), yticks=())
        axes.set_aspect("equal")
        axes.spines[:].set_visible(True)
    panels[0].set_ylabel("mean paths\nto four goals ★")
    axes = lower.subplots()
    plot_scores(axes, results, demo.GOAL_STEPS)
    axes.set_ylabel("return, unseen goals")
    lower.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)


def plot_scores(axes, results, steps):
    """Draw mean scores and 95 % intervals, side by side where they coincide."""
    at = np.arange(len(steps))
    for i, (name, result) in enumerate(results.items()):
        if name in METHODS:
            axes.errorbar(at + 0.07 * (i - 2), *demo.interval(result.scores), **METHODS[name],
                          markersize=6, label=name)
        else:
            axes.axhline(result.scores.mean(), color="black", linewidth=1.2, label=name)
    axes.set(xlabel="gradient steps", xticks=at, xticklabels=steps)


# ------------------------------------------------------------------------------- the command line

DRAW = {"sinusoids": (sinusoids, (7.5, 7)),            # and its size in inches
        "characters": (characters, (7.5, 8)),
        "navigation": (navigation, (7.5, 7))}


def save(figure, file, suffix):
    """Write the figure as .svg, .png or .pdf, with the same bytes each time."""
    dates = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    figure.savefig(file, format=suffix[1:], metadata=dates.get(suffix))


def prepare(path):
    """Raise an error if a figure cannot be drawn, or not be written to the path."""
    figure = Figure(layout="constrained")
    figure.legend([], [], loc="outside lower center")  # new in matplotlib 3.7
    save(figure, io.BytesIO(), path.suffix)
    path.open("ab").close()


@np.errstate(over="ignore", invalid="ignore")          # what diverges shows in the table
def main():
    command = argparse.ArgumentParser(
        usage="python docs/figures.py [--tasks KIND] [--out PATH] [options of demo.py]",
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False)
    command.add_argument("--tasks", choices=DRAW, help="(all three)")
    command.add_argument("--out", type=Path, metavar="PATH", default=Path(__file__).parent,
                         help="a folder, or a .svg, .png or .pdf file for one figure (docs/)")
    given, options = command.parse_known_args()
    kinds, folder = [given.tasks] if given.tasks else list(DRAW), given.out.is_dir()
    if not folder and not given.tasks:
        command.error(f"argument --out: expected a folder for all three, got {given.out}")
    paths = {kind: given.out / f"{kind}.svg" if folder else given.out for kind in kinds}
    settings = {kind: demo.settings(["--tasks", kind, *options])[1] for kind in kinds}
    matplotlib.rcdefaults()
    matplotlib.rcParams.update(LOOK)
    for path in paths.values():
        prepare(path)
    for kind, path in paths.items():
        outcome = demo.DOMAINS[kind](**settings[kind])
        draw, size = DRAW[kind]
        figure = Figure(size, layout="constrained")
        figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
        draw(figure, *outcome)
        save(figure, path, path.suffix)
        print(f"\nThe figure is {path}")


if __name__ == "__main__":
    demo.run(main)
