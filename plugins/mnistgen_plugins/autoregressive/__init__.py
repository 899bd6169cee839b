"""Autoregressive models: one pixel after the other, with exact likelihoods."""
