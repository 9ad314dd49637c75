"""Shared by the tests with a browser: servers, and the actions of a reader in JupyterLab. The fixtures `browser` and `shots` are in conftest.py."""
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

TOOLS = Path(__file__).resolve().parent.parent.parent/'tools'
BROWSER_ARGS = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
                '--disable-component-update', '--disable-sync']
MINUTES = 60
PATIENCE = 3*MINUTES*1000  # milliseconds that a page may take on a busy machine; nothing waits once it is there


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


class Server:
    "A server in a process of its own, with its own settings and history in `tmp`."
    def __init__(self, cmd, tmp, cwd=None, **env):
        self.log = tmp/f'{type(self).__name__.lower()}.log'
        own = 'JUPYTER_CONFIG_DIR', 'JUPYTER_RUNTIME_DIR', 'JUPYTERLAB_SETTINGS_DIR', 'JUPYTERLAB_WORKSPACES_DIR', 'IPYTHONDIR'
        env = dict(os.environ, OMP_NUM_THREADS='1', JUPYTER_PREFER_ENV_PATH='1', **{k: str(tmp/k.lower()) for k in own}, **env)
        for name in 'BROWSER', 'MPLBACKEND': env.pop(name, None)  # the tests draw without a screen, readers do not
        self.proc = subprocess.Popen(cmd, cwd=cwd, env=env, stdout=self.log.open('w'), stderr=subprocess.STDOUT, start_new_session=True)

    def address(self, seconds=60):
        "Wait for the server, and return the address that it printed."
        for _ in range(seconds*10):
            if (found := self.found()) is not None: return found
            if self.proc.poll() is not None: break
            time.sleep(0.1)
        pytest.fail(f'{type(self).__name__} did not start:\n{self.log.read_text()}')

    def close(self):
        os.killpg(self.proc.pid, signal.SIGTERM)
        self.proc.wait(20)


class Lab(Server):
    "JupyterLab as `make lab` starts it, on a folder of notebooks."
    def __init__(self, folder, tmp, *args):
        self.folder, self.port = folder, free_port()
        self.start(tmp, TOOLS/'lab.py', f'--ServerApp.root_dir={folder}', *args)

    def start(self, tmp, *args, **kwargs):
        cmd = [sys.executable, args[0], f'--port={self.port}', '--no-browser', '--LabApp.expose_app_in_browser=True', *args[1:]]
        super().__init__(cmd, tmp, FASTBOOK_DATA='sample', FASTBOOK_HOME=str(tmp/'home'), **kwargs)

    def found(self):
        "The address that was printed for the reader to open."
        found = re.search(rf'^http://127\.0\.0\.1:{self.port}/\?token=\w+$', self.log.read_text(), re.M)
        return found and found[0]

    def at(self, path):
        "The address of something else on the server, such as `lab/tree/index.ipynb`, with the token."
        return self.address().replace('/?', f'/{path}?')

    def open(self, page, name):
        "Open the notebook `name`, and wait for its kernel."
        page.goto(self.at(f'lab/tree/{name}') + '&reset')
        page.wait_for_selector('.jp-NotebookPanel:not(.lm-mod-hidden) .jp-Notebook .jp-Cell')
        wait_until_idle(page)


class CheckoutLab(Lab):
    "JupyterLab as `make lab` starts it in another checkout: on all of it, after the reader's folder has been prepared."
    def __init__(self, checkout, tmp):
        self.folder, self.port = checkout, free_port()
        self.start(tmp, checkout/'tools'/'lab.py', cwd=checkout, PYTHONPATH=str(checkout))


class AppServer(Server):
    "The application as `make app` starts it, with another notebook."
    def __init__(self, notebook, tmp, *args, **env):
        self.port = free_port()
        super().__init__([sys.executable, TOOLS/'lab.py', '--app', notebook, '--no-browser', f'--port={self.port}', *args], tmp, **env)

    def found(self):
        found = re.search(rf'^http://127\.0\.0\.1:{self.port}/(\?token=\w+)?$', self.log.read_text(), re.M)
        return found and found[0]


def wait_until_idle(page, minutes=5):
    "Wait for the status bar to say so; the circle beside the kernel's name is empty, too, while the kernel is not there yet."
    page.get_by_text(re.compile(r'\| Idle')).wait_for(timeout=minutes*MINUTES*1000)


def small_notebook(path, **cells):
    "Write a notebook whose cells have these ids."
    cells = [nbformat.v4.new_code_cell(source.strip(), id=id) for id,source in cells.items()]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=dict(kernelspec=dict(name='python3', display_name='Python 3', language='python'))), path)


CELL = "window.jupyterapp.shell.currentWidget.content.widgets.find(o => o.model.id === id)"  # as JavaScript knows it


class Notebook:
    """The notebook on a page of JupyterLab; its cells are known by their ids.

    It is told what to do by the commands behind the keys: keys that are pressed before the page listens are lost.
    """
    def __init__(self, page): self.page = page

    def select(self, id):
        assert self.page.evaluate("""async id => {
            const nb = window.jupyterapp.shell.currentWidget.content, i = nb.widgets.findIndex(o => o.model.id === id);
            nb.activeCellIndex = i; nb.mode = 'command'; nb.deselectAll(); nb.activate();
            await nb.scrollToItem(i, 'center'); return i }""", id) >= 0, f'there is no cell {id}'

    def type(self, id, text):
        "What was in the cell is replaced by `text`."
        self.select(id)
        self.page.evaluate(f'([id, text]) => {CELL}.model.sharedModel.setSource(text)', [id, text])

    def run(self, id):
        "Run the cell, and wait until it has been run and all that it says is there."
        self.select(id)
        self.page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-cell')")
        wait_until_idle(self.page)

    def outputs(self, id):
        return self.page.evaluate(f'id => {CELL}.model.outputs.toJSON()', id)

    def said(self, id):
        "What the cell shows, in words."
        return ' '.join(''.join(o.get('data', {}).get('text/plain', o.get('text', ''))) for o in self.outputs(id))

    def restart(self):
        "Wait for the new kernel, too."
        self.page.evaluate('() => window.jupyterapp.shell.currentWidget.sessionContext.restartKernel()')
        wait_until_idle(self.page)
