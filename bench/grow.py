"""What does one percent more text cost, from reading to token files?

Appends to data/records/grow.jsonl: CPU seconds of `prepare` for a folder of 99 files of records, again after a file of one percent came, and of doing all of it anew, with
of that file alone, with a tokenizer that is kept or one that is trained each time. The token files of the second and the third must be the same. Each run is a process of its own with one
worker, with what it needs to start; medians. The texts are the Python files and manuals of this installation, so nobody's record is like another machine's.
`grow.py kept|trained MEGABYTES REPEATS`; there is no peer that takes over what did not change.
"""
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def step(folder, out, tokenizer):
    "In a process of its own: prepare, and say what it cost."
    from andromeda.journey import prepare
    from andromeda.sources import Source
    from andromeda.stages import Corpus
    loaded = time.process_time()
    texts = Source('texts', 'high', 'code', 'files', '', '', dict(path=f'{folder}/texts'))
    corpus = Corpus(sources=('texts',), vocab=8192, tokenizer_mb=5, tokenizer=tokenizer or None)
    p = prepare(corpus, Path(out), dict(texts=texts), workers=1)
    files = {n: f for n,f in p.shards['texts'].manifest['files'].items() if n != 'layout.json'}      # it names its tokenizer
    print('ANSWER', json.dumps(dict(seconds=time.process_time(), start=loaded, files=files, tokens=p.shards['texts'].counts['train_tokens'],
                                    tokenizer=p.tokenizer.manifest['files']['tokenizer.json'][1], parts=len(p.parts('texts')))))


def go(folder, out, tokenizer=''):
    env = os.environ | dict(OMP_NUM_THREADS='1', PYTHONPATH=str(ROOT))
    said = subprocess.run([sys.executable, __file__, '--step', folder, out, tokenizer], check=True, capture_output=True, text=True, env=env).stdout
    return json.loads(next(line for line in said.split('\n') if line.startswith('ANSWER '))[7:])


def write(folder, texts, numbers):
    for k in numbers:
        with open(folder/'texts'/f'{k:03}.jsonl', 'w', encoding='utf-8') as f:
            for t in texts[k::100]: f.write(json.dumps(dict(text=t))+'\n')


def gathered(megabytes):
    "Texts of this installation, in a drawn order, up to a size."
    found,size,r = [],0,random.Random(0)
    paths = sorted(p for root in {sysconfig.get_paths()['stdlib'], sysconfig.get_paths()['purelib']} for kind in ('py', 'rst', 'md', 'txt') for p in Path(root).rglob(f'*.{kind}'))
    r.shuffle(paths)
    for p in paths:
        if not 500 < p.stat().st_size < 200_000: continue
        try: text = p.read_text(encoding='utf-8')
        except (UnicodeDecodeError, OSError): continue
        if '\0' in text: continue
        found.append(text)
        size += p.stat().st_size
        if size > megabytes*1e6: break
    return found,size


def main(how='kept', megabytes=40, repeats=3):
    texts,size = gathered(megabytes)
    cost,same = dict(first=[], more=[], anew=[], alone=[]),[]
    with tempfile.TemporaryDirectory() as folder:
        folder,tokenizer = Path(folder),''
        (folder/'texts').mkdir()
        (folder/'one'/'texts').mkdir(parents=True)
        write(folder, texts, range(100))
        write(folder/'one', texts, [50])
        if how == 'kept':
            go(folder, folder/'early')
            tokenizer = str(folder/'early'/'tokenizer'/'tokenizer.json')
        for _ in range(repeats):
            for old in ('out', 'anew', 'one/out'): shutil.rmtree(folder/old, ignore_errors=True)
            (folder/'texts'/'050.jsonl').unlink()
            first = go(folder, folder/'out', tokenizer)
            write(folder, texts, [50])
            more,anew = go(folder, folder/'out', tokenizer),go(folder, folder/'anew', tokenizer)
            alone = go(folder/'one', folder/'one'/'out', tokenizer)
            for name,found in dict(first=first, more=more, anew=anew, alone=alone).items(): cost[name].append(round(found['seconds'], 2))
            same.append(more['files'] == anew['files'])
    median = {n: statistics.median(c) for n,c in cost.items()}
    record = dict(what='grow', tokenizer=how, date=time.strftime('%Y-%m-%d'), megabytes=round(size/1e6, 1), documents=len(texts), new_documents=len(texts[50::100]), vocab=8192,
                  repeats=repeats, seconds=median, imports=round(anew['start'], 2), share=round(median['more']/median['anew'], 3),
                  all_seconds=cost, same=all(same),
                  tokenizer_same=first['tokenizer'] == anew['tokenizer'], parts=anew['parts'], tokens=anew['tokens'],
                  python=platform.python_version(), cores=os.cpu_count(), load=round(os.getloadavg()[0], 1), machine=platform.machine())
    with open(ROOT/'data'/'records'/'grow.jsonl', 'a') as f: f.write(json.dumps(record)+'\n')
    print(record)


if __name__ == '__main__':
    if sys.argv[1:2] == ['--step']: step(*sys.argv[2:5])
    else: main(*sys.argv[1:2], *map(int, sys.argv[2:4]))
