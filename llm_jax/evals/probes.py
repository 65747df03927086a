"""A model asked one question several times: what it says, how sure it is, whether it knows.

Each question gets one greedy answer, with its log-probability, and several drawn ones. A verdict
wants most of them right, since one noisy sample decides nothing.
"""

import dataclasses
import functools
import hashlib
import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.evals.abstention import Outcome
from llm_jax.rewards import honest, word_overlap
from llm_jax.sampling import complete
from llm_jax.sampling.calls import Tools
from llm_jax.sampling.generate import left_pad
from llm_jax.sampling.sampler import Sampler
from llm_jax.text import chat
from llm_jax.text.message import spelled
from llm_jax.types import Batch, Model, Params, Tokenizer

Verdict = Literal['known', 'shaky', 'unknown', 'noise', 'refused']
_MOST = 0.75  # of the samples are right where a question is known
_AGREE = 0.3  # the words that samples share where they tell one story


class Said(NamedTuple):
  """What was said to one question.

  Attributes:
    greedy: the likeliest answer, token by token.
    logp: its mean log-probability a token, in nats.
    samples: drawn ones.
  """

  greedy: str
  logp: float
  samples: tuple[str, ...]


# (params, questions, numbers of those that are known already) -> (number, what was said)
Ask = Callable[[Params, Sequence[Mapping[str, Any]], Collection[int]], Iterator[tuple[int, Said]]]


def asker(
  model: Model,
  tokenizer: Tokenizer,
  *,
  template: str | None,
  samples: int,
  max_new: int,
  temperature: float,
  batch_size: int,
  seed: int,
  system: str = '',
  tools: Tools | None = None,
) -> Ask:
  """A function that asks questions, a batch after the other.

  What is drawn for a question depends on its prompt and the seed, and not on its neighbours. A
  batch whose questions are all known is left out.

  Args:
    model: a causal language model.
    tokenizer: of the model.
    template: the chat template; None for a model that was taught none.
    samples: answers that are drawn beside the greedy one.
    max_new: most tokens of an answer.
    temperature: of what is drawn.
    batch_size: questions at a time.
    seed: of what is drawn.
    system: a message of the system before each question; '' for none.
    tools: what the model may call; a message of the system lists them.
  """
  found = chat.find_template(template or 'plain', tokenizer)
  make = functools.partial(complete.sampler, model, tokenizer, found, max_new=max_new, tools=tools)
  names, room = ([*tools.by_name], max_new + tools.slots) if tools else ([], max_new)
  greedy = make(temperature=0.0)
  drawn = make(temperature=temperature, group=samples) if samples else None

  def ask(
    params: Params, questions: Sequence[Mapping[str, Any]], known: Collection[int] = ()
  ) -> Iterator[tuple[int, Said]]:
    before = [{'role': 'system', 'content': system}] if system else []
    prompts = [[*before, *question['prompt']] for question in questions]
    ids = [complete.encoded(tokenizer, prompt, found, names) for prompt in prompts]
    complete.check_room(model, ids, room)
    prompt_BP, mask_BP = left_pad(ids, multiple=complete.MULTIPLE)
    keys_B = _keys([str(prompt) for prompt in prompts], seed)
    size = min(batch_size, len(ids))
    for start in range(0, len(ids), size):
      numbers = range(start, min(start + size, len(ids)))
      if all(i in known for i in numbers):
        continue
      rows = np.arange(start, start + size) % len(ids)  # the last batch is filled with the first
      given = prompt_BP[rows], mask_BP[rows], keys_B[rows]
      firsts = _answers(greedy, params, given, tokenizer, ids, rows)
      others = _answers(drawn, params, given, tokenizer, ids, rows) if drawn else [[]] * size
      for i, [(text, logp)], more in zip(numbers, firsts, others, strict=False):
        yield i, Said(text, logp, tuple(text for text, _ in more))

  return ask


def _answers(
  sampler: Sampler,
  params: Params,
  given: tuple[Any, ...],
  tokenizer: Tokenizer,
  ids: Sequence[Sequence[int]],
  rows: np.ndarray,
) -> list[list[tuple[str, float]]]:
  """Of each prompt its answers, and their mean log-probabilities."""
  out: Batch = sampler(params, *given)
  tokens_RL, mask_RL, logp_RL = jax.device_get((out['tokens'], out['mask'], out['old_logp']))
  real_RL, group = mask_RL > 0, len(tokens_RL) // len(rows)
  mean = lambda values: float(values.mean()) if len(values) else -math.inf
  both = [
    (spelled(tokenizer, tokens_RL[r][real_RL[r]], after=ids[rows[r // group]][-1]),
     mean(logp_RL[r][real_RL[r]]))
    for r in range(len(tokens_RL))
  ]  # fmt: skip
  return [both[i * group : (i + 1) * group] for i in range(len(rows))]


def _keys(texts: Sequence[str], seed: int) -> jax.Array:
  """A random key for each text."""
  number = lambda text: int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], 'big')
  folded = jnp.asarray([number(text) for text in texts], jnp.uint32)
  return jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(folded)


@dataclasses.dataclass(frozen=True)
class Probe:
  """What a model made of one question.

  Attributes:
    outcome: of the greedy answer: 'right', 'wrong', 'refused', or 'failed' if it cannot be judged.
    right: samples that are right.
    agreement: how many words two samples share, on average; nan for fewer than two.
    verdict: 'known', 'shaky', 'unknown' (it tells one wrong story), 'noise' (it tells many), or
      'refused'.
  """

  outcome: Outcome
  right: int
  agreement: float
  verdict: Verdict


def judged(said: Said, gold: str, also: Sequence[str] = ()) -> Probe:
  """The outcome of the answers to a question, by `rewards.honest`, which knows `also`.

  >>> tree = 'It deletes a directory tree.'
  >>> judged(Said(tree, -0.1, (tree, tree, tree, 'No.')), gold=tree).verdict
  'known'
  >>> judged(Said(tree, -0.1, (tree, tree, tree, 'No.')), gold='').verdict
  'unknown'
  """
  try:
    first = honest.outcome(said.greedy, gold, also)
    others = [honest.outcome(text, gold, also) for text in said.samples]
  except Exception:  # a gold answer that is no text, for one
    return Probe('failed', 0, math.nan, 'shaky')
  agreement = agreement_of(said.samples)
  right = others.count('right')
  return Probe(first, right, agreement, _verdict(first, others, agreement))


def _verdict(first: str, others: Sequence[str], agreement: float) -> Verdict:
  right, most = others.count('right'), _MOST * len(others)
  if first == 'right' and right >= most:
    return 'known'
  if right or first == 'right':
    return 'shaky'
  if first == 'refused' and others.count('refused') >= most:
    return 'refused'
  return 'noise' if agreement < _AGREE else 'unknown'


def agreement_of(texts: Sequence[str]) -> float:
  """The mean overlap of words of two of the texts; nan for fewer than two.

  >>> agreement_of(['It adds.', 'It adds.', 'No.'])
  0.3333333333333333
  """
  pairs = [word_overlap.reward(a, b) for a, b in itertools.combinations(texts, 2)]
  return sum(pairs) / len(pairs) if pairs else math.nan
