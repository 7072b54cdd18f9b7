"""What a run costs beside the bare loop, and how long it stands still when one of two processes is killed.

    python bench/training.py              both parts, about four minutes; or name one: overhead, elastic

overhead: a run with records, guards and status takes a step, then a bare loop takes one on an equal model and batch, in the same process,
`--steps` times. CPU seconds of the bare loop are those of its thread, those of the run all of the process in its turn, threads included. A
checkpoint is weighed by itself. Models: `palm-small` and `mpt-small`, the stand-ins for the 100M presets that fit one core.
elastic: two processes under torchrun; the second one is killed with SIGKILL; seconds until the first record of a step after the restart.
Appends to data/records/training.jsonl.
"""
import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import torch

import andromeda.trainer as trainer
from andromeda.model import LM, parameter_count
from andromeda.optim import make_optimizer
from andromeda.runs import create_run, launch
from andromeda.shards import build_shards
from andromeda.stages import Corpus, Recipe, Stage, model_config
from andromeda.tokenizer import build_tokenizer
from andromeda.train import next_token


def data(folder, documents=3000):
    "Made-up text, tokenized; enough for every step here."
    docs = [dict(id=f'{i:016x}', group=str(i), text=' '.join(f'{i*k} is followed by {i*k+1}.' for k in range(1, 40))) for i in range(documents)]
    tokenizer = build_tokenizer(folder/'tokenizer', [d['text'] for d in docs[:200]], 300, {})
    return dict(tiers=dict(numbers='high'), shards=dict(numbers=build_shards(lambda: docs, folder/'shards'/'numbers', tokenizer, {})), tokenizer=tokenizer)


def overhead(model, steps, rows):
    "Without checkpoints but the last; that one is weighed by itself, and counts as one in 500 steps, the recipes' default."
    with tempfile.TemporaryDirectory() as folder:
        recipe = Recipe(name=model, model=model, corpus=Corpus(sources=('numbers',), vocab=4096), length=256, batch=rows,
                        stages=(Stage(name='one', tier='high', tokens=steps*rows*256, peak_lr=1e-3),))
        run = create_run(Path(folder)/'run', recipe, **data(Path(folder)))
        plain = LM(model_config(recipe), seed=0)
        optimizer = make_optimizer(plain, 1e-3)
        pairs,saves,resumed,original,save = [],[],[0.],trainer.train_stages,trainer._save
        def both(recipe, model, optimizer_, mixture, *rest):
            for step,record in enumerate(original(recipe, model, optimizer_, mixture, *rest)):
                ours = time.process_time()-resumed[0]
                began = time.thread_time()
                optimizer.zero_grad(set_to_none=True)
                total,n = next_token(plain, torch.from_numpy(mixture.batch_at(0, step)))
                (total/n).backward()
                torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.)
                optimizer.step()
                bare = time.thread_time()-began
                resumed[0] = time.process_time()
                yield record
                pairs.append([ours, bare])
                after = time.process_time()                 # what the run did with the record
                pairs[-1].append(after-resumed[0])
                resumed[0] = after
        def weighed(*a, **k):
            began = time.process_time()
            done = save(*a, **k)
            saves.append(time.process_time()-began)
            return done
        trainer.train_stages,trainer._save = both,weighed
        trainer.train_run(run.folder, lambda model, stage, last: {}, lambda model, stage: [])
        trainer.train_stages,trainer._save = original,save
        size = sum(f.stat().st_size for f in (run.folder/'checkpoints'/f'step_{steps}').iterdir())
    kept = pairs[1:-1]                                      # the first warms up, the last saves
    mean = lambda values: sum(values)/len(values)
    ours,bare = mean([a+c for a,_,c in kept]),mean([b for _,b,_ in kept])
    return dict(part='overhead', model=model, parameters=parameter_count(model_config(recipe)), tokens_a_step=rows*256, steps=len(kept), bare_ms=round(1e3*bare, 1), run_ms=round(1e3*ours, 1),
                after_the_record_ms=round(1e3*mean([c for *_,c in kept]), 2), ratio_of_means=round(ours/bare, 4), median_of_ratios=round(median([(a+c)/b for a,b,c in kept]), 4),
                checkpoint_ms=round(1e3*saves[-1], 1), checkpoint_bytes=size, bookkeeping_share=round((mean([c for *_,c in kept])+saves[-1]/500)/bare, 4))


def elastic():
    with tempfile.TemporaryDirectory() as folder:
        recipe = Recipe(name='two', model='mpt-tiny', corpus=Corpus(sources=('numbers',), vocab=300), length=64, batch=8, checkpoint_every=10,
                        stages=(Stage(name='one', tier='high', tokens=150*8*64, peak_lr=1e-3),), max_epochs=100)
        run = create_run(Path(folder)/'run', recipe, **data(Path(folder), 300))
        process = launch(run, processes=2)
        def until(condition):
            while not (found := condition()):
                assert process.poll() is None, (run.folder/'log.txt').read_text()[-3000:]
                time.sleep(.02)
            return found
        until(lambda: run.status.get('saved') and run.status['step'] > 20)
        children = [int(c) for c in subprocess.run(['pgrep', '-P', str(process.pid)], capture_output=True, text=True).stdout.split()]
        workers = [c for c in children if str(run.folder) in Path(f'/proc/{c}/cmdline').read_text()]
        first = run.status['pid']
        os.kill(next(c for c in workers if c != first), signal.SIGKILL)
        began,at,inode = time.monotonic(),run.metrics()[-1]['step'],(run.folder/'metrics.jsonl').stat().st_ino
        until(lambda: run.status['pid'] != first)
        log = run.folder/'metrics.jsonl'
        until(lambda: log.stat().st_ino != inode)                                       # cut back to the checkpoint
        restored = run.metrics()[-1]['step']
        until(lambda: run.metrics()[-1]['step'] > restored)
        seconds = time.monotonic()-began
        process.wait(300)
        whole = run.status['state'] == 'finished' and [r['step'] for r in run.metrics()] == list(range(1, 151))
    return dict(part='elastic', processes=2, killed_at=at, went_on_from=restored, seconds_down=round(seconds, 1), finished_with_every_step_once=whole)


def main():
    words = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    words.add_argument('parts', nargs='*', default=['overhead', 'elastic'])
    words.add_argument('--steps', type=int, default=60)
    words.add_argument('--rows', type=int, default=4, help='of 256 tokens in a step')
    words.add_argument('--models', nargs='+', default=['palm-small', 'mpt-small'])
    args = words.parse_args()
    torch.set_num_threads(1)
    found = [overhead(m, args.steps, args.rows) for m in args.models] if 'overhead' in args.parts else []
    if 'elastic' in args.parts: found.append(elastic())
    where = dict(date=time.strftime('%Y-%m-%d'), cores=os.cpu_count(), torch=torch.__version__, python=platform.python_version(), load=round(os.getloadavg()[0], 1))
    for record in found:
        print(json.dumps(record), flush=True)
        with open(ROOT/'data'/'records'/'training.jsonl', 'a') as f: f.write(json.dumps(record | where)+'\n')


if __name__ == '__main__': main()
