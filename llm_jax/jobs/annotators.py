"""The annotators of a config, built in their order; what two of them share is said once."""

from typing import Any

from llm_jax.find import call, find, preset
from llm_jax.types import Annotate


def build(
  config: Any, model: Any, tokenizer: Any, mesh: Any, template: str | None
) -> list[Annotate]:
  """`config.annotate.steps`, each with its group of options.

  Args:
    config: `annotate` has `steps`, and a group for each of them that has options.
    model: the policy.
    tokenizer: of the policy.
    mesh: offered to those that ask for it.
    template: the chat template of the data; likewise.

  Raises:
    BadInput: an unknown annotator or option, or values that cannot work.
  """
  return [
    call(
      find('annotate', step).make,
      group(config, step),
      model,
      tokenizer,
      where=f'annotate.{step}',
      offered={'mesh': mesh, 'template': template},
    )
    for step in config.annotate.steps
  ]


def group(config: Any, step: str) -> dict[str, Any]:
  """The keyword arguments of an annotator, its preset unfolded."""
  options = preset(find('annotate', step), config.annotate.get(step, {}), where=f'annotate.{step}')
  sampled = config.annotate.get('sample', {})
  if step == 'score_rules' and 'max_new' in sampled:
    options = {'max_new': sampled['max_new']} | options
  return options
