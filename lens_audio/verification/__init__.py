"""A checkpoint through transformers and through lens_audio: do they compute the same?"""

from lens_audio.verification.result import Verification
from lens_audio.verification.run import verify

__all__ = ["Verification", "verify"]
