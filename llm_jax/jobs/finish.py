"""How a run ends: which state is published, what is done to it, what the user is told."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax import artifact
from llm_jax.evals import held_out
from llm_jax.find import call
from llm_jax.jobs.assembly import Assembly
from llm_jax.jobs.start import Start, restored
from llm_jax.losses import reward
from llm_jax.text import chat
from llm_jax.text.templates import TEMPLATES
from llm_jax.text.terminal import say
from llm_jax.training import metrics, optimizer
from llm_jax.training.checkpoint import Checkpoints
from llm_jax.training.step import TrainState
from llm_jax.types import BadInput, Model, Params

SUMMARY = ('reward', 'accuracy', 'bits_per_byte')  # the end names the first that was evaluated


def before(
  stop: metrics.Overoptimized, checkpoints: Checkpoints, made: Assembly, seed: int
) -> TrainState:
  """The newest checkpoint from before the reward was hacked.

  Raises:
    Diverged: there is none.
  """
  checkpoints.gather()
  good = [step for step in checkpoints.steps() if step <= stop.step]
  good = [step for step in good if checkpoints.damage(step) is None]
  if not good:
    raise metrics.Diverged(f'{stop}; there is no checkpoint from before, so nothing is published')
  say(f'{stop}; publishing step {good[-1]}, the last checkpoint from before')
  return restored(checkpoints, good[-1], made.design, seed)


def best(state: TrainState, checkpoints: Checkpoints, made: Assembly, seed: int) -> TrainState:
  """The state with the best evaluation among the checkpoints that are kept.

  Raises:
    BadInput: its files are damaged.
  """
  checkpoints.gather()
  step = checkpoints.best()
  if step is None:
    return state
  if damage := checkpoints.damage(step):
    raise BadInput(f'publish: the best checkpoint, step {step}, is {damage}')
  return restored(checkpoints, step, made.design, seed)


def publish(
  config: Any, whole: Mapping[str, Any], state: TrainState, made: Assembly, begins: Start
) -> None:
  """Writes the artifact of a finished run into its workdir.

  Raises:
    BadInput: parameters are not finite.
    Diverged: no loss of training ever was.
  """
  if jax.process_index() == 0:
    _check_losses(Path(config.workdir))
  model, params = made.design.model.published(optimizer.averaged_params(state))
  if 'centre' in config:
    params = _centred(config, made, model, params)
  if made.template in TEMPLATES:  # others travel with the tokenizer already
    made.tokenizer.chat_template = chat.jinja(made.template)
  group = artifact.published(whole['model'])
  artifact.save(
    Path(config.workdir),
    artifact.Artifact(
      model=model,
      params=params,
      tokenizer=made.tokenizer,
      config={**whole, 'model': group},
      step=int(state.step),
      stage=config.stage,
      parent=begins.source,
    ),
  )


def _check_losses(folder: Path) -> None:
  """Raises Diverged where losses of training were measured, and none of them is finite.

  Each of its updates was skipped then, so what would be published is what it began with.
  """
  losses = [record['loss'] for record in metrics.read(folder) if 'loss' in record]
  if losses and all(loss is None for loss in losses):
    raise metrics.Diverged(
      f'{folder}: no loss of this run is finite, so nothing is published; look at the data and '
      'the options of model and optimizer, and train in another workdir'
    )


def _centred(config: Any, made: Assembly, model: Model, params: Params) -> Params:
  """Reward parameters whose scores of the held-out best answers have mean 0."""
  scores = jax.jit(lambda p, batch: reward.answer_scores(model, p, batch)[:, 0])
  options = config.centre.to_dict()
  most, found = options.pop('max_rows', None), []
  for batch in held_out.batches(made.held_out, made.design.mesh, config.batch_size, most):
    real = np.asarray(batch['segment'][:, 0].any(-1))
    found.append(np.asarray(scores(params, batch))[real])
  return call(reward.centre, options, params, jnp.concatenate(found), where='centre')


def summary(config: Any, model: Model, tokens: int, began: float) -> None:
  """Prints what was trained, how an evaluation changed, and what may come next."""
  folder = Path(config.workdir)
  records = metrics.read(folder)
  names = [n for n in SUMMARY if any(f'validation/{n}' in r for r in records)]
  name = names[0] if names else 'loss'
  values = [r[f'validation/{name}'] for r in records if f'validation/{name}' in r]
  picture = metrics.plot(folder)
  seconds = time.perf_counter() - began
  shown = f', validation {name.replace("_", " ")} '
  moved = f'{shown}{values[0]:.3f} -> {values[-1]:.3f}' if values else ''
  drawn = picture or "no picture: pip install 'llm_jax[log]' adds matplotlib"
  say(
    f'\n{config.stage} finished in {int(seconds // 60)}:{int(seconds % 60):02d}: '
    f'{model.num_params() / 1e6:.2f}M parameters saw {tokens / 1e6:.2f}M tokens'
    f'{moved}. The artifact is {folder}, its curve {drawn}.\n{next_step(config)}'
  )


def next_step(config: Any) -> str:
  """What the user may do now; `{workdir}` or `{init.params}` stand for fields of the config.

  Raises:
    BadInput: `config.next` names a field that there is not.
  """
  try:
    return config.get('next', '').format(**config)
  except AttributeError:  # of a group that the user has emptied, such as `init` from scratch
    return ''
  except (IndexError, KeyError, ValueError) as error:
    said = ' '.join(str(error).split())
    raise BadInput(
      f'config: next {config.next!r} cannot be filled in ({said}); braces hold a field, such as '
      '{workdir}; write {{ and }} for braces'
    ) from None
