"""Open the course in JupyterLab: on this machine only, with a token, with its address printed; or, with `--app`, the application of chapter 2.

What is given on the command line goes on to JupyterLab:  make lab ARGS='--port=9000'
"""
import os
import sys
from pathlib import Path

from setup_env import for_kernels

ROOT = Path(__file__).resolve().parent.parent


def is_root(): return hasattr(os, 'geteuid') and os.geteuid() == 0


def has_browser(env=os.environ, platform=sys.platform, root=None):
    "Whether a browser can be expected to open: there is a screen, and we are not root (whom browsers refuse) or at the end of a wire."
    if env.get('BROWSER'): return True
    if (is_root() if root is None else root) or env.get('SSH_CONNECTION') or env.get('CI'): return False
    return platform in ('darwin', 'win32') or bool(env.get('DISPLAY') or env.get('WAYLAND_DISPLAY'))


def command(folder, extra=(), env=os.environ, root=None):
    "JupyterLab's command line. Later words win, so `extra` can change anything."
    root = is_root() if root is None else root
    cmd = [sys.executable, '-m', 'jupyterlab', f'--ServerApp.root_dir={folder}', '--ServerApp.ip=127.0.0.1', '--LabApp.default_url=/lab/tree/index.ipynb',
           '--Application.log_level=ERROR', '--MappingKernelManager.transport_encryption=auto',
           '--ServerApp.tornado_settings={"websocket_max_message_size": 100000000}'] # (a widget that uploads a photograph: 10 MB would be the limit)
    if root: cmd.append('--allow-root')
    if not has_browser(env, root=root): cmd.append('--no-browser')
    return [*cmd, *extra]


def app(args):
    "The application, on this machine only. Its settings are in its folder, which therefore has to be the current one."
    print('Starting the application; Ctrl-C ends it.', flush=True)
    os.chdir(ROOT/'nbs'/'app')
    browser = [] if has_browser() else ['--no-browser']
    os.execve(sys.executable, [sys.executable, '-m', 'voila', 'pets.ipynb', '--Voila.ip=127.0.0.1', *browser, *args], dict(for_kernels(), JUPYTER_PREFER_ENV_PATH='1'))


def main(args):
    if '--app' in args: return app([o for o in args if o != '--app'])
    print('Starting JupyterLab; Ctrl-C, twice, ends it.', flush=True)
    env = dict(for_kernels(), JUPYTER_PREFER_ENV_PATH='1')
    os.execve(sys.executable, command(ROOT/'nbs', args, env), env)


if __name__ == '__main__': main(sys.argv[1:])
