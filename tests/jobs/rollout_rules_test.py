"""A config whose sampler and trainer would mean different policies is refused, in one line."""

import jax
import pytest
from ml_collections import ConfigDict

from llm_jax.jobs import rollout_rules, train
from llm_jax.jobs.chain import chain
from llm_jax.jobs.rollout_rules import reuse_of
from llm_jax.losses import policy_gradient
from llm_jax.sampling.pick import TRUNCATIONS
from llm_jax.types import BadInput
from tests.configs_test import TRAINING, config_of


def check_rollout(config):
  rollout_rules.check_rollout(config, chain(config))


def changed(stage='grpo', **changes):
  """A stage's config; `sample_top_k=5` changes `annotate.sample.top_k`.

  Temperatures of loss and reference follow the sampler's until they are given here.
  """
  c = config_of(stage)
  groups = dict(sample=c.annotate.get('sample'), reference=c.annotate.get('reference'), loss=c.loss)
  for name, value in changes.items():
    group, _, option = name.partition('_')
    if group in groups:
      if group != 'sample' and option in groups[group]:
        del groups[group][option]
      groups[group][option] = value
    else:
      c[name] = ConfigDict(value) if isinstance(value, dict) else value
  return c


@pytest.mark.parametrize('stage', TRAINING)
def test_every_config_passes(stage):
  check_rollout(config_of(stage))


def test_configs_that_reinforce_are_checked():
  for stage in ('grpo', 'ppo', 'dapo', 'reinforce_plus_plus'):
    others = dict(loss_temperature=1.0)
    others |= dict(reference_temperature=1.0) if 'reference' in config_of(stage).annotate else {}
    with pytest.raises(BadInput, match='temperature 0 explores nothing'):
      check_rollout(changed(stage, sample_temperature=0.0, **others))


@pytest.mark.parametrize(
  ('stage', 'changes', 'message'),
  [
    (
      'grpo',
      dict(loss_temperature=0.7),
      'loss.temperature 0.7 differs from annotate.sample.temperature 1.0; log-probabilities would '
      'be those of another policy; set both alike',
    ),
    (
      'ppo',
      dict(reference_temperature=0.7),
      'annotate.reference.temperature 0.7 differs from annotate.sample.temperature 1.0; '
      'log-probabilities would be those of another policy; set both alike',
    ),
    (
      'grpo',
      dict(sample_temperature=0, loss_temperature=1.0),
      'annotate.sample: temperature 0 explores nothing; set it above 0, 1 is usual',
    ),
    (
      'grpo',
      dict(sample_top_k=50),
      'annotate.sample.top_k: what is sampled would not be the policy that is trained; set '
      'config.loss.importance_cap, 2.0 is usual, or remove top_k',
    ),
    (
      'grpo',
      dict(sample_tools=ConfigDict(dict(calculator={}, search=dict(quotes='words')))),
      'annotate.sample.tools.search.quotes: what is sampled would not be the policy that is '
      'trained; set config.loss.importance_cap, 2.0 is usual, or remove tools.search.quotes',
    ),
    (
      'grpo',
      dict(rollout=dict(epochs=2), checkpoint_every=20),
      'annotate.sample: a rollout serves 2 updates (config.rollout), which needs old_logp; set '
      'rescore=True',
    ),
    (
      'ppo',
      dict(rollout=dict(epochs=2, minibatches=4), checkpoint_every=20),
      'config: checkpoint_every 20 is not a multiple of rollout.epochs * rollout.minibatches = 8; '
      'a run can only go on from between two rollouts, so use 16',
    ),
    (
      'ppo',
      dict(rollout=dict(epochs=2, minibatches=4), checkpoint_every=3),
      'config: checkpoint_every 3 is not a multiple of rollout.epochs * rollout.minibatches = 8; '
      'a run can only go on from between two rollouts, so use 8',
    ),
    (
      'sft',  # checkpoints fall between rollouts whatever is trained
      dict(rollout=dict(minibatches=3)),
      'config: checkpoint_every 200 is not a multiple of rollout.epochs * rollout.minibatches = 3; '
      'a run can only go on from between two rollouts, so use 198',
    ),
    (
      'grpo',
      dict(rollout=dict(minibatches=0)),
      'rollout: minibatches 0; choose a whole number from 1 upwards',
    ),
    (
      'grpo',
      dict(sample_group=1),
      'annotate.sample: group 1, and annotate.group_advantage compares the answers to a prompt: '
      'with one each nothing is learnt; set group to at least 2, 8 is usual',
    ),
    (
      'grpo',
      dict(rollout=dict(epoch=2)),
      "rollout: unknown option 'epoch'; did you mean 'epochs'?",
    ),
    (
      'grpo',
      dict(rollout=dict(seed=2)),  # those are of the run
      "rollout: unknown option 'seed'; choose from: epochs, minibatches",
    ),
  ],
  ids=lambda x: ' '.join(str(x).split())[:50],
)
def test_what_does_not_agree_is_refused(stage, changes, message):
  with pytest.raises(BadInput) as error:
    check_rollout(changed(stage, **changes))
  assert str(error.value) == message


@pytest.mark.parametrize('option', TRUNCATIONS)
def test_every_option_that_changes_what_is_sampled_needs_a_correction(option):
  sampled = {f'sample_{option}': 5 if option == 'top_k' else 0.9}
  with pytest.raises(BadInput, match=rf'^annotate\.sample\.{option}: '):
    check_rollout(changed(**sampled))
  check_rollout(changed(**sampled, loss_importance_cap=2.0))
  check_rollout(changed(**{f'sample_{option}': None}))
  check_rollout(changed('rejection', **sampled))  # which has no advantages


def test_a_loss_that_cannot_correct_is_not_told_to():
  c = changed(sample_min_p=0.1)
  c.loss = ConfigDict(dict(name='cross_entropy'))
  with pytest.raises(BadInput) as error:
    check_rollout(c)
  assert str(error.value).endswith('the policy that is trained; remove min_p')


@pytest.mark.parametrize(
  ('stage', 'changes'),
  [
    ('grpo', dict(sample_temperature=0.7)),  # that of the loss follows
    ('ppo', dict(sample_temperature=0.7)),
    ('grpo', dict(rollout=dict(epochs=2), sample_rescore=True)),
    ('ppo', dict(rollout=dict(epochs=2, minibatches=4))),
    ('ppo', dict(rollout={})),
    ('on_policy_distill', dict(sample_temperature=0.0)),
    ('rejection', dict(sample_top_k=5)),
  ],
  ids=str,
)
def test_what_agrees_is_not(stage, changes):
  check_rollout(changed(stage, **changes))


def test_a_preset_may_hold_what_is_asked_for(monkeypatch):
  presets = policy_gradient.PRESETS | {'corrected': dict(importance_cap=2.0, temperature=0.5)}
  monkeypatch.setattr(policy_gradient, 'PRESETS', presets)
  c = changed(sample_top_p=0.9)
  c.annotate.sample.temperature = 0.5
  c.loss = ConfigDict(dict(name='policy_gradient', preset='corrected'))
  check_rollout(c)


def test_a_rollout_serves_one_step_unless_said():
  assert reuse_of(ConfigDict()) == 1
  assert reuse_of(ConfigDict(dict(rollout={}))) == 1
  assert reuse_of(ConfigDict(dict(rollout=dict(epochs=3)))) == 3
  assert reuse_of(ConfigDict(dict(rollout=dict(epochs=3, minibatches=4)))) == 12


def test_it_is_asked_before_the_artifacts_and_before_anything_is_compiled(tmp_path, monkeypatch):
  c = changed(loss_temperature=0.5, workdir=str(tmp_path / 'run'))
  c.init.params = str(tmp_path / 'missing')
  monkeypatch.setattr(jax, 'jit', None)
  with pytest.raises(BadInput, match=r'differs from annotate\.sample\.temperature'):
    train.check(c)
