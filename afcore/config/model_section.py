"""The sections ``model`` and ``adapter``: what is trained, and how much of it."""

from typing import Literal

from pydantic import Field

from afcore.config.section import Section

__all__ = ["AdapterConfig", "ModelConfig", "Quantization"]

Quantization = Literal["8bit", "4bit"]


class ModelConfig(Section):
    """The pre-trained model."""

    name: str = Field(
        min_length=1,
        description="hub id, folder, or `package:NAME/FOLDER` inside an installed package",
    )
    allow_new_weights: bool = Field(
        False,
        description="train a model some of whose embeddings or blocks have no weights, or weights "
        "of another size: they are drawn at random; a new head, or pooler, is always allowed",
    )
    quantization: Quantization | None = Field(
        None,
        description="keep the linear layers' weights of the blocks that are frozen from the start "
        "in so many bits (bitsandbytes) while they are frozen: less of a device's memory, other "
        "hidden states; the model is published with its own weights; for modes `freeze` and "
        "`cached` and the policies `frozen_start` and `static`",
    )


class AdapterConfig(Section):
    """LoRA (PEFT) on the blocks that train, instead of their own weights; none without the section.

    The head trains whole. Blocks below the boundary have no adapters, those that freeze keep
    theirs. `training.learning_rate` is not raised for them: for LoRA ten times the rate of whole
    weights is usual (5e-4).
    """

    kind: Literal["lora"] = Field("lora", description="of the adapters")
    rank: int = Field(8, ge=1, description="of the addition to a layer's weights")
    alpha: int = Field(16, ge=1, description="the addition is scaled by `alpha / rank`")
    dropout: float = Field(0.0, ge=0, lt=1, description="on what the addition reads")
    target_modules: list[str] | None = Field(
        None,
        min_length=1,
        description="ends of the names of the linear layers that get one, as `query`; default: "
        "all of the blocks",
    )
