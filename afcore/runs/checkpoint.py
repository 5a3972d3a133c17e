"""Training state as content-addressed parts and one manifest.

A part is the weights, or the optimizer moments, of the embeddings, one block, or the head, as
safetensors; its object is named by its sha256. A frozen part never changes, so it is stored once,
and so is a whole base under adapters.
The manifest is committed last, by the caller, as part of the epoch's record.

Only the holder of the run's lease writes or collects parts, so no part can vanish between a writer
finding it and the manifest naming it.
"""

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from afcore.digest import ContentDigest, content_digest
from afcore.errors import IntegrityError
from afcore.model.split_model import SplitModel
from afcore.storage.objects import Storage
from afcore.training.optimizer import SuffixOptimizer

__all__ = [
    "collect_parts",
    "encode_checkpoint",
    "load_moments",
    "load_sums",
    "load_weights",
    "part_key",
    "save_checkpoint",
    "save_sums",
    "weight_digests",
]

_MOMENTS = "optimizer."
_log = logging.getLogger(__name__)


def weight_digests(split: SplitModel) -> dict[str, ContentDigest]:
    """Content digest of each part's weights."""
    return {part: content_digest(_encode_weights(split, part)) for part in split.parts}


def encode_checkpoint(
    split: SplitModel, optimizer: SuffixOptimizer, unchanged: Collection[str]
) -> Iterator[tuple[str, bytes]]:
    """Parts by name, as they are now.

    Args:
        split: the model.
        optimizer: its moments are kept for what it still optimizes.
        unchanged: parts that are known to be stored and frozen since: left out.
    """
    moments = _group_moments(split, optimizer.moments())
    for part in split.parts:
        if part in unchanged:
            continue
        yield part, _encode_weights(split, part)
        if part in moments:
            yield _MOMENTS + part, save_tensors(moments[part])


def save_checkpoint(
    storage: Storage, folder: str, encoded: Iterable[tuple[str, bytes]]
) -> dict[str, ContentDigest]:
    """Write the parts whose digest is new, or that are not there whole.

    Args:
        storage: where.
        folder: holds the parts.
        encoded: as :func:`encode_checkpoint` gives them.

    Returns:
        Digests by part: ``embeddings``, ``block.000``, ..., ``optimizer.block.000``, ...; with
        adapters also ``adapter.block.000``, ...
    """
    digests: dict[str, ContentDigest] = {}
    written = 0
    for name, data in encoded:
        digests[name] = content_digest(data)
        if not _is_stored(storage, folder, digests[name], len(data)):
            storage.put(part_key(folder, digests[name]), data)
            written += len(data)
    _log.info("checkpoint: %.1f MB written", written / 1e6)
    return digests


def save_sums(storage: Storage, folder: str, sums: Mapping[str, Tensor]) -> ContentDigest:
    """Write the gradients that an unfinished interval has added up."""
    data = save_tensors({name: tensor.cpu().contiguous() for name, tensor in sums.items()})
    digest = content_digest(data)
    storage.put(part_key(folder, digest), data)
    return digest


def load_sums(storage: Storage, folder: str, digest: ContentDigest) -> dict[str, Tensor]:
    """What :func:`save_sums` wrote.

    Raises:
        IntegrityError: when it is missing or damaged.
    """
    return _load(storage, folder, "sums of gradients", digest)


def load_weights(
    storage: Storage, folder: str, split: SplitModel, digests: Mapping[str, ContentDigest]
) -> None:
    """Put a checkpoint's weights into the model.

    Raises:
        IntegrityError: when a part is missing or damaged.
    """
    with torch.no_grad():
        for part in split.parts:
            known = split.part_tensors(part)
            for name, tensor in _load(storage, folder, part, digests[part]).items():
                known[name].copy_(tensor)


def load_moments(
    storage: Storage,
    folder: str,
    digests: Mapping[str, ContentDigest],
) -> dict[str, Tensor]:
    """A checkpoint's optimizer moments, as :meth:`SuffixOptimizer.moments` gives them.

    Raises:
        IntegrityError: when a part is missing or damaged.
    """
    moments: dict[str, Tensor] = {}
    for part, digest in digests.items():
        if part.startswith(_MOMENTS):
            moments.update(_load(storage, folder, part, digest))
    return moments


def collect_parts(
    storage: Storage, folder: str, keep: Iterable[Mapping[str, ContentDigest]]
) -> int:
    """Delete parts that no kept checkpoint names; the caller holds the run's lease.

    Returns:
        Bytes freed.
    """
    named = {part_key(folder, digest) for digests in keep for digest in digests.values()}
    freed = 0
    for key, num_bytes in storage.list(folder).items():
        if key not in named:
            storage.delete(key)
            freed += num_bytes
    return freed


def part_key(folder: str, digest: ContentDigest) -> str:
    """Of a part in the store."""
    return f"{folder}/{digest}.safetensors"


def _is_stored(storage: Storage, folder: str, digest: ContentDigest, num_bytes: int) -> bool:
    """Whether a part is there, whole: a power cut leaves files empty, short, or full of zeros."""
    key = part_key(folder, digest)
    if storage.size(key) != num_bytes:
        return False
    return storage.protocol != "file" or content_digest(storage.mapped(key)) == digest


def _encode_weights(split: SplitModel, part: str) -> bytes:
    tensors = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in split.part_tensors(part).items()
    }
    data: bytes = save_tensors(tensors)
    return data


def _group_moments(
    split: SplitModel, moments: Mapping[str, Tensor]
) -> dict[str, dict[str, Tensor]]:
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in moments.items():
        part = split.part_of[name.rpartition("/")[0]]
        groups.setdefault(part, {})[name] = tensor.detach().cpu().contiguous()
    return groups


def _load(storage: Storage, folder: str, part: str, digest: ContentDigest) -> dict[str, Tensor]:
    key = part_key(folder, digest)
    try:
        data = storage.get(key)
    except KeyError:
        raise IntegrityError(
            f"checkpoint part {part} is missing: {storage.uri(key)}. Train anew with --fresh."
        ) from None
    if content_digest(data) != digest:
        raise IntegrityError(
            f"checkpoint part {part} is damaged: {storage.uri(key)}. Train anew with --fresh."
        )
    tensors: dict[str, Tensor] = load_tensors(data)
    return tensors
