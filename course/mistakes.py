"""What students get wrong, as edits of maml.py, by hand and automatic."""
import ast
import re
import textwrap
from pathlib import Path

SOURCE = (Path(__file__).resolve().parents[1] / "maml.py").read_text(encoding="utf-8")
NAMED = {   # name | what to find in the function => what to put there
    "adapt": "always g(θ_0), not g(θ_k), (1) | linearize(theta_k, => linearize(theta,",
    "meta_gradient": """
support and query set swapped | y_query = tasks => y_query = *tasks[2:], *tasks[:2]
the query set used as support set, (1) | y_query = tasks => y_query = *tasks[2:], *tasks[2:]
the support set used as query set, (2) (3) | y_query = tasks => y_query = *tasks[:2], *tasks[:2]
the Hessian of step k taken at θ_{k+1}, (3) | \
rates[k] * grad => rates[k] * grad; hvps[k] = model.linearize(theta_k, *tasks[:2])[2]
the Hessian of the query loss, (3) | \
_, grad, hvps[k] = => hvps[k] = model.linearize(theta_k, *tasks[2:])[2]; _, grad, _ =
first-order MAML, (3) | if not first_order => if False
the inner rate on the wrong side of H, (3) | hvps[k](rates[k] * v) => rates[k] * hvps[k](v)
the inner rate on both sides of H, (3) | hvps[k](rates[k] * v) => rates[k] * hvps[k](rates[k] * v)
the Hessian always at θ_{K−1}, (3) | hvps[k](rates => hvps[steps - 1](rates
the Hessians in reverse order, (3) | hvps[k](rates => hvps[steps - 1 - k](rates
v_k in place of v_{k+1}, (5) | \
(grads[k] * v) => (grads[k] * (v if first_order else v - hvps[k](rates[k] * v)))
(5) with a product of means | (grads[k] * v).mean(0) => grads[k].mean(0) * v.mean(0)
(5) in reverse order | unbroadcast(grad_rates, => unbroadcast(grad_rates[::-1],""",
    "reptile_gradient": """
the query set used as support set, (6) | y_query = tasks => y_query = *tasks[2:], *tasks[2:]
(6) at K = 0: θ_K is (P,) | np.broadcast_to(theta - theta_K, grad.shape) => theta - theta_K""",
    "mse": """
no 2 in δ and R{δ}, (7) (7R) | 2 / count * error => error / count | 2 / count * Rf => Rf / count
y is constant, so R{y} is 0, (7R) | count * Rf => count * (Rf - y)""",
    "cross_entropy": """
log p of all classes, (8) | np.where(onehot, log_p, 0) => log_p
(8R) with only its diagonal, p (1 − p) | (Rf - (p * Rf).sum(-1, keepdims=True)) => (1 - p) * Rf
δ in place of p, (8R) | p * (Rf - (p * Rf) => (p - onehot) * (Rf - ((p - onehot) * Rf)""",
    "policy": """
no advantage, (9) (9R) | y[..., -1:] => 1
(9) with the advantage in the first column | [..., :-1], y[..., -1:] => [..., 1:], y[..., :1]
a mean over outputs too, (9) (9R) | \
error / f.shape[-2] => error / f[0].size | Rf / f.shape[-2] => Rf / f[0].size""",
    "_forward": """
no σ, (10) | append_column(a, 1) => append_column(A[-1] @ M_l, 1)
σ after the last layer too, (10) | A[-1] @ M[-1] => sigma(A[-1] @ M[-1])[0]
σ′ taken at a_{l+1}, not at z_l | append(slope_l) => append(sigma(a)[1])""",
    "linearize": """
1 − a_l² whatever σ is, (12) | = e_l * slope[l - 1] => = e_l * (1 - A[l][..., :-1]**2)
the bias averaged, (11) | return loss, grad, hvp => \
[np.divide(g[..., -1:, :], x.shape[-2], g[..., -1:, :]) for g in grad_M]; return loss, grad, hvp""",
    "hvp": """
the Gauss-Newton product, (11R) (12R) | \
stack(delta[l], Rdelta) => stack(0 * delta[l], Rdelta) | delta[l] @ transpose(RW[l]) => 0 | \
Rdelta += bend => Rdelta += 0 * bend
W_l and R{W_l} swapped, (12R) | Rdelta @ transpose(W => Rdelta @ transpose(RW | \
+ delta[l] @ transpose(RW => + delta[l] @ transpose(W
σ′ in the term of σ″ too, (12R) | Rdelta += bend => Rdelta += slope[l - 1] * bend""",
    "step": """
no corrections by 1 − β₁ᵗ and 1 − β₂ᵗ, (13) | \
self.m / (1 - self.beta1**self.t) => self.m | self.u / (1 - self.beta2**self.t) => self.u
m̂ and û are kept, (13) | return => self.m, self.u = m_hat, u_hat; return
t is always 1 in β₁ᵗ and β₂ᵗ, (13) | beta1**self.t) => beta1) | beta2**self.t) => beta2)
ε inside the root, (13) | np.sqrt(u_hat) + self.eps => np.sqrt(u_hat + self.eps)
√u before its correction, (13) | np.sqrt(u_hat) => np.sqrt(self.u) / (1 - self.beta2**self.t)
β₁ = 0.9, not self.beta1, (13) | self.t += 1 => self.t += 1; self.beta1 = 0.9
β₂ = 0.999, not self.beta2, (13) | self.t += 1 => self.t += 1; self.beta2 = 0.999""",
}
PLAIN = "np.matmul(transpose(stack(RA[l], A[l])), stack(delta[l], Rdelta), out=Hr_M[l]) => \
Hr_M[l][...] = transpose(RA[l]) @ delta[l] + transpose(A[l]) @ Rdelta"   # as students write it
SLIPS = (   # what is likely to stand in the place of what
    (r" \+ ", " - "), (r" - ", " + "), (r" \* ", " / "), (r" / ", " * "), (r" @ ", " * "),
    (r"\.sum\(", ".mean("), (r"\.mean\(", ".sum("), (r"\.mean\(0\)", ""), (r"\.real", ""),
    (r"transpose|np\.sqrt", ""), (r", \w+\)", ")"), (r"(?<=[ (=])-(?=\w)", ""), ("not ", ""),
    ("> 0", ">= 0"), ("is not", "is"), (r" \+= ", " = "), (r" \+= ", " -= "),
    (r"\[(\w)\]", r"[\1 - 1]"), (r"\[(\w)\]", r"[\1 + 1]"), (r"\[(\w) - 1\]", r"[\1]"),
    (r"\[\w\]", "[0]"), (r"\[\w\]", "[-1]"), ("-1", "-2"), ("-2", "-1"), (":-1", "1:"),
    (r"\b2\b", "1"), (r"\b2\b", "3"), (r"\b1\b", "0"), (r"\b0\b", "1"), (r"\b1\b", "2"),
    (r"in (.*):$", r"in list(\1)[1:]:"), (r"in (.*):$", r"in list(\1)[:-1]:"),
    (r"in (.*):$", r"in list(\1)[::-1]:"), (r"in (.*):$", r"in list(\1)[:1]:"))
OPERAND = (r"(?<![\w.'])(?!(?:np|model|lambda|return|for|in|if|not|is|None|True|raise)\b|self\._)"
           r"(?:self\.(?!_))?[A-Za-z]\w*(?:\[[^][]*\])?(?![\w('=[])")


def function_of(name, tree):
    """Return the function of that name; for hvp linearize."""
    name = "linearize" if name == "hvp" else name
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
    return next((node for node in functions if node.name == name), None)


def joined(outer, inner):
    """Return a linearize with the hvp of another."""
    hvp = {node.name: node for node in inner.body if isinstance(node, ast.FunctionDef)}
    if "hvp" not in hvp:
        raise NameError("no hvp in linearize")
    outer.body = [hvp["hvp"] if getattr(node, "name", "") == "hvp" else node for node in outer.body]
    return outer


def edits(name):
    """Yield names of mistakes, and the function with each."""
    function = function_of(name, ast.parse(SOURCE))
    text = textwrap.dedent(ast.get_source_segment(SOURCE, function, padded=True))
    for line in NAMED.get(name, "").strip().splitlines():
        label, *pairs = line.split(" | ")
        yield label, edited(text, pairs)
    yield from automatic(name, edited(text, [PLAIN] if name == "hvp" else []))


def edited(text, pairs):
    for find, put in (pair.split(" => ") for pair in pairs):
        assert text.count(find) == 1, f"{find} stands {text.count(find)} times"
        text = text.replace(find, put)
    return text


def automatic(name, text):
    """Yield the edits of one line: slips, then one operand for another."""
    lines = text.split("\n")
    scope = text.partition("def hvp")[0] if name == "linearize" else text
    first = scope[:max(scope.rfind('"""'), 0)].count("\n") + 1   # behind the docstring
    codes = {i: line.partition("#")[0].strip() for i, line in enumerate(scope.split("\n"))
             if i >= first and "raise" not in line and line.partition("#")[0].strip()}
    operands = sorted(set(re.findall(OPERAND, "\n".join(codes.values()))))
    for change in slips, exchanges:
        for i, code in reversed(codes.items()):
            above = lines[i - 1] if lines[i - 1].strip().startswith("#") else ""
            numbers = re.findall(r"\([1-9]\d?R?\)", above + lines[i].partition("#")[2])
            for new in change(code, operands):
                words = f"were without `{code}`" if new == "pass" else f"read `{new}`"
                if new != code and not re.search(r"(\w+)\.append\(\1\)", new):   # no end to it
                    changed = [*lines[:i], lines[i].partition(code)[0] + new, *lines[i + 1:]]
                    yield f"as if {' '.join(numbers) or name} {words}", "\n".join(changed)


def slips(code, operands):
    """Yield what is likely in the place of a line."""
    for node in ast.walk(ast.parse(code + " pass" if code.endswith(":") else code)):
        if isinstance(node, ast.BinOp):
            left, right = (f"({ast.unparse(side)})" if isinstance(side, ast.BinOp)
                           else ast.unparse(side) for side in (node.left, node.right))
            for new in left, right, "-" + right:
                yield code[:node.col_offset] + new + code[node.end_col_offset:]
    for find, put in SLIPS:
        if not code.startswith("for ") or find.startswith("in "):   # else it might not end
            for match in re.finditer(find, code):
                yield code[:match.start()] + match.expand(put) + code[match.end():]
    if not code.endswith(":") and not code.startswith("return "):
        yield "pass"


def exchanges(code, operands):
    """Yield a line with one operand in the place of another."""
    start = code.find(" = ")
    for match in re.finditer(OPERAND, code):
        if match.start() > start and not code.startswith("for "):
            for other in operands:
                yield code[:match.start()] + other + code[match.end():]
