"""What a classifier is worth: counts of known answers, over batches and rows of padding."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.evals import classes, counts
from llm_jax.models.transformer import make
from llm_jax.parallel.mesh import make_mesh
from llm_jax.types import BadInput


class Said:
  """Ids are what it says: class id % 3, with much confidence."""

  def __init__(self, names):
    self.shape = SimpleNamespace(classes=names, head='classes')

  def apply(self, params, tokens, *place):
    return params * (tokens[..., None] % 3 == jnp.arange(len(self.shape.classes))), None


def rows_of(said, gold):
  """Rows of three ids; the middle one is no text's end."""
  pairs = zip(said.reshape(-1, 2), gold.reshape(-1, 2), strict=True)
  return [
    {
      'tokens': np.array([a, 0, b], np.int32),
      'segment': np.array([1, 2, 2], np.int32),
      'position': np.array([0, 0, 1], np.int32),
      'mask': np.array([1, 0, 1], np.float32),
      'target': np.array([x, 0, y], np.int32),
    }
    for (a, b), (x, y) in pairs
  ]


@pytest.mark.parametrize('number', [2, 3])
def test_the_numbers_are_those_of_all_answers(number):
  draw = np.random.default_rng(number)
  said, gold = draw.integers(0, number, (2, 22))
  mesh = make_mesh(data=2, fsdp=2)
  evaluate = classes.make(
    Said(('a', 'b', 'c')[:number]), None, rows=rows_of(said, gold), mesh=mesh, batch_size=8
  )
  found = {name: float(metric.value) for name, metric in evaluate(jnp.float32(5.0)).items()}
  assert found['texts'] == 22 and found['accuracy'] == pytest.approx((said == gold).mean())
  table = counts.table(said, gold, classes=number)
  assert found['mcc'] == pytest.approx(counts.matthews_of_classes(table))
  f1 = counts.f1(counts.confusion(said, gold)) if number == 2 else counts.macro_f1(table)
  assert found['f1'] == pytest.approx(f1)
  right = -np.log(np.exp(5) / (np.exp(5) + number - 1))
  assert found['loss'] == pytest.approx(right + 5 * (said != gold).mean(), rel=1e-5)


def test_a_model_of_language_is_refused():
  with pytest.raises(BadInput, match='this model has no classes; train one with configs/classify'):
    classes.check(make(vocab_size=8, dim=8, num_layers=1, num_heads=2))
