"""A sweep whose trials train nothing, in processes of its own: `python toysweep.py FOLDER WORKERS` keeps workers at it, `python toysweep.py FOLDER --worker N` is one.

A trial takes ANDROMEDA_TOY seconds (default .3), and is best at a learning rate of 6e-3 and a batch of 4. From the third on trials stand still half way
while there is a file `hold` in the sweep's folder.
"""
import math
import os
import subprocess
import sys
import time
from pathlib import Path

from andromeda.sweeps import Range, Sweep, run_sweep, work

SPACE = {'stages.*.peak_lr': Range(.25, 4, log=True, times=True), 'batch': [2, 4, 8]}
HERE = str(Path(__file__).absolute())


def made(folder):
    "Shards of numbers and a recipe for them, for `create_sweep`."
    from andromeda.shards import build_shards
    from andromeda.stages import Corpus, Recipe, Stage
    from andromeda.tokenizer import build_tokenizer
    docs = [dict(id=f'{i:016x}', group=str(i), text=f'{i} is followed by {i+1}. '*4) for i in range(300)]
    tokenizer = build_tokenizer(folder/'tokenizer', [d['text'] for d in docs], 300, {})
    stage = Stage(name='one', tier='high', tokens=24*4*16, peak_lr=3e-3)
    recipe = Recipe(name='count', model='mpt-tiny', corpus=Corpus(sources=('numbers',), vocab=300), length=16, batch=4, checkpoint_every=5, evaluation_bytes=500, stages=(stage,))
    return recipe, dict(tiers=dict(numbers='high'), shards=dict(numbers=build_shards(lambda: docs, folder/'shards'/'numbers', tokenizer, {})), tokenizer=tokenizer)


def train(sweep, index, recipe, report):
    best = abs(math.log(recipe.stages[0].peak_lr/6e-3)) + .2*abs(math.log2(recipe.batch/4))
    for i in range(10):
        report(recipe.stages[0].tokens*i/9, 1+best+3*math.exp(-i/2))
        while i == 5 and index > 1 and (sweep.folder/'hold').exists(): time.sleep(.05)
        time.sleep(float(os.environ.get('ANDROMEDA_TOY', .3))/10)
    return 1+best


def command(*words, **how):
    return subprocess.Popen([sys.executable, HERE, *map(str, words)], env=os.environ | dict(PYTHONPATH=os.pathsep.join(p for p in sys.path if p)), **how)


def launch(sweep, workers):
    "As `launch_sweep`, for the toy."
    return command(sweep.folder, workers, start_new_session=True)


if __name__ == '__main__':
    sweep = Sweep(Path(sys.argv[1]))
    if sys.argv[2] == '--worker': work(sweep, train, worker=int(sys.argv[3]))
    else:
        for _ in run_sweep(sweep, int(sys.argv[2]), every=.1, start=lambda sweep, n, first=0: [command(sweep.folder, '--worker', first+i) for i in range(n)]): pass
