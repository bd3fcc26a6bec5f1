"""What is released: links that lead somewhere from an index too, one version, an address that stands in no file."""

import re
import tomllib
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
ADDRESS = "https://example.org/people/kmeans_xp"


@pytest.fixture(scope="module")
def release():
    path = ROOT / "ci" / "release"
    if not path.exists():
        pytest.skip("not a checkout")
    loader = SourceFileLoader("release", str(path))
    module = module_from_spec(spec_from_loader("release", loader))
    loader.exec_module(module)
    return module


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def test_readme_of_a_release_has_whole_links(release):
    """To a file, a folder, a place in a file and a picture, of the version that is released."""
    text = release.readme_of_release(
        "[a](docs/gpu.md#b) [c](examples) ![d](benchmarks/speed.png) [e](https://e.org) [f](#g)", ADDRESS, "1.2.3"
    )
    assert text == (
        f"[a]({ADDRESS}/blob/v1.2.3/docs/gpu.md#b) [c]({ADDRESS}/tree/v1.2.3/examples) "
        f"![d]({ADDRESS}/raw/v1.2.3/benchmarks/speed.png) [e](https://e.org) [f](#g)"
    )
    whole = release.readme_of_release(read("README.md"), ADDRESS, "1.2.3")
    assert whole.count(ADDRESS) == len(release.LINK.findall(read("README.md"))) > 10
    assert not release.LINK.search(whole)
    assert "pip install kmeans_xp " in whole
    assert "pip install ." not in whole
    assert "pip install '." not in whole


def test_links_of_the_readme_lead_to_what_is_there(release):
    for _, words, place in release.LINK.findall(read("README.md")):
        assert (ROOT / place.partition("#")[0]).exists(), words


def test_a_release_says_where_the_project_is(release):
    project = tomllib.loads(read("pyproject.toml") + release.urls(ADDRESS, "1.2.3"))["project"]
    assert project["urls"]["Repository"] == ADDRESS
    assert {"Documentation", "Changelog", "Issues"} < set(project["urls"])


def test_a_tag_is_that_of_the_version(release, monkeypatch, tmp_path):
    monkeypatch.setenv("GITHUB_REF_TYPE", "tag")
    monkeypatch.setenv("GITHUB_REF_NAME", "v0.0.1")
    with pytest.raises(SystemExit, match=r"The tag is v0\.0\.1, the version in pyproject.toml"):
        release.write_copy(tmp_path, ADDRESS)


def test_without_an_address_nothing_is_built(release, monkeypatch, tmp_path):
    monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)
    monkeypatch.setattr(release, "ROOT", tmp_path)
    with pytest.raises(SystemExit, match="Where is the repository"):
        release.address_of_repository()
    monkeypatch.setenv("GITHUB_SERVER_URL", "https://example.org")
    monkeypatch.setenv("GITHUB_REPOSITORY", "people/kmeans_xp")
    assert release.address_of_repository() == ADDRESS


def test_one_version_stands_everywhere():
    if not (ROOT / "CITATION.cff").exists():
        pytest.skip("not a checkout")
    project = tomllib.loads(read("pyproject.toml"))["project"]
    citation = yaml.safe_load(read("CITATION.cff"))
    heading = re.search(r"^## (\S+) \((unreleased|\d{4}-\d\d-\d\d)\)$", read("CHANGELOG.md"), re.MULTILINE)
    assert citation["version"] == heading[1] == project["version"]
    assert citation["authors"] == project["authors"] == [{"name": "the kmeans_xp developers"}]
    assert citation["license"] == project["license"]
    assert "urls" not in project, "they are written by ci/release"
