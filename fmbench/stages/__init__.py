"""The stages of a run, pure functions of a specification and the artefacts of earlier stages."""
