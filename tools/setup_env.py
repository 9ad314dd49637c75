"""Set up what the course needs, once: `.venv` from a lock file, and for the tests a browser and `.venv-fastcore2`.

Runs before anything is installed, on whatever Python the machine has, so it uses the standard library only.

    python3 tools/setup_env.py            # what `make lab` and `make course` need
    python3 tools/setup_env.py --tests    # and what `make test` needs besides
    python3 tools/setup_env.py --docs     # `.venv-docs`: what `make docs` needs, without PyTorch
    python3 tools/setup_env.py --latest   # `.venv-latest`: the newest releases instead of the locked ones

pip installs uv, at a locked version, and uv does the rest: it checks the hashes, downloads in parallel and links files from its cache.
pip's settings (PIP_* and pip.conf) are passed on to uv, and UV_* settings win over them.
A stamp inside each environment, written last, says what the environment was made from. While it holds, this script does nothing.
"""
import ast
import configparser
import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV, VENV2, LATEST, DOCS = ROOT/'.venv', ROOT/'.venv-fastcore2', ROOT/'.venv-latest', ROOT/'.venv-docs'
RECIPE = 2  # raise it when the steps below change, so that older environments are made again
BROWSERS = 'chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable', 'chrome'
TORCH = re.compile(r'(torch|torchvision|triton|cuda-.*|nvidia-.*)$')  # PyTorch, and what only its CUDA build needs


class SetupError(Exception):
    "One sentence for the person at the terminal: what is missing, and what to do."


def say(text, **kw): print(text, flush=True, **kw)


def last_line(text): return ([o.strip() for o in text.splitlines() if o.strip()] or ['no message'])[-1]


# --- what an environment is made from ------------------------------------------------------------------------------------

def read_settings(root=ROOT):
    cfg = configparser.ConfigParser(delimiters=['='])
    cfg.read(str(root/'settings.ini'), encoding='utf-8')
    return cfg['DEFAULT']


def extras(cfg, name):
    "The requirements of the extra `name`; `all` joins those that the setting `all_extras` lists."
    if name == 'all': return [o for extra in cfg['all_extras'].split() for o in extras(cfg, extra)]
    return cfg[f'{name}_requirements'].split()


def wanted_packages(cfg):
    "The requirements of the course's environment and of the tests' environment."
    course = [*cfg['requirements'].split(), *extras(cfg, 'all'), *extras(cfg, 'course')]
    return {'course': course, 'test': [*course, *extras(cfg, 'test')]}


def lock_file(name, root=ROOT): return root/'requirements'/f'{name}.txt'


def sha256(path): return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ''


def fingerprint(name, root=ROOT):
    "What the environment `name` is made from: its lock file, the settings, the folder it lies in, and the steps of this script."
    return {'name': name, 'lock': sha256(lock_file(name, root)), 'settings': sha256(root/'settings.ini'), 'place': str(root), 'recipe': RECIPE}


def read_locked(path):
    "The entries of a lock file by package name, each with its hashes."
    entries = re.split(r'^(?=[A-Za-z0-9])', path.read_text(encoding='utf-8'), flags=re.M)
    found = {}
    for o in entries:
        name = re.match(r'[\w.-]+(?===)', o)
        if name: found.setdefault(name[0].lower(), []).append(o)
    return found


# --- the stamp -----------------------------------------------------------------------------------------------------------

def stamp_of(venv): return venv/'fastbook-setup.json'


def read_stamp(venv):
    try: return json.loads(stamp_of(venv).read_text())
    except (OSError, ValueError): return {}


def write_stamp(venv, made):
    part = stamp_of(venv).with_suffix('.part')
    part.write_text(json.dumps(made, indent=1))
    os.replace(str(part), str(stamp_of(venv)))


def why_set_up(venv, wanted):
    "The reason why `venv` must be made or updated, in words; None when it is what is `wanted`."
    if not venv_python(venv).exists(): return f'{venv.name} is not there yet'
    found = read_stamp(venv)
    if not found: return f'{venv.name} was not finished'
    reasons = dict(lock='the lock file has changed', settings='settings.ini has changed', place='the folder has moved', recipe='the steps of the set-up have changed')
    for key, reason in reasons.items():
        if found.get(key) != wanted[key]: return f'{reason} since the last set-up'
    return None


def why_set_up_course(venv, tests, root):
    "As `why_set_up`, for `.venv`: an environment made for the tests serves the course too."
    name = 'test' if tests or read_stamp(venv).get('name') == 'test' else 'course'
    if tests and read_stamp(venv).get('name') == 'course': return 'the tests need a few more packages', name
    return why_set_up(venv, fingerprint(name, root)), name


def venv_python(venv): return venv/('Scripts/python.exe' if os.name == 'nt' else 'bin/python')


@contextlib.contextmanager
def locked(venv):
    "One set-up at a time: a second one waits for the first, and then finds the work done."
    try: import fcntl
    except ImportError:  # Windows: no lock, and no harm unless two set-ups run at once
        yield; return
    venv.mkdir(exist_ok=True)
    with open(str(venv/'.setup-lock'), 'w') as f:
        try: fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say('Another set-up is running; waiting for it.')
            fcntl.flock(f, fcntl.LOCK_EX)
        yield


# --- the steps -----------------------------------------------------------------------------------------------------------

def check_python(min_python):
    needed = tuple(int(o) for o in min_python.split('.'))
    if sys.version_info[:2] >= needed: return
    have = '.'.join(map(str, sys.version_info[:3]))
    raise SetupError(f'Python {min_python} or newer is needed and this one is {have}; name another, such as: make PYTHON=python3.12 lab')


def check_venv_module():
    try: import ensurepip, venv  # noqa: E401, F401
    except ImportError:
        raise SetupError('This Python cannot make virtual environments; on Debian or Ubuntu run: apt install python3-venv')


def check_disk(root=ROOT, needed_gb=7):
    free = shutil.disk_usage(str(root)).free/1e9
    if free < needed_gb: say(f'Note: {free:.1f} GB are free here, and PyTorch with its companions takes about {needed_gb}.')


def make_venv(venv):
    "An environment with a working pip. A broken one (its Python is gone, or its making was cut short) is made again."
    python = venv_python(venv)
    works = python.exists() and subprocess.run([str(python), '-m', 'pip', '--version'], capture_output=True).returncode == 0
    if works: return
    for o in venv.iterdir() if venv.exists() else ():
        if o.name != '.setup-lock': shutil.rmtree(str(o)) if o.is_dir() and not o.is_symlink() else o.unlink()
    res = subprocess.run([sys.executable, '-m', 'venv', str(venv)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)
    if res.returncode: raise SetupError(f'Making {venv.name} failed: {last_line(res.stdout)}')


def quiet_lab(venv):
    "Disable JupyterLab's pop-up that fetches news from the network."
    folder = venv/'etc'/'jupyter'/'labconfig'
    folder.mkdir(parents=True, exist_ok=True)
    (folder/'page_config.json').write_text('{"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": true}}\n')


def installed(venv, *names):
    "The versions of `names` that the Python of `venv` finds, without importing them; None for one that is missing."
    code = ('import json, sys, importlib.metadata as m\n'
            'have = {d.metadata["Name"].lower(): d.version for d in m.distributions()}\n'
            'print(json.dumps([have.get(o) for o in sys.argv[1:]]))')
    res = subprocess.run([str(venv_python(venv)), '-c', code, *names], stdout=subprocess.PIPE, universal_newlines=True)
    return json.loads(res.stdout) if res.returncode == 0 else [None]*len(names)


def torch_to_keep(venv):
    "The PyTorch that somebody else has put into `venv`, such as a CPU build, as a version; None if there is none."
    torch, vision = installed(venv, 'torch', 'torchvision')
    if torch is None or torch == read_stamp(venv).get('torch'): return None
    if vision is None: raise SetupError(f'{venv.name} has torch {torch} and no torchvision: install the torchvision that belongs to it, or delete {venv.name}.')
    return torch


def install_lock(venv, name, root=ROOT, torch_backend=None):
    "Install the lock file `name` into `venv`, but leave a PyTorch that the reader chose in place. Returns the version of the locked PyTorch, if that is what is there."
    entries = read_locked(lock_file(name, root))
    kept = torch_to_keep(venv)
    if torch_backend and not kept:
        pins = [o for o in read_settings(root)['locked_requirements'].split() if TORCH.match(o.split('=')[0])]
        uv(venv, 'pip', 'install', '--no-deps', '--torch-backend', torch_backend, *pins)
        kept = installed(venv, 'torch')[0]
    if not kept:
        uv(venv, 'pip', 'install', '--require-hashes', '--no-deps', '--requirements', str(lock_file(name, root)))
        return installed(venv, 'torch')[0]
    say(f'  {venv.name} keeps its PyTorch {kept}.')
    with tempfile.TemporaryDirectory() as tmp:
        rest = Path(tmp)/'rest.txt'
        rest.write_text(''.join(o for name, several in entries.items() if not TORCH.match(name) for o in several), encoding='utf-8')
        uv(venv, 'pip', 'install', '--require-hashes', '--no-deps', '--requirements', str(rest))
    return None


def install_package(venv, root=ROOT):
    "The package itself, editable; setuptools is in the lock file, so nothing is downloaded to build it."
    uv(venv, 'pip', 'install', '--no-deps', '--no-build-isolation', '--editable', str(root))


def set_up(venv=VENV, root=ROOT, tests=False, torch_backend=None):
    "Make `.venv` if it is missing or out of step, with the package in it, editable."
    if why_set_up_course(venv, tests, root)[0] is None: return False
    with locked(venv):
        reason, name = why_set_up_course(venv, tests, root)
        if reason is None: return False
        check_python(read_settings(root)['min_python'])
        check_venv_module()
        first = not (venv/'lib').exists()
        say(f'Setting up, because {reason}.' + (' The first time this downloads PyTorch and takes a few minutes.' if first else ''))
        if first: check_disk(root)
        start = time.time()
        make_venv(venv)
        get_uv(venv, root)
        torch = install_lock(venv, name, root, torch_backend)
        install_package(venv, root)
        quiet_lab(venv)
        write_stamp(venv, {**fingerprint(name, root), 'torch': torch})
        say(f'Set up in {time.time()-start:.0f} s.')
    return True


# --- uv, and pip to get it -------------------------------------------------------------------------------------------------

def find_uv(venv=VENV): return venv_python(venv).with_name('uv.exe' if os.name == 'nt' else 'uv')


def get_uv(venv, root=ROOT):
    "Install uv into `venv` with pip, at the locked version."
    args = ['install', '--quiet', '--require-hashes', '--no-deps', '--requirement', str(lock_file('uv', root))]
    run_logged(venv, [str(venv_python(venv)), '-m', 'pip', *args, '--disable-pip-version-check', '--no-input'], os.environ)


def uv(venv, *args):
    "Run uv for `venv`, with pip's settings."
    env = {**uv_settings(venv), 'VIRTUAL_ENV': str(venv), 'UV_NO_CONFIG': '1', 'UV_PYTHON_DOWNLOADS': 'never'}
    if '--require-hashes' in args: env.pop('UV_CONSTRAINT', None)  # the lock file has decided, and takes no second opinion
    run_logged(venv, [str(find_uv(VENV if not find_uv(venv).exists() else venv)), *args], env)


FROM_PIP = {'index-url': 'UV_DEFAULT_INDEX', 'extra-index-url': 'UV_INDEX', 'find-links': 'UV_FIND_LINKS', 'no-index': 'UV_NO_INDEX', 'cert': 'SSL_CERT_FILE',
            'trusted-host': 'UV_INSECURE_HOST', 'constraint': 'UV_CONSTRAINT', 'timeout': 'UV_HTTP_TIMEOUT', 'default-timeout': 'UV_HTTP_TIMEOUT', 'proxy': 'ALL_PROXY'}


def uv_settings(venv, env=os.environ):
    """The environment for uv: pip's settings (`PIP_*`, pip.conf) under the names that uv gives them.

    What is set for uv already wins: if a setting of uv names an index, pip's indexes are not used.
    """
    res = subprocess.run([str(venv_python(venv)), '-m', 'pip', 'config', 'list'], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, universal_newlines=True, env=dict(env))
    found = pip_settings(res.stdout)
    own_index = any(env.get(o) for o in ('UV_DEFAULT_INDEX', 'UV_INDEX', 'UV_INDEX_URL', 'UV_EXTRA_INDEX_URL', 'UV_FIND_LINKS', 'UV_NO_INDEX'))
    given = {}
    for key, name in FROM_PIP.items():
        is_index = key in ('index-url', 'extra-index-url', 'find-links', 'no-index')
        if key in found and not env.get(name) and not (is_index and own_index):
            given[name] = ','.join(found[key].split()) if key == 'find-links' else found[key]
    if 'UV_INDEX' in given: given['UV_INDEX_STRATEGY'] = env.get('UV_INDEX_STRATEGY') or 'unsafe-best-match'  # pip's way: any index may have the best version; hashes are checked
    return {**env, **given}


def pip_settings(text):
    "Settings as `pip config list` prints them, by name: variables win over the section [install], and that one over [global]."
    found = {}
    for section in 'global', 'install', ':env:':
        for line in text.splitlines():
            m = re.match(rf'{section}\.([\w-]+)=(.+)', line.strip())
            if m: found[m[1]] = ' '.join(str(ast.literal_eval(m[2])).split())
    return found


def run_logged(venv, cmd, env):
    "Run an installer. Everything it says goes to a log; the terminal shows the big steps, and one sentence if it stops."
    log = venv/'fastbook-setup.log'
    venv.mkdir(exist_ok=True)
    with open(str(log), 'a', encoding='utf-8') as out:
        out.write(f'\n$ {" ".join(cmd)}\n')
        with subprocess.Popen(cmd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True, encoding='utf-8', errors='replace', env=dict(env)) as proc:
            lines = []
            for line in proc.stdout:
                out.write(line)
                lines.append(line)
                if is_big_step(line): say('  ' + line.strip())
    if proc.returncode: raise SetupError(explain(''.join(lines), log))


def is_big_step(line): return bool(re.match(r' *(Downloading .*\(\d{3,}(\.\d+)?MiB\)|Downloading .*GiB|Prepared|Installed) ?', line)) and 'Installed 1 package' not in line


NO_NETWORK = re.compile(r'Temporary failure in name resolution|Name or service not known|nodename nor servname|Network is unreachable|No route to host|Connection refused|'
                        r'timed out|NewConnectionError|ProxyError|NameResolutionError|dns error|tcp connect error|client error \(Connect\)|error sending request')


def explain(text, log):
    "One sentence for an installer's many lines."
    mismatch = re.search(r'[Hh]ash mismatch for [`\'"]?([\w.=-]+)|THESE PACKAGES DO NOT MATCH THE HASHES.*?\n +([\w.=-]+)', text, re.S)
    if mismatch: return f'{mismatch[1] or mismatch[2]} is not the file that the lock file was made with: its hash differs, and nothing was installed from it (log: {log})'
    if NO_NETWORK.search(text):
        return ('The package index cannot be reached. Connect this machine once (or name a mirror of the index in PIP_INDEX_URL) '
                'and run the same command again: what has been downloaded is kept.')
    if 'No space left on device' in text: return 'The disk is full. Make room (about 7 GB) and run the same command again.'
    errors = [o for o in text.splitlines() if re.match(r'\s*(ERROR|error|×)', o)]
    return f'The installation stopped: {last_line(errors[0] if errors else text)} (log: {log})'


# --- what runs after the set-up -------------------------------------------------------------------------------------------

def lasting(env=os.environ):
    "The environment for programs that run in another folder: the places it names stay where they are."
    env = dict(env)
    for name in 'FASTBOOK_MIRROR', 'FASTBOOK_HOME':
        if env.get(name) and '://' not in env[name]: env[name] = os.path.abspath(os.path.expanduser(env[name]))
    return env


def for_kernels(env=os.environ):
    """`lasting(env)` for programs that start kernels, of which two may train at once.

    Threads of PyTorch that wait for each other soon go to sleep, instead of keeping the cores busy (with libgomp, which PyTorch for Linux brings along).
    On two cores an epoch of chapter 5's network takes 2.9 s with or without; beside another one 3.9 s instead of 16.8 s.
    """
    return {'GOMP_SPINCOUNT': '1000', **lasting(env)}


# --- for the tests -------------------------------------------------------------------------------------------------------

def find_browser(env=os.environ):
    "The Chromium or Chrome of this machine, or None. `FASTBOOK_BROWSER` names one that is not on the path."
    if env.get('FASTBOOK_BROWSER'): return env['FASTBOOK_BROWSER']
    return next(filter(None, (shutil.which(o, path=env.get('PATH')) for o in BROWSERS)), None)


def on_debian():
    try: text = Path('/etc/os-release').read_text()
    except OSError: return False
    return bool(re.search(r'^ID=debian$', text, re.M)) and shutil.which('apt-get') is not None


def set_up_browser():
    "A browser for the tests that drive JupyterLab: installed where that is ours to do (root on Debian), otherwise asked for."
    if find_browser(): return
    if not (on_debian() and hasattr(os, 'geteuid') and os.geteuid() == 0):
        say('No Chromium or Chrome here: the browser tests will be skipped. To run them, install Chromium, or name a browser in FASTBOOK_BROWSER.')
        return
    say('Installing Chromium for the browser tests.')
    env = dict(os.environ, DEBIAN_FRONTEND='noninteractive')
    for cmd in ['apt-get', '-qq', 'update'], ['apt-get', '-qq', 'install', '-y', '--no-install-recommends', 'chromium']:
        res = subprocess.run(cmd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)
        if res.returncode:
            say(f'Chromium could not be installed ({last_line(res.stdout)}): the browser tests will be skipped.')
            return


def set_up_fastcore2(venv=VENV2, root=ROOT):
    "A second environment: the runtime requirements alone, without extras and tools, and with fastcore 2."
    def fill():
        say(f'Making {venv.name}: the runtime requirements, and fastcore 2.')
        make_venv(venv)
        return {'torch': install_lock(venv, 'fastcore2', root)}
    return set_up_once('fastcore2', venv, root, fill)


def set_up_docs(venv=DOCS, root=ROOT):
    "The environment that builds the documentation site. It has neither PyTorch nor the package, because the site is made from saved outputs and source."
    def fill():
        check_python(read_settings(root)['min_python'])
        check_venv_module()
        say(f'Making {venv.name}: what builds the documentation site.')
        make_venv(venv)
        get_uv(venv, root)
        install_lock(venv, 'docs', root)
        return {}
    return set_up_once('docs', venv, root, fill)


def set_up_once(name, venv, root, fill):
    "Call `fill` if `venv` is missing or out of step with requirements/<name>.txt, and stamp it with what `fill` returns besides. Was there anything to do?"
    wanted = fingerprint(name, root)
    if why_set_up(venv, wanted) is None: return False
    with locked(venv):
        if why_set_up(venv, wanted) is None: return False
        write_stamp(venv, {**wanted, **fill()})
    return True


def set_up_latest(venv=LATEST, root=ROOT):
    "An environment with the newest releases that settings.ini allows, updated at every call; for `make test-latest`."
    cfg = read_settings(root)
    with locked(venv):
        check_python(cfg['min_python'])
        check_venv_module()
        make_venv(venv)
        get_uv(venv, root)
        uv(venv, 'pip', 'install', '--upgrade', *wanted_packages(cfg)['test'])
        install_package(venv, root)
        quiet_lab(venv)


def main(args):
    try:
        if '--latest' in args:
            set_up_latest()
            set_up_browser()
            return 0
        if '--docs' in args:
            set_up_docs()
            return 0
        set_up(tests='--tests' in args, torch_backend=os.environ.get('UV_TORCH_BACKEND'))
        if '--tests' in args:
            set_up_browser()
            set_up_fastcore2()
    except SetupError as e:
        say(str(e), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        say('\nStopped. Run the same command again: it goes on where it stopped.', file=sys.stderr)
        return 130
    return 0


if __name__ == '__main__': sys.exit(main(sys.argv[1:]))
