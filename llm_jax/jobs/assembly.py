"""What a run is made of once its data is there: tokenizer, rows, annotators and evaluation."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from llm_jax.find import call
from llm_jax.jobs import annotators, chain, evaluations
from llm_jax.jobs.design import Design, check_loss
from llm_jax.jobs.evaluations import Evaluation
from llm_jax.jobs.start import Start, find_tokenizer
from llm_jax.sampling import complete
from llm_jax.text import chat
from llm_jax.text.jinja_template import JinjaTemplate
from llm_jax.types import JUDGES, Annotate, BadInput, Params, Samples, Tokenizer

Row = Mapping[str, np.ndarray]


class Assembly(NamedTuple):
  """The parts of a run, built and checked before anything is compiled.

  Attributes:
    design: what the config alone decides.
    tokenizer: of everything that is read.
    template: name of the chat template of the rows, or None; see `Artifact.template`.
    rows: of training.
    held_out: of evaluation.
    annotate: the annotators, in their order.
    rows_shape: of `tokens` in a row, [G, L] or [L]; None where only the annotator that samples
      could say, and does not.
    attention: the backend that computes it.
    evaluations: key -> what is run, and the steps between two times.
    complete: (params) -> continuations of `config.sample.prompts`; None where nothing is asked.
  """

  design: Design
  tokenizer: Tokenizer
  template: str | None
  rows: Sequence[Row]
  held_out: Sequence[Row]
  annotate: Sequence[Annotate]
  rows_shape: tuple[int, ...] | None
  attention: str
  evaluations: Mapping[str, Evaluation]
  complete: Callable[[Params], list[str]] | None


def assemble(config: Any, made: Design, begins: Start) -> Assembly:
  """Reads the data and builds what works on it.

  Raises:
    BadInput: parts that do not fit together.
  """
  tokenizer = find_tokenizer(begins, made.parts)
  shape = made.model.shape
  if shape.vocab_size < tokenizer.vocab_size:
    raise BadInput(
      f"model: vocab_size {shape.vocab_size} is smaller than the tokenizer's "
      f'{tokenizer.vocab_size}; set config.model.vocab_size={tokenizer.vocab_size}'
    )
  template = _template(config, tokenizer)
  rows, held_out = (
    chain.read_rows(made.parts, tokenizer, split) for split in ('train', 'validation')
  )
  chain.check_fields(made.parts, row=rows[0])
  check_loss(made, config, rows[0])
  annotate = annotators.build(made.parts, made.model, tokenizer, made.mesh, template, begins.trust)
  rows_shape = _rows_shape(made, rows[0], annotate)
  longest = rows_shape[-1] if rows_shape else 0
  if longest > shape.max_length:
    raise BadInput(
      f'model: rows of {longest} tokens are longer than config.model.max_length '
      f'{shape.max_length}; raise it, or make shorter rows'
    )
  speaks = config.sample.prompts and shape.causal and shape.head not in JUDGES
  return Assembly(
    design=made,
    tokenizer=tokenizer,
    template=template,
    rows=rows,
    held_out=held_out,
    annotate=annotate,
    rows_shape=rows_shape,
    attention=made.model.backend(longest or 1),  # refuses what it cannot do
    evaluations=evaluations.build(
      config.evals,
      made.model,
      tokenizer,
      mesh=made.mesh,
      template=template,
      trust=begins.trust,
      rows=lambda: held_out,
      every=config.eval_every,
      annotate=annotate,
      batch_size=config.batch_size,
      loss_fn=made.loss_fn,
      seed=config.seed,
    ),
    complete=call(
      complete.make,
      config.sample,
      made.model,
      tokenizer,
      where='sample',
      seed=config.seed,
      template=template,
    )
    if speaks
    else None,
  )


def _template(config: Any, tokenizer: Tokenizer) -> str | None:
  """Name of the chat template; one in Jinja goes to the tokenizer, with its date."""
  name = config.data.get('template')
  found = name and chat.find_template(name, tokenizer, config.data.get('date', ''))
  if not isinstance(found, JinjaTemplate):
    return found
  tokenizer.chat_template = found.text
  return chat.FOLDER


def _rows_shape(made: Design, row: Row, annotate: Sequence[Annotate]) -> tuple[int, ...] | None:
  """Of `tokens` in a row: those of the data, or what is sampled for a prompt."""
  if 'tokens' in row:
    return np.shape(row['tokens'])
  for function in annotate:
    if isinstance(function, Samples):
      return function.rows(np.shape(row['prompt'])[-1])
  return None
