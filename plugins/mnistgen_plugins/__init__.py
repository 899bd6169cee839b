"""The models that come with mnistgen, registered by the same entry points a third party uses."""
