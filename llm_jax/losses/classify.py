"""Cross-entropy over the classes of whole texts, arXiv:1810.04805, section 4.1."""

from collections.abc import Sequence
from typing import Annotated

import jax
import jax.numpy as jnp

from llm_jax.options import NotNegative, checked, within
from llm_jax.types import Array, BadInput, Batch, Mean, Metrics, Model, Params

READS = ('tokens', 'mask', 'target')
HEAD = 'classes'


@checked()
def loss_fn(
  params: Params,
  batch: Batch,
  rng: Array,
  *,
  model: Model,
  label_smoothing: Annotated[float, within(0.0, 1.0)] = 0.0,
  weights: Sequence[NotNegative] = (),
) -> tuple[Mean, Metrics]:
  """-log p(class), in nats, averaged over the tokens whose `mask` is 1: the last of each text.

  Args:
    params: of the model.
    batch: `tokens`, `mask`, `target` [..., L], optionally `position`, `segment`. A row may hold
      several texts, and whatever else is to be classified token by token.
    rng: unused.
    model: a Transformer with a head of classes, causal or not.
    label_smoothing: share of the target that is spread over all classes evenly
      (arXiv:1512.00567, section 7).
    weights: of the classes, where some are rare or matter more; by default all weigh 1. The mean
      is over weights.

  Raises:
    BadInput: an option is wrong, or there is not a weight for each class.
  """
  del rng
  names = model.shape.classes
  if weights and len(weights) != len(names):
    raise BadInput(f'loss: {len(weights)} weights for the {len(names)} classes {names}')
  logp_LC = jax.nn.log_softmax(logits(model, params, batch))
  target_L = batch['target']
  gold_L = jnp.take_along_axis(logp_LC, target_L[..., None], axis=-1)[..., 0]
  loss_L = -(1 - label_smoothing) * gold_L - label_smoothing * logp_LC.mean(-1)
  weight_L = batch['mask'] * (jnp.asarray(weights)[target_L] if weights else 1)
  hit_L = logp_LC.argmax(-1) == target_L
  return Mean.of(loss_L, weight_L), {'accuracy': Mean.of(hit_L, batch['mask'])}


def logits(model: Model, params: Params, batch: Batch) -> Array:
  """Logits of the classes at each token, float32 [..., L, C]; rows and groups are flattened."""
  shape = batch['tokens'].shape
  flat = {
    k: batch[k].reshape(-1, shape[-1]) for k in ('tokens', 'position', 'segment') if k in batch
  }
  found_BLC, _ = model.apply(params, flat['tokens'], flat.get('position'), flat.get('segment'))
  return found_BLC.reshape(*shape, -1)
