"""A checkpoint whose tensors are in shards: a file, and the folder beside it to which all ranks write their parts.

The engine is ``torch.distributed.checkpoint``; the folder counts from when the file is there.
"""

from __future__ import annotations

import functools
import io
import itertools
import math
import pickle
import shutil
import sys
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import distributed
from ..components.dtensor import is_sharded, local, whole
from ..errors import CheckpointError
from . import access, bounds
from . import files as checkpoint_files

SUFFIX = ".shards"
_KEY = "in shards"  # marks what stands in a file for a tensor in the folder


def whole_state(state: Any) -> Any:
    """Return a ``state_dict``, or a dict of them, with whole tensors for rank 0 to write; all ranks have to call it.

    They are gathered one by one, and on the CPU: the device may have no room for all. The other ranks keep none.
    """
    if isinstance(state, Mapping):
        return {key: whole_state(part) for key, part in state.items()}
    if not is_sharded(state):
        return state
    gathered = whole(state)
    return gathered.cpu() if distributed.is_main() else torch.empty(0)


# ---------------------------------------------------------------- checkpoints


def split_off(value: Any, where: str = "") -> tuple[Any, dict[str, Tensor]]:
    """Return plain data with a reference for each tensor in shards, and those tensors by the names they get.

    Parameters
    ----------
    value : plain data and tensors
    where : str
        Its place in the checkpoint.
    """
    if isinstance(value, Mapping) or type(value) in (list, tuple):
        pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
        parts = {key: split_off(part, f"{where}/{key}") for key, part in pairs}
        tensors = {name: tensor for _, found in parts.values() for name, tensor in found.items()}
        rest = {key: part for key, (part, _) in parts.items()}
        return rest if isinstance(value, Mapping) else type(value)(rest.values()), tensors
    if not is_sharded(value):
        return value, {}
    if any(placement.is_partial() for placement in value.placements):
        value = value.redistribute(placements=[_placement(None)])
    dim = value.placements[0].dim if value.placements[0].is_shard() else None
    return {_KEY: where, "shape": list(value.shape), "dtype": value.dtype, "dim": dim}, {where: value}


def _placement(dim: int | None) -> Any:
    from torch.distributed.tensor import Replicate, Shard

    return Replicate() if dim is None else Shard(dim)


def write_shards(saved: dict[str, Any], beside: Path) -> dict[str, Any]:
    """Write the tensors of a state that are in shards, and return the rest, which refers to them.

    All ranks have to call it. What they write counts from when the file that is made of the rest is there.

    Parameters
    ----------
    saved : dict
    beside : Path
        The folder of that file.

    Raises
    ------
    CheckpointError
        On all ranks, if one of them cannot write; nothing is left then.
    """
    from torch.distributed import checkpoint as dcp

    rest, tensors = split_off(saved)
    same = distributed.from_main(lambda: _twice(tensors))
    folder = Path(distributed.from_main(lambda: str(_new_folder(beside, saved["step"]))))
    try:
        writer = dcp.FileSystemWriter(str(folder))
        dcp.save(
            {name: tensors[name] for name in tensors if name not in same},
            storage_writer=writer,
            process_group=distributed.control(),
        )
        names = [path.name for path in folder.iterdir()]
        own = [name for name in names if name.startswith(f"__{distributed.rank()}_") or _is_metadata(name)]
        digests = {name: [(folder / name).stat().st_size, _digest(folder / name)] for name in own}
        if distributed.is_main():
            checkpoint_files.sync_folder(folder)
            checkpoint_files.sync_folder(beside)
        problems = {}
    except dcp.CheckpointException as error:
        digests, problems = {}, {rank: str(reason) for rank, (reason, _) in error.failures.items()}
    except OSError as error:
        digests, problems = {}, {distributed.rank(): str(error)}
    written = distributed.gather_objects((digests, problems))
    files = {name: entry for of_rank, _ in written for name, entry in of_rank.items()}
    for _, of_rank in written:
        problems |= of_rank
    unseen = distributed.from_main(lambda: [name for name in files if not (folder / name).is_file()])
    if unseen:
        problems[0] = f"it does not see {unseen[0]}, which another one has written; the disk has to be common"
    if problems:
        distributed.from_main(lambda: shutil.rmtree(folder, ignore_errors=True))
        size = sum(local(tensor).nbytes for tensor in tensors.values())
        rank, reason = next(iter(problems.items()))
        raise CheckpointError(
            f"cannot write {folder}: rank {rank}: {reason}. Rank {distributed.rank()} needs {size} bytes there; "
            f"{checkpoint_files.free_bytes(folder)} bytes are free. The older checkpoints are untouched."
        )
    return {**rest, "shards": {"folder": folder.name, "files": files, "same": same}}


def _twice(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the names of tensors that an earlier one shares its memory with, and the name of that."""
    first: dict[Any, str] = {}
    found: dict[str, str] = {}
    for name, tensor in tensors.items():
        part = local(tensor)
        other = first.setdefault((part.data_ptr(), part.dtype, part.stride(), tensor.shape), name)
        if other != name:
            found[name] = other
    return found


def _new_folder(beside: Path, step: int) -> Path:
    for number in itertools.count():
        folder = beside / f"step-{step:08d}{f'-{number}' if number else ''}{SUFFIX}"
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:  # saved twice after this step, or left by a killed process
            continue
        except OSError as error:
            raise CheckpointError(f"cannot write {folder}: {error.strerror or error}.") from error
    raise AssertionError  # count() has no end


def _is_metadata(name: str) -> bool:
    return name == ".metadata" and distributed.is_main()


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return checkpoint_files.digest(file, path.stat().st_size)


def check_folder(saved: dict[str, Any], path: Path) -> None:
    """Check what a checkpoint's file says of the folder beside it.

    Raises
    ------
    CheckpointError
        If the folder is not there, not complete, or damaged.
    """
    if not ("format" in saved and "shards" in saved):
        return
    folder = _folder(saved, path)
    if not folder.is_dir():
        raise CheckpointError(f"{path} needs the folder {folder}, which is not there. Keep the two together.")
    for name, (size, digest) in saved["shards"]["files"].items():
        part = folder / _plain_name(name, path)
        if access.leads_out(part, path.parent):
            raise CheckpointError(f"{path} cannot be read: its part {part} is a link that leads out of the folder.")
        there = part.stat().st_size if part.is_file() else None
        if there is None:
            raise CheckpointError(f"{path} cannot be read: its part {part} is missing.")
        if there != size or _digest(part) != digest:
            raise CheckpointError(
                f"{path} cannot be read: its part {part} is damaged ({there} bytes, {size} were written)."
            )


def _folder(saved: dict[str, Any], path: Path) -> Path:
    return path.parent / _plain_name(saved["shards"]["folder"], path)


def _plain_name(name: Any, path: Path) -> str:
    """Return a name that a file gives, unless it leads out of the folder."""
    if type(name) is not str or name in ("", ".", "..") or any(part in name for part in "/\\\0"):
        raise CheckpointError(f"{path} names {name!r} as a part of it, which is no name of a file beside it.")
    return name


def read_shards(saved: dict[str, Any], path: Path, mesh: Any) -> dict[str, Any]:
    """Return the parts of a checkpoint with its tensors: in shards where there is a mesh, else whole.

    Every rank reads what it needs by itself.

    Parameters
    ----------
    saved : dict
        What the file at `path` holds.
    path : Path
    mesh : DeviceMesh or None
        Over which the modules are in shards.

    Raises
    ------
    CheckpointError
        For a file that the folder's index does not belong to.
    """
    if not ("format" in saved and "shards" in saved):
        return saved
    from torch.distributed import checkpoint as dcp

    tensors: dict[str, Tensor] = {}
    folder = _folder(saved, path)
    sizes = {name: size for name, (size, _) in saved["shards"]["files"].items()}
    try:
        tree = _put_in(saved, mesh, saved["shards"]["same"], tensors, [sum(sizes.values())])
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            dcp.load(dict(tensors), storage_reader=_reader(folder, sizes), no_dist=True)
    except (dcp.CheckpointException, Exception) as error:  # an index may be anything at all; the former is no Exception
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise CheckpointError(f"the tensors of {path} cannot be read from {folder}: {reason}.") from error
    return tree


def _put_in(value: Any, mesh: Any, same: Mapping[str, str], tensors: dict[str, Tensor], room: list[int]) -> Any:
    """Return plain data with an empty tensor for each reference, the same one for the same name.

    `room` is how many bytes the files have for the tensors that are not yet there.
    """
    if isinstance(value, Mapping) and _KEY in value:
        name = same.get(value[_KEY], value[_KEY])
        if name not in tensors:
            if not all(type(length) is int and length >= 0 for length in value["shape"]):
                raise ValueError(f"{name} has the shape {value['shape']}")
            room[0] -= math.prod(value["shape"]) * value["dtype"].itemsize
            if room[0] < 0:
                raise ValueError(f"{name} is larger than the files in the folder")
        if name not in tensors and mesh is not None:
            from torch.distributed import tensor

            shape, placements = value["shape"], [_placement(value["dim"])]
            tensors[name] = tensor.zeros(shape, dtype=value["dtype"], device_mesh=mesh, placements=placements)
        elif name not in tensors:
            tensors[name] = torch.empty(value["shape"], dtype=value["dtype"])
        return tensors[name]
    if isinstance(value, Mapping):
        return {key: _put_in(part, mesh, same, tensors, room) for key, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_put_in(part, mesh, same, tensors, room) for part in value)
    return value


def _reader(folder: Path, sizes: Mapping[str, int]) -> Any:
    """Return what reads a folder of shards without running code: PyTorch unpickles the folder's index as it is.

    Parameters
    ----------
    folder : Path
    sizes : mapping of str to int
        The files in it, with their sizes; the index may name no others.
    """
    from torch.distributed import checkpoint as dcp

    class Reader(dcp.FileSystemReader):
        def read_metadata(self, *args: Any, **kwargs: Any) -> Any:
            index.storage_meta = dcp.metadata.StorageMeta(load_id=self.load_id)
            return index

        def _slice_file(self, file: Any, sinfo: Any) -> Any:
            part = _Part(file, sinfo.offset, sinfo.length)
            if zipfile.is_zipfile(part):
                bounds.check_archive(part, sinfo.length, f"{folder}/{sinfo.relative_path}", checksums=False)
            return super()._slice_file(file, sinfo)

    # Before PyTorch asks for it, which prints what goes wrong.
    index = _index(folder, sizes)
    return Reader(str(folder))


class _Part(io.BytesIO):
    """So many bytes of an open file, for reading; none of them is copied."""

    def __init__(self, file: Any, start: int, size: int) -> None:
        super().__init__()
        self.file, self.start, self.size, self.at = file, start, size, 0

    def seek(self, offset: int, whence: int = 0) -> int:
        place = offset + (0, self.at, self.size)[whence]
        if place < 0:
            raise OSError("before the first byte")  # as of a file: who reads archives relies on it
        self.at = place
        return place

    def tell(self) -> int:
        return self.at

    def read(self, count: int | None = -1) -> bytes:
        left = max(0, self.size - self.at)
        self.file.seek(self.start + self.at)
        found = self.file.read(left if count is None or count < 0 else min(count, left))
        self.at += len(found)
        return found


def _index(folder: Path, sizes: Mapping[str, int]) -> Any:
    """Return the index of a folder of shards, which refers to nothing but what is in its files."""
    with access.open_inside(folder / ".metadata", folder) as file:
        found = _Unpickler(file).load()
    for info in found.storage_data.values():
        if info.relative_path not in sizes or info.transform_descriptors is not None:
            raise pickle.UnpicklingError(f"it names {info.relative_path!r}, which is no part of it")
        if not 0 <= info.offset <= info.offset + info.length <= sizes[info.relative_path]:
            raise pickle.UnpicklingError(f"it names bytes of {info.relative_path!r} that are not there")
    return found


# All that PyTorch puts into the index of a folder: classes of plain data, and what makes a layout of its name.
_IN_AN_INDEX = {
    *(("torch", "Size"), ("torch.serialization", "_get_layout"), ("pathlib", "PosixPath"), ("pathlib", "WindowsPath")),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    *(
        ("torch.distributed.checkpoint.metadata", name)
        for name in ("Metadata", "MetadataIndex", "StorageMeta", "TensorProperties", "TensorStorageMetadata")
    ),
    *(
        ("torch.distributed.checkpoint.metadata", name)
        for name in ("BytesStorageMetadata", "ChunkStorageMetadata", "_MEM_FORMAT_ENCODING")
    ),
}


class _Unpickler(pickle._Unpickler):  # type: ignore[name-defined, misc]
    """Rebuilds what the index of a folder is made of, by exact names, and imports nothing.

    The one in Python: that in C takes as much memory as a number in the file asks for.
    """

    dispatch = {code: load for code, load in pickle._Unpickler.dispatch.items() if code != pickle.BYTEARRAY8[0]}  # type: ignore[attr-defined]

    def find_class(self, module: str, name: str) -> Any:
        found = None
        if (module, name) in _IN_AN_INDEX:
            found = vars(sys.modules[module]).get(name)
        elif module == "torch" and isinstance(vars(torch).get(name), torch.dtype):
            found = vars(torch)[name]
        if found is None:
            raise pickle.UnpicklingError(f"it holds a {module}.{name}, which no checkpoint does")
        return found


def sweep(folder: Path) -> None:
    """Remove the shards in the folder of a run's checkpoints that belong to none of them."""
    there = [path for path in folder.glob(f"step-*{SUFFIX}") if path.is_dir() and not path.is_symlink()]
    if there:
        files = [path for path in folder.glob("*.ckpt") if access.problem_of(path, folder) is None]
        used = {_folder_of(path, path.stat().st_mtime_ns) for path in files}
        for path in there:
            if path.name not in used:
                shutil.rmtree(path, ignore_errors=True)


@functools.lru_cache(maxsize=1024)
def _folder_of(path: Path, changed: int) -> str | None:
    try:
        shards = checkpoint_files.read(path).get("shards")
    except (CheckpointError, OSError):
        return None
    name = shards.get("folder") if isinstance(shards, dict) else None
    return name if isinstance(name, str) else None
