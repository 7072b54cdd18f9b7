"Artefacts under kill, damage and concurrency."
import os
import signal
import subprocess
import sys
import time

import pytest

from andromeda.core import build, damage, open_artefact, read_jsonl, write_atomic

SLOW_STEP = '''
import sys, time
from pathlib import Path
from andromeda.core import build
def make(folder):
    for i in range(40):
        (folder/f"{i}.txt").write_text(str(i)*1000)
        time.sleep(.005)
    return dict(n=40)
build(Path(sys.argv[1]), made_by="slow", version=1, config={}, make=make)
'''


def test_kill_9_leaves_the_whole_artefact_or_none(tmp_path):
    "Killed at ten moments: what is visible is whole, and a last undisturbed call finishes."
    out = tmp_path/'home'/'slow'
    for i in range(10):
        process = subprocess.Popen([sys.executable, '-c', SLOW_STEP, str(out)])
        time.sleep(.05+.04*i)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if found := open_artefact(out): assert not damage(found)
    subprocess.run([sys.executable, '-c', SLOW_STEP, str(out)], check=True)
    found = open_artefact(out)
    assert found.counts == dict(n=40) and len(found.manifest['files']) == 40 and not damage(found)
    assert [p.name for p in out.parent.iterdir() if p.name.endswith('.part')] == []


def test_two_processes_make_one_artefact(tmp_path):
    "The second waits for the first and takes its result: the step runs once."
    script = SLOW_STEP.replace('return dict(n=40)', 'open(sys.argv[2], "a").write("made\\n"); return dict(n=40)')
    calls = tmp_path/'calls'
    both = [subprocess.Popen([sys.executable, '-c', script, str(tmp_path/'out'), str(calls)]) for _ in range(2)]
    assert [p.wait() for p in both] == [0, 0]
    assert calls.read_text() == 'made\n'


@pytest.mark.parametrize('flip', range(0, 1000, 97))
def test_any_flipped_byte_is_found(tmp_path, flip):
    made = build(tmp_path/'a', made_by='t', version=1, config={}, make=lambda f: (f/'x').write_bytes(bytes(1000)) and {})
    data = bytearray((made/'x').read_bytes())
    data[flip] ^= 1
    (made/'x').write_bytes(data)
    assert 'other content' in damage(made)[0]


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path/'x.json'
    write_atomic(path, 'old')
    def full(*_): raise OSError(28, 'No space left on device')
    for call in ('fsync', 'replace'):
        with monkeypatch.context() as m:
            m.setattr(os, call, full)
            with pytest.raises(OSError, match='No space'): write_atomic(path, 'new')
        assert path.read_text() == 'old' and [p.name for p in tmp_path.iterdir() if p.name != 'home'] == ['x.json']


def test_a_log_cut_at_any_byte_gives_its_whole_lines(tmp_path):
    log = tmp_path/'log'
    whole = b'{"a": 1}\n{"a": "\xc3\xa9"}\n{"a": 3}\n'
    for cut in range(len(whole)+1):
        log.write_bytes(whole[:cut])
        assert len(read_jsonl(log)) == whole[:cut].count(b'\n')
