"""Make the tables of docs/results.md that stand beside published ones, and that of the family.

    python docs/reproduce.py paper     sinusoids as in the authors' code, a minute and a half
    python docs/reproduce.py best      how far learned inner rates go, 3 minutes
    python docs/reproduce.py family    seven methods, briefly trained, half a minute

A Ctrl-C ends the training of a method, as in demo.py.
"""
import argparse
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import demo
import numpy as np
from demo import Method
from maml import MLP, adapt, cosine_decay, meta_gradient, reptile_gradient
from tasks import Sinusoid

# Of waves after so many steps. Table 2 is that of Finn et al. 2017, where "multi-task" has a θ for
# each task, regularised to their mean. The poster is that of Meta-Curvature (Park, Oliva 2019).
PUBLISHED = {
    5: (("pretrained, Table 2", "", "2.41", "2.23", "2.19"),
        ("multi-task, Table 2", "", "2.91", "2.72", "2.71"),
        ("MAML, Table 2", "", "0.67", "0.38", "0.35"),
        ("MAML, poster", "", "0.69 ± 0.07"),
        ("Meta-SGD, poster", "", "0.48 ± 0.06"),
        ("Meta-Curvature, poster", "", "0.41 ± 0.05")),
    10: (("MAML, poster", "", "0.44 ± 0.04"),
         ("Meta-SGD, poster", "", "0.26 ± 0.03"),
         ("Meta-Curvature, poster", "", "0.20 ± 0.02"))}
LEARN_RATES = partial(meta_gradient, wrt_alpha=True)


def paper(seed=0, quick=False, unseen=600, inner_rate=0.001):
    """Joint training and MAML as in cbfinn/maml: the outer rate does not fall, nothing is clipped.

    The paper's text has an inner rate of 0.01.
    """
    model, iterations = MLP((1, 40, 40, 1)), 700 if quick else 70000
    start = model.init(demo.generator(seed, demo.START), std=0.01, dtype=np.float32)
    rng = demo.generator(seed, demo.REST)
    while (far := abs(start) > 0.02).any():            # cut off at two standard deviations
        start[far] = 0.01 * rng.standard_normal(far.sum())
    methods = [
        Method("joint training", demo.pooled(meta_gradient), tuned=True),
        Method("MAML", meta_gradient, 1, inner_rate)]
    learn = partial(demo.train, model, start, Sinusoid(10, 10).sample, 1e-3, 25, iterations, seed,
                    clip=None)
    learnt = {method.name: learn(method) for method in methods}
    for shots in 5, 10, 20:
        compare(model, methods, learnt, shots, unseen, seed)


def best(seed=0, quick=False, unseen=4000):
    """Inner rates learned for each parameter: of one step, and of each of five steps."""
    model, n = MLP((1, 40, 40, 1)), 150 if quick else 15000
    start = model.init(demo.generator(seed, demo.START), std=0.15, dtype=np.float32)
    # Scattered rates end lower than equal ones.
    rates = 0.01 * demo.generator(seed, demo.REST).standard_normal(model.n_params)
    one_step = Method("Meta-SGD, one step", LEARN_RATES, 1, rates)
    learnt_one = demo.train(model, start, Sinusoid(10, 10).sample, cosine_decay(3e-3, 6 * n), 25,
                            6 * n, seed, one_step)

    # In float64: early on single tasks explode, beyond what float32 holds and clipping mends.
    start = model.init(demo.generator(seed, demo.START), std=0.01)
    five_steps = Method("five learned steps", LEARN_RATES, 5, np.full((5, model.n_params), 0.01))
    learnt_five = demo.train(model, start, Sinusoid(5, 20).sample, cosine_decay(3e-3, n), 25, n,
                             seed, five_steps)
    learnt = {one_step.name: learnt_one, five_steps.name: learnt_five}
    for shots in 5, 10:
        compare(model, [one_step, five_steps], learnt, shots, unseen, seed, digits=3)


def compare(model, methods, learnt, shots, unseen, seed, digits=2):
    """Print what is published, then how the methods do on the waves of demo.py."""
    waves, rng = Sinusoid(shots, queries=100), demo.generator(seed, demo.UNSEEN)
    tasks, others = waves.sample(rng, unseen), waves.sample(rng, demo.OTHERS)
    title = f"Mean squared error on {unseen} unseen waves, {shots} points each"
    table = demo.Table(title, unseen, demo.STEPS, demo.WRECKED, digits)
    for name, *cells in PUBLISHED.get(shots, ()):
        table.line(name, cells)
    demo.compare(
        table, methods, lambda method: learnt[method.name], demo.RATES,
        score=partial(demo.evaluate, model, tasks, MLP.loss),
        loss=partial(demo.evaluate, model, others, MLP.loss), known={})


def family(seed=0, quick=False, unseen=1000):
    """Seven methods, one call of meta_train each, for a quarter of the demo's iterations.

    A wave has 10 points in its support and 10 in its query set. Reptile learns from the support
    sets alone, and joint training from the query sets; in demo.py both learn from all points.
    """
    model, waves, iterations = MLP((1, 40, 40, 1)), Sinusoid(shots=10), 30 if quick else 3000
    rng = np.random.default_rng(seed)
    start = model.init(rng, dtype=np.float32)
    each = np.full(model.n_params, 0.01)               # one rate a parameter
    head = each.copy()
    head[:-41] = 0                                     # all but the last 40 weights and bias
    first_order = partial(meta_gradient, first_order=True)
    methods = (                                        # and then the steps to adapt with
        (Method("MAML", meta_gradient, 1, 0.01), "both sets", 1, "0.01"),
        (Method("MAML through 5 steps", meta_gradient, 5, 0.01), "both sets", 5, "0.01"),
        (Method("first-order MAML", first_order, 1, 0.01), "both sets", 1, "0.01"),
        (Method("ANIL", meta_gradient, 1, head), "both sets", 1, "0.01, last layer"),
        (Method("Meta-SGD", LEARN_RATES, 1, each), "both sets", 1, "learned rates"),
        (Method("Reptile", reptile_gradient, 5, 0.01), "support sets", 5, "0.01"),
        (Method("joint training", meta_gradient, 0, 0.001), "query sets", 1, "0.001"))
    learn = partial(demo.train, model, start, lambda _, n: waves.sample(rng, n),
                    cosine_decay(3e-3, iterations), 25, iterations, seed)
    learnt = [learn(method) for method, *_ in methods]

    x_support, y_support, x_query, y_query = waves.sample(rng, unseen)
    print(f"Mean squared error on {unseen} unseen waves, 10 points each, ± 95 % interval\n")
    print(f"{'method':22} {'learns from':13} {'adapts with':28} {'error':>11}")
    for (method, sees, steps, rate), (theta, alpha, note) in zip(methods, learnt):
        adapted = adapt(model, theta, x_support, y_support, alpha, steps)
        mean, half = demo.interval(model.loss(adapted, x_query, y_query))
        how = f"{steps} step{'s' * (steps > 1)} at {rate}"
        print(f"{method.name:22} {sees:13} {how:28} {mean:.2f} ± {half:.2f}")
        if note:
            print(f"  {note}")


@np.errstate(over="ignore", invalid="ignore")          # what diverges shows in the table
def main():
    tables = {"paper": paper, "best": best, "family": family}
    command = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS, allow_abbrev=False)
    command.add_argument("table", choices=tables)
    command.add_argument("--quick", action="store_true",
                         help="a hundredth of the iterations, to see that it runs")
    command.add_argument("--seed", metavar="N", type=int, help="of all random numbers")
    command.add_argument("--unseen", metavar="N", type=int, help="waves to judge by")
    command.add_argument("--inner-rate", metavar="N", type=float, help="of MAML, paper alone")
    given = vars(command.parse_args())
    table = given.pop("table")
    if "inner_rate" in given and table != "paper":
        command.error(f"argument --inner-rate: has no meaning for {table}")
    tables[table](**given)


if __name__ == "__main__":
    demo.run(main)
