"""Build artefacts: what is out of date and why, how it is made, and the tasks of doit that run it."""
