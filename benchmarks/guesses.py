"""How well a trainer guesses which images are signed, by a model that it trained on them: AUC by gradient norm and by loss.

    taggants craft --preset digits && python -m benchmarks.guesses runs/HASH

Takes a run whose victims are trained, and prints the range over them: 0.5 tells nothing, 1 everything.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from taggants.data.source import read_for_models
from taggants.reporting.progress import say
from taggants.run import Run
from taggants.stages.evaluate import suspect_job
from taggants.training.job import load_trained, read_result
from taggants.training.scores import gradient_norms, losses


def guesses(run: Run) -> dict[str, list[float]]:
    """Returns by trait the AUC of each victim, over all images of the signed dataset.

    Raises:
        InputError: the run is not exported, or a victim is not trained.
    """
    jobs = [suspect_job(run, "victim", index) for index in range(run.config.evaluation.num_victims)]
    images = torch.from_numpy(
        read_for_models(jobs[0].train_source, range(run.index.num_rows), run.config.data.image_size)
    )
    labels = torch.from_numpy(run.index.labels)
    signed = [sample_id for shard in run.folder.read_plan().shards for sample_id in shard.sample_ids]
    is_signed = np.isin(np.arange(run.index.num_rows), signed)
    found: dict[str, list[float]] = {"gradient norm": [], "loss": []}
    for job in jobs:
        model = load_trained(run.models, read_result(run.models, f"{job.folder}/result.json"))
        for trait, scores in (("gradient norm", gradient_norms), ("loss", losses)):
            found[trait].append(float(roc_auc_score(is_signed, scores(model, images, labels).numpy())))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_folder", metavar="RUN")
    for trait, values in guesses(Run.open(parser.parse_args().run_folder)).items():
        say(f"AUC by {trait}: {min(values):.2f} to {max(values):.2f}, {len(values)} victims")


if __name__ == "__main__":
    main()
