"""Families of tasks to meta-learn from: what a task is, and how to sample a batch of them at once.

Sinusoid    regression, section 5.1 of Finn et al. 2017
FewShot     classification, their section 5.2, of any data that come as one array for each class
characters  made-up handwriting for FewShot, since no data set comes with this project
Navigation  reinforcement learning, their section 5.3: a point that has to find its goal

maml.py's gradients take the batches of the first two as they are. pool merges support and query
sets, for joint training. rollout_gradient is the meta-gradient for a batch of Navigation.
"""
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Sequence, Tuple

import numpy as np

from maml import adapt, as_array, is_number, is_whole, meta_gradient, require


class Tasks(NamedTuple):
    """A batch of tasks, the first axis of each array being the task."""
    x_support: np.ndarray  # (tasks, shots, d)
    y_support: np.ndarray  # (tasks, shots, d_out), or integer labels (tasks, shots)
    x_query: np.ndarray    # (tasks, queries, d)
    y_query: np.ndarray    # (tasks, queries, d_out), or integer labels (tasks, queries)


def pool(tasks):
    """Return the Tasks with all examples in either set, for methods that do not tell them apart."""
    x_support, y_support, x_query, y_query = tasks
    x = np.concatenate((x_support, x_query), axis=1)
    y = np.concatenate((y_support, y_query), axis=1)
    return Tasks(x, y, x, y)


# --------------------------------------------------------------------------------------- regression

class Waves(NamedTuple):
    """What sinusoids hide from the learner: y = amplitude · sin(frequency · x − phase)."""
    amplitude: np.ndarray  # (tasks, 1, 1)
    phase: np.ndarray      # (tasks, 1, 1), radians
    frequency: np.ndarray  # (tasks, 1, 1), radians per unit of x

    def __call__(self, x):
        """Return the noise-free y (tasks, n, 1) at x (tasks, n, 1), or at x (n, 1) of all tasks."""
        for name, a in zip(("x", *self._fields), (x, *self)):
            fits = np.ndim(a) > 1 and np.shape(a)[-1] == 1
            require(fits, name, "an array (tasks, n, 1), or (n, 1) for x", a)
        return self.amplitude * np.sin(self.frequency * x - self.phase)


@dataclass(frozen=True)
class Sinusoid:
    """The regression benchmark of Finn et al. 2017, section 5.1, whose values are the defaults.

    A pair is the range of a uniform distribution; a pair of equal numbers fixes the value.
    Raises ValueError for fewer than one example, pairs that are no range, and negative noise.
    """
    shots: int = 10                              # support examples of a task
    queries: int = 10                            # query examples of a task
    amplitude: Tuple[float, float] = (0.1, 5.0)
    phase: Tuple[float, float] = (0.0, np.pi)    # radians
    frequency: Tuple[float, float] = (1.0, 1.0)  # radians per unit of x; fixed in the paper
    x_range: Tuple[float, float] = (-5.0, 5.0)
    noise: float = 0.0                           # standard deviation of Gaussian noise on every y

    def __post_init__(self):
        for name in "shots", "queries":
            check_count(name, getattr(self, name))
        for name in "amplitude", "phase", "frequency", "x_range":
            pair = getattr(self, name)
            fits = isinstance(pair, (tuple, list)) and len(pair) == 2
            fits = fits and all(is_number(end, -np.inf) for end in pair)
            require(fits and pair[0] <= pair[1], name, "a pair of finite numbers low <= high", pair)
        require(is_number(self.noise, 0), "noise", "a finite number >= 0", self.noise)

    def sample(self, rng, n_tasks):
        """Return n_tasks new tasks: x (n_tasks, shots or queries, 1) and y of the same shape."""
        return self.observe(rng, self.draw(rng, n_tasks))

    def draw(self, rng, n_tasks):
        """Return the Waves of n_tasks new tasks, which a plot shows as the truth."""
        check_draw(rng, n_tasks)
        ranges = self.amplitude, self.phase, self.frequency
        return Waves(*(rng.uniform(*pair, (n_tasks, 1, 1)) for pair in ranges))

    def observe(self, rng, waves):
        """Return the Tasks of given waves: examples drawn together, then split."""
        n_tasks = len(waves.amplitude)
        x = rng.uniform(*self.x_range, (n_tasks, self.shots + self.queries, 1))
        y = waves(x) + self.noise * rng.standard_normal(x.shape)
        return Tasks(x[:, :self.shots], y[:, :self.shots], x[:, self.shots:], y[:, self.shots:])


# ----------------------------------------------------------------------------------- classification

@dataclass(frozen=True, eq=False)
class FewShot:
    """Few-shot classification, on anyone's data: each task is to tell `ways` classes apart.

    A task gives its classes the labels 0 to ways − 1 in random order, and has `shots` support and
    `queries` query examples of each, no two the same. Raises ValueError for fewer classes than
    ways, and for the first class with too few examples, or other than finite numbers, or with
    other features than the first class has.
    """
    classes: Sequence[np.ndarray]  # one array (examples, features) for each class
    ways: int = 5                  # classes in a task
    shots: int = 1                 # support examples of each class
    queries: int = 15              # query examples of each class

    def __post_init__(self):
        check_count("ways", self.ways, 2)
        check_count("shots", self.shots)
        check_count("queries", self.queries)
        listed = isinstance(self.classes, (list, tuple, np.ndarray))
        listed = listed and getattr(self.classes, "ndim", 1) > 0
        require(listed, "classes", "a list of arrays, one for each class", self.classes)
        n_classes, n = len(self.classes), self.shots + self.queries
        enough = n_classes >= self.ways
        require(enough, "classes", f"at least ways, {self.ways}, of them", n_classes)
        classes = [as_array(f"classes[{i}]", examples) for i, examples in enumerate(self.classes)]
        object.__setattr__(self, "classes", classes)
        d = classes[0].shape[1] if classes[0].ndim == 2 else "features"   # the word for a message
        for i, examples in enumerate(classes):
            fits = examples.ndim == 2 and examples.shape[1] == d and len(examples) >= n and d > 0
            fits = fits and examples.dtype.kind in "iuf" and np.isfinite(examples).all()
            expected = f"at least {n} examples of finite numbers, of shape (examples, {d})"
            require(fits, f"classes[{i}]", expected, examples)

    def sample(self, rng, n_tasks):
        """Return n_tasks new tasks: x (n_tasks, ways · (shots or queries), d) and labels."""
        check_draw(rng, n_tasks)
        chosen = distinct(rng, np.full(n_tasks, len(self.classes)), self.ways)   # (n_tasks, ways)
        sizes = np.array([len(examples) for examples in self.classes])
        which = distinct(rng, sizes[chosen], self.shots + self.queries)   # (n_tasks, ways, n)
        picks = zip(chosen.flat, which.reshape(chosen.size, -1))
        x = np.stack([self.classes[c][rows] for c, rows in picks])
        x = x.reshape(which.shape + (-1,))                                # (n_tasks, ways, n, d)
        return Tasks(*labelled(x[:, :, :self.shots]), *labelled(x[:, :, self.shots:]))


def distinct(rng, sizes, n):
    """Return n distinct numbers below each of sizes (...), in random order, (..., n).

    Floyd's algorithm (Bentley, Floyd 1987), in which memory does not grow with the sizes.
    """
    drawn = np.empty(sizes.shape + (n,), int)
    for i in range(n):
        last = sizes - n + i
        new = rng.integers(last + 1)
        taken = (drawn[..., :i] == new[..., None]).any(-1)
        drawn[..., i] = np.where(taken, last, new)
    return rng.permuted(drawn, axis=-1)


def labelled(x):
    """Return x (tasks, ways, n, d) as (tasks, ways · n, d), and its labels (tasks, ways · n)."""
    n_tasks, ways, n, d = x.shape
    labels = np.tile(np.repeat(np.arange(ways), n), (n_tasks, 1))
    return x.reshape(n_tasks, ways * n, d), labels


def characters(rng, n_classes, n_examples=20, grid=14):
    """Return made-up handwriting for FewShot: a list of arrays (n_examples, grid²), float32.

    The numbers are ink, from 0 to 1. A character is three strokes, each a Bezier curve of four
    points in the complex plane. An example is one attempt to write it: every point a little off,
    the whole turned and shifted a little, with a finer or a broader pen.
    Raises ValueError for numbers below 1.
    """
    check_draw(rng, n_classes, "n_classes")
    check_count("n_examples", n_examples)
    check_count("grid", grid)
    t = np.linspace(0, 1, 12)
    bezier = np.stack([(1 - t)**3, 3 * t * (1 - t)**2, 3 * t**2 * (1 - t), t**3])   # (4, 12)
    axis = np.linspace(-1, 1, grid)
    pixels = (axis - 1j * axis[:, None]).reshape(-1, 1)                   # (grid², 1), from the top

    def complex_from(draw, *shape):
        return draw(size=shape) + 1j * draw(size=shape)

    classes = []
    for _ in range(n_classes):
        character = complex_from(partial(rng.uniform, -0.8, 0.8), 3, 4)
        attempts = character + 0.12 * complex_from(rng.normal, n_examples, 3, 4)
        turn = np.exp(0.2j * rng.normal(size=(n_examples, 1)))
        shift = 0.15 * complex_from(rng.normal, n_examples, 1)
        ink = (attempts @ bezier).reshape(n_examples, -1) * turn + shift
        distance = abs(pixels - ink[:, None]).min(-1)                     # (n_examples, grid²)
        pen = rng.uniform(0.1, 0.16, (n_examples, 1))
        classes.append(np.exp(-(distance / pen)**2 / 2).astype(np.float32))
    return classes


# --------------------------------------------------------------------------- reinforcement learning

def rollout_gradient(model, theta, roll_out, alpha, steps=1, **options):
    """Return what meta_gradient does, for episodes as examples; J is −1 times the mean return.

    roll_out is the function from a policy to its Episodes, as Navigation.sample returns it; the
    loss of the model is "policy", and options are those of meta_gradient. Episodes of θ are the
    support set of every inner step, episodes of θ_K the query set. Both count as given data. So
    the gradient leaves out that θ also decides which support episodes are seen, and thus what
    can be learnt from them. E-MAML (Stadie et al. 2018) adds that term, and ProMP (Rothfuss et al.
    2019) estimates it with less variance.
    """
    support = roll_out(partial(model.predict, theta)).examples()
    theta_K = adapt(model, theta, *support, alpha, steps)
    query = roll_out(partial(model.predict, theta_K))
    tasks = Tasks(*support, *query.examples())
    _, grad_theta, grad_alpha = meta_gradient(model, theta, tasks, alpha, steps, **options)
    return -query.returns().mean(), grad_theta, grad_alpha


class Episodes(NamedTuple):
    """What a policy met and did, in all episodes of all tasks."""
    positions: np.ndarray  # (tasks, episodes, steps, 2), before each action
    actions: np.ndarray    # (tasks, episodes, steps, 2)
    rewards: np.ndarray    # (tasks, episodes, steps)

    def returns(self):
        """Return the sum of rewards, as its mean over the episodes of each task, (tasks,)."""
        return self.rewards.sum(-1).mean(-1)

    def examples(self):
        """Return x (tasks, n, 2) and y (tasks, n, 3), as maml.py's loss "policy" takes them.

        y is an action and its advantage: the rewards from then on, less their mean over the task's
        episodes at that step, in units of the standard deviation over all steps of the task. The
        advantage is 0 where all episodes are alike, up to the rounding of the rewards from then on.
        """
        to_go = self.rewards[..., ::-1].cumsum(-1)[..., ::-1]
        advantage = to_go - to_go.mean(1, keepdims=True)
        deviation = advantage.std((1, 2), keepdims=True)
        largest = abs(to_go).max((1, 2), keepdims=True)
        alike = deviation <= largest * to_go.shape[-1] * np.finfo(advantage.dtype).eps
        advantage = np.where(alike, 0, advantage / np.where(alike, 1, deviation))
        y = np.concatenate((self.actions, advantage[..., None]), -1)
        return self.positions.reshape(len(y), -1, 2), y.reshape(len(y), -1, 3)


@dataclass(frozen=True)
class Navigation:
    """The 2D navigation of Finn et al. 2017, section 5.3: a point seeks a goal it is not shown.

    It starts at (0, 0), an action moves it by at most 0.1 in each direction, and the reward is
    minus its distance from the goal after the move, as in the original code, cbfinn/maml_rl; the
    paper's text has the square. There an episode ends at the goal or after 100 steps; here all
    take the same number of steps.
    Raises ValueError for fewer than one step or two episodes, and a deviation that is not > 0.
    """
    steps: int = 20         # of an episode; every goal is within 5 steps of the start
    episodes: int = 20      # of a task, as in the original code
    deviation: float = 0.1  # of an action from the policy's mean, in each direction

    def __post_init__(self):
        check_count("steps", self.steps)
        check_count("episodes", self.episodes, 2)
        fits = is_number(self.deviation, 0) and self.deviation > 0
        require(fits, "deviation", "a finite number > 0", self.deviation)

    def sample(self, rng, n_tasks):
        """Return n_tasks new tasks as rollout_gradient takes them: the function roll_out(act)."""
        return partial(self.roll_out, rng, goals=self.draw(rng, n_tasks))

    def draw(self, rng, n_tasks):
        """Return the goals of n_tasks new tasks, (n_tasks, 1, 2), uniform in [−0.5, 0.5]²."""
        check_draw(rng, n_tasks)
        return rng.uniform(-0.5, 0.5, (n_tasks, 1, 2))

    def roll_out(self, rng, act, goals):
        """Return new Episodes of a policy; `act` maps positions to its mean actions.

        Both are (tasks, episodes, 2): act = partial(model.predict, theta), of one theta (P,) or
        of one for each task, (tasks, P).
        """
        goals = as_array("goals", goals)
        fits = goals.shape[1:] == (1, 2) and goals.dtype.kind in "iuf" and np.isfinite(goals).all()
        require(fits, "goals", "finite numbers (tasks, 1, 2), as draw returns them", goals)
        check_draw(rng, len(goals))
        x = np.zeros((len(goals), self.episodes, 2))
        history = []
        for _ in range(self.steps):
            mean = act(x)
            fits = np.shape(mean) == x.shape
            require(fits, "act", f"a function to actions of shape {x.shape}", mean)
            action = mean + self.deviation * rng.standard_normal(x.shape)
            moved = x + np.clip(action, -0.1, 0.1)
            history.append((x, action, -np.linalg.norm(moved - goals, axis=-1)))
            x = moved
        return Episodes(*(np.stack(part, axis=2) for part in zip(*history)))


# ------------------------------------------------------------------------------------------- guards

def check_count(name, value, least=1):
    require(is_whole(value, least), name, f"a whole number >= {least}", value)


def check_draw(rng, n, name="n_tasks"):
    require(isinstance(rng, np.random.Generator), "rng", "a numpy.random.Generator", rng)
    check_count(name, n)
