"""Text in, text out: prompts continued by a model, compiled once and usable at every evaluation."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax

from llm_jax.find import call
from llm_jax.sampling import pick
from llm_jax.sampling.generate import generate, left_pad
from llm_jax.types import BadInput, Params


def make(
  model: Any,
  tokenizer: Any,
  *,
  prompts: Sequence[str],
  max_new: int = 64,
  seed: int = 0,
  **how: Any,
) -> Callable[[Params], list[str]]:
  """`complete(params) -> continuations`, one for each prompt, without the prompt itself.

  Args:
    model: a causal Transformer.
    tokenizer: of the model; a prompt follows its begin-of-text token, as documents do.
    prompts: texts, at least one.
    max_new: most new tokens; an end-of-text token ends a row earlier.
    seed: of the sampling.
    **how: `temperature`, `top_k`, `top_p` of `pick.make`.

  Raises:
    BadInput: prompt and answer do not fit into the model, or there is no prompt.
  """
  ids = [[tokenizer.bos_id, *tokenizer.encode(prompt)] for prompt in prompts]
  prompt_BP, mask_BP = left_pad(ids, multiple=16)
  if prompt_BP.shape[1] + max_new > model.shape.max_length:
    raise BadInput(
      f'sample: prompts of {prompt_BP.shape[1]} tokens and max_new {max_new} exceed the '
      f'{model.shape.max_length} positions of the model; lower max_new or shorten the prompts'
    )
  choose = call(pick.make, how, where='sample')
  stop = (tokenizer.eos_id,)
  run = jax.jit(functools.partial(generate, model=model, max_new=max_new, stop=stop, pick=choose))

  def complete(params: Params) -> list[str]:
    out = run(params, prompt_BP, mask_BP, jax.random.key(seed))
    tokens_BL, mask_BL = jax.device_get((out['tokens'], out['mask']))
    rows = zip(tokens_BL, mask_BL, strict=True)
    return [tokenizer.decode(tokens_L[mask_L > 0].tolist()) for tokens_L, mask_L in rows]

  return complete
