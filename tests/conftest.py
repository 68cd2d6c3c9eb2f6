"""Every shape in a signature of lens_audio is checked while the tests run."""

from jaxtyping import install_import_hook

install_import_hook("lens_audio", "beartype.beartype")
