"The benchmark for a GPU: its plan runs here with tiny shapes, so that it works the day there is one."
import ast
import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

BENCH = Path(__file__).parent.parent/'bench'/'gpu.py'

@pytest.fixture(scope='module')
def gpu():
    path,spec = list(sys.path),importlib.util.spec_from_file_location('bench_gpu', BENCH)
    module = importlib.util.module_from_spec(spec)
    sys.modules['bench_gpu'] = module
    spec.loader.exec_module(module)
    sys.path[:] = path
    return module

@pytest.mark.filterwarnings('ignore')
def test_the_whole_plan_runs_with_tiny_shapes(gpu, tmp_path, capsys):
    out = tmp_path/'gpu.jsonl'
    records = gpu.main(['--tiny', '--steps', '2', '--out', str(out)])
    assert [json.loads(line) for line in out.read_text().splitlines()]==[gpu.machine(torch.device('cpu')) | r for r in records]
    assert not [r for r in records if 'problem' in r]
    assert {r['part'] for r in records}=={'train', 'long', 'alibi', 'graphs', 'kernels'}
    assert {r['compiled'] for r in records if 'compiled' in r}=={'blocks', 'graphs', 'eager'}
    trained = [r for r in records if r['part'] != 'kernels']
    assert all(r['loss'][1] < r['loss'][0] and r['step_ms'] > 0 and r['tokens_per_second'] > 0 for r in trained)
    assert {r['kernel'] for r in records if r['part']=='kernels'} >= {'dense', 'pieces', 'sdpa', 'varlen', 'flex', 'xformers'}
    said = capsys.readouterr().out
    assert 'ALiBi beside plain causal attention at 16 tokens' in said and 'ALiBi beside plain causal attention at 32 tokens' in said

def test_the_real_plan_is_the_six_presets_and_long_texts(gpu):
    jobs = [j for j in gpu.plan(tiny=False) if j != 'kernels']
    assert {(j.model, j.T) for j in jobs if j.part=='train'}=={(f'{f}-{s}', 2048) for f in ('palm', 'mpt') for s in ('100m', '500m', '1b')}
    assert {(j.model, j.T) for j in jobs if j.part=='long'}=={('palm-1b', 8192), ('mpt-1b', 8192)}
    assert {(j.model, j.T, gpu.config_of(j).positions) for j in jobs if j.part=='alibi'}=={('mpt-1b', T, 'learned') for T in (2048, 8192)}
    assert all(gpu.config_of(j).max_len==j.T for j in jobs)

def test_utilisation_follows_both_formulas(gpu, monkeypatch):
    "A device of 1 TFLOP/s: what is used is operations a token times tokens a second."
    from andromeda.model import flops_per_token
    monkeypatch.setattr(gpu, 'peak_flops', lambda device: 1e12)
    job = gpu.Job('train', 'mpt-tiny', 16, 2, pieces=1, how='eager')
    r = gpu.measure(job, torch.device('cpu'), 2, 'eager', torch.bfloat16)
    speed = r['tokens_a_step']/r['step_ms']*1000
    for name in ('full', 'causal'):
        assert r[f'mfu_{name}']==pytest.approx(speed*flops_per_token(gpu.config_of(job), 16, causal=name=='causal')/1e12, abs=2e-4, rel=.02)

def test_what_does_not_run_is_written_down_and_the_rest_goes_on(gpu, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu, 'measure', lambda job, *a: (_ for _ in ()).throw(torch.OutOfMemoryError('too large')))
    records = gpu.main(['--tiny', '--only', 'train', '--out', str(tmp_path/'r.jsonl')])
    assert [r['problem'] for r in records]==['OutOfMemoryError: too large']*2
    records = gpu.main(['--tiny', '--only', 'long', '--minutes', '-1'])
    assert [r['problem'] for r in records]==['-1 minutes are over']*2

@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_without_a_gpu_it_says_so_and_writes_nothing(gpu, capsys):
    before = set((BENCH.parent.parent/'data'/'records').iterdir())
    assert gpu.main([]) is None and 'nothing is measured' in capsys.readouterr().out
    assert set((BENCH.parent.parent/'data'/'records').iterdir())==before

def test_it_needs_torch_numpy_and_safetensors_only():
    names = {n.name.split('.')[0] for node in ast.walk(ast.parse(BENCH.read_text())) if isinstance(node, ast.Import) for n in node.names}
    names |= {node.module.split('.')[0] for node in ast.walk(ast.parse(BENCH.read_text())) if isinstance(node, ast.ImportFrom)}
    assert names - set(sys.stdlib_module_names)=={'torch', 'andromeda'}                      # the floors of tests/test_floors.py see to the rest

@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
@pytest.mark.parametrize('how', ['blocks', 'graphs'])
def test_compiled_and_played_back_it_learns_as_it_does_eagerly(gpu, how):
    job = gpu.Job('train', 'mpt-tiny', 128, 4, pieces=2)
    losses = [gpu.measure(gpu.replace(job, how=h), torch.device('cuda'), 4, 'inductor', torch.bfloat16)['loss'] for h in (how, 'eager')]
    assert losses[0]==pytest.approx(losses[1], abs=.02)
