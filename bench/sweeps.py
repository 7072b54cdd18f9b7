"""A sweep of 50 toy trials (tests/toysweep.py) by one worker, by two, and by two of which one or the other is killed ten times: what is lost, and what is the same.

    python bench/sweeps.py [METHOD] [PART ..]     tpe (default) or random; parts: one, again, two, kills; default all, some minutes

A part that is finished in BENCH_WORK is not done again. Appends to data/records/sweeps.jsonl once all are there.
"""
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORK = Path(os.environ.get('BENCH_WORK', '/dev/shm/andromeda-bench-sweeps' if Path('/dev/shm').is_dir() else '/tmp/andromeda-bench-sweeps'))
sys.path[:0] = [str(ROOT), str(ROOT/'tests')]
TRIALS,KILLS,PARTS = 50,10,('one', 'again', 'two', 'kills')

from toysweep import HERE, SPACE, made, train  # noqa: E402

from andromeda.sweeps import STARTUP, best_trial, create_sweep, run_sweep, trials, work  # noqa: E402


def start(sweep, workers, first=0):
    return [subprocess.Popen([sys.executable, HERE, str(sweep.folder), '--worker', str(first+i)], env=os.environ | dict(PYTHONPATH=str(ROOT), ANDROMEDA_TOY='.5')) for i in range(workers)]


def part(name, method, recipe, data):
    "The finished sweep, and how many kills it took."
    sweep = create_sweep(WORK/method/name, recipe, SPACE, **data, trials=TRIALS, method=method, heartbeat=1, retries=KILLS)
    if name in ('one', 'again'):
        os.environ['ANDROMEDA_TOY'] = '0'
        work(sweep, train)
        return sweep
    note = WORK/method/f'{name}.killed'
    r,killed,pids = random.Random(0),int(note.read_text()) if note.exists() else 0,set()
    def started(*a, **k):
        new = start(*a, **k)
        pids.update(p.pid for p in new)
        return new
    for rows in run_sweep(sweep, 2, every=.3, start=started):
        done = sum(t['state'] == 'complete' for t in rows)
        running = [int(t['worker'].split(':')[1]) for t in rows if t['state'] == 'running' and t['worker']]
        if name == 'kills' and killed < KILLS and done >= killed*(TRIALS-6)//KILLS and (alive := [p for p in running if p in pids]):
            os.kill(pid := r.choice(alive), signal.SIGKILL)
            pids.remove(pid)
            killed += 1
            note.write_text(str(killed))
    return sweep


def points(sweep): return [{w: t[w] for w in SPACE} for t in trials(sweep)]


def main(method='tpe', *parts):
    import optuna
    WORK.mkdir(parents=True, exist_ok=True)
    recipe,data = made(WORK)
    found = {}
    for name in parts or PARTS:
        began = time.time()
        found[name] = part(name, method, recipe, data)
        print(name, found[name], f'{time.time()-began:.0f} s', flush=True)
    found = {name: part(name, method, recipe, data) for name in PARTS if (WORK/method/name/'study.db').exists()}
    if any(t['state'] in ('waiting', 'running') for s in found.values() for t in trials(s)) or set(found) != set(PARTS): return print('the other parts are still to do')
    one,again,two,shaken = (found[n] for n in PARTS)
    states = [t.state.name for t in shaken.study.get_trials()]
    same = lambda a, b: sum(p == q for p,q in zip(points(a), points(b)))
    row = dict(what=f'{TRIALS} trials, 2 workers, {KILLS} kills', date=time.strftime('%Y-%m-%d'), method=method, zombies=sum(s in ('RUNNING', 'WAITING') for s in states),
               lost=sum(t['state'] != 'complete' for t in trials(shaken)), tries=sum(t['tries'] for t in trials(shaken)), kills=int((WORK/method/'kills.killed').read_text()),
               best=best_trial(shaken)['value'], best_undisturbed=best_trial(one)['value'], best_two_undisturbed=best_trial(two)['value'], known_beforehand=TRIALS if method == 'random' else STARTUP,
               same_points=dict(one_worker_again=same(one, again), two_workers=same(one, two), two_workers_killed=same(one, shaken)), first_points_same=points(one)[:STARTUP] == points(two)[:STARTUP] == points(shaken)[:STARTUP], optuna=optuna.__version__)
    with open(ROOT/'data'/'records'/'sweeps.jsonl', 'a') as f: f.write(json.dumps(row)+'\n')
    print(row)


if __name__ == '__main__': main(*sys.argv[1:])
