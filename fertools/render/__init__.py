"""Renders the synthetic faces: ``python -m fertools.render MODEL``.

``expressions`` says how a face moves for each label, ``head`` holds the face model, ``paint`` what a person
looks like, ``scene`` draws one picture, and ``__main__`` makes the data set of them. Reading the finished
set needs none of this: see :mod:`fertools.data.synthetic`.
"""
