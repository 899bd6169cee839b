"""Diffusion and flow models."""
