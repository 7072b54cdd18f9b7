"Records are never lost, whatever the files hold."
import ast
import random

import pytest

from andromeda.core import open_artefact
from andromeda.sources import READERS, TIERS, Source, decode, pairs, read_catalogue, read_file, read_rows, read_source, source_files


def source(path, **options): return Source('mine', 'high', 'prose', 'text', '', '', dict(path=str(path)) | options)


def test_every_entry_of_the_catalogue_says_why():
    found = read_catalogue()
    assert {s.tier for s in found.values()} == set(TIERS)
    for s in found.values(): assert s.why and s.licence, s.name
    named = {s.options.get('id') for s in found.values()}
    for wanted in ('Skylion007/openwebtext', 'aps/super_glue', 'nyu-mll/glue', 'bigcode/the-stack-dedup', 'Anthropic/hh-rlhf', 'QingyiSi/Alpaca-CoT'): assert wanted in named
    assert sum(s.options.get('share', 0) for s in found.values()) == pytest.approx(1)      # Falcon's published mix


@pytest.mark.parametrize('name', [n for n,s in read_catalogue().items() if s.reader in READERS])
def test_the_readable_sources_are_readable_here(name, tmp_path):
    made = read_source(read_catalogue()[name], tmp_path/name, limit_mb=.3, workers=1)
    assert made.counts['documents'] > 0 and made.counts['read'] == made.counts['documents'] + made.counts['quarantined']
    for doc in read_rows(made): assert doc['text'].strip() and '/root/' not in doc['file'] and not doc['file'].startswith('/')


BAD = {'nul.txt': b'a\0b', 'latin.txt': 'é'.encode('latin-1'), 'cut.txt': '漢'.encode()[:2], 'utf16.txt': 'hello'.encode('utf-16')}


def test_bad_files_are_quarantined_with_offset_and_counted(tmp_path):
    for name,data in BAD.items(): (tmp_path/name).write_bytes(data)
    for i in range(20): (tmp_path/f'good{i}.txt').write_text(f'text {i}\n')
    made = read_source(source(tmp_path), tmp_path/'out', workers=1, most_quarantined=.5)
    lost = {r['file']: r['value'] for r in read_rows(made, 'ledger.parquet')}
    assert lost.keys() == BAD.keys() and all('offset' in why for why in lost.values())
    assert made.counts == dict(files=24, read=24, documents=20, quarantined=4, bytes=sum(len(f'text {i}\n') for i in range(20)))


def test_line_ends_and_marks_of_windows_are_read():
    assert decode(b'\xef\xbb\xbfa\r\nb', 'x.txt') == 'a\nb'
    assert decode('# -*- coding: latin-1 -*-\ns = "é"\n'.encode('latin-1'), 'x.py').endswith('"é"\n')
    with pytest.raises(ValueError, match='unknown encoding'): decode(b'# -*- coding: nonsense -*-\n', 'x.py')


@pytest.mark.parametrize('text', ['def f(:\n', '# coding: rot13\n', 'x = ' + '('*5000 + ')'*5000, 'def f():\n    "\\ud800 and forty characters of documentation here"\n    return 1\n'])
def test_python_that_cannot_be_used_is_quarantined(tmp_path, text):
    (tmp_path/'x.py').write_text(text)
    [(end,row)] = read_file(Source('p', 'low', 'code', 'pairs', '', ''), 'x.py', tmp_path/'x.py')
    assert end == 'lost' and row['rule'] == 'unreadable' and row['value']


def test_a_form_feed_does_not_shift_the_answer():
    text = 'import os\n\x0c\ndef f(a,\n      b):\n    "Adds a and b, and says so in forty characters."\n    return a+b\n'
    [(_,pair)] = pairs('x.py', text)
    assert pair.endswith('### Answer\ndef f(a,\n      b):\n    return a+b\n')
    assert list(pairs('x.py', text.replace('b):\n    "', 'b): "').replace('    return a+b', '') + '')) == []


def test_one_and_two_workers_read_the_same_bytes(tmp_path, monkeypatch):
    import andromeda.sources as module
    monkeypatch.setattr(module, 'PART_MB', .02)
    r = random.Random(0)
    (tmp_path/'in').mkdir()
    for i in range(40): (tmp_path/'in'/f'{i}.txt').write_text(' '.join(r.choices(['mean', 'sum', 'count'], k=400)))
    made = [read_source(source(tmp_path/'in'), tmp_path/f'out{w}', workers=w) for w in (1, 2)]
    assert len(made[0].manifest['files']) > 4
    assert made[0].manifest['files'] == made[1].manifest['files'] and made[0].fingerprint == made[1].fingerprint


def test_symlinks_are_not_followed(tmp_path):
    (tmp_path/'in').mkdir()
    (tmp_path/'secret.txt').write_text('secret')
    (tmp_path/'in'/'link.txt').symlink_to(tmp_path/'secret.txt')
    (tmp_path/'in'/'a.txt').write_text('a')
    assert list(source_files(source(tmp_path/'in'))) == ['a.txt']


def test_a_file_changed_to_the_same_size_is_read_again(tmp_path):
    (tmp_path/'in').mkdir()
    for text in ('hello world', 'HELLO WORLD'):
        (tmp_path/'in'/'a.txt').write_text(text)
        made = read_source(source(tmp_path/'in'), tmp_path/'out', workers=1)
        assert [d['text'] for d in read_rows(made)] == [text]


def test_a_changed_file_is_read_again(tmp_path):
    (tmp_path/'in').mkdir()
    (tmp_path/'in'/'a.txt').write_text('one')
    before = read_source(source(tmp_path/'in'), tmp_path/'out', workers=1)
    (tmp_path/'in'/'b.txt').write_text('two')
    after = read_source(source(tmp_path/'in'), tmp_path/'out', workers=1)
    assert after.fingerprint != before.fingerprint and open_artefact(tmp_path/'out').counts['documents'] == 2


def test_the_answer_of_a_pair_is_the_function_without_its_docstring():
    "On real code: every answer parses, and is what the compiler sees when the docstring is dropped."
    import statistics, inspect
    text = inspect.getsource(statistics)
    functions = {n.name: n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef)}
    found = 0
    for title,pair in pairs('statistics.py', text):
        node = functions[title.split('.')[-1]]
        answer = ast.parse(pair.split('### Answer\n')[1]).body[0]
        if node.name == answer.name and ast.dump(ast.Module(answer.body, [])) == ast.dump(ast.Module(node.body[1:], [])): found += 1
    assert found > 15


FORMATS = ('jsonl', 'jsonl.gz', 'parquet', 'csv', 'json')


def write(path, rows):
    "The same rows in any format."
    import csv, gzip, json
    lines = ''.join(json.dumps(r)+'\n' for r in rows)
    if path.name.endswith('.gz'): path.write_bytes(gzip.compress(lines.encode(), mtime=0))
    elif path.suffix == '.jsonl': path.write_text(lines)
    elif path.suffix == '.json': path.write_text(json.dumps(rows))
    elif path.suffix == '.csv':
        with open(path, 'w', newline='') as f:
            out = csv.DictWriter(f, list(rows[0]))
            out.writeheader()
            out.writerows(rows)
    else:
        import pyarrow as pa, pyarrow.parquet as pq
        pq.write_table(pa.Table.from_pylist(rows), path)


@pytest.mark.parametrize('format', FORMATS)
def test_the_same_records_in_any_format_are_the_same_documents(tmp_path, format):
    rows = [dict(instruction=f'Add {i} and {i+1}.', input='', output=str(2*i+1)) for i in range(50)]
    (tmp_path/'in').mkdir()
    write(tmp_path/'in'/f'rows.{format}', rows)
    made = read_source(Source('sums', 'low', 'dialogue', 'files', '', '', dict(path=str(tmp_path/'in'), adapter='alpaca')), tmp_path/'out', workers=1)
    texts = [d['text'] for d in read_rows(made)]
    assert len(texts) == 50 and texts[3] == '### Instruction\nAdd 3 and 4.\n\n### Answer\n7\n'
    assert made.counts['read'] == made.counts['documents'] == 50 and len({d['id'] for d in read_rows(made)}) == 50


def test_broken_records_are_quarantined_with_their_row(tmp_path):
    lines = ['{"text": "good"}', '{"text": 3}', '{"text"', '{"other": "x"}', '{"text": "fine"}']
    (tmp_path/'in.jsonl').write_text('\n'.join(lines)+'\n')
    made = read_source(Source('mine', 'low', 'prose', 'files', '', '', dict(path=str(tmp_path/'in.jsonl'))), tmp_path/'out', workers=1, most_quarantined=.7)
    assert [d['text'] for d in read_rows(made)] == ['good', 'fine']
    assert [r['row'] for r in read_rows(made, 'ledger.parquet')] == [2, 3, 4]
    with pytest.raises(ValueError, match='3 of 5 records cannot be read'):
        read_source(Source('mine', 'low', 'prose', 'files', '', '', dict(path=str(tmp_path/'in.jsonl'))), tmp_path/'strict', workers=1)


def test_every_hub_entry_names_an_adapter_that_exists():
    from andromeda.adapters import adapter
    for s in read_catalogue().values():
        if s.reader == 'hub':
            for name in [s.options['adapter']] if 'adapter' in s.options else s.options['tasks'].values(): assert callable(adapter(name)), s.name


@pytest.mark.parametrize('old,new,says', [('path = "t"', 'path = 3', 'path of .*is 3, expected text'), ('path = "t"', 'path = "t"\nglob = "/etc/*"', 'a pattern below path')])
def test_a_wrong_entry_of_a_catalogue_is_named(tmp_path, old, new, says):
    entry = '[sources.notes]\ntier = "high"\nkind = "prose"\nreader = "text"\npath = "t"\n'
    (tmp_path/'mine.toml').write_text(entry.replace(old, new))
    with pytest.raises(ValueError, match=says): read_catalogue(tmp_path/'mine.toml')
    (tmp_path/'folder.toml').mkdir()
    with pytest.raises(ValueError, match='is a folder'): read_catalogue(tmp_path/'folder.toml')


def test_old_names_lead_to_the_new_one():
    from andromeda.sources import find_source
    catalogue = read_catalogue()
    for old,new in {'glue': 'glue', 'nyu-mll/glue': 'glue', 'ybisk/piqa': 'piqa', 'ehartford/wizard_vicuna_70k_unfiltered': 'wizard-vicuna'}.items():
        import warnings
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            assert find_source(catalogue, old).name == new
    with pytest.warns(UserWarning, match='RedPajama-Data-1T'): assert find_source(catalogue, 'togethercomputer/RedPajama-Data').name == 'redpajama-1t'


def test_memory_does_not_grow_with_the_file(tmp_path):
    "A file of 120 MB is read with the buffers of a few batches; holding its text, its records and its table would take three times its size."
    import json, subprocess, sys
    with open(tmp_path/'big.jsonl', 'w') as f:
        for i in range(120_000): f.write(json.dumps(dict(text=f'{i} '*150))[:1000].rstrip('\\')[:-3] + '"}\n')
    code = """
import re, sys
from pathlib import Path
from andromeda.sources import Source, read_part
import numpy, orjson, pandas, pyarrow.parquet, andromeda.lines
def peak(): return int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])       # kB; ru_maxrss would begin at the parent's
before = peak()
source = Source('big', 'low', 'prose', 'files', '', '', dict(path=sys.argv[1]))
counts = read_part(dict(source=source, files={'big.jsonl': sys.argv[1]}), Path(sys.argv[2]))
print(counts['documents'], (peak()-before)//1024)
"""
    done = subprocess.run([sys.executable, '-c', code, str(tmp_path/'big.jsonl'), str(tmp_path/'out')], capture_output=True, text=True, check=True)
    documents,grown = map(int, done.stdout.split())
    assert documents == 120_000 and grown < 200, f'{documents} documents, {grown} MB more'


def folder_of(root, n, seed=0):
    "A folder of `n` files of JSON lines, one of them with a broken row, named so that their order differs from their hashes'."
    import json
    r = random.Random(seed)
    root.mkdir(exist_ok=True)
    for i in range(n):
        lines = [json.dumps(dict(text=' '.join(r.choices(['mean', 'sum', 'naïve', '漢字'], k=60)))) for _ in range(30)]
        if i == n//2: lines[7] = lines[7][:-3]
        (root/f'rows{i:03d}.jsonl').write_text('\n'.join(lines)+'\n')
    return Source('mine', 'low', 'prose', 'files', '', '', dict(path=str(root)))


def test_a_new_file_costs_one_part_and_gives_what_reading_all_gives(tmp_path, monkeypatch):
    import andromeda.engine as engine, andromeda.sources as module
    monkeypatch.setattr(module, 'PART_MB', .03)
    mine = folder_of(tmp_path/'in', 40)
    before = read_source(mine, tmp_path/'out', workers=1)
    (tmp_path/'in'/'new.jsonl').write_text('{"text": "one more"}\n')
    made,one = [],engine._one
    monkeypatch.setattr(engine, '_one', lambda task, item, out, name: (made.append(name), one(task, item, out, name))[1])
    after = read_source(mine, tmp_path/'out', workers=1)
    parts = len(list(after.folder.glob('part-*')))
    assert len(made) == 1 and parts > 10 and after.counts['documents'] == before.counts['documents'] + 1
    anew = read_source(mine, tmp_path/'anew', workers=1)
    assert len(made) == 1 + parts                                  # the control: without an earlier artefact everything is read
    assert after.manifest['files'] == anew.manifest['files'] and after.fingerprint == anew.fingerprint


def test_a_part_that_rotted_is_not_taken_over(tmp_path, monkeypatch):
    import andromeda.sources as module
    monkeypatch.setattr(module, 'PART_MB', .03)
    mine = folder_of(tmp_path/'in', 10)
    first = read_source(mine, tmp_path/'out', workers=1)
    victim = sorted(first.folder.glob('part-*/documents.parquet'))[0]
    data = bytearray(victim.read_bytes())
    data[50] ^= 1
    victim.write_bytes(data)
    (tmp_path/'in'/'new.jsonl').write_text('{"text": "one more"}\n')
    assert read_source(mine, tmp_path/'out', workers=1).manifest['files'] == read_source(mine, tmp_path/'anew', workers=1).manifest['files']


def test_the_entry_says_how_much_may_be_lost(tmp_path):
    from dataclasses import replace
    mine = folder_of(tmp_path/'in', 2)                                            # 1 of 60 rows is broken
    with pytest.raises(ValueError, match='1 of 60 records cannot be read, more than 1%.*quarantine = 0.02'): read_source(mine, tmp_path/'out', workers=1)
    assert not (tmp_path/'out').exists()
    assert read_source(replace(mine, options=mine.options | dict(quarantine=.02)), tmp_path/'out', workers=1).counts['quarantined'] == 1


READ = """
import sys
from pathlib import Path
import andromeda.sources as module
from andromeda.sources import Source, read_source
module.PART_MB = .03
source = Source('mine', 'low', 'prose', 'files', '', '', dict(path=sys.argv[1]))
if __name__ == '__main__':
    print('ready', flush=True)
    print(read_source(source, Path(sys.argv[2]), workers=int(sys.argv[3]), backend=sys.argv[4]).fingerprint)
"""


def reading(tmp_path, out, workers=2, backend='processes'):
    "A process that reads the folder, about to begin."
    import subprocess, sys
    script = tmp_path/'read.py'
    script.write_text(READ)
    process = subprocess.Popen([sys.executable, str(script), str(tmp_path/'in'), str(out), str(workers), backend], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == 'ready\n'
    return process


@pytest.mark.parametrize('kills', [3, pytest.param(20, marks=pytest.mark.slow)])
def test_a_killed_reading_goes_on_to_the_same_end(tmp_path, kills):
    import shutil, time
    folder_of(tmp_path/'in', 60)
    undisturbed = reading(tmp_path, tmp_path/'undisturbed')
    began = time.perf_counter()
    assert undisturbed.wait() == 0
    seconds,r,hits = time.perf_counter()-began,random.Random(1),0
    for i in range(8*kills):                                                # some readings end before they are killed
        if hits == kills: break
        process = reading(tmp_path, tmp_path/'out', workers=1+i%2)
        time.sleep(r.uniform(0, seconds*.9))
        process.kill()
        hits += process.wait() != 0
        if (tmp_path/'out').exists():
            assert open_artefact(tmp_path/'out').fingerprint == open_artefact(tmp_path/'undisturbed').fingerprint
            shutil.rmtree(tmp_path/'out')                          # finished before the kill: begin another
    assert hits == kills
    assert reading(tmp_path, tmp_path/'out').wait() == 0
    a,b = open_artefact(tmp_path/'undisturbed'),open_artefact(tmp_path/'out')
    assert a.fingerprint == b.fingerprint and a.manifest['files'] == b.manifest['files']


@pytest.mark.slow
def test_ray_reads_the_same_bytes(tmp_path):
    pytest.importorskip('ray', reason="needs Ray: pip install 'andromeda[ray]'")
    folder_of(tmp_path/'in', 20)
    for workers,backend in ((1, 'processes'), (2, 'processes'), (2, 'ray')): assert reading(tmp_path, tmp_path/backend/str(workers), workers, backend).wait() == 0
    made = [open_artefact(tmp_path/b/w) for b,w in (('processes', '1'), ('processes', '2'), ('ray', '2'))]
    assert made[0].manifest['files'] == made[1].manifest['files'] == made[2].manifest['files']
    assert len({m.fingerprint for m in made}) == 1


def test_a_data_set_saved_whole_is_read_without_its_test_split(tmp_path):
    from dataclasses import replace
    for split in ('train', 'validation', 'test'):
        (tmp_path/'in'/split).mkdir(parents=True)
        (tmp_path/'in'/split/'rows.jsonl').write_text(f'{{"text": "{split}"}}\n')
    mine = Source('mine', 'low', 'prose', 'files', '', '', dict(path=str(tmp_path/'in')))
    with pytest.warns(UserWarning, match='2 file.*left out.*test/rows.jsonl'): assert list(source_files(mine)) == ['train/rows.jsonl']
    asked = replace(mine, options=mine.options | dict(splits=['train', 'test']))
    assert set(source_files(asked)) == {'train/rows.jsonl', 'test/rows.jsonl'}
    (tmp_path/'in'/'train'/'rows.jsonl').unlink()
    assert set(source_files(mine)) == {'test/rows.jsonl', 'validation/rows.jsonl'}       # nothing says train: the words mean something else here


def test_a_folder_of_save_to_disk_is_read(tmp_path):
    datasets = pytest.importorskip('datasets', reason="needs datasets: pip install 'andromeda[hub]'")
    rows = [dict(instruction=f'Say {i}.', context='', response=f'{i}', category='open_qa') for i in range(7)]
    datasets.DatasetDict(train=datasets.Dataset.from_list(rows[:5]), test=datasets.Dataset.from_list(rows[5:])).save_to_disk(tmp_path/'in', num_shards=dict(train=2, test=1))
    mine = Source('mine', 'low', 'dialogue', 'files', '', '', dict(path=str(tmp_path/'in'), adapter='dolly', splits=['train']))
    made = read_source(mine, tmp_path/'out', workers=1)
    assert made.counts['files'] == 2 and sorted(d['text'][:21] for d in read_rows(made)) == [f'### Instruction\nSay {i}' for i in range(5)]
