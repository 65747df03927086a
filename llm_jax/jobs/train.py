"""Job `train`: every stage. It unpacks the config, builds the parts, and runs the one loop."""

import math
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from llm_jax import artifact
from llm_jax.annotate.sample import Sample
from llm_jax.evals import held_out
from llm_jax.find import bind, call, find, named, preset
from llm_jax.jobs import annotators, evaluations
from llm_jax.jobs.rollout_rules import check_rollout, reuse_of
from llm_jax.losses import reward
from llm_jax.options import suggest
from llm_jax.parallel.mesh import batch_shards, make_mesh, peak_flops
from llm_jax.parallel.rules import shardings
from llm_jax.sampling import complete
from llm_jax.text import chat
from llm_jax.text.tokenizer import Tokenizer
from llm_jax.training import metrics as training_metrics
from llm_jax.training import optimizer
from llm_jax.training.batches import Batches, Timed, make_read, read_ahead
from llm_jax.training.checkpoint import Checkpoints
from llm_jax.training.loop import Interrupted, fit
from llm_jax.training.periodic import PeriodicActions
from llm_jax.training.rollouts import Rollouts
from llm_jax.training.step import (
  TrainState,
  abstract_state,
  compile_step,
  make_state,
  start_state,
)
from llm_jax.types import BadInput, LossFn, Params

FIELDS = (
  *('job', 'stage', 'workdir', 'requires', 'next', 'seed', 'total_steps', 'batch_size'),
  *('accumulate', 'mesh', 'model', 'compute', 'data', 'loss', 'annotate', 'optimizer', 'init'),
  *('evals', 'sample', 'log_every', 'eval_every', 'checkpoint_every', 'max_to_keep'),
  *('publish', 'centre', 'rollout', 'stop', 'gradients'),
)
COUNTS = (
  *('total_steps', 'batch_size', 'accumulate', 'log_every', 'eval_every', 'checkpoint_every'),
  'max_to_keep',
)
SUMMARY = ('reward', 'accuracy', 'bits_per_byte')  # the first that was evaluated is told at the end
# What may differ when a run is resumed: where and how it runs, and how often it speaks.
MAY_CHANGE = (
  *('mesh', 'compute', 'accumulate', 'log_every', 'eval_every', 'checkpoint_every', 'max_to_keep'),
  *('evals', 'sample', 'next', 'requires', 'stop'),
)


def check(config: Any, *, coming: Collection[str] = ()) -> None:
  """Everything about the config that can be known before there is any data.

  Args:
    config: of the run.
    coming: folders of artifacts that are made before it starts.

  Raises:
    BadInput: naming the field and what would work.
  """
  whole = _plain(config)
  names = [*FIELDS, *config.requires]
  for field in config:
    if field not in names:
      raise BadInput(f'config: unknown field {field!r}; {suggest(field, names)}')
  for field in COUNTS:
    if whole[field] < 1:
      raise BadInput(f'config: {field} {whole[field]} must be at least 1')
  if config.publish not in ('last', 'best'):
    raise BadInput(f"config: publish {config.publish!r}; choose from: 'last', 'best'")
  if config.get('gradients', 'float32') not in ('float32', 'bfloat16'):
    raise BadInput(f"config: gradients {config.gradients!r}; choose from: 'float32', 'bfloat16'")
  for name in config.annotate:
    if name != 'steps' and name not in config.annotate.steps:
      raise BadInput(f'annotate: options for {name!r}, which is not in config.annotate.steps')
  artifact.holds(config.workdir, whole, may_change=MAY_CHANGE)
  check_rollout(config)
  _check_models(config, coming)
  mesh = make_mesh(**config.mesh)
  batch, parts, shards = config.batch_size, config.accumulate, batch_shards(mesh)
  if batch % (parts * shards):
    step = parts * shards
    below, above = batch // step * step, -(-batch // step) * step
    use = f'{below} or {above}' if below else f'{above}'
    raise BadInput(
      f'batch_size {batch} is not divisible by accumulate * data * fsdp * expert = {parts} * '
      f'{shards}; use {use}, or another config.accumulate'
    )
  _loss_fn(config, _model(config))
  _optimizer(config)
  evaluations.check(config.evals)


def main(config: Any) -> None:
  """Trains `config.stage` into `config.workdir`, after `check`; resumes; leaves an artifact."""
  began = time.perf_counter()
  folder, whole = Path(config.workdir), _plain(config)
  if (folder / artifact.FILE).is_file():
    print(f'{folder} is finished; delete it to train again. {_next(config)}')
    return
  mesh = make_mesh(**config.mesh)
  with jax.set_mesh(mesh):
    run = _Run(config, mesh, began)
    artifact.claim(folder, whole)
    run.train(folder, whole)


def _model(config: Any) -> Any:
  return artifact.build(config.model.to_dict(), config.get('compute'))


def _loss_fn(config: Any, model: Any) -> LossFn:
  name, group = named(config.loss, 'loss')
  module = find('losses', name)
  group = preset(module, group, where='loss')
  loss_fn = bind(module.loss_fn, group, where='loss', model=model)
  if hasattr(module, 'check'):
    module.check(**group)  # whether its options go together
  return loss_fn


def _optimizer(config: Any) -> tuple[optax.GradientTransformation, optimizer.Schedule]:
  return call(optimizer.make, config.optimizer, where='optimizer', total_steps=config.total_steps)


def _donors(config: Any) -> dict[str, str]:
  """Part of the parameters ('params' for all) -> the artifact it starts from."""
  return {name: path for name, path in config.init.items() if name != 'fresh'}


def _check_models(config: Any, coming: Collection[str]) -> None:
  """Whether the artifacts that a run starts from or asks are finished, and fit each other.

  Raises:
    BadInput: naming the folders.
  """
  trains = config.model.get('head') == 'scalar'
  source = _source(_donors(config))
  for part, path in _donors(config).items():
    if path in coming:
      continue
    about = artifact.describe(path)  # refuses what is missing or unfinished
    if about['model'].get('head') == 'scalar' and not trains and part != 'critic':
      raise BadInput(
        f'init: {path!r} is a reward model, but {config.workdir!r} trains a policy; start from a '
        f'model of language, such as the one it was made from, {about["parent"]!r}'
      )
  for step in config.annotate.steps:
    path = config.annotate.get(step, {}).get('path', '')
    if not path or path in coming or step == 'pretraining_rows':  # its path is a corpus
      continue
    theirs = artifact.describe(path)['tokenizer']
    if source in (None, *coming):
      continue
    if theirs != artifact.describe(source)['tokenizer']:
      raise BadInput(
        f'annotate.{step}: {path!r} has another tokenizer than {source!r}; both models have to '
        'read the same tokens'
      )


class _Run:
  """The parts of a run, built and checked before anything is compiled."""

  def __init__(self, config: Any, mesh: jax.sharding.Mesh, began: float) -> None:
    self.config, self.mesh, self.began = config, mesh, began
    self.model = _model(config)
    shape = self.model.shape
    self.donors, self.fresh = _donors(config), tuple(config.init.get('fresh', ()))
    if self.model.frozen:
      self.fresh = ('lora', *(f'base/{path}' for path in self.fresh))
    # A model from scratch reads what its corpus, or else its teacher, was written in.
    asked = [config.annotate.get(step, {}).get('path') for step in config.annotate.steps]
    homes = [_source(self.donors), config.data.get('path'), *asked]
    source = next((home for home in homes if home), '')
    self.tokenizer = Tokenizer.load(Path(source) / 'tokenizer')
    self._check_donors()
    if shape.vocab_size < self.tokenizer.vocab_size:
      raise BadInput(
        f"model: vocab_size {shape.vocab_size} is smaller than the tokenizer's "
        f'{self.tokenizer.vocab_size}; set config.model.vocab_size={self.tokenizer.vocab_size}'
      )
    self.rows, self.held_out = self._rows('train'), self._rows('validation')
    self.loss_fn = _loss_fn(config, self.model)
    self.annotate = annotators.build(
      config, self.model, self.tokenizer, mesh, config.data.get('template')
    )
    self.tokens_shape = self._tokens_shape()
    if self.tokens_shape[-1] > shape.max_length:
      raise BadInput(
        f'model: rows of {self.tokens_shape[-1]} tokens are longer than config.model.max_length '
        f'{shape.max_length}; raise it, or make shorter rows'
      )
    self.attention = self.model.backend(self.tokens_shape[-1])  # refuses what it cannot do
    self.tx, self.rate = _optimizer(config)
    self.tx = optimizer.freeze(self.tx, self.model.frozen)
    self.evaluations = evaluations.build(
      config.evals,
      self.model,
      self.tokenizer,
      mesh=mesh,
      template=config.data.get('template'),
      rows=lambda: self.held_out,
      every=config.eval_every,
      annotate=self.annotate,
      batch_size=config.batch_size,
      loss_fn=self.loss_fn,
      seed=config.seed,
    )
    self.complete = None
    if config.sample.prompts and shape.causal and shape.head != 'scalar':
      self.complete = call(
        complete.make,
        config.sample,
        self.model,
        self.tokenizer,
        where='sample',
        seed=config.seed,
        template=config.data.get('template'),
      )

  def _tokens_shape(self) -> tuple[int, ...]:
    """Of `tokens` in a row: those of the data, or what is sampled for a prompt."""
    row = self.rows[0]
    if 'tokens' in row:
      return np.shape(row['tokens'])
    for function in self.annotate:
      if isinstance(function, Sample):
        return function.group, np.shape(row['prompt'])[-1] + function.slots
    raise BadInput("annotate: these rows are prompts; put 'sample' into config.annotate.steps")

  def _check_donors(self) -> None:
    """Whether the artifacts of `config.init` fit, by what they say of themselves."""
    shapes = {}
    for name, path in self.donors.items():
      about = artifact.describe(path)
      if about['tokenizer'] != self.tokenizer.fingerprint:
        raise BadInput(f'init: {path!r} has another tokenizer than {_source(self.donors)!r}')
      shapes[name] = artifact.abstract_params(artifact.build(about['model']))
    if shapes:
      wanted = artifact.abstract_params(self.model)
      artifact.graft(wanted, self._donated(shapes), fresh=self.fresh)

  def _donated(self, parts: Mapping[str, Params]) -> Params:
    """One tree of parameters from those of the artifacts; 'params' is the whole of it."""
    whole = dict(parts.get('params', {}))
    if self.model.frozen:  # what is trained beside a frozen base starts afresh
      whole = {'base': whole}
    return whole | {name: tree for name, tree in parts.items() if name != 'params'}

  def _rows(self, split: str) -> Sequence[Mapping[str, np.ndarray]]:
    name, group = named(self.config.data, 'data')
    module = find('data', name)
    rows = call(module.make, group, self.tokenizer, where='data', split=split)
    if not len(rows):
      raise BadInput(f'data: the {split} split of {group} has no rows; give it more text')
    return rows

  def _init(self) -> Params:
    tokens = jnp.zeros((1, 1), jnp.int32)
    return self.model.init(jax.random.key(self.config.seed), tokens)

  def _start(self) -> TrainState:
    """From scratch, or grafted from the artifacts of `config.init`."""
    if not self.donors:
      return make_state(self._init, self.tx, self.mesh)
    loaded = {name: artifact.load(path, self.mesh).params for name, path in self.donors.items()}
    shapes = artifact.abstract_params(self.model)
    params = jax.jit(self._init, out_shardings=shardings(shapes, self.mesh))()
    grafted = artifact.graft(params, self._donated(loaded), fresh=self.fresh)
    return start_state(grafted, self.tx, self.mesh)

  def train(self, folder: Path, whole: Mapping[str, Any]) -> None:
    """Runs the loop with its hooks and writes the artifact."""
    config = self.config
    checkpoints = Checkpoints(folder / 'checkpoints', max_to_keep=config.max_to_keep)
    resumed = checkpoints.newest()
    if resumed is None:
      state = self._start()
    else:
      print(f'resuming {folder} from step {resumed}')
      state = checkpoints.restore(resumed, abstract_state(self._init, self.tx, self.mesh))
    rollout, reuse = dict(config.get('rollout', {})), reuse_of(config)
    rows_read = config.batch_size * rollout.get('minibatches', 1)
    read = read_ahead(make_read(self.rows, self.mesh, batch_size=rows_read, seed=config.seed))
    batches = Batches(read, self.annotate, seed=config.seed, mesh=self.mesh, **rollout)
    batch_fn = Timed(batches)
    if resumed is not None:
      self._restore_carry(checkpoints.carried(resumed))
    step_fn = compile_step(
      state,
      self.mesh,
      loss_fn=self.loss_fn,
      tx=self.tx,
      seed=config.seed,
      accumulate=config.accumulate,
      frozen=self.model.frozen,
      gradients=config.get('gradients', 'float32'),
      balances=self.model.shape.experts is not None,
    )
    tokens = config.batch_size * math.prod(self.tokens_shape)
    log = training_metrics.Log(
      folder,
      start_step=resumed or 0,
      total_steps=config.total_steps,
      log_every=config.log_every,
      tokens_per_step=tokens,
      flops_per_step=tokens * self.model.flops_per_token(self.tokens_shape[-1]),
      peak_flops=peak_flops(),
      learning_rate=self.rate,
      waited=lambda: batch_fn.seconds,
      began=self.began,
      limits=config.get('stop', {}),
      late='sample' not in config.annotate.steps,
    )
    shown = Rollouts(
      folder,
      last=lambda: batches.last,
      decode=lambda ids: self.tokenizer.decode(ids, specials=True),
      start_step=resumed or 0,
      every=config.log_every,
    )
    log.say(
      f'{config.stage}: {self.model.num_params() / 1e6:.2f}M parameters, {len(self.rows)} rows of '
      f'{self.tokens_shape[-1]} tokens, {config.total_steps} steps of {tokens} tokens, on '
      f'{self.mesh.size} x {jax.devices()[0].device_kind}, attention by {self.attention}'
    )
    actions = PeriodicActions(
      folder,
      total_steps=config.total_steps,
      eval_every=config.eval_every,
      checkpoint_every=config.checkpoint_every,
      log=log,
      checkpoints=checkpoints,
      evaluations=self.evaluations,
      show=lambda params: [*self._samples(params), *shown.lines(0)],
      carry=self._carry,
      reuse=reuse,
    )
    hooks = (log, shown, actions)
    with actions.handle_signals():
      try:
        state = fit(state, batch_fn, step_fn, total_steps=config.total_steps, hooks=hooks)
      except training_metrics.Overoptimized as stop:
        checkpoints.wait()
        state = self._before(stop, checkpoints)
      finally:
        checkpoints.wait()
        log.close()
    if config.publish == 'best' and (best := checkpoints.best()):
      if damage := checkpoints.damage(best['step']):
        raise BadInput(f'publish: the best checkpoint, step {best["step"]}, is {damage}')
      abstract = abstract_state(self._init, self.tx, self.mesh)
      state = checkpoints.restore(best['step'], abstract)
    model, params = self.model.published(optimizer.averaged_params(state))
    group = artifact.published(whole['model'])
    if 'centre' in config:
      params = self._centred(model, params)
    if 'template' in config.data:
      self.tokenizer.chat_template = chat.jinja(config.data.template)
    made = artifact.Artifact(
      model=model,
      params=params,
      tokenizer=self.tokenizer,
      config={**whole, 'model': group},
      step=int(state.step),
      stage=config.stage,
      parent=_source(self.donors),
    )
    artifact.save(folder, made)
    if jax.process_index() == 0:
      self._summary(folder, config.total_steps * tokens)

  def _carry(self) -> dict[str, Any]:
    """What annotators have to remember beside the parameters, by their names."""
    both = zip(self.config.annotate.steps, self.annotate, strict=True)
    return {name: function.carry() for name, function in both if hasattr(function, 'carry')}

  def _restore_carry(self, carried: Mapping[str, Any] | None) -> None:
    for name, function in zip(self.config.annotate.steps, self.annotate, strict=True):
      if carried and name in carried:
        function.restore(carried[name])

  def _before(self, stop: training_metrics.Overoptimized, checkpoints: Checkpoints) -> TrainState:
    """The newest checkpoint from before the reward was hacked."""
    good = [step for step in checkpoints.steps() if step <= stop.step]
    good = [step for step in good if checkpoints.damage(step) is None]
    if not good:
      raise Interrupted(f'{stop}; there is no checkpoint from before, so nothing is published')
    print(f'{stop}; publishing step {good[-1]}, the last checkpoint from before')
    abstract = abstract_state(self._init, self.tx, self.mesh)
    return checkpoints.restore(good[-1], abstract)

  def _samples(self, params: Params) -> list[str]:
    if self.complete is None:
      return []
    answers = self.complete(params)
    both = zip(self.config.sample.prompts, answers, strict=True)
    return [' '.join(f'{prompt}{answer}'.split()) for prompt, answer in both]

  def _centred(self, model: Any, params: Params) -> Params:
    """Reward parameters whose scores of the held-out best answers have mean 0."""
    scores = jax.jit(lambda p, batch: reward.answer_scores(model, p, batch)[:, 0])
    options = self.config.centre.to_dict()
    most, found = options.pop('max_rows', None), []
    for batch in held_out.batches(self.held_out, self.mesh, self.config.batch_size, most):
      real = np.asarray(batch['segment'][:, 0].any(-1))
      found.append(np.asarray(scores(params, batch))[real])
    return call(reward.centre, options, params, jnp.concatenate(found), where='centre')

  def _summary(self, folder: Path, tokens: int) -> None:
    records = training_metrics.read(folder)
    told = [n for n in SUMMARY if any(f'validation/{n}' in r for r in records)]
    name = told[0] if told else 'loss'
    values = [r[f'validation/{name}'] for r in records if f'validation/{name}' in r]
    picture = training_metrics.plot(folder)
    seconds = time.perf_counter() - self.began
    shown = f', validation {name.replace("_", " ")} '
    told = f'{shown}{values[0]:.3f} -> {values[-1]:.3f}' if values else ''
    drawn = picture or "no picture: pip install 'llm_jax[log]' adds matplotlib"
    print(
      f'\n{self.config.stage} finished in {int(seconds // 60)}:{int(seconds % 60):02d}: '
      f'{self.model.num_params() / 1e6:.2f}M parameters saw {tokens / 1e6:.2f}M tokens'
      f'{told}. The artifact is {folder}, its curve {drawn}.\n{_next(self.config)}'
    )


def _source(donors: Mapping[str, str]) -> str | None:
  """The artifact a run started from, if any; of a policy and its critic that of the policy."""
  last = lambda name: name == 'critic'
  return donors[min(donors, key=last)] if donors else None


def _next(config: Any) -> str:
  """What the user may do now; a config writes `{workdir}` where the folder belongs."""
  return config.next.format(workdir=config.workdir)


def _plain(config: Any) -> dict[str, Any]:
  return {k: v for k, v in config.to_dict().items() if k not in config.requires}
