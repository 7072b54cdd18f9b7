"""What an installation costs: `pip install .` into a new environment, with time and size.

Appends to data/records/install.jsonl. Times depend on the network and on what pip has in its cache; sizes do not.
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


def size(folder): return sum(f.stat().st_size for f in Path(folder).rglob('*') if f.is_file() and not f.is_symlink())


def main():
    records = []
    for extra in ('', '[dev]'):
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([sys.executable, '-m', 'venv', folder], check=True)
            before,began = size(folder),time.perf_counter()
            subprocess.run([f'{folder}/bin/pip', 'install', '--quiet', f'{ROOT}{extra}'], check=True, stderr=subprocess.DEVNULL)
            seconds = time.perf_counter()-began
            code = 'import importlib.metadata as m; print({d.name: d.version for d in m.distributions()}["torch"], len(list(m.distributions())))'
            torch,packages = subprocess.run([f'{folder}/bin/python', '-c', code], check=True, capture_output=True, text=True).stdout.split()
            out = subprocess.run([f'{folder}/bin/andromeda', 'sources'], cwd='/', check=True, capture_output=True, text=True).stdout
            assert 'docstrings' in out                                 # the catalogue travelled with the package
            records.append(dict(what=f'pip install .{extra}', date=time.strftime('%Y-%m-%d'), seconds=round(seconds), megabytes=round((size(folder)-before)/1e6),
                                packages=int(packages), torch=torch, python=platform.python_version(), cores=os.cpu_count(), load=round(os.getloadavg()[0], 1)))
            print(records[-1])
    (ROOT/'data'/'records').mkdir(exist_ok=True)
    with open(ROOT/'data'/'records'/'install.jsonl', 'a') as f:
        for r in records: f.write(json.dumps(r)+'\n')


if __name__ == '__main__': main()
