"""Golden projects (a folder each: input, expected) and the bench that tests build projects on."""
