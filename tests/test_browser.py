"The pages as their reader meets them: in JupyterLab, with a mouse."
import pytest

from browser import Lab, copy_page, lacking, write_notebook

pytestmark = pytest.mark.skipif(bool(lacking()), reason=lacking() or '-')


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    with Lab(tmp_path_factory.mktemp('lab')) as lab: yield lab


def test_a_page_runs_from_top_to_bottom_and_shows_its_charts(lab):
    copy_page('01_view', lab.folder)
    sheet = lab.open('01_view.ipynb')
    sheet.run_all()
    assert sheet.find('figure.am-figure svg').count() >= 3
    sheet.find('figure.am-figure').first.scroll_into_view_if_needed()
    assert sheet.shot('01_view').stat().st_size > 10_000
    assert not lab.ran and not lab.outside


def test_a_failing_cell_is_noticed(lab):
    write_notebook(lab.folder/'wrong.ipynb', '1', 'raise KeyError("so there")')
    sheet = lab.open('wrong.ipynb')
    with pytest.raises(AssertionError, match='cell 1: KeyError'): sheet.run_all()


def test_a_click_reaches_python_and_comes_back(lab):
    write_notebook(lab.folder/'click.ipynb', "import ipywidgets as w\nb, said = w.Button(description='go'), w.Label('-')\nb.add_class('t-go'), said.add_class('t-said')\n"
                   "b.on_click(lambda _: setattr(said, 'value', 'clicked'))\nw.VBox([b, said])")
    sheet = lab.open('click.ipynb')
    sheet.run_all()
    sheet.find('.t-go').click()
    lab.until("() => document.querySelector('.t-said').textContent === 'clicked'", 10)
    assert sheet.run('print(said.value)') == 'clicked\n'
