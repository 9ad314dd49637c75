"""Make `.venv-fastcore2`: what the package needs to run, nothing else, and fastcore 2 instead of 1.12.

nbdev holds `.venv` at fastcore 1.12, so the other half of the promise needs an environment of its own. PyTorch is not installed
a second time: the distributions that `requirements` reaches (and no development tool) are linked from `.venv`.
`tests/test_environments.py` puts the package itself beside them and trains.
"""
import os
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from setup_env import ROOT, VENV, SetupError, pip, read_settings, say, why_set_up, write_stamp

VENV2 = ROOT/'.venv-fastcore2'
SITE = Path(sysconfig.get_path('purelib'))


def needs(dist, extras=()):
    "The requirements of `dist` that hold on this machine."
    for text in dist.requires or []:
        req = Requirement(text)
        if req.marker is None or any(req.marker.evaluate({'extra': o}) for o in (extras or [''])): yield req


def closure(reqs):
    "Every installed distribution that `reqs` reach, by name; extras are followed where they are asked for."
    found, todo, seen = {}, list(reqs), set()
    while todo:
        req = todo.pop()
        key = canonicalize_name(req.name), frozenset(req.extras)
        if key in seen: continue
        seen.add(key)
        found[key[0]] = dist = metadata.distribution(req.name)
        todo += needs(dist)
        for extra in req.extras: todo += needs(dist, [extra])
    return found


def top_level(dist):
    "The entries of site-packages that belong to `dist`: its packages, modules, libraries and its metadata."
    tops = {o.parts[0] for o in dist.files or []}
    return sorted(o for o in tops if o not in ('..', '__pycache__') and (SITE/o).exists())


def link(venv, dists):
    "Links to `dists` in the site-packages of `venv`, relative, so that the repository may move."
    site = site_of(venv)
    for name in sorted({o for d in dists for o in top_level(d)}):
        if not (site/name).is_symlink(): (site/name).symlink_to(os.path.relpath(SITE/name, site))


def site_of(venv): return venv/SITE.relative_to(sys.prefix)


def main():
    dists = closure(map(Requirement, read_settings()['requirements'].split()))
    dists.pop('fastcore')
    wanted = {'recipe': 1, 'linked': sorted(f'{k}=={d.version}' for k, d in dists.items())}
    if why_set_up(VENV2, wanted) is None: return
    say(f'Making {VENV2.name}: {len(dists)} distributions of the runtime requirements, and fastcore 2.')
    subprocess.run([sys.executable, '-m', 'venv', '--clear', '--without-pip', str(VENV2)], check=True)
    link(VENV2, dists.values())
    pip(VENV, 'install', '--no-deps', '--target', str(site_of(VENV2)), 'fastcore>=2')
    write_stamp(VENV2, wanted)


if __name__ == '__main__':
    try: main()
    except SetupError as e: sys.exit(str(e))
