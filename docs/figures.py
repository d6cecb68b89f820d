"""Draw the figures of README.md and docs/results.md: train as demo.py does (some 3 minutes), draw.

    python docs/figures.py [--quick]      needs matplotlib 3.7 or newer
"""
import itertools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import demo
import matplotlib
import numpy as np
from maml import adapt
from matplotlib.figure import Figure

METHODS = {  # colours that the colour-blind tell apart (Okabe, Ito 2008), markers, lines
    "random initialisation": ("0.55", "x", ":"),
    "joint training": ("#E69F00", "s", "--"),
    "first-order MAML": ("#56B4E9", "^", "-"),
    "MAML": ("#0072B2", "o", "-"),
    "Meta-SGD": ("#CC79A7", "D", "-.")}
LOOK = {"font.size": 14, "axes.titlesize": 14, "figure.titlesize": 14, "legend.frameon": False,
        "lines.linewidth": 2.2, "path.simplify_threshold": 0.5, "svg.hashsalt": "the same bytes"}


def sinusoids(figure, model, results, tasks, waves):
    """One wave, as figure 2 of the paper has it, with 5 and with 10 points."""
    scores = results["MAML"][2][-1]
    i = np.argsort(scores)[len(scores) // 2]  # the wave with the median error
    grid = np.linspace(-5, 5, 201)[:, None]
    panels = figure.subplots(2, 2, sharex=True, sharey=True).flat
    for axes, (name, n) in zip(panels, itertools.product(("MAML", "joint training"), (5, 10))):
        theta, alpha, _ = results[name]
        x, y, errors = tasks.x_support[i, :n], tasks.y_support[i, :n], []
        axes.plot(grid, waves(grid)[i], color="0.85", linewidth=9, label="true wave")
        for k, color, line in (0, "#E69F00", ":"), (1, "#0072B2", "--"), (10, "black", "-"):
            theta_k = adapt(model, theta, x, y, alpha, k)
            axes.plot(grid, model.predict(theta_k, grid), line, color=color, label=f"step {k}")
            errors.append(f"{model.loss(theta_k, tasks.x_query[i], tasks.y_query[i]):.2g}")
        axes.plot(x, y, "o", color="white", markeredgecolor="black", label="points given")
        axes.set_title(f"{name}, {n} points\nerror {' → '.join(errors)}")
    axes.set(xlim=(-5, 5), ylim=2.2 * waves.amplitude[i, 0, 0] * np.array([-1, 1]))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)


def characters(figure, model, outcomes):
    """Accuracy with one and with five examples of each."""
    for axes, shots in zip(figure.subplots(1, 2, sharey=True), outcomes):
        plot_scores(axes, outcomes[shots][1], demo.STEPS, "nearest by pixels")
        axes.set(title=f"{shots} of each given", ylabel="% right, unseen tasks")
        axes.label_outer()
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)


def navigation(figure, model, results, world, goals):
    """Mean paths to four goals, and the returns of all."""
    upper, lower = figure.subfigures(2, 1, height_ratios=(3, 4))
    upper.suptitle("Mean paths to four unseen goals ★")
    corners = 0.4 * np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]])
    chosen = np.linalg.norm(goals - corners, axis=-1).argmin(0)  # an unseen goal near each
    for axes, k in zip(upper.subplots(1, 3), (0, 1, 3)):
        for name in "MAML", "joint training":
            theta, alpha, _ = results[name]
            paths = demo.explore(model, theta, alpha, world, goals)[k].positions[chosen].mean(1)
            axes.plot(*paths.T, color=METHODS[name][0], linestyle=METHODS[name][2])
        axes.plot(*goals[chosen, 0].T, "*", color="black", markersize=13)
        axes.set(title=f"step {k}", xlim=(-0.6, 0.6), ylim=(-0.6, 0.6), xticks=(), yticks=(),
                 aspect="equal")
    axes = lower.subplots()
    plot_scores(axes, results, demo.GOAL_STEPS, "knows the goal")
    axes.set_ylabel("return, unseen goals")
    lower.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)


def plot_scores(axes, results, steps, known):
    """Draw mean scores and 95 % intervals, side by side where they coincide."""
    for i, (name, (color, marker, line)) in enumerate(METHODS.items()):
        axes.errorbar(np.arange(len(steps)) + 0.07 * (i - 2), *demo.interval(results[name][2]),
                      color=color, marker=marker, linestyle=line, label=name)
    axes.axhline(results[known][2].mean(), color="black", linewidth=1.2, label=known)
    axes.set(xlabel="gradient steps", xticks=range(len(steps)), xticklabels=steps)


if __name__ == "__main__":
    matplotlib.rcParams.update(LOOK)
    for draw in sinusoids, characters, navigation:
        name = draw.__name__
        height = 4.5 if name == "characters" else 7.5
        figure = Figure((7.5, height), layout="constrained")
        settings = {"iterations": demo.QUICK[name]} if "--quick" in sys.argv else {}
        with np.errstate(over="ignore", invalid="ignore"):  # what diverges shows in the table
            draw(figure, *demo.DOMAINS[name](**settings))
        figure.savefig(Path(__file__).with_name(f"{name}.svg"), metadata={"Date": None})
