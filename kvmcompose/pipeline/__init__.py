"""From files to artefacts, step by step: read, shape, check, place, specialise. No step does I/O."""
