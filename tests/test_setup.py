"""The set-up: when it runs, what it says, and that a cut-short one is not taken for a whole one."""
import io
import subprocess
import sys
import threading
import time

import pytest

import setup_env as env
from setup_env import SetupError

SETTINGS = '[DEFAULT]\nmin_python = 3.10\nrequirements = torch numpy\ndev_requirements = nbdev==2.4.14\n'


class Project:
    "A project whose set-up takes no time: making the environment and calling pip are written down, not done."
    def __init__(self, root, monkeypatch):
        self.root, self.venv, self.calls = root, root/'.venv', []
        (root/'settings.ini').write_text(SETTINGS)
        monkeypatch.setattr(env, 'make_venv', self.make_venv)
        monkeypatch.setattr(env, 'pip', lambda venv, *args: self.calls.append(' '.join(args)))

    def make_venv(self, venv):
        env.venv_python(venv).parent.mkdir(parents=True, exist_ok=True)
        env.venv_python(venv).touch()

    def set_up(self):
        self.calls.clear()
        return env.set_up(self.venv, self.root)


@pytest.fixture
def project(tmp_path, monkeypatch): return Project(tmp_path, monkeypatch)


def test_set_up_happens_once(project, capsys):
    assert project.set_up()
    assert 'because .venv is not there yet' in capsys.readouterr().out
    assert project.calls[-1] == f'install --editable {project.root}[dev]'
    assert not project.set_up() and not project.calls
    assert capsys.readouterr().out == ''


def test_set_up_is_redone_when_settings_change_and_says_so(project, capsys):
    project.set_up()
    (project.root/'settings.ini').write_text(SETTINGS.replace('numpy', 'numpy pandas'))
    assert project.set_up() and project.calls
    assert 'Setting up, because settings.ini has changed since the last set-up.' in capsys.readouterr().out
    assert not project.set_up()


def test_an_interrupted_set_up_is_gone_on_with(project, capsys, monkeypatch):
    def interrupted(venv, *args): raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr(env, 'pip', interrupted)
        with pytest.raises(KeyboardInterrupt): project.set_up()
    assert project.set_up()
    assert 'because .venv was not finished' in capsys.readouterr().out


def test_a_moved_folder_is_set_up_again(project):
    project.set_up()
    assert env.why_set_up(project.venv, env.fingerprint(project.root)) is None
    moved = dict(env.fingerprint(project.root), place='/elsewhere')
    assert env.why_set_up(project.venv, moved) == 'the folder has moved since the last set-up'


def test_a_broken_stamp_is_no_stamp(project):
    project.set_up()
    env.stamp_of(project.venv).write_text('{"settings": ')
    assert env.why_set_up(project.venv, env.fingerprint(project.root)) == '.venv was not finished'


def test_two_set_ups_at_once_do_the_work_once(project, capsys):
    running, most = [], []
    def slow(venv, *args):
        running.append(args)
        most.append(len(running))
        time.sleep(0.05)
        running.pop()
    env.pip, done = slow, []  # (monkeypatch puts env.pip back)
    threads = [threading.Thread(target=lambda: done.append(env.set_up(project.venv, project.root))) for _ in range(2)]
    for o in threads: o.start()
    for o in threads: o.join()
    assert sorted(done) == [False, True] and max(most) == 1
    assert 'Another set-up is running; waiting for it.' in capsys.readouterr().out


def test_a_set_up_machine_starts_within_three_seconds(root):
    "What every `make` does first, on this very repository: the fastest of three, so that a busy machine does not count."
    def seconds():
        start = time.perf_counter()
        res = subprocess.run([sys.executable, 'tools/setup_env.py'], cwd=root, capture_output=True, text=True)
        assert res.returncode == 0, res.stderr
        return time.perf_counter() - start
    if env.why_set_up(env.VENV, env.fingerprint()): pytest.fail('this test runs in a set-up repository: make setup')
    assert min(seconds() for _ in range(3)) < 3


def test_a_python_too_old_is_named_with_the_way_out():
    with pytest.raises(SetupError, match=r'Python 9.9 or newer is needed and this one is 3\.\d+\.\d+; name another, such as: make PYTHON='):
        env.check_python('9.9')
    env.check_python('3.10')


def test_a_python_without_venv_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, 'ensurepip', None)
    with pytest.raises(SetupError, match='apt install python3-venv'): env.check_venv_module()


@pytest.mark.parametrize('log, sentence', [
    ("WARNING: Retrying (Retry(total=0)) after connection broken by NewConnectionError: [Errno -3] Temporary failure in name resolution\n"
     "ERROR: Could not find a version that satisfies the requirement torch>=2.4", 'The package index cannot be reached. Connect this machine once'),
    ('ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device', 'The disk is full. Make room'),
    ('Collecting torch\nERROR: Cannot install a and b because these package versions have conflicting dependencies.\nERROR: ResolutionImpossible',
     'pip stopped: ERROR: Cannot install a and b because'),
])
def test_pip_is_explained_in_one_sentence(log, sentence, tmp_path):
    said = env.explain_pip(log, tmp_path/'log')
    assert said.startswith(sentence) and '\n' not in said


def test_no_network_ends_in_a_sentence(tmp_path, monkeypatch):
    "The real pip, sent to an address where nothing answers."
    monkeypatch.setenv('PIP_INDEX_URL', 'http://127.0.0.1:9/simple')
    monkeypatch.setenv('PIP_RETRIES', '1')
    monkeypatch.setattr(env, 'venv_python', lambda venv: sys.executable)
    with pytest.raises(SetupError, match='The package index cannot be reached'):
        env.pip(tmp_path, 'download', '--no-deps', '--dest', str(tmp_path), 'a-name-that-is-not-installed')


def test_a_log_gets_only_the_big_steps():
    class Status(env.Status):
        def __init__(self): super().__init__(io.StringIO())
    status = Status()
    for line in ['Collecting torch>=2.4', '  Downloading torch-2.15.0-cp311-none-any.whl.metadata (31 kB)', 'Downloading torch-2.15.0-cp311-none-any.whl (530.2 MB)',
                 'Downloading six-1.17-py2.py3-none-any.whl (11 kB)', 'Installing collected packages: a, b, c']: env.follow(line, status)
    said = status.out.getvalue()
    assert 'downloading torch, 530.2 MB' in said and 'installing 3 packages' in said and 'six' not in said and 'metadata' not in said


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
