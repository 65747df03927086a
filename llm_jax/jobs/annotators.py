"""The annotators of a chain, built in their order."""

from collections.abc import Sequence
from typing import Any

from llm_jax.find import call
from llm_jax.jobs.chain import Part
from llm_jax.types import Annotate, Model, Tokenizer


def build(
  parts: Sequence[Part],
  model: Model,
  tokenizer: Tokenizer,
  mesh: Any,
  template: str | None,
  trust: Sequence[str] = (),
) -> list[Annotate]:
  """The parts of `chain` that are annotators, each with its options.

  Args:
    parts: those of other rooms are left out.
    model: the policy.
    tokenizer: of the policy.
    mesh: offered to those that ask for it.
    template: the chat template of the data; likewise.
    trust: modules of the user's that artifacts may name; likewise.

  Raises:
    BadInput: values that cannot work.
  """
  offered = {'mesh': mesh, 'template': template, 'trust': trust}
  return [
    call(part.function, part.group, model, tokenizer, where=part.where, offered=offered)
    for part in parts
    if part.room == 'annotate'
  ]
