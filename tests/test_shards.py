"Splits do not leak, token files are whole or refused, and a token finds its way back to its text."
import errno
import functools
import hashlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from andromeda.core import sha256_file
from andromeda.shards import SPLITS, Shards, Splits, build_shards, own_split, parent, plan_splits, rules_passed, split_of, where
from andromeda.tokenizer import END_ID, END_OF_TEXT, build_tokenizer, load_tokenizer, token_bytes

WORDS = ['mean', 'sum ', '  ', '\n', '3.14', '漢字', 'é', '👩‍🚀', '\0', END_OF_TEXT, 'Ω', '\r\n', '\ufeff']


def documents(part, n=40, seed=0):
    "Importable, so that other processes can make them."
    r = random.Random(f'{part} {seed}')
    return [dict(id=hashlib.md5(f'{part} {i} {seed}'.encode()).hexdigest()[:16], source='words', file=f'{part}.txt', row=i, group=f'{part}-{i//3}',
                 text=''.join(r.choices(WORDS, k=r.randint(0, 60)))) for i in range(n)]


def parts_of(count, **more): return {f'part-{k}': functools.partial(documents, k, **more) for k in range(count)}


@pytest.fixture(scope='module')
def tokenizer(tmp_path_factory):
    return build_tokenizer(tmp_path_factory.mktemp('t')/'tokenizer', [' '.join(WORDS)*5, 'the mean of the sum'*9], 320, {})


@pytest.fixture(scope='module')
def whole(tokenizer):
    "Shards of five parts, and their documents. Not to be changed: copy first."
    out = tokenizer.folder.parent/'shards'/'words'
    return Shards(build_shards(parts_of(5), out, tokenizer, {}, keys={p: p for p in parts_of(5)}, workers=1)),[d for k in range(5) for d in documents(k)]


def copied(whole, tmp_path):
    shutil.copytree(whole[0].artefact.folder, tmp_path/'words')
    return tmp_path/'words'


# splits

def collection(r, sources, n):
    "By source, documents whose groups are sometimes shared between sources and sometimes of a benchmark's own split."
    made = {}
    for s in sources:
        made[s] = []
        for i in range(n if s != 'tiny' else n//8):
            group = f'shared{r.randrange(40)}' if r.random() < .2 else f'{s}{r.randrange(n)}'
            made[s].append(dict(group=group, split=r.choice(['test', 'validation', 'dev']) if r.random() < .03 else r.choice(['train', None, ''])))
    return made


def plans_of(made, **more): return plan_splits({s: functools.partial(iter, docs) for s,docs in made.items()}, **more)


@pytest.mark.parametrize('seed', range(30))
def test_no_group_is_in_two_splits_and_own_splits_are_kept(seed):
    made = collection(random.Random(seed), ('web', 'code', 'tiny'), 400)
    plans,of = plans_of(made),{}
    for s,docs in made.items():
        for d in docs:
            of.setdefault(d['group'], set()).add(plans[s].of(d))
            if own_split(d): assert plans[s].of(d) != 'train'
    assert all(len(v) == 1 for v in of.values())
    assert {'validation', 'test'} <= {v for vs in of.values() for v in vs}


@pytest.mark.parametrize('seed', range(30))
def test_added_documents_never_hold_out_what_was_trained_on(seed):
    "A source grows, another comes: a document stays, or moves from a held-out split to training. (No splits of their own here.)"
    r = random.Random(seed)
    n = r.choice([12, 40, 100, 500])
    old = {s: [dict(group=d['group']) for d in docs] for s,docs in collection(r, ('web', 'tiny'), n).items()}
    new = {s: docs + [dict(group=d['group']) for d in collection(r, ('web', 'tiny'), n)[s]] for s,docs in old.items()}
    new['code'] = [dict(group=d['group']) for d in collection(r, ('code',), n)['code']]
    before,after = plans_of(old),plans_of(new)
    for s,docs in old.items():
        for d in docs: assert after[s].of(d) in (before[s].of(d), 'train')


@pytest.mark.parametrize('seed', range(40))
def test_small_sources_have_their_floor(seed):
    "From 80 documents on, and without holding out more than was asked for where the share alone is enough."
    n = random.Random(seed).choice([80, 120, 3000])
    plan = plan_splits(dict(s=lambda: (dict(group=f'{seed}/{i}') for i in range(n))), least=5)['s']
    found = Counter(plan.of(dict(group=f'{seed}/{i}')) for i in range(n))
    share = Counter(split_of(f'{seed}/{i}') for i in range(n))
    assert all(found[s] == max(5, share[s]) for s in ('test', 'validation')) and found['train'] > n/2
    if n == 3000: assert not plan.chosen and all(.03 < found[s]/n < .07 for s in ('test', 'validation'))


def test_a_tiny_source_keeps_at_least_half_to_train_on():
    for seed in range(50):
        plan = plan_splits(dict(s=lambda: (dict(group=f'{seed}/{i}') for i in range(20))), least=1000)['s']
        distances = [int.from_bytes(hashlib.blake2b(f'{seed}/{i}'.encode(), digest_size=8, person=b'split').digest(), 'big')/2**64 for i in range(20)]
        assert sum(plan.of(dict(group=f'{seed}/{i}')) == 'train' for i in range(20)) == sum(.25 <= u <= .75 for u in distances)


@pytest.mark.parametrize('name,expected', [('train', None), ('Train', None), ('', None), (None, None), ('validation_matched', 'validation'), ('dev', 'validation'),
                                           ('val', 'validation'), ('eval', 'validation'), ('test', 'test'), ('TEST_unmatched', 'test')])
def test_names_of_splits(name, expected):
    assert own_split(dict(id='a', split=name)) == expected
    if name: assert own_split(dict(id='a', meta=f'{{"title": "x", "split": "{name}"}}')) == expected
    if expected: assert all(Splits().of(dict(id='a', group=str(i), split=name)) == expected for i in range(20))      # without a plan, too


def test_a_document_of_a_test_set_is_never_trained_on(tokenizer, tmp_path):
    docs = [d | (dict(split='test') if i%7 == 0 else {}) for i,d in enumerate(documents(0, 200))]
    shards = Shards(build_shards(lambda: docs, tmp_path/'s', tokenizer, {}))
    trained = {d.id for d in shards.documents('train')}
    groups = {d['group'] for d in docs if d.get('split')}
    assert not trained & {d['id'] for d in docs if d['group'] in groups} and trained


# writing

def files(artefact): return {str(p.relative_to(artefact.folder)): sha256_file(p) for p in artefact.folder.rglob('*') if p.is_file() and p.name != 'manifest.json'}


def test_the_same_bytes_with_any_number_of_workers(whole, tokenizer, tmp_path):
    for workers in (1, 2):
        made = build_shards(parts_of(5), tmp_path/f'w{workers}', tokenizer, {}, keys={p: p for p in parts_of(5)}, workers=workers)
        assert files(made) == files(whole[0].artefact) and made.fingerprint == whole[0].artefact.fingerprint


def test_every_document_is_there_once_with_end_of_text_behind_it(whole, tokenizer):
    shards,docs = whole
    decode,plan = load_tokenizer(tokenizer).decode,plan_splits(dict(s=lambda: docs))['s']
    found = {d.id: (s, decode(d.tokens.tolist()), d.n_bytes) for s in SPLITS for d in shards.documents(s)}
    assert found == {d['id']: (plan.of(d), d['text'], len(d['text'].encode())) for d in docs}
    for s in SPLITS:
        assert (np.asarray(shards.tokens(s)) == END_ID).sum() == len(shards.documents(s)) == shards.artefact.counts[f'{s}_documents']
        assert len(shards.tokens(s)) == shards.artefact.counts[f'{s}_tokens']


def test_only_what_changed_is_encoded_again(whole, tokenizer, tmp_path):
    "And the result is that of doing all of it."
    out,docs = tmp_path/'grown',documents
    parts,keys = parts_of(5),{p: p for p in parts_of(5)}
    plan = Splits(.1)
    build_shards(parts, out, tokenizer, {}, splits=plan, keys=keys, workers=1)
    made = []
    def seen(name, read): return lambda: made.append(name) or read()
    changed = parts | {'part-2': functools.partial(docs, 2, seed=1), 'part-5': functools.partial(docs, 5)}
    new = keys | {'part-2': 'changed', 'part-5': 'new'}
    grown = build_shards({p: seen(p, read) for p,read in changed.items()}, out, tokenizer, dict(more=tokenizer), splits=plan, keys=new, workers=1)
    assert made == ['part-2', 'part-5']
    anew = build_shards(changed, tmp_path/'anew', tokenizer, dict(more=tokenizer), splits=plan, keys=new, workers=1)
    assert files(grown) == files(anew)
    made.clear()                                            # another tokenizer: everything
    other = build_tokenizer(tmp_path/'other', ['mean '*9], 300, {})
    build_shards({p: seen(p, read) for p,read in changed.items()}, out, other, {}, splits=plan, keys=new, workers=1)
    assert made == list(changed)


SLOW_BUILD = '''
import sys, time
sys.path[:0] = [{root!r}, {tests!r}]
from pathlib import Path
from test_shards import parts_of
from andromeda.core import open_artefact
from andromeda.shards import build_shards
build_shards(parts_of(12, n=150), Path({out!r}), open_artefact(Path({tokenizer!r})), {{}}, keys={{p: p for p in parts_of(12)}}, workers={workers})
'''


def killed_and_gone_on(tokenizer, tmp_path, kills, seed):
    "Build in a process that is killed `kills` times at random moments; returns how many kills hit."
    r,hit = random.Random(seed),0
    code = SLOW_BUILD.format(root=str(Path(__file__).parent.parent), tests=str(Path(__file__).parent), out=str(tmp_path/'out'), tokenizer=str(tokenizer.folder), workers=1)
    for _ in range(kills):
        process = subprocess.Popen([sys.executable, '-c', code], start_new_session=True)
        began = time.monotonic()
        while time.monotonic()-began < 20 and not list(tmp_path.glob('.out.*')) and process.poll() is None: time.sleep(.005)   # until it writes
        time.sleep(r.uniform(0, .25))
        hit += process.poll() is None
        if process.poll() is None: os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    subprocess.run([sys.executable, '-c', code], check=True)
    return hit


@pytest.mark.parametrize('seed', [0])
def test_killed_at_random_moments_the_shards_are_the_same(tokenizer, tmp_path, seed):
    hit = killed_and_gone_on(tokenizer, tmp_path, 3, seed)
    whole = build_shards(parts_of(12, n=150), tmp_path/'undisturbed', tokenizer, {}, keys={p: p for p in parts_of(12)}, workers=1)
    interrupted = Shards(tmp_path/'out')
    interrupted.verify()
    assert hit and interrupted.artefact.fingerprint == whole.fingerprint and files(interrupted.artefact) == files(whole)


@pytest.mark.slow
@pytest.mark.parametrize('seed', range(1, 9))
def test_killed_at_many_moments_the_shards_are_the_same(tokenizer, tmp_path, seed):
    test_killed_at_random_moments_the_shards_are_the_same(tokenizer, tmp_path, seed)


FULL_DISK = '''
import resource, sys
sys.path[:0] = [{root!r}, {tests!r}]
from pathlib import Path
from test_shards import documents
from andromeda.core import open_artefact
from andromeda.shards import build_shards
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))     # no file may grow above: write() fails, as on a full disk
try: build_shards(lambda: documents(0, 4000), Path({out!r}), open_artefact(Path({tokenizer!r})), {{}}, held_out=.06)
except OSError as e: print(e)
'''


def test_a_full_disk_is_an_error_with_path_and_bytes_and_the_old_shards_stay(whole, tokenizer, tmp_path):
    out = copied(whole, tmp_path)
    code = FULL_DISK.format(root=str(Path(__file__).parent.parent), tests=str(Path(__file__).parent), out=str(out), tokenizer=str(tokenizer.folder))
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr                                     # no signal
    assert f'[Errno {errno.EFBIG}]' in done.stdout and 'bytes of tokens of this part' in done.stdout and 'free' in done.stdout and str(tmp_path) in done.stdout
    Shards(out).verify()


def test_no_space_is_said_as_such(monkeypatch, tokenizer, tmp_path):
    import andromeda.shards as module
    real = open
    monkeypatch.setattr(module, 'open', lambda path, *a, **k: real('/dev/full' if str(path).endswith('train.bin') else path, *a, **k), raising=False)
    with pytest.raises(OSError, match='No space left on device: stopped after .* bytes') as e: build_shards(lambda: documents(0), tmp_path/'s', tokenizer, {})
    assert e.value.errno == errno.ENOSPC and str(tmp_path) in e.value.filename


# what goes wrong

def with_ids(monkeypatch, ids, vocab=320):
    import andromeda.shards as module
    class Made:
        dtype = np.uint16 if vocab <= 1<<16 else np.uint32
        def __init__(self, tokenizer): self.vocab = vocab
        def encode_batch(self, texts, end): return np.array([*ids, end]*len(texts)),np.arange(len(texts)+1)*(len(ids)+1)
    monkeypatch.setattr(module, 'Encoder', Made)


@pytest.mark.parametrize('ids,vocab', [([1, 2, 320], 320), ([5, END_ID, 7], 320), ([1, 70_000], 65_536)])
def test_an_id_outside_the_vocabulary_is_refused_with_its_document(monkeypatch, tokenizer, tmp_path, ids, vocab):
    with_ids(monkeypatch, ids, vocab)
    with pytest.raises(ValueError, match=r"Document '[0-9a-f]{16}' has token ids"): build_shards(lambda: documents(0), tmp_path/'s', tokenizer, {})


@pytest.mark.parametrize('vocab,width', [(320, 2), (65_536, 2), (65_537, 4), (100_000, 4)])
def test_the_width_follows_the_vocabulary(monkeypatch, tokenizer, tmp_path, vocab, width):
    with_ids(monkeypatch, [1, vocab-1], vocab)
    tokens = Shards(build_shards(lambda: documents(0), tmp_path/'s', tokenizer, {})).tokens('train')
    assert tokens.dtype.itemsize == width and tokens[1] == vocab-1


def test_special_token_text_is_encoded_as_text(tokenizer, tmp_path):
    docs = [dict(id='a', group='a', text=f'before {END_OF_TEXT} after')]
    shards = Shards(build_shards(lambda: docs, tmp_path/'s', tokenizer, {}, splits=Splits(0)))
    assert (np.asarray(shards.tokens('train')) == END_ID).tolist().index(True) == len(shards.tokens('train'))-1
    assert load_tokenizer(tokenizer).decode(shards.documents('train')[0].tokens.tolist()) == docs[0]['text']


@pytest.mark.parametrize('bad,said', [(dict(text='\udc80'), 'half a surrogate pair'), (dict(id='a'*17), 'cannot be the id'), (dict(id='é'), 'cannot be the id'),
                                      (dict(split='holdout'), 'begins with train')])
def test_bad_documents_are_named_and_nothing_is_left(tokenizer, tmp_path, bad, said):
    docs = documents(0)
    docs[20] |= bad
    with pytest.raises(ValueError, match=said): build_shards(lambda: docs, tmp_path/'s', tokenizer, {}, splits=Splits())
    assert not (tmp_path/'s').exists()


@pytest.mark.parametrize('docs', [[], [dict(id='a', group='a', text='only a test', split='test')]])
def test_nothing_to_train_on_is_refused(tokenizer, tmp_path, docs):
    with pytest.raises(ValueError, match='no document fell into the training split'): build_shards(lambda: docs, tmp_path/'s', tokenizer, {})


@pytest.mark.parametrize('seed', range(12))
def test_damage_is_found_and_named(whole, tmp_path, seed):
    "A file cut by one token, one bit flipped, or gone."
    r,folder = random.Random(seed),copied(whole, tmp_path)
    name = r.choice([n for n in whole[0].artefact.manifest['files'] if n.endswith('.bin')])
    data = bytearray((folder/name).read_bytes())
    what = ('cut', 'flipped', 'gone')[seed%3]
    if what == 'cut': (folder/name).write_bytes(data[:-2])
    elif what == 'gone': (folder/name).unlink()
    else:
        data[r.randrange(len(data))] ^= 1 << r.randrange(8)
        (folder/name).write_bytes(data)
    with pytest.raises(ValueError, match=f'damaged: .*{name}'): Shards(folder).verify()
    if what == 'cut':
        with pytest.raises(ValueError, match=f'{name} has .* it was cut or replaced'): np.asarray(Shards(folder).tokens(Path(name).stem))


def test_shards_of_another_tokenizer_are_refused_with_the_way_out(whole, tokenizer, tmp_path):
    other = build_tokenizer(tmp_path/'other', ['mean '*9], 300, {})
    Shards(whole[0].artefact, tokenizer)
    with pytest.raises(ValueError, match=f'made with tokenizer {tokenizer.fingerprint[:7]}, this one is {other.fingerprint[:7]}.*build the shards again'):
        Shards(whole[0].artefact, other)
    with pytest.raises(ValueError, match='give the artefact they were made with'): where(whole[0], 'train', 0, other)


def test_older_shards_are_refused_with_the_way_out(whole, tmp_path):
    folder = copied(whole, tmp_path)
    (folder/'manifest.json').write_text((folder/'manifest.json').read_text().replace('"version": 2', '"version": 1'))
    with pytest.raises(ValueError, match='build them again'): Shards(folder)


# reading

def test_opening_reads_no_token_file(whole, tmp_path):
    "Files of tokens may even be absent until they are read."
    folder = copied(whole, tmp_path)
    for p in folder.rglob('*.bin'): p.chmod(0), p.rename(p.with_suffix('.away'))
    shards = Shards(folder)
    assert len(shards.tokens('train')) == len(whole[0].tokens('train'))
    with pytest.raises(FileNotFoundError): shards.tokens('train')[0]


@pytest.mark.parametrize('seed', range(5))
def test_windows_over_any_parts_are_those_of_the_whole(whole, seed):
    r,tokens = np.random.default_rng(seed),whole[0].tokens('train')
    flat = np.concatenate([d.tokens.tolist() + [END_ID] for d in whole[0].documents('train')]).astype(np.uint16)
    assert np.array_equal(np.asarray(tokens), flat) and len(flat) == len(tokens)
    for length in (1, 7, int(np.diff(tokens.starts).max())+50, len(tokens)):
        starts = r.integers(0, len(tokens)-length+1, 20)
        assert np.array_equal(tokens.windows(starts, length), np.stack([flat[a:a+length] for a in starts]))
    for a,b in r.integers(-len(tokens), len(tokens), (50, 2)): assert np.array_equal(tokens[a:b], flat[a:b])
    assert tokens[-1] == flat[-1] and tokens[5] == flat[5]
    for starts in ([-1], [len(tokens)-3]):
        with pytest.raises(IndexError): tokens.windows(starts, 4)
    with pytest.raises((ValueError, TypeError)): tokens[:10][0] = 1            # read-only


def test_every_token_finds_its_characters(whole, tokenizer):
    "The spans of a document's tokens cover its text; every token's bytes lie in its span."
    shards,docs = whole
    by_id,token,table = {d['id']: d for d in docs},0,token_bytes(load_tokenizer(tokenizer))
    for doc in shards.documents('validation'):
        text,reached,at = by_id[doc.id]['text'],0,0
        of_byte = [i for i,c in enumerate(text) for _ in c.encode()]               # the character of each byte
        for position in range(len(doc.tokens)+1):
            place = where(shards, 'validation', token, tokenizer)
            assert (place.id, place.position, place.file, place.row) == (doc.id, position, by_id[doc.id]['file'], by_id[doc.id]['row'])
            a,b = place.chars
            assert text[a:b] == place.text and text[:a].endswith(place.before) and text[b:].startswith(place.after)
            n = len(table[doc.tokens[position]]) if position < len(doc.tokens) else 0
            assert (a, b) == ((of_byte[at], of_byte[at+n-1]+1) if n else (len(text), len(text)))
            reached,token,at = b,token+1,at+n
        assert reached == len(text)


def test_a_token_knows_the_rules_its_document_passed(tmp_path):
    from andromeda.clean import Rule, clean
    from andromeda.dedup import dedup, survivors
    from andromeda.sources import Source, read_source
    text = tmp_path/'text'
    text.mkdir()
    for i in range(60): (text/f'{i}.txt').write_text(f'This is the story of number {i}, which is told here in some words.\n'*5 if i%4 else 'short')
    source = Source(name='stories', tier='high', kind='prose', reader='text', licence='none', why='of this test', options=dict(path=str(text)))
    documents_ = read_source(source, tmp_path/'documents', workers=1)
    cleaned = clean(documents_, tmp_path/'clean', rules=[*NO_REPEATS, Rule('addresses', 'emails / (words + 1)', most=.05)], workers=1)
    gone = dedup(dict(stories=cleaned), tmp_path/'dedup')
    tokenizer = build_tokenizer(tmp_path/'tokenizer', ['story of number'], 280, {})
    shards = Shards(build_shards(lambda: survivors(cleaned, gone), tmp_path/'shards', tokenizer, dict(clean=cleaned, dedup=gone)))
    place = where(shards, 'train', 700)
    passed = rules_passed(place, parent(shards, 'clean'))
    assert place.source == 'stories' and (text/Path(place.file).name).read_text()[slice(*place.chars)] == place.text
    assert [p['rule'] for p in passed] == ['short', 'addresses'] and passed[1]['value'] == 0 and passed[0]['least'] == 100 and passed[0]['value'] == len((text/Path(place.file).name).read_text())
    from dataclasses import replace
    with pytest.raises(ValueError, match='is not in'): rules_passed(replace(place, id='0'*16), parent(shards, 'clean'))


def rule():
    from andromeda.clean import Rule
    return (Rule('short', 'bytes', least=100, origin='of this test'),)


NO_REPEATS = rule()


# an object store

@pytest.fixture
def store(whole):
    "The shards of `whole` in fsspec's memory file system."
    import fsspec
    fs = fsspec.filesystem('memory')
    fs.put(str(whole[0].artefact.folder), '/bucket/words', recursive=True)
    yield fs
    fs.rm('/bucket', recursive=True)


def held(cache): return sum(p.stat().st_size for p in cache.rglob('*') if p.is_file())


@pytest.mark.parametrize('seed', range(4))
def test_from_an_object_store_the_same_with_a_bounded_cache(whole, store, tmp_path, seed):
    r,near = np.random.default_rng(seed),whole[0]
    most = [5_000, 8_000, 20_000, 10**9][seed]
    far = [Shards('memory://bucket/words', cache=tmp_path/'cache', cache_bytes=most) for _ in range(2)]       # two processes share one folder
    for _ in range(60):
        shards,split = far[r.integers(2)],SPLITS[r.integers(3)]
        starts = r.integers(0, len(near.tokens(split))-9, 3)
        assert np.array_equal(shards.tokens(split).windows(starts, 9), near.tokens(split).windows(starts, 9))
        assert held(tmp_path/'cache') <= most
    assert [d.id for d in far[0].documents('test')] == [d.id for d in near.documents('test')]
    assert held(tmp_path/'cache') <= most


def test_the_file_not_used_for_longest_makes_room(whole, store, tmp_path):
    sizes = {n: size for n,(size,_) in whole[0].artefact.manifest['files'].items()}
    room = sum(sizes[f'part-{k}/train.bin'] for k in (0, 1)) + sizes['layout.json'] + 200
    far = Shards('memory://bucket/words', cache=tmp_path/'cache', cache_bytes=room)
    tokens = far.tokens('train')
    there = lambda: {p.parent.name for p in (tmp_path/'cache').rglob('train.bin')}
    for part in (0, 1): tokens.load(part)
    tokens.load(0)                         # used again: now part-1 is the oldest
    tokens.load(2)
    assert 'part-1' not in there() and 'part-2' in there()


def test_a_fetched_file_is_not_fetched_again(whole, store, tmp_path, monkeypatch):
    one = Shards('memory://bucket/words', cache=tmp_path/'cache')
    np.asarray(one.tokens('train'))
    for p in whole[0].artefact.folder.rglob('*.bin'): store.rm(f'/bucket/words/{p.relative_to(whole[0].artefact.folder)}')
    again = Shards('memory://bucket/words', cache=tmp_path/'cache')
    assert np.array_equal(np.asarray(again.tokens('train')), np.asarray(whole[0].tokens('train')))
    with pytest.raises(ValueError, match='part-0/train.bin has other content than was committed, or is missing'): again.verify()


def test_a_file_that_changed_in_the_store_is_refused_and_not_kept(whole, store, tmp_path):
    store.store['/bucket/words/part-2/train.bin'].seek(7)
    store.store['/bucket/words/part-2/train.bin'].write(b'\xff')
    far = Shards('memory://bucket/words', cache=tmp_path/'cache')
    for _ in range(2):
        with pytest.raises(ValueError, match='part-2/train.bin has other content than was committed'): np.asarray(far.tokens('train'))
    assert not list((tmp_path/'cache').rglob('part-2/train.bin'))


def test_a_batch_from_an_object_store_is_the_batch_from_here(whole, store, tmp_path):
    from andromeda.mixture import Mixture, Portion
    far = Shards('memory://bucket/words', cache=tmp_path/'cache', cache_bytes=5_000)
    near,away = (Mixture(dict(words=s), (Portion('one', dict(words=1.), 60),), 12, 4) for s in (whole[0], far))
    for step in range(15): assert np.array_equal(near.batch_at(0, step), away.batch_at(0, step))
    assert near.where(0, 3, 1, 5) == where(far, 'train', int(near.places(0, 13, 1)[1][0])+5, parent(whole[0], 'tokenizer'))


@pytest.mark.parametrize('seed', range(5))
def test_documents_of_a_stretch_of_tokens(whole, seed):
    r,shards = random.Random(seed),whole[0]
    of_token = [d.id for d in shards.documents('train') for _ in range(len(d.tokens)+1)]
    for _ in range(40):
        a = r.randrange(len(of_token))
        b = r.randint(a+1, len(of_token))
        assert shards.ids('train', a, b) == list(dict.fromkeys(of_token[a:b]))
