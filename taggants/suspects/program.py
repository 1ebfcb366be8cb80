"""A suspect that is a program of torch: TorchScript, or what torch.export saved.

Such a file holds computations of a stranger's choice, and opening it is running his code: TorchScript reaches files through its
operators, and torch.export's loader evaluates expressions and unpickles. So a description must say `trust_code: true`, which is
for those who have the file from somebody they would also take a script from.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from taggants.errors import InputError
from taggants.suspects.description import FileUri, Owner, SuspectDescription
from taggants.suspects.naming import name_of_file
from taggants.suspects.preprocessing import Preprocessing
from taggants.suspects.weights import device_of, read_file

if TYPE_CHECKING:
    from torch import nn

    from taggants.suspects.module_suspect import ModuleSuspect


class ProgramDescription(SuspectDescription):
    """A file that holds a model and its weights, which tells neither its size nor its normalisation."""

    path: FileUri = Field(description="path or s3:// URI of the file")
    image_size: int | None = Field(None, ge=1, le=8192, description="side in px that it takes; null: that of the keys")
    channels: Literal[1, 3] | None = Field(None, description="that it takes; null: those of the keys")
    mean: float | tuple[float, ...] = Field(0.0, description="of pixels in [0, 1]; 0 where the file normalises itself")
    std: float | tuple[float, ...] = Field(1.0, description="of pixels in [0, 1]; 1 where the file normalises itself")

    def preprocessing(self, owner: Owner) -> Preprocessing:
        """Returns what the model takes, as far as the description says it."""
        return Preprocessing(self.image_size, self.mean, self.std, self.channels or owner.image_shape[0])


class TorchProgramDescription(ProgramDescription):
    """A TorchScript archive or an exported program of torch."""

    trust_code: bool = Field(
        False, description="the file comes from somebody whose code you would run: opening it runs theirs"
    )
    device: Literal["cpu", "cuda"] = Field("cpu", description="where it answers")

    def open(self, owner: Owner) -> ModuleSuspect:
        from taggants.suspects.module_suspect import ModuleSuspect

        if not self.trust_code:
            raise InputError(
                f"{self.path} is a program, and opening it runs code of whoever made it; set trust_code: true if you trust them, "
                "or ask them for the state dict or ONNX"
            )
        data, sha256, origin = read_file(self.path)
        return ModuleSuspect(
            self.module(data, origin).to(device_of(self.device)),
            name_of_file(self.path),
            self.preprocessing(owner),
            image_shape=owner.image_shape,
            sha256=sha256,
            class_names=self.class_names,
        )

    def module(self, data: bytes, origin: str) -> nn.Module:
        """Returns the model in a file's content."""
        raise NotImplementedError


class TorchScriptDescription(TorchProgramDescription):
    """What torch.jit.save wrote."""

    def module(self, data: bytes, origin: str) -> nn.Module:
        import torch

        try:
            module: nn.Module = torch.jit.load(io.BytesIO(data), map_location="cpu")  # type: ignore[no-untyped-call]
        except Exception as error:
            raise InputError(
                f"{origin} is no TorchScript file ({str(error)[:120]}); save it with torch.jit.save"
            ) from None
        return module


class TorchExportDescription(TorchProgramDescription):
    """What torch.export.save wrote. It takes as many images at a time as its batch dimension says."""

    def module(self, data: bytes, origin: str) -> nn.Module:
        import torch

        try:
            return torch.export.load(io.BytesIO(data)).module()
        except Exception as error:
            raise InputError(
                f"{origin} is no exported program ({str(error)[:120]}); save it with torch.export.save, of this version of torch"
            ) from None
