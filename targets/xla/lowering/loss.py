"""Classification losses."""

from __future__ import annotations

from typing import Any

from targets.xla.lowering.call import Call
from targets.xla.lowering.registry import lowers


@lowers("NegativeLogLikelihoodLoss", since=12)
def negative_log_likelihood(call: Call, x: Any, target: Any, weight: Any = None) -> Any:
    """Return -x[n, target, ...] weighted; x is [N, C, ...], target [N, ...]."""
    import jax.numpy as jnp

    target = jnp.asarray(target)
    ignored = target == call.integer("ignore_index") if call.has("ignore_index") else jnp.zeros(target.shape, bool)
    index = jnp.where(ignored, 0, target)
    index = jnp.where(index < 0, index + x.shape[1], index)
    loss = -jnp.squeeze(jnp.take_along_axis(x, jnp.expand_dims(index, 1), axis=1), 1)
    weights = jnp.ones(target.shape, x.dtype) if weight is None else jnp.take(weight, index)
    weights = jnp.where(ignored, 0, weights).astype(x.dtype)
    loss = loss * weights
    reduction = call.text("reduction", "mean")
    if reduction == "none":
        return loss
    return jnp.sum(loss) if reduction == "sum" else jnp.sum(loss) / jnp.sum(weights)


@lowers("SoftmaxCrossEntropyLoss", since=12)
def softmax_cross_entropy(call: Call, scores: Any, labels: Any, weight: Any = None) -> Any:
    """Return the loss, and the log-probabilities where wanted."""
    import jax

    log_probabilities = jax.nn.log_softmax(scores, axis=1)
    loss = negative_log_likelihood(call, log_probabilities, labels, weight)
    return (loss, log_probabilities) if call.output_count > 1 else loss
