"""A model in few bits, which every job but training reads, and a report of what that costs.

python -m llm_jax.main --config=configs/compress.py --config.artifact=runs/tiny/dpo
python -m llm_jax.main --config=configs/compress.py:gptq --config.artifact=runs/tiny/dpo
(:int8, :int4, :gptq, :awq and :fp8 are the methods; `gptq` and `awq` read calibration text.)
"""

from ml_collections import ConfigDict

from configs.base import Stage

METHODS = {
  'int8': dict(name='round', bits=8, group=0),
  'int4': dict(name='round', bits=4, group=32, kind='asymmetric'),
  'gptq': dict(name='gptq', bits=4, group=32, kind='asymmetric', order='act', scales=True),
  'awq': dict(name='awq', bits=4, group=32, kind='asymmetric'),
  'fp8': dict(name='fp8'),
}


def get_config(method: str = 'int8') -> ConfigDict:
  if method not in METHODS:
    raise ValueError(f'no method {method!r}; choose from: {", ".join(METHODS)}')
  c = ConfigDict()
  c.job = 'compress'
  c.artifact = Stage('policy', 'runs/tiny/dpo')
  c.workdir = f'runs/tiny/{method}'
  c.method = ConfigDict(METHODS[method])
  c.tables = ()  # 'embedding' and 'head' may become int8, too
  c.data = ConfigDict()  # by default the text that the model was trained on last
  c.max_rows = 128
  c.batch_size = 8
  c.evals = ConfigDict(dict(text=dict(name='perplexity', max_rows=256, batch_size=16)))
  c.tasks = ()
  c.path = ''
  c.ask = ConfigDict()
  c.compute = ConfigDict(dict(scan_layers=False))
  c.mesh = ConfigDict(dict(data=1, fsdp=-1, tensor=1))
  c.seed = 0
  c.trust = ()
  return c
