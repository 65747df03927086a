"""A trained model in the hand: what it says, and how likely it finds what others say.

    import llm_jax
    model = llm_jax.load('runs/tiny/dpo')
    model.generate(['What does `os.path.join` do?'], max_new=64, temperature=0.0)

What is compiled is kept: another call with prompts of a similar length and the same options of
sampling compiles nothing. Numbers are those of the jobs, which are made of the same functions.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from llm_jax import artifact, storage
from llm_jax.data import labelled
from llm_jax.losses import classify, reward
from llm_jax.losses.logprobs import score
from llm_jax.models import huggingface
from llm_jax.parallel.mesh import make_mesh
from llm_jax.parallel.parameters import shardings
from llm_jax.sampling import complete
from llm_jax.sampling.calls import Tools
from llm_jax.sampling.complete import Prompt
from llm_jax.sampling.request import Request
from llm_jax.sampling.turns import Turns
from llm_jax.text import chat, message
from llm_jax.text import folder as tokenizers
from llm_jax.text.chat import FOLDER
from llm_jax.text.jinja_template import dated
from llm_jax.text.visible import settled
from llm_jax.tools import listed, make_tools
from llm_jax.types import JUDGES, BadInput, Batch, Params, Tokenizer

MULTIPLE = 64  # texts that are scored are padded to one of it


class LoadedModel:
  """A model with its parameters, tokenizer and chat template; made by `load`.

  A prompt is a text, or a conversation: a list of messages such as
  {'role': 'user', 'content': 'Hi'}. A text is what the user says to a model with a template, and is
  continued by one without.

  Attributes:
    model: of `llm_jax.models`, without parameters.
    params: its parameters, on `mesh`.
    tokenizer: of the model.
    template: what `chat.pieces` writes a conversation with; None for a model of plain text.
  """

  def __init__(
    self, model: Any, params: Params, tokenizer: Tokenizer, template: str | None, mesh: Any
  ) -> None:
    self.model, self.params, self.tokenizer, self._mesh = model, params, tokenizer, mesh
    self.template = template and chat.find_template(template, tokenizer)
    self._samplers: dict[Any, Any] = {}
    self._turns: Turns | None = None  # whoever streams
    self._logp = jax.jit(lambda params, batch: score(model, params, batch))
    self._classes = jax.jit(lambda params, batch: classify.logits(model, params, batch))
    self._reward = jax.jit(lambda params, batch: reward.answer_scores(model, params, batch))

  def generate(
    self,
    prompts: Prompt | Sequence[Prompt],
    *,
    max_new: int = 64,
    seed: int = 0,
    batch_size: int | None = None,
    tools: Mapping[str, Mapping[str, Any]] | None = None,
    **how: Any,
  ) -> list[str]:
    """An answer to each prompt, or a continuation, with its thoughts and calls spelled out.

    Args:
      prompts: one, or several.
      max_new: most new tokens.
      seed: of the sampling; job `sample` with it says the same.
      batch_size: prompts at a time; by default all of them.
      tools: what the model may call: a file of tools/ -> its options, as in {'calculator': {}}.
        A model with a template is told of them; of results the answer shows nothing.
      **how: `temperature`, `top_k`, `top_p` and the others of `sampling.pick.make`, and
        `stop_strings`.

    Raises:
      BadInput: no prompt, an option that is wrong, or more tokens than the model has positions.
    """
    asked: list[Any] = [prompts] if _is_one(prompts) else list(prompts)
    if not asked:
      raise BadInput('generate: no prompts; give at least one text or conversation')
    ids, found = self._sampled(asked, max_new, seed, batch_size, how, tools)
    both = zip(found, ids, strict=True)
    return [message.spelled(self.tokenizer, said, after=prompt[-1]) for said, prompt in both]

  def chat(
    self,
    messages: Sequence[Mapping[str, Any]],
    *,
    max_new: int = 512,
    seed: int = 0,
    tools: Mapping[str, Mapping[str, Any]] | None = None,
    **how: Any,
  ) -> dict[str, Any]:
    """The next message of the assistant, whose content is a text, or parts where it also thinks.

    Append it to `messages`, and the conversation goes on. `tools` are those of `generate`.

    Raises:
      BadInput: the model has no template; and see `generate`.
    """
    if self.template is None:
      raise BadInput(
        'chat: this model was taught no conversation; use generate, or train it by sft'
      )
    ids, (said,) = self._sampled([messages], max_new, seed, None, how, tools)
    after = ids[0][-1]
    return message.message(self.tokenizer, said, template=self.template, after=after)

  def stream(
    self, prompt: Prompt, *, max_new: int = 512, seed: int = 0, **how: Any
  ) -> Iterator[str]:
    """The text of an answer as it is sampled, in pieces; whoever stops reading stops the sampling.

    Raises:
      BadInput: see `generate`.
    """
    (ids,) = asked = [complete.encoded(self.tokenizer, prompt, self.template)]
    self._check(max_new, asked, how)
    rng = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 0), 0)  # as of `complete`
    picked = {name: value for name, value in how.items() if value is not None}
    stop = complete.stop_ids(self.tokenizer, self.template)
    request = Request(
      prompt=ids, max_new=max_new, stop=stop, key=jax.random.key_data(rng).tolist(), **picked
    )
    if self._turns is None:
      self._turns = Turns(self.model, self.params, self.tokenizer, self._mesh)
    said: list[int] = []
    text = shown = ''
    for event in self._turns.answer(request):
      said += event.tokens
      text = message.spelled(self.tokenizer, said, after=ids[-1])
      whole = settled(text)  # half a character waits for its other half
      if len(whole) > len(shown):
        yield whole[len(shown) :]
        shown = whole
    if len(text) > len(shown):
      yield text[len(shown) :]

  def logprobs(self, texts: str | Sequence[str], *, batch_size: int = 16) -> list[np.ndarray]:
    """log p of every token of each text, in nats, after the begin of a document.

    Entry t is about `tokenizer.encode(text)[t]`. Where a tokenizer knows no begin, nothing predicts
    the first token, and its entry is 0.
    """
    begin, asked = self.tokenizer.begin, [texts] if isinstance(texts, str) else list(texts)
    if kind := JUDGES.get(self.model.shape.head):
      use = 'score' if kind == 'a reward model' else 'classify'
      raise BadInput(f'logprobs: this is {kind}; use {use}')
    rows = [[*begin, *self.tokenizer.encode(text)] for text in asked]
    return [logp_L[len(begin) :] for logp_L in self._read(self._logp, rows, batch_size)]

  def score(
    self, prompt: Prompt, answers: str | Sequence[str], *, batch_size: int = 16
  ) -> list[float]:
    """The log-probability of each answer to a prompt, in nats; of a reward model its reward.

    With a template the token that ends an answer is part of it, as in training.
    """
    if self.model.shape.head == 'classes':
      raise BadInput('score: this is a classifier; use classify')
    judges = self.model.shape.head == 'scalar'
    asked = [answers] if isinstance(answers, str) else list(answers)
    both = [self._answered(prompt, answer) for answer in asked]
    rows, masks = [ids for ids, _ in both], [mask for _, mask in both]
    found = self._read(self._reward if judges else self._logp, rows, batch_size)
    if judges:
      return [float(reward) for reward in found]
    return [float((logp * np.asarray(mask)).sum()) for logp, mask in zip(found, masks, strict=True)]

  def classify(self, texts: str | Sequence[str], *, batch_size: int = 16) -> list[dict[str, float]]:
    """The probability of each class of each text, by name, the likeliest first.

    A text is what the rows of its training held: the prompt of the task, filled in.

    Raises:
      BadInput: the model is no classifier, or a text is too long.
    """
    names = self.model.shape.classes
    if not names:
      raise BadInput('classify: this model has no classes; train one with configs/classify.py')
    asked = [texts] if isinstance(texts, str) else list(texts)
    rows = labelled.encoded(self.tokenizer, asked)
    ranked = []
    for logits_LC in self._read(self._classes, rows, batch_size):
      both = zip(names, jax.nn.softmax(logits_LC[-1]).tolist(), strict=True)
      ranked.append(dict(sorted(both, key=lambda one: -one[1])))
    return ranked

  def scores(
    self, asked: Sequence[tuple[Prompt, str]], *, batch_size: int = 16
  ) -> list[float | None]:
    """`score` of an answer to each of many prompts; of a reward model alone.

    None where both are longer than the model reads, or the reward is not finite.
    """
    if self.model.shape.head != 'scalar':
      raise BadInput('scores: this is no reward model; use score')
    rows = [self._answered(*both)[0] for both in asked]
    fit = [i for i, row in enumerate(rows) if 0 < len(row) <= self.model.shape.max_length]
    fit.sort(key=lambda i: len(rows[i]))  # so that few are padded to the longest
    found: list[float | None] = [None] * len(rows)
    for start in range(0, len(fit), batch_size):
      some = fit[start : start + batch_size]
      for i, value in zip(some, self._read(self._reward, [rows[i] for i in some], batch_size)):
        found[i] = float(value) if np.isfinite(value) else None
    return found

  def _answered(self, prompt: Prompt, answer: str) -> tuple[list[int], list[int]]:
    """Ids of a prompt with an answer, and a mask of 1 on those of the answer."""
    if self.template is not None:
      turns = [{'role': 'user', 'content': prompt}] if isinstance(prompt, str) else [*prompt]
      turns = [*turns, {'role': 'assistant', 'content': answer}]
      found = chat.pieces(turns, template=self.template, train_on='last')
      return chat.encode(self.tokenizer, found)
    before = complete.encoded(self.tokenizer, prompt, None)
    ids = complete.encoded(self.tokenizer, f'{prompt}{answer}', None)
    # A token may reach from the prompt into the answer; then it belongs to the answer.
    same = next(
      (i for i, (a, b) in enumerate(zip(before, ids)) if a != b), min(len(before), len(ids))
    )
    return ids, [int(i >= same) for i in range(len(ids))]

  def _read(self, function: Any, rows: Sequence[Sequence[int]], size: int) -> list[Any]:
    """What a compiled function says of each row; arrays are cut to its length."""
    if size < 1:
      raise BadInput(f'logprobs: batch_size {size}; choose at least 1')
    if not rows or not all(rows):
      raise BadInput('logprobs: a text without a token; give at least one character')
    longest, most = max(map(len, rows)), self.model.shape.max_length
    if longest > most:
      raise BadInput(f'logprobs: a text of {longest} tokens; the model has {most} positions')
    width = min(-(-longest // MULTIPLE) * MULTIPLE, most)
    found: list[Any] = []
    for start in range(0, len(rows), size):
      some = [rows[i % len(rows)] for i in range(start, start + min(size, len(rows)))]
      with jax.set_mesh(self._mesh):
        out = jax.device_get(function(self.params, _batch(some, width)))
      found += [x[: len(row)] if np.ndim(x) else x for x, row in zip(out, some, strict=True)]
    return found[: len(rows)]

  def _sampled(
    self,
    prompts: Sequence[Prompt],
    max_new: int,
    seed: int,
    batch_size: int | None,
    how: Any,
    tools: Any = None,
  ) -> tuple[list[list[int]], list[np.ndarray]]:
    """Ids of the prompts, and of what was said to each."""
    names = listed(tools or {})
    ids = [complete.encoded(self.tokenizer, prompt, self.template, names) for prompt in prompts]
    run = self._sampler(max_new, ids, how, batch_size=batch_size, tools=tools)
    with jax.set_mesh(self._mesh):
      return ids, complete.sampled(run, self.params, ids, batch_size=batch_size, seed=seed)

  def _sampler(
    self,
    max_new: int,
    ids: Sequence[Sequence[int]],
    how: Mapping[str, Any],
    batch_size: int | None = None,
    tools: Mapping[str, Mapping[str, Any]] | None = None,
  ) -> Any:
    """The one of these options, made when they are first asked for."""
    known = Tools(make_tools(tools, where='tools')) if tools else None
    self._check(max_new, ids, how, batch_size, known.slots if known else 0)
    key = (max_new, str(tools or {}), *sorted((name, str(value)) for name, value in how.items()))
    if key not in self._samplers:
      self._samplers[key] = complete.sampler(
        self.model, self.tokenizer, self.template, max_new=max_new, tools=known, **how
      )
    return self._samplers[key]

  def _check(
    self,
    max_new: int,
    ids: Sequence[Sequence[int]],
    how: Mapping[str, Any],
    batch_size: int | None = None,
    results: int = 0,
  ) -> None:
    """Raises BadInput where these prompts cannot be answered so."""
    complete.check_speaks(self.model, 'generate')
    complete.check({'max_new': max_new, 'batch_size': batch_size, **how})
    complete.check_room(self.model, ids, max_new + results)


def load(
  path: str | Path,
  *,
  mesh: Any = None,
  compute: Mapping[str, Any] | None = None,
  trust: Collection[str] = (),
) -> LoadedModel:
  """A trained model: the artifact of a stage, or a Hugging Face folder.

  Args:
    path: the folder, which may be at a URL.
    mesh: devices that hold it; by default all of this machine.
    compute: how it is run: fields of `llm_jax.models.compute.Compute`.
    trust: modules of yours that an artifact may name as its model.

  Raises:
    BadInput: there is none, or it is damaged.
  """
  mesh = make_mesh() if mesh is None else mesh
  folder = Path(storage.local(str(path), without=storage.MAKING))
  theirs = not (folder / artifact.FILE).is_file() and any(folder.glob('*.safetensors'))
  with jax.set_mesh(mesh):
    if not theirs:
      made = artifact.load(path, mesh, compute, trust=trust)
      return LoadedModel(made.model, made.params, made.tokenizer, made.template, mesh)
    model, params = huggingface.load(folder, compute)
    params = jax.device_put(params, shardings(artifact.abstract_params(model), mesh))
  tokenizer = tokenizers.load(folder)
  if text := tokenizer.chat_template:
    tokenizer.chat_template = dated(text, tokenizer, f'{path}: chat template')
  template = FOLDER if tokenizer.chat_template else None
  return LoadedModel(model, params, tokenizer, template, mesh)


def _is_one(prompts: Any) -> bool:
  """Whether this is one prompt: a text, or a conversation."""
  return isinstance(prompts, str) or (bool(prompts) and isinstance(prompts[0], Mapping))


def _batch(rows: Sequence[Sequence[int]], width: int) -> Batch:
  """Rows padded on the right."""
  batch = {name: np.zeros((len(rows), width), np.int32) for name in ('tokens', 'segment')}
  for i, row in enumerate(rows):
    batch['tokens'][i, : len(row)], batch['segment'][i, : len(row)] = row, 1
  position = np.broadcast_to(np.arange(width, dtype=np.int32), (len(rows), width))
  return {**batch, 'position': position}  # pyright: ignore[reportReturnType]
