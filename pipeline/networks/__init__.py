"""The classics that timm has not: LeNet-5 and AlexNet. Importing this package puts them into timm's registry.

An export of one of them opens in timm after `import pipeline.networks`; every other network needs nothing of ours.
Beside them is what an exported classifier may be wrapped in.
"""

from pipeline.networks.alexnet import alexnet
from pipeline.networks.lenet import lenet5

__all__ = ["alexnet", "lenet5"]
