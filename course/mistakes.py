"""The classic mistakes in what maml.py derives: what each one looks like, and its name.

explain(wrong) turns a Wrong of the proof into one line that leads to the line that is wrong. It
computes once more, plainly, what was asked for, with one line at a time as students get it wrong:

    line(right, {"the name of a mistake": what it makes of this line, ...})

So a mistake is added in one place, at the line that it spoils. An answer that equals a mistake's in
every number gets its name. One that equals none is placed: off by which factor, in which layer, in
which numbers. Every quantity has a gallery of its own, so no mistake is named that cannot be in the
code which computes it.
"""
from functools import partial

import numpy as np

from maml import ACTIVATIONS, LOSSES, MLP, append_column, sum_shared, transpose
from test_maml import by_step, error

RIGHT = "no mistake"


def gallery(compute):
    """Return {mistake: compute(line)} for every mistake that a line of compute offers, and none."""
    names = {RIGHT: None}

    def collect(right, mistakes):
        names.update(mistakes)
        return right

    with np.errstate(all="ignore"):
        compute(collect)
        return {name: compute(lambda right, mistakes: mistakes.get(name, right)) for name in names}


def correct(right, mistakes):
    return right


# ----------------------------------------------------------------------------- the loss, (7) to (9)

def mse_or_policy(name, f, y, Rf, line):
    """Return L, δ and R{δ}."""
    n, d_out = f.shape[-2:]
    target, advantage, size = y, np.ones((n, 1)), n * d_out / 2
    if name == "policy":
        target, last, size = y[..., :-1], y[..., -1:], n
        target, advantage = line((target, last), {
            "the advantage is the last column of y, not the first": (y[..., 1:], y[..., :1]),
            "no advantage": (target, 1 + 0 * last),
            "the advantage without its sign": (target, abs(last)),
            "the square of the advantage": (target, last**2),
            "the advantage less its mean": (target, last - last.mean(-2, keepdims=True))})
    off = f - target
    square = line(off**2, {"absolute values, not squares": abs(off)})
    Rf = line(Rf, {"y is constant, so R{y} is 0": Rf - target, "δ in place of R{δ}": off})
    L = (advantage * square).sum((-2, -1)) / size / 2
    return L, advantage * off / size, advantage * Rf / size


def over(a, axis=-1):
    return a.sum(axis, keepdims=True)


def cross_entropy(f, y, Rf, line):
    """Return L, δ and R{δ}."""
    n, n_classes = f.shape[-2:]
    largest, onehot = f.max(-1, keepdims=True), np.eye(n_classes)[y]
    f = f - largest
    p = np.exp(f)
    p = p / line(over(p), {"softmax over the examples, not over the classes": over(p, -2)})
    log_p = over(onehot * np.log(p))
    log_p = line(log_p, {
        "no log of the sum of exp": over(onehot * f), "log p of all classes": over(np.log(p)),
        "the largest logit subtracted in exp, but not from f[y]": log_p + largest})
    delta = line(p - onehot, {"no onehot(y) in δ": p, "1 subtracted for all classes": p - 1,
                              "the derivative in p, not in f": -onehot / p})
    across = over(p * Rf)
    Rp = line(p * (Rf - across), {
        "only the diagonal of the softmax's Hessian, p (1 − p)": p * (1 - p) * Rf,
        "no sum over classes in (8R)": p * Rf, "no p in front of the sum in (8R)": p * Rf - across,
        "no p in the sum of (8R)": p * (Rf - over(Rf)),
        "a plus in front of the sum in (8R)": p * (Rf + across),
        "a mean over classes in (8R), not a sum": p * (Rf - across / n_classes),
        "a sum over examples in (8R), not over classes": p * (Rf - over(p * Rf, -2)),
        "p − onehot(y) in place of p in (8R)": delta * (Rf - over(delta * Rf)),
        "δ in place of p in (8R): changed in place?": delta / n * (Rf - over(delta / n * Rf)),
        "y is constant, so R{onehot(y)} is 0": p * (Rf - across) - onehot,
        "δ in place of R{δ}": delta})
    return -log_p.sum((-2, -1)) / n, delta / n, Rp / n


def loss_gallery(part, name, f, y, direction=None, **_):
    loss = cross_entropy if name == "cross_entropy" else partial(mse_or_policy, name)
    Rf = 0 * f if direction is None else direction
    return gallery(lambda line: loss(f, y, Rf, line)[part])


# -------------------------------------------------------------------------- the model, (10) to (12)

def sigma(name, z):
    """Return σ(z), σ′(z) and σ″(z)."""
    return [0 * z if a is None else a for a in ACTIVATIONS[name](z)]


def sigma_gallery(part, name, z, direction=1, **_):
    a, slope, curvature = values = sigma(name, z)
    mistakes = {"relu": (
        {"the absolute value": abs(z)}, {"σ′(0) is 0 here, not 1": 1.0 * (z.real >= 0)}, {}
    ), "tanh": (
        {}, {"1 − z² in place of 1 − tanh(z)²": 1 - z * z,
             "σ′ taken at tanh(z), not at z": 1 - np.tanh(a)**2},
        {"no σ′(z) in −2 tanh(z) σ′(z)": -2 * a, "no tanh(z) in −2 tanh(z) σ′(z)": -2 * slope,
         "z in place of tanh(z) in −2 tanh(z) σ′(z)": -2 * z * slope,
         "None stands for a σ″ of 0": 0 * z})}[name][part]
    other = {"relu": "tanh", "tanh": "relu"}[name]
    mistakes[f"{other} in place of {name}"] = sigma(other, z)[part]
    mistakes.update({f"σ{marks}(z) in its place": value
                     for marks, value in zip(("", "′", "″"), values) if value is not values[part]})
    return gallery(lambda line: direction * line(values[part], mistakes))


def passes(spec, theta, x, y):
    """Return f, and the lists of M_l, A_l, z_l, [σ, σ′, σ″] at z_l, δ_l and e_l."""
    model = MLP(*spec)
    M = model._matrices(theta)
    f, A, slope, _ = model._forward(M, x)
    delta, e = model._backward(M, A, slope, LOSSES[spec[2]](f, y)[1])[1:]
    z = [A_l @ M_l for A_l, M_l in zip(A, M)]
    return f, M, A, z, [sigma(spec[1], z_l) for z_l in z], delta, e


def pass_gallery(what, spec, theta, x, y, l=-1, direction=None, **_):
    """Return what mistakes make of f, g, H r, or entry l of a list that a pass returns."""
    f, M, A, z, at, delta, e = passes(spec, theta, x, y)
    if what[0] == "σ":
        return sigma_gallery(what.count("′") + 2 * what.count("″"), spec[1], z[l])
    if what == "g":
        return gallery(lambda line: packed([
            with_bias(A_l, line, "(11)") @ delta_l for A_l, delta_l in zip(A, delta)], line))
    if what == "H r":
        RM, delta_along = MLP(*spec)._matrices(direction), LOSSES[spec[2]](f, y)[2]
        return gallery(lambda line: product(f, M, A, z, at, delta, e, RM, delta_along, line))
    a, W = A[l][..., :-1], M[l][..., :-1, :]
    if what == "f":
        right, mistakes = f, {"σ after the last layer too, (10)": at[-1][0],
                              "no bias in the last layer, (10)": a @ W}
    elif what[0] == "A":
        right, mistakes = A[l], {
            "[a_l 0] in place of [a_l 1]": append_column(a, 0),
            "[1 a_l] in place of [a_l 1]": np.roll(A[l], 1, axis=-1),
            "no σ: [z_{l−1} 1] in place of [a_l 1]": append_column([x, *z][l], 1)}
    elif what[0] == "e":
        right, mistakes = e[l], {
            "δ_{l−1} in its place: changed in place?": delta[l - 1],
            "W_l reshaped, not transposed, (12)": delta[l] @ W.reshape(transpose(W).shape),
            "the first row of M_l taken for the bias, (12)":
                delta[l] @ transpose(M[l][..., 1:, :])}
    else:
        value, back = at[l][0], [*e, delta[-1]][l + 1]   # behind the last layer stands the loss
        right, mistakes = delta[l], {
            "no σ′, (12)": back, "σ″ in place of σ′, (12)": back * at[l][2],
            "1 − a_l² whatever σ is, (12)": back * (1 - value**2),
            "σ′ taken at a_{l+1}, not at z_l, (12)": back * sigma(spec[1], value)[1]}
    return gallery(lambda line: line(right, mistakes))


def with_bias(A_l, line, equation):
    """Return A_lᵀ, whose row of ones sums what it multiplies over the examples."""
    return transpose(line(A_l, {f"the bias averaged over the examples, not summed, {equation}":
                                append_column(A_l[..., :-1], 1 / A_l.shape[-2])}))


def packed(blocks, line):
    """Return blocks, shaped as the M_l are, in one vector, as θ holds them."""
    blocks = line(blocks, {
        "the layers from the last to the first": blocks[::-1],
        "the bias before the weights": [np.roll(block, 1, axis=-2) for block in blocks],
        "every ∂L/∂M_l transposed": [transpose(block) for block in blocks]})
    return np.concatenate([block.reshape(*block.shape[:-2], -1) for block in blocks], axis=-1)


def product(f, M, A, z, at, delta, e, RM, delta_along, line):
    """Return H r."""
    def term(name, value):
        return line(value, {f"no {name}": 0 * value, f"a minus in front of {name}": -value,
                            f"half of {name}": value / 2, f"twice {name}": 2 * value})

    RA, Rz, blocks = [0 * A[0]], [], []
    for l, (_, slope, curvature) in enumerate(at):
        ARM = line(A[l] @ RM[l], {
            "no bias of r in A_l R{M_l}, (10R)": A[l][..., :-1] @ RM[l][..., :-1, :],
            "no A_l R{M_l} for l > 0, (10R)": (l == 0) * A[l] @ RM[l]})
        RAM = line(RA[l] @ M[l], {
            "no R{A_l} M_l in the last layer, (10R)": (l < len(M) - 1) * RA[l] @ M[l]})
        Rz.append(term("R{A_l} M_l in (10R)", RAM) + term("A_l R{M_l} in (10R)", ARM))
        Ra = Rz[l] * line(slope, {"no σ′ in R{a_{l+1}}, (10R)": 1,
                                  "σ″ in place of σ′ in R{a_{l+1}}, (10R)": curvature})
        RA.append(append_column(Ra, line(0, {"[R{a_l} 1] in place of [R{a_l} 0], (10R)": 1})))
    Rf = line(Rz[-1], {"f in place of R{f}, (10R)": f, "σ′ in R{f} too, (10R)": Ra})
    Rdelta = line(delta_along(Rf), {"δ_last in place of R{δ_last}": delta[-1]})
    exact = line(1, {"the Gauss-Newton product: no terms with δ_l and e_l, (11R) (12R)": 0})
    for l in reversed(range(len(M))):
        RAd = line(transpose(RA[l]) @ delta[l], {
            "R{δ_l} in place of δ_l behind R{A_l}ᵀ, (11R)": transpose(RA[l]) @ Rdelta})
        ARd = line(with_bias(A[l], line, "(11R)") @ Rdelta, {
            "δ_l in place of R{δ_l} behind A_lᵀ, (11R)": transpose(A[l]) @ delta[l]})
        RAd, ARd = term("R{A_l}ᵀ δ_l in (11R)", RAd), term("A_lᵀ R{δ_l} in (11R)", ARd)
        blocks.insert(0, exact * RAd + ARd)
        if l == 0:
            return packed(blocks, line)
        W, RW = M[l][..., :-1, :], RM[l][..., :-1, :]
        W, RW = line((W, RW), {
            "W_l and R{W_l} swapped, (12R)": (RW, W), "the first row of M_l taken for the bias, "
            "(12R)": (M[l][..., 1:, :], RM[l][..., 1:, :])})
        dRW = line(delta[l] @ transpose(RW), {
            "R{δ_l} in place of δ_l in front of R{W_l}ᵀ, (12R)": Rdelta @ transpose(RW)})
        Re = term("R{δ_l} W_lᵀ in (12R)", Rdelta @ transpose(W))
        Re = Re + exact * term("δ_l R{W_l}ᵀ in (12R)", dRW)
        _, slope, curvature = at[l - 1]
        bent = e[l] * curvature * Rz[l - 1]
        bent = line(bent, {
            "σ′ in the term of σ″ too: δ_{l−1} for e_l, or R{a_l} for R{z_{l−1}}, (12R)":
                slope * bent,
            "R{e_l} in place of e_l in front of σ″, (12R)": Re * curvature * Rz[l - 1],
            "no e_l in front of σ″, (12R)": curvature * Rz[l - 1],
            "no R{z_{l−1}} behind σ″, (12R)": e[l] * curvature})
        Rdelta = Re * line(slope, {"no σ′ behind R{e_l}, (12R)": 1})
        Rdelta = Rdelta + exact * term("e_l ∘ σ″ ∘ R{z_{l−1}} in (12R)", bent)


# ------------------------------------------------------------------------ the algorithm, (1) to (6)

def steps_of(alpha, K, line, equations):
    """Return the rates of all inner steps, (P,) or (1,) each."""
    K = line(K, {"an inner step too few": max(K - 1, 0), "an inner step too many": K + 1,
                 "one inner step only, whatever steps is": min(K, 1)})
    return misread(by_step(alpha, K), line, equations)


def misread(rates, line, equations):
    return line(rates, {
        f"the first rate in every step, {equations}": rates[:1] * len(rates),
        f"the last rate in every step, {equations}": rates[-1:] * len(rates),
        f"the rates from the last step to the first, {equations}": rates[::-1],
        f"α_{{k+1}} in place of α_k, {equations}": rates[1:] + rates[-1:],
        f"α_{{k−1}} in place of α_k, {equations}": rates[-1:] + rates[:-1]})


def inner_path(model, theta, support, rates, line=correct):
    """Return θ_0, ..., θ_K."""
    path = [line(theta, {"θ.real in place of θ": theta.real})]
    for alpha_k in rates:
        at = line(path[-1], {"always g(θ_0), not g(θ_k), (1)": path[0]})
        g = model.linearize(at, *support)[1]
        g = line(g, {"g averaged over the tasks, (1)": g.mean(0), "g.real, (1)": g.real})
        step = line(alpha_k * g, {"a plus for the minus, (1)": -alpha_k * g, "no α_k, (1)": g})
        start = line(path[-1], {"every step starts from θ, not from θ_k, (1)": path[0]})
        path.append(start - step)
    return path


def carried(model, theta, support, rates):
    """Return the θ_0 of every task, if each starts where the task before it ended."""
    starts = [theta]
    for x, y in zip(*support):
        starts.append(inner_path(model, starts[-1], (x, y), rates)[-1])
    return {"θ carried over from task to task": np.array(starts[:-1])}


def overwritten(model, path, support):
    """Return hvp of every step, if one array holds θ_k and is changed in place."""
    theta_k, products = np.zeros_like(path[-1]), []
    for value in path:
        theta_k[:] = value
        products.append(model.linearize(theta_k, *support)[2])
    return products


def plain_meta(model, theta, tasks, alpha, K, line=correct, line5=correct):
    """Return ∂J/∂θ and ∂J/∂α (K, P); line5 makes the mistakes in (5), line all the others."""
    support, query = tasks[:2], tasks[2:]
    support, query = line((support, query), {
        "the support set used as query set": (support, support),
        "the query set used as support set": (query, query),
        "support and query set swapped": (query, support)})
    rates = steps_of(alpha, K, line, "(1) and (3)")
    start = line(theta, carried(model, theta, support, rates))
    path = inner_path(model, start, support, misread(rates, line, "(1)"), line)
    _, g, H = zip(*(model.linearize(theta_k, *support) for theta_k in path))
    _, g_query, H_query = zip(*(model.linearize(theta_k, *query) for theta_k in path))
    H_late, K, rows = overwritten(model, path, support), len(rates), []
    v = v_K = line(g_query[K], {
        "the query gradient taken at θ, not at θ_K, (3)": g_query[0],
        "the query gradient taken at θ_{K−1}, not at θ_K, (3)": g_query[max(K - 1, 0)],
        "v_K averaged over the tasks before (3)": g_query[K].mean(0)})
    rates = misread(rates, line, "(3)")
    for k in reversed(range(K)):
        hvp, rate = line((H[k], rates[k]), {
            "the Hessian always taken at θ_0, (3)": (H[0], rates[k]),
            "always g(θ_0), not g(θ_k), (1)": (H[0], rates[k]),   # linearize returns both
            "the Hessian always taken at θ_{K−1}, (3): a function that keeps its variable?":
                (H[K - 1], rates[k]),
            "the Hessian of step k taken at θ_{k+1}, (3)": (H[k + 1], rates[k]),
            "the Hessians from the first step to the last, (3)": (H[K - 1 - k], rates[k]),
            "k from 0 up in (3), not from K − 1 down": (H[K - 1 - k], rates[K - 1 - k]),
            "step 0 in place of step k in (3)": (H[0], rates[0]),
            "step K − 1 in place of step k in (3)": (H[K - 1], rates[K - 1]),
            "step k − 1 in place of step k in (3)": (H[(k - 1) % K], rates[k - 1]),
            "the Hessian of the query loss, not of the support loss, (3)": (H_query[k], rates[k]),
            "the Hessian of the query loss at θ_K, (3)": (H_query[K], rates[k]),
            "θ_k changed in place before its product H r": (H_late[k], rates[k])})
        Hv = line(lambda: hvp(rate * v), {
            "first-order MAML: the Hessian term of (3) is missing": lambda: 0 * v,
            "step k = 0 left out on the way back, (3)": lambda: hvp(rate * v) * (k > 0),
            "step k = K − 1 left out on the way back, (3)": lambda: hvp(rate * v) * (k < K - 1),
            "no inner rate in front of v_{k+1}, (3)": lambda: hvp(v),
            "the inner rate on the wrong side of H, (3)": lambda: rate * hvp(v),
            "the inner rate on both sides of H, (3)": lambda: rate * hvp(rate * v),
            "H multiplied by v_K, not by v_{k+1}, (3)": lambda: hvp(rate * v_K)})()
        before = line(v - Hv, {
            "a plus in front of H, (3)": v + Hv, "no v_{k+1} in front of the minus, (3)": -Hv,
            "v_K in place of v_{k+1} in front of the minus, (3)": v_K - Hv,
            "half the term of H, (3)": v - Hv / 2, "twice the term of H, (3)": v - 2 * Hv})
        grad = line5(g[k], {"g_s taken at θ_{k+1}, (5)": g[k + 1],
                            "g_q in place of g_s, (5)": g_query[k], "α_k ∘ g_s, (5)": rate * g[k]})
        v = line5(v, {"v_k in place of v_{k+1}, (5)": before, "v_K in place of v_{k+1}, (5)": v_K})
        rows.insert(0, line5(-(grad * v).mean(0), {
            "the product of means over tasks, not the mean of products, (5)":
                -grad.mean(0) * v.mean(0)}))
        v = before
    rows = line5(rows, {"the steps from the last to the first, (5)": rows[::-1]})
    grad = line(v.mean(0), {f"only the {which} task counts, (4)": v[i] / len(v)
                            for which, i in (("first", 0), ("last", -1))})
    return grad, np.reshape(rows, (K, theta.size))


def adapt_gallery(model, theta, x, y, alpha, K, **_):
    return gallery(lambda line: inner_path(
        model, theta, (x, y), steps_of(alpha, K, line, "(1)"), line)[-1])


def meta_gallery(model, theta, tasks, alpha, K, **_):
    """Return what each mistake makes of ∂J/∂θ."""
    return gallery(lambda line: plain_meta(model, theta, tasks, alpha, K, line)[0])


def rates_gallery(model, theta, tasks, alpha, K, **_):
    """Return what each mistake makes of ∂J/∂α where ∂J/∂θ is right."""
    return gallery(lambda line: sum_shared(
        plain_meta(model, theta, tasks, alpha, K, correct, line)[1], alpha))


def J_gallery(model, theta, tasks, alpha, K, **_):
    path = inner_path(model, theta, tasks[:2], by_step(alpha, K + 1))
    L = [model.loss(theta_k, *tasks[2:]).mean() for theta_k in path]
    return gallery(lambda line: line(L[K], {
        "the support loss, not the query loss, (2)": model.loss(path[K], *tasks[:2]).mean(),
        "the query loss at θ, not at θ_K, (2)": L[0],
        "the query loss at θ_{K−1}, not at θ_K, (2)": L[max(K - 1, 0)],
        "the query loss after one more step, (2)": L[K + 1]}))


def reptile_gallery(model, theta, tasks, alpha, K, scale, **_):
    def compute(line):
        support = line(tasks[:2], {"the query set used as support set": tasks[2:]})
        rates = steps_of(alpha, K, line, "(1)")
        start = line(theta, {"θ.real in place of θ": theta.real,
                             **carried(model, theta, support, rates)})
        end = inner_path(model, start, support, rates)[-1]
        ends = np.broadcast_to(end, (len(tasks[0]), theta.size))
        mean = line(ends.mean(0), {"the sum of all θ_K, not their mean": ends.sum(0)})
        if K == 0:
            one = "at K = 0 θ_K is (P,), so its {} goes over the parameters"
            mean = line(mean, {one.format("sum"): end.sum() / len(ends),
                               one.format("mean"): end.mean()})
        return scale + line(theta - mean, {"θ_K, not θ − θ_K": mean, "θ_K − θ": mean - theta})
    return gallery(compute)


# --------------------------------------------------------------------------------------- Adam, (13)

def adam_gallery(grads, lr, settings, **_):
    """Return what mistakes make of the path of θ from 0."""
    def compute(line):
        b1, b2, eps = line(settings, {
            "β₁ = 0.9, not self.beta1": (0.9, *settings[1:]), "ε = 1e-8, not self.eps":
            (*settings[:2], 1e-8), "β₂ = 0.999, not self.beta2": (settings[0], 0.999, settings[2])})
        theta = m = u = 0 * grads[0]
        path = []
        for t, G in enumerate(grads, 1):
            keep, add = line((b1, 1 - b1), {
                "no 1 − β₁ in front of G": (b1, 1), "β₁ and 1 − β₁ swapped": (1 - b1, b1),
                "m is not kept from step to step": (0, 1 - b1), "β₁ and β₂ swapped": (b2, 1 - b2)})
            m = keep * m + add * G
            keep, add = line((b2, 1 - b2), {
                "no 1 − β₂ in front of G ∘ G": (b2, 1), "β₂ and 1 − β₂ swapped": (1 - b2, b2),
                "u is not kept from step to step": (0, 1 - b2), "β₁ and β₂ swapped": (b1, 1 - b1),
                "β₁ in place of β₂ in u": (b1, 1 - b1), "β₁ u in place of β₂ u": (b1, 1 - b2),
                "1 − β₁ in place of 1 − β₂ in u": (b2, 1 - b1)})
            u = keep * u + add * line(G * G, {"G in place of G ∘ G": abs(G),
                                              "m ∘ m in place of G ∘ G": m * m})
            c1, c2 = 1 - b1**t, 1 - b2**t
            c1, c2 = line((c1, c2), {
                "no corrections by 1 − β₁ᵗ and 1 − β₂ᵗ": (1, 1), "β₁ and β₂ swapped": (c2, c1),
                "no correction of m by 1 − β₁ᵗ": (1, c2), "no correction of u by 1 − β₂ᵗ": (c1, 1),
                "β₁ᵗ in place of β₂ᵗ in û": (c1, c1), "β₂ᵗ in place of β₁ᵗ in m̂": (c2, c2),
                "t is always 1 in β₁ᵗ and β₂ᵗ": (1 - b1, 1 - b2),
                "t is one too large in β₁ᵗ and β₂ᵗ": (1 - b1**(t + 1), 1 - b2**(t + 1))})
            m_hat, u_hat, root = m / c1, u / c2, np.sqrt(u / c2)
            step = line(m_hat / (root + eps), {
                "no root of û": m_hat / (u_hat + eps), "no ε": m_hat / root,
                "ε inside the root": m_hat / np.sqrt(u_hat + eps),
                "the root of u before its correction": m_hat / (np.sqrt(u) / c2 + eps),
                "ε added to √u, not to √û": m_hat / (np.sqrt(u) + eps) * np.sqrt(c2),
                "ε added to the quotient, not to √û": m_hat / root - eps / lr,
                "not divided by √û + ε": m_hat, "a plus in front of lr": -m_hat / (root + eps)})
            m, u = line((m, u), {"m̂ and û are kept, not m and u": (m_hat, u_hat)})
            theta = theta - lr * step
            path.append(theta)
        return np.array(path)
    return gallery(compute)


GALLERIES = {
    "θ_K": adapt_gallery, "∂J/∂θ": meta_gallery, "J": J_gallery, "∂J/∂α": rates_gallery,
    "Reptile's direction": reptile_gallery, "J of Reptile": J_gallery,
    **{f"θ after step {t} of Adam": adam_gallery for t in range(1, 5)},
    **{what: partial(pass_gallery, what) for what in (
        "f", "A_l as returned", "σ′(z_l) as returned", "σ″(z_l) as returned", "g",
        "δ_l as returned", "e_l as returned", "H r")},
    **{f"{what} of {name}": partial(loss_gallery, part)
       for part, what in enumerate(("L", "δ", "R{δ}")) for name in LOSSES},
    **{f"{what} of {name}": partial(sigma_gallery, part)
       for part, what in enumerate(("σ(z)", "σ′(z)", "σ″(z)")) for name in ACTIVATIONS}}


# -------------------------------------------------------------------------------------- what is off

DERIVATIVE_OF = {"δ": "L", "R{δ}": "δ", "σ′(z)": "σ(z)", "σ″(z)": "σ′(z)", "g": "L", "H r": "g",
                 "∂J/∂θ": "J", "∂J/∂α": "J"}
HINTS = {   # words of a message, and what to add
    ("±1000",): "subtract the largest logit of each example before exp; a p of 0 has no log",
    ("group",): "groups differ in size: add up sums over tasks, divide once by the number of all",
    ("one more axis",): "count axes from the end", (" and x (",): "count axes from the end",
    ("of first order",): "with first_order=True every v_k is v_K",
    ("H r", "off in every layer"): "(12R) leaves the last layer right: see (10R) and (11R)"}


def explain(wrong):
    """Return one line on a Wrong of the proof: what, where, and the mistake or what is off."""
    case, what = wrong.case, wrong.what
    if "spec" in case:
        what += " of {}, {}, {}".format("-".join(map(str, case["spec"][0])), *case["spec"][1:])
    if "settings" in case:
        what += " with β₁ = {}, β₂ = {}, ε = {}".format(*case["settings"])
    what += case.get("where", "")
    with np.errstate(all="ignore"):
        told = f"{what}: {diagnosis(wrong)}"
    hints = (hint for words, hint in HINTS.items() if all(word in told for word in words))
    return told + "".join(f"; {hint}" for hint in hints)


def diagnosis(wrong):
    what, expected, case = wrong.what, np.asarray(wrong.expected), wrong.case
    if wrong.found is None:
        return "nothing is returned"
    known = what in GALLERIES and case.keys() - {"where"}
    answers = GALLERIES[what](**case) if known else {}
    right, d, found = answers.get(RIGHT, expected), case.get("direction"), np.asarray(wrong.found)
    whole = np.asarray(case.get("whole", case.get("path", found)))
    names = [name for name, value in answers.items()
             if agree(whole, value) and not agree(value, right)]
    if names:
        return ", or ".join(names)
    if d is not None and (agree(whole, right) or what.startswith("J of complex")):
        return complex_step(DERIVATIVE_OF.get(what.split(" of ")[0]), found, expected)
    rest = tuple(range(expected.ndim, np.ndim(d)))   # the axes that a product with d sums over
    if "whole" in case and (d is None or agree((right * d).sum(rest), expected)):
        found, expected = whole, right
    if what == "θ_K" and found.shape == expected.shape:
        return "θ_K − θ is " + off(found - case["theta"], expected - case["theta"], case)
    start = case.get("scale", 0)
    return off(found - start, expected - start, case)


def agree(a, b):
    return np.shape(a) == np.shape(b) and error(a, b) < 1e-9


def complex_step(primal, found, expected):
    """Say what is wrong with the function whose complex step gave what was expected."""
    words = "is wrong here, or for complex numbers: abs, a norm or a conjugate in it?"
    if not np.any(expected):
        words = "has no imaginary part: .real, abs, a norm or a real array in it?"
    elif error(found, expected) < 1e-4:
        words = "is not exact: float32 or a finite difference in it?"
    return f"right, but {primal}, of which it is the derivative, {words}" if primal else words


def off(found, expected, case):
    """Say what is off, and by what."""
    if found.shape != expected.shape:
        return f"expected shape {expected.shape}, got {found.shape}" + reshaped(
            found.shape, expected.shape, case)
    parts = [("", found, expected)]
    if "model" in case and found.shape[-1:] == (case["model"].n_params,):
        parts = list(blocks(case["model"], found, expected))
    empty = [name for name, f, _ in parts if not np.isfinite(f).all()]
    if empty:
        return "not finite, or not filled in" + ": " * any(empty) + ", ".join(empty)
    if np.iscomplexobj(expected) and agree(found.real, expected.real):
        return "right but for the imaginary part: .real, abs, a conjugate or a real array in it?"
    if not found.any():
        return "all zeros"
    size, factor = error(found, expected), factor_of(found, expected)
    if size < 1e-4:
        return (f"nearly right, but off by {size:.0e} of the largest value: float32, a finite "
                "difference, or a small number added?")
    plain = factor is not None and round(factor, 9) in (-1, 0.5, 2)
    if factor is not None and (found.size > 1 or plain or of_as_many(factor, case)):
        return f"{factor:.4g} times what it should be{of_as_many(factor, case)}"
    wrong = [f"{name} {by(f, e)}" for name, f, e in parts if not agree(f, e)]
    if len(wrong) < len(parts):
        return "; ".join(wrong) + "; right elsewhere"
    if len(parts) > 1:
        return f"off in every layer, by up to {size:.0e} of the largest value"
    if found.size <= 4:
        return f"expected {np.array2string(expected, precision=4)}, got " + np.array2string(
            found, precision=4)
    distance = abs(found - expected)
    i = np.unravel_index(distance.argmax(), found.shape)
    place = f"z = {case['z'][i]:.4g}" if "z" in case else f"[{', '.join(map(str, i))}]"
    count = np.sum(distance > 1e-9 * abs(expected).max())
    return (f"{count} of {found.size} numbers are off, most at {place}: expected "
            f"{expected[i] + 0:.4g}, got {found[i] + 0:.4g}")


def blocks(model, *vectors):
    """Yield the name of each layer's weights and bias, and these parts of the vectors."""
    for l, layers in enumerate(zip(*map(model.unpack, vectors))):
        for name, *parts in zip(("weights", "bias"), *layers):
            yield (f"layer {l} {name}", *parts)


def factor_of(found, expected):
    """Return the number that found is times expected, or None."""
    factor = (np.sum(found * expected) / (np.sum(expected * expected) or 1)).real
    same = np.any(expected) and error(found, factor * expected) < 1e-9 * (abs(factor) or 1)
    return factor if same else None


def by(found, expected):
    factor = factor_of(found, expected)
    return f"off by {error(found, expected):.0e}" if factor is None else f"{factor:.4g} times"


def counts(case):
    """Return how many there are of what a sum or a mean may go over."""
    if "f" in case:
        *tasks, n, d_out = case["f"].shape
        return {"examples": n, "outputs": d_out, "numbers in f": n * d_out, "tasks": sum(tasks)}
    if "tasks" in case:
        tasks, P = len(case["tasks"][0]), case["theta"].size
        return {"tasks": tasks, "steps": case["K"], "parameters": P}
    return {"examples": case["x"].shape[-2], "tasks": len(case["x"])} if "x" in case else {}


def of_as_many(factor, case):
    """Return what there are as many of as the factor says, or as its inverse says."""
    number = counts(case)
    found = [f"{n} {what}" for what, n in number.items() if n > 2 and any(
        abs(times / n - 1) < 1e-9 for times in (abs(factor), 1 / (abs(factor) or 1)))]
    if "f" in case and abs(factor * number["tasks"] - number["examples"]) < 1e-9:
        return " (the number of tasks in place of n: the first axis is not the examples)"
    return f" (there are {', or '.join(found)})" if found else ""


def reshaped(found, expected, case):
    """Return what may have given one shape in place of another."""
    tasks = (counts(case).get("tasks"),)
    if case.get("K") == 0 and expected == case["theta"].shape:
        return ": without a step θ_K is theta, in its shape"
    if tasks + found == expected:
        return ", a row for each task" if found else ", one number for each task"
    if tasks + expected == found:
        return ": the mean over tasks is missing"
    return ": transposed?" if found[:-2] + found[:-3:-1] == expected else ""
