from __future__ import annotations

import inspect
import subprocess
import sys
from importlib.resources import files

import pytest

import taggants

HEAVY = ("torch", "ray", "boto3", "pyarrow", "scipy", "numpy", "pydantic", "PIL")


def answer_of(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_importing_the_package_loads_nothing_heavy_and_takes_under_half_a_second_of_cpu() -> None:
    code = (
        "import sys, time; start = time.process_time(); import taggants; taggants.__version__; dir(taggants)\n"
        f"print(time.process_time() - start, *(name for name in {HEAVY} if name in sys.modules))"
    )
    seconds, *loaded = answer_of(code).split()
    assert loaded == []
    assert float(seconds) < 0.5


def test_using_it_loads_neither_ray_nor_boto3() -> None:
    code = (
        "import sys, taggants\n"
        "for name in taggants.__all__: getattr(taggants, name)\n"
        "print(*(name for name in ('ray', 'boto3') if name in sys.modules))"
    )
    assert answer_of(code) == ""


@pytest.mark.parametrize("name", taggants.__all__)
def test_every_public_name_resolves_and_is_documented(name: str) -> None:
    value = getattr(taggants, name)
    assert name in dir(taggants)
    if name == "__version__":
        assert isinstance(value, str)
        return
    assert len(inspect.getdoc(value) or "") > 60
    if inspect.isfunction(value):
        signature = inspect.signature(value)
        assert signature.return_annotation is not inspect.Signature.empty
        assert all(parameter.annotation is not inspect.Parameter.empty for parameter in signature.parameters.values())


@pytest.mark.parametrize("name", ["open", "uri", "registration", "certificates", "dataset"])
def test_the_public_members_of_a_run_are_documented(name: str) -> None:
    assert inspect.getdoc(inspect.getattr_static(taggants.Run, name))
    assert name in (taggants.Run.__doc__ or "")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'signn'"):
        taggants.signn  # type: ignore[attr-defined]  # noqa: B018


def test_type_checkers_are_told_that_it_is_typed() -> None:
    assert (files("taggants") / "py.typed").is_file()
