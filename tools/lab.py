"""Open the course in JupyterLab, for this machine only and with a token. With `--app`, start the application of chapter 2 instead.

JupyterLab shows the whole repository and opens the reader's own copy of the course in `work/`, which Git ignores.
Other arguments go to JupyterLab (or to Voilà, which serves the application), and win over the settings below:

    make lab ARGS='--port=9000'
"""
import os
import secrets
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
from jupyter_client.session import Session, utcnow
from jupyter_server.serverapp import ServerApp
from jupyter_server.services.contents.manager import ContentsManager
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager
from jupyterlab.labapp import LabApp
from traitlets import Integer, Set
from traitlets.config import Config

from setup_env import for_kernels
from work import WORK

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = Path(__file__).resolve().parent/'lab_settings'
MINUTE = 60 # seconds


def is_root() -> bool: return hasattr(os, 'geteuid') and os.geteuid() == 0


def has_browser(
    env: dict = os.environ, # environment variables
    platform: str = sys.platform, # as `sys.platform` names it
    root: bool = None, # is the user root? by default, ask the system
) -> bool:
    "Guess whether a browser can open here: there is a screen, and the user is neither root (browsers refuse root) nor logged in over SSH."
    if env.get('BROWSER'): return True
    if (is_root() if root is None else root) or env.get('SSH_CONNECTION') or env.get('CI'): return False
    return platform in ('darwin', 'win32') or bool(env.get('DISPLAY') or env.get('WAYLAND_DISPLAY'))


def keep_clean(
    model: dict, # what is about to be saved, in the form of Jupyter's contents API
    path: str, # where it will be saved, below the folder that is served
    contents_manager: ContentsManager, # which knows that folder
    **kwargs,
) -> None:
    """Undo what JupyterLab changes in a notebook without being asked. Runs before each save.

    When a kernel starts, JupyterLab adds metadata that differ between machines, such as the version of Python. In
    outputs it writes the number 0.0 as 0. Without these changes, a notebook that was only opened is saved byte for
    byte as it was, so `git pull` finds nothing in its way.
    """
    if model['type'] != 'notebook': return
    nb = model['content']
    nb['metadata'].pop('language_info', None)
    if 'name' in nb['metadata'].get('kernelspec', {}): nb['metadata']['kernelspec']['display_name'] = nb['metadata']['kernelspec']['name']
    try: before = nbformat.read(Path(contents_manager.root_dir)/path, as_version=4)
    except (OSError, ValueError, nbformat.ValidationError): return # a new notebook, or a damaged one
    cells = {o['id']: o for o in before.cells if 'id' in o}
    nb['cells'] = [keep_numbers(o, cells.get(o.get('id'))) for o in nb['cells']]


def keep_numbers(
    cell: dict, # a cell as JupyterLab wants to save it
    before: dict, # the cell with the same id as it is saved now, or None
) -> dict:
    "Return `before` if the cells are equal as Python compares them, and `cell` otherwise."
    metadata = {k: v for k,v in cell['metadata'].items() if k != 'trusted'} # `trusted` is for the server, and is never saved
    return {**before, 'metadata': cell['metadata']} if before == {**cell, 'metadata': metadata} else cell


def workspaces() -> Path:
    "Return the folder where JupyterLab remembers its layout. The first time, put a layout there in which the table of contents is open."
    folder = Path(os.environ.get('JUPYTERLAB_WORKSPACES_DIR') or Path(sys.prefix)/'share'/'jupyter'/'lab'/'workspaces')
    file = folder/'default-37a8.jupyterlab-workspace'  # JupyterLab's name for the workspace `default`
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(SETTINGS/'workspace.json', file)
    return folder


def prepare_work() -> None:
    """Create the reader's folder, or add what is new in the course. An answer is never overwritten.

    A process of its own does it: the server has no use for PyTorch, which the exercises import.
    """
    subprocess.run([sys.executable, str(ROOT/'tools'/'work.py')])


def home_page(
    folder: Path, # the folder that is served
) -> str:
    "Return the page that JupyterLab opens with, below `folder`: the reader's own copy, if it could be written."
    pages = f'{WORK}/index.ipynb', 'nbs/index.ipynb', 'index.ipynb'
    return next((o for o in pages if (folder/o).exists()), pages[-1])


def settings(
    folder: Path, # the folder of notebooks to serve
    env: dict = os.environ, # environment variables
) -> Config:
    "Return the configuration of the server."
    c = Config()
    c.Application.log_level = 'ERROR'
    c.ServerApp.root_dir = str(folder)
    c.ServerApp.ip = '127.0.0.1'
    c.ServerApp.allow_root = is_root()
    c.ServerApp.open_browser = has_browser(env)
    c.ServerApp.tornado_settings = {'websocket_max_message_size': 100_000_000} # for uploaded photos; the default is 10 MB
    c.ServerApp.jpserver_extensions = {'jupyterlab': True, 'voila.server_extension': False} # Voilà makes Jupyter print warnings
    c.IdentityProvider.token = env.get('JUPYTER_TOKEN') or secrets.token_hex(16)
    c.MappingKernelManager.transport_encryption = 'auto'
    c.MappingKernelManager.cull_idle_timeout = 240*MINUTE
    c.MappingKernelManager.cull_connected = True
    c.MappingKernelManager.cull_interval = 1*MINUTE
    c.ServerApp.kernel_manager_class = CourseKernels
    c.LabApp.default_url = f'/lab/tree/{home_page(folder)}'
    c.LabApp.app_settings_dir = str(SETTINGS)
    c.LabApp.workspaces_dir = str(workspaces())
    return c


class CourseKernels(AsyncMappingKernelManager):
    """Kernels, of which those that have not run a cell end soon.

    JupyterLab starts a kernel for each notebook that is opened. If that kernel has ended, JupyterLab starts another
    one when a cell is run, so readers who only look around lose nothing.
    """
    unused_timeout = Integer(5*MINUTE, config=True, help='Seconds after which a kernel that has run no cell ends.')
    used = Set(help='The ids of kernels that have run a cell.')

    def start_watching_activity(self, kernel_id):
        super().start_watching_activity(kernel_id)
        kernel = self.get_kernel(kernel_id)
        session = Session(config=kernel.session.config, key=kernel.session.key)

        def watch(parts):
            _, parts = session.feed_identities(parts)
            if session.deserialize(parts, content=False)['header']['msg_type'] == 'execute_input': self.used.add(kernel_id)

        kernel.cell_stream = kernel.connect_iopub()
        kernel.cell_stream.on_recv(watch)

    def stop_watching_activity(self, kernel_id):
        if stream := getattr(self.get_kernel(kernel_id), 'cell_stream', None): stream.close()
        super().stop_watching_activity(kernel_id)

    async def cull_kernel_if_idle(self, kernel_id):
        kernel = self.get_kernel(kernel_id)
        rested = (utcnow() - kernel.last_activity).total_seconds()
        if kernel.execution_state == 'idle' and kernel_id not in self.used and rested > self.unused_timeout:
            await self.shutdown_kernel(kernel_id)
        else: await super().cull_kernel_if_idle(kernel_id)


class CourseServer(ServerApp):
    "Jupyter's server, which saves notebooks without the metadata of this machine and prints its address last, on a line of its own."
    def init_configurables(self):
        super().init_configurables()
        self.contents_manager.register_pre_save_hook(keep_clean)

    def start_app(self):
        super().start_app()
        scheme = 'https' if self.certfile else 'http'
        host = 'localhost' if self.ip in ('', '*', '0.0.0.0', '::') else self.ip
        print('JupyterLab is running. To stop it, press Ctrl-C twice. To use it, open this address in your browser:\n\n'
              f'{scheme}://{host}:{self.port}{self.base_url}?token={self.identity_provider.token}', flush=True)


class CourseLab(LabApp):
    serverapp_class = CourseServer


def open_lab(
    folder: Path, # the folder of notebooks to serve
    args: list, # command-line arguments for JupyterLab
) -> None:
    "Run JupyterLab until it is stopped."
    os.environ.update(for_kernels(), JUPYTER_PREFER_ENV_PATH='1')
    CourseServer.instance(config=settings(folder))
    CourseLab.launch_instance(args)


def main(args: list) -> None:
    if '--app' in args:
        from app import open_app
        return open_app([o for o in args if o != '--app'], has_browser())
    print('Starting JupyterLab ...', flush=True)
    if not any(o.startswith('--ServerApp.root_dir') for o in args): prepare_work()
    open_lab(ROOT, args)


if __name__ == '__main__': main(sys.argv[1:])
