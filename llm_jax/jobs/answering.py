"""Artifacts that a job asks: their models can answer."""

from collections.abc import Collection, Mapping
from typing import Any

from llm_jax import artifact
from llm_jax.types import JUDGES, BadInput


def model_of(path: str, *, job: str, coming: Collection[str] = ()) -> Mapping[str, Any]:
  """The group `model` of an artifact that answers; an empty one while it is still to be made.

  Args:
    path: of the artifact.
    job: which asks.
    coming: folders of artifacts that are made before it starts.

  Raises:
    BadInput: there is no artifact, or its model cannot answer.
  """
  if path in coming:
    return {}
  model = artifact.describe(path)['model']
  if not model.get('causal', True):
    raise BadInput(f'{job}: {path!r} is a masked language model, it cannot answer')
  if kind := JUDGES.get(model.get('head', '')):
    raise BadInput(f'{job}: {path!r} is {kind}; it says nothing')
  return model
