"""fastai's own environment, `.venv-bench`, and what there is to say about this machine. Needs nothing but the standard library."""
import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OURS, BENCH = ROOT/'.venv', ROOT/'.venv-bench'
FASTAI = 'fastai>=2.8.12,<2.9'
PACKAGES = ['fastbook_impl', 'fastai', 'fastcore', 'torch', 'torchvision', 'numpy', 'pillow']


def python(venv:Path) -> str: return str(venv/'bin'/'python')


def site_packages(venv:Path) -> Path:
    "The folder in which `venv` keeps its packages."
    found = sorted(venv.glob('lib/python3*/site-packages'))
    if not found: raise SystemExit(f'{venv.name} is missing or incomplete: `make bench` sets it up.')
    return found[0]


def stamp() -> str:
    "What the environment was built from; when this changes it is built anew."
    return json.dumps([FASTAI, versions(OURS, ['torch', 'torchvision']), site_packages(OURS).parent.name])


def set_up():
    """Make `.venv-bench` unless it is there already: fastai and what it needs, over the torch and torchvision of `.venv`.
    A `.pth` file puts our packages behind its own, so that both sides run the same torch and 5 GB are not fetched twice."""
    mark = BENCH/'stamp.json'
    if mark.exists() and mark.read_text() == stamp(): return
    print(f'Setting up fastai in {BENCH.name} (a minute or two, once)…', flush=True)
    shutil.rmtree(BENCH, ignore_errors=True)
    run([python(OURS), '-m', 'venv', str(BENCH)])
    own = site_packages(BENCH)
    (own/'zz_shared.pth').write_text(os.path.relpath(site_packages(OURS), own) + '\n')
    run([python(BENCH), '-m', 'pip', 'install', '-q', '--disable-pip-version-check', '--no-input', FASTAI])
    theirs = versions(BENCH, ['fastai', 'torch'])
    if theirs['torch'] != versions(OURS, ['torch'])['torch']: raise SystemExit('fastai brought a torch of its own: the comparison would be unfair.')
    if version_tuple(theirs['fastai']) < (2, 8, 12): raise SystemExit(f"fastai {theirs['fastai']} is older than 2.8.12.")
    mark.write_text(stamp())


def run(command:list[str]):
    done = subprocess.run(command, capture_output=True, text=True)
    errors = [l for l in done.stderr.splitlines() if l.startswith('ERROR')]
    if done.returncode: raise SystemExit('\n'.join([f"fastai's environment cannot be made: `{Path(command[0]).name} {' '.join(command[1:3])} …` failed.", *errors[-3:]]))


def versions(venv:Path, packages:list[str]=PACKAGES) -> dict[str, str]:
    """Return the versions of `packages` that are installed in `venv`, read from their metadata without importing them.

    `.venv-bench` also sees the packages of `.venv`, behind its own.
    """
    folders = [site_packages(v) for v in ([BENCH, OURS] if venv == BENCH else [venv])]
    found = {}
    for name in packages:
        for folder in folders:
            hits = sorted(folder.glob(f'{name}-*.dist-info'))
            if hits: found[name] = hits[-1].name.removesuffix('.dist-info').split('-', 1)[1]; break
    return found


def version_tuple(v:str) -> tuple[int, ...]: return tuple(int(p) for p in v.split('.')[:3] if p.isdigit())


def cpu_name() -> str:
    "The processor as the system names it."
    try: lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError: lines = []
    names = [l.split(':', 1)[1].strip() for l in lines if l.startswith('model name')]
    return names[0] if names else platform.processor() or platform.machine()


def memory_gb() -> float:
    try: return os.sysconf('SC_PAGE_SIZE')*os.sysconf('SC_PHYS_PAGES')/2**30
    except (ValueError, OSError, AttributeError): return float('nan')


def cores() -> int:
    try: return len(os.sched_getaffinity(0))
    except AttributeError: return os.cpu_count() or 1


@dataclass(frozen=True)
class Dataset:
    "A data set that is there: its folder, and what to call it in the results."
    path:Path
    description:str


SOURCE = {'mirror': 'from the mirror', 'original': 'the original', 'address': 'the original', 'sample': "the package's built-in sample"}


def dataset(name:str) -> Dataset:
    "The data set `URLs.<name>`, or the archive called `name`, as this package finds it: from the mirror, where there is one, from its address, or the built-in sample."
    mirror = os.environ.get('FASTBOOK_MIRROR') or str(ROOT.parent/'shared'/'data')
    variables = {**os.environ, 'FASTBOOK_HOME': str(BENCH/'home'), **({'FASTBOOK_MIRROR': mirror} if Path(mirror).exists() or '://' in mirror else {})}
    code = f'from fastbook_impl.data.external import *; print(untar_data(getattr(URLs, {name!r}, {name!r})))'
    done = subprocess.run([python(OURS), '-c', code], capture_output=True, text=True, env=variables, cwd=ROOT)
    if done.returncode: raise SystemExit(f'the data set {name} cannot be had: {done.stderr.strip().splitlines()[-1]}')
    path = Path(done.stdout.strip().splitlines()[-1])
    note = path.with_name(path.name + '.json')
    source = json.loads(note.read_text())['source'] if note.exists() else 'original'
    pictures = sum(f.suffix in ('.jpg', '.png') and not {'annotations', 'labels'} & set(f.parts) for f in path.rglob('*'))
    return Dataset(path, f'{name.removesuffix(".tgz")}, {SOURCE[source]}' + (f', {pictures:,} pictures' if pictures else ''))


def machine() -> list[tuple[str, str]]:
    "What a reader needs to judge the numbers, as label and text."
    ours, theirs = versions(OURS), versions(BENCH)
    return [
        ('processor', f'{cpu_name()}, {cores()} cores, {memory_gb():.0f} GB of memory, no GPU used'),
        ('system', f'{platform.system()} {platform.machine()}, Python {platform.python_version()}'),
        ('in common', ', '.join(f'{p} {ours[p]}' for p in ('torch', 'torchvision', 'numpy', 'pillow') if p in ours)),
        ('this package', f"fastbook_impl {ours.get('fastbook_impl', 'from the working tree')}, fastcore {ours.get('fastcore', '?')}"),
        ('fastai', f"fastai {theirs.get('fastai', '?')}, fastcore {theirs.get('fastcore', '?')}"),
    ]


if __name__ == '__main__':
    set_up()
    print(*(f'{a}: {b}' for a, b in machine()), sep='\n')
    sys.exit()
