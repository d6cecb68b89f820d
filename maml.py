"""Model-agnostic meta-learning (MAML) in plain NumPy, with its exact second-order meta-gradient.

First comes the algorithm, for any model; then a model for it, a multilayer perceptron derived by
hand; then the outer loop; last, under headings of their own, what serves speed and what guards the
input. Each equation stands in the docstring of the function that computes it, under a number that
the tests and pages cite.

    θ  theta    all P parameters of the model in one vector: (P,), or (tasks, P) once adapted
    K  steps    number of inner steps; θ_k is θ after k of them
    α  alpha    inner rate; α_k is that of step k
    L, g, H     loss, its gradient and its Hessian in θ; subscript s on a task's support set, the
                examples to adapt on, subscript q on its query set, the examples to judge by
    J           the meta-objective, which the outer loop minimises over θ: the query loss after the
                inner steps, averaged over tasks
    v           v_k is ∂L_q(θ_K)/∂θ_k, the query loss after all steps differentiated in θ_k
    r           any direction in the space of θ; H r is the product of the Hessian with it
    ∘           elementwise product

Of a model the algorithm asks for model.linearize(theta, x, y) -> L (tasks,), g (tasks, P), hvp,
where hvp maps r to H r, both (tasks, P). The first axis of x and y is the task; theta is (P,) for
all tasks or (tasks, P). linearize is called again before g and hvp are used, so no call may
overwrite what an earlier one returned. The MLP broadcasts any axes in front, written ... .
Outside the outer loop θ, α and r may be complex, hence each .real below: the imaginary part of
J(θ + i h r) / h with h = 1e-30 is the derivative of J along r to rounding, which the tests use.

Sources
    MAML       Finn, Abbeel, Levine 2017, arxiv.org/abs/1703.03400
    Meta-SGD   Li, Zhou, Chen, Li 2017, arxiv.org/abs/1707.09835
    Reptile    Nichol, Achiam, Schulman 2018, arxiv.org/abs/1803.02999
    R{.}       Pearlmutter 1994, Fast exact multiplication by the Hessian
    REINFORCE  Williams 1992, Simple statistical gradient-following algorithms
    Adam       Kingma, Ba 2015, arxiv.org/abs/1412.6980
"""
import math

import numpy as np


# ------------------------------------------------------------------------------------ the algorithm

def adapt(model, theta, x, y, alpha, steps=1):
    """Return θ_K (..., P), theta after `steps` gradient steps on the support set x, y.

        (1)  θ_0 = θ;  θ_{k+1} = θ_k − α_k ∘ g_s(θ_k)

    theta: (P,), shared by all tasks, or (tasks, P). x, y: as model.linearize takes them.
    alpha: a number, (P,), or a row for each step, (steps, P) or (steps, 1), the last of which also
    serves all further steps. Unless alpha is complex, it is taken in theta's precision.
    Raises ValueError for arguments that do not fit.
    """
    model, theta, rates = check_inner(model, theta, alpha, steps)         # rates: α_k of each step
    theta_k = theta.copy()                                # with steps=0 too, an array of its own
    for alpha_k in rates:                                 # (P,) or (1,)
        _, grad, _ = model.linearize(theta_k, x, y)
        theta_k = theta_k - alpha_k * grad                                # (1)
    return theta_k


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
    Likewise (5), as (1) has ∂θ_{k+1}/∂α_k = −diag(g_s(θ_k)). Entries that share a rate are added.

    theta: (P,). tasks: x_support, y_support, x_query, y_query, the first axis of each being the
    task. alpha: as in adapt, but with no more rows than steps. With steps=0, ∂J/∂θ is the plain
    gradient of the mean query loss (joint training). first_order=True leaves H out of (3), so
    that every v_k is v_K. Raises ValueError for arguments that do not fit.
    """
    model, theta, rates = check_inner(model, theta, alpha, steps, by_task=True)   # rates: all α_k
    tasks = check_tasks(theta, tasks, alpha, steps, first_order, wrt_alpha)
    J, grad_theta, grad_alpha = 0, 0, 0
    for x_support, y_support, x_query, y_query in groups(tasks, theta):   # all at once, or fewer
        # path is what the way back needs. To keep the rest too would take a third more memory, at
        # first order three times as much.
        theta_k, path = theta, []
        for alpha_k in rates:                             # (P,) or (1,)
            _, grad, hvp = model.linearize(theta_k, x_support, y_support)
            path.append((alpha_k, grad if wrt_alpha else None, None if first_order else hvp))
            theta_k = theta_k - alpha_k * grad                            # (1)
        loss, v = model.linearize(theta_k, x_query, y_query)[:2]          # (2), and v_K of (3)
        rows = []
        while path:                                       # from the last step to the first
            alpha_k, grad, hvp = path.pop()
            if wrt_alpha:
                rows.append(-(grad * v).sum(0))                           # (5)
            if not first_order:
                v = v - hvp(alpha_k * v)                                  # (3)
        J = J + loss.sum()
        grad_theta = grad_theta + v.sum(0)                                # (4)
        if wrt_alpha:
            rows = np.array(rows[::-1], v.dtype).reshape(steps, len(theta))   # also if steps=0
            grad_alpha = grad_alpha + rows
        del v              # at first order it would stay in memory beside the next group's
    n_tasks = len(tasks[0])                                 # for the means of (2), (4) and (5)
    grad_alpha = sum_shared(grad_alpha / n_tasks, alpha) if wrt_alpha else None
    return J.item() / n_tasks, grad_theta / n_tasks, grad_alpha


def sum_shared(entries, alpha):
    """Return in alpha's shape the entries (steps, P) of (5), added where they share a rate."""
    rows = np.atleast_2d(alpha)
    sums = np.zeros(rows.shape, entries.dtype)
    for k, entry in enumerate(entries):
        sums[min(k, len(rows) - 1)] += entry if rows.shape[1] > 1 else entry.sum()
    return sums.reshape(np.shape(alpha))


def reptile_gradient(model, theta, tasks, alpha, steps=1):
    """Return J (a number) and Reptile's direction (P,), to be descended as if it were a gradient.

        (6)  θ − mean over tasks of θ_K

    Arguments as in meta_gradient. With one step, (6) is alpha times the gradient of joint training
    on the support sets. The query sets serve only to report J. A difference loses digits: (6) is
    exact to the rounding of θ, which in float32 with alpha = 1e-5 is some 0.4 % of (6).
    """
    model, theta, _ = check_inner(model, theta, alpha, steps, by_task=True)
    tasks = check_tasks(theta, tasks, alpha, steps)
    J, ends = 0, 0
    for x_support, y_support, x_query, y_query in groups(tasks, theta):
        theta_K = adapt(model, theta, x_support, y_support, alpha, steps)
        loss, grad, _ = model.linearize(theta_K, x_query, y_query)
        J = J + loss.sum()
        ends = ends + np.broadcast_to(theta_K, grad.shape).sum(0)         # θ_K is (P,) if steps=0
    n_tasks = len(tasks[0])
    return J.item() / n_tasks, theta - ends / n_tasks                     # (6)


# ----------------------------------------------------------------------------------- the activation
# Each σ maps z to σ(z), σ′(z) (slope) and σ″(z) (curvature), of z's shape; None stands for a σ″
# that is always 0.

def relu(z):
    slope = (z.real > 0).astype(z.real.dtype)                             # σ′(0) = 0
    return z * slope, slope, None


def tanh(z):
    a = np.tanh(z)
    slope = 1 - a * a
    curvature = -2 * a * slope
    return a, slope, curvature


# ----------------------------------------------------------------------------------------- the loss
# A loss takes f (..., n, d_out), a model's outputs for n examples, and y. It returns L (...,),
# δ = ∂L/∂f of f's shape, and delta_along, the function from R{f} to R{δ}. Here R{q} is the
# derivative of q along r: d/dh of q at θ + h r, at h = 0, with x and y fixed.

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
    p = np.exp(f)
    total = p.sum(-1, keepdims=True)
    p = p / total
    loss = np.log(total[..., 0]) - np.where(onehot, f, 0).sum(-1)         # −log p[y], (..., n)

    def delta_along(Rf):
        return p * (Rf - (p * Rf).sum(-1, keepdims=True)) / n

    return loss.mean(-1), (p - onehot) / n, delta_along


def policy(f, y):
    """The REINFORCE loss of a Gaussian policy, whose actions have mean f and deviation 1.

        (9)   L = mean over examples of advantage ‖f − action‖² / 2;
              δ = advantage (f − action) / n
        (9R)  R{δ} = advantage R{f} / n

    y: (..., n, d_out + 1), the action and then its advantage, which says how much better it did
    than expected. L is −mean of advantage times log density of the action, less a constant. With
    a deviation s it would be divided by s². The examples are held fixed: how θ changes which ones
    are seen is left out.
    """
    weight = y[..., -1:] / f.shape[-2]                                    # (..., n, 1)
    error = f - y[..., :-1]
    delta = weight * error
    return (delta * error).sum((-2, -1)) / 2, delta, lambda Rf: weight * Rf


ACTIVATIONS = {"relu": relu, "tanh": tanh}
LOSSES = {"mse": mse, "cross_entropy": cross_entropy, "policy": policy}


# ---------------------------------------------------------------------------------------- the model

def transpose(a):
    return a.swapaxes(-1, -2)


def append_column(a, value):
    """Return [a value], `a` (..., n, d) with one more column of that value."""
    out = np.empty(a.shape[:-1] + (a.shape[-1] + 1,), a.dtype)
    out[..., :-1] = a
    out[..., -1] = value
    return out


class MLP:
    """A multilayer perceptron whose loss, gradient and Hessian-vector product are derived by hand.

        x, y, f     n inputs (n, d_in), targets (or labels, or actions and advantages), and
                    outputs (n, d_out)
        a_l, z_l    input (n, d_l) of layer l = 0 .. last, and its output before σ (n, d_{l+1})
        A_l         [a_l 1], a_l with a column of ones, (n, d_l + 1)
        W_l, M_l    weights (d_l, d_{l+1}); the same with the bias as one more row
        σ, σ′, σ″   activation of all layers but the last, and its derivatives
        e_l, δ_l    ∂L/∂a_l and ∂L/∂z_l

    sizes: numbers of inputs, hidden units, ..., outputs; (d_in, d_out) is a linear model.
    activation: "relu" or "tanh". loss: "mse", "cross_entropy" or "policy".
    Raises ValueError for anything else, and in every method for arguments that do not fit.
    """

    def __init__(self, sizes, activation="relu", loss="mse"):
        self.sizes = check_network(sizes, activation, loss)
        self.activation, self.loss_name = activation, loss
        self._shapes = [(d + 1, d_next) for d, d_next in zip(self.sizes, self.sizes[1:])]
        ends = np.cumsum([rows * columns for rows, columns in self._shapes]).tolist()
        self._parts = [slice(start, end) for start, end in zip([0] + ends, ends)]
        self.n_params = ends[-1]

    def init(self, rng, std=None, dtype=np.float64):
        """Return random parameters (P,): biases 0, weights normal with standard deviation std.

        std=None scales each layer by its number of inputs: √(2/d_l) for relu (He et al. 2015,
        arxiv.org/abs/1502.01852), √(1/d_l) for tanh.
        """
        require(std is None or is_number(std, 0), "std", "a finite number >= 0 or None", std)
        theta = np.zeros(self.n_params, dtype)
        require(theta.dtype.char in "fd", "dtype", "float32 or float64", dtype)
        gain = 2 if self.activation == "relu" else 1
        for W, _ in self.unpack(theta):                                   # views: this fills theta
            deviation = math.sqrt(gain / len(W)) if std is None else std
            W[...] = deviation * rng.standard_normal(W.shape)
        return theta

    def unpack(self, theta):
        """Return [(W, b), ...], views of theta: W (..., d_l, d_{l+1}), b (..., 1, d_{l+1})."""
        theta = check_vector("theta", theta, self.n_params)
        return [(M_l[..., :-1, :], M_l[..., -1:, :]) for M_l in self._matrices(theta)]

    def predict(self, theta, x):
        """Return f (..., n, d_out), outputs, logits or mean actions, for x (..., n, d_in)."""
        theta, x = check_inputs(self, theta, x)
        return self._forward(self._matrices(theta), x)[0]

    def loss(self, theta, x, y):
        """Return the loss L (...,). Arguments as in linearize."""
        theta, x, y = check_examples(self, theta, x, y)
        f = self._forward(self._matrices(theta), x)[0]
        return LOSSES[self.loss_name](f, y)[0]

    def _matrices(self, theta):
        """Return [M_0, ..., M_last], views of theta (..., P)."""
        axes = theta.shape[:-1]
        layers = zip(self._parts, self._shapes)
        return [theta[..., part].reshape(axes + shape) for part, shape in layers]

    def _forward(self, M, x):
        """Return f, and the lists of all A_l, of σ′(z_l) and of σ″(z_l).

            (10)  a_0 = x;  z_l = A_l M_l;  a_{l+1} = σ(z_l) for l < last;  f = z_last
        """
        activation = ACTIVATIONS[self.activation]
        A, slope, curvature = [append_column(x, 1)], [], []
        for M_l in M[:-1]:
            a, slope_l, curvature_l = activation(A[-1] @ M_l)             # (..., n, d_{l+1})
            A.append(append_column(a, 1))
            slope.append(slope_l)
            curvature.append(curvature_l)
        return A[-1] @ M[-1], A, slope, curvature

    def _backward(self, M, A, slope, delta_last):
        """Return g (..., P), and from δ_last the lists of all δ_l and all e_l.

            (11)  ∂L/∂M_l = A_lᵀ δ_l, where δ_last is the δ of the loss
            (12)  e_l = δ_l W_lᵀ;  δ_{l−1} = e_l ∘ σ′(z_{l−1}) for l > 0
        """
        last = len(M) - 1
        delta = [None] * last + [delta_last]                              # (7), (8) or (9)
        e = [None] * len(M)                                               # e_0 is not needed
        grad = np.empty(delta_last.shape[:-2] + (self.n_params,), delta_last.dtype)
        grad_M = self._matrices(grad)                             # views: filling them fills grad
        for l in range(last, 0, -1):
            np.matmul(transpose(A[l]), delta[l], out=grad_M[l])           # (11)
            W_l = M[l][..., :-1, :]
            e[l] = times_transpose(delta[l], W_l)                         # (12), δ_l W_lᵀ
            delta[l - 1] = e[l] * slope[l - 1]                            # (12)
        np.matmul(transpose(A[0]), delta[0], out=grad_M[0])               # (11)
        return grad, delta, e

    def linearize(self, theta, x, y):
        """Return L (...,), g (..., P), and the function hvp from r (..., P) to H r (..., P).

        theta: (..., P). x: (..., n, d_in). y: (..., n, d_out) for mse, integer labels (..., n) for
        cross_entropy, (..., n, d_out + 1) for policy. x and y are taken in theta's precision.
        hvp reuses the two passes made here; a call costs one to two times as much as they did. It
        refers to theta, not to a copy: do not change theta in place, as by theta -= ..., before.
        """
        theta, x, y = check_examples(self, theta, x, y)
        M = self._matrices(theta)
        f, A, slope, curvature = self._forward(M, x)
        loss, delta_last, delta_along = LOSSES[self.loss_name](f, y)
        grad, delta, e = self._backward(M, A, slope, delta_last)

        def hvp(r):
            """Return H r = R{g}: every line of the two passes, differentiated along r.

            R{θ} is r, so R{M_l} and R{W_l} are in r what M_l and W_l are in θ.

                (10R)  R{a_0} = 0;  R{A_l} = [R{a_l} 0];  R{z_l} = R{A_l} M_l + A_l R{M_l};
                       R{a_{l+1}} = σ′(z_l) ∘ R{z_l} for l < last;  R{f} = R{z_last}
                (11R)  R{∂L/∂M_l} = R{A_l}ᵀ δ_l + A_lᵀ R{δ_l}, where R{δ_last} is that of the loss
                (12R)  R{e_l} = R{δ_l} W_lᵀ + δ_l R{W_l}ᵀ;
                       R{δ_{l−1}} = R{e_l} ∘ σ′(z_{l−1}) + e_l ∘ σ″(z_{l−1}) ∘ R{z_{l−1}}
            """
            # axes: the leading ones of H r. Not by grad, which hvp would then keep in memory.
            r, axes = check_direction(r, self.n_params, delta[0].shape[:-2])
            RM = self._matrices(r)
            last = len(M) - 1
            RA = [None]                                                   # R{A_0} is 0
            Rz = [A[0] @ RM[0]]                                           # (10R)
            for l in range(1, last + 1):
                RA.append(append_column(slope[l - 1] * Rz[l - 1], 0))     # (10R)
                Rz.append(RA[l] @ M[l] + A[l] @ RM[l])                    # (10R)
            Rdelta = delta_along(Rz[last])                # R{δ_last}, by (7R), (8R) or (9R)
            Hr = np.empty(axes + (self.n_params,), Rdelta.dtype)
            Hr_M = self._matrices(Hr)                             # views: filling them fills Hr
            for l in range(last, 0, -1):
                # (11R), R{A_l}ᵀ δ_l + A_lᵀ R{δ_l}
                sum_of_products(RA[l], delta[l], A[l], Rdelta, out=Hr_M[l])
                W_l, RW_l = M[l][..., :-1, :], RM[l][..., :-1, :]
                Re = times_transpose(Rdelta, W_l) + times_transpose(delta[l], RW_l)     # (12R)
                Rdelta = Re * slope[l - 1]                                # (12R), R{δ_{l−1}}
                if curvature[l - 1] is not None:                          # relu has σ″ = 0
                    Rdelta += e[l] * curvature[l - 1] * Rz[l - 1]         # (12R), the term of σ″
            np.matmul(transpose(A[0]), Rdelta, out=Hr_M[0])               # (11R), where R{A_0} = 0
            return Hr

        return loss, grad, hvp


def check_model(model, theta, x, y):
    """Return the relative errors of a model's gradient and of its H r, to check one of your own.

    They are compared with (F(θ + h r) − F(θ − h r)) / 2h, where F is L and then g, and h = 1e-5.
    Each error is the median over ten random r, since a kink such as relu's may spoil a few. In
    float64 both should be below 1e-6. theta, x, y: as model.linearize takes them.
    """
    model, theta, _ = check_inner(model, theta, alpha=0, steps=0)
    _, grad, hvp = model.linearize(theta, x, y)
    rng, h, errors = np.random.default_rng(0), 1e-5, []
    for _ in range(10):
        r = rng.standard_normal(grad.shape)                               # another for each task
        above, below = (model.linearize(theta + step, x, y) for step in (h * r, -h * r))
        differences = [(a - b) / (2 * h) for a, b in zip(above[:2], below[:2])]
        pairs = zip(((grad * r).sum(-1), hvp(r)), differences)
        errors.append([abs(own - d).max() / (abs(d).max() or 1) for own, d in pairs])
    return tuple(np.median(errors, axis=0).tolist())


# ----------------------------------------------------------------------------------- the outer loop

class Adam:
    """The optimizer of one array θ of real parameters; G is the gradient in it, lr the outer rate.

        (13)  m = u = 0;  for t = 1, 2, ...:
              m ← β₁ m + (1 − β₁) G;  u ← β₂ u + (1 − β₂) G ∘ G
              θ ← θ − lr · m̂ / (√û + ε), where m̂ = m / (1 − β₁ᵗ) and û = u / (1 − β₂ᵗ)

    Raises ValueError for a β outside [0, 1), an ε that is not >= 0, and in step for arguments that
    do not fit. An Adam keeps the m and u of one array, so another array needs another Adam.
    """

    def __init__(self, beta1=0.9, beta2=0.999, eps=1e-8):
        for name, beta in ("beta1", beta1), ("beta2", beta2):
            require(is_number(beta, 0) and beta < 1, name, "a number from 0 to below 1", beta)
        require(is_number(eps, 0), "eps", "a finite number >= 0", eps)
        self.beta1, self.beta2, self.eps = beta1, beta2, eps
        self.m = self.u = self.t = 0

    def step(self, theta, grad, lr=1e-3):
        """Return the next theta; grad has its shape and is taken in its dtype."""
        theta, grad = check_step(self, theta, grad, lr)
        self.t += 1
        self.m = self.beta1 * self.m + (1 - self.beta1) * grad
        self.u = self.beta2 * self.u + (1 - self.beta2) * grad * grad
        m_hat = self.m / (1 - self.beta1**self.t)
        u_hat = self.u / (1 - self.beta2**self.t)
        return theta - float(lr) * m_hat / (np.sqrt(u_hat) + self.eps)    # (13)


def cosine_decay(lr, iterations):
    """Return i -> outer rate, which falls along a cosine from lr at 0 to 0 at i = iterations."""
    require(is_number(lr, 0), "lr", "a finite number >= 0", lr)
    require(is_whole(iterations, 1), "iterations", "a whole number >= 1", iterations)
    return lambda i: lr * (1 + math.cos(math.pi * min(i / iterations, 1))) / 2


def meta_train(model, theta, sample, alpha, steps=1, iterations=1000, lr=1e-3, clip=None,
               gradient=meta_gradient, callback=None):
    """Descend what `gradient` returns, with Adam; return the learned theta (P,) and alpha.

    sample     () -> tasks, the meta-batch of one iteration, as `gradient` takes it
    lr         outer rate: a number, or i -> number for iteration i, such as cosine_decay returns
    clip       largest global norm of the outer gradient; None for no limit
    gradient   (model, theta, tasks, alpha, steps) -> J, ∂J/∂θ and, to learn alpha, ∂J/∂α:
               meta_gradient, reptile_gradient, or a variant by functools.partial.
               partial(meta_gradient, first_order=True) is first-order MAML;
               partial(meta_gradient, wrt_alpha=True) learns alpha as well (Meta-SGD)
    callback   (i, J, theta, alpha) after update i: J from before it, theta and alpha from after
               it; returning True ends the training

    Raises ValueError for arguments that do not fit or data that are not finite, FloatingPointError
    if, with finite data, J is not finite or the clipped gradient is too large for Adam to square.
    """
    theta, alpha = check_training(model, theta, alpha, steps, iterations, clip)
    adam_theta, adam_alpha = Adam(), Adam()
    for i in range(iterations):
        rate = lr(i) if callable(lr) else lr
        require(is_number(rate, 0), "lr", "a finite number >= 0, or a function to one", rate)
        tasks = sample()
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):   # check_progress tells
            answer = gradient(model, theta, tasks, alpha, steps)
            J, grad_theta, grad_alpha = check_outer(answer)  # grad_alpha None: it is not learned
            norm = global_norm(grad_theta, grad_alpha)
            scale = clip / norm if clip is not None and norm > clip else 1
            check_progress(i, J, scale * norm, clip, tasks, theta.dtype)
            theta = adam_theta.step(theta, scale * grad_theta, rate)
            if grad_alpha is not None:
                alpha = adam_alpha.step(alpha, scale * grad_alpha, rate)
        stop = callback(i, J, theta, alpha) if callback is not None else False
        if isinstance(stop, (bool, np.bool_)) and stop:      # not what only counts as true
            break
    return theta, alpha


# -------------------------------------------------------------------------------- what serves speed
# Nothing from here on is needed to follow the derivation.

# Freeing one block of almost 32 MB, untouched, makes glibc reuse freed memory of up to that size.
# Otherwise each array from 128 kB on costs page faults: without this line a meta-gradient of 25
# tasks takes 2.7 times as long at width 40, 6 times at 100 and 2.8 times at 256.
np.empty(2**25 - 2**16, np.uint8)


def groups(tasks, theta):
    """Return the tasks in groups whose adapted parameters take up to 2 MB, at least one in each.

    J is a mean over tasks, so it may be summed by groups. From networks of 1-256-256-1 on, groups
    that fit a core's cache are up to twice as fast, and only one is in memory.
    """
    size = max(1, 2**21 // theta.nbytes)
    return [[a[i:i + size] for a in tasks] for i in range(0, len(tasks[0]), size)]


def global_norm(*arrays):
    """Return the Euclidean norm of the arrays that are not None, even if squares overflow."""
    numbers = np.concatenate([np.ravel(a) for a in arrays if a is not None]).astype(np.float64)
    largest = abs(numbers).max() or 1
    return float(largest * np.linalg.norm(numbers / largest))


def times_transpose(a, B):
    """Return a @ Bᵀ. BLAS transposes a copy of B; where that takes long, transpose `a` instead."""
    rows, columns = a.shape[-2:]
    if columns == 1:                                     # a broadcast product is twice as fast
        return a * transpose(B)
    if rows <= 32 and rows * columns * B.shape[-2] > 100_000:      # measured: up to 5 times as fast
        return transpose(B @ np.ascontiguousarray(transpose(a)))
    return a @ transpose(B)


def sum_of_products(a, b, c, d, out):
    """Fill out with aᵀ b + cᵀ d: as one product, [a; c]ᵀ [b; d], it takes 2 to 16 % less time."""
    np.matmul(transpose(stack(a, c)), stack(b, d), out=out)


def stack(upper, lower):
    """Return upper (..., n, d) over lower (..., n, d), (..., 2n, d)."""
    if upper.shape != lower.shape:
        upper, lower = np.broadcast_arrays(upper, lower)
    return np.concatenate((upper, lower), -2)


# ---------------------------------------------------------------------------- what guards the input
# A guard stands here if without it a wrong answer would come back in silence, or an error that
# names neither the argument nor the fault.

TASKS = "x_support", "y_support", "x_query", "y_query"


def wrong(name, expected, got):
    """Return the ValueError, of one line, of an argument that does not fit."""
    found = repr(got)
    if isinstance(got, np.ndarray):
        found = f"{got.dtype} of shape {got.shape}"
        if got.dtype.kind in "iuf" and got.size:
            found += f" with values from {got.min()} to {got.max()}"
    elif len(found) > 80 or "\n" in found:
        found = f"a {type(got).__name__}"
    return ValueError(f"{name}: expected {expected}, got {found}")


def require(fits, name, expected, got):
    """Raise what wrong returns unless the argument fits."""
    if not fits:
        raise wrong(name, expected, got)


def is_number(value, least):
    number = isinstance(value, (int, float, np.integer, np.floating))
    return number and not isinstance(value, bool) and least <= value < math.inf


def is_whole(value, least):
    return is_number(value, least) and isinstance(value, (int, np.integer))


def is_masked(value):
    """Tell whether a value is or contains a masked array, whose mask NumPy would drop."""
    return isinstance(value, np.ma.MaskedArray) or (
        isinstance(value, (list, tuple)) and any(map(is_masked, value)))


def as_array(name, value):
    if type(value) is np.ndarray:
        return value
    require(not is_masked(value), name, "an array without a mask", value)
    return np.asarray(value)


def check_network(sizes, activation, loss):
    """Return sizes as a tuple of int."""
    fits = len(sizes) > 1 and all(is_whole(d, 1) for d in sizes)
    require(fits, "sizes", "two or more positive integers", sizes)
    for name, value, known in ("activation", activation, ACTIVATIONS), ("loss", loss, LOSSES):
        require(value in tuple(known), name, " or ".join(known), value)
    fits = loss != "cross_entropy" or sizes[-1] > 1
    require(fits, "sizes", "two or more outputs for cross_entropy", sizes)
    return tuple(map(int, sizes))


def check_vector(name, vector, P):
    """Return theta or r as an array (..., P)."""
    vector = as_array(name, vector)
    if vector.dtype.char not in "fdFD" or vector.shape[-1:] != (P,):
        raise wrong(name, f"float32 or float64 of shape (..., {P})", vector)
    return vector


def check_direction(r, P, axes):
    """Return r as an array (..., P), and the leading axes of H r, given those of g."""
    r = check_vector("r", r, P)
    same = r.shape[:-1] in (axes, ())
    return r, axes if same else np.broadcast_shapes(r.shape[:-1], axes)


def check_inputs(model, theta, x):
    """Return theta and x as arrays that fit the model, x in theta's precision."""
    theta, x = check_vector("theta", theta, model.n_params), as_array("x", x)
    d_in = model.sizes[0]
    if x.dtype.kind not in "iuf" or x.ndim < 2 or x.shape[-1] != d_in or not x.size:
        raise wrong("x", f"real numbers of shape (..., n, {d_in}), no axis empty", x)
    return theta, x.astype(theta.real.dtype, copy=False)


def check_examples(model, theta, x, y):
    """Return theta, x and y as arrays that fit the model; labels stay integers."""
    theta, x = check_inputs(model, theta, x)
    y = as_array("y", y)
    shape, d_out, loss = x.shape[:-1], model.sizes[-1], model.loss_name
    if loss == "cross_entropy":
        if y.dtype.kind not in "iu" or y.shape != shape or y.min() < 0 or y.max() >= d_out:
            raise wrong("y", f"integer labels 0 to {d_out - 1} of shape {shape}, as x has it", y)
        return theta, x, y
    shape += (d_out + (loss == "policy"),)
    if y.dtype.kind not in "iuf" or y.shape != shape:
        raise wrong("y", f"real numbers of shape {shape}, as x has it", y)
    return theta, x, y.astype(x.dtype, copy=False)


class Checked:
    """A model whose answers are looked at, since those of another shape may broadcast unseen."""

    def __init__(self, model, by_task):
        self.model, self.by_task = model, by_task

    def linearize(self, theta, x, y):
        answer = self.model.linearize(theta, x, y)
        if not isinstance(answer, (tuple, list)) or len(answer) != 3:
            raise wrong("model.linearize", "to return loss, gradient and hvp", answer)
        loss, grad, hvp = answer
        axes = (len(x),) if self.by_task else np.shape(loss)
        if np.shape(loss) != axes:
            raise wrong("loss of model.linearize", f"an array {axes}, one number a task", loss)
        if not isinstance(grad, np.ndarray) or grad.shape != axes + theta.shape[-1:]:
            shape = f"{axes + theta.shape[-1:]}, the loss being {axes}"
            raise wrong("gradient of model.linearize", f"an array {shape}", grad)

        def checked_hvp(r):
            require(callable(hvp), "hvp of model.linearize", "a function", hvp)
            Hr = hvp(r)
            if not isinstance(Hr, np.ndarray) or Hr.shape != r.shape:
                raise wrong("hvp of model.linearize", f"to return an array {r.shape}, as r is", Hr)
            return Hr

        return loss, grad, checked_hvp


def check_inner(model, theta, alpha, steps, by_task=False):
    """Return the model checked, theta as an array, and alpha as rows (P,) or (1,), one a step."""
    theta = as_array("theta", theta)
    floats = theta.dtype.char in "fdFD" and theta.ndim and theta.size
    require(floats, "theta", "float32 or float64 of shape (..., P)", theta)
    require(is_whole(steps, 0), "steps", "a whole number >= 0", steps)
    P = theta.shape[-1]
    rates = as_array("alpha", alpha)
    fits = rates.shape in ((), (P,)) or rates.ndim == 2 and rates.size and rates.shape[1] in (1, P)
    largest = np.finfo(theta.dtype).max
    if rates.dtype.kind not in "iufc" or not fits or not (abs(rates) <= largest).all():
        shape = f"({P},), (steps, {P}) or (steps, 1)"
        raise wrong("alpha", f"a finite number or an array of them, of shape {shape}", rates)
    dtype = rates.dtype if rates.dtype.kind == "c" else theta.real.dtype
    rows = np.array(rates, dtype, ndmin=2)
    return Checked(model, by_task), theta, [rows[min(k, len(rows) - 1)] for k in range(steps)]


def check_tasks(theta, tasks, alpha, steps, first_order=False, wrt_alpha=False):
    """Return the four arrays of tasks, checked for what every model needs."""
    for name, flag in ("first_order", first_order), ("wrt_alpha", wrt_alpha):
        require(isinstance(flag, (bool, np.bool_)), name, "True or False", flag)
    require(theta.ndim == 1, "theta", "one vector (P,), shared by all tasks", theta)
    if np.ndim(alpha) == 2 and len(alpha) > max(steps, 1):
        raise wrong("alpha", f"no more rows than steps, {steps}", np.asarray(alpha))
    x_support, y_support, x_query, y_query = tasks            # Python says so if there are not four
    tasks = [as_array(name, a) for name, a in zip(TASKS, tasks)]
    for name, a in zip(TASKS, tasks):
        fits = a.ndim > 2 or a.ndim == 2 and name[0] == "y"
        if not fits or len(a) != len(tasks[0]) or not len(a):
            shape = "(tasks, n, d)" if name[0] == "x" else "(tasks, n, d_out) or (tasks, n)"
            raise wrong(name, f"shape {shape} and as many tasks as x_support, at least 1", a)
    return tasks


def check_step(adam, theta, grad, lr):
    """Return theta and grad as arrays of theta's dtype."""
    theta, grad = as_array("theta", theta), as_array("grad", grad)
    require(theta.dtype.char in "fd", "theta", "float32 or float64", theta)
    if grad.shape != theta.shape or grad.dtype.kind not in "iuf":
        raise wrong("grad", f"real numbers of theta's shape {theta.shape}", grad)
    if adam.t and adam.m.shape != theta.shape:
        raise wrong("theta", f"the shape {adam.m.shape} of this Adam's m and u", theta)
    require(is_number(lr, 0), "lr", "a finite number >= 0", lr)
    return theta, grad.astype(theta.dtype, copy=False)


def check_training(model, theta, alpha, steps, iterations, clip):
    """Return copies of theta and alpha, both in theta's precision."""
    _, theta, _ = check_inner(model, theta, alpha, steps)
    real = theta.dtype.char in "fd" and theta.ndim == 1 and np.isfinite(theta).all()
    require(real, "theta", "one vector (P,) of finite real numbers", theta)
    require(not np.iscomplexobj(alpha), "alpha", "real numbers", alpha)
    require(is_whole(iterations, 0), "iterations", "a whole number >= 0", iterations)
    require(clip is None or is_number(clip, 0) and clip > 0, "clip", "a number > 0 or None", clip)
    return theta.copy(), np.array(alpha, theta.dtype)


def check_outer(answer):
    """Return J, ∂J/∂θ and ∂J/∂α or None, from the answer of an outer gradient."""
    fits = isinstance(answer, (tuple, list)) and len(answer) in (2, 3) and answer[1] is not None
    require(fits, "gradient", "to return J, ∂J/∂θ and, to learn alpha, ∂J/∂α", answer)
    return answer if len(answer) == 3 else (*answer, None)


def check_progress(i, J, size, clip, tasks, dtype):
    """Raise what names the cause, unless J and the square of the gradient's size are finite."""
    if math.isfinite(J) and size < math.sqrt(np.finfo(dtype).max):
        return
    for name, a in zip(TASKS, tasks if isinstance(tasks, (tuple, list)) else ()):
        require(np.isfinite(a).all(), f"{name} of iteration {i}", "finite numbers", np.asarray(a))
    remedy = ", or clip the outer gradient (clip=10)" if clip is None else ""
    raise FloatingPointError(f"iteration {i}: meta-loss {J}, norm of its gradient {size}; "
                             f"lower alpha or lr{remedy}")
