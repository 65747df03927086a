"""Text in, text out: prompts continued by a model, compiled once and usable at every evaluation."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from llm_jax import options
from llm_jax.find import call
from llm_jax.options import Count, Seed, options_of
from llm_jax.sampling import pick
from llm_jax.sampling.calls import Tools
from llm_jax.sampling.generate import left_pad
from llm_jax.sampling.sampler import Sampler
from llm_jax.text import calls, chat
from llm_jax.text.message import spelled
from llm_jax.types import JUDGES, BadInput, Model, Params, Tokenizer

MULTIPLE = 16  # prompts are padded to one of it, so that few lengths are compiled
Prompt = str | Sequence[Mapping[str, Any]]


def check(group: Mapping[str, Any]) -> None:
  """Whether a config group has only options of `make` and of `pick.make`, and what these may be.

  Raises:
    BadInput: naming the option.
  """
  known = options_of(make)
  own = {name: value for name, value in group.items() if name in known}
  how = {name: value for name, value in group.items() if name not in known}
  options.check(make, own, where='sample', supplied=('seed', 'tools'), offered=('prompts',))
  options.check(pick.make, how, where='sample', supplied=('allowed_V',))


def make(
  model: Model,
  tokenizer: Tokenizer,
  *,
  prompts: Sequence[Prompt],
  template: chat.ChatTemplate | None = None,
  max_new: Count = 64,
  batch_size: Count | None = None,
  seed: Seed = 0,
  stop_strings: Sequence[str] = (),
  tools: Tools | None = None,
  **how: Any,
) -> Callable[[Params], list[str]]:
  """`complete(params) -> continuations`, one for each prompt, without the prompt itself.

  Marks of thoughts and calls are spelled out in them (`llm_jax.text.message.spelled`).

  Args:
    model: a causal Transformer.
    tokenizer: of the model; a prompt follows its begin-of-text token, as documents do.
    prompts: texts, at least one; with a template also conversations, as lists of messages.
    template: a chat template (text/chat.py) that the prompts are put into, a text as what the user
      says, and whose end of turn ends the answer.
    max_new: most new tokens; an end-of-text token ends a row earlier.
    batch_size: prompts at a time, all padded to the longest; by default all of them.
    seed: of the sampling.
    stop_strings: texts that end an answer.
    tools: what the model may call; a conversation lists them in its system message. Of a result
      the answer shows nothing.
    **how: `temperature`, `top_k` and the others of `pick.make`.

  Raises:
    BadInput: prompt and answer do not fit into the model, or there is no prompt.
  """
  template = template and chat.find_template(template, tokenizer)
  names = [*tools.by_name] if tools and template else []
  ids = [encoded(tokenizer, prompt, template, names) for prompt in prompts]
  check_room(model, ids, max_new + (tools.slots if tools else 0))
  run = sampler(
    model, tokenizer, template, max_new=max_new, stop_strings=stop_strings, tools=tools, **how
  )

  def complete(params: Params) -> list[str]:
    found = sampled(run, params, ids, batch_size=batch_size, seed=seed)
    both = zip(found, ids, strict=True)
    return [spelled(tokenizer, said, after=prompt[-1]) for said, prompt in both]

  return complete


def check_speaks(model: Model, where: str) -> None:
  """Raises BadInput for a model that continues no text."""
  if not model.shape.causal:
    raise BadInput(f'{where}: this is a masked language model; it cannot answer')
  if kind := JUDGES.get(model.shape.head):
    raise BadInput(f'{where}: this is {kind}; it says nothing')


def check_room(model: Model, ids: Sequence[Sequence[int]], max_new: int) -> None:
  """Raises BadInput where prompts and answers, results included, are more than its positions."""
  longest = left_pad(ids, multiple=MULTIPLE)[0].shape[1]
  if longest + max_new > model.shape.max_length:
    raise BadInput(
      f'sample: prompts of {longest} tokens and max_new {max_new} exceed the '
      f'{model.shape.max_length} positions of the model; lower max_new or shorten the prompts'
    )


def sampler(
  model: Model,
  tokenizer: Tokenizer,
  template: chat.ChatTemplate | None,
  *,
  max_new: int,
  stop_strings: Sequence[str] = (),
  tools: Tools | None = None,
  group: int = 1,
  **how: Any,
) -> Sampler:
  """What continues prompts of `encoded`; its arguments are those of `make` and of `Sampler`."""
  choose = call(pick.make, how, where='sample', offered={'allowed_V': spoken(model, tokenizer)})
  return Sampler(
    model,
    tokenizer,
    max_new=max_new,
    stop=stop_ids(tokenizer, template),
    pick=choose,
    stop_strings=stop_strings,
    tools=tools,
    group=group,
  )


def stop_ids(tokenizer: Tokenizer, template: chat.ChatTemplate | None) -> tuple[int, ...]:
  """Ids that end an answer, or a document."""
  return tuple({*tokenizer.stop_ids, *(chat.stop_ids(tokenizer, template) if template else ())})


def sampled(
  run: Sampler,
  params: Params,
  ids: Sequence[Sequence[int]],
  *,
  batch_size: int | None = None,
  seed: int = 0,
) -> list[np.ndarray]:
  """The ids that were said after each prompt, results of tools left out."""
  found = dict(batches(run, params, ids, batch_size=batch_size, seed=seed))
  return [found[i] for i in range(len(ids))]


def batches(
  run: Sampler,
  params: Params,
  ids: Sequence[Sequence[int]],
  *,
  batch_size: int | None = None,
  seed: int = 0,
  known: Collection[int] = (),
) -> Iterator[tuple[int, np.ndarray]]:
  """(number of a prompt, ids that were said after it), a batch after the other.

  A batch whose prompts are all `known` is left out; those of the others stay as they are.
  """
  if not ids:
    return
  prompt_BP, mask_BP = left_pad(ids, multiple=MULTIPLE)
  size = min(batch_size or len(ids), len(ids))
  for start in range(0, len(ids), size):
    numbers = range(start, min(start + size, len(ids)))
    if all(i in known for i in numbers):
      continue
    rows = np.arange(start, start + size) % len(ids)  # the last batch is filled with the first
    rng = jax.random.fold_in(jax.random.key(seed), start)
    out = run(params, prompt_BP[rows], mask_BP[rows], rng)
    tokens_BL, mask_BL = jax.device_get((out['tokens'], out['mask']))
    for i, tokens_L, mask_L in zip(numbers, tokens_BL, mask_BL, strict=False):
      yield i, tokens_L[mask_L > 0]


def spoken(model: Model, tokenizer: Tokenizer) -> np.ndarray | None:
  """bool [V]: which ids stand for something, for a model may have more rows than words; or None."""
  if model.shape.vocab_size == tokenizer.vocab_size and not tokenizer.gaps:
    return None
  allowed_V = np.arange(model.shape.vocab_size) < tokenizer.vocab_size
  allowed_V[list(tokenizer.gaps)] = False
  return allowed_V


def encoded(
  tokenizer: Tokenizer,
  prompt: Prompt,
  template: chat.ChatTemplate | None,
  tools: Sequence[str] = (),
) -> list[int]:
  """Ids of a text that is continued; with a template, of a conversation that is answered.

  Args:
    tokenizer: of the model.
    prompt: the text or the conversation.
    template: of the model.
    tools: that the conversation lists.
  """
  if template is None:
    if not isinstance(prompt, str):
      raise BadInput('sample: a conversation as a prompt needs a chat template')
    # A model needs something to go on from: after the end of a document another one begins.
    return [*tokenizer.begin, *tokenizer.encode(prompt)] or [tokenizer.eos_id]
  messages = [{'role': 'user', 'content': prompt}] if isinstance(prompt, str) else prompt
  messages = calls.led(messages, tools)
  ids, _ = chat.encode(tokenizer, chat.pieces(messages, template=template, answer=True))
  return ids
