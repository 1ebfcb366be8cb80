from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import taggants
from taggants.config import Config
from taggants.data.frameworks import TorchImages
from taggants.keys import load_key_set
from taggants.models import model_from_checkpoint
from tests.api.datasets import NAMES, NUM_TRAIN, TINY, digits


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> taggants.Run:
    folder = tmp_path_factory.mktemp("signed")
    train, test = digits()
    return taggants.sign(train, test=test, root=folder / "runs", keys=folder / "secrets", settings=TINY)


def flat(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    return np.zeros((len(images), 10))


class TestSign:
    def test_signs_some_rows_and_leaves_the_others(self, run: taggants.Run) -> None:
        train, _ = digits()
        signed = run.dataset("torch")
        changed = [i for i in range(NUM_TRAIN) if not np.array_equal(signed[i][0][0].numpy(), train.images[i])]
        plan = json.loads(Path(run.uri, "plan.json").read_text())
        ids = sorted(i for shard in plan["shards"] for i in shard["sample_ids"])
        assert changed == ids
        assert len(ids) == 12
        assert [signed[i][1] for i in range(NUM_TRAIN)] == train.labels

    def test_is_done_at_once_when_called_again(
        self, run: taggants.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        train, test = digits()
        root = Path(run.uri).parent
        again = taggants.sign(train, test=test, root=root, keys=root.parent / "secrets", settings=TINY)
        assert again.uri == run.uri
        printed = capsys.readouterr().out
        assert "found done" in printed
        assert "0 shards crafted, 4 found done" in printed

    def test_works_in_this_process_unless_the_configuration_says_ray(self, run: taggants.Run) -> None:
        assert run.config.execution.pool == "inline"

    def test_takes_a_hugging_face_dataset_as_it_is_encoded(self, tmp_path: Path) -> None:
        train, test = digits()
        features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})

        def jpegs(split: Any) -> list[dict[str, bytes]]:
            sinks = [io.BytesIO() for _ in range(len(split))]
            for image, sink in zip(split.images, sinks, strict=True):
                Image.fromarray(image).save(sink, "JPEG", quality=95)
            return [{"bytes": sink.getvalue()} for sink in sinks]

        given = datasets.DatasetDict(
            {
                "train": datasets.Dataset.from_dict({"img": jpegs(train), "label": train.labels}, features=features),
                "validation": datasets.Dataset.from_dict({"img": jpegs(test), "label": test.labels}, features=features),
            }
        )
        run = taggants.sign(given, root=tmp_path / "runs", keys=tmp_path / "secrets", settings=TINY)
        assert run.index.class_names == tuple(NAMES)
        assert run.sources[1].num_rows == 60
        signed = run.dataset("huggingface")
        assert signed.features["label"].names == NAMES
        unchanged = [
            row["image"]["bytes"] == before["bytes"]
            for row, before in zip(signed.cast_column("image", datasets.Image(decode=False)), jpegs(train), strict=True)
        ]
        assert sum(unchanged) == NUM_TRAIN - 12
        assert run.config.data.image_column == "image"

    def test_takes_a_folder_without_a_test_split(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        train, _ = digits()
        for i, (image, label) in enumerate(train[j] for j in range(NUM_TRAIN)):
            path = tmp_path / "photographs" / f"class{label}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
        run = taggants.sign(
            str(tmp_path / "photographs"), root=tmp_path / "runs", keys=tmp_path / "secrets", settings=TINY
        )
        assert run.config.data.source == "imagefolder"
        assert run.config.data.test is None
        assert run.config.keys.name == "photographs"
        assert "accuracy on its training images" in capsys.readouterr().out
        assert len(list(Path(run.uri, "signed").rglob("*.png"))) == NUM_TRAIN

    def test_rehearses_if_asked_to(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        train, test = digits()
        settings = TINY | {
            "evaluation.num_victims": 1,
            "evaluation.num_controls": 1,
            "evaluation.training.num_epochs": 1,
        }
        run = taggants.sign(
            train, test=test, root=tmp_path / "runs", keys=tmp_path / "secrets", settings=settings, rehearse=True
        )
        assert len(run.certificates()) == 2
        assert "trained on" in capsys.readouterr().out


class TestConfiguration:
    def configured(self, tmp_path: Path, **arguments: Any) -> Config:
        from taggants.api import _configuration

        train, test = digits()
        defaults: dict[str, Any] = {"config": None, "settings": None}
        return _configuration(train, test, str(tmp_path / "runs"), str(tmp_path / "secrets"), **(defaults | arguments))

    def test_is_suggested_for_the_dataset(self, tmp_path: Path) -> None:
        config = self.configured(tmp_path)
        assert config.crafting.epsilon == 64 / 255
        assert config.keys.num_keys * (config.signing.images_per_key or 0) <= NUM_TRAIN / 10

    def test_is_overridden_by_settings(self, tmp_path: Path) -> None:
        settings = {"crafting.epsilon": "8/255", "surrogate.architectures": ["cnn"], "data.images_per_class": None}
        config = self.configured(tmp_path, settings=settings)
        assert config.crafting.epsilon == 8 / 255
        assert config.surrogate.architectures == ("cnn",)

    @pytest.mark.parametrize("kind", ["mapping", "file", "Config"])
    def test_of_ones_own_is_taken_but_for_the_dataset(self, tmp_path: Path, kind: str) -> None:
        tree = {
            "keys": {"num_keys": 5},
            "data": {"source": "parquet", "root": "/elsewhere", "image_size": 16},
            "execution": {"num_workers": 7},
        }
        (tmp_path / "mine.yaml").write_text(json.dumps(tree))
        given = {"mapping": tree, "file": tmp_path / "mine.yaml", "Config": Config.model_validate(tree)}[kind]
        config = self.configured(tmp_path, config=given)
        assert config.keys.num_keys == 5
        assert config.data.root is not None
        assert config.data.root.startswith(str(tmp_path / "runs" / "datasets"))
        assert config.data.image_size == 16
        assert config.crafting.num_steps == Config().crafting.num_steps
        assert (config.execution.pool, config.execution.num_workers) == ("inline", 7)

    def test_may_ask_for_ray(self, tmp_path: Path) -> None:
        assert self.configured(tmp_path, config={"execution": {"pool": "ray"}}).execution.pool == "ray"

    def test_names_a_wrong_field(self, tmp_path: Path) -> None:
        with pytest.raises(taggants.InputError, match=r"crafting\.epsilonn"):
            self.configured(tmp_path, settings={"crafting.epsilonn": 1})


class TestVerify:
    def test_of_scores_and_of_the_same_as_labels_agree(self, run: taggants.Run) -> None:
        def scores(images: NDArray[np.uint8]) -> NDArray[np.float64]:
            assert images.shape[1:] == (1, 8, 8)
            assert images.dtype == np.uint8
            return np.random.default_rng(images.sum(dtype=np.int64)).random((len(images), 10))

        by_scores = taggants.verify(run, scores)
        by_labels = taggants.verify(run, lambda images: np.argsort(-scores(images), axis=1), name="labels")
        assert by_scores.ranks == by_labels.ranks
        assert by_scores.suspect == "scores"
        assert set(run.certificates()) >= {by_scores.suspect, "labels"}

    def test_certifies_a_suspect_that_knows_the_keys(self, run: taggants.Run) -> None:
        question = run.registration.question
        assert question is not None
        asked = np.repeat(run.keys.labels, question.num_queries)
        answers = [*run.sources[1].labels()[list(question.cover_ids)], *asked]
        certificate = taggants.verify(run.uri, lambda images: [answers.pop(0) for _ in images], name="knows")
        assert certificate.ranks.count(1) >= 3  # what a reference answers by itself is taken off
        assert certificate.is_detected
        assert run.certificates()["knows"] == certificate

    def test_takes_a_checkpoint(self, run: taggants.Run) -> None:
        (path,) = Path(run.uri).parent.glob("models/surrogate-0-*/model.safetensors")
        assert taggants.verify(run, path).suspect_sha256 is not None

    @pytest.mark.parametrize(
        "answer",
        [np.zeros((4, 9)), np.zeros((3, 10)), np.full((4, 1), 10), np.array(["a"] * 4), np.full((4, 1), -1)],
    )
    def test_refuses_answers_of_another_shape(self, run: taggants.Run, answer: Any) -> None:
        with pytest.raises(taggants.InputError):
            taggants.verify(run, lambda images: answer, name="wrong")
        assert "wrong" not in run.certificates()

    def test_takes_a_module_a_mapping_and_a_description_file(self, run: taggants.Run, tmp_path: Path) -> None:
        (path,) = Path(run.uri).parent.glob("models/surrogate-0-*/model.safetensors")
        module = model_from_checkpoint(path.read_bytes(), "here")[0].train()
        (tmp_path / "suspect.yaml").write_text(f"kind: checkpoint\npath: {path}\nname: described\n")
        found = [
            taggants.verify(run, module, name="module"),
            taggants.verify(run, {"kind": "checkpoint", "path": str(path)}),
            taggants.verify(run, tmp_path / "suspect.yaml"),
            taggants.verify(run, lambda images: module(torch.from_numpy(images) / 255), name="tensors"),
            taggants.verify(run, lambda images: list(module(torch.from_numpy(images) / 255)), name="list"),
            taggants.verify(run, lambda images: module(torch.from_numpy(images) / 255).numpy(), name="array"),
        ]
        assert len({certificate.ranks for certificate in found}) == 1
        assert module.training
        assert found[2].suspect == "described"

    def test_refuses_a_module_that_gives_other_scores(self, run: taggants.Run) -> None:
        for module, sentence in (
            (torch.nn.Flatten(), "has 64 classes"),
            (torch.nn.Conv2d(3, 2, 3), "the model does not take images"),
            (torch.nn.Identity(), "not with scores"),
        ):
            with pytest.raises(taggants.InputError, match=sentence):
                taggants.verify(run, module)

    def test_refuses_what_is_no_run(self, run: taggants.Run) -> None:
        with pytest.raises(taggants.InputError, match="a int is no run"):
            taggants.verify(3, np.zeros)  # type: ignore[arg-type]

    def test_refuses_what_is_no_suspect(self, run: taggants.Run) -> None:
        with pytest.raises(taggants.InputError, match="a NoneType is no suspect; give a function, a path or a Suspect"):
            taggants.verify(run, None)  # type: ignore[arg-type]


class TestRun:
    def test_names_the_file_of_a_certificate_that_is_broken(self, run: taggants.Run) -> None:
        broken = Path(run.uri, "certificates", "broken.json")
        broken.parent.mkdir(exist_ok=True)
        broken.write_text("{")
        try:
            with pytest.raises(
                taggants.InputError, match=r"certificates/broken\.json: The certificate is not valid JSON"
            ):
                run.certificates()
        finally:
            broken.unlink()

    def test_is_found_again_from_anywhere(
        self, run: taggants.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(Path(run.uri).parent)
        found = taggants.Run.open(Path(run.uri).name)
        assert found.uri == run.uri
        assert found.registration == run.registration
        assert repr(found) == f"Run.open({run.uri!r})"

    def test_is_no_other_folder(self, run: taggants.Run, tmp_path: Path) -> None:
        with pytest.raises(taggants.InputError, match=r"config\.json"):
            taggants.Run.open(tmp_path)
        renamed = tmp_path / "renamed"
        renamed.mkdir()
        (renamed / "config.json").write_bytes(Path(run.uri, "config.json").read_bytes())
        with pytest.raises(taggants.InputError, match=r"name back|renamed"):
            taggants.Run.open(renamed)

    def test_gives_the_signed_data_as_either_kind(self, run: taggants.Run) -> None:
        rows = pq.read_table(Path(run.uri, "signed", "train.parquet")).to_pylist()
        of_torch, of_hugging_face = run.dataset("torch"), run.dataset()
        assert isinstance(of_torch, TorchImages)
        assert isinstance(of_torch, torch.utils.data.Dataset)
        assert isinstance(of_hugging_face, datasets.Dataset)
        assert of_torch.classes == of_hugging_face.features["label"].names == NAMES
        for i in (0, 7, NUM_TRAIN - 1):
            expected = np.array(Image.open(io.BytesIO(rows[i]["image"]["bytes"])))
            image, label = of_torch[i]
            assert (label, of_hugging_face[i]["label"]) == (rows[i]["label"],) * 2
            assert image.shape == (1, 8, 8)
            assert image.dtype == torch.uint8
            np.testing.assert_array_equal(image[0].numpy(), expected)
            np.testing.assert_array_equal(np.array(of_hugging_face[i]["image"]), expected)
        batch, labels = next(iter(torch.utils.data.DataLoader(of_torch, batch_size=5)))
        assert (batch.shape, labels.shape) == ((5, 1, 8, 8), (5,))

    def test_gives_no_data_that_were_changed_after_the_export(self, run: taggants.Run) -> None:
        path = Path(run.uri, "signed", "train.parquet")
        before = path.read_bytes()
        try:
            path.write_bytes(before + b"x")
            with pytest.raises(taggants.InputError):
                taggants.Run.open(run.uri).dataset()
        finally:
            path.write_bytes(before)

    def test_refuses_another_kind(self, run: taggants.Run) -> None:
        with pytest.raises(taggants.InputError, match="'numpy' does not exist"):
            run.dataset("numpy")  # type: ignore[arg-type]


class TestNotebook:
    def test_a_run_shows_its_contact_sheet_and_says_that_it_is_private(self, run: taggants.Run) -> None:
        taggants.verify(run, flat, name="nothing")
        page = run._repr_html_()
        assert "keep it to yourself" in page
        assert page.count("data:image/png;base64,") == 1
        assert run.registration.registration_sha256 in page
        assert re.search("suspect nothing.*cannot be judged", page)

    def test_text_is_escaped_and_nothing_is_loaded_from_elsewhere(self, run: taggants.Run) -> None:
        class Named:
            name = "<script>alert(1)</script>"
            sha256 = None
            num_classes = 10

            def scores(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
                return flat(images)

        certificate = taggants.verify(run, lambda images: flat(images), name="x")
        object.__setattr__(certificate, "suspect", Named.name)
        for page in (certificate._repr_html_(), run._repr_html_(), run.registration._repr_html_()):
            assert "<script" not in page
            assert "http" not in page
        assert "&lt;script&gt;" in certificate._repr_html_()

    def test_no_secret_is_shown(self, run: taggants.Run) -> None:
        key_file = json.loads((Path(run.uri).parent.parent / "secrets" / f"{run.config.keys.name}.json").read_text())
        assert load_key_set(run.keys_root, f"{run.config.keys.name}.json").commitment == key_file["commitment"]
        certificate = taggants.verify(run, flat, name="y")
        shown = [run._repr_html_(), run.registration._repr_html_(), certificate._repr_html_(), repr(run)]
        for text in shown:
            assert key_file["secret"] not in text
        assert "base64" not in certificate._repr_html_() + run.registration._repr_html_()


class TestDatasetsThatCannotBeSigned:
    @pytest.mark.parametrize(
        ("items", "sentence"),
        [
            ([], "is empty"),
            ([1, 2], "not a pair"),
            ([(np.zeros((8, 8), np.uint8), 1.5)], "label 1.5"),
            ([(np.zeros((8, 8), np.uint8), -1)], "label -1"),
            ([(np.full((8, 8), 0.37), 0)], "normalisation"),
            ([(np.full((8, 8), -1.0), 0)], "normalisation"),
            ([(np.zeros((8, 8), np.int64), 0)], "int64"),
            ([(np.zeros((3, 8, 8), np.uint8), 0)], r"\[H, W, C\]"),
            ([(torch.zeros((8, 8, 3), dtype=torch.uint8), 0)], r"\[C, H, W\]"),
            ([(Image.new("P", (8, 8)), 0)], "mode P"),
        ],
    )
    def test_say_why(self, tmp_path: Path, items: list[Any], sentence: str) -> None:
        with pytest.raises(taggants.InputError, match=sentence):
            taggants.sign(items, root=tmp_path / "runs", keys=tmp_path / "secrets")

    def test_random_augmentation_is_noticed(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)

        class Augmented:
            def __len__(self) -> int:
                return 10

            def __getitem__(self, position: int) -> tuple[NDArray[np.uint8], int]:
                return rng.integers(0, 256, (8, 8), dtype=np.uint8), 0

        with pytest.raises(taggants.InputError, match="random augmentation"):
            taggants.sign(Augmented(), root=tmp_path / "runs", keys=tmp_path / "secrets")

    def test_something_else_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(taggants.InputError, match="set cannot be signed"):
            taggants.sign({1}, root=tmp_path / "runs", keys=tmp_path / "secrets")

    def test_hugging_face_columns_must_be_clear(self, tmp_path: Path) -> None:
        given = datasets.Dataset.from_dict({"a": [1], "b": [2]})
        with pytest.raises(taggants.InputError, match="no column for its images"):
            taggants.sign(given, root=tmp_path / "runs", keys=tmp_path / "secrets")


@pytest.mark.parametrize("as_", ["uint8 tensor", "float tensor", "picture", "array [H, W, C]", "float64 array"])
def test_all_forms_of_an_image_give_the_same_file(tmp_path: Path, as_: str) -> None:
    from taggants.data.frameworks import write_dataset
    from taggants.storage import Root

    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    image = {
        "uint8 tensor": torch.from_numpy(pixels.transpose(2, 0, 1).copy()),
        "float tensor": torch.from_numpy(pixels.transpose(2, 0, 1).copy()).to(torch.float32) / 255,
        "picture": Image.fromarray(pixels),
        "array [H, W, C]": pixels,
        "float64 array": pixels / 255,
    }[as_]
    folder, has_test = write_dataset([(image, torch.tensor(1)), (image, np.int64(0))], None, Root(str(tmp_path)))
    assert not has_test
    rows = pq.read_table(Path(folder.uri, "train.parquet")).to_pylist()
    np.testing.assert_array_equal(np.array(Image.open(io.BytesIO(rows[0]["image"]["bytes"]))), pixels)
    assert [row["label"] for row in rows] == [1, 0]
