"""Families of tasks to meta-learn from: what a task is, and how to sample a batch of them at once."""
from dataclasses import dataclass
from typing import NamedTuple, Tuple

import numpy as np

from maml import is_number, is_whole, require


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
        require(isinstance(rng, np.random.Generator), "rng", "a numpy.random.Generator", rng)
        require(is_whole(n_tasks, 1), "n_tasks", "a whole number >= 1", n_tasks)
        return Waves(*(rng.uniform(*pair, (n_tasks, 1, 1)) for pair in (self.amplitude, self.phase, self.frequency)))

    def observe(self, rng, waves):
        """Return the Tasks of given waves: support and query examples drawn together, then split."""
        x = rng.uniform(*self.x_range, (len(waves.amplitude), self.shots + self.queries, 1))
        y = waves(x) + self.noise * rng.standard_normal(x.shape)
        return Tasks(x[:, :self.shots], y[:, :self.shots], x[:, self.shots:], y[:, self.shots:])
