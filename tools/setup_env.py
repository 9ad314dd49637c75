"""Set up what the course needs, once: `.venv` for working, and for the tests a browser and `.venv-fastcore2`.

Runs before anything is installed, on whatever Python the machine has, so: standard library only.

    python3 tools/setup_env.py           # what `make lab` and `make course` need
    python3 tools/setup_env.py --tests   # and what `make test` needs besides

A stamp inside each environment, written last, says which `settings.ini` it was made from. While it holds, this script does nothing.
"""
import configparser
import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT/'.venv'
RECIPE = 1  # raised when the steps below change, so that environments made by the old ones are made again
BROWSERS = 'chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable', 'chrome'


class SetupError(Exception):
    "One sentence for the person at the terminal: what is missing, and the way out."


def say(text, **kw): print(text, flush=True, **kw)


# --- the stamp ---------------------------------------------------------------------------------------------------------

def read_settings(root=ROOT):
    cfg = configparser.ConfigParser(delimiters=['='])
    cfg.read(str(root/'settings.ini'), encoding='utf-8')
    return cfg['DEFAULT']


def fingerprint(root=ROOT):
    "What an environment is made from: the settings, the place they lie in, and the steps of this script."
    settings = hashlib.sha256((root/'settings.ini').read_bytes()).hexdigest()
    return {'settings': settings, 'place': str(root), 'recipe': RECIPE}


def stamp_of(venv): return venv/'fastbook-setup.json'


def write_stamp(venv, wanted):
    part = stamp_of(venv).with_suffix('.part')
    part.write_text(json.dumps(wanted, indent=1))
    os.replace(str(part), str(stamp_of(venv)))


def why_set_up(venv, wanted):
    "The reason why `venv` must be (re)made, in words; None when it is in step with `wanted`."
    if not venv_python(venv).exists(): return f'{venv.name} is not there yet'
    try: found = json.loads(stamp_of(venv).read_text())
    except (OSError, ValueError): return f'{venv.name} was not finished'
    if found == wanted: return None
    if found.get('settings') != wanted.get('settings'): return 'settings.ini has changed since the last set-up'
    if found.get('place') != wanted.get('place'): return 'the folder has moved since the last set-up'
    return f'what {venv.name} is made from has changed'


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


# --- .venv -------------------------------------------------------------------------------------------------------------

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
    "An environment that has a working pip. One that is broken (its Python is gone, or a making was cut short) is made again."
    python = venv_python(venv)
    works = python.exists() and subprocess.run([str(python), '-m', 'pip', '--version'], capture_output=True).returncode == 0
    if works: return
    for o in venv.iterdir():
        if o.name != '.setup-lock': shutil.rmtree(str(o)) if o.is_dir() and not o.is_symlink() else o.unlink()
    res = subprocess.run([sys.executable, '-m', 'venv', str(venv)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)
    if res.returncode: raise SetupError(f'Making {venv.name} failed: {last_line(res.stdout)}')


def last_line(text): return ([o.strip() for o in text.splitlines() if o.strip()] or ['no message'])[-1]


def quiet_lab(venv):
    "JupyterLab's pop-up that offers news fetches them from the network; a classroom can do without."
    folder = venv/'etc'/'jupyter'/'labconfig'
    folder.mkdir(parents=True, exist_ok=True)
    (folder/'page_config.json').write_text('{"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": true}}\n')


def set_up(venv=VENV, root=ROOT):
    "Make `.venv` if it is missing or out of step, with the package in it, editable."
    wanted = fingerprint(root)
    if why_set_up(venv, wanted) is None: return False
    with locked(venv):
        reason = why_set_up(venv, wanted)
        if reason is None: return False
        cfg = read_settings(root)
        check_python(cfg['min_python'])
        check_venv_module()
        first = not (venv/'lib').exists()
        say(f'Setting up, because {reason}.' + (' The first time this downloads PyTorch and takes a few minutes.' if first else ''))
        if first: check_disk(root)
        start = time.time()
        make_venv(venv)
        pip(venv, 'install', 'pip>=23')
        pip(venv, 'install', '--editable', f'{root}[dev]')
        quiet_lab(venv)
        write_stamp(venv, wanted)
        say(f'Set up in {time.time()-start:.0f} s.')
    return True


# --- pip, with one line that says where it is ----------------------------------------------------------------------------

class Status:
    "On a terminal one line that is rewritten; elsewhere only the big steps, a line each, so that a log stays short."
    def __init__(self, out=sys.stdout): self.out, self.tty, self.start = out, out.isatty(), time.time()

    def show(self, text, big=False):
        if self.tty:
            width = shutil.get_terminal_size().columns - 1
            self.out.write('\r\033[K' + f'  {time.time()-self.start:4.0f} s  {text}'[:width])
        elif big: self.out.write(f'  {time.time()-self.start:4.0f} s  {text}\n')
        self.out.flush()

    def done(self):
        if self.tty: self.out.write('\r\033[K'); self.out.flush()


def follow(line, status):
    "Tell `status` what a line of pip's log means to somebody who waits."
    line = line.strip()
    size = re.match(r'Downloading (\S+) \(([\d.]+) ([kMG]B)\)', line)
    if size and not size[1].endswith('.metadata'):
        name = os.path.basename(size[1]).split('-')[0]
        status.show(f'downloading {name}, {size[2]} {size[3]}', big=size[3] == 'GB' or size[3] == 'MB' and float(size[2]) > 100)
    elif line.startswith('Collecting'): status.show('finding out what is needed: ' + line.split()[1])
    elif line.startswith('Installing collected packages:'):
        number = line.count(',') + 1
        status.show(f'installing {number} packages' if number > 1 else 'installing 1 package', big=True)
    elif 'Retrying' in line: status.show('the package index does not answer; trying again', big=True)


NO_NETWORK = re.compile(r'Temporary failure in name resolution|Name or service not known|nodename nor servname|Network is unreachable|'
                        r'No route to host|Connection refused|timed out|NewConnectionError|ProxyError|NameResolutionError')


def pip(venv, *args):
    "Run pip in `venv`. Its words go to a log; what is said here is where it is, and in one sentence why it stopped."
    log = venv/'fastbook-setup.log'
    status = Status()
    cmd = [str(venv_python(venv)), '-m', 'pip', *args, '--disable-pip-version-check', '--no-input']
    with open(str(log), 'a', encoding='utf-8') as out:
        out.write(f'\n$ pip {" ".join(args)}\n')
        with subprocess.Popen(cmd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True, encoding='utf-8', errors='replace') as proc:
            lines = []
            for line in proc.stdout:
                out.write(line)
                lines.append(line)
                follow(line, status)
    status.done()
    if proc.returncode: raise SetupError(explain_pip(''.join(lines), log))


def explain_pip(text, log):
    "One sentence for pip's many lines."
    if NO_NETWORK.search(text):
        return ('The package index cannot be reached. Connect this machine once (or name a mirror of the index in PIP_INDEX_URL) '
                'and run the same command again: what is installed already stays.')
    if 'No space left on device' in text: return 'The disk is full. Make room (about 7 GB) and run the same command again: it goes on where it stopped.'
    errors = [o for o in text.splitlines() if o.strip().startswith('ERROR:')]
    return f'pip stopped: {last_line(errors[0] if errors else text)} (its whole log: {log})'


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
    "A browser for the test that drives JupyterLab: installed where that is ours to do (root on Debian), otherwise asked for."
    if find_browser(): return
    if not (on_debian() and hasattr(os, 'geteuid') and os.geteuid() == 0):
        say('No Chromium or Chrome here: the browser test will be skipped. To run it, install Chromium, or name a browser in FASTBOOK_BROWSER.')
        return
    say('Installing Chromium for the browser test.')
    env = dict(os.environ, DEBIAN_FRONTEND='noninteractive')
    for cmd in ['apt-get', '-qq', 'update'], ['apt-get', '-qq', 'install', '-y', '--no-install-recommends', 'chromium']:
        res = subprocess.run(cmd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)
        if res.returncode:
            say(f'Chromium could not be installed ({last_line(res.stdout)}): the browser test will be skipped.')
            return


def set_up_fastcore2(venv=VENV):
    "The second environment: the runtime requirements alone, with fastcore 2."
    res = subprocess.run([str(venv_python(venv)), str(ROOT/'tools'/'fastcore2.py')])
    if res.returncode: raise SetupError('So the environment with fastcore 2 could not be made.')


def main(args):
    try:
        set_up()
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
