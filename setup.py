"Packaging: everything it needs to know stands in settings.ini."
from configparser import ConfigParser
from pathlib import Path

from setuptools import setup

here = Path(__file__).parent
parser = ConfigParser(delimiters=['='])
parser.read(here/'settings.ini', encoding='utf-8')
cfg = parser['DEFAULT']


def requirements(key): return cfg.get(key, '').split()


extras = {e: requirements(f'{e}_requirements') for e in ('notebook', 'gpu', 'hub', 'ray', 'sweep', 'eval')}
extras['dev'] = requirements('dev_requirements') + extras['notebook']

setup(
    name=cfg['lib_name'], version=cfg['version'], description=cfg['description'], author=cfg['author'],
    license='Apache-2.0', license_files=['LICENSE'], url=cfg['git_url'], keywords=cfg['keywords'].split(),
    long_description=(here/'README.md').read_text(encoding='utf-8') if (here/'README.md').exists() else '',
    long_description_content_type='text/markdown',
    python_requires=f">={cfg['min_python']},<3.14",
    install_requires=requirements('requirements'), extras_require=extras,
    packages=['andromeda', 'andromeda.data'],      # the catalogue travels inside the package ...
    package_dir={'andromeda.data': 'data'},        # ... and lives in data/ in the checkout
    package_data={'andromeda.data': ['sources.toml']},
    entry_points={'console_scripts': [cfg['console_scripts']]},
    classifiers=['Programming Language :: Python :: 3', 'License :: OSI Approved :: Apache Software License'],
    zip_safe=False,
)
