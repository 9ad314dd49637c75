"""Serve the application of chapter 2: Voilà with a token, limits, and a check of who sends a request. docs/application.md describes it.

`make app` starts it through `lab.py --app`. Other arguments go to Voilà: a notebook, `--port=9000`, or one of the settings below:

    make app APP='--AppKernels.max_kernels=20'
"""
import html
import ipaddress
import os
import secrets
import socket
import sys
import threading
import webbrowser
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

from jupyter_client.session import utcnow
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager, ServerKernelManager
from tornado import web
from tornado.httputil import HTTPServerRequest, split_host_and_port
from tornado.ioloop import IOLoop
from tornado.routing import Matcher, Rule
from traitlets import Integer, List, Set, Unicode, default
from traitlets.config import Config
from voila.app import Voila
from voila.tornado.handler import TornadoVoilaHandler
from voila.voila_identity_provider import VoilaLoginHandler

from setup_env import for_kernels

TOOLS = Path(__file__).resolve().parent
NOTEBOOK = TOOLS.parent/'nbs'/'app'/'pets.ipynb'
MINUTE = 60 # seconds

PAGE = '''<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>
<style>body {{ font: 17px/1.5 system-ui, sans-serif; max-width: 34em; margin: 12vh auto; padding: 0 1.2em; color: #1f2933 }}
h1 {{ font-size: 1.5em }} input {{ font: inherit; padding: .4em; width: 20em; max-width: 90% }}
a, button {{ font: inherit; display: inline-block; background: #1f6feb; color: #fff; padding: .5em 1em; border: 0; border-radius: 6px; text-decoration: none }}</style></head>
<body><h1>{title}</h1><p>{text}</p>{rest}</body></html>'''
LINK = '<a href="{url}">{action}</a>'
FORM = '''<form method="post"><label>Token <input type="password" name="password" id="password_input" autocomplete="off" autofocus></label> <button>Continue</button>{xsrf}</form>'''


# --- who may ask ---------------------------------------------------------------------------------------------------------

class OtherHosts(Matcher):
    """Match requests that name a host which is not this server.

    A page on the internet can point its own name at this machine (DNS rebinding), and then its scripts count as part of
    the application. Such requests still carry the foreign name. An address in numbers cannot be pointed elsewhere.
    """
    def __init__(self,
        names: list, # the names of this machine
        remote: bool, # does the server listen to other machines, too?
    ): self.names, self.remote = {o.lower() for o in names}, remote

    def match(self, request: HTTPServerRequest):
        host = split_host_and_port(request.host.lower())[0].strip('[]').rstrip('.')
        return None if host in self.names or self.known_address(host) else {}

    def known_address(self, host: str) -> bool:
        try: address = ipaddress.ip_address(host)
        except ValueError: return False
        return self.remote or address.is_loopback


class Refused(web.RequestHandler):
    def prepare(self):
        raise web.HTTPError(403)

    def write_error(self, status_code, **kwargs):
        self.finish('This server does not go by that name. Use the address that was printed when the application started.\n')


class Page(TornadoVoilaHandler):
    "The page of the application. Each visit starts a kernel, so the page is made only for a person who asked for it."
    @web.authenticated
    async def get(self, path=None):
        self.xsrf_token # sets the cookie without which the server refuses the page's message that it was closed
        if self.wanted(): return await super().get(path)
        link = LINK.format(url=html.escape(self.base_url), action='Open the application')
        self.finish(PAGE.format(title='Which breed is it?', text='This application tells you the breed of a cat or a dog.', rest=link))

    def wanted(self) -> bool:
        """Tell whether a person asked for the page here, rather than a page of another site for its own ends.

        Browsers say so in the header `Sec-Fetch-Site`, except over plain HTTP from another machine. In that case the
        cookie decides: it is `SameSite=Strict`, so no other site can make a browser send it.
        """
        origin, site = (self.request.headers.get(o) for o in ('Origin', 'Sec-Fetch-Site'))
        if origin and urlsplit(origin).netloc.lower() != self.request.host.lower(): return False
        if site is None: return self.token_authenticated or self.has_cookie()
        if site in ('none', 'same-origin'): return True
        headers = self.request.headers
        followed = headers.get('Sec-Fetch-Mode') == 'navigate' and headers.get('Sec-Fetch-Dest') == 'document'
        return followed and self.token_authenticated # a link in an e-mail, say: no other site knows the token

    def has_cookie(self) -> bool:
        return self.get_signed_cookie(self.identity_provider.get_cookie_name(self)) is not None

    def write_error(self, status_code, **kwargs):
        if status_code != 503: return super().write_error(status_code, **kwargs)
        self.set_header('Retry-After', MINUTE)
        text = 'All places are taken. A place becomes free when someone closes the page, or stops using it for a while.'
        self.finish(PAGE.format(title='The application is busy', text=text, rest=LINK.format(url=html.escape(self.request.uri), action='Try again')))


class Login(VoilaLoginHandler):
    "The page that asks for the token."
    def render_template(self, name, message=None, **kwargs):
        text = 'Copy the token from the address that was printed when the application started. It follows "token=".'
        if message: text = 'That is not the token of this application. ' + text
        return PAGE.format(title='Which breed is it?', text=text, rest=FORM.format(xsrf=self.xsrf_form_html()))


# --- how much they get ---------------------------------------------------------------------------------------------------

class LimitedKernel(ServerKernelManager):
    "A kernel with limited memory. Only Linux offers a limit that works; elsewhere the limit on an image's size has to do."
    max_memory = Integer(3000, config=True, help='Memory that a kernel may use, in megabytes.')

    def format_kernel_cmd(self, extra_arguments=None):
        cmd = super().format_kernel_cmd(extra_arguments)
        if sys.platform != 'linux': return cmd
        return [sys.executable, str(TOOLS/'limit_memory.py'), str(self.max_memory), *cmd]


class AppKernels(AsyncMappingKernelManager):
    "The kernels of the visitors: a limited number, each of which ends when its visitor is idle or gone."
    max_kernels = Integer(8, config=True, help='Visitors at a time.')
    gone_timeout = Integer(2*MINUTE, config=True, help='Seconds after which a kernel without a page ends.')
    starting = Set(help='The ids of kernels that are being started.')

    @default('kernel_manager_class')
    def _kernel_manager_class(self): return f'{__name__}.LimitedKernel'

    async def start_kernel(self, *, kernel_id=None, **kwargs):
        kernel_id = kernel_id or str(uuid4())
        if len(self.starting | set(self.list_kernel_ids())) >= self.max_kernels: raise web.HTTPError(503)
        self.starting.add(kernel_id)
        try: return await super().start_kernel(kernel_id=kernel_id, **kwargs)
        finally: self.starting.discard(kernel_id)

    async def cull_kernel_if_idle(self, kernel_id):
        rested = (utcnow() - self.get_kernel(kernel_id).last_activity).total_seconds()
        gone = self.kernel_model(kernel_id)['connections'] == 0
        if gone and rested > self.gone_timeout: await self.shutdown_kernel(kernel_id)
        else: await super().cull_kernel_if_idle(kernel_id)


# --- the server ----------------------------------------------------------------------------------------------------------

def settings(
    public: bool, # for everyone on the network, without a token?
    open_browser: bool, # open a browser at the start?
) -> Config:
    "Return the configuration of the server."
    c = Config()
    c.Application.log_level = 'ERROR'
    c.Voila.ip = '0.0.0.0' if public else '127.0.0.1'
    c.Voila.token = '' if public else os.environ.get('JUPYTER_TOKEN') or secrets.token_hex(16)
    c.Voila.open_browser = open_browser
    c.Voila.tornado_settings = {'websocket_max_message_size': 50_000_000} # for images of up to 40 MB; the default is 10
    c.PasswordIdentityProvider.allow_password_change = False
    c.IdentityProvider.cookie_options = {'samesite': 'Strict'}
    c.VoilaConfiguration.theme = 'light'
    c.VoilaConfiguration.allow_template_override = c.VoilaConfiguration.allow_theme_override = 'NO'
    c.VoilaConfiguration.multi_kernel_manager_class = AppKernels
    c.MappingKernelManager.transport_encryption = 'auto'
    c.MappingKernelManager.cull_idle_timeout = 15*MINUTE
    c.MappingKernelManager.cull_connected = True
    c.MappingKernelManager.cull_interval = 10
    return c


def network_address() -> str:
    "Return this machine's address on the network. No packet is sent."
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        try: s.connect(('192.0.2.1', 9))
        except OSError: return '127.0.0.1'
        return s.getsockname()[0]


class App(Voila):
    "Voilà, behind a check of the host's name. It prints its address last, on a line of its own."
    hosts = List(Unicode(), config=True, help='Names under which this server may be asked for.')

    @default('hosts')
    def _hosts(self):
        name = socket.gethostname()
        return ['localhost', name, f'{name}.local']

    @property
    def remote(self) -> bool: return self.ip not in ('127.0.0.1', '::1', 'localhost')

    @property
    def address(self) -> str:
        host = self.ip if self.ip not in ('', '0.0.0.0', '::') else network_address()
        return f'http://{host}:{self.port}{self.base_url}' + (f'?token={self.token}' if self.token else '')

    def init_handlers(self):
        ours = {TornadoVoilaHandler: Page, VoilaLoginHandler: Login}
        handlers = [(pattern, ours.get(handler, handler), *rest) for pattern, handler, *rest in super().init_handlers()]
        return [Rule(OtherHosts(self.hosts, self.remote), Refused), *handlers]

    def listen(self):
        IOLoop.current().add_callback(self.print_address)
        super().listen()

    def print_address(self):
        warning = '' if self.token else ' Anyone who can reach this machine can use it, without a token. Do not expose it to the internet.'
        print('The application is running.' + warning)
        print(f'To stop it, press Ctrl-C. To use it, open this address in your browser:\n\n{self.address}', flush=True)

    def launch_browser(self):
        "Open the address in a browser, by way of a file: other users of this machine can read the arguments of a command, but not this file."
        page = Path(self.connection_dir)/'open.html'
        page.write_text(f'<meta http-equiv="refresh" content="0; url={html.escape(self.address)}">')
        threading.Thread(target=webbrowser.open, args=(page.as_uri(),), daemon=True).start()


def open_app(
    args: list, # command-line arguments: `--public`, a notebook, and settings of Voilà
    open_browser: bool = False, # open a browser at the start?
) -> None:
    "Serve the application until it is stopped."
    print('Starting the application ...', flush=True)
    os.environ.update(for_kernels(), JUPYTER_PREFER_ENV_PATH='1')
    os.environ.setdefault('OMP_NUM_THREADS', '2') # for each visitor
    options = [o for o in args if o != '--public']
    if not any(o.endswith('.ipynb') for o in options): options.append(str(NOTEBOOK))
    public = '--public' in args
    App.launch_instance(options, config=settings(public, open_browser and not public))
