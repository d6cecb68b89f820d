"""Model-agnostic meta-learning (MAML) in plain NumPy, with its exact second-order meta-gradient.

Sources
    MAML      Finn, Abbeel, Levine: Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks, 2017
    Meta-SGD  Li, Zhou, Chen, Li: Meta-SGD: Learning to Learn Quickly for Few-Shot Learning, 2017
    Reptile   Nichol, Achiam, Schulman: On First-Order Meta-Learning Algorithms, 2018
    R{.}      Pearlmutter: Fast Exact Multiplication by the Hessian, 1994
    Adam      Kingma, Ba: Adam: A Method for Stochastic Optimization, 2015

The algorithm, for any model that offers linearize(theta, x, y) -> L, g, v ↦ H v
    θ   theta    all P parameters of the model in one vector: (P,), or (tasks, P) once adapted to each task
    α   alpha    inner rate: a number, or one for each parameter, or for each step, or both; α_k is step k's
    K   steps    number of inner steps; θ_k are the parameters after k of them
    L, g, H      loss, its gradient and its Hessian in θ; subscript s: on a task's support set, q: on its query set
    J            the meta-objective
    v_k          gradient of L_q(θ_K) with respect to θ_k
    ∘            elementwise product

    (1)  θ_0 = θ;  θ_{k+1} = θ_k − α_k ∘ g_s(θ_k)
    (2)  J(θ) = mean over tasks of L_q(θ_K)
    (3)  v_K = g_q(θ_K);  v_k = v_{k+1} − H_s(θ_k) (α_k ∘ v_{k+1})
    (4)  ∂J/∂θ = mean over tasks of v_0
    (5)  ∂J/∂α_k = −mean over tasks of g_s(θ_k) ∘ v_{k+1}, summed where several entries share one rate
    (6)  Reptile's direction: θ − mean over tasks of θ_K

    (3) is the chain rule, v_k = (∂θ_{k+1}/∂θ_k)ᵀ v_{k+1}, where (1) has ∂θ_{k+1}/∂θ_k = I − diag(α_k) H_s(θ_k).
    So K inner steps need K products of a Hessian with a vector, and no Hessian is ever formed.

The model, a multilayer perceptron of layers l = 0 .. last
    x, y, f      n inputs (n, d_in), their targets (n, d_out) or labels (n,), and their outputs or logits (n, d_out)
    a_l, z_l     input (n, d_l) and output (n, d_{l+1}) of layer l; d_0 = d_in, and the last z has d_out columns
    A_l          [a_l 1], a_l with a column of ones, (n, d_l + 1)
    W_l, M_l     weights (d_l, d_{l+1}), and the same with the bias as one more row, (d_l + 1, d_{l+1})
    σ, σ′, σ″    activation of the layers before the last, and its derivatives
    e_l, δ_l     ∂L/∂a_l and ∂L/∂z_l

     (7)  a_0 = x;  z_l = A_l M_l;  a_{l+1} = σ(z_l) for l < last;  f = z_last
     (8)  mse: L = mean of (f − y)² over examples and outputs;  δ_last = 2 (f − y) / (n d_out)
     (9)  cross-entropy: p = softmax(f);  L = −mean of log p[y] over examples;  δ_last = (p − onehot(y)) / n
    (10)  ∂L/∂M_l = A_lᵀ δ_l
    (11)  e_l = δ_l W_lᵀ;  δ_{l−1} = e_l ∘ σ′(z_{l−1})  for l > 0

The product H v, for any v (P,), by differentiating each of these lines
    R{q}         derivative of a quantity q along v: d/dh q(θ + h v) at h = 0; so R{g} = H v
    N_l, V_l     R{M_l} and R{W_l}: the numbers in v that stand where M_l and W_l stand in θ

     (7R) R{a_0} = 0;  R{z_l} = R{A_l} M_l + A_l N_l;  R{a_{l+1}} = σ′(z_l) ∘ R{z_l} for l < last;
          R{A_l} = [R{a_l} 0]
     (8R) mse: R{δ_last} = 2 R{f} / (n d_out)
     (9R) cross-entropy: R{δ_last} = p ∘ (R{f} − sum over classes of p ∘ R{f}) / n
    (10R) R{∂L/∂M_l} = R{A_l}ᵀ δ_l + A_lᵀ R{δ_l}
    (11R) R{e_l} = R{δ_l} W_lᵀ + δ_l V_lᵀ;
          R{δ_{l−1}} = R{e_l} ∘ σ′(z_{l−1}) + e_l ∘ σ″(z_{l−1}) ∘ R{z_{l−1}}  for l > 0

The outer optimizer
    (12)  Adam, from m = u = 0, for t = 1, 2, ...: m ← β₁ m + (1 − β₁) ∇J;  u ← β₂ u + (1 − β₂) ∇J ∘ ∇J;
          θ ← θ − lr · m / (1 − β₁ᵗ) / (√(u / (1 − β₂ᵗ)) + ε)

In the code θ, x, y, v and all that follows from them may have further axes in front, such as tasks, which broadcast.
θ, v and α may be complex everywhere but in meta_train: a complex step along them gives derivatives to rounding.
"""
import math
import re

import numpy as np


# ------------------------------------------------------------------------------------------------ activations
# Each maps z to σ(z), σ′(z), σ″(z), all of z's shape.

def relu(z):
    slope = (z.real > 0).astype(z.real.dtype)
    return z * slope, slope, None  # None: σ″ is 0, and its term in (11R) vanishes


def tanh(z):
    a = np.tanh(z)
    slope = 1 - a * a
    return a, slope, -2 * a * slope


# ------------------------------------------------------------------------------------------------ losses
# Each maps f (..., n, d_out) and y to L (...,), δ_last of f's shape, and the function R{f} -> R{δ_last}.

def mse(f, y):
    """Equations (8) and (8R): mean squared error against targets y (..., n, d_out)."""
    residual, scale = f - y, 2 / (f.shape[-2] * f.shape[-1])
    return scale / 2 * (residual * residual).sum((-2, -1)), scale * residual, lambda Rf: scale * Rf


def cross_entropy(f, y):
    """Equations (9) and (9R): cross-entropy of logits f against integer labels y (..., n)."""
    n, onehot = f.shape[-2], y[..., None] == np.arange(f.shape[-1])
    f = f - f.real.max(-1, keepdims=True)  # leaves p as it is and keeps exp from overflowing
    p = np.exp(f)
    total = p.sum(-1, keepdims=True)
    p = p / total
    loss = np.log(total[..., 0]) - np.where(onehot, f, 0).sum(-1)  # (..., n)
    return loss.mean(-1), (p - onehot) / n, lambda Rf: p * (Rf - (p * Rf).sum(-1, keepdims=True)) / n


ACTIVATIONS = {"relu": relu, "tanh": tanh}
LOSSES = {"mse": mse, "cross_entropy": cross_entropy}


# ------------------------------------------------------------------------------------------------ the model

class MLP:
    """A multilayer perceptron whose loss, gradient and Hessian-vector product are derived by hand.

    sizes: numbers of inputs, hidden units, ..., outputs; (d_in, d_out) is a linear model.
    activation: "relu" or "tanh", for the hidden layers. loss: "mse" or "cross_entropy".
    Raises ValueError for anything else, and in every method for arguments of the wrong shape or kind.
    """

    def __init__(self, sizes, activation="relu", loss="mse"):
        listed = isinstance(sizes, (tuple, list, np.ndarray))
        require(listed and len(sizes) > 1 and all(is_whole(d, 1) for d in sizes),
                "sizes", "two or more positive integers", sizes)
        require(activation in tuple(ACTIVATIONS), "activation", " or ".join(ACTIVATIONS), activation)
        require(loss in tuple(LOSSES), "loss", " or ".join(LOSSES), loss)
        require(loss != "cross_entropy" or sizes[-1] > 1, "sizes", "two or more outputs for cross_entropy", sizes)
        self.sizes, self._activation, self._loss = tuple(map(int, sizes)), ACTIVATIONS[activation], LOSSES[loss]
        shapes = [(d_in + 1, d_out) for d_in, d_out in zip(self.sizes, self.sizes[1:])]
        ends = np.cumsum([0] + [rows * columns for rows, columns in shapes]).tolist()
        self._layers = [(slice(start, end), shape) for start, end, shape in zip(ends, ends[1:], shapes)]
        self.n_params = ends[-1]

    def init(self, rng, std=None, dtype=np.float64):
        """Return random parameters (P,): biases 0, weights normal with standard deviation std.

        std=None scales each layer by its number of inputs, √(2/d_in) for relu (He et al. 2015) and √(1/d_in) for tanh.
        """
        require(isinstance(rng, np.random.Generator), "rng", "a numpy.random.Generator", rng)
        require(std is None or is_number(std) and 0 <= std < math.inf, "std", "a finite number >= 0 or None", std)
        named = getattr(dtype, "__name__", str(dtype)) in ("float32", "float64", "float")
        require(named, "dtype", "float32 or float64", dtype)
        theta, gain = np.zeros(self.n_params, dtype), 2 if self._activation is relu else 1
        for W, _ in self.unpack(theta):  # views: this fills theta
            W[...] = rng.standard_normal(W.shape) * (math.sqrt(gain / len(W)) if std is None else std)
        return theta

    def unpack(self, theta):
        """Return [(W, b), ...], views of theta (..., P): W (..., d_in, d_out), b (..., 1, d_out)."""
        return [(weights(M), M[..., -1:, :]) for M in self._matrices(self._check_vector("theta", theta))]

    def predict(self, theta, x):
        """Equation (7): return f (..., n, d_out), regression outputs or logits, for x (..., n, d_in)."""
        theta, x = self._check(theta, x)
        return self._forward(self._matrices(theta), x)[0]

    def loss(self, theta, x, y):
        """Equation (8) or (9): return the loss (...,). Arguments as in linearize."""
        theta, x, y = self._check(theta, x, y)
        return self._loss(self._forward(self._matrices(theta), x)[0], y)[0]

    def linearize(self, theta, x, y):
        """Return the loss (...,), its gradient (..., P), and the function hvp: v (..., P) -> H v (..., P).

        theta (..., P); x (..., n, d_in); y (..., n, d_out), or integer labels (..., n) for cross_entropy.
        x and y are taken in theta's precision. hvp reuses the two passes made here, at 1.5 times their cost.
        """
        theta, x, y = self._check(theta, x, y)
        M = self._matrices(theta)
        f, A, derivatives = self._forward(M, x)
        loss, delta_last, R_delta_last = self._loss(f, y)
        grad, delta, e = self._backward(M, A, derivatives, delta_last)
        return loss, grad, lambda v: self._hvp(self._check_vector("v", v), M, A, derivatives, delta, e, R_delta_last)

    def _matrices(self, theta):
        """Return [M_0, ..., M_last], views of theta (..., P)."""
        tasks = theta.shape[:-1]
        return [theta[..., part].reshape(tasks + shape) for part, shape in self._layers]

    def _forward(self, M, x):
        """Equation (7): return f, [A_0, ..., A_last], and [(σ′(z_l), σ″(z_l)), ...] for l < last."""
        A, derivatives = [append_column(x, 1)], []
        for M_l in M[:-1]:
            a, *derivative = self._activation(times(A[-1], M_l))
            A.append(append_column(a, 1))
            derivatives.append(derivative)
        return times(A[-1], M[-1]), A, derivatives

    def _backward(self, M, A, derivatives, delta_last):
        """Equations (10) and (11): return g (..., P), [δ_0, ..., δ_last] and [None, e_1, ..., e_last]."""
        last = len(M) - 1
        delta, e = [None] * last + [delta_last], [None] * len(M)
        grad = np.empty(delta_last.shape[:-2] + (self.n_params,), delta_last.dtype)
        grad_M = self._matrices(grad)  # views: filling them fills grad
        for l in range(last, 0, -1):
            np.matmul(transpose(A[l]), delta[l], out=grad_M[l])  # (10)
            e[l] = times_transpose(delta[l], weights(M[l]))  # (11)
            delta[l - 1] = e[l] * derivatives[l - 1][0]
        np.matmul(transpose(A[0]), delta[0], out=grad_M[0])
        return grad, delta, e

    def _hvp(self, v, M, A, derivatives, delta, e, R_delta_last):
        """Equations (7R) to (11R): return H v (..., P), the derivative of the two passes above line by line."""
        axes = delta[-1].shape[:-2]
        require(fit(v.shape[:-1], axes), "v", "leading axes that fit {}", v, axes)
        N, last = self._matrices(v), len(M) - 1
        RA, Rz = [None], [times(A[0], N[0])]  # (7R); R{A_0} is 0
        for l in range(1, last + 1):
            RA.append(append_column(derivatives[l - 1][0] * Rz[l - 1], 0))
            Rz.append(times(RA[l], M[l]) + times(A[l], N[l]))
        Rdelta = R_delta_last(Rz[last])  # (8R) or (9R)
        Hv = np.empty(np.broadcast_shapes(axes, v.shape[:-1]) + (self.n_params,), Rdelta.dtype)
        Hv_M = self._matrices(Hv)
        for l in range(last, 0, -1):
            # (10R) as one product: its two terms are the upper and the lower half of a sum over 2n examples.
            np.matmul(transpose(stack(RA[l], A[l])), stack(delta[l], Rdelta), out=Hv_M[l])
            Re = times_transpose(Rdelta, weights(M[l])) + times_transpose(delta[l], weights(N[l]))  # (11R)
            slope, curvature = derivatives[l - 1]
            Rdelta = Re * slope if curvature is None else Re * slope + e[l] * curvature * Rz[l - 1]
        np.matmul(transpose(A[0]), Rdelta, out=Hv_M[0])
        return Hv

    def _check_vector(self, name, vector):
        """Return theta or v as an array (..., P)."""
        vector = as_array(name, vector)
        require(vector.dtype.char in "fdFD" and vector.shape[-1:] == (self.n_params,),
                name, "float32 or float64 of shape (..., {})", vector, self.n_params)
        return vector

    def _check(self, theta, x, y=None):
        """Return the arguments as arrays that fit the model and each other, x and y in theta's precision."""
        theta, x, (d_in, *_, d_out) = self._check_vector("theta", theta), as_array("x", x), self.sizes
        require(x.dtype.kind in "iuf" and x.ndim > 1 and x.shape[-1] == d_in and x.size,
                "x", "real numbers of shape (..., n, {}), no axis empty", x, d_in)
        axes = theta.shape[:-1]
        require(fit(x.shape[:-2], axes), "x", "leading axes that fit theta's {}", x, axes)
        x = x.astype(theta.real.dtype, copy=False)
        if y is None:
            return theta, x
        y, rows = as_array("y", y), x.shape[:-1]
        if self._loss is cross_entropy:
            require(y.dtype.kind in "iu" and y.shape == rows and y.min() >= 0 and y.max() < d_out,
                    "y", "integer labels from 0 to {} of shape {}, as x has it", y, d_out - 1, rows)
            return theta, x, y
        require(y.dtype.kind in "iuf" and y.shape == rows + (d_out,),
                "y", "real numbers of shape {}, as x has it", y, rows + (d_out,))
        return theta, x, y.astype(x.dtype, copy=False)


# ------------------------------------------------------------------------------------------------ the algorithm

def adapt(model, theta, x, y, alpha, steps=1):
    """Equation (1): return θ_K (..., P), theta after `steps` gradient steps on the support set x, y.

    theta (P,) or (tasks, P); x, y as model.linearize takes them; alpha a number, (P,), (steps, P) or (steps, 1), where
    steps past its last row reuse that row; alpha is taken in theta's precision, unless it is complex. With steps=0 the
    result is a copy of theta. Raises ValueError for arguments that do not fit.
    """
    theta, rates = _check_inner(theta, alpha, steps)
    theta = theta.copy()
    for k in range(steps):
        theta = theta - row(rates, k) * model.linearize(theta, x, y)[1]
    return theta


def meta_gradient(model, theta, tasks, alpha, steps=1, first_order=False, wrt_alpha=False):
    """Equations (1) to (5): return J (float), ∂J/∂θ (P,) and, if wrt_alpha, ∂J/∂α in alpha's shape (else None).

    theta (P,); tasks = (x_support, y_support, x_query, y_query), the first axis of each being the task; alpha as in
    adapt. With steps=0 this is joint multi-task training: the plain gradient of the mean query loss.
    first_order=True drops H from (3), so that v_0 = v_K. Raises ValueError for arguments that do not fit.
    """
    theta, rates = _check_inner(theta, alpha, steps)
    tasks = _check_tasks(theta, tasks)
    n_tasks, loss, grad, grad_alpha = len(tasks[0]), 0, 0, 0
    for group in groups(tasks, theta):
        sums = _through_steps(model, theta, group, rates, steps, first_order, wrt_alpha)
        loss, grad, grad_alpha = loss + sums[0], grad + sums[1], grad_alpha + sums[2]
    grad_alpha = (grad_alpha / n_tasks).reshape(np.shape(alpha)) if wrt_alpha else None
    return loss.item() / n_tasks, grad / n_tasks, grad_alpha  # (2), (4), (5)


def _through_steps(model, theta, tasks, rates, steps, first_order, wrt_alpha):
    """Equations (1) to (5) for a group of tasks: return the sums over them of L_q(θ_K), of v_0, (P,), and of
    −g_s(θ_k) ∘ v_{k+1}, in the shape of rates, (1 or steps, 1 or P); the last is 0 unless wrt_alpha.
    """
    x_support, y_support, x_query, y_query = tasks
    theta_k, path = theta, []  # its memory grows with K, so it keeps only what the way back needs
    with naming("support"):
        for k in range(steps):  # as adapt does, but keeping the way
            _, grad, hvp = model.linearize(theta_k, x_support, y_support)
            theta_k = theta_k - row(rates, k) * grad  # (1)
            path.append((grad if wrt_alpha else None, None if first_order else hvp))
    with naming("query"):
        loss, v = model.linearize(theta_k, x_query, y_query)[:2]  # v_K, (tasks, P)
    grad_alpha = np.zeros(rates.shape, v.dtype) if wrt_alpha else 0
    for k in reversed(range(steps)):
        grad, hvp = path.pop()
        if wrt_alpha:  # (5), summed over the steps and parameters that share a rate
            each = (grad * v).sum(0)
            row(grad_alpha, k)[:] -= each if rates.shape[1] > 1 else each.sum()  # a view: this fills grad_alpha
        if not first_order:
            v = v - hvp(row(rates, k) * v)  # (3)
    return loss.sum(), v.sum(0), grad_alpha


def reptile_gradient(model, theta, tasks, alpha, steps=1):
    """Equation (6): return J (float) and Reptile's direction (P,), to be descended as if it were a gradient.

    Arguments as in meta_gradient. With one step it is the gradient of joint training on the support sets, times alpha.
    The query sets serve only to report J.
    """
    x_support, y_support, x_query, y_query = _check_tasks(_check_inner(theta, alpha, steps)[0], tasks)
    with naming("support"):
        theta_K = adapt(model, theta, x_support, y_support, alpha, steps)
    with naming("query"):
        loss = model.linearize(theta_K, x_query, y_query)[0]
    return loss.mean().item(), theta - np.atleast_2d(theta_K).mean(0)  # with 0 steps θ_K is (P,)


# ------------------------------------------------------------------------------------------------ meta-training

class Adam:
    """Equation (12). One instance follows one array of parameters. Raises ValueError for β outside [0, 1)."""

    def __init__(self, beta1=0.9, beta2=0.999, eps=1e-8):
        for name, beta in ("beta1", beta1), ("beta2", beta2):
            require(is_number(beta) and 0 <= beta < 1, name, "a number from 0 to below 1", beta)
        self.beta1, self.beta2, self.eps = beta1, beta2, eps
        self.m = self.u = self.t = 0

    def step(self, theta, grad, lr=1e-3):
        """Return the next theta, in theta's shape and dtype (floats). Raises ValueError if grad has another shape."""
        theta = np.asarray(theta)
        require(theta.dtype.char in "fd", "theta", "float32 or float64", theta)
        grad = np.asarray(grad, theta.dtype)
        require(grad.shape == theta.shape, "grad", "theta's shape {}", grad, theta.shape)
        self.t += 1
        self.m = self.beta1 * self.m + (1 - self.beta1) * grad
        self.u = self.beta2 * self.u + (1 - self.beta2) * grad * grad
        m, u = self.m / (1 - self.beta1**self.t), self.u / (1 - self.beta2**self.t)
        return theta - float(lr) * m / (np.sqrt(u) + self.eps)


def cosine_decay(lr, iterations):
    """Return the function i -> outer rate, falling along half a cosine from lr at i = 0 to 0 at i = iterations."""
    require(is_whole(iterations, 1), "iterations", "a whole number >= 1", iterations)
    return lambda i: lr * (1 + math.cos(math.pi * min(i / iterations, 1))) / 2


def meta_train(model, theta, sample, alpha, steps=1, iterations=1000, lr=1e-3, clip=None, gradient=meta_gradient,
               callback=None):
    """Descend the meta-objective with Adam; return the learned theta (P,) and alpha.

    sample     () -> tasks, the meta-batch of one iteration, as meta_gradient takes it
    lr         outer rate: a number, or a function of the iteration 0, 1, ... such as cosine_decay returns
    clip       largest global norm of the outer gradient; None for no limit
    gradient   what to descend: meta_gradient, reptile_gradient, or a variant by functools.partial:
               partial(meta_gradient, first_order=True) is first-order MAML,
               partial(meta_gradient, wrt_alpha=True) learns alpha as well (Meta-SGD)
    callback   (i, J, theta, alpha) -> ignored, called after iteration i; J is the meta-loss before its update
    Raises FloatingPointError if J or the gradient's square is not finite, ValueError for arguments that do not fit.
    """
    theta, rates = _check_inner(theta, alpha, steps)
    require(theta.dtype.char in "fd" and theta.ndim == 1, "theta", "one real vector (P,)", theta)
    require(rates.dtype.char in "fd", "alpha", "real numbers", rates)
    require(callable(sample), "sample", "a function without arguments that returns tasks", sample)
    require(is_whole(iterations, 0), "iterations", "a whole number >= 0", iterations)
    require(clip is None or is_number(clip) and clip > 0, "clip", "a number > 0 or None", clip)
    theta, alpha, adam_theta, adam_alpha = theta.copy(), rates.reshape(np.shape(alpha)), Adam(), Adam()
    largest = math.sqrt(np.finfo(theta.dtype).max)  # whose square Adam can hold
    for i in range(iterations):
        rate, tasks = lr(i) if callable(lr) else lr, sample()
        require(is_number(rate) and 0 <= rate < math.inf, "lr", "a finite number >= 0, or a function to one", rate)
        with np.errstate(over="ignore", invalid="ignore"):  # the check below says it better
            loss, grad_theta, *more = gradient(model, theta, tasks, alpha, steps)
        grad_alpha = more[0] if more else None
        norm = global_norm(grad_theta, grad_alpha)
        scale = clip / norm if clip is not None and norm > clip else 1
        if not (math.isfinite(loss) and scale * norm < largest):
            remedy = "lower alpha or lr" + (", or clip the outer gradient (clip=10)" if clip is None else "")
            raise FloatingPointError(f"iteration {i}: meta-loss {loss}, norm of its gradient {norm}; {remedy}")
        theta = adam_theta.step(theta, scale * grad_theta, rate)
        if grad_alpha is not None:
            alpha = adam_alpha.step(alpha, scale * grad_alpha, rate)
        if callback is not None:
            callback(i, loss, theta, alpha)
    return theta, alpha


# ------------------------------------------------------------------------------------------------ small parts

def weights(M):
    """Return W (..., d_in, d_out), a layer's matrix M (..., d_in + 1, d_out) without its bias row."""
    return M[..., :-1, :]


def transpose(a):
    """Return a (..., m, n) as (..., n, m)."""
    return a.swapaxes(-1, -2)


def append_column(a, value):
    """Return [a value], `a` (..., n, d) with one more column of that value."""
    out = np.empty(a.shape[:-1] + (a.shape[-1] + 1,), a.dtype)
    out[..., :-1], out[..., -1] = a, value
    return out


def stack(upper, lower):
    """Return upper (..., n, d) over lower (..., n, d), (..., 2n, d)."""
    if upper.shape != lower.shape:
        upper, lower = np.broadcast_arrays(upper, lower)
    return np.concatenate((upper, lower), -2)


def times(a, B):
    """Return a @ B; if `a` has a single column, as a broadcast product, which is twice as fast."""
    return a * B if a.shape[-1] == 1 else a @ B


def times_transpose(a, B):
    """Return a @ Bᵀ. For it BLAS copies B to turn it. With few rows in `a` and a large B, where copying takes most of
    the time (so measured with OpenBLAS), (B aᵀ)ᵀ, which turns only `a`, is up to five times as fast.
    """
    few_rows, large = a.shape[-2] <= 32, a.shape[-2] * B.shape[-2] * B.shape[-1] > 100_000
    return transpose(B @ np.ascontiguousarray(transpose(a))) if few_rows and large else times(a, transpose(B))


def row(rates, k):
    """Return the row of step k; steps past the last row share it."""
    return rates[min(k, len(rates) - 1)]


def groups(tasks, theta):
    """Return the tasks in groups whose adapted parameters take up to 2 MB, or one by one if a single task's take more.

    The meta-gradient is a mean over tasks, so it may be summed group by group. What fits a core's cache is then up to
    twice as fast as large arrays of all tasks at once (measured from 1-256-256-1 on), and memory is that of one group.
    """
    n_tasks, size = len(tasks[0]), max(1, 2**21 // theta.nbytes)
    return [tasks] if n_tasks <= size else [[a[i:i + size] for a in tasks] for i in range(0, n_tasks, size)]


def global_norm(*arrays):
    """Return the Euclidean norm of all numbers in the arrays that are not None, whose squares may overflow."""
    numbers = np.concatenate([np.ravel(a) for a in arrays if a is not None]).astype(np.float64)
    largest = abs(numbers).max()
    return float(largest * np.linalg.norm(numbers / largest) if 0 < largest < math.inf else largest)


# ------------------------------------------------------------------------------------------------ what comes in
# Nothing below is needed to follow the derivation.

def require(fits, name, expected, got, *values):
    """Raise a ValueError of one line if an argument does not fit. Only then do values fill the braces of `expected`, as
    formatting them each time would cost more than the checks.
    """
    if fits:
        return
    if isinstance(got, np.ndarray):
        span = f" with values from {got.min()} to {got.max()}" if got.dtype.kind in "iuf" and got.size else ""
        found = f"{got.dtype} of shape {got.shape}{span}"
    else:
        found = repr(got) if len(repr(got)) < 80 and "\n" not in repr(got) else type(got).__name__
    raise ValueError(f"{name}: expected {expected.format(*values)}, got {found}")


def is_number(value):
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def is_whole(value, least):
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value >= least


def fit(shape, other):
    """Tell whether two shapes broadcast."""
    return shape == other or all(p == q or 1 in (p, q) for p, q in zip(shape[::-1], other[::-1]))


def as_array(name, value):
    try:
        return np.asarray(value)
    except (ValueError, Warning):  # ragged lists; NumPy before 1.24 only warns
        raise ValueError(f"{name}: expected an array, got a {type(value).__name__} that makes none") from None


def _check_inner(theta, alpha, steps):
    """Return theta as an array, and alpha with one row a step, (1 or steps, 1 or P), in theta's precision."""
    theta, rates = as_array("theta", theta), as_array("alpha", alpha)
    require(theta.dtype.char in "fdFD" and theta.ndim * theta.size,
            "theta", "float32 or float64 of shape (..., P)", theta)
    require(is_whole(steps, 0), "steps", "a whole number >= 0", steps)
    P, kind = theta.shape[-1], rates.dtype.kind
    fits = rates.shape in ((), (P,)) or rates.ndim == 2 and len(rates) > 0 and rates.shape[1] in (1, P)
    require(kind in "iufc" and fits and (abs(rates) <= np.finfo(theta.dtype).max).all(),
            "alpha", "a finite number or an array of them, of shape ({0},), (steps, {0}) or (steps, 1)", rates, P)
    return theta, np.atleast_2d(rates).astype(rates.dtype if kind == "c" else theta.real.dtype)


def _check_tasks(theta, tasks):
    """Return the four arrays of tasks, checked for what every model needs; model.linearize checks the rest."""
    names = "x_support", "y_support", "x_query", "y_query"
    require(theta.ndim == 1, "theta", "one vector (P,), shared by all tasks", theta)
    require(isinstance(tasks, (tuple, list)) and len(tasks) == 4, "tasks", "the four arrays " + ", ".join(names), tasks)
    tasks = [as_array(name, a) for name, a in zip(names, tasks)]
    for name, a in zip(names, tasks):
        require((a.ndim == 3 or a.ndim == 2 and name[0] == "y") and len(a) == len(tasks[0]) > 0,
                name, "shape {} and as many tasks as x_support, at least 1", a,
                "(tasks, n, d)" if name[0] == "x" else "(tasks, n, d_out) or (tasks, n)")
    return tasks


class naming:
    """Let an error about x or y say whether it is the support or the query set's."""
    def __init__(self, part):
        self.part = part

    def __enter__(self):
        pass

    def __exit__(self, kind, error, trace):
        if kind is ValueError and re.match("[xy]:", str(error)):
            error.args = (f"{str(error)[0]}_{self.part}{str(error)[1:]}",)


def _keep_memory_mapped():
    """Allocate and free almost 32 MB, untouched. From then on glibc keeps freed blocks of up to that size for the next
    arrays, which makes training two to three times as fast; else each larger array costs page faults.
    """
    np.empty(2**25 - 2**16, np.uint8)


_keep_memory_mapped()
