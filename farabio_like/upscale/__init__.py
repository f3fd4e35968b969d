"""`python -m farabio_like.upscale RUN_OR_WEIGHTS IN OUT`: files of images, made larger by a network that was trained.

The network is found in `network`, pictures are read and written in `pictures`; what makes an image larger is
`farabio_like.inference.upscale`, which knows no file.
"""

from .folders import Summary, upscale_folder
from .network import load_network

__all__ = ["Summary", "load_network", "upscale_folder"]
