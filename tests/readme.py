"README.md is nbs/index.ipynb as Markdown: `python tests/readme.py` writes it, `--check` compares."
import base64
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def markdown(page, pictures):
    "The page as Markdown; pictures among its outputs are written below `pictures`, numbered."
    out,n = [],0
    for cell in page['cells']:
        source = ''.join(cell['source'])
        if cell['cell_type'] == 'markdown': out.append(source)
        elif not source.startswith('#| hide'):
            shown = '\n'.join(line for line in source.split('\n') if not line.startswith('#|'))
            if '#| echo: false' not in source: out.append(f'```python\n{shown}\n```')
            for o in cell['outputs']:
                data = o.get('data', {})
                if 'image/png' in data:
                    n += 1
                    name = f'index-{n}.png'
                    pictures[name] = base64.b64decode(data['image/png'])
                    out.append(f'![](nbs/images/{name})')
                elif 'text/markdown' in data: out.append(''.join(data['text/markdown']))
                else:
                    text = ''.join(o.get('text', data.get('text/plain', ''))).rstrip()
                    if text and o.get('name') != 'stderr': out.append('```text\n' + text + '\n```')
    # links between pages are relative to nbs/ on the page, and to the top folder in the README
    return re.sub(r'\]\((\d\d_\w+\.ipynb)\)', r'](nbs/\1)', '\n\n'.join(out)).replace('](../', '](') + '\n'


def main(check):
    pictures = {}
    files = {ROOT/'README.md': markdown(json.loads((ROOT/'nbs'/'index.ipynb').read_text(encoding='utf-8')), pictures).encode()}
    files |= {ROOT/'nbs'/'images'/name: data for name,data in pictures.items()}
    for path,data in files.items():
        if check and (not path.exists() or path.read_bytes() != data):
            sys.exit(f'{path.relative_to(ROOT)} is not what nbs/index.ipynb says: run python tests/readme.py and commit it.')
        if not check:
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)


if __name__ == '__main__': main('--check' in sys.argv[1:])
