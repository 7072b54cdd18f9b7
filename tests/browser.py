"""A real JupyterLab in a real browser, for the tests that click; they are skipped where there is no Chromium.

`with Lab(folder) as lab:` starts both; `lab.open('page.ipynb')` gives a `Sheet` whose cells can be run, whose widgets can be clicked, and which can be
photographed. Pictures are kept in build/browser. Everything that JupyterLab would write outside of `folder` is sent into it.
"""
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).parent.parent
PAGES_HOME = os.environ.get('ANDROMEDA_HOME')      # where the pages have left what they made, if they ran before; read before a test gets its own
SHOTS = ROOT/'build'/'browser'
INSTALL = 'apt-get install -y --no-install-recommends chromium fonts-dejavu-core'
FLAGS = ('--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync '
         '--disable-dev-shm-usage').split()
SETTINGS = {            # what would hide cells, cover corners, or save behind our back
    '@jupyterlab/notebook-extension/tracker': dict(windowingMode='none'),
    '@jupyterlab/apputils-extension/notification': dict(fetchNews='false', checkForUpdates=False),
    '@jupyterlab/docmanager-extension/plugin': dict(autosave=False)}


def chromium():
    "The path of the browser, or None."
    return shutil.which('chromium') or shutil.which('chromium-browser')


def lacking():
    "Why browser tests cannot run here, with the line that mends it; '' if they can."
    if not chromium(): return f'no Chromium on this machine: {INSTALL}'
    try: import playwright.sync_api, jupyterlab      # noqa: F401
    except ModuleNotFoundError as e: return f"no {e.name} in this environment: pip install -e '.[dev]'"
    return ''


def _cells(sources): return [dict(cell_type='code', id=f'c{i}', metadata={}, execution_count=None, outputs=[], source=s.splitlines(True)) for i,s in enumerate(sources)]


def write_notebook(path, *cells, kernel='python3'):
    "A notebook of code cells."
    path.write_text(json.dumps(dict(cells=_cells(cells), metadata=dict(kernelspec=dict(display_name=kernel, language='python', name=kernel)), nbformat=4, nbformat_minor=5)))


def copy_page(name, folder, *more):
    "A page of the project in `folder`, without its outputs, so that what is seen was made now; with more code cells at its end."
    notebook = json.loads((ROOT/'nbs'/f'{name}.ipynb').read_text(encoding='utf-8'))
    for cell in notebook['cells']:
        if cell['cell_type'] == 'code': cell.update(outputs=[], execution_count=None)
    notebook['cells'] += _cells(more)
    (Path(folder)/f'{name}.ipynb').write_text(json.dumps(notebook))


class Browser:
    "Chromium with one page of 1280 pixels; remembers every request to another machine, and every script that got to run."
    def __init__(self, dark=False, size=(1280, 900)):
        self.dark,self.size,self.outside,self.ran = dark,size,[],[]

    def __enter__(self):
        from playwright.sync_api import sync_playwright
        self._playwright = sync_playwright().start()
        self.chromium = self._playwright.chromium.launch(executable_path=chromium(), headless=True, args=FLAGS)
        context = self.chromium.new_context(viewport=dict(width=self.size[0], height=self.size[1]), color_scheme='dark' if self.dark else 'light')
        context.route('**/*', self._route)
        context.expose_function('__ran', lambda *what: self.ran.append(str(what)))      # what the hostile documents call
        self.page = context.new_page()
        self.page.on('dialog', lambda d: (self.ran.append(f'dialog: {d.message}'), d.dismiss()))
        self.page.set_default_timeout(60_000)
        return self

    def __exit__(self, *_):
        self.chromium.close()
        self._playwright.stop()

    def _route(self, route):
        url = urlsplit(route.request.url)
        if url.scheme in ('data', 'blob', 'file') or url.hostname == '127.0.0.1': return route.continue_()
        self.outside.append(route.request.url)
        route.abort()

    def shot(self, name, element=None):
        "A picture of the page, or of the first thing that a CSS selector finds, in build/browser/NAME.png."
        SHOTS.mkdir(parents=True, exist_ok=True)
        path = SHOTS/f'{name}.png'
        if element: self.page.locator(element).first.screenshot(path=path)
        else: self.page.screenshot(path=path)
        return path


class Lab(Browser):
    "JupyterLab on 127.0.0.1 with `folder` as its root."
    def __init__(self, folder, dark=False, size=(1280, 900), env=None):
        super().__init__(dark, size)
        self.folder,self.token,self.env = Path(folder),secrets.token_hex(16),env or {}

    def __enter__(self):
        own = self.folder/'.lab'
        names = 'JUPYTER_CONFIG_DIR JUPYTER_DATA_DIR JUPYTER_RUNTIME_DIR JUPYTERLAB_SETTINGS_DIR JUPYTERLAB_WORKSPACES_DIR IPYTHONDIR MPLCONFIGDIR HOME'.split()
        env = os.environ | {n: str(own/n.lower()) for n in names} | dict(PYTHONPATH=str(ROOT), IN_TEST='1', ANDROMEDA_HOME=PAGES_HOME or str(self.folder/'home'), HF_HUB_OFFLINE='1') | self.env
        env.pop('MPLBACKEND', None)
        for n in names: (own/n.lower()).mkdir(parents=True, exist_ok=True)
        theme = {'@jupyterlab/apputils-extension/themes': dict(theme='JupyterLab Dark' if self.dark else 'JupyterLab Light')}
        for name,value in (SETTINGS | theme).items():
            path = own/'jupyterlab_settings_dir'/f'{name}.jupyterlab-settings'
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(value))
        with socket.socket() as s:
            s.bind(('127.0.0.1', 0))
            self.port = s.getsockname()[1]
        command = [sys.executable, '-m', 'jupyterlab', '--no-browser', '--ip=127.0.0.1', f'--port={self.port}', '--ServerApp.port_retries=0',
                   f'--IdentityProvider.token={self.token}', f'--ServerApp.root_dir={self.folder}', '--LabApp.expose_app_in_browser=True', '--LabApp.news_url=None',
                   '--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate', '--allow-root']
        self.log = open(own/'log.txt', 'wb')
        self.server = subprocess.Popen(command, env=env, stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL, start_new_session=True)
        try:
            super().__enter__()
            self._wait_for_server()
            self.page.goto(f'http://127.0.0.1:{self.port}/lab?reset&token={self.token}')
            self.until("() => window.jupyterapp && jupyterapp.commands.hasCommand('notebook:run-all-cells')")
            self.page.evaluate("() => jupyterapp.restored.then(() => jupyterapp.shell.collapseLeft()).then(() => 1)")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        with suppress(OSError, ValueError):
            for session in self.api('sessions'): self.api(f"sessions/{session['id']}", 'DELETE')        # their kernels end with them
        if hasattr(self, 'chromium'): super().__exit__()
        self.server.terminate()
        try: self.server.wait(10)
        except subprocess.TimeoutExpired: self.server.kill()
        self.log.close()

    def api(self, what, method='GET'):
        "What the server says to a request under /api."
        request = urllib.request.Request(f'http://127.0.0.1:{self.port}/api/{what}', method=method, headers=dict(Authorization=f'token {self.token}'))
        with urllib.request.urlopen(request, timeout=10) as answer: said = answer.read()
        return json.loads(said) if said else None

    def _wait_for_server(self):
        for _ in range(900):
            if self.server.poll() is not None: break
            with suppress(OSError): return self.api('status')
            time.sleep(.1)
        raise RuntimeError('JupyterLab did not start:\n' + (self.folder/'.lab'/'log.txt').read_text()[-2000:])

    def until(self, condition, seconds=60, what=None):
        "Wait until a JavaScript function gives something true."
        from playwright.sync_api import Error
        end,wrong = time.monotonic()+seconds,''
        while time.monotonic() < end:
            try:
                if found := self.page.evaluate(condition): return found
            except Error as e: wrong = str(e)            # the page is on its way to another one
            time.sleep(.05)
        raise TimeoutError(f'{what or condition} did not come true in {seconds} s. {wrong}')

    def open(self, name):
        "The notebook of that name, in front, its kernel ready."
        for session in self.api('sessions'): self.api(f"sessions/{session['id']}", 'DELETE')
        self.page.evaluate("async name => { for (const w of Array.from(jupyterapp.shell.widgets('main'))) { if (w.context) w.context.model.dirty = false; w.close() };"
                           "await jupyterapp.commands.execute('docmanager:open', {path: name}); return 1 }", name)
        sheet = Sheet(self, name)
        sheet.wait_ready()
        return sheet


class Sheet:
    "An open notebook."
    def __init__(self, lab, name): self.lab,self.name,self.page = lab,name,lab.page

    def wait_ready(self, seconds=60):
        self.lab.until(f"""() => {{ const w = jupyterapp.shell.currentWidget, k = w && w.context && w.context.path === {json.dumps(self.name)}
            && w.sessionContext.isReady && w.sessionContext.session && w.sessionContext.session.kernel;
            return k && k.status === 'idle' && k.connectionStatus === 'connected' }}""", seconds, f'{self.name}: kernel idle')

    def run_all(self, seconds=120):
        "Run every cell and wait for the last one. Raises `AssertionError` with what a failing cell said."
        self.start_all()
        self.lab.until('() => window.__done', seconds, f'{self.name}: all cells run')
        assert not (wrong := self.errors()), '\n'.join(wrong)

    def start_all(self):
        "Begin to run every cell; `window.__done` says when all are done."
        self.page.evaluate("() => { window.__done = 0; jupyterapp.commands.execute('notebook:run-all-cells').then(() => window.__done = 1, () => window.__done = 1); return 1 }")

    def run(self, code, seconds=60):
        "Run `code` in the kernel, apart from the cells; what it printed. Raises `AssertionError` with what it raised."
        self.page.evaluate("""async code => { const k = jupyterapp.shell.currentWidget.sessionContext.session.kernel; window.__said = null; let said = '', wrong = '';
            const f = k.requestExecute({code, store_history: false});
            f.onIOPub = m => { if (m.content.text) said += m.content.text; if (m.content.ename) wrong = m.content.ename + ': ' + m.content.evalue };
            f.done.then(() => window.__said = [said, wrong], e => window.__said = [said, String(e)]); return 1 }""", code)
        self.lab.until('() => window.__said !== null', seconds, code)
        said,wrong = self.page.evaluate('() => window.__said')
        assert not wrong, wrong
        return said

    def errors(self):
        "What failing cells said."
        return self.page.evaluate("""() => jupyterapp.shell.currentWidget.content.widgets.flatMap((c, i) => c.model.type !== 'code' ? [] :
            Array.from({length: c.model.outputs.length}, (_, j) => c.model.outputs.get(j).toJSON()).filter(o => o.output_type === 'error')
            .map(o => `cell ${i}: ${o.ename}: ${o.evalue}`))""")

    def save(self): self.page.evaluate("() => jupyterapp.commands.execute('docmanager:save').then(() => 1)")

    def reload(self):
        "Load the browser's page again: all that it held is gone, the kernel is not."
        self.page.goto(f'http://127.0.0.1:{self.lab.port}/lab/tree/{self.name}?token={self.lab.token}')
        self.wait_ready()

    def find(self, selector): return self.page.locator(selector)

    def shot(self, name, element=None): return self.lab.shot(name, element)

    def whole(self, name, most=16_000):
        "A picture of the notebook's prose and outputs, without its code, from the first cell to the last or to so many pixels, as wide as the window."
        width,height = self.lab.size
        self.page.evaluate("() => jupyterapp.commands.execute('notebook:hide-all-cell-code').then(() => 1)")
        tall = self.page.evaluate("() => [...document.querySelectorAll('.jp-Notebook .jp-Cell')].reduce((sum, c) => sum + c.offsetHeight + 10, 0)")
        self.page.set_viewport_size(dict(width=width, height=min(most, max(height, tall+150))))
        self.page.evaluate("() => { for (const e of document.querySelectorAll('.jp-WindowedPanel-outer')) e.scrollTop = 0 }")
        self.page.wait_for_timeout(300)
        path = self.shot(name)
        self.page.set_viewport_size(dict(width=width, height=height))
        return path

    def untidy(self):
        "What a reader would see cut or overlapping in the outputs, and what has no name for who does not see: a line each."
        return self.page.evaluate(_UNTIDY)


_UNTIDY = """() => {
  const found = [], say = (what, e) => found.push(`${what}: ${(e.outerHTML || '').slice(0, 160)}`), seen = e => e.getClientRects().length && getComputedStyle(e).visibility !== 'hidden';
  const within = (a, b, by) => a.left >= b.left-by && a.right <= b.right+by && a.top >= b.top-by && a.bottom <= b.bottom+by;
  for (const area of document.querySelectorAll('.jp-OutputArea-output')) {
    for (const e of [area, ...area.querySelectorAll('div, pre, figure, button, label, .widget-readout')])
      if (seen(e) && e.scrollWidth > e.clientWidth+2 && e.clientWidth && getComputedStyle(e).overflowX !== 'visible' && !e.closest('.CodeMirror, .cm-editor')) say(`cut by ${e.scrollWidth-e.clientWidth} pixels`, e);
    for (const svg of [...area.querySelectorAll('svg')].filter(seen)) {
      const frame = svg.getBoundingClientRect(), texts = [...svg.querySelectorAll('text')].filter(t => !['', '×', '…'].includes(t.textContent.trim())).map(t => [t, t.getBoundingClientRect()]);
      for (const [t, at] of texts) if (!within(at, frame, 2)) say('text out of its figure', t);
      texts.forEach(([t, a], i) => texts.slice(i+1).forEach(([u, b]) => {
        if (Math.min(a.right, b.right)-Math.max(a.left, b.left) > 2 && Math.min(a.bottom, b.bottom)-Math.max(a.top, b.top) > 4) say(`text over "${u.textContent}"`, t) }));
      if (svg.getAttribute('role') === 'img' && !svg.getAttribute('aria-label')) say('no name', svg);
    }
    const named = e => e.getAttribute('aria-label') || e.title || (e.getAttribute('aria-labelledby') || '').split(' ').some(i => document.getElementById(i)) || [...(e.labels || [])].some(l => l.textContent.trim());
    for (const e of area.querySelectorAll('input, select, textarea, button, [role=slider], [tabindex="0"]'))
      if (seen(e) && !e.matches('.jp-OutputArea-output, .jp-OutputArea-output *[role=tabpanel]') && !named(e) && !(e.matches('button, span, [role=tab]') && e.textContent.trim())) say('no name', e);
  }
  return found }"""
