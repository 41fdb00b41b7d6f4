"""Renders the synthetic faces: ``python -m fertools.render MODEL``.

``expressions`` says how a face moves for each label, ``head`` reads the face model, ``paint`` gives it a person's
looks, ``scene`` renders one image, ``plan`` chooses what each image shows, and ``produce`` makes the data set.
Reading the finished data set needs none of this: see :mod:`fertools.data.synthetic`.
"""
