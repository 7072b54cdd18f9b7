"""How fast are all published rules with every verdict, and do they decide like datatrove's four filters?

Appends to data/records/clean.jsonl. Peer: datatrove, with the versions of bench/requirements.txt in a virtual environment of its own, bench/.venv; PEERS names another Python.
CPU seconds of one thread; the peer and we take turns over the same documents, five times; medians. `clean.py filters`, `whatif`, `whole`, `hostile`, `more` run a part.
"""
import json
import os
import platform
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEERS = os.environ.get('PEERS', str(ROOT/'bench'/'.venv'/'bin'/'python'))


# ---------------------------------------------------------------- in the peer's environment

def peer(path):
    "Answers the lines of stdin: 'time N' for the first N documents, 'words N'."
    from importlib.metadata import version

    from datatrove.data import Document
    from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter
    from datatrove.utils.text import split_into_words
    texts = [json.loads(line)['text'] for line in open(path)]
    filters = dict(quality=GopherQualityFilter(), repetition=GopherRepetitionFilter(), c4=C4QualityFilter(), fineweb=FineWebQualityFilter())
    split_into_words('warm up, please.')
    answer = lambda x: print('ANSWER', json.dumps(x), flush=True)
    answer({p: version(p) for p in ('datatrove', 'spacy')})
    for line in sys.stdin:
        what,n = line.split()
        began,out = time.process_time(),[]
        for text in texts[:int(n)]:          # document by document, as its pipeline does: so its memory of the last words it cut helps it
            if what == 'words': out.append(split_into_words(text))
            else:
                doc,row = Document(text=text, id=''),{}
                for name,f in filters.items():
                    doc.text = text
                    verdict = f.filter(doc)
                    row[name] = None if verdict is True else verdict[1]
                    if name == 'c4' and verdict is True: row['c4_text'] = doc.text
                out.append(row)
        answer(dict(seconds=time.process_time()-began, out=out))


class Peer:
    def __init__(self, path):
        self.process = subprocess.Popen([PEERS, __file__, '--peer', path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.versions = self.read()

    def read(self):
        for line in self.process.stdout:
            if line.startswith('ANSWER '): return json.loads(line[7:])
        raise RuntimeError(f'{PEERS} gave no answer: install bench/requirements.txt there')

    def ask(self, what, n):
        print(what, n, file=self.process.stdin, flush=True)
        return self.read()


# ---------------------------------------------------------------- here

# what datatrove calls the rules, in the order of ours
REASONS = dict(quality='gopher_short_doc gopher_long_doc gopher_below_avg_threshold gopher_above_avg_threshold gopher_too_many_hashes gopher_too_many_ellipsis gopher_too_many_bullets '
                       'gopher_too_many_end_ellipsis gopher_below_alpha_threshold gopher_enough_stop_words',
               repetition='dup_para_frac dup_para_char_frac dup_line_frac dup_line_char_frac top_2_gram top_3_gram top_4_gram ' + ' '.join(f'duplicated_{n}_n_grams' for n in range(5, 11)),
               c4='too_few_sentences lorem_ipsum curly_bracket', fineweb='line_punct_ratio short_line_ratio char_dup_ratio list_ratio')


def corpus(folder, megabytes):
    "Documents of this machine in a fixed random order: docstrings, manuals, the standard library."
    from andromeda.sources import read_catalogue, read_rows, read_source
    found,rows,size = read_catalogue(),[],0
    for name,mb in (('docstrings', 20), ('manuals', None), ('stdlib', 6)):
        rows += [dict(source=name, text=d['text']) for d in read_rows(read_source(found[name], folder/name, limit_mb=mb, workers=1))]
    random.Random(0).shuffle(rows)
    for n,row in enumerate(rows):
        size += len(row['text'].encode())
        if size > megabytes*1e6: break
    return rows[:n+1]


def verdicts(texts):
    "Every verdict of the four sets, from text: by set, failures [rules, documents]."
    import numpy as np

    from andromeda.clean import C4_RULES, FINEWEB_RULES, GOPHER_QUALITY, GOPHER_REPETITION, values_of
    from andromeda.signals import SIGNALS, measure
    data = [t.encode('utf-8', 'surrogatepass') for t in texts]
    columns = dict(zip(SIGNALS, measure(np.frombuffer(b''.join(data), np.uint8), np.cumsum([0, *map(len, data)]))[0].T))
    sets = dict(quality=GOPHER_QUALITY, repetition=GOPHER_REPETITION, c4=C4_RULES, fineweb=FINEWEB_RULES)
    return {name: np.array([r.fails(values_of(r.signal, columns)) for r in rules]) for name,rules in sets.items()}


def compare(rows, theirs, words):
    "Share of equal decisions by filter, share where the peer's reason is among ours, and what differs."
    from andromeda.clean import C4_RULES, FINEWEB_RULES, GOPHER_QUALITY, GOPHER_REPETITION, failed, without
    from andromeda.signals import c4_cuts, signals
    sets = dict(quality=GOPHER_QUALITY, repetition=GOPHER_REPETITION, c4=C4_RULES, fineweb=FINEWEB_RULES)
    equal,reason,different,same_text,c4_kept = dict.fromkeys(sets, 0),dict.fromkeys(sets, 0),[],0,0
    for row,verdict,given in zip(rows, theirs, words or [None]*len(rows)):
        found = signals(row['text'], given)
        for name,rules in sets.items():
            why = {f['rule']: f['value'] for f in failed(found, rules)}
            said = dict(zip(REASONS[name].split(), (r.name for r in rules))).get(verdict[name])
            equal[name] += bool(why) == (verdict[name] is not None)
            reason[name] += said in why if said else not why
            if bool(why) != (verdict[name] is not None):
                rule = next(r for r in rules if r.name == (said or next(iter(why))))
                different.append(dict(filter=name, rule=rule.name, datatrove='removes' if said else 'keeps', ours=round(found[rule.signal], 4), threshold=rule.threshold))
        if 'c4_text' in verdict:
            c4_kept += 1
            same_text += '\n'.join(without(row['text'], c4_cuts(row['text'])).splitlines()) == verdict['c4_text']
    return dict(equal={k: round(v/len(rows), 5) for k,v in equal.items()}, reason_among_ours={k: round(v/len(rows), 5) for k,v in reason.items()},
                equal_all=round(sum(equal.values())/len(rows)/4, 5), c4_text_equal=[same_text, c4_kept], different=different)


def filters(folder, repeats=5):
    rows = corpus(folder, 8)
    path = folder/'documents.jsonl'
    path.write_text(''.join(json.dumps(r)+'\n' for r in rows))
    other = Peer(path)
    verdicts(['warm'])
    warm,texts = warm_seconds(),[r['text'] for r in rows]
    theirs,words = other.ask('time', len(rows))['out'],other.ask('words', len(rows))
    same,own = compare(rows, theirs, words['out']),compare(rows, theirs, None)
    n = next(i for i in range(len(rows)) if sum(len(t.encode()) for t in texts[:i]) > 1.5e6)
    mb,times = sum(len(t.encode()) for t in texts[:n])/1e6,dict(datatrove=[], andromeda=[])
    for _ in range(repeats):
        times['datatrove'].append(other.ask('time', n)['seconds'])
        began = time.process_time()
        for _ in range(5): verdicts(texts[:n])
        times['andromeda'].append((time.process_time()-began)/5)
    rates = {k: mb/statistics.median(v) for k,v in times.items()}
    different = own.pop('different')
    by_rule = {}
    for d in different: by_rule[d['rule']] = by_rule.get(d['rule'], 0)+1
    write(dict(what='four filters, every verdict', documents=n, mb=round(mb, 2), mb_per_cpu_second={k: round(v, 3) for k,v in rates.items()}, ratio=round(rates['andromeda']/rates['datatrove'], 1),
               runs={k: [round(x, 3) for x in v] for k,v in times.items()}, warm_up_cpu_seconds=warm, peer=other.versions,
               words_alone_mb_per_cpu_second=round(sum(len(t.encode()) for t in texts)/1e6/words['seconds'], 3)))
    write(dict(what='decisions equal to datatrove', documents=len(rows), mb=round(sum(len(t.encode()) for t in texts)/1e6, 2), peer=other.versions, same_words=same,
               own_words=own | dict(different_by_rule=by_rule, examples=different[:20],
               why='The words differ, not the formulas: with the same words nothing does. Ours cut fewer exceptions (units, abbreviations, emoticons), so shares close to a threshold fall on its other side.')))


def warm_seconds():
    "CPU seconds until the pass can be used: the first time on a machine, and in a later process."
    code = 'import time; began = time.process_time(); from andromeda.signals import warm_up; warm_up(); print(time.process_time()-began)'
    with tempfile.TemporaryDirectory() as folder:
        one = lambda: round(float(subprocess.run([sys.executable, '-c', code], check=True, capture_output=True, text=True, env=os.environ | dict(NUMBA_CACHE_DIR=folder)).stdout), 2)
        return dict(first=one(), later=one())


def whatif(folder, n=1_000_000):
    import numpy as np

    from andromeda.clean import RULE_SETS, Measured, what_if
    from andromeda.signals import SIGNALS, measure
    rows = corpus(folder, 8)
    data = [r['text'].encode() for r in rows]
    few = measure(np.frombuffer(b''.join(data), np.uint8), np.cumsum([0, *map(len, data)]))[0]
    matrix = np.ascontiguousarray(few[np.random.default_rng(0).integers(0, len(few), n)].T)       # documents of this machine, drawn again and again
    columns = dict(zip(SIGNALS, matrix))
    spans = {f's{i}': (i*n//10, (i+1)*n//10) for i in range(10)}
    rules = dict.fromkeys(spans, RULE_SETS['gopher']+RULE_SETS['c4']+RULE_SETS['fineweb'])
    none = np.zeros(n, bool)
    stored = Measured(columns, columns['bytes'].astype(np.int64), none, none, spans, rules, dict.fromkeys(spans, 'high'))
    result = {}
    for name,chosen in dict(prose=RULE_SETS['prose'], gopher=RULE_SETS['gopher'], all_published=rules['s0']).items():
        times = []
        for i in range(7):
            began = time.process_time()
            what_if(stored, {chosen[0].name: 40+i}, rules=dict.fromkeys(spans, chosen))
            times.append(time.process_time()-began)
        result[name] = dict(rules=len(chosen), ms=round(1e3*statistics.median(times[2:]), 1))
    write(dict(what='what_if', documents=n, sources=10, signals=len(SIGNALS), by_set=result))


WHOLE = '''
import json, re, sys, time
from pathlib import Path
from andromeda.clean import clean
from andromeda.sources import Source, read_source
raw, out = map(Path, sys.argv[1:3])
import andromeda.signals
andromeda.signals.warm_up()
start = time.process_time()
documents = read_source(Source('raw', 'high', 'prose', 'files', '', '', dict(path=str(raw))), out/'documents', workers=1)
middle = time.process_time()
cleaned = clean(documents, out/'clean', workers=1)
size = lambda a: sum(n for n,_ in a.manifest['files'].values())
print(json.dumps(dict(read=middle-start, clean=time.process_time()-middle, peak_mb=int(re.search('VmHWM:[^0-9]+([0-9]+)', Path('/proc/self/status').read_text())[1])/1e3,     # ru_maxrss would be that of the process that started this one
                       documents=cleaned.counts['read'],
                      kept=cleaned.counts['kept'], stored_mb=size(cleaned)/1e6, read_mb=size(documents)/1e6, fingerprint=cleaned.fingerprint)))
'''


def raw_files(folder, megabytes, rows, each=5e6):
    "JSON lines files of about `each` bytes; each copy of a document begins with a line of its own."
    folder.mkdir(parents=True)
    size,copy,at = 0,0,0
    while size < megabytes*1e6:
        with open(folder/f'{at:05d}.jsonl', 'w') as f:
            this = 0
            while this < min(each, megabytes*1e6-size):
                text = f"Copy {copy} of document {copy % len(rows)}.\n" + rows[copy % len(rows)]['text']
                copy += 1
                f.write(json.dumps(dict(text=text), ensure_ascii=False)+'\n')
                this += len(text.encode())
        size,at = size+this,at+1


SIZES = tuple(map(int, os.environ.get('SIZES', '10 100 1000').split()))      # MB


def whole(folder, sizes=SIZES):
    rows = corpus(folder, 8)
    for mb in sizes:
        raw_files(folder/f'raw{mb}', mb, rows)
        found = json.loads(subprocess.run([sys.executable, '-c', WHOLE, folder/f'raw{mb}', folder/f'out{mb}'], check=True, capture_output=True, text=True).stdout)
        write(dict(what='raw to cleaned, one process', mb=mb, read_cpu_seconds=round(found['read'], 2), clean_cpu_seconds=round(found['clean'], 2),
                   cpu_seconds=round(found['read']+found['clean'], 2), peak_mb=round(found['peak_mb']), **{k: round(found[k], 1) for k in ('documents', 'kept', 'read_mb', 'stored_mb')}))
        subprocess.run(['rm', '-r', folder/f'raw{mb}', folder/f'out{mb}'], check=True)


def hostile(folder):
    sys.path.insert(0, str(ROOT/'tests'))
    import numpy as np
    from test_signals import HOSTILE, hostile as text_of

    from andromeda.signals import measure
    found = {}
    for kind in HOSTILE:
        data = text_of(kind, 1_000_000).encode()[:1_000_000]
        times = []
        for _ in range(3):
            began = time.process_time()
            measure(np.frombuffer(data, np.uint8), np.array([0, len(data)]))
            times.append(time.process_time()-began)
        found[kind] = round(min(times), 3)
    write(dict(what='one hostile megabyte', cpu_seconds=found, worst=max(found.values())))


MORE = '''
import json, sys, time
from pathlib import Path
import pyarrow, pyarrow.compute, pyarrow.parquet
pyarrow.array(['loads pandas'])
from andromeda.clean import clean
from andromeda.core import open_artefact
from andromeda.signals import warm_up
warm_up()
start = time.process_time()
a = clean(open_artefact(Path(sys.argv[1])), Path(sys.argv[2]), workers=1)
print(json.dumps(dict(cpu=time.process_time()-start, process=time.process_time(), files=a.manifest['files'], fingerprint=a.fingerprint)))
'''


def more(folder):
    for mb in SIZES[1:]: one_percent(folder/str(mb), mb)


def one_percent(folder, mb):
    "One file in a hundred comes to a source that was cleaned; CPU seconds after imports, and of the whole process. The addition three times, the median: it is short."
    folder.mkdir()
    from andromeda.sources import Source, read_source
    rows = corpus(folder, 8)
    raw_files(folder/'raw', mb, rows, mb*1e6/101)
    last = max((folder/'raw').glob('*.jsonl'))
    kept = last.read_text()
    last.unlink()
    source = Source('raw', 'high', 'prose', 'files', '', '', dict(path=str(folder/'raw')))
    job = lambda out: json.loads(subprocess.run([sys.executable, '-c', MORE, folder/'documents', folder/out], check=True, capture_output=True, text=True).stdout)
    read_source(source, folder/'documents', workers=1)
    first = job('clean')
    last.write_text(kept)
    read_source(source, folder/'documents', workers=1)
    for k in range(3): shutil.copytree(folder/'clean', folder/f'clean{k}')
    added,full = [job(f'clean{k}') for k in range(3)],job('full')
    seconds,process = (statistics.median(a[k] for a in added) for k in ('cpu', 'process'))
    write(dict(what='1% more data', mb=mb, repeats=3, added_mb=round(len(kept.encode())/1e6, 2), first_cpu_seconds=round(first['cpu'], 2), added_cpu_seconds=round(seconds, 2), full_cpu_seconds=round(full['cpu'], 2),
               share=round(seconds/full['cpu'], 3), added_process_cpu_seconds=round(process, 2), full_process_cpu_seconds=round(full['process'], 2),
               identical=all(a[k] == full[k] for a in added for k in ('files', 'fingerprint'))))


def write(record):
    from importlib.metadata import version
    record = record | dict(date=time.strftime('%Y-%m-%d'), cores=os.cpu_count(), load=round(os.getloadavg()[0], 1), machine=platform.machine(), python=platform.python_version(),
                           numba=version('numba'), numpy=version('numpy'), pyarrow=version('pyarrow'))
    with open(ROOT/'data'/'records'/'clean.jsonl', 'a') as f: f.write(json.dumps(record)+'\n')
    print({k: v for k,v in record.items() if k not in ('same_words', 'own_words')}, flush=True)


if __name__ == '__main__':
    if sys.argv[1:2] == ['--peer']: peer(sys.argv[2])
    else:
        os.environ.setdefault('OMP_NUM_THREADS', '1')
        parts = dict(filters=filters, whatif=whatif, whole=whole, hostile=hostile, more=more)
        for name in sys.argv[1:] or parts:
            with tempfile.TemporaryDirectory() as folder: parts[name.partition('=')[0]](Path(folder))
