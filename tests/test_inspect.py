"What inspect promises, over made-up documents: nobody is counted twice or lost, what a slider says is what clean does, hidden things are seen."
import json
import random

import numpy as np
import pytest

from andromeda.clean import RULES, clean, kept, load_signals
from andromeda.dedup import dedup
from andromeda.inspect import ENDS, Browse, Copies, Mixer, Search, Shelf, Thresholds, at_the_line, document_html, judged, mix_html, open_folder, token_counts, token_html, tokens_html
from andromeda.shards import Shards, build_shards
from andromeda.sources import Source, read_rows, read_source
from andromeda.tokenizer import Encoder, build_tokenizer, train_tokenizer

WORDS = 'the a mean of list number sum count line page document token model value table word rule'.split()


@pytest.fixture(scope='module')
def home_folder(tmp_path_factory):
    "What a journey leaves: two sources with short documents, wide lines and copies."
    root,r = tmp_path_factory.mktemp('inspect'),random.Random(3)
    def text(i): return '\n'.join(' '.join(r.choices(WORDS, k=r.randrange(3, 30))) for _ in range(r.randrange(1, 25))) + f' number {i}'
    cleaned = {}
    for name,kind,n in (('web', 'prose', 700), ('code', 'code', 300)):
        texts = [text(i) for i in range(n)]
        texts[10:16] = [texts[9]]*6
        texts[20] = texts[9] + ' at the end'
        (root/name).mkdir()
        (root/name/'all.jsonl').write_text('\n'.join(json.dumps(dict(text=t)) for t in texts))
        source = Source(name, 'high' if name == 'web' else 'low', kind, 'files', '', '', dict(path=str(root/name), text='text'))
        cleaned[name] = clean(read_source(source, root/'documents'/name, workers=1), root/'clean'/name, workers=1)
    duplicates = dedup(cleaned, root/'dedup', tiers=dict(web='high', code='low'), workers=1)
    tokenizer = build_tokenizer(root/'tokenizer', [d['text'] for a in cleaned.values() for d in kept(a, ['text'])], 400, {n: a for n,a in cleaned.items()})
    for n,a in cleaned.items(): build_shards(lambda a=a: kept(a), root/'shards'/n, tokenizer, dict(clean=a))
    return root


@pytest.fixture
def found(home_folder): return open_folder(home_folder)


def test_every_document_is_found_at_its_place(found):
    everyone = [d for a in found.shelf.artefacts.values() for d in read_rows(a, columns=['id', 'text'])]
    places = random.Random(0).sample(range(len(found.shelf)), 100)
    for p,d in zip(places, found.shelf.read(places, ['id', 'text'])): assert (d['place'], d['id'], d['text']) == (p, everyone[p]['id'], everyone[p]['text'])
    ids = [everyone[p]['id'] for p in places]
    assert found.shelf.find([*ids, 'nobody']).tolist() == sorted(places)


def test_every_document_has_one_end_and_the_counts_are_those_of_the_steps(found):
    shelf = found.shelf
    ends = {e: len(shelf.select(end=e)) for e in ENDS}
    assert sum(ends.values()) == len(shelf)
    assert ends['filtered'] == sum(a.counts['filtered'] for a in shelf.artefacts.values()) > 0
    assert ends['duplicate'] == shelf.duplicates.counts['duplicate'] >= 7
    for source,a in shelf.artefacts.items():
        for rule,n in a.counts['rules'].items(): assert len(shelf.select(source, rule=rule)) == n
    assert len(shelf.select(tier='high')) == 700 and len(shelf.select(tier='high', source='code')) == 0


def test_a_search_finds_all_and_goes_on_where_it_stopped(found):
    "In steps of any size, the same places as looking through everything, within the documents that were asked for."
    among = found.shelf.select(end='kept')
    expected = [d['place'] for d in found.shelf.read(among, ['text']) if 'number 1' in d['text']]
    for step in (1, 3, 1000):
        search = Search(found.shelf, 'NUMBER 1', among)
        while not search.done: search.upto(len(search.found)+step, 0)
        assert search.found == expected and len(expected) > 50
    [one] = found.shelf.read([5], ['id'])
    assert Search(found.shelf, one['id'], found.shelf.select()).upto(1) == [5]


def test_the_room_to_the_line_says_who_fails(found):
    for place in [*found.shelf.select(end='filtered')[:20], *found.shelf.select(end='kept')[:20]]:
        [d] = found.shelf.read([place], ['failed'])
        rows = judged(found.shelf, int(place))
        assert {r['rule'] for r in rows if r['room'] < 0} == {f['rule'] for f in d['failed']}
        assert [r['room'] < 0 for r in rows] == sorted([r['room'] < 0 for r in rows], reverse=True)      # the failed ones first


def test_what_the_sliders_say_is_what_clean_does(found, tmp_path):
    "Cleaning again with the rules of the panel keeps exactly the documents that it counted."
    panel = Thresholds(found.shelf)
    panel.source.value = 'web'
    panel.sliders['short'].value = panel.sliders['short'].value*3
    panel.source.value = 'code'
    panel.sliders['wide'].value = 60
    from andromeda.clean import what_if
    said = {r['source']: r['kept'] for r in what_if(panel.measured, panel.thresholds)}
    assert said != {s: a.counts['kept'] for s,a in found.shelf.artefacts.items()}
    for source,a in found.shelf.artefacts.items():
        from andromeda.core import open_artefact
        again = clean(open_artefact(a.folder.parent.parent/'documents'/source), tmp_path/source, rules=panel.rules()[source], workers=1)
        assert again.counts['kept'] == said[source]
    panel.reset.click()
    assert panel.rules() == panel.measured.rules


def test_the_examples_are_the_nearest_on_both_sides(found):
    measured = load_signals(found.shelf.artefacts)
    rule = next(r for r in RULES['code'] if r.name == 'wide').moved(70)
    stay,go = at_the_line(measured, rule, 'code', 3)
    a,b = measured.spans['code']
    values = measured.columns['mean_line'][a:b]
    assert [v for _,v in stay] == sorted(values[values <= 70], reverse=True)[:3] and [v for _,v in go] == sorted(values[values > 70])[:3]
    assert all(values[p-a] == np.float32(v) for p,v in stay+go)


def test_tokens_in_colour_hold_the_whole_text(found):
    "Also where tokens end inside a character, and with marks for what nobody sees."
    from test_view import Seen
    for text in ('plain words', 'größer 漢字 🙂\u202e\u200b end', '<b>&amp;</b>', ''):
        html = tokens_html(text, found.encoder)
        shown = ''.join(Seen('<pre'+html.split('<pre', 1)[1]).data)
        from andromeda.view import visible
        assert shown == visible(text)
        assert f'{len(found.encoder.encode(text)):,} tokens' in html


def test_a_token_is_counted_in_each_source(found):
    counts = token_counts(found.shards, found.encoder.vocab)
    for name,s in found.shards.items(): assert counts[name].sum() == s.artefact.counts['train_tokens']
    html = token_html(found.encoder, ' the', counts)
    i = found.encoder.encode(' the')[0]
    assert f"{counts['web'][i]:,}" in html and 'Merges' in html
    with pytest.raises(ValueError, match='no token'): token_html(found.encoder, 'no such token at all')


def test_panels_open_what_is_clicked(found):
    browse = Browse(found.shelf, found.encoder)
    browse.end.value = 'duplicate'
    place = int(browse.places[0])
    browse.list._handle_custom_msg(dict(key=f'doc {place}'), [])
    assert 'duplicate' in browse.document.value and browse.place == place
    browse.end.value,browse.page.value = '', 3
    assert browse.list.value.count('data-am="doc') == browse.size
    copies = Copies(found.shelf)
    copies.list._handle_custom_msg(dict(key='cluster 0'), [])
    assert 'a copy of' in copies.cluster.value and 'stays' in copies.cluster.value


def test_documents_that_were_not_cleaned_can_be_looked_at(home_folder, tmp_path):
    (tmp_path/'documents').symlink_to(home_folder/'documents')
    found = open_folder(tmp_path)
    assert len(found.shelf) == 1000 and judged(found.shelf, 3) == [] and 'kept' in document_html(found.shelf, 3)
    with pytest.raises(ValueError, match='not cleaned'): Thresholds(found.shelf)
    with pytest.raises(ValueError, match='holds no documents'): open_folder(tmp_path/'nothing')


def test_a_mixture_that_cannot_be_is_said_not_raised(found):
    assert '⚠' in mix_html(dict(a=10, b=10), dict(a=1, b=1), 10**6) and 'short of' in mix_html(dict(a=10), dict(a=1), 10**6)
    mixer = Mixer(dict(a=1000, b=1000), dict(a='high'))
    mixer.weights['a'].value = 3
    assert mixer.weight() == dict(a=3, b=1) and '75.0%' in mixer.table.value
