"""VL-Mamba for transformers' Auto classes, out of the package's own modules and weight names.

Importing this module registers the configuration, the model and the processor, so that
`AutoModelForImageTextToText.from_pretrained(directory)` and `AutoProcessor.from_pretrained(directory)`
read the same directory as `vlmamba.load(directory)`.
"""

from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from vlmamba.integrations.transformers.cache import StateCache
from vlmamba.integrations.transformers.config import VLMambaConfig
from vlmamba.integrations.transformers.image_processor import VLMambaImageProcessor
from vlmamba.integrations.transformers.model import VLMambaForConditionalGeneration
from vlmamba.integrations.transformers.processor import VLMambaProcessor

__all__ = [
    "StateCache",
    "VLMambaConfig",
    "VLMambaForConditionalGeneration",
    "VLMambaImageProcessor",
    "VLMambaProcessor",
]

AutoConfig.register(VLMambaConfig.model_type, VLMambaConfig)
AutoModelForImageTextToText.register(VLMambaConfig, VLMambaForConditionalGeneration)
AutoProcessor.register(VLMambaConfig, VLMambaProcessor)
# Under both names that transformers may look for: with torchvision installed, too, this class is chosen.
AutoImageProcessor.register(
    VLMambaConfig,
    image_processor_classes={"pil": VLMambaImageProcessor, "torchvision": VLMambaImageProcessor},
)
