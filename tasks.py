"""Families of tasks to meta-learn from, those of Finn et al. 2017: sampled a batch at once.

Sinusoid    regression, their section 5.1
FewShot     classification, section 5.2, of any data that come as one array for each class
characters  made-up handwriting for FewShot, since no data set comes with this project
Navigation  reinforcement learning, section 5.3; its meta-gradient is rollout_gradient

T is the number of tasks in a batch, d the number of features of an example.
"""
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from maml import adapt, meta_gradient


class Tasks(NamedTuple):
    x_support: np.ndarray  # (T, shots, d)
    y_support: np.ndarray  # (T, shots, d_out), or integer labels (T, shots)
    x_query: np.ndarray    # (T, queries, d)
    y_query: np.ndarray    # (T, queries, d_out), or integer labels (T, queries)


def pool(tasks):
    """Return the Tasks with all examples in either set, for joint training."""
    x, y = np.concatenate(tasks[::2], axis=1), np.concatenate(tasks[1::2], axis=1)
    return Tasks(x, y, x, y)


# --------------------------------------------------------------------------------------- regression

class Waves(NamedTuple):
    """What sinusoids hide from the learner: y = amplitude · sin(frequency · x − phase)."""
    amplitude: np.ndarray  # (T, 1, 1)
    phase: np.ndarray      # (T, 1, 1), radians
    frequency: np.ndarray  # (T, 1, 1), radians per unit of x

    def __call__(self, x):
        """Return the noise-free y (T, n, 1) at x (T, n, 1), or at x (n, 1) of all tasks."""
        return self.amplitude * np.sin(self.frequency * x - self.phase)


@dataclass(frozen=True)
class Sinusoid:
    """The regression benchmark. A pair is the range of a uniform distribution."""
    shots: int = 10                              # support examples of a task
    queries: int = 10                            # query examples of a task
    amplitude: tuple = (0.1, 5.0)
    phase: tuple = (0.0, np.pi)    # radians
    frequency: tuple = (1.0, 1.0)  # radians per unit of x; fixed in the paper
    x_range: tuple = (-5.0, 5.0)
    noise: float = 0.0                           # standard deviation of Gaussian noise on every y

    def draw(self, rng, n_tasks):
        """Return the Waves of n_tasks new tasks, which a plot shows as the truth."""
        ranges = self.amplitude, self.phase, self.frequency
        return Waves(*(rng.uniform(*pair, (n_tasks, 1, 1)) for pair in ranges))

    def observe(self, rng, waves):
        """Return the Tasks of given waves: examples drawn together, then split."""
        x = rng.uniform(*self.x_range, (len(waves.amplitude), self.shots + self.queries, 1))
        y = waves(x) + self.noise * rng.standard_normal(x.shape)
        return Tasks(x[:, :self.shots], y[:, :self.shots], x[:, self.shots:], y[:, self.shots:])

    def sample(self, rng, n_tasks):
        """Return the Tasks of n_tasks new waves: x and y (T, shots or queries, 1)."""
        return self.observe(rng, self.draw(rng, n_tasks))


# ----------------------------------------------------------------------------------- classification

def distinct(rng, sizes, n):
    """Return n distinct numbers below each of sizes (...), (..., n), by Floyd's algorithm."""
    drawn = np.empty(sizes.shape + (n,), int)
    for i in range(n):
        last = sizes - n + i
        new = rng.integers(last + 1)
        taken = (drawn[..., :i] == new[..., None]).any(-1)
        drawn[..., i] = np.where(taken, last, new)
    return rng.permuted(drawn, axis=-1)


@dataclass(frozen=True, eq=False)
class FewShot:
    """Few-shot classification, on anyone's data: each task is to tell `ways` classes apart. Raises
    ValueError for fewer classes than ways, and a class of fewer examples than a task takes.
    """
    classes: list                  # one array (examples, d) for each class
    ways: int = 5                  # classes in a task, labelled 0 to ways − 1 in random order
    shots: int = 1                 # support examples of each class
    queries: int = 15              # query examples of each class

    def __post_init__(self):
        if len(self.classes) < self.ways:
            raise ValueError(f"classes: expected {self.ways} or more, got {len(self.classes)}")
        n = self.shots + self.queries
        for i, examples in enumerate(self.classes):
            if np.ndim(examples) != 2 or len(examples) < n:
                raise ValueError(f"classes[{i}]: expected {n} or more examples, each a row of "
                                 f"features (images flattened), got shape {np.shape(examples)}")

    def sample(self, rng, n_tasks):
        """Return n_tasks new tasks: x (T, ways · (shots or queries), d) and labels."""
        n, sizes = self.shots, np.array([len(examples) for examples in self.classes])
        chosen = distinct(rng, np.full(n_tasks, len(sizes)), self.ways)   # (T, ways)
        which = distinct(rng, sizes[chosen], n + self.queries)            # (T, ways, examples)
        picks = zip(chosen.flat, which.reshape(chosen.size, -1))
        x = np.stack([self.classes[c][rows] for c, rows in picks]).reshape(which.shape + (-1,))
        y = np.broadcast_to(np.arange(self.ways)[:, None], which.shape)
        sets = x[:, :, :n], y[:, :, :n], x[:, :, n:], y[:, :, n:]
        return Tasks(*(a.reshape(n_tasks, -1, *a.shape[3:]) for a in sets))


def characters(rng, n_classes, n_examples=20, grid=14):
    """Return made-up handwriting for FewShot: a list of arrays (n_examples, grid²), float32. A
    character is three Bezier curves in the complex plane; an example is a little off everywhere.
    """
    t = np.linspace(0, 1, 12)
    bezier = np.stack([(1 - t)**3, 3 * t * (1 - t)**2, 3 * t**2 * (1 - t), t**3])   # (4, 12)
    axis = np.linspace(-1, 1, grid)
    pixels = (axis - 1j * axis[:, None]).reshape(-1, 1)                   # (grid², 1), from the top
    classes = []

    def complex_from(parts):                                              # (2, ...)
        return parts[0] + 1j * parts[1]

    for _ in range(n_classes):
        character = complex_from(rng.uniform(-0.8, 0.8, (2, 3, 4)))
        attempts = character + 0.12 * complex_from(rng.normal(size=(2, n_examples, 3, 4)))
        turn = np.exp(0.2j * rng.normal(size=(n_examples, 1)))
        shift = 0.15 * complex_from(rng.normal(size=(2, n_examples, 1)))
        ink = (attempts @ bezier).reshape(n_examples, -1) * turn + shift
        distance = abs(pixels - ink[:, None]).min(-1)                     # (n_examples, grid²)
        pen = rng.uniform(0.1, 0.16, (n_examples, 1))
        classes.append(np.exp(-(distance / pen)**2 / 2).astype(np.float32))
    return classes


# --------------------------------------------------------------------------- reinforcement learning

class Episodes(NamedTuple):
    """What a policy met and did, in all episodes of all tasks."""
    positions: np.ndarray  # (T, episodes, steps, 2), before each action
    actions: np.ndarray    # (T, episodes, steps, 2)
    rewards: np.ndarray    # (T, episodes, steps)

    def returns(self):
        """Return the sum of rewards, as its mean over the episodes of each task, (T,)."""
        return self.rewards.sum(-1).mean(-1)

    def examples(self):
        """Return x (T, n, 2) and y (T, n, 3), as maml.py's loss "policy" takes them.

        y is an action and its advantage: the rewards from then on, less their mean over the task's
        episodes at that step, in units of their standard deviation over all steps.
        """
        to_go = self.rewards[..., ::-1].cumsum(-1)[..., ::-1]
        advantage = to_go - to_go.mean(1, keepdims=True)
        advantage = advantage / np.maximum(advantage.std((1, 2), keepdims=True), 1e-12)
        y = np.concatenate((self.actions, advantage[..., None]), -1)
        return self.positions.reshape(len(y), -1, 2), y.reshape(len(y), -1, 3)


@dataclass(frozen=True)
class Navigation:
    """2D navigation: a point starts at (0, 0) and seeks a goal that it is not shown. A move is at
    most 0.1 in each direction, and its reward minus the distance from the goal after it.
    """
    steps: int = 20         # of an episode; every goal is within 5 steps of the start
    episodes: int = 20      # of a task, as in the original code
    deviation: float = 0.1  # of an action from the policy's mean, in each direction

    def draw(self, rng, n_tasks):
        """Return the goals of n_tasks new tasks, (T, 1, 2), uniform in [−0.5, 0.5]²."""
        return rng.uniform(-0.5, 0.5, (n_tasks, 1, 2))

    def roll_out(self, rng, act, goals):
        """Return Episodes of a policy; `act` maps positions to mean actions, (T, episodes, 2)."""
        x = np.zeros((len(goals), self.episodes, 2))
        history = []
        for _ in range(self.steps):
            action = act(x) + self.deviation * rng.standard_normal(x.shape)
            moved = x + np.clip(action, -0.1, 0.1)
            history.append((x, action, -np.linalg.norm(moved - goals, axis=-1)))
            x = moved
        return Episodes(*(np.stack(part, axis=2) for part in zip(*history)))

    def sample(self, rng, n_tasks):
        """Return n_tasks new tasks as rollout_gradient takes them: act -> Episodes."""
        return partial(self.roll_out, rng, goals=self.draw(rng, n_tasks))


def rollout_gradient(model, theta, roll_out, alpha, steps=1, **options):
    """Return what meta_gradient does, for episodes as examples; J is −1 times the mean return.

    roll_out is what Navigation.sample returns, the model's loss is "policy". Episodes of θ are the
    support set of every inner step, those of θ_K the query set. Both count as given: that θ decides
    which support episodes are seen is left out, and added by E-MAML (Stadie et al. 2018).
    """
    support = roll_out(partial(model.predict, theta)).examples()
    theta_K = adapt(model, theta, *support, alpha, steps)
    query = roll_out(partial(model.predict, theta_K))
    tasks = Tasks(*support, *query.examples())
    _, grad_theta, grad_alpha = meta_gradient(model, theta, tasks, alpha, steps, **options)
    return -query.returns().mean(), grad_theta, grad_alpha
