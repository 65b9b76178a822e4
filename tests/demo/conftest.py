"""A small world that every test of the demo may look at."""

import pytest

from skysense_cli.demo.landscape import World, make_world


@pytest.fixture(scope="session")
def world() -> World:
    """800 x 800 pixels of 2.5 m: 2 km on a side."""
    return make_world(800, seed=11)
