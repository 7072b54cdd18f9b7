"""What view promises, over many inputs: hostile text stays text, thinning keeps the extremes, columns line up."""
import math, re, unicodedata
from html.parser import HTMLParser
from random import Random

import pytest

from andromeda import view
from andromeda.view import Html, bars, curves, document, hidden, marked, safe, table, table_text, tree, visible

HOSTILE = [
    '<script>alert(1)</script>', '<ScRiPt src=//evil.example/x.js></sCrIpT>', '<img src=x onerror=alert(1)>',
    '<img src=x onerror="alert(1)"//', '"><svg onload=alert(1)>', "'><svg onload=alert(1)>", '" onmouseover="alert(1)',
    "' onfocus='alert(1)' autofocus='", '` onclick=alert(1) `', '</title><script>alert(1)</script>',
    '</pre><iframe src=javascript:alert(1)></iframe>', '</td></tr></table><form action=//evil.example><input name=a>',
    '</text></svg><script>alert(1)</script>', '<svg><animate onbegin=alert(1) attributeName=x dur=1s>',
    '<a href="javascript:alert(1)">click</a>', '<a href="data:text/html,<script>alert(1)</script>">x</a>',
    '<style>*{background:url(//evil.example/a)}</style>', '"style="background:url(//evil.example/b)"',
    ';background:url(//evil.example/c)', '</style><script>alert(1)</script>', '<link rel=stylesheet href=//evil.example/d>',
    '<meta http-equiv=refresh content="0;url=//evil.example">', '<base href=//evil.example/>', '<!-- comment', '--><b>x',
    '<![CDATA[<b>x</b>]]>', '<?xml version="1.0"?>', '<!DOCTYPE html><body onload=alert(1)>',
    '&lt;script&gt;alert(1)&lt;/script&gt;', '&#60;img src=x onerror=alert(1)&#62;', '&amp;lt;b&amp;gt;',
    '{{constructor.constructor("alert(1)")()}}', '${alert(1)}',
    '\u202egpj.exe', '\u2066a\u2069\u2067b\u2069', '\u200bzero\u200cwidth\u200d\ufeff', '\u061c\u200e\u200f',
    '\x1b[2J\x1b[31mred\x1b[0m', '\x1b]0;title\x07', '\x9b31m', 'over\rwritten', 'back\b\b\bspace', 'nul\x00byte',
    '<\x00script>alert(1)</script>', '\x7f\x85\x0b\x0c', 'line\u2028sep\u2029para', '\ud800 lone', '\udfff',
    '\U000e0001\U000e0041', 'v\ufe0f\U000e0100', '\u3164\uffa0\u115f', '\uffff\ufdd0', '\u0000<b\u0000>',
    'javascript:alert(1)', 'a' + '\u0301'*300, '\n</pre><b>\n', '\t"\t', "\\'; alert(1); //", 'x'*5000 + '<b>', '',
]
TAGS = set('b mark circle caption div figcaption figure h3 path pre rect span svg table tbody td text th thead title tr'.split())
ATTRIBUTES = set('aria-label class colspan cx cy d data-am-x fill font height r role stroke stroke-dasharray stroke-linejoin '
                 'stroke-opacity stroke-width style text-anchor viewbox width x y'.split())

class Seen(HTMLParser):
    "Everything a parser finds in some HTML."
    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.values, self.data, self.other, self.open = set(), set(), [], [], [], []
        self.feed(text); self.close()
    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag not in ('meta', 'link'): self.open.append(tag)                   # these two never close
        for name,value in attrs: self.attributes.add(name); self.values.append((name, value))
    def handle_startendtag(self, tag, attrs): self.other.append(tag)
    def handle_endtag(self, tag): assert self.open.pop() == tag, 'every element closes where it should'
    def handle_data(self, data): self.data.append(data)
    def handle_comment(self, data): self.other.append(data)
    def handle_decl(self, data): self.other.append(data)
    def handle_pi(self, data): self.other.append(data)
    def unknown_decl(self, data): self.other.append(data)

def shapes(seen):
    "The parts of a page that could act: all elements and attributes, and styles, without the text."
    return seen.tags, seen.attributes, sorted({v for n,v in seen.values if n == 'style' and 'url' in v})

def everything(text):
    "Each public function, with `text` wherever it takes text."
    rows = [{text: text, 'n': 1}, {'n': text, 'm': None, text: 2.5}]
    yield safe(text)
    yield table(rows, caption=text)
    yield table(rows, columns={'n': text, text: text}, formats={'n': '.2f'}, most=1)
    yield curves({text: [(1, 2), (2, 1)], 'b': [(1, 1), (3, None)]}, text, text, text, marks=[(1, text), (1.1, text)])
    yield curves({text: [(1, text), (text, 1)]}, title=text)
    yield bars({text: {text: 1, 'b': None}, 'g': {text: text}}, text, text)
    yield document({'id': text, 'source': text, 'text': text, 'meta': {text: text}})
    yield tree(text)
    yield marked(text)
    yield table(hidden(text))

@pytest.mark.parametrize('text', HOSTILE)
def test_hostile_text_comes_out_as_text(text):
    "Only the elements and attributes written by view are found, no style fetches anything, and the text is all there."
    for out in everything(text):
        assert isinstance(out, Html)
        seen = Seen(out)
        assert seen.tags <= TAGS and seen.attributes <= ATTRIBUTES, shapes(seen)
        assert not seen.other and not seen.open
        assert not [v for n,v in seen.values if n == 'style' and 'url' in v]
        out.encode()                                                          # no lone surrogate is left
        assert not [c for c in out if unicodedata.category(c) in ('Cc', 'Cf', 'Cs') and c not in '\n\t']
    assert ''.join(Seen(safe(text)).data) == visible(text)

def test_the_parser_would_have_found_it():
    "The check above sees each kind of trouble when nothing is escaped."
    seen = Seen('<script>alert(1)</script><img src=x onerror=y></img><pre style="background:url(//a)"></pre><!-- c -->')
    assert {'script', 'img'} <= seen.tags and 'onerror' in seen.attributes and seen.other and shapes(seen)[2]

@pytest.mark.parametrize('text', HOSTILE)
def test_plain_text_cannot_move_a_terminal(text):
    "A table for a terminal has lines of one width and no control character but its line breaks."
    out = table_text([{'a': text, text: 1}, {'a': 'x', text: 22}])
    assert len(out.split('\n')) == 4
    assert all(ord(c) >= 32 and not 127 <= ord(c) < 160 for c in out.replace('\n', ''))
    assert len({view._width(line) for line in out.split('\n')}) == 1

def test_every_control_and_format_character_is_marked():
    "Over all of Unicode: what may hide or act is replaced, and nothing that can be seen is lost but for format characters."
    everything = visible('\n'.join(map(chr, range(11, 0x110000)))).split('\n')
    for code,out in enumerate(everything, 11):
        c = chr(code)
        if unicodedata.category(c) in ('Cc', 'Cf', 'Cs', 'Zl', 'Zp') and c not in '\n\t':
            assert out.startswith('⟨') and out.isprintable(), hex(code)
        elif unicodedata.category(c)[0] in 'LNPS' and out != c:
            assert any(a <= code <= b for a,b in view._BLANK), hex(code)
    assert [visible(chr(code))[0] for code in range(11)] == ['⟨']*9 + ['\t', '\n']

def test_marks_are_the_same_in_any_order():
    "What a character becomes does not depend on the texts seen before."
    r = Random(1)
    chars = [chr(r.randrange(0xD800)) for _ in range(500)] + ['\u202e', '\x1b', '\n', '\t']
    alone = {c: visible(c) for c in chars}
    for _ in range(20):
        r.shuffle(chars)
        assert visible(''.join(chars)) == ''.join(alone[c] for c in chars)

def test_html_is_not_escaped_twice_and_plain_text_always_is():
    cell = Html('<b>1.5</b>')
    out = table([{'a': cell, 'b': str(cell)}])
    assert '<b>1.5</b>' in out and '&lt;b&gt;1.5' in out

def test_a_format_is_only_asked_about_numbers():
    "A string in a column of numbers is shown, not formatted; booleans, None, nan and infinity have words."
    rows = [dict(v=v) for v in (0.5, 'half', None, True, float('nan'), float('inf'), 12345)]
    text = table_text(rows, formats=dict(v='.1%'))
    assert [line.strip() for line in text.split('\n')[2:]] == ['50.0%', 'half', '–', 'yes', 'nan', 'inf', '1234500.0%']

def test_numpy_numbers_are_numbers():
    np = pytest.importorskip('numpy')
    rows = [dict(n=np.int64(1234), x=np.float32(.5))]
    assert '1,234' in table(rows) and 'right' in table(rows) and '0.5' in table_text(rows)
    assert '<circle' in curves({'a': list(zip(np.arange(3), np.ones(3)))})

@pytest.mark.parametrize('seed', range(50))
def test_columns_line_up_and_numbers_end_at_the_right(seed):
    r = Random(seed)
    letters = 'aé漢ह🙂e\u0301\u202e\x1b<&"\n\t '
    rows = [dict(name=''.join(r.choices(letters, k=r.randrange(90))), n=r.choice([None, r.randrange(10**9)]))
            for _ in range(r.randrange(1, 12))]
    lines = table_text(rows).split('\n')
    assert len(lines) == len(rows)+2 and len({view._width(line) for line in lines}) == 1
    if any(row['n'] is not None for row in rows): assert all(line[-1] in '0123456789–n─' for line in lines)

@pytest.mark.parametrize('text, places', [('abc', 3), ('漢字', 4), ('e\u0301', 1), ('ｆｕｌｌ', 8), ('ﾊﾝ', 2), ('🙂', 2), ('', 0)])
def test_places_in_a_terminal(text, places):
    "A cell is as wide as terminals draw it, and a cut cell keeps to its limit."
    assert view._width(text) == places
    assert [view._width(view._cut(text*9, n)) <= n for n in (1, 2, 5)] == [True]*3

def numbers_in(out):
    "The points of every path of curves in an SVG."
    return [[tuple(map(float, p.split(','))) for p in d.split()] for d in re.findall(r'd="M([-\d., ]+)"', out)]

@pytest.mark.parametrize('seed', range(30))
def test_thinning_keeps_first_last_lowest_and_highest_of_each_column(seed):
    r = Random(seed)
    def height(): return r.choice([r.gauss(100, 10), r.uniform(0, 300)])
    points = sorted((r.uniform(50, 700), height()) for _ in range(r.randrange(1, 5_000)))
    out = view._thin(points)
    assert len(out) <= 4*(650/view._STEP + 2) and set(out) <= set(points)
    place = {p: i for i,p in enumerate(points)}
    assert out == sorted(out, key=place.get)
    def columns(points):
        ys = {}
        for x,y in points: ys.setdefault(int(x//view._STEP), []).append(y)
        return {column: (min(y), max(y), y[0], y[-1]) for column,y in ys.items()}
    assert columns(out) == columns(points)

def test_a_hundred_thousand_points_stay_small_and_keep_their_spike():
    "Two curves of 100,000 points are under 50 kB, and one value among them that is far out reaches the top of the plot."
    r = Random(0)
    calm = [(i, 3 + r.gauss(0, .1)) for i in range(100_000)]
    spike = calm[:70_000] + [(70_000, 30.)] + calm[70_001:]
    out = curves({'calm': calm, 'spike': spike})
    assert len(out) < 50_000
    highest = [min(y for _,y in path) for path in numbers_in(out)]
    assert min(highest) < 40 < sorted(highest)[1]                              # only the faint band of 'spike' goes there
    assert len(curves({'calm': calm, 'spike': spike}, log_x=True)) < 50_000

@pytest.mark.parametrize('seed', range(60))
def test_ticks_are_round_inside_the_axis_and_differ(seed):
    r = Random(seed)
    low = r.choice([0, r.uniform(-1, 1)*10**r.uniform(-9, 12)])
    high = low + 10**r.uniform(-6, 13) + abs(low)*1e-3
    ticks = view._ticks(low, high)
    assert 2 <= len(ticks) <= 9 and all(low <= t <= high*(1+1e-12) for t in ticks)
    assert len(set(view._tick_texts(ticks))) == len(ticks)
    low = 10**r.uniform(-8, 3); high = low*10**r.uniform(.8, 12)
    ticks = view._ticks(low, high, log=True)
    assert 2 <= len(ticks) <= 13 and all(low <= t <= high for t in ticks)
    assert len(set(view._tick_texts(ticks))) == len(ticks)

@pytest.mark.parametrize('values', [
    [], [None], [float('nan')]*3, [float('inf'), 1], [1e308, -1e308], [0], [5, 5, 5], [-3, -3], [1e-300, 2e-300], [1e99, -1e99],
    [1, None, 2], [10**400], ['<b>', 1]])
def test_ugly_values_draw_something_whole(values):
    "No crash, no 'nan' in a coordinate, and what is left out is counted."
    points = list(enumerate(values))
    for out in (curves({'a': points}), curves({'a': points}, log_x=True), curves({'a': points}, y_span=(0, 1), marks=[(0, 'x')]),
                bars({'g': {str(i): v for i,v in points}})):
        seen = Seen(out)
        coordinates = [v for n,v in seen.values if n in ('d', 'x', 'y', 'cx', 'cy', 'width', 'height')]
        assert not [v for v in coordinates if 'nan' in v or 'inf' in v]
    bad = sum(not (isinstance(v, (int, float)) and abs(v) < 1e100) for v in values)
    assert (f'{bad:,} value' in curves({'a': points})) == (bad > 0)

def test_charts_that_share_a_span_share_an_axis():
    low, high = (curves({'a': [(0, y), (1, y)]}, y_span=(1, 4)) for y in (2, 3))
    assert re.findall(r'text-anchor="end"[^>]*>([^<]*)', low) == re.findall(r'text-anchor="end"[^>]*>([^<]*)', high)

def test_labels_of_marks_that_stand_close_do_not_touch():
    "Three labels at nearly the same place go to three rows."
    out = curves({'a': [(0, 0), (100, 1)]}, marks=[(50, 'medium quality'), (50.5, 'medium again'), (51, 'third')])
    rows = re.findall(r'<text x="[\d.]+" y="([\d.]+)"[^>]*>(?:medium quality|medium again|third)<', out)
    assert len(set(rows)) == 3

def test_bars_begin_at_zero_and_their_lengths_are_in_proportion():
    out = bars({'g': dict(a=1., b=2., c=4., d=None)})
    widths = [float(w) for w in re.findall(r'<rect x="[\d.]+" y="[\d.]+" width="([\d.]+)" height="13"', out)]
    assert widths == pytest.approx([widths[0], 2*widths[0], 4*widths[0], 0], abs=.4)
    assert len(set(re.findall(r'<rect x="([\d.]+)" y="[\d.]+" width="[\d.]+" height="13"', out))) == 1

def test_document_counts_what_it_does_not_show():
    for n_lines,lines,chars in ((1, 12, 2000), (100, 5, 2000), (3, 12, 10), (12, 12, 10_000)):
        text = '\n'.join(f'line {i}' for i in range(n_lines))
        out = document(dict(text=text), lines=lines, chars=chars)
        shown = re.search(r'<pre[^>]*>([^<]*)</pre>', out)[1]
        rest = re.search(r'… ([\d,]+) more', out)
        assert text.startswith(shown) and len(shown) + (int(rest[1].replace(',', '')) if rest else 0) == len(text)
        assert shown == '\n'.join(text.split('\n')[:lines])[:chars]

def test_a_document_may_be_an_object_and_needs_a_text():
    class Doc: source, id, text, meta = 'web', 7, 'hello', None
    assert 'web 7' in document(Doc())
    for wrong in ({}, dict(text=None), dict(text=b'x'), 3):
        with pytest.raises(ValueError, match='text'): document(wrong)

def simulate(colour, matrix):
    "A colour as someone without one kind of cone sees it (Machado et al. 2009, severity 1), in CIE Lab."
    rgb = [int(colour[i:i+2], 16)/255 for i in (1, 3, 5)]
    rgb = [c/12.92 if c <= .04045 else ((c+.055)/1.055)**2.4 for c in rgb]
    rgb = [min(1, max(0, sum(m*c for m,c in zip(row, rgb)))) for row in matrix]
    xyz = [sum(m*c for m,c in zip(row, rgb))/w for row,w in zip(
        ((.4124, .3576, .1805), (.2126, .7152, .0722), (.0193, .1192, .9505)), (.9505, 1, 1.089))]
    x,y,z = (t**(1/3) if t > .008856 else 7.787*t + 16/116 for t in xyz)
    return 116*y-16, 500*(x-y), 200*(y-z)

SIGHT = dict(full=((1, 0, 0), (0, 1, 0), (0, 0, 1)),
             protan=((.152286, 1.052583, -.204868), (.114503, .786281, .099216), (-.003882, -.048116, 1.051998)),
             deutan=((.367322, .860646, -.227968), (.280085, .672501, .047413), (-.011820, .042940, .968881)),
             tritan=((1.255528, -.076749, -.178779), (-.078411, .930809, .147602), (.004733, .691367, .303900)))

@pytest.mark.parametrize('sight', SIGHT)
def test_lines_can_be_told_apart_without_every_cone(sight):
    "Any two series differ in dashes, or by 15 or more in Lab for each kind of sight (about 2 is just noticeable)."
    lab = [simulate(c, SIGHT[sight]) for c in view.PALETTE]
    for i in range(6):
        for j in range(i):
            if view._DASHES[i] == view._DASHES[j]: assert math.dist(lab[i], lab[j]) > 15, (sight, i, j)


def test_a_document_as_rows_hold_it_shows_its_facts():
    shown = document(dict(id='a', source='notes', text='x', meta='{"title": "On <b>"}'))
    assert 'title: On &lt;b&gt;' in shown
    assert 'title' not in document(dict(id='a', source='notes', text='x', meta=''))
