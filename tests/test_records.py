"Every line, row and element is a record, is lost with its place and reason, or is blank; whatever the file holds."
import csv
import gzip
import hashlib
import importlib.util
import json
import os
import random
import subprocess
import sys
import warnings
import zlib
from collections import Counter
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from andromeda import records as module
from andromeda.records import LIMITS, Lost, Record, list_files, read_batches, read_records, same_columns, shown

pytestmark = pytest.mark.filterwarnings('ignore')


def zstd(data): return pa.Codec('zstd').compress(data, asbytes=True)


def write(path, data):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def read(path, data=None, **options):
    "Records, Lost and notes of a file."
    if data is not None: write(path, data)
    notes = Counter()
    found = list(read_records(path, notes=notes, **options))
    assert [x.row for x in found] == sorted({x.row for x in found})             # once each, in order
    return [x for x in found if type(x) is Record], [x for x in found if type(x) is Lost], notes


GOOD = [b'{"text": "one"}', b'{"text": "two"}']


def one_bad(tmp_path, bad, reason, **options):
    "Between two good lines, `bad` alone is lost, with line, offset, reason and hash."
    records,lost,_ = read(tmp_path/'x.jsonl', b'\n'.join([GOOD[0], bad, GOOD[1]])+b'\n', **options)
    assert [(r.row, r.offset) for r in records] == [(1, 0), (3, 17+len(bad))]
    [item] = lost
    assert (item.file, item.row, item.offset, item.sha256) == ('x.jsonl', 2, 16, hashlib.sha256(bad).hexdigest()) and reason in item.reason


# --- lines of JSON (1 to 16)

@pytest.mark.parametrize('bad, reason', [
    (b'{"text": "a",}', 'not JSON: '),                                                                # 2
    (b'{"text": "caf\xe9"}', 'byte 0xe9 at byte 13'),                                                 # 3
    (b'\xef\xbb\xbf{"text": "mark"}', 'not JSON'),                                                    # 4, not at the start
    (b'{"text": "\\ud800"}', 'lone surrogate \\ud800'), (b'{"\\udc00": 1}', 'lone surrogate'),        # 5
    (b'{"text": NaN}', 'NaN is not JSON'), (b'{"a": -Infinity}', '-Infinity is not JSON'), (b'{"a": 1e999}', 'does not fit'),  # 6
    (b'{"a": ' + b'['*100_000 + b']'*100_000 + b'}', 'deep'), (b'{"a": ' + b'['*100 + b']'*100 + b'}', 'more than 100 deep'),   # 7
    (b'{"a": ' + b'9'*5000 + b'}', '5000 digits'), (b'{"a": 18446744073709551616}', '20 digits'), (b'{"a": [-9223372036854775809]}', '19 digits'),  # 13
    (b'[1]', 'a list, expected an object'), (b'null', 'null, expected'), (b'"x"', 'a text, expected'), (b'1', 'a number, expected'),
    (b'{"a": "x\ty"}', 'not JSON: Invalid control character'), (b'{"a": 01}', 'not JSON'), (b"{'a': 1}", 'not JSON'), (b'{} {}', 'not JSON'), (b'\0', 'not JSON'),
], ids=lambda v: v[:24].decode('latin-1') if isinstance(v, bytes) else '')
def test_a_bad_line_is_lost_alone(tmp_path, bad, reason): one_bad(tmp_path, bad, reason)


@pytest.mark.parametrize('bad, reason', [(b'{"body": "a"}', "no 'text', only 'body'"), (b'{}', "only nothing"),                               # 9
                                         (b'{"text": null}', "'text' holds null"), (b'{"text": 3}', 'holds a number'), (b'{"text": ["a"]}', 'holds a list')])  # 10
def test_a_record_without_text_is_lost_alone(tmp_path, bad, reason): one_bad(tmp_path, bad, reason, text='text')


def test_numbers_that_fit_are_exact(tmp_path):
    for number in ('9223372036854775808', '18446744073709551615', '-9223372036854775808', '9007199254740993', '1e300', '-1e19', '0.1'):
        [record],_,_ = read(tmp_path/'x.jsonl', f'{{"a": {number}}}')
        assert record.data == {'a': json.loads(number)}


def test_a_cut_last_line_is_lost(tmp_path):                                                            # 1
    records,[lost],_ = read(tmp_path/'x.jsonl', GOOD[0]+b'\n'+GOOD[1][:12])
    assert len(records) == 1 and (lost.row, lost.offset) == (2, 16) and 'Unterminated string at byte 9' in lost.reason


def test_a_mark_of_byte_order_is_welcome_once(tmp_path):                                               # 4
    mark = b'\xef\xbb\xbf'
    for name,data in {'a.jsonl': GOOD[0], 'b.json': b'['+GOOD[0]+b']', 'c.csv': b'text\none', 'd.txt': b'one'}.items():
        records,lost,_ = read(tmp_path/name, mark+data)
        assert [r.data for r in records] == [{'text': 'one'}] and not lost


@pytest.mark.parametrize('line, n', [(b'{"a": 1, "a": 2}', 1), (b'{"a" : 1, "b": {"c": 3, "c"\t: 4, "c":5}}', 2), (rb'{"a\\": 1, "a\\": 2}', 1), (rb'{"\"": 1, "x": ":", "\"" : 2}', 1),
                                     (b'{"":1,"":2}', 1), (b'{"a": [{"b": 1}, {"b": 1}]}', 0), (rb'{"a": "\":\":", "b": " :"}', 0), (b'{"a"  :":", "b": "  :"}', 0)])
def test_double_keys_are_counted_and_the_last_is_kept(tmp_path, line, n):                              # 8
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        records,lost,notes = read(tmp_path/'x.jsonl', GOOD[0] + b'\n' + line + b'\n' + line + b'\n')
    assert not lost and records[1].data == json.loads(line)
    assert notes['a key stands twice in one object, the last is kept'] == 2*n
    assert sum('twice' in str(w.message) for w in said) == (n > 0)                                     # said once


def test_blank_lines_are_counted_and_empty_text_is_a_record(tmp_path):                                 # 11
    records,lost,notes = read(tmp_path/'x.jsonl', b'\n{"text": ""}\n  \r\n\n' + GOOD[0], text='text')
    assert [(r.row, r.offset, r.data['text']) for r in records] == [(2, 1, ''), (5, 19, 'one')] and not lost and notes['blank lines'] == 3


@pytest.mark.parametrize('size', [1001, 1002, 5000, module.BLOCK+5, 3*module.BLOCK])
def test_a_line_over_the_limit_is_lost_and_the_next_is_read(tmp_path, size):                           # 12
    bad = b'{"text": "' + b'x'*(size-12) + b'"}'
    one_bad(tmp_path, bad, 'the limit is 1.0 kB', limits=replace(LIMITS, line=1000))
    [*_, last],lost,_ = read(tmp_path/'y.jsonl', GOOD[0]+b'\n'+bad, limits=replace(LIMITS, line=1000))
    assert last.data == {'text': 'one'} and lost[0].sha256 == hashlib.sha256(bad).hexdigest()


def test_only_a_newline_ends_a_line(tmp_path):                                                         # 14
    texts = ['a\u2028b', 'c\x85d\x0be', 'f\r\ng']
    data = '\r\n'.join(json.dumps(dict(text=t), ensure_ascii=False) for t in texts)
    assert [r.data['text'] for r in read(tmp_path/'x.jsonl', data)[0]] == texts


def test_an_array_in_a_file_of_lines_is_refused_with_the_way_out(tmp_path):                            # 15
    path = write(tmp_path/'x.jsonl', b' [' + b','.join(GOOD) + b']')
    with pytest.raises(ValueError, match="x.jsonl: it is one array.*kind='json'"): list(read_records(path))
    assert len(read(path, kind='json')[0]) == 2


@pytest.mark.parametrize('name, data', [('a.jsonl', b''), ('b.jsonl.gz', b''), ('c.jsonl.gz', gzip.compress(b'', mtime=0)), ('d.jsonl.zst', zstd(b'')), ('e.json', b'[]'), ('f.csv', b'a,b\n'),
                                        ('g.csv', b''), ('h.txt', b''), ('i.jsonl', b'\n\n'), ('j.json', b' [ ] \n')])
def test_an_empty_file_is_said(tmp_path, name, data):                                                  # 16
    with pytest.warns(UserWarning, match=f'{name}: no records in it'): assert list(read_records(write(tmp_path/name, data))) == []


# --- packed files (17 to 22)

LINES = [json.dumps(dict(id=i, text=f'Text number {i} {"word "*(i%50)}')).encode() for i in range(3000)]
PLAIN = b'\n'.join(LINES)+b'\n'
PACK = dict(gz=gzip.compress, zst=zstd)


@pytest.fixture(params=['isal', 'zlib'])
def inflater(request, monkeypatch):
    "Both decompressors of gzip: the fast one where it is installed, and that of Python."
    if request.param == 'zlib': monkeypatch.setitem(sys.modules, 'isal', None)
    elif not importlib.util.find_spec('isal'): pytest.skip('isal is not installed')


@pytest.mark.parametrize('kind', PACK)
@pytest.mark.parametrize('share', [0, .01, .3, .77, 1])
def test_a_cut_file_gives_its_whole_lines_and_says_so(tmp_path, kind, share, inflater):                # 17
    packed = PACK[kind](PLAIN)
    cut = packed[:max(int(len(packed)*share)-1, 5)]
    records,[lost],notes = read(tmp_path/f'x.jsonl.{kind}', cut)
    assert [r.data for r in records] == [json.loads(line) for line in LINES[:len(records)]]
    assert f'is cut: it ends at byte {len(cut):,}' in lost.reason and notes['cut'] == 1
    assert (lost.row, lost.offset) == (len(records)+1, sum(len(line)+1 for line in LINES[:len(records)]))
    there = zlib.decompressobj(31).decompress(cut) if kind == 'gz' else b''
    assert len(records) >= there.count(b'\n')                                                          # all that can be unpacked


def test_everything_before_the_cut_is_unpacked(tmp_path, inflater, monkeypatch):                            # 17
    "Also what the decompressor still held when the file ended, and the whole members of a block that is cut."
    lines = b'{"text": "the same line again"}\n'*40_000
    cut = gzip.compress(lines)[:-9]
    there = zlib.decompressobj(31).decompress(cut).count(b'\n')
    assert there > 35_000 and len(read(tmp_path/'x.jsonl.gz', cut)[0]) == there
    with monkeypatch.context() as m:
        m.setattr(module, 'BLOCK', 4)
        for end in range(60, 100):
            there = zlib.decompressobj(31).decompress(cut[:end])
            [lost] = [x for x in read_records(write(tmp_path/'y.txt.gz', cut[:end]))]
            assert lost.sha256 == hashlib.sha256(there).hexdigest()
    frames = [zstd(b'{"text": "frame"}\n'*100) for _ in range(7)]
    records,[lost],_ = read(tmp_path/'x.jsonl.zst', b''.join(frames)[:-5])
    assert len(records) == 600 and (lost.row, lost.offset) == (601, 600*18)


@pytest.mark.parametrize('name, data', [('x.csv', 'id,text\n'+''.join(f'{i},"a\nb"\n' for i in range(9000))), ('x.json', json.dumps([dict(i=i) for i in range(9000)])), ('x.txt', 'line\n'*9000)])
@pytest.mark.parametrize('kind', PACK)
def test_every_kind_of_text_can_be_cut(tmp_path, name, data, kind):
    packed = PACK[kind](data.encode())
    for options in [{}] if name != 'x.txt' else [dict(by='file'), dict(by='line'), dict(by='paragraph')]:
        records,lost,notes = read(tmp_path/f'{name}.{kind}', packed[:len(packed)*2//3], **options)
        assert len(lost) == 1 and 'is cut' in lost[0].reason and notes['cut'] == 1
        assert bool(records) == (kind == 'gz' and options.get('by') != 'file') or kind == 'zst'


def test_damage_in_the_middle_is_refused(tmp_path, inflater):
    r = random.Random(0)
    noise = b''.join(json.dumps(dict(text=r.randbytes(40).hex())).encode()+b'\n' for _ in range(3000))
    for kind,pack in PACK.items():
        packed = bytearray(pack(noise))
        if kind == 'zst': packed[4:9] = b'\xff'*5
        else: packed[len(packed)//2] ^= 255
        with pytest.raises(ValueError, match=f'x.jsonl.{kind}.*(damaged|window)'): read(tmp_path/f'x.jsonl.{kind}', bytes(packed))
    packed = bytearray(gzip.compress(PLAIN))
    packed[-6] ^= 1                                                                                    # the checksum
    with pytest.raises(ValueError, match='damaged'): read(tmp_path/'x.jsonl.gz', bytes(packed))
    with pytest.raises(ValueError, match='damaged'): read(tmp_path/'x.jsonl.gz', gzip.compress(PLAIN)+b'and more')


@pytest.mark.parametrize('kind', PACK)
def test_bombs_are_stopped_early(tmp_path, kind, inflater):                                            # 18
    path = write(tmp_path/f'x.jsonl.{kind}', PACK[kind](b' '*(100<<20)))
    with pytest.raises(ValueError, match=r'x.jsonl.*unpack to more than 67\.\d MB'): list(read_records(path))
    with pytest.raises(ValueError, match='unpack to more than'): list(read_records(write(path, PACK[kind](PLAIN)), limits=replace(LIMITS, unpacked=10_000)))


@pytest.mark.parametrize('name, pack', [('x.jsonl', gzip.compress), ('x.jsonl.gz', bytes), ('x.jsonl.zst', gzip.compress), ('x.jsonl', zstd), ('x.jsonl.gz', zstd), ('unnamed', gzip.compress), ('unnamed', bytes)])
def test_names_may_lie_about_packing(tmp_path, name, pack):                                            # 19
    assert [r.data for r in read(tmp_path/name, pack(PLAIN))[0]] == [json.loads(line) for line in LINES]


@pytest.mark.parametrize('kind', PACK)
def test_all_members_are_read(tmp_path, kind, inflater):                                               # 20
    r = random.Random(1)
    cuts = [0, *sorted(r.choices(range(len(PLAIN)), k=30)), len(PLAIN)]
    data = b''.join(PACK[kind](PLAIN[a:b]) for a,b in zip(cuts, cuts[1:]))
    assert len(read(tmp_path/f'x.jsonl.{kind}', data)[0]) == len(LINES)
    if kind == 'gz': assert len(read(tmp_path/'x.jsonl.gz', data+bytes(1000))[0]) == len(LINES)        # padding as tape drives leave it


def test_archives_are_refused_whatever_is_in_them(tmp_path):                                           # 21, 22
    import io, tarfile, zipfile
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode='w') as t:
        for name,kind in (('../up', tarfile.REGTYPE), ('/etc/x', tarfile.REGTYPE), ('link', tarfile.SYMTYPE), ('null', tarfile.CHRTYPE), ('same', tarfile.REGTYPE), ('same', tarfile.REGTYPE)):
            info = tarfile.TarInfo(name)
            info.type = kind
            t.addfile(info)
    with zipfile.ZipFile(tmp_path/'x.zip', 'w') as z: z.writestr('../up.jsonl', GOOD[0])
    for name,data,what in (('x.tar', held.getvalue(), 'tar'), ('x.tar.gz', gzip.compress(held.getvalue()), 'tar'), ('y.jsonl', (tmp_path/'x.zip').read_bytes(), 'zip'),
                           ('z.jsonl', b'BZh91AY', 'bzip2'), ('p.jsonl', b'\x80\x04\x95abc', 'pickle'), ('q.jsonl.gz', gzip.compress(gzip.compress(PLAIN)), 'packed twice')):
        with pytest.raises(ValueError, match=f'{name}: it is .*{what}.* first'): read(tmp_path/name, data)
    assert not (tmp_path.parent/'up').exists() and not (tmp_path.parent/'up.jsonl').exists()


# --- Parquet and Arrow (23 to 29)

def test_a_parquet_file_without_its_end_is_refused(tmp_path):                                          # 23
    pq.write_table(pa.table(dict(text=['a']*1000)), tmp_path/'x.parquet')
    data = (tmp_path/'x.parquet').read_bytes()
    for cut in (data[:-8], data[:20], b'PAR1'):
        with pytest.raises(ValueError, match='x.parquet: no whole Parquet file'): read(tmp_path/'x.parquet', cut)
    with pytest.raises(ValueError, match="x.parquet: it does not begin as a file of kind 'parquet'"): read(tmp_path/'x.parquet', b'hello')


def test_a_parquet_file_of_no_rows_is_said(tmp_path):                                                  # 24
    pq.write_table(pa.table(dict(text=pa.array([], pa.string()))), tmp_path/'x.parquet')
    with pytest.warns(UserWarning, match='no records'): assert not list(read_records(tmp_path/'x.parquet'))


def test_files_with_different_columns_are_named(tmp_path):                                             # 25
    pq.write_table(pa.table(dict(text=['a'], n=[1])), tmp_path/'a.parquet')
    pq.write_table(pa.table(dict(text=pa.array(['a'], pa.large_string()))), tmp_path/'b.parquet')
    write(tmp_path/'c.csv', 'text,n\na,1\n')
    write(tmp_path/'d.csv', 'text,m\na,1\n')
    write(tmp_path/'e.jsonl', GOOD[0])
    with pytest.raises(ValueError, match="'n' is int64 in a.parquet and missing in b.parquet"): same_columns(list_files(tmp_path))
    with pytest.raises(ValueError, match="'n' is text in c.csv and missing in d.csv"): same_columns({k: tmp_path/k for k in ('e.jsonl', 'c.csv', 'd.csv')})
    same_columns({k: tmp_path/k for k in ('a.parquet', 'b.parquet')}, ['text'])


def test_rows_without_text_are_lost(tmp_path):                                                         # 26
    pq.write_table(pa.table(dict(text=['a', None, 'c'])), tmp_path/'x.parquet')
    records,[lost],_ = read(tmp_path/'x.parquet', text='text')
    assert [r.row for r in records] == [1, 3] and (lost.row, lost.offset) == (2, None) and "'text' holds null" in lost.reason
    pq.write_table(pa.table(dict(text=[['a'], ['b']])), tmp_path/'y.parquet')
    records,lost,_ = read(tmp_path/'y.parquet', text='text')
    assert not records and len(lost) == 2 and 'holds a list' in lost[0].reason


def test_text_that_is_not_utf8_is_lost_alone(tmp_path):
    bad = pa.array([b'a', b'caf\xe9', b'c']).view(pa.binary())
    column = pa.StringArray.from_buffers(3, *bad.buffers()[1:])
    pq.write_table(pa.table(dict(text=column)), tmp_path/'x.parquet')
    records,[lost],_ = read(tmp_path/'x.parquet')
    assert [r.data['text'] for r in records] == ['a', 'c'] and lost.row == 2 and 'not UTF-8: byte 0xe9 at byte 3' in lost.reason


def test_a_damaged_page_is_refused_with_its_row_group(tmp_path):                                       # 27
    table = pa.table(dict(text=[random.Random(i).randbytes(50).hex() for i in range(2000)]))
    pq.write_table(table, tmp_path/'x.parquet', row_group_size=1000, compression=None, use_dictionary=False, write_page_checksum=True)
    data = bytearray((tmp_path/'x.parquet').read_bytes())
    data[len(data)*3//4] ^= 1
    reading = read_records(write(tmp_path/'x.parquet', bytes(data)))
    with pytest.raises(ValueError, match='x.parquet: row group 1 cannot be read from row 1,001 on.*CRC'): list(reading)


def test_types_that_need_code_are_refused(tmp_path):                                                   # 29
    import pickle
    class Mine(pa.ExtensionType):
        def __init__(self): super().__init__(pa.int64(), 'mine.own')
        def __arrow_ext_serialize__(self): return pickle.dumps(print)
        @classmethod
        def __arrow_ext_deserialize__(cls, storage, data): return cls()
    column = pa.ExtensionArray.from_storage(Mine(), pa.array([1, 2]))
    pq.write_table(pa.table(dict(x=column, text=['a', 'b'], j=pa.array(['{}', '[]'], pa.json_()))), tmp_path/'x.parquet')
    with pytest.raises(ValueError, match="x.parquet: column 'x' has the extension type 'mine.own'"): read(tmp_path/'x.parquet')
    assert [r.data for r in read(tmp_path/'x.parquet', columns=['text', 'j'])[0]] == [dict(text='a', j='{}'), dict(text='b', j='[]')]
    with pytest.raises(ValueError, match="no column 'body'. There are: x, text, j"): read(tmp_path/'x.parquet', columns=['body'])


def arrow_stream(path, table):
    with pa.OSFile(str(path), 'wb') as sink, pa.ipc.new_stream(sink, table.schema) as w: w.write_table(table, max_chunksize=100)
    return path


def test_arrow_files_are_read_and_cut_ones_refused(tmp_path):
    table = pa.table(dict(id=range(1000), text=[f'text {i}' for i in range(1000)]))
    path = arrow_stream(tmp_path/'data-00000-of-00001.arrow', table)
    assert [r.data for r in read(path)[0]] == table.to_pylist()
    with pa.OSFile(str(tmp_path/'f.arrow'), 'wb') as sink, pa.ipc.new_file(sink, table.schema) as w: w.write_table(table)
    assert [r.data for r in read(tmp_path/'f.arrow', columns=['id'])[0]] == table.select(['id']).to_pylist()
    data = path.read_bytes()
    ends = [i for i in range(8, len(data)) if data[i:i+4] == b'\xff\xff\xff\xff']
    for cut in (data[:-8], data[:ends[3]], data[:len(data)//2], data[:9]):
        with pytest.raises(ValueError, match='no whole Arrow file'): read(tmp_path/'x.arrow', cut)


def test_a_forged_arrow_file_cannot_point_outside(tmp_path):
    "Offsets beyond the text would read the memory of others."
    table = pa.table(dict(text=['abc', 'def']))
    data = arrow_stream(tmp_path/'x.arrow', table).read_bytes()
    forged = data.replace(b'\0\0\0\0\x03\0\0\0\x06\0\0\0', b'\0\0\0\0\x03\0\0\0\xff\xff\xff\x0f')
    assert forged != data
    with pytest.raises(ValueError, match='no whole Arrow file'): read(tmp_path/'x.arrow', forged)


def test_long_cells_are_lost_alone(tmp_path):
    pq.write_table(pa.table(dict(text=['a', 'x'*5000, 'c'])), tmp_path/'x.parquet')
    records,[lost],_ = read(tmp_path/'x.parquet', limits=replace(LIMITS, line=1000))
    assert [r.row for r in records] == [1, 3] and lost.row == 2 and 'the limit is 1.0 kB' in lost.reason


# --- text and CSV (30 to 35)

def test_nul_bytes_are_counted(tmp_path):                                                              # 30
    for name,data,options in (('x.txt', b'a\0b\nmore text\n', dict(by='line')), ('y.txt', b'some\0text and more', {})):
        records,lost,notes = read(tmp_path/name, data, **options)
        assert '\0' in records[0].data['text'] and not lost and notes['NUL bytes in text'] == 1
    records,lost,notes = read(tmp_path/'x.csv', b'text,n\nsome\0text,1\n')
    assert len(records)+len(lost) == 1 and (lost or notes['NUL bytes in text'])                        # Python 3.10's csv refuses them


@pytest.mark.parametrize('encoding', ['utf-16', 'utf-16-le', 'utf-16-be', 'utf-32'])
@pytest.mark.parametrize('name', ['x.txt', 'x.csv', 'x.jsonl', 'x.json', 'x.jsonl.gz'])
def test_other_encodings_are_never_guessed(tmp_path, encoding, name):                                  # 31
    data = '{"text": "hello there"}'.encode(encoding)
    with pytest.raises(ValueError, match='UTF-16'): read(tmp_path/name, gzip.compress(data) if name.endswith('gz') else data)


def test_latin_text_is_lost_with_the_byte(tmp_path):                                                   # 31
    data = 'un\ncafé\ndeux\n'.encode('latin-1')
    _,[lost],_ = read(tmp_path/'x.txt', data)
    assert 'byte 0xe9 at byte 6 of the file' in lost.reason and lost.sha256 == hashlib.sha256(data).hexdigest()
    for name,head,options in (('x.txt', b'', dict(by='line')), ('x.csv', b'text\n', {})):
        records,[lost],_ = read(tmp_path/name, head+data, **options)
        assert [r.data['text'] for r in records] == ['un', 'deux'] and f'byte 0xe9 at byte {6+len(head)} of the file' in lost.reason


def test_an_open_quote_swallows_nothing(tmp_path):                                                     # 32
    rows = ['id,text', '1,fine', '2,"open', *(f'{i},fine' for i in range(3, 1003))]
    with pytest.raises(ValueError, match='x.csv: line 3: a quote is opened'): read(tmp_path/'x.csv', '\n'.join(rows))
    with pytest.raises(ValueError, match='line 3: a quote is opened and not closed in 1.0 kB'): read(tmp_path/'x.csv', '\n'.join(rows), limits=replace(LIMITS, line=1000))
    assert len(read(tmp_path/'x.csv', quotes=False)[0]) == 1002
    rows[40] = '38,"closed"'
    with pytest.raises(ValueError, match='line 2: a quote is opened'): read(tmp_path/'y.csv', 'id,text\n1,"a\n'+'x'*2*module.BLOCK+'\n2,b"\n', limits=replace(LIMITS, line=1000))
    records,lost,_ = read(tmp_path/'x.csv', '\n'.join(rows))
    assert lost[0].row == 3 and "expected after '\"'" in lost[0].reason and [r.row for r in records] == [2, *range(42, 1004)]


def test_a_long_field_is_lost_alone(tmp_path):                                                         # 33
    before = csv.field_size_limit(200_000)
    data = 'id,text\n1,a\n2,"' + 'x\n'*70_000 + '"\n3,c\n'
    records,[lost],_ = read(tmp_path/'x.csv', data)
    assert [r.data['id'] for r in records] == ['1', '3'] and (lost.row, lost.offset) == (3, 12) and '140,000 characters' in lost.reason
    assert [r.data['text'] for r in read(tmp_path/'y.csv', '\ufefftext,n\n\ufeffa,1\n')[0]] == ['\ufeffa']     # a mark of byte order, and a character
    assert csv.field_size_limit(before) == 200_000                                                     # the setting of others is left as it was


def test_ragged_rows_are_lost_alone(tmp_path):                                                         # 34
    for name,d in (('x.csv', ','), ('x.tsv', '\t')):
        records,lost,_ = read(tmp_path/name, d.join('ab')+'\n'+d.join('12')+'\n'+'3\n'+d.join('456')+'\n'+d.join('78'))
        assert [(r.row, r.data) for r in records] == [(2, dict(a='1', b='2')), (5, dict(a='7', b='8'))]
        assert [(x.row, x.reason) for x in lost] == [(3, '1 fields, the header names 2'), (4, '3 fields, the header names 2')]


def test_csv_agrees_with_python_on_what_python_writes(tmp_path):                                       # 35: formulas are data here
    r = random.Random(2)
    for _ in range(50):
        rows = [{c: ''.join(r.choices('ab",\n=é漢 \t', k=r.randrange(8))) for c in 'xy'} for _ in range(20)] + [dict(x='=HYPERLINK("http://x")', y='-1+1')]
        with open(tmp_path/'x.csv', 'w', newline='', encoding='utf-8') as f:
            w = csv.DictWriter(f, 'xy', lineterminator=r.choice(['\n', '\r\n']))
            w.writeheader()
            w.writerows(rows)
        records,lost,_ = read(tmp_path/'x.csv')
        assert [x.data for x in records] == rows and not lost


@pytest.mark.parametrize('data, why', [(b'a,a\n1,2\n', "the name 'a' stands twice"), (b'\n1,2\n', 'no names'), (b'caf\xe9,b\n', 'not UTF-8'), (b',\n', "the name '' stands twice")])
def test_a_header_must_name_the_columns(tmp_path, data, why):
    with pytest.raises(ValueError, match=f'x.csv: line 1: .*{why}'): read(tmp_path/'x.csv', data)


def test_plain_text_whole_by_line_and_by_paragraph(tmp_path):
    path = write(tmp_path/'x.txt', 'One.\r\nTwo.\n\n\nThree.\n \nFour.')
    texts = {by: [(r.row, r.offset, r.data['text']) for r in read(path, by=by)[0]] for by in ('file', 'line', 'paragraph')}
    assert texts['file'] == [(1, 0, 'One.\nTwo.\n\n\nThree.\n \nFour.')]
    assert texts['line'] == [(1, 0, 'One.'), (2, 6, 'Two.'), (5, 13, 'Three.'), (7, 22, 'Four.')]
    assert texts['paragraph'] == [(1, 0, 'One.\nTwo.'), (5, 13, 'Three.'), (7, 22, 'Four.')]
    for by in texts:
        records,lost,_ = read(tmp_path/'y.txt', 'short\n\n'+'long '*1000+'\n\nlast', by=by, limits=replace(LIMITS, line=100))
        assert len(lost) == 1 and 'the limit is 100 B' in lost[0].reason and [r.data['text'] for r in records] == ([] if by == 'file' else ['short', 'last'])


# --- files (36 to 40)

@pytest.mark.skipif(os.geteuid() != 0, reason='another user is needed, which root can be')
def test_no_permission_is_said(tmp_path):                                                              # 36
    code = ("import os,sys; from andromeda.records import read_records; os.setgid(65534); os.setuid(65534)\n"
            "try: list(read_records(sys.argv[1]))\nexcept PermissionError as e: print(e)")
    import tempfile
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        path = f'{folder}/x.jsonl'
        with open(path, 'wb') as f: f.write(GOOD[0])
        os.chmod(path, 0)
        said = subprocess.run([sys.executable, '-c', code, path], capture_output=True, text=True).stdout
    assert 'permission denied: ask its owner' in said and 'x.jsonl' in said


@pytest.mark.parametrize('kind', ['jsonl', 'jsonl.gz', 'parquet', 'csv', 'json'])
@pytest.mark.parametrize('change', ['grows', 'vanishes', 'replaced', 'touched'])
def test_a_file_that_changes_is_refused(tmp_path, kind, change):                                       # 37
    path,rows = tmp_path/f'x.{kind}', [dict(id=i, text=f'text {i}'*20) for i in range(5000)]
    if kind == 'parquet': pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind == 'csv': write(path, 'id,text\n'+''.join(f"{r['id']},{r['text']}\n" for r in rows))
    elif kind == 'json': write(path, json.dumps(rows))
    else: write(path, (gzip.compress if kind.endswith('gz') else bytes)(''.join(json.dumps(r)+'\n' for r in rows).encode()))
    reading = read_records(path)
    assert next(reading).row == 1 + (kind == 'csv')
    if change == 'grows':
        with path.open('ab') as f: f.write(b'{"id": 1}\n')
    elif change == 'vanishes': path.unlink()
    elif change == 'replaced':
        write(tmp_path/'new', path.read_bytes())
        os.replace(tmp_path/'new', path)
    else: os.utime(path, ns=(1, 1))
    with pytest.raises(OSError, match='changed or vanished while it was read'): list(reading)


def test_what_is_no_file_is_refused_at_once(tmp_path):                                                 # 38
    os.mkfifo(tmp_path/'pipe.jsonl')
    (tmp_path/'loop.jsonl').symlink_to(tmp_path/'loop.jsonl')
    (tmp_path/'broken.jsonl').symlink_to(tmp_path/'nothing')
    for name,error,why in (('pipe.jsonl', ValueError, 'pipe, socket or device'), ('loop.jsonl', OSError, 'circle'), ('broken.jsonl', FileNotFoundError, 'a link to nothing'),
                           ('missing.jsonl', FileNotFoundError, 'does not exist'), ('', ValueError, 'list_files')):
        with pytest.raises(error, match=why): list(read_records(tmp_path/name))
        if name:
            with pytest.raises(error, match=why): list_files(tmp_path/name)
    with pytest.raises(ValueError, match='device'): list(read_records('/dev/null'))


@pytest.mark.parametrize('plant, error, why', [(lambda f: os.mkfifo(f/'pipe.jsonl'), ValueError, 'pipe'), (lambda f: (f/'b.jsonl').symlink_to('nothing'), FileNotFoundError, 'link to nothing'),
                                               (lambda f: (f/'c.jsonl').symlink_to('c.jsonl'), OSError, 'circle')])
def test_a_folder_with_what_is_no_file_is_refused(tmp_path, plant, error, why):                        # 38
    write(tmp_path/'a.jsonl', GOOD[0])
    plant(tmp_path)
    with pytest.raises(error, match=why): list_files(tmp_path)


def test_links_are_followed_only_when_asked_and_circles_end(tmp_path):                                 # 38
    (tmp_path/'blobs').mkdir()
    (tmp_path/'snap').mkdir()
    write(tmp_path/'blobs'/'1f3a', GOOD[0])
    (tmp_path/'snap'/'train.jsonl').symlink_to('../blobs/1f3a')
    with pytest.raises(ValueError, match='holds no data'), pytest.warns(UserWarning, match='1 left out.*train.jsonl'): list_files(tmp_path/'snap')
    [(name,path)] = list_files(tmp_path/'snap', follow=True).items()
    assert name == 'train.jsonl' and len(read(path)[0]) == 1
    (tmp_path/'snap'/'up').symlink_to(tmp_path/'snap')
    with pytest.raises(ValueError, match='a link to a folder around it'): list_files(tmp_path/'snap', follow=True)


def test_strange_names_are_read_and_safe_to_print(tmp_path):                                           # 39
    names = [b'new\nline.jsonl', b'caf\xe9.jsonl', b'-rf.jsonl', b'\x1b[31m.jsonl', b'a'*249+b'.jsonl', b'back\\slash.jsonl', '漢字.jsonl'.encode(), b'tab\t.jsonl']
    for name in names:
        with open(os.path.join(os.fsencode(tmp_path), name), 'wb') as f: f.write(b'{"text": 1')
    files = list_files(tmp_path)
    assert len(files) == len(names)
    for name,path in files.items():
        assert name.isprintable() and name.encode('utf-8') and '\n' not in name
        [lost] = read_records(path, tmp_path)
        assert lost.file == name
    assert shown('a\nb') != shown('a\\nb')


def test_output_and_input_lie_apart(tmp_path):                                                         # 40
    (tmp_path/'in').mkdir()
    write(tmp_path/'in'/'a.jsonl', GOOD[0])
    (tmp_path/'link').symlink_to(tmp_path/'in')
    for out in (tmp_path/'in', tmp_path/'in'/'out', tmp_path, tmp_path/'link'):
        with pytest.raises(ValueError, match='lie in each other'): list_files(tmp_path/'in', out=out)
    assert list(list_files(tmp_path/'in', out=tmp_path/'input')) == ['a.jsonl']


def test_folders_patterns_and_single_files(tmp_path):
    for name in ('a.jsonl', 'b/c.parquet', 'b/d.csv.gz', 'b/e.JSON', 'b/README.md', '.hidden/x.jsonl', '_tmp.jsonl', 'b/notes.tar'):
        (tmp_path/name).parent.mkdir(exist_ok=True)
        write(tmp_path/name, GOOD[0])
    with pytest.warns(UserWarning, match='2 left out below .*: README.md, notes.tar'): found = list_files(tmp_path)
    assert list(found) == ['a.jsonl', 'b/c.parquet', 'b/d.csv.gz', 'b/e.JSON']
    assert list(list_files(f'{tmp_path}/**/*.jsonl')) == ['_tmp.jsonl', 'a.jsonl']
    assert list(list_files(f'{tmp_path}/b/[cd].*')) == ['c.parquet', 'd.csv.gz']
    assert list(list_files(tmp_path/'a.jsonl')) == ['a.jsonl'] and list_files(tmp_path/'b'/'README.md')
    with pytest.raises(ValueError, match='holds no data'): list_files(f'{tmp_path}/*.zip')


def test_folders_saved_by_datasets(tmp_path):
    def save(folder, n, listed=None, **state):
        folder.mkdir(parents=True)
        for i in range(n): arrow_stream(folder/f'data-{i:05d}-of-{n:05d}.arrow', pa.table(dict(text=[f'{i} {j}' for j in range(3)])))
        (folder/'cache-1.arrow').write_bytes(b'')
        if listed is not None: (folder/'state.json').write_text(json.dumps(dict(_data_files=[dict(filename=f'data-{i:05d}-of-{n:05d}.arrow') for i in range(listed)]) | state))
    save(tmp_path/'good'/'train', 2, 2)
    save(tmp_path/'good'/'test', 1, 1)
    (tmp_path/'good'/'dataset_dict.json').write_text('{"splits": ["train", "test"]}')
    files = list_files(tmp_path/'good')
    assert list(files) == ['test/data-00000-of-00001.arrow', 'train/data-00000-of-00002.arrow', 'train/data-00001-of-00002.arrow']
    assert [r.data['text'] for p in files.values() for r in read(p)[0]] == [f'{i} {j}' for i in (0, 0, 1) for j in range(3)]
    (tmp_path/'good'/'dataset_dict.json').write_text('{"splits": ["train", "validation"]}')
    with pytest.raises(ValueError, match="lacks the split 'validation'"): list_files(tmp_path/'good')
    for name,args,why in (('killed', (2,), 'was interrupted'), ('old', (2, 1), 'is not in what state.json lists'), ('gone', (1, 2), 'data-00001-of-00001.arrow. is missing')):
        save(tmp_path/name, *args)
        with pytest.raises(ValueError, match=why): list_files(tmp_path/name)
    save(tmp_path/'indexed', 1, 1, _indices_data_files=[dict(filename='indices.arrow')])
    with pytest.raises(ValueError, match='flatten_indices'): list_files(tmp_path/'indexed')


# --- what holds for every input

def plain(line):
    "What `read_records` promises for one line, said plainly and slowly: the record, 'blank' or 'lost'."
    def refuse(_): raise ValueError
    def real(text):
        if abs(float(text)) == float('inf'): raise ValueError
        return float(text)
    def whole(text):
        if not -2**63 <= int(text) < 2**64: raise ValueError
        return int(text)
    if not line.strip(b' \t\r'): return 'blank'
    try:
        data = json.loads(line.decode(), parse_constant=refuse, parse_float=real, parse_int=whole)
        json.dumps(data, ensure_ascii=False).encode()
    except (ValueError, RecursionError): return 'lost'
    return data if type(data) is dict else 'lost'


def mutated(r, n):
    "Lines that are almost JSON."
    for _ in range(n):
        value = {r.choice(['a', 'text', '\\', '"', ':', '']): r.choice(['x', ':', '" :', '\\":', '\u2028', 1, 2**63, -1.5, None, True, [1, {'b': ' :'}], {'c': {'d': []}}]) for _ in range(r.randrange(4))}
        line = bytearray(json.dumps(value, ensure_ascii=r.random() < .5, separators=r.choice([None, (' , ', ' : '), (',', ':'), (',', '\t :')])).encode())
        for _ in range(r.choice([0, 0, 0, 1, 2])):
            i = r.randrange(len(line))
            line[i:i+r.randrange(2)] = r.choice([b'"', b'\\', b':', b'{', b'}', b'\xff', b'', b' ', b'9'*20, b'\\ud800', b'NaN', b'\r', b'"a":1,', b'e999'])
        yield bytes(line)


@pytest.mark.parametrize('seed', range(8))
def test_every_line_is_read_as_promised_at_every_block_size(tmp_path, seed, monkeypatch):
    r = random.Random(seed)
    lines = list(mutated(r, 1500))
    promised = [plain(line) for line in lines]
    monkeypatch.setattr(module, 'BLOCK', r.choice([1, 7, 100, 1000, 1<<17]))
    records,lost,notes = read(tmp_path/'x.jsonl', b'\n'.join(lines))
    assert {x.row: x.data for x in records} == {i: p for i,p in enumerate(promised, 1) if type(p) is dict}
    assert {x.row: x.sha256 for x in lost} == {i: hashlib.sha256(line).hexdigest() for i,(line,p) in enumerate(zip(lines, promised), 1) if p == 'lost'}
    assert len(records)+len(lost)+notes['blank lines'] == len(lines) - (not lines[-1]) and len(lost) > 100 and len(records) > 500
    at = [0]
    for line in lines: at.append(at[-1]+len(line)+1)
    assert all(x.offset == at[x.row-1] for x in (*records, *lost))
    def count(line):
        n = 0
        def hook(pairs):
            nonlocal n
            n += len(pairs)-len(dict(pairs))
            return dict(pairs)
        json.loads(line, object_pairs_hook=hook)
        return n
    assert notes['a key stands twice in one object, the last is kept'] >= sum(count(line) for line,p in zip(lines, promised) if type(p) is dict)


@pytest.mark.parametrize('seed', range(6))
def test_an_array_is_what_json_says_at_every_block_size(tmp_path, seed, monkeypatch):
    r = random.Random(seed)
    values = [{''.join(r.choices('ab"\\[]{},é', k=2)): r.choice(['\\', '"]', '},{', '\\"', [[], {}], {'x': ['[', 1]}, '\\\\', '\n'])} for _ in range(120)]
    monkeypatch.setattr(module, 'BLOCK', [1, 2, 3, 7, 64, 1<<17][seed])
    data = json.dumps(values, ensure_ascii=r.random() < .5, indent=r.choice([None, 1])).encode()
    records,lost,_ = read(tmp_path/'x.json', data)
    assert [x.data for x in records] == values and not lost
    assert all(json.loads(data[x.offset:].lstrip()[:1]+b'}') == {} for x in records)
    for cut in sorted(r.choices(range(1, len(data)), k=8)):
        records,lost,_ = read(tmp_path/'x.json', data[:cut])
        assert [x.data for x in records] == values[:len(records)] and len(lost) == 1 and 'ends inside the array' in lost[0].reason


@pytest.mark.parametrize('data, kept, reasons', [
    ('[{"a": 1}, {"a": NaN}, {"a": 2}]', 2, ['NaN']), ('[{"a": 1},, {"a": 2}]', 2, ['not JSON']), ('[{"a": 1},]', 1, []), ('[{"a": 1}] x', 1, ['after the end']),
    ('[{"a": 1}, 2, "x", null]', 1, ['a number', 'a text', 'null']), ('[{"a": 1}, {"a": [}, {"b": 3}]', 1, ['inside the array']), ('[{"a": 1}', 0, ['inside the array']), ('[', 0, ['inside the array'])])
def test_a_broken_array_loses_what_is_broken(tmp_path, data, kept, reasons):
    records,lost,_ = read(tmp_path/'x.json', data)
    assert len(records) == kept and len(lost) >= len(reasons)
    for item,reason in zip(lost, reasons): assert reason in item.reason


def test_one_json_object_is_refused_unless_it_is_a_line(tmp_path):
    assert len(read(tmp_path/'x.json', '{"a": 1}\n{"a": 2}')[0]) == 2
    with pytest.raises(ValueError, match='one object over several lines'): read(tmp_path/'x.json', '{\n "data": [1]\n}')
    with pytest.raises(ValueError, match='no kind can be told'): read(tmp_path/'x.json', 'hello')
    with pytest.raises(ValueError, match="Unknown kind 'parket'.*Did you mean 'parquet'"): read(tmp_path/'x.json', kind='parket')


@pytest.mark.parametrize('name', ['x.jsonl', 'x.json', 'x.csv', 'x.txt', 'x.jsonl.gz', 'x.jsonl.zst', 'x.parquet', 'x.arrow'])
def test_noise_never_crashes(tmp_path, name):
    "Random damage to a file of every kind: records and Lost, or one ValueError or OSError that names the file."
    r,rows = random.Random(name), [dict(id=str(i), text=f'text {i}'*5) for i in range(300)]
    lines = ''.join(json.dumps(x)+'\n' for x in rows).encode()
    if name == 'x.parquet': pq.write_table(pa.Table.from_pylist(rows), tmp_path/name, write_page_checksum=True)
    elif name == 'x.arrow': arrow_stream(tmp_path/name, pa.Table.from_pylist(rows))
    else: write(tmp_path/name, {'x.json': json.dumps(rows), 'x.csv': 'id,text\n'+''.join(f'{x["id"]},"{x["text"]}"\n' for x in rows), 'x.jsonl.gz': gzip.compress(lines), 'x.jsonl.zst': zstd(lines)}.get(name, lines))
    good,refused = (tmp_path/name).read_bytes(), 0
    for _ in range(150):
        data = bytearray(good)
        for _ in range(r.choice([1, 1, 5])): data[r.randrange(len(data))] = r.randrange(256)
        if r.random() < .3: del data[r.randrange(len(data)):]
        try: read(tmp_path/name, bytes(data), by='line')
        except (ValueError, OSError) as e:
            assert name in str(e) and type(e) in (ValueError, OSError), (type(e), e)
            refused += 1
    assert refused > 20 or name in ('x.jsonl', 'x.json', 'x.txt', 'x.csv')


# --- memory

def peak(code, tmp_path, *args):
    "Peak memory in MB that reading adds in a fresh process. VmHWM begins there; ru_maxrss would begin at the peak of this one."
    if not os.path.exists('/proc/self/status'): pytest.skip('the peak of a process is read from /proc')
    start = ("import sys,json,warnings; warnings.simplefilter('ignore')\nimport numpy,orjson,pyarrow.parquet\nfrom andromeda.records import *\n"
             "open(sys.argv[1]+'/warm.jsonl','w').write('{\"a\": 1}\\n'); list(read_records(sys.argv[1]+'/warm.jsonl'))\n"
             "def top(): return int(next(l for l in open('/proc/self/status') if l.startswith('VmHWM')).split()[1])/1024\nbase = top()\n")
    run = subprocess.run([sys.executable, '-c', start+code+'\nprint(json.dumps([top()-base, n]))', str(tmp_path), *map(str, args)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout)


COUNT = 'n = [0,0]\nfor b in read_batches(sys.argv[2], **json.loads(sys.argv[3])):\n for x in b: n[type(x) is Lost] += 1'


@pytest.mark.parametrize('kind', ['jsonl.gz', 'json', 'csv', 'txt'])
def test_a_line_of_160_mb_does_not_fill_the_memory(tmp_path, kind):                                    # 12, 18
    path = tmp_path/f'x.{kind}'
    with (gzip.open(path, 'wb', compresslevel=1) if kind.endswith('gz') else open(path, 'wb')) as f:
        f.write({'json': b'[{"text": "', 'csv': b'text\n'}.get(kind, b'{"text": "'))
        for _ in range(160): f.write(b'0123456789abcdef'*(1<<16))
        f.write({'json': b'"}, {"text": "next"}]', 'csv': b'\nnext\n', 'txt': b'"}\nnext\n'}.get(kind, b'"}\n{"text": "next"}\n'))
    more,(records,lost) = peak(COUNT, tmp_path, path, json.dumps(dict(by='line')))
    assert (records, lost) == (1, 1) and more < 150


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['jsonl', 'jsonl.gz', 'json', 'csv', 'parquet', 'arrow'])
def test_300_mb_are_read_in_little_memory(tmp_path, kind):                                             # 28: one row group
    path,text = tmp_path/f'x.{kind}', 'A line of text that says little. '*60
    rows = 150_000
    if kind in ('parquet', 'arrow'):
        r = random.Random(0)
        schema = pa.schema([('id', pa.int64()), ('text', pa.string())])
        part = [pa.record_batch([range(i, i+1000), [r.randbytes(900).hex() for _ in range(1000)]], schema) for i in range(0, rows, 1000)]
        if kind == 'parquet': pq.write_table(pa.Table.from_batches(part), path, row_group_size=rows)
        else:
            with pa.OSFile(str(path), 'wb') as sink, pa.ipc.new_stream(sink, schema) as w:
                for b in part: w.write_batch(b)
    else:
        with (gzip.open(path, 'wb', compresslevel=1) if kind.endswith('gz') else open(path, 'wb')) as f:
            f.write({'json': b'[', 'csv': b'id,text\n'}.get(kind, b''))
            for i in range(rows):
                line = f'{i},{text}' if kind == 'csv' else json.dumps(dict(id=i, text=text))
                f.write((',' if kind == 'json' and i else '').encode() + line.encode() + b'\n')
            f.write(b']' if kind == 'json' else b'')
    more,(records,lost) = peak(COUNT, tmp_path, path, '{}')
    assert (records, lost) == (rows, 0) and more < 150
