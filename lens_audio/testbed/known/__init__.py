"""Training of the checkpoints whose readers are known: `python -m lens_audio.testbed.known.train`."""
