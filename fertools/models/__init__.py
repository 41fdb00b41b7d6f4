"""What the paper's network is compared with, and the one place that builds any of them by name.

The paper's own network is :mod:`fertools.network`.

- :mod:`~fertools.models.resampling`: the constant matrices that bicubic resampling multiplies by.
- :mod:`~fertools.models.fusions`: other ways to fuse two branches than eq. 5.
- :mod:`~fertools.models.baselines`: ResNet-18, VGG-13, and other first choices.
- :mod:`~fertools.models.registry`: ``build(config)``, any network from its configuration.
- :mod:`~fertools.models.weights`: weights on disk, as safetensors.
"""
