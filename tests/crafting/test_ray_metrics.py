from __future__ import annotations

import dataclasses
import time
import urllib.request

import pytest
import ray

from taggants.crafting.ray_metrics import EXPORTED_NAMES, RayMetrics
from taggants.crafting.status import Status

STATUS = Status(
    state="running",
    num_shards=10,
    num_done=4,
    running=(4, 5, 6),
    quarantined=(2,),
    num_failures=2,
    num_losses=1,
    num_preemptions=3,
    sample_steps=1000,
    sample_steps_per_s=None,
    sample_steps_per_s_recent=None,
    mean_alignment=0.75,
    eta_s=60.0,
    started_at="",
    updated_at="",
)
EXPECTED = {
    "ray_taggants_shards": 10.0,
    "ray_taggants_shards_done": 5.0,
    "ray_taggants_shards_running": 3.0,
    "ray_taggants_shards_quarantined": 1.0,
    "ray_taggants_alignment": 0.75,
    "ray_taggants_eta_seconds": 60.0,
    "ray_taggants_sample_steps_total": 1500.0,
    "ray_taggants_shard_failures_total": 2.0,
    "ray_taggants_shard_losses_total": 1.0,
    "ray_taggants_shard_preemptions_total": 3.0,
}


def exported() -> dict[str, float]:
    """What the nodes serve of the run "r0"."""
    values: dict[str, float] = {}
    for node in ray.nodes():
        url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        for line in urllib.request.urlopen(url, timeout=10).read().decode().splitlines():
            if line.startswith("ray_taggants") and 'run="r0"' in line:
                name, _, rest = line.partition("{")
                values[name] = float(rest.rpartition("} ")[2].split()[0])
    return values


@pytest.mark.ray
@pytest.mark.slow
def test_node_serves_every_metric_with_its_value(ray_local: None) -> None:
    metrics = RayMetrics("r0")
    metrics.show(dataclasses.replace(STATUS, mean_alignment=None, eta_s=None))
    metrics.show(STATUS)
    metrics.show(dataclasses.replace(STATUS, num_done=5, sample_steps=1500))
    deadline_s = time.monotonic() + 60.0
    while (values := exported()) != EXPECTED and time.monotonic() < deadline_s:
        time.sleep(0.5)
    assert values == EXPECTED
    assert set(values) == EXPORTED_NAMES
