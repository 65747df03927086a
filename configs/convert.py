"""A model of somebody else's as an artifact, and an artifact as a folder for other programs.

python -m llm_jax.main --config=convert --config.source=llama --config.workdir=runs/llama
python -m llm_jax.main --config=convert --config.artifact=runs/tiny/dpo --config.workdir=dpo
(--config.format=gguf writes dpo/model.gguf, for llama.cpp; extra `gguf`.
--config.format=compressed-tensors writes what job compress has made, for vLLM.)
"""

from ml_collections import ConfigDict


def get_config(size: str = 'tiny') -> ConfigDict:
  c = ConfigDict()
  c.job = 'convert'
  c.source = ''  # a Hugging Face folder, which becomes an artifact in `workdir`
  c.artifact = f'runs/{size}/dpo'  # without a source: what becomes a folder of `format` there
  c.format = 'huggingface'  # or 'gguf', for llama.cpp; 'compressed-tensors', for vLLM
  c.workdir = f'runs/{size}/huggingface'
  c.family = ''  # a model_type of theirs, where several have the model of the artifact
  c.type = ''  # of matrices in GGUF: 'q8_0' or 'q4_0'
  c.dtype = ''  # of the weights that are written; '' for that in which they are stored
  c.shard_bytes = 2 * 10**9
  return c
