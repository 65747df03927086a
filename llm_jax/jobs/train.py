"""Job `train`: every stage. It unpacks the config, builds the parts, and runs the one loop."""

import dataclasses
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax

from llm_jax import artifact, options, run_folder, storage
from llm_jax.find import call, last
from llm_jax.jobs import chain, donors, evaluations, finish, lengthened, profiling
from llm_jax.jobs.assembly import Assembly, assemble
from llm_jax.jobs.design import check_loss, design
from llm_jax.jobs.rollout_rules import reuse_of
from llm_jax.jobs.start import Start, check_artifacts, restored, start
from llm_jax.lock import locked
from llm_jax.options import Count, Place, Seed
from llm_jax.parallel.mesh import batch_shards, peak_flops
from llm_jax.sampling import complete
from llm_jax.text.terminal import say
from llm_jax.training import boards, histograms, metrics
from llm_jax.training.batches import Batches, Timed, make_read, read_ahead
from llm_jax.training.checkpoint import Checkpoints
from llm_jax.training.loop import fit
from llm_jax.training.periodic import PeriodicActions
from llm_jax.training.rollouts import Rollouts
from llm_jax.training.signals import Signals
from llm_jax.training.step import TrainState, compile_step
from llm_jax.types import BadInput, Params, Remembers

Group = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fields:
  """The fields of a config of this job.

  Attributes:
    job: 'train'.
    stage: what the run is called in its artifact and its messages.
    workdir: its folder.
    requires: groups of the config that are configs of other jobs, which run first.
    text: what the group `tokenize` reads, where the config says it here.
    next: what the user is told at the end; `{workdir}` or `{init.params}` stand for such fields.
    seed: of parameters, the order of rows, sampling and dropout of any kind.
    total_steps: updates.
    batch_size: rows, or prompts, of an update, over all devices and hosts.
    accumulate: microbatches an update.
    mesh: sizes of the axes of the device mesh.
    model: a file of models/, and its shape.
    compute: how the model is run: types, attention, what is computed again.
    data: a file of data/.
    loss: a file of losses/.
    annotate: `steps`, files of annotate/ in their order, and a group for each that has options.
    optimizer: its update rule, schedule and guards.
    init: part of the parameters -> artifact it starts from; `fresh` lists what starts anew.
    evals: key -> a file of evals/, its options, and `every` how many steps it runs.
    sample: prompts that are continued at each evaluation, and how.
    log_every: steps between lines of the log.
    eval_every: steps between evaluations, of those that do not say.
    checkpoint_every: steps between checkpoints.
    max_to_keep: newest checkpoints that are kept, beside the best.
    publish: the 'last' parameters, or those of the 'best' evaluation.
    centre: of a reward model: held-out rows over which its scores get mean 0.
    rollout: passes over a rollout, and minibatches a pass.
    stop: metric -> its largest mean over a log interval; beyond it the run ends and publishes what
      came before.
    gradients: type that gradients have while they are computed and exchanged.
    trust: modules of yours that the artifacts may name as their model, such as 'mine.model'; other
      code than llm_jax's own is not imported because an artifact names it.
    profile: steps that are traced into `profile` in the workdir, from the third on, with a page
      that says where their time went; None traces none.
    wandb: how the run is shown by Weights & Biases, and that it is.
    histograms: whether TensorBoard and Weights & Biases show those of parameters and gradients, by
      layer, every `eval_every` steps.
  """

  job: str
  stage: str
  workdir: Place
  requires: Sequence[str]
  next: str
  seed: Seed
  total_steps: Count
  batch_size: Count
  accumulate: Count
  mesh: Group
  model: Group
  data: Group
  loss: Group
  annotate: Group
  optimizer: Group
  init: Group
  evals: Mapping[str, Group]
  sample: Group
  log_every: Count
  eval_every: Count
  checkpoint_every: Count
  max_to_keep: Count
  publish: Literal['last', 'best']
  compute: Group | None = None
  centre: Group | None = None
  rollout: Group | None = None
  stop: Mapping[str, float] | None = None
  gradients: Literal['float32', 'bfloat16'] = 'float32'
  trust: Sequence[str] = ()
  profile: Count | None = None
  wandb: Group | None = None
  histograms: bool = False
  text: str | None = None


# What may differ when a run is resumed: where and how it runs, and how often it speaks.
MAY_CHANGE = (
  *('mesh', 'compute', 'accumulate', 'log_every', 'eval_every', 'checkpoint_every', 'max_to_keep'),
  *('evals', 'sample', 'next', 'requires', 'stop', 'trust'),
  *('profile', 'wandb', 'histograms'),
  'total_steps',  # where `lengthened` allows it
  'evaluate',  # what `evals` was called in runs of before
)


def check(config: Any, *, coming: Collection[str] = ()) -> None:
  """Everything about the config that can be known before there is any data; it compiles nothing.

  Args:
    config: of the run.
    coming: folders of artifacts that are made before it starts.

  Raises:
    BadInput: naming the field and what would work.
  """
  whole, coming = (
    plain(config),
    {**donors.coming(config), **(coming if isinstance(coming, Mapping) else dict.fromkeys(coming))},
  )
  options.check(Fields, whole, where='config')
  run_folder.holds(config.workdir, whole, may_change=MAY_CHANGE)
  made = design(config)
  lengthened.check(config)
  profiling.check(config)
  boards.check(config.get('wandb'), config.get('histograms', False))
  for name in config.annotate:
    if name != 'steps' and not {name} & {*config.annotate.steps, *map(last, config.annotate.steps)}:
      raise BadInput(f'annotate: options for {name!r}, which is not in config.annotate.steps')
  finish.next_step(config)
  complete.check(config.sample)
  shards, offered = batch_shards(made.mesh), evaluations.OFFERED
  evaluations.check(config.evals, offered=offered, model=made.model, coming=coming, shards=shards)
  check_artifacts(config, made, start(config, made.model), coming)
  check_loss(made, config)
  if config.publish == 'best' and not any(evaluations.chosen(config.evals)):
    raise BadInput("publish: 'best' of what? set config.evals.validation.name=perplexity")


def main(config: Any) -> None:
  """Trains `config.stage` into `config.workdir`, after `check`; resumes; leaves an artifact."""
  began = time.perf_counter()
  folder, whole = Path(config.workdir), plain(config)
  if lengthened.is_finished(config):
    say(f'{folder} is finished; delete it to train again. {finish.next_step(config)}')
    return
  made = design(config)
  with jax.set_mesh(made.mesh), locked(folder, take=jax.process_index() == 0) as is_there:
    begins = start(config, made.model)
    _train(config, whole, assemble(config, made, begins), begins, began, is_there)


def _train(
  config: Any,
  whole: Mapping[str, Any],
  made: Assembly,
  begins: Start,
  began: float,
  is_there: Callable[[], None],
) -> None:
  """Runs the loop with its hooks and writes the artifact; `is_there` asks for the folder."""
  folder, model = Path(config.workdir), made.design.model
  folder.mkdir(parents=True, exist_ok=True)
  checkpoints = Checkpoints(folder / 'checkpoints', max_to_keep=config.max_to_keep)
  resumed, carried = checkpoints.newest(), {}
  if resumed is None:
    state = begins.state(made.design, config.seed)
  else:
    say(f'resuming {folder} from step {resumed}')
    state = restored(checkpoints, resumed, made.design, config.seed)
    carried = checkpoints.carried(resumed) or {}
    _restore(made, config, carried)
  rollout = dict(config.get('rollout') or {})
  rows_read = config.batch_size * rollout.get('minibatches', 1)
  read = make_read(made.rows, made.design.mesh, batch_size=rows_read, seed=config.seed)
  batches = Batches(
    read_ahead(read), made.annotate, seed=config.seed, mesh=made.design.mesh, **rollout
  )
  batch_fn = Timed(batches)
  step_fn = compile_step(
    state,
    made.design.mesh,
    loss_fn=made.design.loss_fn,
    tx=made.design.tx,
    seed=config.seed,
    accumulate=config.accumulate,
    frozen=model.frozen,
    gradients=config.get('gradients', 'float32'),
    balances=model.shape.experts is not None,
  )
  shape = made.rows_shape or _sampled_shape(batches, state, config.total_steps)
  tokens = config.batch_size * math.prod(shape)
  log = metrics.Log(
    folder,
    start_step=resumed or 0,
    total_steps=config.total_steps,
    log_every=config.log_every,
    tokens_per_step=tokens,
    flops_per_step=tokens * model.flops_per_token(shape[-1]),
    peak_flops=peak_flops(),
    learning_rate=made.design.rate,
    waited=lambda: batch_fn.seconds,
    began=began,
    limits=config.get('stop') or {},
    boards=_boards(config, whole),
    late='tokens' in made.rows[0],  # else batches are sampled, and wait for the device anyway
  )
  shown = Rollouts(
    folder,
    last=lambda: batches.last,
    decode=lambda ids: made.tokenizer.decode(ids, specials=True),
    start_step=resumed or 0,
    every=config.log_every,
  )
  log.say(
    f'{config.stage}: {model.num_params() / 1e6:.2f}M parameters, {_count(made.rows)} rows of '
    f'{shape[-1]} tokens, {config.total_steps} steps of {tokens} tokens, on '
    f'{made.design.mesh.size} x {jax.devices()[0].device_kind}, attention by {made.attention}'
  )
  log.say(
    f'{config.stage}: compiling for this machine; the first step takes long, those after it do not'
  )
  signals = Signals(reuse_of(config))
  actions = PeriodicActions(
    folder,
    total_steps=config.total_steps,
    eval_every=config.eval_every,
    checkpoint_every=config.checkpoint_every,
    log=log,
    checkpoints=checkpoints,
    evaluations=made.evaluations,
    show=lambda params: [*_continued(config, made, params), *shown.lines(0)],
    histograms=histograms.of_state if config.get('histograms') else lambda state: {},
    carry=lambda: _carried(made, config),
    signals=signals,
    start_step=resumed or 0,
  )
  hooks = (lambda *_: is_there(), _claim(folder, whole), log, shown, actions)
  batch_of = lambda state: batches(state.params, int(state.step) - 1)  # which it keeps
  text = lambda state: step_fn.lower(state, batch_of(state)).compile().as_text()
  with signals.handled(), profiling.hooks(config, resumed or 0, log, text) as last:
    try:
      actions.resume(state, carried)
      state = fit(
        state,
        batch_fn,
        step_fn,
        total_steps=config.total_steps,
        hooks=(*hooks, *last),
        signals=signals,
        leave=actions.leave,
      )
    except metrics.Overoptimized as stop:
      checkpoints.wait()
      state = finish.before(stop, checkpoints, made, config.seed)
      actions.make_up(state)
    finally:
      checkpoints.wait()
      log.close()
  if config.publish == 'best':
    state = finish.best(state, checkpoints, made, config.seed)
  finish.publish(config, whole, state, made, begins)
  if jax.process_index() == 0:
    finish.summary(config, model, config.total_steps * tokens, began)


def _count(rows: Sequence[Any]) -> str:
  """How many there are, or so far."""
  return f'{len(rows)}{"+" * hasattr(rows, "group")}'


def _boards(config: Any, whole: Mapping[str, Any]) -> list[boards.Board]:
  """What the config asks for beside TensorBoard."""
  if config.get('wandb') is None or jax.process_index():
    return []
  how: Any = dict(where='wandb', folder=Path(config.workdir), config=storage.named(whole))
  made = call(boards.wandb_run, config.wandb, **how)
  say(f'wandb: {made.told}')
  return [made]


def _claim(folder: Path, whole: Mapping[str, Any]) -> Any:
  """A hook: from the first step on the folder belongs to this config.

  Not before, so that a run whose first step fails leaves nothing that refuses the mended command.
  """
  claimed: list[int] = []

  def hook(step: int, state: TrainState, measured: Any) -> None:
    del state, measured
    if not claimed:
      run_folder.claim(folder, whole)
      claimed.append(step)

  return hook


def _sampled_shape(batches: Batches, state: TrainState, total_steps: int) -> tuple[int, ...]:
  """Of `tokens` in a rollout whose sampler does not say how long its rows are: the first one's."""
  if int(state.step) == total_steps:
    return (1, 1)
  return batches(state.params, int(state.step))['tokens'].shape[1:]


def _carried(made: Assembly, config: Any) -> dict[str, Any]:
  """What annotators have to remember beside the parameters, by their names."""
  both = zip(config.annotate.steps, made.annotate, strict=True)
  return {name: function.carry() for name, function in both if isinstance(function, Remembers)}


def _restore(made: Assembly, config: Any, carried: Mapping[str, Any]) -> None:
  for name, function in zip(config.annotate.steps, made.annotate, strict=True):
    if name in carried and isinstance(function, Remembers):
      function.restore(carried[name])


def _continued(config: Any, made: Assembly, params: Params) -> list[str]:
  if made.complete is None:
    return []
  both = zip(config.sample.prompts, made.complete(params), strict=True)
  return [f'{prompt}{answer}'.strip() for prompt, answer in both]


def groups(config: Any) -> Iterator[tuple[str, Any, tuple[str, ...]]]:
  """(group of the config, the function that its options are for, what the job fills in)."""
  from llm_jax.losses import reward
  from llm_jax.parallel.mesh import make_mesh
  from llm_jax.sampling import pick
  from llm_jax.training import optimizer

  yield from artifact.groups(config.model)
  yield from chain.groups(config)
  yield 'optimizer', optimizer.make, ('total_steps',)
  yield 'mesh', make_mesh, ('devices',)
  yield 'rollout', Batches, ('seed', 'mesh')
  yield from evaluations.functions(config.evals)
  yield 'sample', complete.make, ('template', 'seed', 'tools')
  yield 'sample', pick.make, ('allowed_V',)
  yield 'wandb', boards.wandb_run, ('folder', 'config')
  if 'centre' in config:
    yield 'centre', reward.centre, ()


def plain(config: Any) -> dict[str, Any]:
  return {k: v for k, v in config.to_dict().items() if k not in config.requires}
