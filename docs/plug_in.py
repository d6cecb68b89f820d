"""A model of JAX, PyTorch or Keras as a model of maml.py, by two nested derivatives.
`python docs/plug_in.py` checks one of each framework that is installed."""
import os
import sys
from importlib import metadata, util
from pathlib import Path
from types import SimpleNamespace

os.environ["OPENBLAS_NUM_THREADS"] = "1"
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))    # where maml.py is
from maml import check_model

def plug_in(losses, tensor, vjp):
    """Return the model of losses(thetas (tasks, P), x, y) -> (tasks,), where vjp is as in JAX."""
    def linearize(theta, x, y):
        def cast(a):
            a = np.asarray(a)
            return tensor(a if a.dtype.kind in "iu" else a.astype(theta.dtype))
        def loss_and_grad(thetas):
            loss, pull_back = vjp(lambda thetas: losses(thetas, x, y), thetas)
            return loss, pull_back(cast(np.ones(len(loss))))[0]   # each loss in its own theta
        def hvp(r):
            _, pull_back = vjp(lambda thetas: loss_and_grad(thetas)[1], thetas)
            return np.asarray(pull_back(cast(r))[0])            # rᵀ H, which is H r

        thetas, x, y = cast(theta + np.zeros((len(x), 1))), cast(x), cast(y)
        loss, grad = loss_and_grad(thetas)
        return np.asarray(loss), np.asarray(grad), hvp
    return SimpleNamespace(linearize=linearize)

def from_jax(loss):
    """Return the model of loss(theta, x, y), which is that of one task."""
    import jax
    jax.config.update("jax_enable_x64", True)                   # or float64 becomes float32
    return plug_in(jax.jit(jax.vmap(loss)), jax.numpy.array, jax.vjp)

def from_torch(net, loss):
    """Return the model of an nn.Module without batch statistics, and of loss(outputs, y)."""
    import torch
    def task_loss(theta, x, y):
        parts = theta.split([p.numel() for p in net.parameters()])
        named = {name: part.view_as(p) for part, (name, p) in zip(parts, net.named_parameters())}
        return loss(torch.func.functional_call(net, named, x), y)
    return plug_in(torch.vmap(task_loss), torch.tensor, torch.func.vjp)

def from_keras(net, loss):
    """Return the model of a built net, of theta's precision, and of loss(y, outputs)."""
    import tensorflow as tf
    def task_loss(theta, x, y):
        tf.debugging.assert_type(theta, net.trainable_variables[0].dtype)   # Keras would cast
        parts = tf.split(theta, [np.prod(w.shape) for w in net.trainable_variables])
        parts = [tf.reshape(part, w.shape) for part, w in zip(parts, net.trainable_variables)]
        return tf.reduce_mean(loss(y, net.stateless_call(parts, net.non_trainable_variables, x)[0]))

    def vjp(F, theta):
        with tf.GradientTape() as tape:
            tape.watch(theta)
            value = F(theta)
        return value, lambda v: [tape.gradient(value, theta, v, unconnected_gradients="zero")]
    return plug_in(lambda *tasks: tf.stack(list(map(task_loss, *tasks))), tf.constant, vjp)

def example(package, dtype):
    """Return the mean square of tanh(x W + b) - y as a model, for five inputs and one output."""
    if package == "jax":
        from jax.numpy import tanh
        return from_jax(lambda theta, x, y: ((tanh(x @ theta[:5, None] + theta[5]) - y)**2).mean())
    if package == "torch":
        from torch import nn
        return from_torch(nn.Sequential(nn.Linear(5, 1), nn.Tanh()), nn.functional.mse_loss)
    import keras
    dense = keras.layers.Dense(1, "tanh", dtype=dtype)
    net = keras.Sequential([keras.Input((5,), dtype=dtype), dense])
    return from_keras(net, keras.losses.mean_squared_error)

if __name__ == "__main__":
    rng = np.random.default_rng(0)
    theta, x, y = (rng.standard_normal(shape) for shape in (6, (4, 9, 5), (4, 9, 1)))
    for package in filter(util.find_spec, ["jax", "torch", "tensorflow"]):
        of_grad, of_Hr = check_model(example(package, "float64"), theta, x, y)
        double = example(package, "float64").linearize(theta, x, y)[1]
        single = example(package, "float32").linearize(np.float32(theta), x, y)[1]
        print(f"{package + ' ' + metadata.version(package):20}gradient {of_grad:.0e}, H r "
              f"{of_Hr:.0e}; {single.dtype} {abs(single - double).max():.0e} from {double.dtype}")
