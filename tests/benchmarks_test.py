"""Benchmarks run without their peers, and print a table that says what it was made on."""

import json

import pytest

from experiments.benchmarks import __main__ as everything
from experiments.benchmarks import aot, turns


@pytest.mark.slow
def test_reading_is_measured_without_peers():
  table = everything.measure('data_vs_torch', ['--blocks', '1', '--steps', '2', '--peers', ''])
  assert table['tokens_per_second']['llm_jax'] > 0 and table['ratio'] == {}
  assert table['machine'] and table['date'] and table['first_step_seconds']['llm_jax'] >= 0


@pytest.mark.slow
def test_cleaning_is_measured():
  table = everything.measure('minhash_vs_peers', ['--blocks=1', '--pages=3', '--peers='])
  assert table['pages_per_second']['llm_jax'] > 0 and table['characters a page'] > 1000
  table = everything.measure('clean_vs_datatrove', ['--blocks=1', '--pages=3', '--peers='])
  assert table['megabytes_per_second']['llm_jax'] > 0 and table['pages'] == 3
  steps = everything.measure('clean_memory', ['--pages=300'])['table']
  assert steps['exact']['dropped'] == 29 and steps['minhash']['pages'] == 271
  assert steps['minhash']['dropped'] > 20 and steps['lines']['found'] > 100
  assert all(step['peak_gigabytes'] > 0 for step in steps.values())


def test_what_fails_is_said():
  table = everything.measure('data_vs_torch', ['--length', 'many'])
  assert "invalid int value: 'many'" in table['failed'][0]


def test_rates_are_of_the_time_that_workers_tell(tmp_path, monkeypatch):
  # A worker that says each step took half a second, and another that says a quarter.
  (tmp_path / 'worker.py').write_text(
    'import json, sys\n'
    "share = {'ours': 0.5, 'theirs': 0.25}[sys.argv[-1]]\n"
    'for line in sys.stdin:\n'
    "  print('noise'); print(json.dumps({'seconds': share * int(line), 'loss': 0}), flush=True)\n"
  )
  monkeypatch.setenv('PYTHONPATH', str(tmp_path))
  monkeypatch.chdir(tmp_path)
  table = turns.take('worker', ['ours', 'theirs'], [], steps=4, blocks=3, tokens=100)
  assert table['tokens_per_second'] == {'ours': 200, 'theirs': 400}
  assert table['ratio'] == {'theirs': 0.5} and table['ratio_of_pairs'] == {'theirs': [0.5] * 3}
  assert table['first_step_seconds'] == {'ours': 0.5, 'theirs': 0.2}
  assert (table['gigabytes']['ours'] or 1) > 0


def test_a_case_of_the_compiled_step_is_a_plan(tmp_path, monkeypatch, capsys):
  c = aot.config_of('8b,v5p:4x4x4,rows=16,length=8192,fsdp=8,tensor=8,remat=dots,layers=4', 'out')
  assert (c.hardware, c.search, c.length, c.train.batch_size) == ('v5p:4x4x4', False, 8192, 16)
  assert (c.train.mesh.fsdp, c.train.mesh.tensor, c.train.compute.remat) == (8, 8, 'dots')
  assert c.train.model.num_layers == 4 and c.output == 'out'
  c = aot.config_of('8b,v6e:16x16*2,rows=512,length=8192,data=2,experts=8,expert=4', 'out')
  assert (c.hardware, c.train.mesh.data, c.train.mesh.expert) == ('v6e:16x16*2', 2, 4)
  assert c.train.model.experts.to_dict() == {'count': 8, 'per_token': 2}
  (tmp_path / 'peer.txt').write_text(
    'ENTRY %main (x: bf16[8]) -> bf16[16] {\n'
    '  %x = bf16[10000000]{0} parameter(0)\n'
    '  %y = bf16[10000000]{0} copy(%x), backend_config={'
    f'"estimated_cycles":"{2**63 - 1}"}}\n'
    '  ROOT %z = bf16[2000000000]{0} all-gather(%y), replica_groups={{0,1}}, backend_config={'
    '"estimated_cycles":"3000000"}\n}\n'
  )
  monkeypatch.setattr(aot, 'of_case', lambda case: {'case': case})
  monkeypatch.setattr('sys.argv', ['aot', 'a', '--text', f'peer={tmp_path}/peer.txt'])
  aot.main()
  assert json.loads(capsys.readouterr().out)['table'] == {
    'a': {'case': 'a'},
    'peer': {
      'received_gigabytes': 2.0,
      'received_by': {'all-gather': 2.0},
      'estimated_megacycles': 3,
      'copied_gigabytes': 0.02,
    },
  }
