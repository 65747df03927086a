"""Answers of the policy itself, sampled with the parameters that are being trained."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from llm_jax.annotate import stats
from llm_jax.losses.logprobs import score
from llm_jax.options import Count, MinP, NotNegative, Positive, TopP, at_least, checked
from llm_jax.parallel.mesh import shard_batch
from llm_jax.sampling import pick
from llm_jax.sampling.calls import Tools
from llm_jax.sampling.complete import spoken
from llm_jax.sampling.rollouts import Rollouts
from llm_jax.sampling.sampler import Sampler
from llm_jax.text import chat
from llm_jax.tools import make_tools
from llm_jax.types import JUDGES, Array, BadInput, Batch, Model, Params, Tokenizer

READS = ('prompt', 'prompt_mask')
WRITES = lambda o: (
  *('tokens', 'mask', 'position', 'segment', 'sampled_logp'),
  *(('old_logp',) if o['rescore'] else ()),
  *('log/length', 'log/eos_rate', 'log/truncated', 'log/repetition'),
  *(('log/tool_calls', 'log/tool_errors') if o['tools'] else ()),
)
PERIODS = range(1, 9)  # lengths of the loops that count as repetition


@checked(where='annotate.sample')
def make(
  model: Model,
  tokenizer: Tokenizer,
  *,
  mesh: Any,
  template: str | None,
  group: Count = 1,
  max_new: Count = 64,
  temperature: NotNegative = 1.0,
  top_k: Count | None = None,
  top_p: TopP | None = None,
  min_p: MinP | None = None,
  repetition_penalty: Positive | None = None,
  stop_strings: Sequence[str] = (),
  rescore: bool = False,
  tools: Mapping[str, Mapping[str, Any]] | None = None,
  max_calls: Count = 2,
  max_result: Annotated[int, at_least(3)] = 64,
  engine: bool = False,
  slots: Count = 32,
) -> 'Sample':
  """Writes rows [B, G, L] from `prompt`, `prompt_mask` [B, P], and what their sampler knew.

  `tokens`, `mask` (1 on what was sampled, the stop token included; 0 on prompts and on what tools
  said), `position`, `segment`, `sampled_logp` and, with `rescore`, `old_logp`. Logs, over answers:
  `length` in tokens, `eos_rate` (the share that ended with a stop id), `truncated` (that ran out of
  `max_new`), `repetition` (of tokens, the share inside of a loop such as "the the the") and, with
  tools, `tool_calls` and `tool_errors` an answer.

  Args:
    model: the policy.
    tokenizer: of the policy.
    mesh: where rows live.
    template: the chat template of the prompts, whose end of turn ends an answer; None for text.
    group: G answers to each prompt; they share its prefill.
    max_new: most tokens that are sampled for an answer.
    temperature, top_k, top_p, min_p, repetition_penalty: see `pick.make`. All but the temperature
      change what is sampled and not what is trained, so a loss has to correct for them.
    stop_strings: texts that end an answer too.
    rescore: also compute `old_logp` as the trainer does, one more forward pass. Needed where
      several updates are made from one rollout, and by kl_reward. Otherwise the first update is the
      only one, and the loss takes its own log-probabilities.
    tools: name -> options of the files of tools/ that the policy may call.
    max_calls: of an answer.
    max_result: tokens of a result, its two control tokens included.
    engine: whether rows that end make room for others (`sampling/engine.py`), which pays where
      answers are of uneven length and more than `slots`. The answers are the same.
    slots: answers that are written at a time, with `engine`.

  Raises:
    BadInput: a value out of range, an unknown tool, a model that cannot answer, or tools with
      `engine`.
  """
  if not model.shape.causal or model.shape.head in JUDGES:
    raise BadInput('annotate.sample: only a causal language model can answer')
  if engine and tools:
    raise BadInput('annotate.sample: engine=True answers no calls of tools; leave one of them out')
  rules: Any = dict(
    temperature=temperature,
    top_k=top_k,
    top_p=top_p,
    min_p=min_p,
    repetition_penalty=repetition_penalty,
  )
  choose = pick.make(**rules, allowed_V=spoken(model, tokenizer))
  stop = [*tokenizer.stop_ids, *(chat.stop_ids(tokenizer, template) if template else ())]
  known = None
  if tools:
    by_name = make_tools(tools, where='annotate.sample.tools')
    known = Tools(by_name, max_calls, max_result)
  same: Any = dict(max_new=max_new, stop=stop, stop_strings=stop_strings, group=group, mesh=mesh)
  if engine:
    sampler = Rollouts(model, tokenizer, how=rules, rows=slots, **same)
  else:
    sampler = Sampler(model, tokenizer, pick=choose, tools=known, **same)
  return Sample(model, sampler, group, max_new, temperature if rescore else None, stop, mesh)


class Sample:
  """The annotator that `make` describes.

  Attributes:
    group: G.
  """

  def __init__(
    self,
    model: Model,
    sampler: Sampler | Rollouts,
    group: int,
    max_new: int,
    temperature: float | None,
    stop: Sequence[int],
    mesh: Any,
  ) -> None:
    self._sampler, self._mesh = sampler, mesh
    self.group = group
    stop_ids = jnp.asarray(stop)

    @jax.jit
    def arranged(batch: Batch, drawn: Batch, calls: Batch) -> Batch:
      """Rows [B * G, L] as [B, G, L], and what is logged about them."""
      fields = ('tokens', 'mask', 'position', 'segment', 'sampled_logp')
      rows = {k: drawn[k].reshape(-1, group, drawn[k].shape[-1]) for k in fields}
      mask_BGL = rows['mask'] > 0
      some_BG, length_BG = mask_BGL.any(-1), mask_BGL.sum(-1)
      end_BGL = stats.last(mask_BGL) & (rows['tokens'][..., None] == stop_ids).any(-1)
      ended_BG = end_BGL.any(-1)
      logs = stats.logged(
        {**batch, **rows},
        length=stats.mean(length_BG, some_BG),
        eos_rate=stats.mean(ended_BG, some_BG),
        truncated=stats.mean(~ended_BG & (length_BG == max_new), some_BG),
        repetition=stats.mean(repeated(rows['tokens'], mask_BGL), mask_BGL),
        **{k: stats.mean(x_BG, some_BG) for k, x_BG in calls.items()},
      )
      return {**batch, **rows, **logs}

    self._arranged = arranged
    # The same function of the same shapes as in annotate/reference, so that where the policy is the
    # reference the two agree bit by bit.
    rescored = lambda params, batch: score(model, params, batch, temperature=temperature or 1.0)
    self._rescored = None if temperature is None else jax.jit(rescored)

  def rows(self, prompt_length: int) -> tuple[int, int]:
    """G and L of the rows that are written to prompts of so many columns."""
    return self.group, prompt_length + self._sampler.slots

  def __call__(self, params: Params, batch: Batch, rng: Array) -> Batch:
    stats.need(batch, 'sample', 'prompt', 'prompt_mask')
    drawn = self._sampler(params, batch['prompt'], batch['prompt_mask'], rng)
    calls = {}
    if self._sampler.calls is not None:
      made, failed = (x.reshape(-1, self.group) for x in self._sampler.calls)
      calls = shard_batch({'tool_calls': made, 'tool_errors': failed}, self._mesh)
    out = dict(self._arranged(batch, drawn, calls))
    if self._rescored is not None:
      read = {k: out[k] for k in ('tokens', 'position', 'segment', 'prompt')}
      out['old_logp'] = self._rescored(params, read)
    return out


def repeated(tokens_BGL: Array, mask_BGL: Array) -> Array:
  """Which tokens end three in a row that are each the token so many places before; [B, G, L]."""
  found = jnp.zeros_like(mask_BGL)
  for period in PERIODS:
    before = lambda x, by: jnp.pad(x[..., :-by], ((0, 0), (0, 0), (by, 0)))
    if period + 2 >= tokens_BGL.shape[-1]:
      break
    same = (tokens_BGL == before(tokens_BGL, period)) & mask_BGL & before(mask_BGL, period)
    found |= same & before(same, 1) & before(same, 2)
  return found
