"""Whole pipelines in one command: from raw text to an assistant, and a report of every stage.

python -m llm_jax.main --config=configs/pipeline.py:gpt      # pretrain, SFT, reward model, PPO
python -m llm_jax.main --config=configs/pipeline.py:llama    # rejection sampling and DPO
python -m llm_jax.main --config=configs/pipeline.py:r1-125m  # verifiable rewards, on one GPU

With --config.rounds=2 a second round of reward model and DPO learns from what users said meanwhile.
With --config.tasks=arc_easy,hellaswag --config.path=benchmarks every model is put to these as well.
With --config.clean.sources.web='crawl/*.warc.gz' a recipe begins with the cleaning of these pages.

A recipe of your own is a tuple of stages, in a file of yours:

    from configs import pipeline

    def get_config(size='tiny'):
      return pipeline.build('mine', ('tokenize', 'pretrain', 'sft', 'dpo', 'grpo'), size)
"""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict, FieldReference

from configs import clean, matches, sizes
from configs.base import Stage
from llm_jax.data import small_talk
from llm_jax.jobs.rounds import makes

RECIPES = {
  # InstructGPT, arXiv:2203.02155.
  'gpt': ('tokenize', 'pretrain', 'sft', 'reward', 'ppo'),
  # The same, taught to refuse what it does not know as in section 4.3.6 of Llama 3's paper. At the
  # tiny size this costs more than it gains, see experiments/hallucination.
  'gpt_refuse': ('tokenize', 'pretrain', 'sft', 'probe', 'refuse', 'reward', 'ppo'),
  # Llama 3, arXiv:2407.21783, section 4: the reward model chooses what the next model imitates.
  # `first` stands for the chat model of the round before, whose answers it chooses from.
  'llama': ('tokenize', 'pretrain', 'reward', 'first:sft', 'best_of_n', 'sft', 'dpo'),
  # DeepSeek-R1, arXiv:2501.12948, with its cold start.
  'r1': ('tokenize', 'pretrain', 'sft', 'grpo'),
}
# Of the last model, at the tiny size.
COMPRESSED = 'compressed:compress:int8'
# Seconds of a step at the tiny size, or of what has no steps, on 2 cores of an AMD EPYC: the time
# that is left is told from them, and from how long stages take on the machine that runs them.
A_STEP = {
  'pretrain': 0.56, 'sft': 0.33, 'reward': 0.53, 'dpo': 0.8, 'ppo': 2.2, 'grpo': 2.0, 'refuse': 0.5,
  'search': 0.4,
}  # fmt: skip
A_STAGE = {'tokenize': 8.0, 'best_of_n': 60.0, 'probe': 30.0, 'compress': 8.0}
A_REPORT = 93.0
# What is shorter at the tiny size than in the single stages; a recipe takes about fifteen minutes.
SHORTER = {
  'gpt': dict(ppo=dict(total_steps=80)),
  'gpt_refuse': dict(ppo=dict(total_steps=80)),
  'llama': dict(
    reward=dict(total_steps=120),
    first=dict(total_steps=200),
    best_of_n=dict(max_prompts=400),
    sft=dict(total_steps=720),
  ),
}
NOTE = (
  'Held-out text (bits per byte) and held-out questions, answered greedily: ten natural prompts '
  '(small talk), word problems with new numbers, names of Python that were taught, in new words, '
  'and new words to spell; first without tools, then by a model that is told of calculator and '
  'spell and may call them. Reward model and KL divergence from the first chat model (nats an '
  'answer) are means over answers sampled at temperature 1.'
)
ASKED = 60  # facts of each class in the report
KNOWLEDGE = (
  ('knowledge/over_refusal', 'known, refused'),
  ('knowledge/taught/right', 'taught, right'),
  *((f'knowledge/{name}/invention', f'{name}, invented') for name in (
    'read', 'unread', 'invented', 'lookalike', 'elsewhere',
  )),
)  # fmt: skip
PROMPTS = (  # asked of every model: first the ten that no training knows
  *(prompt for prompt, _ in small_talk.KEPT),
  'Emily buys 3 apples and 2 oranges. Each orange costs $2. The total is $13. What does each '
  'apple cost?',
  'Max buys 4 oranges at $4 each and 3 cards at $6 each. How much does Max pay?',
  'What is 17 + 25?',
  'What does `os.path.join` do?',
  'Explain `json.dumps` in one sentence.',
  'What is the capital of France?',
)


def get_config(recipe: str = 'gpt') -> ConfigDict:
  """`<recipe>` or `<recipe>-<size>`."""
  name, _, size = recipe.partition('-')
  if name not in RECIPES:
    raise ValueError(f'no recipe {name!r}; choose from: {", ".join(RECIPES)}')
  size = size or 'tiny'
  c = build(name, (*RECIPES[name], *([COMPRESSED] if size == 'tiny' else ())), size)
  if name == 'llama':
    c.sft.init.params = c.get_ref('workdir') + '/pretrain'
    # A program drops what is wrong, then the reward model chooses: imitating wrong answers that it
    # likes cost a third of the accuracy. Its scores stay well below 10.
    c.best_of_n.annotate.steps = ('sample', 'verify', 'reward_model')
    c.best_of_n.annotate.verify.weights = (10.0,)
    c.best_of_n.minimum = 5.0
    # Without it DPO moved away from right answers too, and ended anywhere from 0.075 to 0.250.
    c.dpo.loss.nll_weight = 1.0  # Llama 3 has such a term, section 4.1.4
    c.again.dpo.loss.nll_weight = 1.0
  if 'probe' in c.stages:
    c.probe.splits = ('train',)  # what rows are made of
    c.probe.made_up = 0  # pages are for stage search
  if size == 'tiny':
    for stage, changes in SHORTER.get(name, {}).items():
      c[stage].update(changes)
  return c


def build(name: str, recipe: Sequence[str], size: str = 'tiny') -> ConfigDict:
  """The config of job `pipeline`; each stage is a group, and starts from what came before.

  Where a config names a kind of stage (`base.Stage`) stands the newest stage of that kind: the
  newest policy is trained, the newest reward model judges. Conversations are joined by the newest
  best of n, and after a probe all stages read what it wrote. `workdir`, `seed` and `mesh` of the
  pipeline are those of every stage that is not given its own.

  Args:
    name: of the folder below runs/.
    recipe: names of files in configs/, in order, or of modules of yours with a dot. 'round2:dpo' is
      the stage `round2`, described by configs/dpo.py; so a config may come twice. A third part is
      what the config gets in the place of the size: 'small:compress:gptq'.
    size: one of `sizes.SIZES`.

  Raises:
    ValueError: a stage that needs another before it.
  """
  sizes.model(size)  # refuses an unknown one
  root = f'runs/{name}' if size == 'tiny' else f'runs/{name}-{size}'
  c = ConfigDict(dict(job='pipeline', workdir=root, only='', start='', stale='refuse', seed=0))
  c.mesh = ConfigDict(dict(data=1, fsdp=-1, tensor=1, sequence=1, expert=1))
  expected: dict[str, Any] = {'report': A_REPORT} if size == 'tiny' else {}
  made: dict[str, FieldReference] = {}  # kind -> the newest folder, which follows config.workdir
  names = []
  for entry in recipe:
    stage, file, argument = ([*entry.split(':'), size] if ':' in entry else ['', entry, size])[:3]
    stage = stage or file.rpartition('.')[2]
    if stage in c or stage in ('stages', 'report', 'rounds', 'again'):
      raise ValueError(f'recipe: the name {stage!r} is taken; write another one, as in two:{file}')
    module = importlib.import_module(file if '.' in file else f'configs.{file}')
    config = module.get_config(argument)
    if 'workdir' not in config:
      raise ValueError(f'recipe: {stage!r} is no stage, it leaves nothing to start from')
    if config.job == 'compress':
      config.evals = ConfigDict()  # the report measures it as it does the others
    if 'next' in config:
      config.next = ''  # the pipeline knows what comes next
    for needed in config.get('requires', ()):  # of another job: here a stage of its own
      config.requires = tuple(name for name in config.requires if name != needed)
      del config[needed]
    config.workdir = c.get_ref('workdir') + f'/{stage}'
    config.seed = c.get_ref('seed') + 0
    if 'mesh' in config:
      config.mesh = ConfigDict({axis: c.mesh.get_ref(axis) + 0 for axis in c.mesh})
    _start(config, made, stage)
    if config.get('data', {}).get('name') == 'conversations' and 'answers' in made:
      config.data.sources.best = made['answers'] + '/answers.jsonl'
      if 'weights' in config.data:
        config.data.weights.best = config.data.weights.builtin
    _probed(config, made)
    kind = makes(config)
    # Whoever starts from a policy may start from an encoder, as classifiers do.
    for one in (config.get('stage', config.job), 'policy' if kind == 'encoder' else kind):
      made[one] = config.get_ref('workdir')
    names.append(stage)
    c[stage] = config
    if size == 'tiny' and file in A_STEP:
      expected[stage] = config.get_ref('total_steps').to_float() * A_STEP[file]
    elif size == 'tiny' and file in A_STAGE:
      expected[stage] = A_STAGE[file]
  if 'tokenize' in c and 'clean' not in c:  # a stage once it is given pages; see jobs/command.py
    c.clean = clean.get_config()
    c.clean.workdir = c.get_ref('workdir') + '/clean'
  c.stages = tuple(names)
  c.rounds, c.again = 1, again(c, made, size)
  c.report = report(c, made, size)
  c.tasks, c.path, c.ask = (), '', ConfigDict()
  c.expected = ConfigDict(expected)
  return c


def _probed(config: ConfigDict, made: Mapping[str, FieldReference]) -> None:
  """Adds what the newest probe wrote, so that no later stage undoes or floods refusals."""
  data = config.get('data', ConfigDict())
  kind, sources = data.get('name'), data.get('sources', {})
  rows = [name for name in ('refusals', 'searches') if name in sources]
  if rows and 'probe' not in made:
    raise ValueError(f'recipe: {config.stage!r} needs a probe stage before it')
  if 'probe' not in made:
    return
  steps = config.get('annotate', {}).get('steps', ())
  for name in rows:
    sources[name] = made['probe'] + f'/{name}.jsonl'
  if rows:
    return
  if kind == 'preferences':
    sources.knowledge = made['probe'] + '/preferences.jsonl'
  elif kind == 'prompts' and 'reward_model' in steps and 'verify' not in steps:
    sources.knowledge = made['probe'] + '/refusals.jsonl'  # of these the prompts


def again(c: ConfigDict, made: Mapping[str, FieldReference], size: str) -> ConfigDict:
  """The stages of every later round: feedback of users, the reward model and DPO on it.

  They go on from the reward model and the policy of the round before. Users say little, so the
  reward model hears the pairs that it was made of as well. KTO is there for whoever puts it into
  `stages`: it learns from thumbs alone.
  """
  g = ConfigDict(dict(stages=('feedback', 'reward', 'dpo')))
  for name in (*g.stages, 'kto'):
    g[name] = importlib.import_module(f'configs.{name}').get_config(size)
    g[name].workdir = f'again/{name}'  # of each round its own
  g.feedback.events = c.get_ref('workdir') + '/events.sqlite'
  g.feedback.since = Stage('feedback', '')
  users = g.feedback.get_ref('workdir') + '/preferences.jsonl'
  for stage in (g.reward, g.dpo, g.kto):
    stage.seed, stage.next = c.get_ref('seed') + 0, ''
    stage.mesh = ConfigDict({axis: c.mesh.get_ref(axis) + 0 for axis in c.mesh})
    stage.data.sources.users = users
  if rewards := [c[name] for name in c.stages if makes(c[name]) == 'reward']:
    g.reward.init.params, g.reward.init.fresh = Stage('reward', ''), ()
    known = rewards[-1].data.sources  # which follow what they refer to
    g.reward.data.sources = ConfigDict({name: known.get_ref(name) + '' for name in known})
    g.reward.data.sources.users = users
  g.reward.loss.margin = 'given'
  heard = next(name for name in g.reward.data.sources if name != 'users')
  # Of so few none may be held out; pairs of before say whether the model forgets.
  validation = g.reward.data.sources.get_ref(heard) + ''
  g.dpo.data.sources = ConfigDict(dict(users=users))
  g.kto.data.sources = ConfigDict(dict(users=g.feedback.get_ref('workdir') + '/kto.jsonl'))
  for stage in (g.dpo, g.kto):
    _probed(stage, made)
    stage.data.validation = ConfigDict(dict(users=validation))
  return g


def report(c: ConfigDict, made: Mapping[str, FieldReference], size: str) -> ConfigDict:
  """What every policy of a pipeline is put to; see `Fields` in jobs/report.py.

  Held-out text is that of the first stage that reads packed text, the KL divergence is that from
  the first chat model, and the newest reward model judges.
  """
  evals = ConfigDict()
  evals.questions = dict(
    name='answers',
    prompts=PROMPTS,
    families=('small_talk', 'word_problems', 'python_questions', 'spelling'),
    max_questions=200,
    max_new=96,
    batch_size=64,
  )
  evals.second = dict(  # what becomes of a question that is not the first
    name='answers',
    families=('python_questions',),
    second=True,
    max_questions=200,
    max_new=48,
    batch_size=64,
  )
  evals.tools = dict(
    name='answers',
    families=('word_problems', 'spelling'),
    tools=dict(calculator={}, spell={}),
    max_questions=200,
    max_new=128,
    batch_size=100,
  )
  data = lambda name: c[name].get('data', {})
  texts = [name for name in c.stages if data(name).get('name') == 'packed']
  if texts:
    evals.text = dict(name='perplexity', max_rows=256, batch_size=64)
    evals.text.data = data(texts[0])
  chats = [name for name in c.stages if 'template' in data(name) and makes(c[name]) == 'policy']
  if chats:
    steps = ('sample', 'reference', *(('reward_model',) if 'reward' in made else ()))
    evals.rollouts = dict(name='rollout', max_rows=128, batch_size=64)
    evals.rollouts.data = dict(
      name='prompts',
      sources=dict(builtin='builtin'),
      split='test',
      answer_bytes=0,
      length=64 if size == 'tiny' else 512,
    )
    evals.rollouts.annotate = dict(
      steps=steps,
      sample=dict(max_new=96, temperature=1.0, rescore=True),
      reference=dict(path=c[chats[0]].get_ref('workdir') + ''),
    )
    if 'reward' in made:
      evals.rollouts.annotate.reward_model = dict(path=made['reward'] + '')
  columns: tuple[tuple[str, str], ...] = (
    ('text/bits_per_byte', 'bits per byte of text (lower is better)'),
    ('questions/small_talk/mentions', 'sensible answers to natural prompts'),
    ('questions/word_problems/exact_answer', 'right word problems'),
    ('questions/word_problems/reasons_first', 'word problems reasoned out first'),
    ('questions/python_questions/word_overlap', 'words as expected to Python questions'),
    ('questions/python_questions/same_text', 'right answers to Python questions'),
    ('second/python_questions/same_text', 'right as second questions'),
    ('questions/spelling/same_text', 'right spellings'),
    ('questions', ''),
    ('tools/word_problems/exact_answer', 'right word problems with a calculator'),
    ('tools/spelling/same_text', 'right spellings with a tool'),
    ('rollouts/reward', 'reward of sampled answers'),
    ('rollouts/kl', 'KL from the first chat model'),
  )
  if 'probe' in made:
    known = made['probe'] + '/probe.jsonl'
    evals.knowledge = dict(name='knowledge', most=ASKED, batch_size=64, known=known)
    columns += KNOWLEDGE
  rounds = matches.get_config(size)
  rounds.workdir = c.get_ref('workdir') + '/report/matches'
  rounds.artifacts, rounds.mesh = (), ConfigDict({a: c.mesh.get_ref(a) + 0 for a in c.mesh})
  rounds.judge.path = ''  # that of the round
  rounds.data.max_prompts = 100
  found = ConfigDict(dict(evals=evals, columns=columns, note=NOTE, price=0.0, rounds=rounds))
  found.compute = sizes.compute(size)
  return found


def _start(
  config: ConfigDict, made: Mapping[str, FieldReference], stage: str, used: bool = True
) -> None:
  """Puts the newest stage of its kind into every field that names one.

  Where there is none, the options of an annotator that is not among `steps` lose the field.
  """
  for key, value in list(config.items(preserve_field_references=True)):
    if isinstance(value, ConfigDict):
      _start(value, made, stage, key in config.get('steps', (key,)))
    elif isinstance(value, Stage) and value.kind:
      if value.kind in made:
        config[key] = made[value.kind] + ''
      elif used:
        raise ValueError(f'recipe: {stage!r} needs a {value.kind} stage before it')
      else:
        del config[key]
