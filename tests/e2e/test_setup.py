"""The set-up: when it runs, what it installs, what it says, and that a cut-short one is not taken for a whole one."""
import hashlib
import re
import subprocess
import sys
import threading
import time
import zipfile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import setup_env as env
import tasks
from setup_env import SetupError

SETTINGS = ('[DEFAULT]\nmin_python = 3.10\nrequirements = torch numpy\ntext_requirements = tokenizers\nall_extras = text\n'
            'course_requirements = nbdev==2.4.14\ntest_requirements = pytest\nlocked_requirements = torch==2.14.1\n')
LOCK = 'torch==2.14.1 \\\n    --hash=sha256:aa\nnvidia-cublas==13.1 ; sys_platform == "linux" \\\n    --hash=sha256:bb\nnumpy==2.0 \\\n    --hash=sha256:cc\n'


class Project:
    "A project whose set-up takes no time: the commands are noted instead of run."
    def __init__(self, root, monkeypatch):
        self.root, self.venv, self.calls, self.versions = root, root/'.venv', [], {}
        (root/'settings.ini').write_text(SETTINGS)
        (root/'requirements').mkdir()
        for name in 'course', 'test', 'docs', 'uv', 'fastcore2': (root/'requirements'/f'{name}.txt').write_text(LOCK)
        monkeypatch.setattr(env, 'make_venv', self.make_venv)
        monkeypatch.setattr(env, 'run_logged', self.run_logged)
        monkeypatch.setattr(env, 'uv_settings', lambda venv: {})
        monkeypatch.setattr(env, 'installed', lambda venv, *names: [self.versions.get(o) for o in names])

    def run_logged(self, venv, cmd, environ):
        self.calls.append(' '.join(cmd[1:]))
        lock = re.search(r'--requirements (\S+)', self.calls[-1])
        self.locked = env.Path(lock[1]).read_text() if lock else None

    def make_venv(self, venv):
        env.venv_python(venv).parent.mkdir(parents=True, exist_ok=True)
        env.venv_python(venv).touch()

    def set_up(self, **kw):
        self.calls.clear()
        return env.set_up(self.venv, self.root, **kw)

    def installs(self): return [o for o in self.calls if 'pip install' in o and '--editable' not in o]


@pytest.fixture
def project(tmp_path, monkeypatch): return Project(tmp_path, monkeypatch)


def test_set_up_happens_once(project, capsys):
    assert project.set_up()
    assert 'because .venv is not there yet' in capsys.readouterr().out
    assert project.calls[0].startswith('-m pip install') and 'uv.txt' in project.calls[0]
    assert project.calls[1].endswith(f'--require-hashes --no-deps --requirements {project.root}/requirements/course.txt')
    assert project.calls[2].endswith(f'--no-build-isolation --editable {project.root}')
    assert not project.set_up() and not project.calls
    assert capsys.readouterr().out == ''


def test_tests_add_their_packages_and_the_course_needs_no_second_set_up(project, capsys):
    project.set_up()
    assert project.set_up(tests=True) and 'the tests need a few more packages' in capsys.readouterr().out
    assert any('test.txt' in o for o in project.calls)
    assert not project.set_up() and not project.set_up(tests=True)


@pytest.mark.parametrize('name, reason', [('settings.ini', 'settings.ini has changed'), ('requirements/course.txt', 'the lock file has changed')])
def test_set_up_is_redone_when_what_it_was_made_from_changes_and_says_so(name, reason, project, capsys):
    project.set_up()
    with open(project.root/name, 'a') as f: f.write('\n# one more line\n')
    assert project.set_up() and project.calls
    assert f'Setting up, because {reason} since the last set-up.' in capsys.readouterr().out
    assert not project.set_up()


def test_the_site_has_an_environment_of_its_own_without_the_package(project):
    assert env.set_up_docs(project.root/'.venv-docs', project.root)
    assert [o for o in project.calls if 'docs.txt' in o] and not [o for o in project.calls if '--editable' in o]
    project.calls.clear()
    assert not env.set_up_docs(project.root/'.venv-docs', project.root) and project.calls == []
    env.lock_file('docs', project.root).write_text('sphinx==9.0 \\\n    --hash=sha256:aa\n')
    assert env.set_up_docs(project.root/'.venv-docs', project.root)


def test_an_interrupted_set_up_is_continued(project, capsys, monkeypatch):
    def interrupted(venv, cmd, environ): raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr(env, 'run_logged', interrupted)
        with pytest.raises(KeyboardInterrupt): project.set_up()
    assert project.set_up()
    assert 'because .venv was not finished' in capsys.readouterr().out


def test_a_moved_folder_is_set_up_again(project):
    project.set_up()
    assert env.why_set_up(project.venv, env.fingerprint('course', project.root)) is None
    moved = dict(env.fingerprint('course', project.root), place='/elsewhere')
    assert env.why_set_up(project.venv, moved) == 'the folder has moved since the last set-up'


def test_a_broken_stamp_is_no_stamp(project):
    project.set_up()
    env.stamp_of(project.venv).write_text('{"settings": ')
    assert env.why_set_up(project.venv, env.fingerprint('course', project.root)) == '.venv was not finished'


def test_a_pytorch_that_is_there_already_is_kept(project, capsys):
    project.versions = {'torch': '2.13.0+cpu', 'torchvision': '0.28.0+cpu'}
    project.set_up()
    assert 'keeps its PyTorch 2.13.0+cpu' in capsys.readouterr().out
    assert not any('course.txt' in o for o in project.calls) and any('rest.txt' in o for o in project.calls)


def test_the_lock_without_pytorch_leaves_out_what_only_its_cuda_build_needs(project, monkeypatch):
    project.versions = {'torch': '2.13.0+cpu', 'torchvision': '0.28.0+cpu'}
    seen = []
    monkeypatch.setattr(env, 'uv', lambda venv, *args: seen.append(env.Path(args[-1]).read_text()))
    env.install_lock(project.venv, 'course', project.root)
    assert [re.findall(r'^\S+(?===)', o, re.M) for o in seen] == [['numpy']]


def test_our_own_pytorch_moves_with_the_lock(project):
    project.set_up()
    project.versions = {'torch': '2.14.1', 'torchvision': '0.29.1'}
    env.write_stamp(project.venv, {**env.read_stamp(project.venv), 'torch': '2.14.1'})
    assert env.torch_to_keep(project.venv) is None


def test_a_pytorch_without_torchvision_ends_in_a_sentence(project):
    project.versions = {'torch': '2.13.0'}
    with pytest.raises(SetupError, match='torch 2.13.0 and no torchvision'): project.set_up()


def test_the_cpu_build_is_asked_for_with_the_setting_of_uv(project, capsys):
    project.set_up(torch_backend='cpu')
    first, *_ = project.installs()[1:]
    assert '--no-deps --torch-backend cpu torch==2.14.1' in first


def test_two_set_ups_at_once_do_the_work_once(project, capsys):
    running, most = [], []
    def slow(venv, cmd, environ):
        running.append(cmd)
        most.append(len(running))
        time.sleep(0.05)
        running.pop()
    env.run_logged, done = slow, []  # (monkeypatch puts it back)
    threads = [threading.Thread(target=lambda: done.append(env.set_up(project.venv, project.root))) for _ in range(2)]
    for o in threads: o.start()
    for o in threads: o.join()
    assert sorted(done) == [False, True] and max(most) == 1
    assert 'Another set-up is running; waiting for it.' in capsys.readouterr().out


def test_a_set_up_machine_starts_at_once(root):
    "What every `make` does first, on this very repository, takes less than a second of computing."
    resource = pytest.importorskip('resource', reason='this system does not tell how long a process computed')
    if env.why_set_up_course(env.VENV, False, root)[0]: pytest.fail('this test runs in a set-up repository: make setup')
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    res = subprocess.run([sys.executable, 'tools/setup_env.py'], cwd=root, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert res.returncode == 0 and res.stdout == '', res.stderr
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


def test_a_python_too_old_is_named_with_the_way_out():
    with pytest.raises(SetupError, match=r'Python 9.9 or newer is needed and this one is 3\.\d+\.\d+; name another, such as: make PYTHON='):
        env.check_python('9.9')
    env.check_python('3.10')


def test_a_python_without_venv_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, 'ensurepip', None)
    with pytest.raises(SetupError, match='apt install python3-venv'): env.check_venv_module()


@pytest.mark.parametrize('log, sentence', [
    ("WARNING: Retrying (Retry(total=0)) after connection broken by NewConnectionError: [Errno -3] Temporary failure in name resolution\n"
     "ERROR: Could not find a version that satisfies the requirement uv", 'The package index cannot be reached. Connect this machine once'),
    ('error: Failed to fetch: `x`\n  Caused by: error sending request for url\n  Caused by: dns error', 'The package index cannot be reached'),
    ('error: failed to write: No space left on device (os error 28)', 'The disk is full. Make room'),
    ('  × No solution found when resolving dependencies:\n  ╰─▶ Because a depends on b', 'The installation stopped: × No solution found'),
])
def test_an_installer_is_explained_in_one_sentence(log, sentence, tmp_path):
    said = env.explain(log, tmp_path/'log')
    assert said.startswith(sentence) and '\n' not in said


def test_no_network_ends_in_a_sentence(tmp_path, monkeypatch):
    "The real uv, sent to an address where nothing answers."
    for name, value in dict(UV_DEFAULT_INDEX='http://127.0.0.1:9/simple', UV_HTTP_RETRIES='0', UV_CACHE_DIR=str(tmp_path/'cache')).items(): monkeypatch.setenv(name, value)
    monkeypatch.setattr(env, 'venv_python', lambda venv: env.Path(sys.executable))
    with pytest.raises(SetupError, match='The package index cannot be reached'):
        env.uv(tmp_path, 'pip', 'install', '--target', str(tmp_path/'site'), 'a-name-that-is-not-installed')


# --- the lock files ------------------------------------------------------------------------------------------------------

def make_wheel(folder, name='tiny', version='1.0'):
    "A wheel with one module in it; returns its SHA-256."
    info = f'{name}-{version}.dist-info'
    files = {f'{name}.py': 'answer = 42\n', f'{info}/METADATA': f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n',
             f'{info}/WHEEL': 'Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n'}
    path = folder/f'{name}-{version}-py3-none-any.whl'
    with zipfile.ZipFile(path, 'w') as z:
        for k, v in files.items(): z.writestr(k, v)
        z.writestr(f'{info}/RECORD', ''.join(f'{o},,\n' for o in [*files, f'{info}/RECORD']))
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    "Install a lock file of one package, whose wheel lies in a folder, as the set-up does: `tiny(change)` changes its hash; returns the module's path."
    digest, venv = make_wheel(tmp_path), tmp_path/'venv'
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', str(venv)], check=True)
    for name, value in dict(UV_FIND_LINKS=str(tmp_path), UV_NO_INDEX='1', UV_CACHE_DIR=str(tmp_path/'cache')).items(): monkeypatch.setenv(name, value)
    (tmp_path/'requirements').mkdir()
    def install(change):
        env.lock_file('course', tmp_path).write_text(f'tiny==1.0 \\\n    --hash=sha256:{change(digest)}\n')
        env.install_lock(venv, 'course', tmp_path)
    install.found = lambda: [o.name for o in venv.rglob('tiny.py')]
    return install


def test_a_package_with_the_locked_hash_is_installed(tiny):
    tiny(lambda digest: digest)
    assert tiny.found() == ['tiny.py']


def test_a_tampered_hash_is_refused(tiny):
    with pytest.raises(SetupError, match='tiny==1.0 is not the file that the lock file was made with'):
        tiny(lambda digest: ('0' if digest[0] != '0' else '1') + digest[1:])
    assert tiny.found() == []


LOCKS = 'course', 'test', 'docs', 'fastcore2', 'uv'


@pytest.mark.parametrize('name', LOCKS)
def test_every_locked_package_has_hashes_and_no_address(name):
    text = env.lock_file(name).read_text()
    assert '://' not in text and not re.search(r'^--', text, re.M)
    entries = [o for several in env.read_locked(env.lock_file(name)).values() for o in several]
    assert entries and all('--hash=sha256:' in o and re.match(r'[\w.-]+==[^\s;]+', o) for o in entries)


def locked_versions(name):
    "Every version that the lock file has of a package, by name."
    return {canonicalize_name(k): [re.match(r'[\w.-]+==([^\s;\\]+)', o)[1] for o in v] for k, v in env.read_locked(env.lock_file(name)).items()}


@pytest.mark.parametrize('name', ['course', 'test'])
def test_the_lock_is_in_step_with_the_settings(name):
    "Each requirement is locked at versions that it allows; otherwise: make lock."
    found = locked_versions(name)
    cfg = env.read_settings()
    wanted = [Requirement(o) for o in env.wanted_packages(cfg)[name] + cfg['locked_requirements'].split()]
    bad = [str(o) for o in wanted if not found.get(canonicalize_name(o.name)) or not all(o.specifier.contains(v) for v in found[canonicalize_name(o.name)])]
    assert bad == []


def test_the_lock_is_for_every_system():
    "Wheels of other systems and other Pythons than this one are locked too."
    numpy = env.read_locked(env.lock_file('course'))['numpy']
    assert len(numpy) > 1 and all(o.count('--hash') > 20 for o in numpy)
    assert {'pywinpty', 'appnope', 'torch', 'nvidia-cublas'} <= set(locked_versions('course'))


def test_the_course_is_part_of_the_tests_environment_and_has_none_of_its_tools():
    course, test = locked_versions('course'), locked_versions('test')
    assert all(test[k] == v for k, v in course.items())
    assert not {'pytest', 'playwright', 'ruff', 'pytest-xdist'} & set(course) and {'pytest', 'playwright', 'ruff'} <= set(test)


def test_what_is_installed_is_what_is_locked():
    "Of every package that is locked in one version for all Pythons and systems."
    from importlib import metadata
    if env.read_stamp(env.Path(sys.prefix)).get('torch') is None: pytest.skip('this environment was not made from the lock file alone')
    locked = {k: v[0] for k, v in locked_versions('test').items() if len(v) == 1}
    have = {canonicalize_name(d.metadata['Name']): d.version for d in metadata.distributions()}
    assert {k: (v, have[k]) for k, v in locked.items() if k in have and have[k] != v} == {}


# --- settings of pip and uv ----------------------------------------------------------------------------------------------

PIP = """global.index-url='https://mirror.example/simple'
global.extra-index-url='https://a.example/simple https://b.example/simple'
install.find-links='/wheels'
:env:.find-links='/mine /yours'
global.timeout='60'
"""


def test_settings_of_pip_reach_uv(monkeypatch, tmp_path):
    class Answer: stdout = PIP
    monkeypatch.setattr(env.subprocess, 'run', lambda *args, **kw: Answer)
    given = env.uv_settings(tmp_path, {'PATH': 'bin'})
    assert given == {'PATH': 'bin', 'UV_DEFAULT_INDEX': 'https://mirror.example/simple', 'UV_INDEX': 'https://a.example/simple https://b.example/simple',
                     'UV_FIND_LINKS': '/mine,/yours', 'UV_HTTP_TIMEOUT': '60', 'UV_INDEX_STRATEGY': 'unsafe-best-match'}
    own = env.uv_settings(tmp_path, {'UV_DEFAULT_INDEX': 'https://own.example'})
    assert own == {'UV_DEFAULT_INDEX': 'https://own.example', 'UV_HTTP_TIMEOUT': '60'}


def test_the_terminal_shows_the_big_steps_only():
    lines = 'Downloading torch (502.3MiB)', ' Downloaded torch', 'Downloading ruff (10.2MiB)', 'Prepared 197 packages in 20s', 'Installed 197 packages in 2s', ' + six==1.17.0'
    assert [o for o in lines if env.is_big_step(o)] == ['Downloading torch (502.3MiB)', 'Prepared 197 packages in 20s', 'Installed 197 packages in 2s']


# --- the commands --------------------------------------------------------------------------------------------------------

def test_make_and_python_have_the_same_commands(root):
    targets = re.search(r'^TASKS *:= (.+)$', (root/'Makefile').read_text(), re.M)[1].split()
    assert targets == list(tasks.TASKS)


def test_a_command_that_does_not_exist_is_named_with_the_others(capsys):
    assert tasks.main(['tests']) == 2
    said = capsys.readouterr().err
    assert "There is no task 'tests'" in said and 'test-long' in said


def test_the_list_of_commands_needs_no_set_up(root, tmp_path):
    res = subprocess.run([sys.executable, '-S', str(root/'tools'/'tasks.py')], cwd=tmp_path, capture_output=True, text=True)
    assert res.returncode == 0 and {o.split()[0] for o in res.stdout.splitlines()} == set(tasks.TASKS)


def test_browser_is_found_on_the_path_or_where_it_is_named(tmp_path):
    assert env.find_browser({'PATH': str(tmp_path)}) is None
    chrome = tmp_path/'google-chrome'
    chrome.touch(mode=0o755)
    assert env.find_browser({'PATH': str(tmp_path)}) == str(chrome)
    assert env.find_browser({'PATH': '', 'FASTBOOK_BROWSER': '/opt/a/browser'}) == '/opt/a/browser'


def test_places_that_are_named_stay_where_they_are_in_another_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    env_ = env.lasting({'FASTBOOK_MIRROR': '../data', 'FASTBOOK_HOME': '', 'PATH': 'bin'})
    assert env_ == {'FASTBOOK_MIRROR': str(tmp_path.parent/'data'), 'FASTBOOK_HOME': '', 'PATH': 'bin'}
    assert env.lasting({'FASTBOOK_MIRROR': 'http://here/data'}) == {'FASTBOOK_MIRROR': 'http://here/data'}


def test_two_kernels_that_train_at_once_let_each_other_work():
    assert env.for_kernels({'PATH': 'bin'}) == {'PATH': 'bin', 'GOMP_SPINCOUNT': '1000'}
    assert env.for_kernels({'GOMP_SPINCOUNT': '7'})['GOMP_SPINCOUNT'] == '7'
