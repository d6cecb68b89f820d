"""Train MAML and its relatives, and compare how they adapt to tasks that they have not seen.

  python demo.py                      regression of sine waves, less than a minute
  python demo.py --tasks characters   classification of made-up handwriting, two to four minutes
  python demo.py --tasks navigation   reinforcement learning: 2D navigation, half a minute

Every method learns from the same tasks, then takes gradient steps on a few examples of each unseen
one, and is judged on others. Ctrl-C ends the training of a method, which is judged by what it has
learnt. Options change the settings at the head of each domain's function.
"""
import argparse
import os
import sys
from functools import partial

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy is loaded: more are slower
import numpy as np
from maml import MLP, adapt, cosine_decay, meta_gradient, meta_train, reptile_gradient
from tasks import FewShot, Navigation, Sinusoid, characters, pool, rollout_gradient

STEPS = 0, 1, 5, 10  # when to judge, in gradient steps, as in the paper
RATES = 0.001, 0.003, 0.01, 0.03, 0.1, 0.3  # to choose from if training fixes none
GOAL_STEPS = 0, 1, 2, 3  # the same for navigation
GOAL_RATES = 2, 5, 10, 20, 40  # large, as the loss takes deviation 1 and the world has 0.1
OTHERS = 200  # tasks to choose that rate on; half of it for goals
START, TRAINING, UNSEEN, REST = range(4)  # default_rng([seed, one of these]): own streams
ROW = "{:22}{!s:>6} {:>12} {:>12} {:>12} {:>12}"  # of a table: name, inner rate, four scores


def sinusoids(
        shots=10,          # points given of a wave, as in the authors' code, cbfinn/maml
        inner_steps=1,     # that MAML learns through, as there; Reptile takes at least five
        inner_rate=0.01,   # of MAML, and where Meta-SGD starts, as in the paper's text
        outer_rate=3e-3,   # of Adam; falls to 0, better here than a steady 0.001
        meta_batch=25,     # waves of an outer step, as in the authors' code
        iterations=12000,  # outer steps, for some seconds a method
        unseen=600,        # waves to judge by, as in the authors' code
        seed=0):           # of random numbers
    """Regression: sine waves of hidden amplitude and phase, section 5.1 of the paper."""
    model = MLP((1, 40, 40, 1), "relu", "mse")  # the paper's network
    start = model.init(np.random.default_rng([seed, START]), dtype=np.float32)
    methods = list_methods(meta_gradient, pooled(meta_gradient), inner_steps, inner_rate, start)
    methods.insert(2, ("Reptile", pooled(reptile_gradient), max(inner_steps, 5), inner_rate, True))
    known = Sinusoid(shots, queries=shots)
    family = Sinusoid(shots, queries=100)
    rng = np.random.default_rng([seed, UNSEEN])
    waves = family.draw(rng, unseen)
    tasks = family.observe(rng, waves)
    others = family.sample(rng, OTHERS)

    print(f"\nMean squared error on {unseen} unseen waves, {shots} points each, ± 95 % interval\n")
    print(ROW.format("after gradient steps", "rate", *STEPS))
    learn = partial(train, model, start, known, outer_rate, meta_batch, iterations, seed)
    results = {}
    for name, gradient, steps, alpha, tuned in methods:
        theta, alpha = learn(name, gradient, steps, alpha)
        if tuned:
            losses = [evaluate(model, theta, rate, others, MLP.loss)[-1] for rate in RATES]
            alpha = best_rate(RATES, losses)
        errors = evaluate(model, theta, alpha, tasks, MLP.loss)
        print_row(name, alpha, errors, limit=100)  # of 4 squared amplitudes of 5 on: diverged
        results[name] = theta, alpha, errors
    mean_wave = -5.1 / np.pi * np.cos(tasks.x_query)  # 5.1 is twice the mean amplitude
    of_mean = ((mean_wave - tasks.y_query)**2).mean((1, 2))
    print_row("mean of all waves", "", np.tile(of_mean, (len(STEPS), 1)))

    print("\nMAML's median wave at step 10: O points given, . true wave, # prediction")
    i = np.argsort(results["MAML"][2][-1])[unseen // 2]
    grid = np.linspace(-5, 5, 800)[:, None]  # so close that steep waves have no gaps
    x, y, truth = tasks.x_support[i], tasks.y_support[i], waves(grid)[i]
    for k in 0, 1, 10:
        panels = []
        for name in "MAML", "joint training":
            theta, alpha, _ = results[name]
            guess = model.predict(adapt(model, theta, x, y, alpha, k), grid)
            layers = (".", grid, truth), ("#", grid, guess), ("O", x, y)
            panels.append(panel(f"{name}, step {k}", layers, 5, 1.2 * abs(truth).max(), 39, 9))
        print_beside(panels)
    print("\nJoint training seeks the mean of all waves, MAML a start few steps from each.")
    return model, results, tasks, waves


def handwriting(
        shots=(1, 5),     # examples given of each character, with a table for each number
        inner_steps=5,    # that MAML learns through; with this rate, good for first order too
        inner_rate=0.05,  # of MAML, and where Meta-SGD starts; first order is far off at 0.1
        outer_rate=3e-3,  # of Adam; falls to 0
        meta_batch=25,    # tasks of an outer step
        iterations=2000,  # outer steps, for some 20 seconds a method
        unseen=600,       # tasks to judge by, of characters that no method has met
        seed=0):          # of random numbers
    """Classification: five made-up characters, numbered anew in each task, section 5.2."""
    model = MLP((196, 64, 64, 5), "relu", "cross_entropy")
    start = model.init(np.random.default_rng([seed, START]), dtype=np.float32)
    methods = list_methods(meta_gradient, pooled(meta_gradient), inner_steps, inner_rate, start)
    shots = np.ravel(shots).tolist()  # of one number or several
    classes = characters(np.random.default_rng([seed, REST]), 800, max(20, shots[-1] + 10))
    outcomes = {}
    for n in shots:
        known = FewShot(classes[:600], ways=5, shots=n, queries=5)
        rng = np.random.default_rng([seed, UNSEEN])
        tasks = FewShot(classes[600:], ways=5, shots=n, queries=10).sample(rng, unseen)
        others = known.sample(rng, OTHERS)

        print(f"\n% right in {unseen} tasks of 5 new characters, {n} each given, ± 95 % interval\n")
        print(ROW.format("after gradient steps", "rate", *STEPS))
        learn = partial(train, model, start, known, outer_rate, meta_batch, iterations, seed)
        results = {}
        for name, gradient, steps, alpha, tuned in methods:
            theta, alpha = learn(name, gradient, steps, alpha)
            if tuned:
                losses = [evaluate(model, theta, rate, others, MLP.loss)[-1] for rate in RATES]
                alpha = best_rate(RATES, losses)
            right = evaluate(model, theta, alpha, tasks, accuracy)
            print_row(name, alpha, right)
            results[name] = theta, alpha, right
        x, y, x_query, y_query = tasks
        distance = (x**2).sum(-1)[:, None] - 2 * x_query @ x.swapaxes(1, 2)  # squared, + constant
        pixels = 100 * (np.take_along_axis(y, distance.argmin(-1), 1) == y_query).mean(-1)
        results["nearest by pixels"] = None, None, np.tile(pixels, (len(STEPS), 1))
        print_row("nearest by pixels", "", results["nearest by pixels"][2])
        outcomes[n] = tasks, results

        theta, alpha, right = results["MAML"]
        i = np.argsort(right[2])[unseen // 2]
        x, y, asked = x[i], y[i], x_query[i, ::10]
        before, then = (model.predict(adapt(model, theta, x, y, alpha, k), asked).argmax(-1)
                        for k in (0, 5))
        print("\nMAML's median task after 5 steps: characters given, labelled 0 to 4,")
        print_images(x[::n])
        print(f"and others, which MAML labels {before} before and {then} after 5 steps:")
        print_images(asked)
    print("\nEach task numbers its characters anew: before a step the best is chance, 20 %.")
    return model, outcomes


def navigation(
        shots=20,         # episodes of a gradient step, two or more, as in cbfinn/maml_rl
        inner_steps=1,    # that MAML learns through, as in the authors' code
        inner_rate=2.0,   # of MAML, and where Meta-SGD starts, the best tried
        outer_rate=5e-3,  # of Adam; falls to 0. 0.003 is slower, 0.01 can end far worse
        meta_batch=20,    # goals of an outer step, as in the authors' code
        iterations=300,   # outer steps, for some five seconds a method
        unseen=200,       # goals to judge by, enough for small intervals
        seed=0):          # of random numbers
    """Reinforcement learning: a point seeks a goal that it is not shown, section 5.3."""
    model, world = MLP((2, 40, 40, 2), "tanh", "policy"), Navigation(episodes=shots)
    start = model.init(np.random.default_rng([seed, START]), dtype=np.float32)
    model.unpack(start)[-1][0][...] *= 0.1  # last weights, or most actions would be clipped
    methods = list_methods(rollout_gradient, rollout_gradient, inner_steps, inner_rate, start)
    goals = world.draw(np.random.default_rng([seed, UNSEEN]), unseen)
    others = world.draw(np.random.default_rng([seed, REST]), OTHERS // 2)

    print(f"\nReturn, the sum of minus the distance, {unseen} unseen goals, ± 95 %\n")
    print(ROW.format("after gradient steps", "rate", *GOAL_STEPS))
    learn = partial(train, model, start, world, outer_rate, meta_batch, iterations, seed)
    results = {}
    for name, gradient, steps, alpha, tuned in methods:
        theta, alpha = learn(name, gradient, steps, alpha)
        if tuned:
            last = [explore(model, theta, rate, world, others)[-1] for rate in GOAL_RATES]
            alpha = best_rate(GOAL_RATES, [-episodes.returns() for episodes in last])
        met = explore(model, theta, alpha, world, goals)
        returns = np.array([episodes.returns() for episodes in met])
        print_row(name, alpha, returns)
        results[name] = theta, alpha, returns
    # A policy that sees the goal; of the factors tried, 0.5 to 10, 4 does best.
    informed = world.roll_out(np.random.default_rng(0), lambda x: 4 * (goals - x), goals)
    results["knows the goal"] = None, None, np.tile(informed.returns(), (len(GOAL_STEPS), 1))
    print_row("knows the goal", "", results["knows the goal"][2])
    return model, results, world, goals


def list_methods(gradient, joint_gradient, steps, alpha, start):
    """Return the methods that all domains compare."""
    return [  # name, gradient for meta_train, inner steps, their rate, is a rate chosen later?
        ("random initialisation", None, 0, 0.0, True),
        ("joint training", joint_gradient, 0, 0.0, True),  # for navigation, plain REINFORCE
        ("first-order MAML", partial(gradient, first_order=True), steps, alpha, False),
        ("MAML", gradient, steps, alpha, False),
        ("Meta-SGD", partial(gradient, wrt_alpha=True), steps, np.full(len(start), alpha), False)]


def pooled(gradient):
    """Return the gradient of a method that does not tell support from query examples."""
    return lambda model, theta, tasks, *rest: gradient(model, theta, pool(tasks), *rest)


def train(model, theta, family, outer_rate, meta_batch, iterations, seed, name, gradient, steps,
          alpha, clip=10, schedule=cosine_decay):  # clip: largest norm of the outer gradient
    """Return the theta and alpha that a method learns, until Ctrl-C; a NaN theta if it diverges."""
    rng = np.random.default_rng([seed, TRAINING])  # so all methods see the same tasks
    learnt, done = (theta, alpha), 0

    def after_update(i, loss, *theta_and_alpha):
        nonlocal learnt, done
        learnt, done = theta_and_alpha, i + 1
        if sys.stdout.isatty() and done % max(1, iterations // 100) == 0:
            print(f"{name:22} {done / iterations:4.0%}  loss {loss:<9.3g}", end="\r", flush=True)

    if gradient is None:
        return learnt
    try:
        meta_train(model, theta, lambda: family.sample(rng, meta_batch), alpha, steps, iterations,
                   schedule(outer_rate, iterations), clip, gradient, after_update)
    except KeyboardInterrupt:
        print(f"  {name}: stopped after {done} of {iterations} iterations")
    except FloatingPointError:
        print(f"  {name}: diverged after {done} of {iterations} iterations: try lower rates")
        return np.full_like(theta, np.nan), alpha
    return learnt


def best_rate(rates, losses):
    """Return the rate whose losses (tasks,) have the lowest mean; a NaN is the worst of all."""
    return rates[np.nan_to_num(np.mean(losses, axis=-1), nan=np.inf).argmin()]


def evaluate(model, theta, alpha, tasks, score):
    """Return the scores, called as MLP.loss is, after each of STEPS, (len(STEPS), tasks)."""
    *support, x, y = tasks
    return np.array([score(model, adapt(model, theta, *support, alpha, k), x, y) for k in STEPS])


def accuracy(model, theta, x, y):
    """Return the percentage of right labels in each task, (tasks,), NaN where it diverged."""
    logits = model.predict(theta, x)
    right = np.where(np.isfinite(logits).all(-1), logits.argmax(-1) == y, np.nan)
    return 100 * right.mean(-1)


def explore(model, theta, alpha, world, goals):
    """Return the Episodes after 0, 1, 2 and 3 steps; each step learns from the last ones."""
    rng, found = np.random.default_rng(0), []  # every method meets the same chance
    for k in GOAL_STEPS:
        if k > 0:  # at alpha, 0.4 alpha, 0.16 alpha; the authors halve it once, which is worse
            theta = adapt(model, theta, *found[-1].examples(), alpha * 0.4**(k - 1))
        found.append(world.roll_out(rng, partial(model.predict, theta), goals))
    return found


def interval(scores):
    """Return mean and half width of the 95 % interval over the last axis, as in the paper."""
    return scores.mean(-1), 1.96 * scores.std(-1) / np.sqrt(scores.shape[-1])


def print_row(name, alpha, scores, limit=np.inf):
    """Print means over tasks, or medians where the mean is not below limit, and what diverged."""
    diverged, cells = ~(scores < limit), []  # ~: so NaN has
    medians = np.median(np.where(diverged, np.inf, scores), -1)
    for mean, half, median in zip(*interval(scores), medians):
        if mean < limit:
            cells.append(f"{mean:.2f} ± {half:.2f}")
        elif median < limit:
            cells.append(f"median {median:.2f}")
        else:
            cells.append("diverged")
    rate = alpha if np.ndim(alpha) == 0 else "own"
    print(ROW.format(name, rate, *cells))
    if diverged.any():
        print(ROW.format(f"  diverged, of {scores.shape[1]}", "", *diverged.sum(-1)))


def panel(title, layers, x_limit, y_limit, width, height):
    """Return lines that draw layers (character, x, y), later ones over earlier ones."""
    cells = np.full((height, width), " ")
    for character, x, y in layers:
        x, y = np.ravel(x), np.ravel(y)
        inside = (abs(x) <= x_limit) & (abs(y) < y_limit)
        across, down = (x[inside] / x_limit + 1) / 2, (1 - y[inside] / y_limit) / 2
        cells[(down * height).astype(int), np.rint(across * (width - 1)).astype(int)] = character
    return [f"-- {title} ".ljust(width, "-"), *("".join(line) for line in cells)]


def print_images(images):
    """Print images (n, 14 · 14) side by side, two pixels in a character."""
    ink = (images.reshape(-1, 7, 2, 14) > 0.5).astype(int)
    blocks = np.array(list(" ▀▄█"))[ink[:, :, 0] + 2 * ink[:, :, 1]]  # (n, 7, 14)
    print_beside(["".join(line) for line in image] for image in blocks)


def print_beside(pictures):
    print(*("  ".join(lines).rstrip() for lines in zip(*pictures)), sep="\n")


DOMAINS = {"sinusoids": sinusoids, "characters": handwriting, "navigation": navigation}
QUICK = {"sinusoids": 1200, "characters": 200, "navigation": 60}  # iterations of --quick
LEAST = {"seed": 0, "unseen": 2, "inner_rate": 1e-30, "outer_rate": 1e-30}


@np.errstate(over="ignore", invalid="ignore")  # what diverges shows in the table
def main(arguments=None):
    command = argparse.ArgumentParser(
        "demo.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS, allow_abbrev=False)
    command.add_argument("--tasks", choices=DOMAINS, default="sinusoids", help="(sinusoids)")
    command.add_argument("--quick", action="store_true", help="fewer iterations")
    for name in "iterations", "shots", "inner-steps", "meta-batch", "unseen", "seed":
        command.add_argument(f"--{name}", metavar="N", type=int)
    for name in "inner-rate", "outer-rate":
        command.add_argument(f"--{name}", metavar="RATE", type=float)
    given = vars(command.parse_args(arguments))
    domain = given.pop("tasks")
    if given.pop("quick", False):
        given = {"iterations": QUICK[domain], **given}
    for name, value in given.items():
        if not LEAST.get(name, 1) <= value <= 1e30:
            command.error(f"{name}: expected at least {LEAST.get(name, 1)}, got {value}")
    DOMAINS[domain](**given)


if __name__ == "__main__":
    if hasattr(sys.stdout, "reconfigure"):  # not in a notebook
        sys.stdout.reconfigure(errors="replace", line_buffering=True)  # a console may lack ±
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
