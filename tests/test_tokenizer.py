"Any text comes back, and training sees nothing it should not."
import json
import random
import sys

import numpy as np
import pytest

from andromeda.bpe import pieces
from andromeda.shards import SPLITS, Shards, Splits, build_shards, split_of
from andromeda.tokenizer import (END_ID, END_OF_TEXT, Encoder, build_tokenizer, compare, keep_tokenizer, load_tokenizer, merges_of, sample_texts, token_bytes,
                                 train_tokenizer)

WORDS = ['mean', 'sum ', '  ', '\n', '\t', '3.14', '漢字', 'é', '👩‍🚀', '\u202e', '\0', END_OF_TEXT, 'Ω', '\r\n', '\x7f', '\ufeff']


@pytest.fixture(scope='module')
def tokenizer(): return train_tokenizer([' '.join(WORDS)*3, 'the mean of the sum of the mean'*10], 320)


@pytest.mark.parametrize('seed', range(50))
def test_decode_is_the_inverse_of_encode(tokenizer, seed):
    r,table = random.Random(seed),token_bytes(tokenizer)
    text = ''.join(r.choices(WORDS, k=r.randint(0, 60))) + ''.join(chr(r.choice([r.randint(1, 0xd7ff), r.randint(0xe000, 0x10ffff)])) for _ in range(10))
    ids = tokenizer.encode(text).ids
    assert tokenizer.decode(ids) == text and b''.join(table[i] for i in ids) == text.encode() and END_ID not in ids


def test_training_is_the_same_twice():
    one,two = (train_tokenizer(['the mean of the sum']*5, 280).to_str() for _ in range(2))
    assert one == two


def test_the_id_of_a_byte_is_fixed_and_every_byte_has_one(tokenizer):
    assert sorted(t for t in token_bytes(tokenizer) if len(t) == 1) == [bytes([b]) for b in range(256)]
    assert tokenizer.token_to_id(END_OF_TEXT) == END_ID == 0


@pytest.mark.parametrize('seed', range(5))
def test_shards_hold_every_document_once(tmp_path, seed):
    r = random.Random(seed)
    docs = [dict(id=f'{i:016x}', group=str(i//2), text=''.join(r.choices(WORDS, k=r.randint(0, 50)))) for i in range(r.randint(40, 90))]
    made = build_tokenizer(tmp_path/'tokenizer', [d['text'] for d in docs], 300, {})
    shards,decode = Shards(build_shards(lambda: docs, tmp_path/'s', made, {}, splits=Splits(), batch=r.randint(1, 30))),load_tokenizer(made).decode
    found = {d.id: (split,decode(d.tokens.tolist()),d.n_bytes) for split in SPLITS for d in shards.documents(split)}
    assert found == {d['id']: (split_of(d['group']),d['text'],len(d['text'].encode())) for d in docs}
    for split in SPLITS: assert (np.asarray(shards.tokens(split)) == END_ID).sum() == len(shards.documents(split))


def test_training_can_run_without_the_tokenizer_library(tmp_path):
    "Reading shards and making batches imports neither tokenizers nor pyarrow: they run in a bare CUDA container."
    import subprocess
    code = ("import sys; sys.modules.update(tokenizers=None, pyarrow=None, tqdm=None)\n"
            "import andromeda.runs, andromeda.shards, andromeda.mixture, andromeda.model, andromeda.score\n"
            "from andromeda.stages import tiny; print(tiny()[0].name)")
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout == 'tiny-palm\n'


SPECIALS = (END_OF_TEXT, '<|pad|>', '<|user|>')
SPELLED = ['<|endoftext|>', 'a<|endoftext|>b', '<|endoftext|><|endoftext|>', ' <|pad|> ', '<|user|>', '<|endoftext', 'endoftext', '<|']


@pytest.fixture(scope='module', params=['bpe', 'unigram'])
def of_each_kind(request): return train_tokenizer([*SPELLED*20, 'the mean of the sum\n    of 2048 values '*50], 400, request.param, SPECIALS)


@pytest.mark.parametrize('seed', range(20))
def test_encoder_gives_the_ids_of_the_library_and_the_text_back(of_each_kind, seed):
    r,encoder = random.Random(seed),Encoder(of_each_kind)
    texts = [''.join(r.choices(WORDS, k=r.randint(0, 40))) + ''.join(chr(r.choice([r.randint(0, 0xd7ff), r.randint(0xe000, 0x10ffff)])) for _ in range(r.randint(0, 9))) for _ in range(20)]
    end = r.choice([None, END_ID])
    ids,starts = encoder.encode_batch(texts, end)
    for text,a,b,expected in zip(texts, starts, starts[1:], of_each_kind.encode_batch(texts)):
        found = ids[a:b].tolist()
        assert found == expected.ids+([] if end is None else [end]) and encoder.decode(found) == text
    assert ids.dtype == np.uint16 and len(starts) == 21 and encoder.compiled == ('"BPE"' in of_each_kind.to_str())


def test_special_tokens_are_registered_and_never_come_from_text(of_each_kind):
    assert [of_each_kind.token_to_id(s) for s in SPECIALS] == [0, 1, 2] and {t.content for t in of_each_kind.get_added_tokens_decoder().values()} == set(SPECIALS)
    for text in SPELLED:
        for ids in (Encoder(of_each_kind).encode(text), of_each_kind.encode(text).ids):
            assert min(ids) > 2 and of_each_kind.decode(ids) == text
    assert token_bytes(of_each_kind)[:3] == [b'', b'', b'']
    fresh = train_tokenizer(['a'], 259, 'bpe', SPECIALS)                       # as it comes, before anything else had it in hands
    assert min(fresh.encode(END_OF_TEXT).ids) > 2


def test_the_file_opens_in_transformers_with_the_same_ids(of_each_kind, tmp_path):
    transformers = pytest.importorskip('transformers')
    of_each_kind.save(str(tmp_path/'tokenizer.json'))
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path/'tokenizer.json'), eos_token=END_OF_TEXT, split_special_tokens=True)
    ours = Encoder(tmp_path)
    for text in [*WORDS, *SPELLED, 'The mean of 2048  values\n\n    is: naïve']:
        assert theirs(text, add_special_tokens=False)['input_ids'] == ours.encode(text)
        assert theirs.decode(ours.encode(text), clean_up_tokenization_spaces=False) == text
    assert theirs.eos_token_id == END_ID and len(theirs) == ours.vocab


@pytest.mark.parametrize('text,cut', [
    ('x = 2048', ['x', ' =', ' ', '2', '0', '4', '8']), ('v2', ['v', '2']), ("don't", ['don', "'t"]), ('f(values)', ['f', '(values', ')']),
    ('a  b', ['a', '  ', 'b']), ('if a:\n        b', ['if', ' a', ':', '\n        ', 'b']), ('\t\tx', ['\t\t', 'x']), (' x', [' x']), ('a\r\nb', ['a', '\r\n', 'b']),
    ('e\u0301t', ['e\u0301t']), ('漢字。', ['漢字', '。']), ('٣٤', ['٣٤']), ('a\u00a0b', ['a', '\u00a0b']), ('_name', ['_name']), ('-->', ['-->']), ('x'*40, ['x'*32, 'x'*8])])
def test_the_rules_for_digits_white_space_and_words(text, cut):
    assert [p.decode() for p in pieces(text)] == cut


@pytest.mark.parametrize('damage', ['missing id', 'twice', 'no model', 'a list', 'cut'])
def test_a_damaged_file_is_refused_and_named(tokenizer, tmp_path, damage):
    import json
    path = tmp_path/'tokenizer.json'
    held = json.loads(tokenizer.to_str())
    if damage == 'missing id': held['model']['vocab'].pop('a')
    if damage == 'twice': held['model']['vocab']['a'] = held['model']['vocab']['b']
    if damage == 'no model': held.pop('model')
    if damage == 'a list': held = [held]
    path.write_text(json.dumps(held)[:1000 if damage == 'cut' else None])
    with pytest.raises(ValueError, match=str(path)): load_tokenizer(tmp_path)


def test_a_tokenizer_with_other_rules_is_never_compiled(tokenizer):
    "Each setting that the kernel does not know sends the text through the library, whose ids are then the answer."
    import json

    from tokenizers import Tokenizer
    changes = [('normalizer', dict(type='NFC')), ('pre_tokenizer', dict(type='ByteLevel', add_prefix_space=False, trim_offsets=True, use_regex=True)),
               ('model', dict(ignore_merges=True)), ('model', dict(dropout=.5)), ('model', dict(byte_fallback=True))]
    for key,value in changes:
        held = json.loads(tokenizer.to_str())
        held[key] = held[key] | value if key == 'model' else value
        other = Encoder(Tokenizer.from_str(json.dumps(held)))
        assert not other.compiled
        if 'dropout' not in value: assert other.encode(' the mean of') == other.tokenizer.encode(' the mean of').ids
    assert Encoder(tokenizer).compiled and not Encoder(tokenizer, compiled=False).compiled


@pytest.mark.parametrize('seed', range(20))
def test_a_sample_has_its_size_and_shares_and_is_read_no_further(seed):
    r = random.Random(seed)
    sizes,share = {s: r.choice([0, 2_000, 50_000]) for s in 'abcd'},{s: r.random() for s in 'abcd'}
    read = dict.fromkeys('abcd', 0)
    def source(s):
        while read[s] < sizes[s]:
            read[s] += 10
            yield s*10
    wanted,found = 20_000,dict.fromkeys('abcd', 0)
    for text in sample_texts({s: source(s) for s in sizes}, share, wanted): found[text[0]] += len(text)
    assert found == read
    assert abs(sum(found.values()) - min(wanted, sum(sizes.values()))) <= 100
    full = [s for s in sizes if found[s] < sizes[s]]
    for s in full:
        for t in full: assert abs(found[s]/share[s] - found[t]/share[t]) <= 100/min(share[s], share[t])


def test_merges_behind_a_token_build_it(tokenizer):
    table = token_bytes(tokenizer)
    for i,data in enumerate(table):
        if len(data) > 1:
            steps,known = merges_of(tokenizer, i),{bytes([b]) for b in range(256)}
            for left,right in steps:
                assert {left, right} <= known
                known.add(left+right)
            assert steps[-1][0]+steps[-1][1] == data
    assert merges_of(Encoder(tokenizer), data.decode(errors='replace')) or len(data) == 1


def test_comparison_counts_what_is_there(of_each_kind, tmp_path):
    of_each_kind.save(str(tmp_path/'tokenizer.json'))
    texts = dict(prose=['the mean of the sum', ''], digits=['123', '9'*50])
    result = compare(dict(ours=of_each_kind, disk=tmp_path), texts, worst=2)
    row = {(r['tokenizer'], r['source']): r for r in result.rows}
    assert row['ours', 'digits']['bytes_per_token'] == 1 and row['ours', 'digits']['tokens'] == 53 and row['ours', 'prose'] == row['disk', 'prose'] | dict(tokenizer='ours')
    assert [(w['source'], w['bytes_per_token']) for w in result.worst['ours']] == [('digits', 1), ('digits', 1)]
    used = set(Encoder(of_each_kind).encode_batch([t for docs in texts.values() for t in docs])[0].tolist())
    assert len(result.unused['ours']) == of_each_kind.get_vocab_size()-len(SPECIALS)-len(used) and ('1', 1) in result.rare['ours']
    with pytest.raises(ValueError, match='empty'): compare(dict(ours=of_each_kind), dict(empty=['']))


@pytest.mark.parametrize('kind', ['bpe', 'unigram'])
def test_what_cannot_be_trained_is_one_clear_error(kind):
    for texts,vocab,specials,what in (([], 300, SPECIALS, 'no text'), ([''], 300, SPECIALS, 'no text'), (['a'], 258, SPECIALS, 'use 259 or more'), (['a', '\udfff'], 300, SPECIALS, 'Text 1 holds'),
                                      ([None], 300, SPECIALS, 'NoneType'), (['a'], 300, ('<|pad|>',), 'expected'), (['a'], 300, (END_OF_TEXT, END_OF_TEXT), 'each once')):
        with pytest.raises(ValueError, match=what): train_tokenizer(texts, vocab, kind, specials)
    with pytest.raises(ValueError, match="use 'bpe' or 'unigram'"): train_tokenizer(['a'], 300, 'words')
    assert train_tokenizer(['a'], 259, kind, SPECIALS).get_vocab_size() == 259


def test_a_tokenizer_that_cannot_be_kept_is_refused(tokenizer, tmp_path):
    "Another end-of-text, or tokens that stand for words; nothing is left behind."
    from tokenizers import Tokenizer, models
    words = Tokenizer(models.WordLevel({'<|endoftext|>': 0, 'mean': 1, 'Ġ漢': 2}, '<|endoftext|>'))
    words.add_special_tokens(['<|endoftext|>'])
    words.save(str(tmp_path/'words.json'))
    held = json.loads(tokenizer.to_str().replace('<|endoftext|>', '<|end|>'))
    (tmp_path/'end.json').write_text(json.dumps(held))
    for name,said in (('words', 'no byte-level tokenizer'), ('end', r"'<\|endoftext\|>' has the id None, expected 0")):
        with pytest.raises(ValueError, match=said): keep_tokenizer(tmp_path/'out', tmp_path/f'{name}.json', 10**5)
        assert not (tmp_path/'out').exists()
