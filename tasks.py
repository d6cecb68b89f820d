"""Families of tasks to meta-learn from: what a task is, and how to sample a batch of them at once.

Sinusoid    regression, section 5.1 of Finn et al. 2017
FewShot     classification, their section 5.2, of any data that come as one array for each class
characters  made-up handwriting for FewShot, since no data set comes with this project
"""
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Tuple

import numpy as np

from maml import as_array, is_number, is_whole, require


class Tasks(NamedTuple):
    """A batch of tasks, the first axis being the task: x (tasks, n, d), y (tasks, n, d_out) or labels (tasks, n)."""
    x_support: np.ndarray
    y_support: np.ndarray
    x_query: np.ndarray
    y_query: np.ndarray


class Waves(NamedTuple):
    """What a family of sinusoids hides from the learner: y = amplitude · sin(frequency · x − phase) for each task."""
    amplitude: np.ndarray  # (tasks, 1, 1)
    phase: np.ndarray      # (tasks, 1, 1), radians
    frequency: np.ndarray  # (tasks, 1, 1), radians per unit of x

    def __call__(self, x):
        """Return the noise-free y (tasks, n, 1) at x (tasks, n, 1), or at x (n, 1) shared by the tasks."""
        return self.amplitude * np.sin(self.frequency * x - self.phase)


@dataclass(frozen=True)
class Sinusoid:
    """The regression benchmark of Finn et al. 2017, section 5.1, whose values are the defaults.

    A pair is the range of a uniform distribution; a pair of equal numbers fixes the value.
    Raises ValueError for numbers of examples below 1, for pairs that are no range and for negative noise.
    """
    shots: int = 10                                # support examples of a task
    queries: int = 10                              # query examples of a task
    amplitude: Tuple[float, float] = (0.1, 5.0)
    phase: Tuple[float, float] = (0.0, np.pi)      # radians
    frequency: Tuple[float, float] = (1.0, 1.0)    # radians per unit of x; the paper has no such variation
    x_range: Tuple[float, float] = (-5.0, 5.0)
    noise: float = 0.0                             # standard deviation of Gaussian noise on every y

    def __post_init__(self):
        for name in "shots", "queries":
            require(is_whole(getattr(self, name), 1), name, "a whole number >= 1", getattr(self, name))
        for name in "amplitude", "phase", "frequency", "x_range":
            pair = getattr(self, name)
            require(isinstance(pair, (tuple, list)) and len(pair) == 2 and all(map(is_number, pair))
                    and -np.inf < pair[0] <= pair[1] < np.inf, name, "a pair of finite numbers low <= high", pair)
        require(is_number(self.noise) and 0 <= self.noise < np.inf, "noise", "a finite number >= 0", self.noise)

    def sample(self, rng, n_tasks):
        """Return n_tasks new tasks: x (n_tasks, shots or queries, 1) and y of the same shape."""
        return self.observe(rng, self.draw(rng, n_tasks))

    def draw(self, rng, n_tasks):
        """Return the Waves of n_tasks new tasks: what an oracle knows, and a plot shows as the truth."""
        _check_draw(rng, n_tasks)
        return Waves(*(rng.uniform(*pair, (n_tasks, 1, 1)) for pair in (self.amplitude, self.phase, self.frequency)))

    def observe(self, rng, waves):
        """Return the Tasks of given waves: support and query examples drawn together, then split."""
        x = rng.uniform(*self.x_range, (len(waves.amplitude), self.shots + self.queries, 1))
        y = waves(x) + self.noise * rng.standard_normal(x.shape)
        return Tasks(x[:, :self.shots], y[:, :self.shots], x[:, self.shots:], y[:, self.shots:])


class FewShot:
    """Few-shot classification, on anyone's data: each task is to tell `ways` classes apart.

    classes: one array (examples, features) for each class. A task has `shots` support and `queries` query examples of
    each of its classes, no two the same, and gives its classes the labels 0 to ways − 1 in random order.
    Raises ValueError for fewer classes than ways, and names the first class that has too few examples, other features
    than the first class, or anything but finite numbers.
    """

    def __init__(self, classes, ways=5, shots=1, queries=15):
        for name, count, least in ("ways", ways, 2), ("shots", shots, 1), ("queries", queries, 1):
            require(is_whole(count, least), name, f"a whole number >= {least}", count)
        require(isinstance(classes, (list, tuple)) or isinstance(classes, np.ndarray) and classes.ndim > 0,
                "classes", "a list of arrays, one for each class", classes)
        require(len(classes) >= ways, "len(classes)", f"at least {ways}, as many as ways", len(classes))
        classes = [as_array(f"classes[{i}]", examples) for i, examples in enumerate(classes)]
        d = classes[0].shape[-1] if classes[0].ndim == 2 else "features"
        for i, examples in enumerate(classes):
            require(examples.ndim == 2 and examples.shape[1] == d and len(examples) >= shots + queries
                    and examples.dtype.kind in "iuf" and np.isfinite(examples).all() and examples.size, f"classes[{i}]",
                    f"at least {shots + queries} examples of finite numbers, of shape (examples, {d})", examples)
        self.ways, self.shots, self.queries = ways, shots, queries
        self.examples = np.concatenate(classes)                 # of all classes, (all examples, features)
        self.counts = np.array([len(examples) for examples in classes])
        self.starts = np.cumsum(self.counts) - self.counts      # where each class starts in examples

    def sample(self, rng, n_tasks):
        """Return n_tasks new tasks: x (n_tasks, ways · shots or queries, features), labels without the last axis."""
        _check_draw(rng, n_tasks)
        deck = np.tile(np.arange(len(self.counts)), (n_tasks, 1))
        chosen = rng.permuted(deck, axis=1)[:, :self.ways, None]  # column w holds the classes with label w
        lots = rng.random((n_tasks, self.ways, self.counts.max()))  # each example draws a lot; the lowest are taken
        lots[np.arange(self.counts.max()) >= self.counts[chosen]] = 1  # no such example
        order = np.argpartition(lots, (self.shots - 1, self.shots + self.queries - 1))  # support, queries, the rest
        x = self.examples[self.starts[chosen] + order[..., :self.shots + self.queries]]  # (n_tasks, ways, n, features)
        return Tasks(*self._labelled(x[:, :, :self.shots]), *self._labelled(x[:, :, self.shots:]))

    def _labelled(self, x):
        """Return x (tasks, ways, n, features) as (tasks, ways · n, features), and its labels (tasks, ways · n)."""
        n_tasks, ways, n, d = x.shape
        return x.reshape(n_tasks, ways * n, d), np.tile(np.repeat(np.arange(ways), n), (n_tasks, 1))


def characters(rng, n_classes, n_examples=20, grid=14):
    """Return made-up handwriting for FewShot: for each class an array (n_examples, grid²) of ink from 0 to 1, float32.

    A character is three strokes, each a Bezier curve between four points of the plane, which is that of the complex
    numbers. An example is one attempt to write it: every point a little off, the whole turned and shifted a little,
    with a finer or a broader pen. Raises ValueError for numbers below 1.
    """
    for name, count in ("n_examples", n_examples), ("grid", grid):
        require(is_whole(count, 1), name, "a whole number >= 1", count)
    _check_draw(rng, n_classes, "n_classes")
    t, axis = np.linspace(0, 1, 12), np.linspace(-1, 1, grid)
    bezier = np.stack([(1 - t)**3, 3 * t * (1 - t)**2, 3 * t**2 * (1 - t), t**3])  # (4, 12)
    pixels = (axis - 1j * axis[:, None]).reshape(-1, 1)                            # (grid², 1), row by row from the top

    def anywhere(draw, *shape):
        return draw(size=shape) + 1j * draw(size=shape)

    classes = []
    for _ in range(n_classes):
        character = anywhere(partial(rng.uniform, -0.8, 0.8), 3, 4)
        attempts = character + 0.12 * anywhere(rng.normal, n_examples, 3, 4)
        turn, shift = np.exp(0.2j * rng.normal(size=(n_examples, 1))), 0.15 * anywhere(rng.normal, n_examples, 1)
        ink = (attempts @ bezier).reshape(n_examples, -1) * turn + shift
        distance = abs(pixels - ink[:, None]).min(-1)                              # (n_examples, grid²)
        pen = rng.uniform(0.1, 0.16, (n_examples, 1))
        classes.append(np.exp(-(distance / pen)**2 / 2).astype(np.float32))
    return classes


def _check_draw(rng, n, name="n_tasks"):
    require(isinstance(rng, np.random.Generator), "rng", "a numpy.random.Generator", rng)
    require(is_whole(n, 1), name, "a whole number >= 1", n)
