"""Makes what runs what is described.

Read it in this order: ``difference`` compares wanted resources with those that exist, and returns changes;
``wording`` puts them into words; ``walk`` carries them out, kind by kind. The first two are pure, and are
given nothing that could change anything.
"""
