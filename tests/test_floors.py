"The floor plan: who may import whom. To change it, change FLOORS and say so in the commit."
import ast
import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PKG = ROOT/'andromeda'

FLOORS = dict(
    core='',
    view='core',
    engine='core',
    words='',
    bpe='',
    signals='',
    lines='',
    records='core lines',
    hub='core records',
    adapters='core',
    sources='core engine records hub adapters',
    clean='core engine signals sources',
    dedup='core engine words sources clean',
    leakage='core engine words records sources clean',
    unigram='bpe',
    tokenizer='core bpe unigram',
    shards='core engine sources clean tokenizer',
    mixture='core tokenizer shards',
    attention='',
    blocked='attention',
    kernels='attention blocked',
    loss='',
    model='core attention blocked kernels loss',
    convert='core model',
    optim='core model',
    checkpoint='core',
    train='core mixture model optim checkpoint',
    stages='core tokenizer mixture model optim train',
    runs='core model optim stages',
    trainer='core shards attention model optim checkpoint train stages runs',
    likelihood='adapters tokenizer attention model',
    metrics='',
    score='core tokenizer shards model',
    tasks='core records hub adapters likelihood metrics score',
    harness='core adapters tokenizer model likelihood score',
    heads='core tokenizer model optim checkpoint train metrics tasks',
    scoreboard='core adapters sources leakage tokenizer shards runs trainer metrics tasks heads',
    sweeps='core stages runs',
    advice='core stages runs',
    proposal='core sources mixture shards model optim train score',
    scaling='core model runs sweeps',
    inspect='core view sources clean dedup tokenizer shards mixture',
    dashboard='core view shards stages runs inspect',
    sweepboard='core view stages sweeps dashboard',
    report='core view runs score',
    journey='core engine sources clean dedup leakage tokenizer shards mixture model train stages runs trainer score scoreboard advice report',
    cli='core engine view sources clean dedup tokenizer shards convert stages runs trainer tasks harness scoreboard sweeps advice report journey',
)
FACE = {'view', 'inspect', 'dashboard', 'sweepboard'}                         # what a notebook shows; widgets inside functions only
WIDGETS = {'ipywidgets', 'anywidget', 'traitlets', 'IPython'}
BARE = {'torch', 'numpy', 'safetensors', 'fsspec', 'tomli'}                           # all that the training floors may need; torch brings fsspec
BARE_MODULES = 'core shards mixture attention kernels model optim checkpoint train stages runs trainer'.split()
LAZY = {'tokenizers', 'pyarrow', 'xformers'}                                             # where documents are read or a kernel asked for, inside functions only


def imports(source):
    "Pairs of imported module and whether the import is at the top level, also inside functions."
    tree = ast.parse(source)
    top = {id(n) for n in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom): yield ('.'*node.level)+(node.module or ''), id(node) in top
        elif isinstance(node, ast.Import):
            for a in node.names: yield a.name, id(node) in top


def siblings(source):
    "Names of our own modules that `source` imports."
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or '').split('.')[0] == 'andromeda'):
            inside = [part for part in (node.module or '').split('.') if part not in ('', 'andromeda')]
            yield from inside[:1] or [a.name if a.name in FLOORS else 'package' for a in node.names]
        elif isinstance(node, ast.Import):
            for a in node.names:
                if a.name.startswith('andromeda.'): yield a.name.split('.')[1]


def uphill(module, source):
    return set(siblings(source)) - set(FLOORS[module].split()) - {'package'}


@pytest.mark.parametrize('module', FLOORS)
def test_imports_only_lower_floors(module):
    extra = uphill(module, (PKG/f'{module}.py').read_text())
    assert not extra, (f"{module}.py imports {sorted(extra)}, which its floor does not allow. Move the shared part down (usually to "
                       f"core), or pass the function in as an argument.")


@pytest.mark.parametrize('planted', ['from .cli import main', 'from . import cli', 'from andromeda import journey', 'def f():\n    from andromeda.runs import Run', 'import andromeda.journey'])
def test_a_planted_uphill_import_is_found(planted):
    source = (PKG/'clean.py').read_text()
    assert not uphill('clean', source)
    assert uphill('clean', source+'\n'+planted+'\n')


def test_every_module_has_a_floor_and_a_page():
    modules = {p.stem for p in PKG.glob('*.py')} - {'__init__', '_modidx'}
    pages = {re.sub(r'^\d+_', '', p.stem) for p in (ROOT/'nbs').glob('[0-6]*.ipynb')}      # from 70 on: guides, which export nothing
    assert modules == set(FLOORS) == pages


def test_page_numbers_rise_along_every_import():
    page = {re.sub(r'^\d+_', '', p.stem): p.stem for p in (ROOT/'nbs').glob('[0-9]*.ipynb')}      # read in this order, also where two share a number
    for module,lower in FLOORS.items():
        for name in lower.split(): assert page[name] < page[module], f"{page[module]} may import {page[name]}"


FINAL_FIGURES = {'sweeps', 'advice', 'sweepboard'}     # they may draw with matplotlib and give pandas tables, loaded when asked for

@pytest.mark.parametrize('module', FLOORS)
def test_the_library_does_not_need_the_workshop(module):
    "Exported code imports neither nbdev nor fastcore; widgets and plots stay on the pages; the training floors run in a bare container."
    names = [(n.split('.')[0], top) for n,top in imports((PKG/f'{module}.py').read_text()) if not n.startswith(('.', 'andromeda'))]
    assert not {n for n,top in names if top or module not in FACE} & WIDGETS
    assert not {n for n,_ in names} & {'nbdev', 'fastcore', 'pytest'}
    assert not {n for n,top in names if top or module not in FINAL_FIGURES} & {'matplotlib', 'pandas'}
    if module in BARE_MODULES:
        foreign = {n for n,_ in names} - sys.stdlib_module_names - BARE - ({'xformers'} if module == 'kernels' else set())      # which does without it
        assert not foreign, f"{module} imports {sorted(foreign)}; the training floors may use {sorted(BARE)} only"
    assert not {n for n,top in names if top} & LAZY, f"{module} imports {LAZY} at the top: the command would start slowly"


def test_nothing_in_the_project_is_named_as_unfinished():
    "No placeholder is left in the library."
    for p in PKG.glob('*.py'): assert not re.search(r'NotImplementedError|\bTODO\b|\bFIXME\b', p.read_text()), p.name


@pytest.mark.parametrize('page', sorted((ROOT/'nbs').glob('*.ipynb')), ids=lambda p: p.stem)
def test_what_a_page_shows_says_nothing_of_the_machine_it_was_made_on(page):
    "No warning and no path of a machine among the outputs: they would differ on the reader's."
    for cell in json.loads(page.read_text())['cells']:
        for output in cell.get('outputs', []):
            assert output.get('name') != 'stderr', f'{cell["id"]} shows a warning'
            assert not re.search(r'/(work|tmp|home|root)/|site-packages', json.dumps(output)), f'{cell["id"]} shows a path'
