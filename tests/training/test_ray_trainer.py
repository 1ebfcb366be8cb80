from __future__ import annotations

import contextlib
import dataclasses
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import ray
import scipy.stats
import torch

from taggants.data.digits import write_digits
from taggants.data.image_codec import encode_png
from taggants.data.layouts.parquet.source import ParquetSource
from taggants.data.source import resize_and_crop
from taggants.errors import InputError
from taggants.models import ModelSpec, build_model, model_from_checkpoint
from taggants.storage import Root
from taggants.training import worker
from taggants.training.job import InitialWeights, TrainingJob, find_initial_weights, load_trained
from taggants.training.loop import Optimiser, predict_scores
from taggants.training.metrics import measure
from taggants.training.ray_trainer import run_trainings
from taggants.training.recipes import Recipe
from taggants.training.worker import run_training

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers do not import the tests


@pytest.fixture
def job(tmp_path):
    data = Root(str(tmp_path / "digits"))
    write_digits(data)
    return TrainingJob(
        name="surrogate-0",
        spec=ModelSpec("cnn", 10, 1, 8),
        recipe=Recipe("simple", 0, False, 10),
        optimiser=Optimiser(num_epochs=3, batch_size=64, learning_rate=2e-3, weight_decay=0.01),
        seed=3,
        train_source=ParquetSource(data, ("train.parquet",)),
        test_source=ParquetSource(data, ("test.parquet",)),
        train_fingerprint="digits",
        test_fingerprint="digits too",
        num_threads=1,
        num_workers=0,
    )


def quiet(report):
    return None


def test_local_mode_trains_saves_and_returns_the_finished_run(job, tmp_path):
    run = Root(str(tmp_path / "run"))
    epochs = []
    trained = run_training(job, run, lambda report: epochs.append(report.epoch))
    assert epochs == [0, 1, 2]
    model, spec = model_from_checkpoint(run.read_bytes(trained.path), trained.path)
    assert spec == job.spec
    images, labels = (torch.from_numpy(array) for array in job.test_source.read_all())
    assert trained.metrics == measure(predict_scores(model, images), labels)
    assert trained.accuracy == trained.metrics.accuracy > 0.8
    assert run_training(job, run, quiet) == trained
    assert epochs == [0, 1, 2]


LAMB = Optimiser(3, 64, 5e-3, 0.02, name="lamb", clip_norm=1.0)
SGD = Optimiser(3, 64, 3e-2, 1e-4, name="sgd")


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"ema_decay": 0.9},
        {"recipe": Recipe("deit3", 1, False, 10), "optimiser": LAMB, "ema_decay": 0.9},
        {"optimiser": SGD, "precision": "bfloat16", "channels_last": True},
    ],
    ids=["plain", "average", "deit3 with average", "sgd in bfloat16"],
)
def test_interrupted_run_goes_on_and_ends_in_the_same_bytes(job, tmp_path, change):
    job = dataclasses.replace(job, **change)
    whole = run_training(job, Root(str(tmp_path / "whole")), quiet)
    run = Root(str(tmp_path / "stopped"))

    class Killed(Exception):
        pass

    def kill(report):
        if report.epoch == 1:
            raise Killed

    with pytest.raises(Killed):
        run_training(job, run, kill, save_every_s=0.0)
    assert not run.exists(whole.path)
    epochs = []
    assert run_training(job, run, lambda report: epochs.append(report.epoch)).sha256 == whole.sha256
    assert epochs == [2]


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 4},
        {"train_fingerprint": "signed"},
        {"test_fingerprint": "other"},
        {"num_threads": 2},
        {"image_size": 8},
        {"ema_decay": 0.9},
        {"compile": True},
        {"initial": InitialWeights("/somewhere", "00")},
        {"optimiser": Optimiser(3, 64, 2e-3, 0.01, name="lamb")},
        {"optimiser": Optimiser(3, 64, 2e-3, 0.01, clip_norm=1.0)},
    ],
)
def test_another_job_is_another_model(job, change):
    assert dataclasses.replace(job, **change).identity != job.identity


def test_the_loader_counts_only_where_a_gpu_augments(job):
    def identity(**change):
        return dataclasses.replace(job, **change).identity

    for loader in ("torch", "ray", "device"):
        assert identity(loader=loader, num_readers=5) == job.identity
    on_gpu = identity(device="cuda")
    assert on_gpu == identity(device="cuda", loader="torch") != identity(device="cuda", loader="device")


def test_initial_weights_count_by_their_content_not_their_place(job):
    first, moved, other = (
        dataclasses.replace(job, initial=InitialWeights(*given)).identity
        for given in (("/a", "00"), ("/b", "00"), ("/a", "01"))
    )
    assert first == moved != other


def test_where_the_data_lie_is_no_part_of_the_identity(job):
    elsewhere = dataclasses.replace(job.train_source, root=Root("/elsewhere"))
    assert dataclasses.replace(job, train_source=elsewhere).identity == job.identity


def test_damaged_state_starts_training_anew_and_ends_in_the_same_bytes(job, tmp_path):
    whole = run_training(job, Root(str(tmp_path / "whole")), quiet)
    run = Root(str(tmp_path / "damaged"))
    run.write_bytes(f"{whole.path.partition('/')[0]}/state.safetensors", b"half a file")
    assert run_training(job, run, quiet).sha256 == whole.sha256


@pytest.mark.parametrize("change", [{"label_column": "coarse"}, {"image_column": "thumbnail"}, {"channels": 3}])
def test_how_the_data_is_read_is_part_of_the_identity(job, change):
    source = dataclasses.replace(job.train_source, **change)
    assert dataclasses.replace(job, train_source=source).identity != job.identity


def test_labels_beyond_the_models_classes_are_refused(job, tmp_path):
    narrow = dataclasses.replace(job, spec=ModelSpec("cnn", 5, 1, 8), recipe=Recipe("simple", 0, False, 5))
    with pytest.raises(InputError, match="label 9 is beyond the model's 5 classes"):
        run_training(narrow, Root(str(tmp_path / "run")), quiet)


def test_images_of_another_size_are_refused(job, tmp_path):
    large = dataclasses.replace(job, spec=ModelSpec("cnn", 10, 1, 16))
    with pytest.raises(InputError, match=r"training images have shape \(1, 8, 8\) but the model takes \(1, 16, 16\)"):
        run_training(large, Root(str(tmp_path / "run")), quiet)


def test_images_of_all_sizes_are_trained_on_resized(job, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    drawn = [rng.integers(0, 256, (1, 20 + i % 7, 31 - i % 11), dtype=np.uint8) for i in range(11)]
    rows = [{"image": encode_png(image), "label": i % 10} for i, image in enumerate(drawn)]
    folder = Root(str(tmp_path / "drawn"))
    folder.write_table("all.parquet", pa.Table.from_pylist(rows))
    source = ParquetSource(folder, ("all.parquet",))
    monkeypatch.setattr(worker, "_READ_ROWS", 4)
    seen = []
    monkeypatch.setattr(worker, "train", lambda model, examples, *_, **__: seen.append(examples))
    resized = dataclasses.replace(job, train_source=source, test_source=source, image_size=8)
    run_training(resized, Root(str(tmp_path / "run")), quiet)
    (examples,) = seen
    assert torch.equal(examples.images, torch.from_numpy(np.stack([resize_and_crop(image, 8) for image in drawn])))
    assert examples.labels.tolist() == [i % 10 for i in range(11)]


def test_a_chunk_of_grey_images_among_colour_is_named(job, tmp_path, monkeypatch):
    rows = [{"image": encode_png(np.zeros((1 if i >= 4 else 3, 8, 8), np.uint8)), "label": i} for i in range(8)]
    folder = Root(str(tmp_path / "drawn"))
    folder.write_table("all.parquet", pa.Table.from_pylist(rows))
    monkeypatch.setattr(worker, "_READ_ROWS", 4)
    mixed = dataclasses.replace(job, train_source=ParquetSource(folder, ("all.parquet",)), image_size=8)
    with pytest.raises(InputError, match=r"sample 4\) has 1 channels but sample 0 has 3"):
        run_training(mixed, Root(str(tmp_path / "run")), quiet)


def test_damaged_result_is_named(job, tmp_path):
    run = Root(str(tmp_path / "run"))
    trained = run_training(job, run, quiet)
    result = trained.path.replace("model.safetensors", "result.json")
    fields = run.read_json(result)
    del fields["metrics"]
    run.write_json(result, fields)
    with pytest.raises(InputError, match=r"result\.json is damaged; delete the folder .* to train it again"):
        run_training(job, run, quiet)


def test_training_in_one_process_needs_no_ray(job, tmp_path):
    code = """
import pickle, sys
sys.modules["ray"] = sys.modules["boto3"] = None
from taggants.storage import Root
from taggants.training.worker import run_training
job = pickle.load(open(sys.argv[1], "rb"))
print(run_training(job, Root(sys.argv[2]), lambda report: None).sha256)
"""
    path = tmp_path / "job.pickle"
    path.write_bytes(pickle.dumps(job))
    command = [sys.executable, "-c", code, str(path), str(tmp_path / "alone")]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == run_training(job, Root(str(tmp_path / "here")), quiet).sha256


def test_test_labels_beyond_the_models_classes_are_refused_before_training(job, tmp_path):
    folder = Root(str(tmp_path / "wide"))
    image = encode_png(np.zeros((1, 8, 8), np.uint8))
    folder.write_table("all.parquet", pa.Table.from_pylist([{"image": image, "label": i} for i in (0, 10)]))
    wide = dataclasses.replace(job, test_source=ParquetSource(folder, ("all.parquet",)))
    epochs = []
    with pytest.raises(InputError, match="label 10 is beyond the model's 10 classes"):
        run_training(wide, Root(str(tmp_path / "run")), epochs.append)
    assert epochs == []


def test_average_of_the_weights_is_kept(job, tmp_path, monkeypatch):
    """Against the sums, written out, of the weights after every step."""
    run = Root(str(tmp_path / "run"))
    decay = 0.97
    expected = {}

    def train_and_average(model, *args, after_step, **kwargs):
        def step_and_average(num_steps):
            after_step(num_steps)
            now = {name: p.detach().double().clone() for name, p in model.model.named_parameters()}
            keep = 0.0 if num_steps == 1 else min(decay, 1 - num_steps ** (-2 / 3))
            for name, value in now.items():
                expected[name] = keep * expected.get(name, 0.0) + (1 - keep) * value

        train(model, *args, after_step=step_and_average, **kwargs)

    train = worker.train
    monkeypatch.setattr(worker, "train", train_and_average)
    averaged = dataclasses.replace(job, ema_decay=decay, keep_epochs=(3,))
    trained = run_training(averaged, run, quiet)
    for name, parameter in load_trained(run, trained).named_parameters():
        torch.testing.assert_close(parameter.detach().double(), expected[name], rtol=1e-4, atol=1e-5)
    assert trained.kept[0][1] == trained.sha256
    assert trained.sha256 != run_training(job, run, quiet).sha256


def test_training_starts_from_a_checkpoint_with_a_new_head_for_other_classes(job, tmp_path, monkeypatch):
    run = Root(str(tmp_path / "run"))
    first = run_training(job, run, quiet)
    initial = find_initial_weights(run.uri_of(first.path))
    assert initial == InitialWeights(run.uri_of(first.path), first.sha256)
    started = []
    monkeypatch.setattr(worker, "train", lambda model, *_, **__: started.append(model.model.state_dict()))
    source = load_trained(run, first).state_dict()
    for num_classes in (10, 12):
        spec, recipe = ModelSpec("cnn", num_classes, 1, 8), Recipe("fine-tune", 0, False, num_classes)
        run_training(dataclasses.replace(job, spec=spec, recipe=recipe, initial=initial), run, quiet)
        fresh = build_model(spec, job.seed).state_dict()
        for name, tensor in started[-1].items():
            is_head = name in ("1.7.weight", "1.7.bias")
            assert torch.equal(tensor, fresh[name] if is_head and num_classes != 10 else source[name]), name
    assert len(started) == 2


def test_checkpoint_of_another_model_or_changed_since_is_refused(job, tmp_path):
    run = Root(str(tmp_path / "run"))
    initial = find_initial_weights(run.uri_of(run_training(job, run, quiet).path))
    wide = dataclasses.replace(job, spec=ModelSpec("cnn_wide", 10, 1, 8), initial=initial)
    with pytest.raises(InputError, match=r"holds ModelSpec\(name='cnn'.* only num_classes and drop_path may differ"):
        run_training(wide, run, quiet)
    with pytest.raises(InputError, match="is not the model"):
        run_training(dataclasses.replace(job, initial=dataclasses.replace(initial, sha256="0" * 64)), run, quiet)
    with pytest.raises(InputError, match="nowhere"):
        find_initial_weights(str(tmp_path / "nowhere.safetensors"))


@pytest.mark.slow
def test_compiled_training_stays_near(job, tmp_path):
    """Rounding differs, and grows from step to step: one epoch, and far less than another seed."""
    job = dataclasses.replace(job, optimiser=dataclasses.replace(job.optimiser, num_epochs=1))
    run = Root(str(tmp_path / "run"))
    plain, compiled, other = (
        flat_weights(load_trained(run, run_training(dataclasses.replace(job, **change), run, quiet)))
        for change in ({}, {"compile": True}, {"seed": 4})
    )
    assert not torch.equal(plain, compiled)
    assert torch.linalg.norm(plain - compiled) < 1e-3 * torch.linalg.norm(plain - other)


def flat_weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@dataclasses.dataclass(frozen=True)
class MortalRecipe(Recipe):
    """Notes each batch under `notes`; in the middle of epoch `last` the process that comes first kills itself, once."""

    notes: str = ""
    last: int = -1

    def batch(self, images, labels, image_ids, *, seed, epoch, partners=None):
        note = Path(self.notes) / str(os.getpid())
        with note.open("a") as file:
            file.write(f"{epoch}\n")
        if epoch == self.last and note.read_text().split().count(str(epoch)) == 5:
            with contextlib.suppress(FileExistsError):
                (Path(self.notes) / "killed").touch(exist_ok=False)
                os.kill(os.getpid(), signal.SIGKILL)
        return super().batch(images, labels, image_ids, seed=seed, epoch=epoch, partners=partners)

    def epochs_noted(self):
        """One list for each process that trained, the first one first."""
        files = sorted((path for path in Path(self.notes).iterdir() if path.name != "killed"), key=os.path.getctime)
        return [[int(epoch) for epoch in path.read_text().split()] for path in files]


def mortal(job, notes, last):
    notes.mkdir()
    return dataclasses.replace(job, recipe=MortalRecipe("simple", 0, False, 10, str(notes), last))


STEPS = 21  # of an epoch: 1,297 digits in batches of 64


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize("num_workers", [1, 2])
def test_ray_train_worker_killed_in_mid_epoch_resumes_to_the_same_weights(job, tmp_path, num_workers):
    job = dataclasses.replace(job, num_workers=num_workers)
    undisturbed = run_training(mortal(job, tmp_path / "whole", -1), Root(str(tmp_path / "run")), quiet)
    killed = mortal(job, tmp_path / "killed", 1)
    trained = run_training(killed, Root(str(tmp_path / "run")), quiet, save_every_s=0.0)
    assert (tmp_path / "killed" / "killed").exists()
    first, second = killed.recipe.epochs_noted()[:num_workers], killed.recipe.epochs_noted()[num_workers:]
    assert {epoch for process in first for epoch in process} == {0, 1}
    assert second == [[1] * STEPS + [2] * STEPS] * num_workers  # from the saved state on, not from the start
    assert trained.sha256 == undisturbed.sha256
    if num_workers == 1:
        assert trained.sha256 == run_training(plain(job), Root(str(tmp_path / "local")), quiet).sha256
    else:
        check_two_workers_train_as_one(job, trained, Root(str(tmp_path / "run")))


def plain(job):
    return dataclasses.replace(job, num_workers=0)


def check_two_workers_train_as_one(job, by_two, run):
    """One process of the same seed: nearly the same weights; those of other seeds: accuracy within their spread.

    The workers' halves of an odd batch weigh alike, so weights are not equal up to rounding alone.
    """
    by_seed = [run_training(dataclasses.replace(plain(job), seed=seed), run, quiet) for seed in range(3, 11)]
    two, one, another = (flat_weights(load_trained(run, trained)) for trained in (by_two, *by_seed[:2]))
    assert torch.linalg.norm(two - one) < 0.1 * torch.linalg.norm(two - another)
    accuracies = np.array([trained.accuracy for trained in by_seed])
    # A further draw of the seeds' normal distribution lies within this with probability 0.999.
    margin = scipy.stats.t.ppf(0.9995, len(accuracies) - 1) * accuracies.std(ddof=1) * np.sqrt(1 + 1 / len(accuracies))
    assert abs(by_two.accuracy - accuracies.mean()) < margin
    assert abs(by_two.accuracy - by_seed[0].accuracy) < accuracies.std(ddof=1)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_local")
def test_trainings_side_by_side_end_in_the_bytes_of_one_after_another(job, tmp_path):
    jobs = [dataclasses.replace(job, seed=seed, name=f"victim-{seed}") for seed in range(3)]
    killed = mortal(dataclasses.replace(job, name="victim-3"), tmp_path / "notes", 1)
    jobs += [killed, jobs[0]]
    done = []
    side_by_side = run_trainings(
        jobs, Root(str(tmp_path / "beside")), num_gpus=0.25, save_every_s=0.0, on_trained=done.append
    )
    assert done[-1] == 4
    assert (tmp_path / "notes" / "killed").exists()
    assert killed.recipe.epochs_noted()[1] == [1] * STEPS + [2] * STEPS
    run = Root(str(tmp_path / "after"))
    one_by_one = [run_training(job, run, quiet) for job in jobs]
    assert [dataclasses.replace(trained, seconds=0.0) for trained in side_by_side] == [
        dataclasses.replace(trained, seconds=0.0) for trained in one_by_one
    ]
    with pytest.raises(InputError, match="use one size"):
        run_trainings([jobs[0], dataclasses.replace(job, spec=ModelSpec("cnn", 10, 1, 16))], run)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_bad_input_of_a_ray_train_worker_reaches_the_caller(job, tmp_path):
    large = dataclasses.replace(job, num_workers=1, spec=ModelSpec("cnn", 10, 1, 16))
    with pytest.raises(InputError, match="use one size"):
        run_training(large, Root(str(tmp_path / "other")), quiet)
