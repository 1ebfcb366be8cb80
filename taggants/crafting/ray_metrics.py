"""The status of a run as Ray metrics, which Ray serves to Prometheus; `cluster/grafana-dashboard.json` draws them.

Ray puts "ray_" before each name and "_total" behind those of counters. Each series has the tag `run`, the name of the
run folder.
"""

from __future__ import annotations

from ray.util.metrics import Counter, Gauge, Metric

from taggants.crafting.status import Status

_GAUGES = {
    "taggants_shards": "Shards of the plan",
    "taggants_shards_done": "Shards that are committed",
    "taggants_shards_running": "Shards at work",
    "taggants_shards_quarantined": "Shards that were given up",
    "taggants_alignment": "Mean alignment of the shards finished since the start, in [-1, 1]",
    "taggants_eta_seconds": "Seconds to the end at the speed of the last minute",
}
_COUNTERS = {
    "taggants_sample_steps": "Views of images optimised for one step on one surrogate, counted when their shard finishes",
    "taggants_shard_failures": "Errors of shards",
    "taggants_shard_losses": "Shards lost to dead workers",
    "taggants_shard_preemptions": "Shards lost to nodes that were taken back",
}
EXPORTED_NAMES = frozenset({f"ray_{name}" for name in _GAUGES} | {f"ray_{name}_total" for name in _COUNTERS})
"""What Prometheus sees."""


class RayMetrics:
    """Sets the metrics of one run from its status; needs a connected Ray.

    Args:
        run: the value of the tag `run`.
    """

    def __init__(self, run: str) -> None:
        self._gauges = {name: _tagged(Gauge(name, text, tag_keys=("run",)), run) for name, text in _GAUGES.items()}
        self._counters = {
            name: _tagged(Counter(name, text, tag_keys=("run",)), run) for name, text in _COUNTERS.items()
        }
        self._counted = dict.fromkeys(_COUNTERS, 0)

    def show(self, status: Status) -> None:
        """Sets every metric that the status tells; what it does not know yet is left out."""
        levels = {
            "taggants_shards": status.num_shards,
            "taggants_shards_done": status.num_done,
            "taggants_shards_running": len(status.running),
            "taggants_shards_quarantined": len(status.quarantined),
            "taggants_alignment": status.mean_alignment,
            "taggants_eta_seconds": status.eta_s,
        }
        for name, level in levels.items():
            if level is not None:
                self._gauges[name].set(level)
        totals = {
            "taggants_sample_steps": status.sample_steps,
            "taggants_shard_failures": status.num_failures,
            "taggants_shard_losses": status.num_losses,
            "taggants_shard_preemptions": status.num_preemptions,
        }
        for name, total in totals.items():
            if total > self._counted[name]:
                self._counters[name].inc(total - self._counted[name])
                self._counted[name] = total


def _tagged(metric: Metric, run: str) -> Metric:
    metric.set_default_tags({"run": run})
    return metric
