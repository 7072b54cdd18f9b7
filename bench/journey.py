"""How long the main job takes here, first and again: `andromeda run tiny` in an empty folder.

Appends to data/records/journey.jsonl: seconds of both, bits per byte on the test split, versions, machine.
"""
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def command(*words): return [sys.executable, '-c', 'from andromeda.cli import main; main()', *map(str, words)]


def main(name):
    with tempfile.TemporaryDirectory() as folder:
        seconds = []
        for _ in range(2):
            began = time.perf_counter()
            subprocess.run(command('run', name, '--out', folder), check=True, stdout=subprocess.DEVNULL)
            seconds.append(round(time.perf_counter()-began, 1))
        result = json.loads((Path(folder)/'report.json').read_text())
        record = dict(what=f'andromeda run {name}', date=time.strftime('%Y-%m-%d'), first_seconds=seconds[0], again_seconds=seconds[1], cores=os.cpu_count(),
                      load=round(os.getloadavg()[0], 1), machine=platform.machine(), **result['made_with'], tiers=result['tiers'],
                      models={m: dict(parameters=v['parameters'], tokens=v['tokens'], stages=v['stages'], test=v['test'], curve=v['curve'])
                              for m,v in result['models'].items()},
                      baselines=result['baselines'], fitted_on=result['fitted_on'], comparisons=result['comparisons'], timing=result['timing'])
    (ROOT/'data'/'records').mkdir(exist_ok=True)
    with open(ROOT/'data'/'records'/'journey.jsonl', 'a') as f: f.write(json.dumps(record)+'\n')
    print(f"{name}: {seconds[0]} s, again {seconds[1]} s")


if __name__ == '__main__': main(sys.argv[1] if len(sys.argv) > 1 else 'tiny')
