"""What `make lab` serves, and the page that it opens with."""
import pytest

pytest.importorskip('jupyterlab')
import lab


@pytest.mark.parametrize('there, page', [(['work', 'nbs'], 'work/index.ipynb'), (['nbs'], 'nbs/index.ipynb'), ([], 'index.ipynb')])
def test_the_first_page_is_the_readers_own_copy_if_there_is_one(tmp_path, monkeypatch, there, page):
    monkeypatch.setenv('JUPYTERLAB_WORKSPACES_DIR', str(tmp_path/'workspaces'))
    for name in there:
        (tmp_path/name).mkdir()
        (tmp_path/name/'index.ipynb').touch()
    assert lab.home_page(tmp_path) == page and lab.settings(tmp_path).LabApp.default_url == f'/lab/tree/{page}'


@pytest.mark.parametrize('args, prepared', [([], True), (['--port=9000'], True), (['--ServerApp.root_dir=elsewhere'], False)])
def test_the_readers_folder_is_prepared_before_the_course_is_served(monkeypatch, args, prepared):
    done = []
    monkeypatch.setattr(lab, 'prepare_work', lambda: done.append('prepared'))
    monkeypatch.setattr(lab, 'open_lab', lambda folder, args: done.append(folder))
    lab.main(args)
    assert done == ['prepared']*prepared + [lab.ROOT]
