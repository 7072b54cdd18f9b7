"""How long the main job takes here, first and again: `andromeda run tiny` in an empty folder.

Appends to data/records/journey.jsonl: wall and CPU seconds of both, curves, bits per byte, baselines, versions, machine.
`journey.py small` does the same for another recipe, `journey.py small --from report.json` records a journey that was made before.
"""
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def command(*words): return [sys.executable, '-c', 'from andromeda.cli import main; main()', *map(str, words)]


def main(name):
    with tempfile.TemporaryDirectory() as folder:
        seconds,cpu = [],[]
        for _ in range(2):
            began,used = time.perf_counter(),resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(command('run', name, '--out', folder), check=True, stdout=subprocess.DEVNULL)
            seconds.append(round(time.perf_counter()-began, 1))
            now = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu.append(round(now.ru_utime+now.ru_stime-used.ru_utime-used.ru_stime, 1))
        result = json.loads((Path(folder)/'report.json').read_text())
    write(record(name, result, seconds, cpu))


def record(name, result, seconds, cpu):
    "What is kept of a report: everything but samples and the ledger, and how long it took."
    models = {m: {k: v[k] for k in ('parameters', 'tokens', 'stages', 'test', 'curve')} for m,v in result['models'].items()}
    return dict(what=f'andromeda run {name}', date=time.strftime('%Y-%m-%d'), first_seconds=seconds[0], again_seconds=seconds[1], first_cpu_seconds=cpu[0],
                again_cpu_seconds=cpu[1], cores=os.cpu_count(), load=round(os.getloadavg()[0], 1), machine=platform.machine(), **result['made_with'],
                models=models, **{k: result[k] for k in ('tiers', 'baselines', 'fitted_on', 'comparisons', 'timing')})


def write(record):
    (ROOT/'data'/'records').mkdir(exist_ok=True)
    with open(ROOT/'data'/'records'/'journey.jsonl', 'a') as f: f.write(json.dumps(record)+'\n')
    print(f"{record['what']}: {record['first_seconds']} s, again {record['again_seconds']} s")


if __name__ == '__main__':
    if sys.argv[2:3] == ['--from']:             # a finished journey's report.json: its own time, and none for a second call
        result = json.loads(Path(sys.argv[3]).read_text())
        write(record(sys.argv[1], result, [round(sum(result['timing'].values()), 1), None], [None, None]))
    else: main(sys.argv[1] if len(sys.argv) > 1 else 'tiny')
