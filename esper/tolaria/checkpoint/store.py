"""Checkpoints: a manifest of content-addressed safetensors chunks. Without its event a checkpoint does not exist.

What changes, and what is small, is written anew into chunks of the checkpoint's own, so that it needs no file of those
before it. A large tensor that stays as it is (a frozen layer) is stored twice, and checkpoints refer to the two copies
in turn: that costs its bytes once more than it has to, and no damaged file takes two checkpoints in a row. Files live
under ``runs/RUN/`` in the artifacts: ``chunks/SHA256.safetensors`` and ``manifests/SHA256.json``.

``folds/MANIFEST.SHA256.fold`` may hold the run as it was folded when a checkpoint was taken, JSON too: a help that
nothing depends on. A checkpoint without it, or whose copy of it is damaged, is whole. Only the checkpoint's event names
it, no manifest: that is the same in two runs that train the same, but what clocks gave them is not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import safetensors.torch
from torch import Tensor

from esper.artifacts.port import ArtifactStore
from esper.errors import CorruptArtifact
from esper.tamiyo.run.snapshot import Folded, from_bytes, to_bytes
from esper.tolaria.model.digest import StateDigest, digest_of, tensor_digest
from esper.tolaria.model.tree import Skeleton, compact_json, flatten, unflatten

FORMAT = 1
CHUNK_BYTES = 64 * 2**20
LARGE = 64 * 2**10
"""Bytes from which on an unchanged tensor is referenced rather than written anew; generators' states have less."""


def nothing() -> None:
    """No fold is at hand, and the log has all that the checkpoint includes."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A copy of the state at one moment, ready to be written by another thread.

    ``cursor`` is what a resume needs besides the state: where in the data, with which generators. ``folded`` is the run
    up to its event ``sequence``, if that is at hand; asking waits until the log has that event, or raises LogError.
    """

    step: int
    sequence: int
    reasons: tuple[str, ...]
    skeleton: Skeleton
    tensors: dict[str, Tensor]
    cursor: Skeleton
    cursor_tensors: dict[str, Tensor]
    folded: Callable[[], Folded | None] = nothing


@dataclass(frozen=True, slots=True)
class Written:
    """A checkpoint that is on disk: its manifest's SHA-256, the bytes newly written, and its fold's SHA-256."""

    manifest: str
    size: int
    fold: str | None = None


@dataclass(frozen=True, slots=True)
class Loaded:
    """A checkpoint read back and verified. ``tree`` and ``cursor`` hold tensors in memory that torch allocated."""

    step: int
    sequence: int
    tree: Any
    cursor: Any
    digest: StateDigest


def snapshot(
    step: int,
    sequence: int,
    reasons: Iterable[str],
    tree: Any,
    cursor: Any,
    folded: Callable[[], Folded | None] = nothing,
) -> Snapshot:
    """Copy ``tree`` and ``cursor``, so that training may go on."""
    skeleton, tensors = flatten(tree)
    cursor_skeleton, cursor_tensors = flatten(cursor)
    cursor_copy = _copy(cursor_tensors)
    return Snapshot(step, sequence, tuple(reasons), skeleton, _copy(tensors), cursor_skeleton, cursor_copy, folded)


class Checkpoints:
    """The checkpoints of one run in the artifact store. Used by one thread at a time."""

    def __init__(self, store: ArtifactStore, run_id: str) -> None:
        self._store, self._folder = store, f"runs/{run_id}"
        self._before: dict[str, str] = {}  # of the newest checkpoint: digest of a tensor, its key in the chunk -> chunk
        self._copies: dict[str, set[str]] = {}  # of large tensors that did not change: key -> chunks
        self._wrote = False
        self._live: dict[str, set[str]] = {}  # manifest -> the keys of its files

    def write(self, snap: Snapshot) -> Written:
        """Write chunks, then the manifest; durable when it returns. Raises OSError and its like."""
        digests = {name: tensor_digest(tensor) for name, tensor in snap.tensors.items()}
        cursor_digests = {name: tensor_digest(tensor) for name, tensor in snap.cursor_tensors.items()}
        given = {
            known[name].hex(): tensor
            for named, known in ((snap.tensors, digests), (snap.cursor_tensors, cursor_digests))
            for name, tensor in named.items()
        }
        places, size = self._place(given, snap.step)
        folded = snap.folded()  # waits until the log has all that it includes: no manifest is ahead of the log
        manifest = {
            "format": FORMAT,
            "step": snap.step,
            "sequence": snap.sequence,
            "digest": digest_of(snap.skeleton, digests).digest,
            "state": snap.skeleton,
            "cursor": snap.cursor,
            "tensors": _placed(digests, places),
            "cursor_tensors": _placed(cursor_digests, places),
        }
        data = compact_json(manifest)
        sha256 = hashlib.sha256(data).hexdigest()
        self._store.put(self._manifest_key(sha256), data)
        fold = self._write_fold(sha256, folded)
        self._live[sha256] = self._files_of(sha256, manifest)
        self._before, self._wrote = places, True
        return Written(sha256, size + len(data), fold)

    def read(self, manifest: str) -> Loaded:
        """The checkpoint with that manifest, every digest checked; raises CorruptArtifact."""
        raw = self._manifest(manifest)
        loaded = {chunk: self._read_chunk(chunk) for chunk in sorted(_chunks_of(raw))}
        if not self._wrote:
            self._before = {key: chunk for part in ("tensors", "cursor_tensors") for key, chunk in raw[part].values()}
        # Cloned for each name: equal tensors (Adam's step counters) share one entry of a chunk but must not share
        # memory, and safetensors' addresses are not aligned as torch's are, which can change the bits of a product.
        tensors, cursor_tensors = (
            {name: loaded[chunk][key].clone() for name, (key, chunk) in raw[part].items()}
            for part in ("tensors", "cursor_tensors")
        )
        return Loaded(
            step=raw["step"],
            sequence=raw["sequence"],
            tree=unflatten(raw["state"], tensors),
            cursor=unflatten(raw["cursor"], cursor_tensors),
            digest=digest_of(raw["state"], {name: bytes.fromhex(key) for name, (key, _) in raw["tensors"].items()}),
        )

    def folded(self, manifest: str, fold: str | None) -> Folded | None:
        """The run as it was folded for the checkpoint with that manifest, whose event names ``fold``; None if none.

        Raises CorruptArtifact where it is lost, damaged, or of another version of the fold.
        """
        return None if fold is None else from_bytes(self._store.get(f"{self._folds(manifest)}{fold}.fold", fold))

    def adopt(self, manifest: str) -> None:
        """Take over a checkpoint of a former process; raises CorruptArtifact.

        Its chunks are only seen to be there; they are checked when they are read.
        """
        raw = self._manifest(manifest)
        for chunk in _chunks_of(raw):
            if not self._store.exists(self._chunk_key(chunk)):
                raise CorruptArtifact(
                    f"checkpoint {manifest[:12]} of {self._folder}: the chunk {chunk[:12]} is missing"
                )
        self._live[manifest] = self._files_of(manifest, raw)

    def remove(self, manifest: str) -> None:
        """Delete a retired checkpoint's files that no other checkpoint refers to, then its manifest.

        In this order, so that whoever is killed in between leaves what tells the next process where to go on.
        """
        files = self._live.pop(manifest, None)
        if files is None:
            files = self._files_left(manifest)
        gone = files - set().union(*self._live.values())
        self._copies = {
            key: left
            for key, chunks in self._copies.items()
            if (left := {chunk for chunk in chunks if self._chunk_key(chunk) not in gone})
        }
        for file in sorted(gone):
            self._store.delete(file)
        self._store.delete(self._manifest_key(manifest))

    def ahead(self, end: int) -> tuple[int, int] | None:
        """The step and the sequence number of a checkpoint that includes more events than ``end``; None if there is
        none. No manifest is written before the log has what it includes, so a log that ends before has lost its end."""
        for key in self._store.keys(f"{self._folder}/manifests/"):
            try:
                raw = self._manifest(key.rpartition("/")[2].removesuffix(".json"))
            except CorruptArtifact:
                continue  # left half written, or damaged
            if raw["sequence"] > end:
                return raw["step"], raw["sequence"]
        return None

    def clean(self) -> None:
        """Delete the run's files that no checkpoint refers to, of those that were adopted or written: what was left by
        a process that was killed before it could commit them, or delete them."""
        named = set().union(*self._live.values(), map(self._manifest_key, self._live))
        for key in list(self._store.keys(f"{self._folder}/")):
            if key not in named:
                self._store.delete(key)

    def _files_left(self, manifest: str) -> set[str]:
        """The files of a checkpoint that was not adopted; none if its manifest is gone or damaged."""
        try:
            return self._files_of(manifest, self._manifest(manifest))
        except CorruptArtifact:
            return set(self._store.keys(self._folds(manifest)))

    def _files_of(self, manifest: str, raw: dict[str, Any]) -> set[str]:
        """The keys of what goes with a manifest."""
        return {*self._store.keys(self._folds(manifest)), *map(self._chunk_key, _chunks_of(raw))}

    def _place(self, tensors: dict[str, Tensor], step: int) -> tuple[dict[str, str], int]:
        """The chunk of each, by the key that it has there, and the bytes that were written.

        The checkpoint before has none of these chunks.
        """
        used = set(self._before.values())
        still = {key: tensor for key, tensor in tensors.items() if tensor.nbytes >= LARGE and key in self._before}
        places = {key: min(free) for key in still if (free := self._copies.get(key, set()) - used)}
        again = {key: tensor for key, tensor in still.items() if key not in places}
        moved = {key: tensor for key, tensor in tensors.items() if key not in still}
        size = 0
        for chunk in (*_chunks(again), *_chunks(moved)):
            sha256, length = self._write_chunk(chunk, step)
            places |= dict.fromkeys(chunk, sha256)
            size += length
        for key in again:
            self._copies.setdefault(key, set()).add(places[key])
        return places, size

    def _write_chunk(self, tensors: dict[str, Tensor], step: int) -> tuple[str, int]:
        """The digest and the length of a chunk; that of another step is another, whatever it holds."""
        bare = {key: tensor.cpu().contiguous() for key, tensor in tensors.items()}
        data = safetensors.torch.save(bare, metadata={"step": str(step)})
        sha256 = hashlib.sha256(data).hexdigest()
        self._store.put(self._chunk_key(sha256), data)
        return sha256, len(data)

    def _write_fold(self, manifest: str, folded: Folded | None) -> str | None:
        if folded is None:
            return None
        data = to_bytes(folded)
        sha256 = hashlib.sha256(data).hexdigest()
        self._store.put(f"{self._folds(manifest)}{sha256}.fold", data)
        return sha256

    def _read_chunk(self, chunk: str) -> dict[str, Tensor]:
        return safetensors.torch.load(self._store.get(self._chunk_key(chunk), chunk))

    def _manifest(self, manifest: str) -> dict[str, Any]:
        raw: dict[str, Any] = json.loads(self._store.get(self._manifest_key(manifest), manifest))
        if raw["format"] != FORMAT:
            raise CorruptArtifact(
                f"checkpoint {manifest[:12]} has format {raw['format']}; this Esper reads {FORMAT}; update it"
            )
        return raw

    def _chunk_key(self, sha256: str) -> str:
        return f"{self._folder}/chunks/{sha256}.safetensors"

    def _folds(self, manifest: str) -> str:
        """What the key of the folded run begins with."""
        return f"{self._folder}/folds/{manifest}."

    def _manifest_key(self, sha256: str) -> str:
        return f"{self._folder}/manifests/{sha256}.json"


def _placed(digests: dict[str, bytes], places: dict[str, str]) -> dict[str, list[str]]:
    return {name: [digest.hex(), places[digest.hex()]] for name, digest in digests.items()}


def _chunks_of(manifest: dict[str, Any]) -> set[str]:
    return {chunk for part in ("tensors", "cursor_tensors") for _, chunk in manifest[part].values()}


def _copy(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def _chunks(tensors: dict[str, Tensor]) -> Iterable[dict[str, Tensor]]:
    chunk: dict[str, Tensor] = {}
    size = 0
    for key, tensor in tensors.items():
        chunk[key] = tensor
        size += tensor.nbytes
        if size >= CHUNK_BYTES:
            yield chunk
            chunk, size = {}, 0
    if chunk:
        yield chunk
