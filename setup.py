"""What setup.cfg cannot say: the place of the configs, and a README without its checkout."""

import pathlib
import re

from setuptools import find_packages, setup

README = pathlib.Path(__file__).with_name("README.md").read_text("utf-8")

setup(
    packages=[*find_packages(include=["svdjax", "svdjax.*"]), "svdjax.configs"],
    # The files of a checkout's `configs`, which `--config=NAME` finds in both places.
    package_dir={"svdjax.configs": "configs"},
    # Links into the checkout lead nowhere from a package index: their words stay.
    long_description=re.sub(r"(?<!!)\[([^][]+)\]\((?!https?:)[^)]*\)", r"\1", README),
)
