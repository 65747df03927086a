"""Job `train`: every stage. It unpacks the config, builds the parts, and runs the one loop."""

import math
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from llm_jax import artifact
from llm_jax.evals import perplexity
from llm_jax.find import bind, call, find, named, suggest
from llm_jax.parallel.mesh import batch_shards, make_mesh, peak_flops
from llm_jax.parallel.rules import shardings
from llm_jax.sampling import complete
from llm_jax.text.tokenizer import Tokenizer
from llm_jax.training import metrics as training_metrics
from llm_jax.training import optimizer
from llm_jax.training.batches import Timed, make_batch_fn, make_read, read_ahead
from llm_jax.training.checkpoint import Checkpoints
from llm_jax.training.loop import Interrupted, fit
from llm_jax.training.step import (
  TrainState,
  abstract_state,
  compile_step,
  make_state,
  start_state,
)
from llm_jax.types import BadInput, LossFn, Metrics, Params

FIELDS = (
  *('job', 'stage', 'workdir', 'requires', 'next', 'seed', 'total_steps', 'batch_size'),
  *('accumulate', 'mesh', 'model', 'data', 'loss', 'annotate', 'optimizer', 'init'),
  *('evaluate', 'sample', 'log_every', 'eval_every', 'checkpoint_every', 'max_to_keep'),
  'publish',
)
COUNTS = (
  *('total_steps', 'batch_size', 'accumulate', 'log_every', 'eval_every', 'checkpoint_every'),
  'max_to_keep',
)
# What may differ when a run is resumed: where it runs and how often it speaks.
MAY_CHANGE = (
  *('mesh', 'accumulate', 'log_every', 'eval_every', 'checkpoint_every', 'max_to_keep'),
  *('evaluate', 'sample', 'next', 'requires'),
)


def check(config: Any) -> None:
  """Everything about the config that can be known before there is any data.

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
  for name in config.annotate:
    if name != 'steps' and name not in config.annotate.steps:
      raise BadInput(f'annotate: options for {name!r}, which is not in config.annotate.steps')
  artifact.holds(config.workdir, whole, may_change=MAY_CHANGE)
  for path in _donors(config).values():
    artifact.describe(path)  # refuses what is missing or unfinished
  mesh = make_mesh(**config.mesh)
  batch, parts, shards = config.batch_size, config.accumulate, batch_shards(mesh)
  if batch % (parts * shards):
    step = parts * shards
    below, above = batch // step * step, -(-batch // step) * step
    use = f'{below} or {above}' if below else f'{above}'
    raise BadInput(
      f'batch_size {batch} is not divisible by accumulate * data * fsdp = {parts} * {shards}; '
      f'use {use}, or another config.accumulate'
    )
  _loss_fn(config, artifact.build(config.model.to_dict()))
  _optimizer(config)


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


def _loss_fn(config: Any, model: Any) -> LossFn:
  name, group = named(config.loss, 'loss')
  return bind(find('losses', name).loss_fn, group, where='loss', model=model)


def _optimizer(config: Any) -> tuple[optax.GradientTransformation, optimizer.Schedule]:
  return call(optimizer.make, config.optimizer, where='optimizer', total_steps=config.total_steps)


def _donors(config: Any) -> dict[str, str]:
  """Part of the parameters ('params' for all) -> the artifact it starts from."""
  return {name: path for name, path in config.init.items() if name != 'fresh'}


class _Run:
  """The parts of a run, built and checked before anything is compiled."""

  def __init__(self, config: Any, mesh: jax.sharding.Mesh, began: float) -> None:
    self.config, self.mesh, self.began = config, mesh, began
    self.model = artifact.build(config.model.to_dict())
    shape = self.model.shape
    self.donors, self.fresh = _donors(config), tuple(config.init.get('fresh', ()))
    source = next(iter(self.donors.values()), config.data.get('path', ''))
    self.tokenizer = Tokenizer.load(Path(source) / 'tokenizer')
    self._check_donors()
    if shape.vocab_size < self.tokenizer.vocab_size:
      raise BadInput(
        f"model: vocab_size {shape.vocab_size} is smaller than the tokenizer's "
        f'{self.tokenizer.vocab_size}; set config.model.vocab_size={self.tokenizer.vocab_size}'
      )
    self.rows, self.held_out = self._rows('train'), self._rows('validation')
    self.length = int(np.shape(self.rows[0]['tokens'])[-1])
    if self.length > shape.max_length:
      raise BadInput(
        f'model: rows of {self.length} tokens are longer than config.model.max_length '
        f'{shape.max_length}; raise it, or make shorter rows'
      )
    self.loss_fn = _loss_fn(config, self.model)
    self.annotate = [
      call(
        find('annotate', step).make,
        config.annotate.get(step, {}),
        self.model,
        self.tokenizer,
        where=f'annotate.{step}',
      )
      for step in config.annotate.steps
    ]
    self.tx, self.rate = _optimizer(config)
    self.evaluate = call(
      perplexity.make,
      config.evaluate,
      self.model,
      self.tokenizer,
      where='evaluate',
      rows=self.held_out,
      mesh=mesh,
      annotate=self.annotate,
      batch_size=config.batch_size,
    )
    self.complete = None
    if config.sample.prompts and shape.causal:
      self.complete = call(
        complete.make, config.sample, self.model, self.tokenizer, where='sample', seed=config.seed
      )

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
      artifact.graft(wanted, _joined(shapes), fresh=self.fresh)

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
    grafted = artifact.graft(params, _joined(loaded), fresh=self.fresh)
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
    read = read_ahead(
      make_read(self.rows, self.mesh, batch_size=config.batch_size, seed=config.seed)
    )
    batch_fn = Timed(make_batch_fn(read, self.annotate, seed=config.seed))
    step_fn = compile_step(
      state,
      self.mesh,
      loss_fn=self.loss_fn,
      tx=self.tx,
      seed=config.seed,
      accumulate=config.accumulate,
    )
    tokens = config.batch_size * math.prod(np.shape(self.rows[0]['tokens']))
    log = training_metrics.Log(
      folder,
      start_step=resumed or 0,
      total_steps=config.total_steps,
      log_every=config.log_every,
      tokens_per_step=tokens,
      flops_per_step=tokens * self.model.flops_per_token(self.length),
      peak_flops=peak_flops(),
      learning_rate=self.rate,
      waited=lambda: batch_fn.seconds,
      began=self.began,
    )
    log.say(
      f'{config.stage}: {self.model.num_params() / 1e6:.2f}M parameters, {len(self.rows)} rows of '
      f'{self.length} tokens, {config.total_steps} steps of {tokens} tokens, on '
      f'{self.mesh.size} x {jax.devices()[0].device_kind}'
    )
    keeper = _Keeper(config, log, checkpoints, self.evaluate, self.complete)
    with keeper.on_signals():
      try:
        state = fit(state, batch_fn, step_fn, total_steps=config.total_steps, hooks=(log, keeper))
      finally:
        checkpoints.wait()
        log.close()
    if config.publish == 'best' and (best := checkpoints.best()):
      if damage := checkpoints.damage(best['step']):
        raise BadInput(f'publish: the best checkpoint, step {best["step"]}, is {damage}')
      abstract = abstract_state(self._init, self.tx, self.mesh)
      state = checkpoints.restore(best['step'], abstract)
    made = artifact.Artifact(
      model=self.model,
      params=optimizer.averaged_params(state),
      tokenizer=self.tokenizer,
      config=whole,
      step=int(state.step),
      stage=config.stage,
      parent=_source(self.donors),
    )
    artifact.save(folder, made)
    if jax.process_index() == 0:
      self._summary(folder, config.total_steps * tokens)

  def _summary(self, folder: Path, tokens: int) -> None:
    records = training_metrics.read(folder)
    bits = [r['validation/bits_per_byte'] for r in records if 'validation/bits_per_byte' in r]
    picture = training_metrics.plot(folder)
    seconds = time.perf_counter() - self.began
    told = f', validation bits per byte {bits[0]:.3f} -> {bits[-1]:.3f}' if bits else ''
    drawn = picture or "no picture: pip install 'llm_jax[log]' adds matplotlib"
    print(
      f'\n{self.config.stage} finished in {int(seconds // 60)}:{int(seconds % 60):02d}: '
      f'{self.model.num_params() / 1e6:.2f}M parameters saw {tokens / 1e6:.2f}M tokens'
      f'{told}. The artifact is {folder}, its curve {drawn}.\n{_next(self.config)}'
    )


class _Keeper:
  """The hook that evaluates, shows samples, saves checkpoints and leaves in order on a signal."""

  def __init__(
    self,
    config: Any,
    log: training_metrics.Log,
    checkpoints: Checkpoints,
    evaluate: Callable[[Params], Metrics],
    complete: Callable[[Params], list[str]] | None,
  ) -> None:
    self.config, self.log, self.checkpoints = config, log, checkpoints
    self.evaluate, self.complete = evaluate, complete
    self._signal: int | None = None

  def __call__(self, step: int, state: TrainState, metrics: Metrics) -> None:
    del metrics
    config, score = self.config, None
    last = step == config.total_steps
    if step % config.eval_every == 0 or last:
      self.log.flush()
      params = optimizer.averaged_params(state)
      values = {k: float(v.value) for k, v in self.evaluate(params).items()}
      score = values['loss']
      self.log.validation(step, values)
      if self.complete is not None:
        for prompt, answer in zip(config.sample.prompts, self.complete(params), strict=True):
          self.log.say(f'  | {" ".join((prompt + answer).split())}')
      self.log.restart_clock()
    interrupted = self._signal is not None
    if step % config.checkpoint_every == 0 or last or interrupted:
      self.log.flush()  # so that metrics.jsonl holds every step the checkpoint holds
      self.checkpoints.save(step, state, score=score)
      self.log.restart_clock()
    if interrupted:
      self.checkpoints.wait()
      raise Interrupted(
        f'{signal.Signals(self._signal).name}: saved step {step} in {config.workdir}; '
        'give the same command again and it goes on from there'
      )

  def on_signals(self) -> '_Signals':
    """While in this context, SIGTERM and SIGINT ask the hook to save and stop."""
    return _Signals(self._ask)

  def _ask(self, number: int, frame: Any) -> None:
    del frame
    self._signal = number


class _Signals:
  """Context in which SIGTERM and SIGINT call `handler` once; a second one acts as usual."""

  def __init__(self, handler: Callable[[int, Any], None]) -> None:
    self._handler = handler
    self._before: dict[int, Any] = {}

  def __enter__(self) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
      self._before[number] = signal.signal(number, self._once)

  def __exit__(self, *error: Any) -> None:
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def _once(self, number: int, frame: Any) -> None:
    self.__exit__()
    self._handler(number, frame)


def _source(donors: Mapping[str, str]) -> str | None:
  """The artifact a run started from, if any; the first of several."""
  return next(iter(donors.values()), None)


def _joined(parts: Mapping[str, Params]) -> Params:
  """One tree of parameters: 'params' is the whole of it, another name is the subtree it names."""
  whole = dict(parts.get('params', {}))
  return whole | {name: tree for name, tree in parts.items() if name != 'params'}


def _next(config: Any) -> str:
  """What the user may do now; a config writes `{workdir}` where the folder belongs."""
  return config.next.format(workdir=config.workdir)


def _plain(config: Any) -> dict[str, Any]:
  return {k: v for k, v in config.to_dict().items() if k not in config.requires}
