"""lm-evaluation-harness puts the same questions to our models, and gets the numbers that we get."""

import importlib.util
import json

import pytest

from llm_jax.main import run
from llm_jax.types import BadInput
from tests.jobs.evaluate_tasks_test import config_of, root, samples  # noqa: F401

COLOURS = """
task: their_colours
dataset_path: json
dataset_kwargs:
  data_files: {{validation: "{data}"}}
output_type: multiple_choice
validation_split: validation
doc_to_text: "What colour is {{{{thing}}}}?\\nAnswer:"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: gold
metric_list:
  - metric: acc
  - metric: acc_norm
"""
WORDS = """
task: their_words
dataset_path: json
dataset_kwargs:
  data_files: {{validation: "{data}"}}
output_type: generate_until
validation_split: validation
doc_to_text: "{{{{thing}}}} is"
doc_to_target: "{{{{choices[gold]}}}}"
generation_kwargs: {{until: ["\\n\\n"], max_gen_toks: 4}}
metric_list:
  - metric: exact_match
"""
TEXTS = """
task: their_texts
dataset_path: json
dataset_kwargs:
  data_files: {{validation: "{data}"}}
output_type: loglikelihood_rolling
validation_split: validation
doc_to_text: ""
doc_to_target: "The {{{{thing}}}} is {{{{choices[0]}}}}."
metric_list:
  - metric: word_perplexity
  - metric: bits_per_byte
"""


def test_without_the_harness_one_line_says_how_to_get_it(root, tmp_path, monkeypatch):  # noqa: F811
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  c = config_of(root, tmp_path / 'out', 'second')
  c.backend, c.tasks, c.ask = 'lm_eval', ('arc_easy',), {}
  with pytest.raises(BadInput) as error:
    run(c)
  assert "pip install 'llm_jax[eval]'" in str(error.value) and '\n' not in str(error.value)


@pytest.mark.skipif(not importlib.util.find_spec('lm_eval'), reason='lm_eval is not installed')
def test_the_harness_gets_our_numbers(root, tmp_path, monkeypatch):  # noqa: F811
  monkeypatch.setenv('HF_HOME', str(tmp_path / 'hub'))
  monkeypatch.setenv('HF_DATASETS_OFFLINE', '1')
  (tmp_path / 'yaml').mkdir()
  for name, text in dict(colours=COLOURS, words=WORDS, texts=TEXTS).items():
    written = text.format(data=root / 'data' / 'colours.jsonl')
    (tmp_path / 'yaml' / f'{name}.yaml').write_text(written)
  theirs, ours = (config_of(root, tmp_path / name, 'first', asked=('colours', 'words', 'texts'))
                  for name in ('theirs', 'ours'))  # fmt: skip
  theirs.backend, theirs.path = 'lm_eval', str(tmp_path / 'yaml')
  theirs.tasks = ('their_colours', 'their_words', 'their_texts')
  run(theirs)
  run(ours)
  facts = [
    json.loads((tmp_path / name / 'evaluate.json').read_text()) for name in ('theirs', 'ours')
  ]
  found, wanted = (one['intervals'][theirs.artifacts[0]] for one in facts)
  (place,) = (tmp_path / 'ours').glob('*first')
  (their_place,) = (tmp_path / 'theirs').glob('*first')
  for name in ('acc', 'acc_norm'):
    assert found[f'their_colours/{name}'] == wanted[f'colours/{name}']
  said = [row['answer'] for row in samples(their_place, 'their_words')]
  assert said == [str([row['answer']]) for row in samples(place, 'words')]
  metrics = [one['metrics'][theirs.artifacts[0]] for one in facts]
  assert metrics[0]['their_texts/bits_per_byte'] == pytest.approx(
    metrics[1]['texts/bits_per_byte'], rel=1e-5
  )
