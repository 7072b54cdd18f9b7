"""Near duplicates: this project, with every removal verified, beside rensa, datasketch and datatrove, which do not verify.

The corpus is the Python text of this machine, cut in documents, with copies planted at similarities that are counted. Each tool runs in a process of its own
on one core; seconds are CPU time after its imports and a first small call. Appends to data/records/dedup.jsonl.

    python bench/dedup.py compare     # all tools on 12 MB, those that take under a minute on 87 MB (or one of them: compare all, compare rensa): the record `compare`
    python bench/dedup.py growth 10 100 1000   # ours and rensa by size: the record `growth`
    python bench/dedup.py increment   # 1% more documents: the record `increment`

Peers live in bench/.venv (bench/requirements.txt); PEERS names another Python.
"""
import hashlib
import json
import os
import random
import re
import resource
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
PEERS = os.environ.get('PEERS', str(ROOT/'bench'/'.venv'/'bin'/'python'))
WORD = re.compile(r'[^\W_]+')


def shingles(text): return set(map(' '.join, zip(*(words[i:] for i in range(5))))) if (words := WORD.findall(text.lower())) else set()


def similarity(a, b): return len(a & b)/max(len(a | b), 1)


# ---- the corpus

def pieces():
    "Documents of 1 to 8 kB from the Python files and package descriptions of this machine, the same order every time."
    roots = [Path(sysconfig.get_path('stdlib')), Path(sysconfig.get_path('purelib'))]
    files = {p for root in roots for pattern in ('*.py', 'METADATA') for p in root.rglob(pattern) if p.stat().st_size < 400_000}
    for path in sorted(files, key=lambda p: hashlib.blake2b(str(p.name).encode()+str(p.stat().st_size).encode()).digest()):
        text = path.read_text(errors='ignore')
        at = 0
        for m in re.finditer(r'\n(?=def |class |\n#)', text):
            if m.start()-at > 3000:
                yield text[at:m.start()]
                at = m.start()
        if len(text)-at > 200: yield text[at:at+8000]


def edited(r, text, share):
    "Text with a share of its words replaced."
    return re.sub(r'\w+', lambda m: f'w{r.randrange(10**6)}' if r.random() < share else m[0], text)


def corpus(mb):
    "(texts in random order, planted pairs as places in it): 89% documents, 2% exact copies, 9% with 0.1 to 10% of the words replaced."
    r,texts,planted,size,turn = random.Random(0),[],[],0,0
    while size < mb*1e6:
        n = 0
        for text in pieces():
            if turn: text = edited(r, text, .34)              # more text than the machine has: every third word another
            texts.append(text)
            size += len(text)
            n += 1
            if r.random() < .11/.89:
                copy = text.upper() if r.random() < .18 else edited(r, text, r.choice([.001, .002, .005, .01, .02, .03, .05, .1]))
                planted.append((len(texts)-1, len(texts)))
                texts.append(copy)
                size += len(copy)
            if size >= mb*1e6: break
        turn += 1
    order = list(range(len(texts)))
    r.shuffle(order)
    place = {old: new for new,old in enumerate(order)}
    return [texts[i] for i in order], [(place[a], place[b]) for a,b in planted]


def write(folder, texts, part_mb=2.):
    "The corpus as JSON lines for the peers and as a clean artefact for ours."
    from andromeda.clean import digest
    from andromeda.core import build
    from andromeda.sources import RowWriter, document_id
    with open(folder/'docs.jsonl', 'w') as f:
        for i,t in enumerate(texts): f.write(json.dumps(dict(id=str(i), text=t))+'\n')
    def make(out):
        part,size,rows = -1,1e18,None
        for i,t in enumerate(texts):
            if size > part_mb*1e6:
                if rows: rows.__exit__(None)
                part,size = part+1,0
                (out/f'part-{part:05d}').mkdir(exist_ok=True)
                rows = RowWriter(out/f'part-{part:05d}'/'documents.parquet', ('id', 'source', 'file', 'row', 'group', 'text', 'failed', 'digest'), dict(failed='failed'))
            rows.add(dict(id=document_id('s', 'f', i), source='s', file='f', row=i, group=str(i), text=t, failed=[], digest=digest(t)))
            size += len(t)
        rows.__exit__(None)
        return dict(read=len(texts))
    return build(folder/'clean', made_by='clean', version=0, config=dict(n=len(texts), part_mb=part_mb), make=make)


def documents(folder):
    with open(folder/'docs.jsonl') as f:
        for line in f: yield (d := json.loads(line))['id'], d['text']


# ---- the tools: each returns {removed: twin}

def ours(folder, out, twice=True):
    from andromeda.core import open_artefact
    from andromeda.dedup import Near, dedup
    from andromeda.sources import document_id, read_rows
    art = dedup(dict(s=open_artefact(folder/'clean')), out/'dedup', Near(twice=twice), workers=1)
    if not (folder/'docs.jsonl').exists(): return {}
    row = {r['id']: r['row'] for r in read_rows(art, 'clusters.parquet', ['id', 'row'])}
    return {r['row']: row[r['value']] for r in read_rows(art, 'ledger.parquet', ['row', 'value'])}


def ours_once(folder, out): return ours(folder, out, twice=False)


def rensa(folder, out):
    from rensa import RMinHash, RMinHashLSH
    index,removed,batch = RMinHashLSH(threshold=.8, num_perm=112, num_bands=14),{},[]
    def flush():
        for (i, _),h in zip(batch, RMinHash.from_token_sets([s for _,s in batch], 112, 42)):
            if found := index.query(h): removed[int(i)] = min(found)
            else: index.insert(int(i), h)
        batch.clear()
    for i,text in documents(folder):
        batch.append((i, list(shingles(text))))
        if len(batch) == 200: flush()
    flush()
    return removed


def datasketch(folder, out):
    from datasketch import MinHash, MinHashLSH
    index,removed = MinHashLSH(params=(14, 8), num_perm=112),{}
    for i,text in documents(folder):
        h = MinHash(num_perm=112)
        h.update_batch([s.encode() for s in shingles(text)])
        if found := index.query(h): removed[int(i)] = min(found)
        else: index.insert(int(i), h)
    return removed


def datatrove(folder, out):
    from datatrove.data import Document
    from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)
    at = lambda name: str(out/name)
    docs = lambda: (Document(text=t, id=i) for i,t in documents(folder))
    MinhashDedupSignature(at('sig'), config).run(docs(), 0, 1)
    for rank in range(14): MinhashDedupBuckets(at('sig'), at('buckets'), config=config).run(None, rank, 14)
    MinhashDedupCluster(at('buckets'), at('remove'), config=config, save_cluster_id=True).run(None, 0, 1)
    kept = {int(d.id): d.metadata.get('minhash_cluster_id') for d in MinhashDedupFilter(at('remove'), load_cluster_ids=True).run(docs(), 0, 1)}
    return {i: -1 for i,_ in ((int(i), 0) for i,_ in documents(folder)) if i not in kept}     # the cluster's kept document is not told for a removed one


TOOLS = dict(ours=ours, ours_once=ours_once, rensa=rensa, datasketch=datasketch, datatrove=datatrove)
PACKAGES = dict(ours=['numpy', 'numba', 'pyarrow'], rensa=['rensa'], datasketch=['datasketch', 'numpy'], datatrove=['datatrove', 'spacy', 'numpy'])


def cpu(): return sum(u.ru_utime+u.ru_stime for u in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))


def one(tool, folder, core):
    "Run in a process of its own: a small corpus first, then the real one; prints what it cost and what it removed."
    os.sched_setaffinity(0, {core})
    peak = {}
    with tempfile.TemporaryDirectory() as out:
        for name in ('small', 'real'):
            (Path(out)/name).mkdir()
            began = cpu()
            removed = TOOLS[tool](Path(folder)/'small' if name == 'small' else Path(folder), Path(out)/name)
            peak[name] = round(int(re.search(r'VmHWM:\s+(\d+)', Path('/proc/self/status').read_text())[1])/1000)
        seconds = cpu()-began
    print(json.dumps(dict(seconds=round(seconds, 3), process_seconds=round(cpu(), 3), peak_mb=peak['real'], base_mb=peak['small'], removed=removed)))


def measure(tool, folder, core=1):
    python = sys.executable if tool.startswith('ours') else PEERS
    env = dict(os.environ, OMP_NUM_THREADS='1', TOKENIZERS_PARALLELISM='false')
    done = subprocess.run([python, __file__, 'one', tool, str(folder), str(core)], capture_output=True, text=True, env=env)
    if done.returncode: sys.exit(f'{tool}: {done.stderr[-3000:]}')
    found = json.loads(done.stdout.strip().split('\n')[-1])
    found['removed'] = {int(a): b for a,b in found['removed'].items()}
    return found


def versions(tools):
    code = "import sys, json; from importlib import metadata; print(json.dumps({p: metadata.version(p) for p in sys.argv[1:]}))"
    return {t: json.loads(subprocess.run([sys.executable if t.startswith('ours') else PEERS, '-c', code, *PACKAGES[t.split('_')[0]]], capture_output=True, text=True, check=True).stdout) for t in tools}


def judged(texts, planted, removed, own=False):
    "Recall by true similarity of the planted pairs, and how similar each removed document is to its twin."
    out = {}
    for name,low,high in (('1', 1, 2), ('0.8-1', .8, 1), ('0.6-0.8', .6, .8), ('below 0.6', -1, .6)):
        pairs = [(a, b) for a,b in planted if low <= similarity(shingles(texts[a]), shingles(texts[b])) < high]
        out[f'planted {name}'] = f'{sum(a in removed or b in removed for a,b in pairs)}/{len(pairs)}'
    twins = [similarity(shingles(texts[i]), shingles(texts[t])) for i,t in removed.items() if t >= 0]
    if twins: out['removals at 0.8 or more'] = f'{sum(t >= .8-1e-12 for t in twins)}/{len(twins)}'
    if own:                               # the words above are those of a regular expression, for all tools; ours cuts some rare characters in another way
        from andromeda.dedup import grams, jaccard
        out['removals at 0.8 or more, by its own words'] = f'{sum(jaccard(grams(texts[i]), grams(texts[t])) >= .8 for i,t in removed.items())}/{len(twins)}'
    return out


def made(folder, mb):
    texts,planted = corpus(mb)
    (folder/'small').mkdir(parents=True)
    write(folder, texts)
    write(folder/'small', texts[:50])
    return texts,planted


def compare(mb, tools, repeats, folder):
    texts,planted = made(folder, mb)
    size,runs = sum(len(t.encode()) for t in texts)/1e6,{t: [] for t in tools}
    measure('ours', folder)                                            # compiles, once after each installation: about ten seconds
    for k in range(max(repeats.values())):
        for t in tools:
            if k < repeats[t]:
                runs[t].append(measure(t, folder))
                print(mb, t, k, {x: runs[t][-1][x] for x in ('seconds', 'process_seconds', 'peak_mb')}, flush=True)
    rows = []
    for t in tools:
        seconds = statistics.median(r['seconds'] for r in runs[t])
        rows.append(dict(tool=t, repeats=len(runs[t]), seconds=seconds, all_seconds=[r['seconds'] for r in runs[t]], mb_per_second=round(size/seconds, 2),
                         process_seconds=statistics.median(r['process_seconds'] for r in runs[t]), **{k: statistics.median(r[k] for r in runs[t]) for k in ('peak_mb', 'base_mb')},       # base_mb: after fifty documents
                         removed=len(runs[t][0]['removed']), **judged(texts, planted, runs[t][0]['removed'], t.startswith('ours'))))
    base = rows[0]['seconds']
    return dict(documents=len(texts), mb=round(size, 1), rows=rows, times={r['tool']: round(r['seconds']/base, 2) for r in rows[1:]})


def record(what, **values):
    line = dict(what=what, date=time.strftime('%Y-%m-%d'), python=sys.version.split()[0], load=round(os.getloadavg()[0], 1), **values)
    with open(ROOT/'data'/'records'/'dedup.jsonl', 'a') as f: f.write(json.dumps(line)+'\n')
    print(json.dumps(line, indent=1))


def main(mode, *args):
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        if mode == 'compare':
            if not args or 'all' in args:
                tools = dict(ours=5, ours_once=5, rensa=5, datasketch=5, datatrove=3)
                record('compare', versions=versions(t for t in tools if t != 'ours_once'), **compare(12.4, list(tools), tools, folder/'a'))
            if not args or 'rensa' in args:
                tools = dict(ours=3, rensa=3, datasketch=1)
                record('compare', versions=versions(tools), **compare(86.6, list(tools), tools, folder/'b'))
        elif mode == 'growth':
            for mb in map(float, args):
                record('growth', versions=versions(['ours', 'rensa']), **compare(mb, ['ours', 'rensa'], dict.fromkeys(['ours', 'rensa'], 3 if mb <= 100 else 1), folder/str(mb)))
        elif mode == 'increment': increment(folder, float(args[0]) if args else 86.6)
        else: sys.exit(__doc__)


def increment(folder, mb):
    "The step on 99% of the parts, then on all of them: what the last 1% costs, and whether the result is that of a fresh start."
    import shutil
    from andromeda.core import build, open_artefact
    from andromeda.dedup import dedup
    os.sched_setaffinity(0, {1})
    (folder/'x').mkdir()
    whole = write(folder/'x', corpus(mb)[0], part_mb=mb/100)
    names = sorted(p.name for p in whole.folder.glob('part-*'))
    def make(out):
        for n in names[:-1]: shutil.copytree(whole/n, out/n)
        return dict(read=0)
    most = build(folder/'most', made_by='clean', version=0, config={}, make=make)
    def timed(cleaned, out):
        began = cpu()
        return dedup(dict(s=cleaned), out, workers=1), cpu()-began
    timed(most, folder/'warm')
    rows = []
    for k in range(3):
        full,a = timed(whole, folder/f'fresh{k}')
        timed(most, folder/f'grown{k}')
        grown,b = timed(whole, folder/f'grown{k}')
        again,c = timed(whole, folder/f'grown{k}')
        rows.append((a, b, c))
        assert grown.manifest['files'] == full.manifest['files'], 'the result is another'
    full,grown,again = (round(statistics.median(r[i] for r in rows), 3) for i in range(3))
    timed(most, folder/'alone')
    process = {out: float(subprocess.run([sys.executable, __file__, 'alone', whole.folder, folder/out], capture_output=True, text=True, check=True).stdout) for out in ('alone', 'afresh')}
    record('increment', mb=mb, parts=len(names), repeats=3, full_seconds=full, one_percent_more_seconds=grown, nothing_new_seconds=again, share=round(grown/full, 4), identical=True,
           full_process_seconds=round(process['afresh'], 3), one_percent_more_process_seconds=round(process['alone'], 3))


def alone(cleaned, out):
    "One run in a process of its own: CPU seconds with its start."
    from andromeda.core import open_artefact
    from andromeda.dedup import dedup
    dedup(dict(s=open_artefact(Path(cleaned))), Path(out), workers=1)
    print(cpu())


if __name__ == '__main__':
    if sys.argv[1:2] == ['one']: one(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    elif sys.argv[1:2] == ['alone']: alone(*sys.argv[2:])
    else: main(*sys.argv[1:] or [''])
