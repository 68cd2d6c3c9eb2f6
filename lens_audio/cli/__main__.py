"""`python -m lens_audio.cli`, for launchers that start modules."""

from lens_audio.cli import app

app(prog_name="lens-audio")
