"""What runs on another's machine: a limit of time, code that is known by its digest, no credentials left behind."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
JOBS = [
    pytest.param(job, id=f"{path.stem}-{name}")
    for path in sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    for name, job in yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].items()
]


@pytest.mark.parametrize("job", JOBS)
def test_a_job_ends_by_itself_and_keeps_no_credentials(job):
    assert 0 < job["timeout-minutes"] <= 120
    for step in job["steps"]:
        action, _, version = step.get("uses", "").partition("@")
        assert not action or re.fullmatch("[0-9a-f]{40}", version), f"{action} by a tag, which can be moved"
        if action == "actions/checkout":
            assert step["with"]["persist-credentials"] is False


def test_the_newest_versions_are_tried_on_a_schedule():
    path = ROOT / ".github" / "workflows" / "newest.yml"
    if not path.exists():
        pytest.skip("not a checkout")
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert workflow[True]["schedule"]  # `on` is a word for true in YAML
    runs = [step.get("run", "") for step in workflow["jobs"]["newest"]["steps"]]
    assert any("--pre numpy scikit-learn" in run for run in runs)
