"""How soon the dashboard's buttons reach a run, how soon it is back after a reload, and what it costs: in Chromium, in a real JupyterLab, by version of ipykernel.

A run of a small model trains in a process of its own. Clicks: from before the mouse moves until control.json holds what was asked, and until status.json says
that the run obeys. Reload: from loading the page again until the panel shows a newer step. Cost: CPU seconds of the kernel in a second with the panel open and
closed, and CPU seconds of the training process for a step, turn by turn. Other versions of ipykernel are installed into a folder of their own and put in front.
Appends a line for each version to data/records/dashboard.jsonl.
"""
import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT/'tests')]
from andromeda.core import append_jsonl              # noqa: E402
from andromeda.runs import Run, control              # noqa: E402
from browser import Lab, write_notebook              # noqa: E402


def kernel_of(version, folder, lab):
    "The name of a kernel with that version of ipykernel, made known to the Lab in `folder`."
    target = folder/f'ipykernel-{version}'
    needs = [f'ipykernel=={version}'] + ['nest-asyncio']*version.startswith('6')
    subprocess.run([sys.executable, '-m', 'pip', 'install', '--quiet', '--no-deps', '--target', str(target), *needs], check=True)
    spec = lab/'.lab'/'jupyter_data_dir'/'kernels'/f'k{version}'
    spec.mkdir(parents=True)
    command = [sys.executable, '-m', 'ipykernel_launcher', '-f', '{connection_file}']
    (spec/'kernel.json').write_text(json.dumps(dict(argv=command, display_name=version, language='python', env=dict(PYTHONPATH=f'{target}:{ROOT}'), metadata={})))
    return f'k{version}'


def wait_for(condition, seconds=30):
    end = time.monotonic()+seconds
    while not condition():
        if time.monotonic() > end: raise TimeoutError(f'waited {seconds} s')
        time.sleep(.002)


@contextmanager
def ended(run):
    "The run ends with the block."
    try: yield
    finally:
        if run.alive():
            control(run, want='stop')
            wait_for(lambda: not run.alive())


def cpu_seconds(pid):
    "Of a process and its threads, from /proc."
    fields = Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()
    return (int(fields[11])+int(fields[12]))/100


def measured(version, clicks, turns, seconds):
    page = json.loads((ROOT/'nbs'/'51_dashboard.ipynb').read_text(encoding='utf-8'))
    cells = [''.join(c['source']) for c in page['cells'] if c['cell_type'] == 'code']
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        made = '\n'.join(c for c in cells if c.startswith(('#| hide\nimport tempfile', 'sample = home()', 'def recipe_of')))
        made = made.replace('recipe_of(40)', 'recipe_of(200_000)').replace("Path(tempfile.mkdtemp())/'runs'", f"Path({str(folder)!r})/'runs'")
        kernel = kernel_of(version, folder, folder)
        write_notebook(folder/'steer.ipynb', 'from andromeda.dashboard import *\nfrom pathlib import Path\nfrom andromeda.core import home\nfrom andromeda.runs import launch\n' + made,
                       'panel = show(folder)\npanel', kernel=kernel)
        run = Run(folder/'runs'/'watched')
        with ended(run), Lab(folder) as lab:
            sheet = lab.open('steer.ipynb')
            sheet.run_all(180)
            found,pid = sheet.run('import ipykernel, os; print(ipykernel.__version__, os.getpid())').split()
            assert found == version, found
            wait_for(lambda: run.status['state'] == 'running' and run.status['step'] > 20, 60)
            reach,obey = [],[]
            for i in range(clicks):
                button,want,state = (('.am-pause', 'pause', 'paused'), ('.am-start', 'run', 'running'))[i % 2]
                began = time.monotonic()
                sheet.find(button).first.click()
                wait_for(lambda: run.control['want'] == want)
                reach.append(time.monotonic()-began)
                wait_for(lambda: run.status['state'] == state)
                obey.append(time.monotonic()-began)
                lab.page.wait_for_timeout(200)
            cost = dict(open=[], closed=[])
            steps = dict(open=[], closed=[])
            for i in range(2*turns):
                now = ('closed', 'open')[i % 2]
                sheet.run('panel.close()' if now == 'closed' else "panel.closed.clear(); import threading; threading.Thread(target=panel._look, daemon=True).start()")
                time.sleep(1)
                kernel_cpu,train_cpu,step,began = cpu_seconds(pid),cpu_seconds(run.status['pid']),run.status['step'],time.monotonic()
                time.sleep(seconds)
                done = max(run.status['step']-step, 1)
                cost[now].append((cpu_seconds(pid)-kernel_cpu)/(time.monotonic()-began))
                steps[now].append((cpu_seconds(run.status['pid'])-train_cpu)/done)
            lines = len(run.metrics())
            sheet.save()
            began = time.monotonic()
            sheet.reload()
            text = "() => { const e = document.querySelector('.am-status'); return e && e.textContent }"
            first = lab.until(text, 60)
            lab.until(f"() => {{ const e = document.querySelector('.am-status'); return e && e.textContent !== {json.dumps(first)} }}", 60)
            reload = time.monotonic()-began
    cut = lambda values: dict(median_ms=round(1000*statistics.median(values)), p95_ms=round(1000*statistics.quantiles(values, n=20)[-1]), most_ms=round(1000*max(values)))
    found = dict(clicks=clicks, reaches_control=cut(reach), run_obeys=cut(obey), reload_to_live_s=round(reload, 1), panel_every_s=1, metrics_lines=lines)
    if not turns: return found
    middle = {k: statistics.median(v) for k,v in cost.items()}
    return found | dict(turns=turns, seconds=seconds, kernel_cpu_share_open=round(middle['open'], 4), kernel_cpu_share_closed=round(middle['closed'], 4),
                        training_cpu_per_step_open_to_closed=round(statistics.median(steps['open'])/statistics.median(steps['closed']), 3))


if __name__ == '__main__':
    asked = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    asked.add_argument('--ipykernel', nargs='+', default=['6.31.0', '7.3.0', '7.4.0'])
    asked.add_argument('--clicks', type=int, default=40)
    asked.add_argument('--turns', type=int, default=5, help='0: the cost is not measured')
    asked.add_argument('--seconds', type=float, default=4)
    asked.add_argument('--dry', action='store_true', help='print, and record nothing')
    asked = asked.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))          # so that the Lab and the run end with it
    for version in asked.ipykernel:
        import jupyterlab
        record = dict(bench='dashboard', made=time.strftime('%Y-%m-%d'), python=platform.python_version(), jupyterlab=jupyterlab.__version__, ipykernel=version,
                      load=round(os.getloadavg()[0], 1)) | measured(version, asked.clicks, asked.turns, asked.seconds)
        print(record)
        if not asked.dry: append_jsonl(ROOT/'data'/'records'/'dashboard.jsonl', record)
