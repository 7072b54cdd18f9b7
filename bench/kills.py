"""Does a job that is killed end with the numbers of one that is not? `andromeda run tiny`, SIGKILL at ten random moments.

Appends to data/records/kills.jsonl where the kills fell and whether report.json is equal, timing apart.
"""
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from journey import ROOT, command


def kill_everything(process, out):
    "SIGKILL for the command and for every process that names the folder `out`."
    process.send_signal(signal.SIGKILL)
    process.wait()
    for p in Path('/proc').glob('[0-9]*'):
        with contextlib.suppress(OSError):
            if any(w.startswith(f'{out}{os.sep}') for w in (p/'cmdline').read_bytes().decode(errors='replace').split('\0')): os.kill(int(p.name), signal.SIGKILL)


def reached(out):
    "How far a job is: its folders, and the step of each run."
    steps = {p.parent.name: json.loads(p.read_text())['step'] for p in out.glob('runs/*/status.json')}
    return dict(folders=sorted(p.name for p in out.glob('*') if p.is_dir()), steps=steps)


def numbers(out):
    "The report without what the clock and the command line decide."
    return {k: v for k,v in json.loads((out/'report.json').read_text()).items() if k not in ('timing', 'command', 'quick')}


def main(name='tiny', kills=10, seed=0):
    with tempfile.TemporaryDirectory() as folder:
        calm,killed = Path(folder)/'calm',Path(folder)/'killed'
        began = time.perf_counter()
        subprocess.run(command('run', name, '--out', calm), check=True, stdout=subprocess.DEVNULL)
        whole,clock,moments = time.perf_counter()-began,random.Random(seed),[]
        for _ in range(kills):
            process,after = subprocess.Popen(command('run', name, '--out', killed), stdout=subprocess.DEVNULL),clock.uniform(1, whole/4)
            with contextlib.suppress(subprocess.TimeoutExpired): process.wait(after)
            kill_everything(process, killed)
            moments.append(dict(after_seconds=round(after, 1)) | reached(killed))
            print(moments[-1], flush=True)
        subprocess.run(command('run', name, '--out', killed), check=True, stdout=subprocess.DEVNULL)
        equal = numbers(killed) == numbers(calm)
    record = dict(what=f'andromeda run {name}, killed', date=time.strftime('%Y-%m-%d'), kills=len(moments), equal=equal, undisturbed_seconds=round(whole), moments=moments)
    with open(ROOT/'data'/'records'/'kills.jsonl', 'a') as f: f.write(json.dumps(record)+'\n')
    print('equal' if equal else 'DIFFERENT')
    sys.exit(0 if equal else 1)


if __name__ == '__main__': main()
