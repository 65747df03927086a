"""Classes by text: a model of language learns to say the name of the class behind the text.

python -m llm_jax.main --config=configs/classify_text.py --config.data.path='reviews/{split}.csv' \
  --config.data.classes="('bad','good')" --config.data.variant.prompt='{review}
Answer:'

Its rows are those of configs/classify.py, so that both can be compared. It is evaluated as any task
is, by which name is likelier.
"""

from ml_collections import ConfigDict

from configs import classify


def get_config(size: str = 'tiny') -> ConfigDict:
  c = classify.get_config(size)
  c.stage, c.workdir = 'classify_text', f'runs/{size}/classify_text'
  del c.model['head'], c.model['classes'], c.init['fresh']
  c.data.form = 'text'
  c.loss = ConfigDict(dict(name='cross_entropy'))
  task = dict(name='task', task=c.data.get_ref('task') + '', path=c.data.get_ref('path') + '')
  c.evals.validation = ConfigDict(task)
  c.evals.validation.variant = dict(
    prompt=c.data.variant.get_ref('prompt') + '', classes=c.data.get_ref('classes') + ()
  )
  c.publish = 'last'
  c.next = 'Put it to benchmarks: python -m llm_jax.main --config=configs/evaluate.py'
  return c
