"""What the zoo says about one model."""

from dataclasses import dataclass

from adderlab.models.config import ModelConfig

NO_RATE = "none published"


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One model, published or our own."""

    name: str
    config: ModelConfig
    parameters: int
    """The published count, which the configuration must give exactly."""
    source: str
    """Author or repository."""
    published: str
    """Published accuracy, with its test."""
    published_rate: str
    """Published success rate over seeds, or why there is none."""
    recipe: str | None
    """Name of the published recipe, or None where none was published."""
    notes: str = ""
    """What could not be confirmed, and where this reading differs."""
