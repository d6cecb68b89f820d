"""Model-agnostic meta-learning (MAML) in plain NumPy, with its exact second-order meta-gradient.

First the algorithm, for any model; then a model, a multilayer perceptron derived by hand; last the
outer loop. Each equation stands in the docstring of the function that computes it.

    θ  theta    all P parameters of the model in one vector, (P,)
    T           number of tasks in a batch; once adapted, each has a θ of its own, (T, P)
    K  steps    number of inner steps; θ_k is θ after k of them
    α  alpha    inner rate; α_k is that of step k, (P,), a number for each parameter
    L, g, H     loss, its gradient and its Hessian in θ; subscript s on a task's support set, the
                examples to adapt on, subscript q on its query set, the examples to judge by
    J           the meta-objective: the query loss after the inner steps, averaged over tasks
    v           v_k is ∂L_q(θ_K)/∂θ_k, the query loss after all steps differentiated in θ_k
    r           any direction in the space of θ; H r is the product of the Hessian with it
    R{F}        the derivative of F along r: d/dh of F at θ + h r, at h = 0. R{θ} is r, so R{g} is
                H r. R{A B} = R{A} B + A R{B}, R{σ(z)} = σ′(z) ∘ R{z}, R{σ′(z)} = σ″(z) ∘ R{z}
    ∘           elementwise product

A model is any object with linearize(theta, x, y), which returns L (T,), g (T, P), and hvp, the
function from r (T, P) to H r (T, P). x is (T, n, d, ...), y (T, ...); theta is (P,), shared by all
tasks, or (T, P). No call may overwrite what an earlier one returned. θ, α and r may be complex: the
tests take the imaginary part of J(θ + i h r) / h with h = 1e-30, which is the derivative of J along
r to rounding. Hence each .real below.

    >>> rng = np.random.default_rng(0)
    >>> x = rng.uniform(-5, 5, (25, 20, 1))                  # 25 tasks, 20 examples, 1 number each
    >>> y = rng.uniform(0.1, 5, (25, 1, 1)) * np.sin(x)      # of a sine wave for each task
    >>> tasks = x[:, :10], y[:, :10], x[:, 10:], y[:, 10:]   # support x and y, query x and y
    >>> model = MLP((1, 40, 40, 1))
    >>> J, grad_theta, _ = meta_gradient(model, model.init(rng), tasks, alpha=0.01, steps=1)

Sources: MAML, Finn, Abbeel, Levine 2017, arXiv 1703.03400; Meta-SGD, Li, Zhou, Chen, Li 2017, arXiv
1707.09835; Reptile, Nichol, Achiam, Schulman 2018, arXiv 1803.02999; R{.}, Pearlmutter 1994;
REINFORCE, Williams 1992; Adam, Kingma, Ba 2015, arXiv 1412.6980.
"""
import functools

import numpy as np


# ------------------------------------------------------------------------------------ the algorithm

def inner_rates(alpha, steps, theta):
    """Return α_k of each step, (steps, P): alpha broadcast, in theta's precision or complex."""
    alpha = np.asarray(alpha)
    if alpha.dtype.kind != "c":
        alpha = alpha.astype(np.result_type(theta.real, np.float16))      # even if θ is integer
    return np.broadcast_to(alpha, (steps, theta.shape[-1]))


def adapt(model, theta, x, y, alpha, steps=1):
    """Return θ_K (..., P), theta after `steps` gradient steps on the support set x, y.

        (1)  θ_0 = θ;  θ_{k+1} = θ_k − α_k ∘ g_s(θ_k)

    theta: (P,), shared by all tasks, or (T, P). x, y: as model.linearize takes them. alpha: what
    broadcasts to (steps, P), such as a number, (P,), (steps, 1) or (steps, P).
    """
    theta_k = np.array(theta)                             # a copy, for steps=0
    for alpha_k in inner_rates(alpha, steps, theta_k):
        _, grad, _ = model.linearize(theta_k, x, y)
        theta_k = theta_k - alpha_k * grad                                # (1)
    return theta_k


def linearize_query(model, theta_K, x, y):
    """Return L_q (T,) and g_q (T, P) at θ_K; raise ValueError if the model's have other shapes."""
    loss, grad, _ = model.linearize(theta_K, x, y)
    T, P = len(x), theta_K.shape[-1]
    if loss.shape != (T,) or grad.shape != (T, P):
        raise ValueError(f"model: expected L ({T},), g ({T}, {P}), got {loss.shape}, {grad.shape}")
    return loss, grad


def meta_gradient(model, theta, tasks, alpha, steps=1, first_order=False, wrt_alpha=False):
    """Return J (a number), ∂J/∂θ (P,) and, if wrt_alpha, ∂J/∂α in alpha's shape (else None).

        (1)  θ_0 = θ;  θ_{k+1} = θ_k − α_k ∘ g_s(θ_k)
        (2)  J(θ) = mean over tasks of L_q(θ_K)
        (3)  v_K = g_q(θ_K);  v_k = v_{k+1} − H_s(θ_k) (α_k ∘ v_{k+1})
        (4)  ∂J/∂θ = mean over tasks of v_0
        (5)  ∂J/∂α_k = −mean over tasks of g_s(θ_k) ∘ v_{k+1}

    (3) is the chain rule, v_k = (∂θ_{k+1}/∂θ_k)ᵀ v_{k+1}: by (1), ∂θ_{k+1}/∂θ_k is
    I − diag(α_k) H_s(θ_k), and as H is symmetric, its transpose is I − H_s(θ_k) diag(α_k).
    So K steps take K products of a Hessian with a vector, and no Hessian is ever formed.
    Likewise (5), as (1) has ∂θ_{k+1}/∂α_k = −diag(g_s(θ_k)).

    theta: (P,). tasks: x_support, y_support, x_query, y_query. alpha: as in adapt. first_order=True
    leaves H out of (3). steps=0 is joint training. Unfit tasks: ValueError, by the wrapper below.
    """
    x_support, y_support, x_query, y_query = tasks
    rates = inner_rates(alpha, steps, theta)
    theta_k, grads, hvps = theta, {}, {}
    for k in range(steps):
        _, grad, hvps[k] = model.linearize(theta_k, x_support, y_support)
        theta_k = theta_k - rates[k] * grad                               # (1)
        if wrt_alpha:
            grads[k] = grad
    loss, grad = linearize_query(model, theta_k, x_query, y_query)
    v, grad_rates = grad, np.empty(rates.shape, grad.dtype)               # v_K of (3)
    for k in reversed(range(steps)):
        if wrt_alpha:
            grad_rates[k] = -(grads[k] * v).mean(0)                       # (5)
        if not first_order:
            v = v - hvps[k](rates[k] * v)                                 # (3)
    J, grad_theta = loss.mean().item(), v.mean(0)                         # (2), (4)
    if not wrt_alpha:
        return J, grad_theta, None
    return J, grad_theta, unbroadcast(grad_rates, alpha)


def unbroadcast(grad_rates, alpha):
    """Return ∂J/∂α in alpha's shape, given (steps, P): entries that share a rate are added."""
    shared = tuple(axis for axis, d in enumerate(np.atleast_2d(alpha).shape) if d == 1)
    return grad_rates.sum(shared).reshape(np.shape(alpha))


def reptile_gradient(model, theta, tasks, alpha, steps=1):
    """Return J (a number) and Reptile's direction (P,), to be descended as if it were a gradient.

        (6)  mean over tasks of θ − θ_K

    Arguments as in meta_gradient. The query sets serve only to report J.
    """
    x_support, y_support, x_query, y_query = tasks
    theta_K = adapt(model, theta, x_support, y_support, alpha, steps)
    loss, grad = linearize_query(model, theta_K, x_query, y_query)
    way = np.broadcast_to(theta - theta_K, grad.shape)    # where K = 0, θ_K is (P,)
    return loss.mean().item(), way.mean(0)                                # (2), (6)


# Freeing one block of almost 32 MB, untouched, makes glibc keep the memory of freed arrays for the
# next ones. Without it a meta-gradient takes 2 to 3 times as long, in page faults.
np.empty(2**25 - 2**16, np.uint8)


def in_groups(gradient):
    """Return `gradient` as a mean over groups of tasks with up to 1.5 MB of parameters together.
    That fits a cache: up to a third of the time is saved from 1-256-256-1 on, and memory.
    """
    @functools.wraps(gradient)
    def mean_of_groups(model, theta, tasks, alpha, *rest, **options):
        theta = np.asarray(theta)
        try:
            tasks = [np.asarray(a) for a in tasks]
        except ValueError:
            raise ValueError("tasks: expected as many examples in all tasks of a batch, got unlike "
                             "numbers; batches may differ") from None
        shapes = [a.shape for a in tasks]
        if len({shape[:1] for shape in shapes}) > 1 or len(shapes[0]) < 3 or 0 in shapes[0]:
            raise ValueError(f"tasks: expected x (T, n, d, ...), y (T, ...), one T, got {shapes}")
        T, size, mean = len(tasks[0]), max(1, 3 * 2**19 // theta.nbytes), [0, 0, 0]
        if T <= size:
            return gradient(model, theta, tasks, alpha, *rest, **options)
        for start in range(0, T, size):
            group = [a[start:start + size] for a in tasks]
            answer = gradient(model, theta, group, alpha, *rest, **options)
            share = len(group[0]) / T
            mean = [None if new is None else old + share * new for old, new in zip(mean, answer)]
        return tuple(mean)

    return mean_of_groups


meta_gradient = in_groups(meta_gradient)
reptile_gradient = in_groups(reptile_gradient)


# ------------------------------------------------------------------------- a model, derived by hand
# σ maps z to σ(z), σ′(z) (slope) and σ″(z) (curvature), of z's shape; None is a σ″ that is always
# 0. A loss maps f (..., n, d_out), a model's outputs for n examples, and y to three: L (...,),
# δ = ∂L/∂f of f's shape, and delta_along, the function from R{f} to R{δ}.

def relu(z):
    slope = (z.real > 0).astype(z.real.dtype)                             # σ′(0) = 0
    return z * slope, slope, None


def tanh(z):
    a = np.tanh(z)
    slope = 1 - a * a
    return a, slope, -2 * a * slope


def mse(f, y):
    """The mean squared error against targets y (..., n, d_out).

        (7)   L = mean of (f − y)² over examples and outputs;  δ = 2 (f − y) / (n d_out)
        (7R)  R{δ} = 2 R{f} / (n d_out)
    """
    error = f - y
    count = f.shape[-2] * f.shape[-1]
    loss = (error * error).sum((-2, -1)) / count
    return loss, 2 / count * error, lambda Rf: 2 / count * Rf


def cross_entropy(f, y):
    """The cross-entropy of logits f against integer labels y (..., n).

        (8)   p = softmax(f);  L = −mean of log p[y] over examples;  δ = (p − onehot(y)) / n
        (8R)  R{δ} = p ∘ (R{f} − sum over classes of p ∘ R{f}) / n
    """
    n = f.shape[-2]
    onehot = y[..., None] == np.arange(f.shape[-1])
    f = f - f.real.max(-1, keepdims=True)     # leaves p as it is and keeps exp from overflowing
    log_p = f - np.log(np.exp(f).sum(-1, keepdims=True))
    p = np.exp(log_p)
    loss = -np.where(onehot, log_p, 0).sum((-2, -1)) / n
    return loss, (p - onehot) / n, lambda Rf: p * (Rf - (p * Rf).sum(-1, keepdims=True)) / n


def policy(f, y):
    """The REINFORCE loss of a Gaussian policy, whose actions have mean f and deviation 1.

        (9)   L = mean over examples of advantage ‖f − action‖² / 2;  δ = advantage (f − action) / n
        (9R)  R{δ} = advantage R{f} / n

    y: (..., n, d_out + 1), action and advantage. L is −mean of advantage · log density + const.
    """
    error, advantage = f - y[..., :-1], y[..., -1:]
    delta = advantage * error / f.shape[-2]
    loss = (delta * error).sum((-2, -1)) / 2
    return loss, delta, lambda Rf: advantage * Rf / f.shape[-2]


ACTIVATIONS = {"relu": relu, "tanh": tanh}
LOSSES = {"mse": mse, "cross_entropy": cross_entropy, "policy": policy}


def transpose(B):
    return B.swapaxes(-1, -2)


def append_column(B, value):
    """Return [B value], B (..., n, d) with one more column of that value."""
    out = np.empty(B.shape[:-1] + (B.shape[-1] + 1,), B.dtype)
    out[..., :-1] = B
    out[..., -1] = value
    return out


def stack(upper, lower):
    """Return upper (..., n, d) over lower (..., n, d), (..., 2n, d)."""
    if upper.shape != lower.shape:
        upper, lower = np.broadcast_arrays(upper, lower)
    return np.concatenate((upper, lower), -2)


class MLP:
    """A multilayer perceptron whose loss, gradient and Hessian-vector product are derived by hand.

        x, y, f     n inputs (n, d_in), what is to be learnt of them, and outputs (n, d_out)
        a_l, z_l    input (n, d_l) of layer l = 0 .. last, and its output before σ (n, d_{l+1})
        W_l, b_l    its weights (d_l, d_{l+1}) and bias (1, d_{l+1})
        A_l, M_l    [a_l 1] and W_l over b_l, so that A_l M_l = a_l W_l + b_l
        σ, σ′, σ″   activation of all layers but the last, and its derivatives
        e_l, δ_l    ∂L/∂a_l and ∂L/∂z_l

    sizes: d_in = d_0, d_1, ..., d_out. Any axes, such as tasks, may stand in front of these shapes.
    Raises ValueError for unknown names, θ of another size, and y that does not fit x and the loss.
    """

    def __init__(self, sizes, activation="relu", loss="mse"):
        for name, value, known in ("activation", activation, ACTIVATIONS), ("loss", loss, LOSSES):
            if value not in known:
                raise ValueError(f"{name}: expected one of {list(known)}, got {value!r}")
        if loss == "cross_entropy" and sizes[-1] < 2:
            raise ValueError(f"sizes: expected 2 or more outputs for {loss}, got {sizes[-1]}")
        self.sizes, self.activation, self.loss_name = tuple(sizes), activation, loss
        self._shapes = [(d + 1, d_next) for d, d_next in zip(sizes, sizes[1:])]
        ends = np.cumsum([rows * columns for rows, columns in self._shapes]).tolist()
        self._parts = [slice(start, end) for start, end in zip([0] + ends, ends)]
        self.n_params = ends[-1]

    def _matrices(self, vector):
        """Return [M_0, ..., M_last], views of θ, r or g (..., P)."""
        vector = np.asarray(vector)
        if vector.dtype.kind not in "fc" or vector.shape[-1:] != (self.n_params,):
            raise ValueError(f"theta: expected floating-point numbers (..., {self.n_params}), "
                             f"got {vector.dtype} {vector.shape}")
        layers = zip(self._parts, self._shapes)
        return [vector[..., part].reshape(vector.shape[:-1] + shape) for part, shape in layers]

    def unpack(self, theta):
        """Return [(W, b), ...], views of theta: W (..., d_l, d_{l+1}), b (..., 1, d_{l+1})."""
        return [(M_l[..., :-1, :], M_l[..., -1:, :]) for M_l in self._matrices(theta)]

    def init(self, rng, std=None, dtype=np.float64):
        """Return a random θ (P,): biases 0, weights normal with deviation std, where None means
        √(2/d_l) for relu (He et al. 2015, arXiv 1502.01852) and √(1/d_l) for tanh."""
        theta = np.zeros(self.n_params, dtype)
        gain = 2 if self.activation == "relu" else 1
        for W, _ in self.unpack(theta):                                   # views: this fills theta
            deviation = np.sqrt(gain / len(W)) if std is None else std
            W[...] = deviation * rng.standard_normal(W.shape)
        return theta

    def _forward(self, M, x):
        """Return f, and the lists of all A_l, of σ′(z_l) and of σ″(z_l).

            (10)  a_0 = x;  z_l = A_l M_l;  a_{l+1} = σ(z_l) for l < last;  f = z_last
        """
        sigma, x = ACTIVATIONS[self.activation], np.asarray(x, M[0].real.dtype)
        A, slope, curvature = [append_column(x, 1)], [], []
        for M_l in M[:-1]:
            a, slope_l, curvature_l = sigma(A[-1] @ M_l)                  # (..., n, d_{l+1})
            A.append(append_column(a, 1))
            slope.append(slope_l)
            curvature.append(curvature_l)
        return A[-1] @ M[-1], A, slope, curvature

    def predict(self, theta, x):
        """Return f (..., n, d_out), outputs, logits or mean actions, for x (..., n, d_in)."""
        return self._forward(self._matrices(theta), x)[0]

    def loss(self, theta, x, y):
        """Return the loss L (...,). Arguments as in linearize."""
        f = self.predict(theta, x)
        return LOSSES[self.loss_name](f, self._targets(x, y, f))[0]

    def _targets(self, x, y, f):
        """Return y in f's precision, or labels as they are."""
        y, d_out = np.asarray(y), self.sizes[-1]
        columns = {"mse": (d_out,), "cross_entropy": (), "policy": (d_out + 1,)}[self.loss_name]
        expected = np.shape(x)[:-1] + columns
        if y.shape != expected:
            raise ValueError(f"y: expected shape {expected} for {self.loss_name}, got {y.shape}")
        if self.loss_name != "cross_entropy":
            return y.astype(f.real.dtype, copy=False)
        if y.dtype.kind not in "iu" or y.min() < 0 or y.max() >= d_out:
            raise ValueError(f"y: expected integer labels 0 to {d_out - 1}, "
                             f"got {y.dtype} {y.min()} to {y.max()}")
        return y

    def linearize(self, theta, x, y):
        """Return L (...,), g (..., P), and the function hvp from r (..., P) to H r (..., P).

            (10)  a_0 = x;  z_l = A_l M_l;  a_{l+1} = σ(z_l) for l < last;  f = z_last
            (11)  ∂L/∂M_l = A_lᵀ δ_l, where δ_last is the δ of (7), (8) or (9)
            (12)  e_l = δ_l W_lᵀ;  δ_{l−1} = e_l ∘ σ′(z_{l−1}) for l > 0

        y: (..., n, d_out) for mse, integer labels (..., n) for cross_entropy, (..., n, d_out + 1)
        for policy; x and y of any precision. hvp refers to theta: do not change that in place.
        """
        M = self._matrices(theta)
        W = [M_l[..., :-1, :] for M_l in M]
        f, A, slope, curvature = self._forward(M, x)                      # (10)
        last, delta, bend = len(M) - 1, {}, {}
        loss, delta[last], delta_along = LOSSES[self.loss_name](f, self._targets(x, y, f))
        grad = np.empty(f.shape[:-2] + (self.n_params,), f.dtype)
        grad_M = self._matrices(grad)                             # views: filling them fills grad
        for l in range(last, 0, -1):
            np.matmul(transpose(A[l]), delta[l], out=grad_M[l])           # (11)
            e_l = delta[l] @ transpose(W[l])                              # (12)
            delta[l - 1] = e_l * slope[l - 1]                             # (12)
            if curvature[l - 1] is not None:
                bend[l - 1] = e_l * curvature[l - 1]                      # kept for (12R)
        np.matmul(transpose(A[0]), delta[0], out=grad_M[0])               # (11)

        def hvp(r):
            """Return H r = R{g}: (10) to (12) differentiated along r, whose parts are the R{M_l}.

                (10R)  R{a_0} = 0;  R{A_l} = [R{a_l} 0];  R{z_l} = R{A_l} M_l + A_l R{M_l};
                       R{a_{l+1}} = σ′(z_l) ∘ R{z_l} for l < last;  R{f} = R{z_last}
                (11R)  R{∂L/∂M_l} = R{A_l}ᵀ δ_l + A_lᵀ R{δ_l}, where R{δ_last} is of (7R) to (9R)
                (12R)  R{e_l} = R{δ_l} W_lᵀ + δ_l R{W_l}ᵀ;
                       R{δ_{l−1}} = R{e_l} ∘ σ′(z_{l−1}) + e_l ∘ σ″(z_{l−1}) ∘ R{z_{l−1}}
            """
            RM = self._matrices(r)
            RW = [RM_l[..., :-1, :] for RM_l in RM]
            RA, Rz = {}, {0: A[0] @ RM[0]}                                # (10R), as R{A_0} is 0
            for l in range(1, last + 1):
                RA[l] = append_column(slope[l - 1] * Rz[l - 1], 0)        # (10R)
                Rz[l] = RA[l] @ M[l] + A[l] @ RM[l]                       # (10R)
            Rdelta = delta_along(Rz[last])                                # R{δ_last}
            Hr = np.empty(Rdelta.shape[:-2] + (self.n_params,), Rdelta.dtype)
            Hr_M = self._matrices(Hr)                             # views: filling them fills Hr
            for l in range(last, 0, -1):
                # (11R) as [R{A_l}; A_l]ᵀ [δ_l; R{δ_l}]: up to 8 % faster, and one array less
                np.matmul(transpose(stack(RA[l], A[l])), stack(delta[l], Rdelta), out=Hr_M[l])
                Re_l = Rdelta @ transpose(W[l]) + delta[l] @ transpose(RW[l])             # (12R)
                Rdelta = Re_l * slope[l - 1]                              # (12R)
                if l - 1 in bend:
                    Rdelta += bend[l - 1] * Rz[l - 1]                     # (12R), the term of σ″
            np.matmul(transpose(A[0]), Rdelta, out=Hr_M[0])               # (11R), as R{A_0} is 0
            return Hr

        return loss, grad, hvp


def check_model(model, theta, x, y):
    """Return the relative errors of a model's gradient and of its H r, to check one of your own.

    Both are compared with (F(θ + h r) − F(θ − h r)) / 2h, where F is L or g, for ten random r: the
    median of each task, as a kink may spoil a few, then the largest of all tasks. First theta moves
    by 0.1 at random, as at θ = 0 or x = 0 relu is at its kink and mistakes vanish. In float64 both
    should be below 1e-6. Raises ValueError if H r has another shape than r.
    """
    rng, h, tiny, errors = np.random.default_rng(0), 1e-7, np.finfo(float).tiny, []
    theta = theta + 0.1 * rng.standard_normal(np.shape(theta))
    _, grad, hvp = model.linearize(theta, x, y)
    for _ in range(10):
        r = rng.standard_normal(grad.shape)                               # another for each task
        Hr = hvp(r)
        if Hr.shape != r.shape:
            raise ValueError(f"model: expected H r of r's shape {r.shape}, got {Hr.shape}")
        L_above, g_above, _ = model.linearize(theta + h * r, x, y)
        L_below, g_below, _ = model.linearize(theta - h * r, x, y)
        RL, Rg = (L_above - L_below) / (2 * h), (g_above - g_below) / (2 * h)
        errors.append((abs((grad * r).sum(-1) - RL) / (abs(RL) + tiny),   # tiny: 0 / 0 is 0 here
                       abs(Hr - Rg).max(-1) / (abs(Rg).max(-1) + tiny)))
    return tuple(np.median(errors, axis=0).reshape(2, -1).max(-1).tolist())


# ----------------------------------------------------------------------------------- the outer loop

class Adam:
    """The optimizer of one array θ, whose m and u it keeps; G is its gradient, lr the outer rate.

        (13)  m = u = 0;  for t = 1, 2, ...:
              m ← β₁ m + (1 − β₁) G;  u ← β₂ u + (1 − β₂) G ∘ G
              θ ← θ − lr · m̂ / (√û + ε), where m̂ = m / (1 − β₁ᵗ) and û = u / (1 − β₂ᵗ)
    """

    def __init__(self, beta1=0.9, beta2=0.999, eps=1e-8):
        self.beta1, self.beta2, self.eps = beta1, beta2, eps
        self.m = self.u = self.t = 0

    def step(self, theta, grad, lr=1e-3):
        """Return the next theta; raise ValueError for a grad of another shape than theta's."""
        grad = np.asarray(grad, theta.dtype)
        if grad.shape != theta.shape:
            raise ValueError(f"grad: expected theta's shape {theta.shape}, got {grad.shape}")
        self.t += 1
        self.m = self.beta1 * self.m + (1 - self.beta1) * grad
        self.u = self.beta2 * self.u + (1 - self.beta2) * grad * grad
        m_hat = self.m / (1 - self.beta1**self.t)
        u_hat = self.u / (1 - self.beta2**self.t)
        return theta - float(lr) * m_hat / (np.sqrt(u_hat) + self.eps)    # (13)


def cosine_decay(lr, iterations):
    """Return i -> outer rate, which falls along a cosine from lr at 0 to 0 at i = iterations."""
    return lambda i: lr * (1 + np.cos(np.pi * min(i / iterations, 1))) / 2


def meta_train(model, theta, sample, alpha, steps=1, iterations=1000, lr=1e-3, clip=None,
               gradient=meta_gradient, callback=None):
    """Descend what `gradient` returns, with Adam; return the learned theta (P,) and alpha.

    sample     () -> tasks, the meta-batch of one iteration, as `gradient` takes it
    lr         outer rate: a number, or i -> number for iteration i, such as cosine_decay returns
    clip       largest global norm of the outer gradient; None for no limit
    gradient   (model, theta, tasks, alpha, steps) -> J, ∂J/∂θ and, to learn alpha, ∂J/∂α:
               meta_gradient, reptile_gradient, or functools.partial(meta_gradient, ...) with
               first_order=True for first-order MAML, wrt_alpha=True for Meta-SGD
    callback   (i, J, theta, alpha) after update i, J from before it; True ends the training
    Raises FloatingPointError if J is not finite, or the clipped gradient too large to square.
    """
    theta, alpha = np.array(theta), np.array(alpha, np.asarray(theta).dtype)
    adam_theta, adam_alpha = Adam(), Adam()
    for i in range(iterations):
        outer_rate = lr(i) if callable(lr) else lr
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            J, *parts = gradient(model, theta, sample(), alpha, steps)
            parts = [part for part in parts if part is not None]   # in θ, and in α if it is learned
            numbers = np.concatenate([np.ravel(part) for part in parts], dtype=float)
            norm = 2.0**300 * np.linalg.norm(numbers / 2.0**300)          # 1e200 squared overflows
            scale = clip / norm if clip is not None and norm > clip else 1
            if not (np.isfinite(J) and scale * norm < np.sqrt(np.finfo(theta.dtype).max)):
                raise FloatingPointError(
                    f"iteration {i}: meta-loss {J}, gradient of norm {norm}: lower alpha or lr, or "
                    "clip the gradient (clip=10); or the data hold nan")
            theta = adam_theta.step(theta, scale * parts[0], outer_rate)
            if len(parts) > 1:
                alpha = adam_alpha.step(alpha, scale * parts[1], outer_rate)
        if callback is not None and callback(i, J, theta, alpha):
            break
    return theta, alpha
